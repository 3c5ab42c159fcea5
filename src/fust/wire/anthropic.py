"""Requests of Anthropic's Messages API as Fust reads them (docs.anthropic.com/en/api/messages, and the types of anthropic 2.12)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, UnsetType

from fust.wire.body import Body
from fust.wire.openai import Probability, Strings, Tokens


class Source(Body):
    """Where the bytes of an image or a document are."""

    type: str
    data: str | UnsetType = UNSET
    media_type: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    file_id: str | UnsetType = UNSET
    content: Any = UNSET


class Block(Body, omit_defaults=True):
    """A block of content, of any type; which fields belong to which type is the gateway's to check.

    `citations` of text that was answered before pass.
    """

    type: str
    text: str | UnsetType = UNSET
    thinking: str | UnsetType = UNSET
    signature: str | UnsetType = UNSET
    data: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    input: dict[str, Any] | UnsetType = UNSET
    tool_use_id: str | UnsetType = UNSET
    content: str | list[Block] | UnsetType = UNSET
    is_error: bool | UnsetType = UNSET
    source: Source | str | UnsetType = UNSET
    title: str | UnsetType | None = UNSET
    context: str | UnsetType | None = UNSET
    citations: Any = UNSET
    cache_control: Any = UNSET
    caller: Any = UNSET
    toolset_name: Any = UNSET
    transformations: Any = UNSET

    ignored: ClassVar[frozenset[str]] = frozenset({"cache_control", "caller", "signature", "toolset_name"})
    neutral: ClassVar[dict[str, tuple[object, ...]]] = {
        "citations": ([], {}, {"enabled": False}),
        "transformations": ({}, {"oversized_image": "downsize"}),
    }


class Turn(Body):
    """One message of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(Body):
    """A tool of the client's own; those that the vendor runs have another `type`."""

    name: str
    input_schema: dict[str, Any] | UnsetType = UNSET
    description: str | UnsetType = UNSET
    type: str | UnsetType | None = UNSET
    strict: bool | UnsetType = UNSET
    cache_control: Any = UNSET
    eager_input_streaming: Any = UNSET
    input_examples: Any = UNSET
    allowed_callers: Any = UNSET
    defer_loading: Any = UNSET

    ignored: ClassVar[frozenset[str]] = frozenset({"cache_control", "eager_input_streaming"})
    neutral: ClassVar[dict[str, tuple[object, ...]]] = {
        "allowed_callers": (["direct"],),
        "defer_loading": (False,),
        "input_examples": ([],),
        "type": ("custom",),
    }


class ToolChoice(Body):
    """Whether and which tool is to be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | UnsetType = UNSET
    disable_parallel_tool_use: bool | UnsetType = UNSET


class Thinking(Body):
    """Whether the model reasons first."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    display: Literal["summarized", "omitted"] | UnsetType | None = UNSET


class OutputFormat(Body):
    """A schema that the answer has to fit."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Body):
    """How much effort, and which form."""

    effort: str | UnsetType | None = UNSET
    format: OutputFormat | UnsetType | None = UNSET


class Conversation(Body, kw_only=True):
    """What answering and counting share."""

    model: str
    messages: Annotated[list[Turn], Meta(min_length=1)]
    system: str | list[Block] | UnsetType | None = UNSET
    thinking: Thinking | UnsetType | None = UNSET
    tool_choice: ToolChoice | UnsetType | None = UNSET
    tools: list[Tool] | UnsetType | None = UNSET
    output_config: OutputConfig | UnsetType | None = UNSET
    cache_control: Any = UNSET
    speed: Any = UNSET
    user_profile_id: Any = UNSET
    workspace_id: Any = UNSET

    ignored: ClassVar[frozenset[str]] = frozenset(
        {"cache_control", "speed", "user_profile_id", "workspace_id"}
    )
    kinds: ClassVar[dict[str, frozenset[str]]] = {
        "content": frozenset(
            {
                "document", "image", "redacted_thinking", "search_result", "text", "thinking", "tool_result", "tool_use",
            }
        ),
        "tools": frozenset({"custom"}),
    }  # fmt: skip


class CountRequest(Conversation, kw_only=True):
    """`POST /v1/messages/count_tokens`."""


class MessagesRequest(Conversation, kw_only=True):
    """`POST /v1/messages`."""

    max_tokens: Tokens
    stop_sequences: Strings | UnsetType | None = UNSET
    stream: bool | UnsetType | None = UNSET
    temperature: Probability | UnsetType | None = UNSET
    top_k: Annotated[int, Meta(ge=0)] | UnsetType | None = UNSET
    top_p: Probability | UnsetType | None = UNSET
    container: Any = UNSET
    diagnostics: Any = UNSET
    inference_geo: Any = UNSET
    metadata: Any = UNSET
    service_tier: Any = UNSET

    ignored: ClassVar[frozenset[str]] = Conversation.ignored | {
        "diagnostics",
        "inference_geo",
        "metadata",
        "service_tier",
    }
    neutral: ClassVar[dict[str, tuple[object, ...]]] = {"container": ()}
