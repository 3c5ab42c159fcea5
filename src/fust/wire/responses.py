"""Requests of OpenAI's Responses API as Fust reads them (platform.openai.com/docs/api-reference/responses, openai 3.54)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, UnsetType, field

from fust.wire.body import Body
from fust.wire.openai import Detail, Probability, StreamOptions, Tokens

_PARTS = frozenset(
    {"input_image", "input_text", "output_text", "reasoning_text", "refusal", "summary_text", "text"}
)


class InputPart(Body, omit_defaults=True):
    """A part of an item's content, of any type."""

    type: str
    text: str | UnsetType = UNSET
    refusal: str | UnsetType = UNSET
    image_url: str | UnsetType | None = UNSET
    detail: Detail | UnsetType | None = UNSET
    file_id: str | UnsetType | None = UNSET
    annotations: Any = UNSET
    logprobs: Any = UNSET
    prompt_cache_breakpoint: Any = UNSET

    ignored: ClassVar[frozenset[str]] = frozenset({"annotations", "logprobs", "prompt_cache_breakpoint"})


class InputItem(Body, omit_defaults=True):
    """An item of the input: a message, a call, its result, a thought."""

    type: str = "message"
    role: Literal["user", "assistant", "system", "developer"] | UnsetType = UNSET
    content: str | list[InputPart] | UnsetType | None = UNSET
    id: str | UnsetType | None = UNSET
    call_id: str | UnsetType | None = UNSET
    name: str | UnsetType | None = UNSET
    arguments: str | UnsetType = UNSET
    output: str | list[InputPart] | UnsetType = UNSET
    summary: list[InputPart] | UnsetType | None = UNSET
    status: Any = UNSET
    phase: Any = UNSET
    caller: Any = UNSET
    namespace: Any = UNSET
    encrypted_content: Any = UNSET
    async_: Any = field(default=UNSET, name="async")

    ignored: ClassVar[frozenset[str]] = frozenset(
        {"async_", "caller", "encrypted_content", "id", "phase", "status"}
    )
    neutral: ClassVar[dict[str, tuple[object, ...]]] = {"namespace": ()}


class FunctionTool(Body):
    """A function of the client's own; tools that the vendor runs have another `type`."""

    type: str
    name: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    parameters: dict[str, Any] | UnsetType | None = UNSET
    strict: bool | UnsetType | None = UNSET
    output_schema: Any = UNSET
    allowed_callers: Any = UNSET
    defer_loading: Any = UNSET
    async_: Any = field(default=UNSET, name="async")

    ignored: ClassVar[frozenset[str]] = frozenset({"output_schema"})
    neutral: ClassVar[dict[str, tuple[object, ...]]] = {
        "allowed_callers": ([], ["direct"]),
        "async_": (False,),
        "defer_loading": (False,),
    }


class Format(Body):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | UnsetType = UNSET
    schema: dict[str, Any] | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    strict: bool | UnsetType | None = UNSET


class Text(Body):
    """How the answer's text is to be."""

    format: Format | UnsetType | None = UNSET
    verbosity: Any = UNSET

    neutral: ClassVar[dict[str, tuple[object, ...]]] = {"verbosity": ("medium",)}


class Reasoning(Body):
    """How much the model reasons. A summary is the reasoning itself here."""

    effort: str | UnsetType | None = UNSET
    summary: Any = UNSET
    generate_summary: Any = UNSET
    context: Any = UNSET
    mode: Any = UNSET

    ignored: ClassVar[frozenset[str]] = frozenset({"generate_summary", "summary"})
    neutral: ClassVar[dict[str, tuple[object, ...]]] = {"context": ("auto",), "mode": ("standard",)}


class ResponsesRequest(Body):
    """`POST /v1/responses`."""

    model: str
    input: str | Annotated[list[InputItem], Meta(min_length=1)]
    instructions: str | UnsetType | None = UNSET
    max_output_tokens: Tokens | UnsetType | None = UNSET
    temperature: Annotated[float, Meta(ge=0, le=2)] | UnsetType | None = UNSET
    top_p: Probability | UnsetType | None = UNSET
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | UnsetType | None = UNSET
    stream: bool | UnsetType | None = UNSET
    stream_options: StreamOptions | UnsetType | None = UNSET
    store: bool | UnsetType | None = UNSET
    previous_response_id: str | UnsetType | None = UNSET
    tools: list[FunctionTool] | UnsetType | None = UNSET
    tool_choice: str | dict[str, Any] | UnsetType | None = UNSET
    parallel_tool_calls: bool | UnsetType | None = UNSET
    text: Text | UnsetType | None = UNSET
    reasoning: Reasoning | UnsetType | None = UNSET
    include: list[str] | UnsetType | None = UNSET
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | UnsetType | None = UNSET
    access_programs: Any = UNSET
    background: Any = UNSET
    background_options: Any = UNSET
    context_management: Any = UNSET
    conversation: Any = UNSET
    image: Any = UNSET
    max_tool_calls: Any = UNSET
    moderation: Any = UNSET
    prompt: Any = UNSET
    prompt_cache_key: Any = UNSET
    prompt_cache_options: Any = UNSET
    prompt_cache_retention: Any = UNSET
    safety_identifier: Any = UNSET
    service_tier: Any = UNSET
    truncation: Any = UNSET
    user: Any = UNSET

    ignored: ClassVar[frozenset[str]] = frozenset(
        {
            "access_programs",
            "image",
            "max_tool_calls",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "safety_identifier",
            "service_tier",
            "user",
        }
    )
    """`max_tool_calls` counts the vendor's own tools, of which there are none."""
    kinds: ClassVar[dict[str, frozenset[str]]] = {
        "content": _PARTS,
        "input": frozenset({"function_call", "function_call_output", "message", "reasoning"}),
        "output": _PARTS,
        "summary": _PARTS,
        "tools": frozenset({"function"}),
    }
    neutral: ClassVar[dict[str, tuple[object, ...]]] = {
        "background": (False,),
        "background_options": (),
        "context_management": ([],),
        "conversation": (),
        "moderation": (),
        "prompt": (),
        "truncation": ("disabled",),
    }
