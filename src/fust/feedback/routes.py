"""`/fust/v1/chats`: the caller's conversations: list, search, keep, export, delete."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import quote

from litestar import Request, delete, get, patch, post, put
from litestar.datastructures import State
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIResponse, OpenAPIType, Operation, Schema
from litestar.params import Parameter
from litestar.response import Stream
from litestar.types import ControllerRouterHandler

from fust.accounts.rights import Identity
from fust.core.clock import now
from fust.core.i18n import accepted_language
from fust.feedback.chats import Chats
from fust.feedback.export import write_json, write_markdown
from fust.feedback.types import (
    Chat,
    ChatChange,
    ChatLine,
    ChatList,
    KeepChoice,
    NewChat,
    NewTurn,
)

AnyRequest = Request[object, object, State]
Format = Literal["json", "markdown"]
ChatId = Annotated[str, Parameter(max_length=64)]
TurnId = Annotated[str, Parameter(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
_KINDS = {"json": ("application/json", "json"), "markdown": ("text/markdown", "md")}


@dataclass
class _Export(Operation):
    """Says in the OpenAPI document that an export may be Markdown as well."""

    def __post_init__(self) -> None:
        answer = (self.responses or {}).get("200")
        if isinstance(answer, OpenAPIResponse) and answer.content is not None:
            answer.content["text/markdown"] = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING))


@get("/fust/v1/chats", sync_to_thread=True, tags=["chats"])
def list_chats(
    chats: Chats,
    identity: Identity,
    search: Annotated[str, Parameter(max_length=500)] = "",
    limit: Annotated[int, Parameter(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Parameter(max_length=100)] = None,
) -> ChatList:
    """The caller's conversations, the newest first; `search` finds words, or parts of them, in titles and messages."""
    return chats.list_chats(identity, search=search, limit=limit, cursor=cursor)


@post("/fust/v1/chats", sync_to_thread=True, tags=["chats"])
def create_chat(chats: Chats, identity: Identity, data: NewChat) -> Chat:
    """Begins a conversation; refused with `history_off` when the caller keeps none."""
    return chats.create(identity, data)


@delete("/fust/v1/chats", status_code=204, sync_to_thread=True, tags=["chats"])
def delete_chats(chats: Chats, identity: Identity) -> None:
    """Deletes all conversations of the caller."""
    chats.remove_all(identity)


@get("/fust/v1/chats/history", sync_to_thread=True, tags=["chats"])
def get_history(chats: Chats, identity: Identity) -> KeepChoice:
    """Whether the caller's conversations are kept here."""
    return KeepChoice(chats.keeps(identity))


@put("/fust/v1/chats/history", sync_to_thread=True, tags=["chats"])
def set_history(chats: Chats, identity: Identity, data: KeepChoice) -> KeepChoice:
    """Turns the caller's history on or off. Off, nothing more is written; what is there stays until deleted."""
    chats.set_keep(identity, data.keep)
    return data


@get("/fust/v1/chats/export", sync_to_thread=True, tags=["chats"], operation_class=_Export)
def export_chats(
    request: AnyRequest,
    chats: Chats,
    identity: Identity,
    form: Annotated[Format, Parameter(query="format")] = "json",
) -> Stream:
    """All conversations of the caller as one file: JSON with every version of every message, or Markdown to read."""
    chats.keeps(identity)  # refuses before the stream begins
    return _file(request, chats.iter_chats(identity), form, f"conversations-{now():%Y-%m-%d}")


@get("/fust/v1/chats/{chat_id:str}", sync_to_thread=True, tags=["chats"])
def get_chat(chats: Chats, identity: Identity, chat_id: ChatId) -> Chat:
    """A conversation with all of its messages."""
    return chats.get(identity, chat_id)


@patch("/fust/v1/chats/{chat_id:str}", sync_to_thread=True, tags=["chats"])
def change_chat(chats: Chats, identity: Identity, chat_id: ChatId, data: ChatChange) -> ChatLine:
    """Renames a conversation, keeps its instructions and parameters, or shows another branch of it."""
    return chats.change(identity, chat_id, data)


@delete("/fust/v1/chats/{chat_id:str}", status_code=204, sync_to_thread=True, tags=["chats"])
def delete_chat(chats: Chats, identity: Identity, chat_id: ChatId) -> None:
    """Deletes a conversation."""
    chats.remove(identity, chat_id)


@put("/fust/v1/chats/{chat_id:str}/turns/{turn_id:str}", sync_to_thread=True, tags=["chats"])
def put_turn(chats: Chats, identity: Identity, chat_id: ChatId, turn_id: TurnId, data: NewTurn) -> ChatLine:
    """Keeps a message, or what has come of an answer so far; its id is the client's, so that trying again is safe."""
    return chats.put_turn(identity, chat_id, turn_id, data)


@get("/fust/v1/chats/{chat_id:str}/export", sync_to_thread=True, tags=["chats"], operation_class=_Export)
def export_chat(
    request: AnyRequest,
    chats: Chats,
    identity: Identity,
    chat_id: ChatId,
    form: Annotated[Format, Parameter(query="format")] = "json",
) -> Stream:
    """One conversation as a file, in the same shape as the export of all."""
    chat = chats.get(identity, chat_id)
    return _file(request, iter([chat]), form, chat.title)


def _file(request: AnyRequest, chats: Iterator[Chat], form: Format, name: str) -> Stream:
    language = accepted_language(request.headers.get("accept-language"))
    body = write_json(chats) if form == "json" else write_markdown(chats, language)
    kind, ending = _KINDS[form]
    return Stream(body, media_type=kind, headers={"content-disposition": _attachment(f"{name}.{ending}")})


def _attachment(name: str) -> str:
    """Returns the header for a file name that anybody may have made up (RFC 6266)."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in " ._-") else "_" for c in name)[-100:]
    whole = "".join(c for c in name if c.isprintable() and c not in "/\\")[-100:]
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(whole, safe='')}"


handlers: list[ControllerRouterHandler] = [
    list_chats,
    create_chat,
    delete_chats,
    get_history,
    set_history,
    export_chats,
    get_chat,
    change_chat,
    delete_chat,
    put_turn,
    export_chat,
]
