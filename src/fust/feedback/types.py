"""Conversations as they travel and as they are exported."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MAX_TEXT = 1_000_000
MAX_FILE = 256_000
MAX_FILES = 5
MAX_TURNS = 5_000

Key = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
Title = Annotated[str, Meta(min_length=1, max_length=200)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Word = Annotated[str, Meta(max_length=2_000)]


class ChatSettings(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is sent with every message of a conversation; what is absent, the model decides."""

    system: Annotated[str, Meta(max_length=100_000)] = ""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] | None = None
    stop: Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=16)] = []


class TurnFile(msgspec.Struct, forbid_unknown_fields=True):
    """A text file that was attached to a message."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]
    text: Annotated[str, Meta(max_length=MAX_FILE)]


class TurnStats(msgspec.Struct, forbid_unknown_fields=True):
    """What an answer took, as the page measured it."""

    tokens: int
    tokens_per_s: float | None = None
    ttft_s: float | None = None
    prompt_tokens: int | None = None


class TurnTrouble(msgspec.Struct, forbid_unknown_fields=True):
    """The error that ended an answer."""

    status: int
    code: Word
    detail: Word
    hint: Word | None = None
    request_id: Word | None = None


class TurnDetails(msgspec.Struct, omit_defaults=True):
    """The parts of a turn that nothing is looked up by."""

    thinking: str = ""
    files: list[TurnFile] = []
    stats: TurnStats | None = None
    trouble: TurnTrouble | None = None


Role = Literal["user", "assistant"]
State = Literal["growing", "done", "stopped", "failed"]


class NewTurn(msgspec.Struct, forbid_unknown_fields=True):
    """A turn as a client keeps it; sent again it takes the place of what was there."""

    role: Role
    text: Text
    parent: Key | None = None
    model: Annotated[str, Meta(max_length=300)] = ""
    state: State = "done"
    thinking: Text = ""
    files: Annotated[list[TurnFile], Meta(max_length=MAX_FILES)] = []
    stats: TurnStats | None = None
    trouble: TurnTrouble | None = None


class Turn(msgspec.Struct, omit_defaults=True):
    """A turn as it is kept."""

    id: str
    parent: str | None
    role: Role
    text: str
    model: str
    state: State
    created_at: str
    updated_at: str
    thinking: str = ""
    files: list[TurnFile] = []
    stats: TurnStats | None = None
    trouble: TurnTrouble | None = None


class ChatLine(msgspec.Struct):
    """A conversation in a list."""

    id: str
    title: str
    created_at: str
    updated_at: str
    found: str = ""
    """Where the search matched: a piece of the message."""


class ChatList(msgspec.Struct):
    """A page of conversations, the newest first."""

    items: list[ChatLine]
    next: str | None
    total: int


class Chat(msgspec.Struct):
    """A conversation with all of its turns, parents before children."""

    id: str
    title: str
    settings: ChatSettings
    leaf: str | None
    created_at: str
    updated_at: str
    turns: list[Turn]


class NewChat(msgspec.Struct, forbid_unknown_fields=True):
    """A conversation to begin."""

    title: Title
    settings: ChatSettings = msgspec.field(default_factory=ChatSettings)


class ChatChange(msgspec.Struct, forbid_unknown_fields=True):
    """What changes of a conversation; what is absent stays."""

    title: Title | None = None
    settings: ChatSettings | None = None
    leaf: Key | None = None


class KeepChoice(msgspec.Struct, forbid_unknown_fields=True):
    """Whether the caller's conversations are kept on the server."""

    keep: bool


class ChatExport(msgspec.Struct):
    """Conversations as a file; `format` names this shape."""

    chats: list[Chat]
    exported_at: str
    format: str = "fust-chats-1"
