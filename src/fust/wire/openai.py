"""Requests of OpenAI's API as Fust reads them: chat completions, completions, embeddings.

Every field of the vendor's schema is here (platform.openai.com/docs/api-reference, and the types of openai 3.54), and
falls into one of three groups: forwarded to the engine; ``IGNORED``, since it cannot change the answer; or refused with
``unsupported_parameter`` unless it has the value that asks for nothing (``NEUTRAL``). Sampling fields that llama.cpp's
server documents are forwarded too. Any other field is refused by its name.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from fust.core.errors import FustError, InvalidInput, Unsupported

Probability = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1, le=128)]
Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Strings = Annotated[list[str], Meta(max_length=64)]
TokenIds = list[Annotated[int, Meta(ge=0, le=2**31 - 1)]]

Request = TypeVar("Request", bound=msgspec.Struct)

MAX_DEPTH = 64
MAX_PROMPTS = 2048


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """How a stream ends. Padding against traffic analysis is accepted and not done."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """A part of a message's content; text only, until engines see."""

    type: str
    text: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    image_url: Any = UNSET
    input_audio: Any = UNSET
    file: Any = UNSET
    prompt_cache_breakpoint: Any = UNSET


class FunctionCall(msgspec.Struct, forbid_unknown_fields=True):
    """A function that the model called."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, forbid_unknown_fields=True):
    """A tool call of an earlier answer."""

    function: FunctionCall
    id: str = ""
    type: Literal["function"] = "function"
    index: int | UnsetType = UNSET


class Message(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | UnsetType | None = UNSET
    name: str | UnsetType | None = UNSET
    tool_calls: list[ToolCall] | UnsetType | None = UNSET
    tool_call_id: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType | None = UNSET
    audio: Any = UNSET
    annotations: Any = UNSET
    function_call: Any = UNSET


class JSONSchema(msgspec.Struct, forbid_unknown_fields=True):
    """A schema that the answer has to fit."""

    name: str
    schema: dict[str, Any] | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    strict: bool | UnsetType | None = UNSET


class ResponseFormat(msgspec.Struct, forbid_unknown_fields=True):
    """Text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchema | UnsetType = UNSET
    schema: dict[str, Any] | UnsetType = UNSET


class Sampling(msgspec.Struct, forbid_unknown_fields=True):
    """What chat and plain completions share."""

    model: str
    frequency_penalty: Penalty | UnsetType | None = UNSET
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | UnsetType | None = UNSET
    max_tokens: Tokens | UnsetType | None = UNSET
    n: Count | UnsetType | None = UNSET
    presence_penalty: Penalty | UnsetType | None = UNSET
    seed: Seed | UnsetType | None = UNSET
    stop: str | Strings | UnsetType | None = UNSET
    stream: bool | UnsetType | None = UNSET
    stream_options: StreamOptions | UnsetType | None = UNSET
    temperature: Annotated[float, Meta(ge=0, le=2)] | UnsetType | None = UNSET
    top_p: Probability | UnsetType | None = UNSET
    user: str | UnsetType | None = UNSET
    # llama.cpp, tools/server/README.md
    top_k: Annotated[int, Meta(ge=0)] | UnsetType | None = UNSET
    min_p: Probability | UnsetType | None = UNSET
    typical_p: Probability | UnsetType | None = UNSET
    top_n_sigma: float | UnsetType | None = UNSET
    repeat_penalty: Annotated[float, Meta(gt=0)] | UnsetType | None = UNSET
    repeat_last_n: Annotated[int, Meta(ge=-1)] | UnsetType | None = UNSET
    dynatemp_range: float | UnsetType | None = UNSET
    dynatemp_exponent: float | UnsetType | None = UNSET
    xtc_probability: Probability | UnsetType | None = UNSET
    xtc_threshold: Probability | UnsetType | None = UNSET
    dry_multiplier: float | UnsetType | None = UNSET
    dry_base: float | UnsetType | None = UNSET
    dry_allowed_length: int | UnsetType | None = UNSET
    dry_penalty_last_n: Annotated[int, Meta(ge=-1)] | UnsetType | None = UNSET
    mirostat: Annotated[int, Meta(ge=0, le=2)] | UnsetType | None = UNSET
    mirostat_tau: float | UnsetType | None = UNSET
    mirostat_eta: float | UnsetType | None = UNSET
    grammar: str | UnsetType | None = UNSET
    json_schema: dict[str, Any] | UnsetType | None = UNSET
    ignore_eos: bool | UnsetType | None = UNSET
    cache_prompt: bool | UnsetType | None = UNSET
    samplers: Strings | UnsetType | None = UNSET
    timings_per_token: bool | UnsetType | None = UNSET


class ChatRequest(Sampling, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    logprobs: bool | UnsetType | None = UNSET
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | UnsetType | None = UNSET
    max_completion_tokens: Tokens | UnsetType | None = UNSET
    response_format: ResponseFormat | UnsetType | None = UNSET
    tools: list[dict[str, Any]] | UnsetType | None = UNSET
    tool_choice: str | dict[str, Any] | UnsetType | None = UNSET
    parallel_tool_calls: bool | UnsetType | None = UNSET
    reasoning_effort: str | UnsetType | None = UNSET
    audio: Any = UNSET
    function_call: Any = UNSET
    functions: Any = UNSET
    metadata: Any = UNSET
    modalities: Any = UNSET
    moderation: Any = UNSET
    prediction: Any = UNSET
    prompt_cache_key: Any = UNSET
    prompt_cache_options: Any = UNSET
    prompt_cache_retention: Any = UNSET
    safety_identifier: Any = UNSET
    service_tier: Any = UNSET
    store: Any = UNSET
    verbosity: Any = UNSET
    web_search_options: Any = UNSET
    # llama.cpp
    chat_template_kwargs: dict[str, Any] | UnsetType | None = UNSET
    reasoning_format: Literal["none", "auto", "deepseek", "deepseek-legacy"] | UnsetType | None = UNSET


class CompletionRequest(Sampling, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/completions`."""

    prompt: str | list[str | int | TokenIds]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | UnsetType | None = UNSET
    best_of: Any = UNSET
    echo: bool | UnsetType | None = UNSET
    max_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | UnsetType | None = UNSET
    suffix: Any = UNSET


class EmbeddingRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/embeddings`."""

    model: str
    input: str | list[str | int | TokenIds]
    encoding_format: Literal["float", "base64"] | UnsetType | None = UNSET
    dimensions: Any = UNSET
    user: str | UnsetType | None = UNSET


IGNORED = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Accepted, and without effect: none of them can change the answer."""

NEUTRAL: dict[str, tuple[object, ...]] = {
    "audio": (),
    "best_of": (1,),
    "dimensions": (),
    "function_call": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "suffix": ("",),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Not offered; null and these values ask for nothing and pass."""

# Handled by the gateway itself, not sent as they came.
_OURS = frozenset({"model", "echo", "n", "stream", "stream_options", "max_completion_tokens", "messages", "prompt", "input", "encoding_format", "reasoning_effort"})  # fmt: skip


def forwarded_fields(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Returns the names that go to the engine as they came."""
    return tuple(
        name
        for name in kind.__struct_fields__
        if name not in IGNORED and name not in NEUTRAL and name not in _OURS
    )


_PATH = re.compile(r" - at `\$\.?(.*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`")


def decode_request(decoder: msgspec.json.Decoder[Request], body: bytes) -> Request:
    """Returns the request.

    Raises:
        InvalidInput: not JSON, a field of the wrong type (its path is `param`), or one that nobody knows.
        Unsupported: a field that would change the answer and that Fust does not offer.
    """
    try:
        request = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(
            "The body is not valid JSON: {reason}.", reason=error, code="invalid_json"
        ) from None
    except RecursionError:
        raise _too_deep() from None
    for name, neutral in NEUTRAL.items():
        value = getattr(request, name, UNSET)
        if value is not UNSET and value is not None and value not in neutral:
            raise unsupported(name)
    return request


def unsupported(name: str) -> Unsupported:
    """Returns the error for a field that is known and not offered."""
    return Unsupported("{param} is not offered here.", hint="Leave it out.", param=name)


def check_depth(value: object, name: str, depth: int = MAX_DEPTH) -> None:
    """Raises InvalidInput when free-form JSON is nested deeper than engines should be asked to follow."""
    children = _children(value)
    if not children:
        return
    if depth == 0:
        raise _too_deep(name)
    for child in children:
        check_depth(child, name, depth - 1)


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(cast("dict[str, object]", value).values())
    return cast("list[object]", value) if isinstance(value, list) else []


def _too_deep(name: str = "") -> InvalidInput:
    return InvalidInput(
        "The JSON of the request is nested too deeply.",
        hint="Keep to {depth} levels.",
        depth=MAX_DEPTH,
        param=name or None,
        code="invalid_json",
    )


def _explain(reason: str) -> FustError:
    match = _PATH.search(reason)
    path = match[1] if match else ""
    fault = reason[: match.start()] if match else reason
    unknown = _UNKNOWN.match(fault)
    if unknown:
        name = f"{path}.{unknown[1]}" if path else unknown[1]
        return InvalidInput(
            "There is no parameter {param!r}.",
            hint="Check its spelling, or leave it out.",
            param=name,
            code="unknown_parameter",
        )
    missing = re.match(r"Object missing required field `(.*?)`", fault)
    if missing:
        name = f"{path}.{missing[1]}" if path else missing[1]
        return InvalidInput(
            "The parameter {param!r} is missing.", param=name, code="missing_required_parameter"
        )
    return InvalidInput(
        "{param} has a value that is not allowed: {reason}.",
        param=path or "$",
        reason=fault,
        code="invalid_value",
    )


class Usage(msgspec.Struct):
    """Tokens of a request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: dict[str, int] | None = None

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that the engine had already."""
        return (self.prompt_tokens_details or {}).get("cached_tokens", 0)


class Answer(msgspec.Struct):
    """The part of an answer or of a last chunk that counts."""

    usage: Usage | None = None


class EngineFault(msgspec.Struct):
    """An engine's error."""

    message: str = ""
    type: str = ""
    code: int | str | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class EngineFaultBody(msgspec.Struct):
    """llama.cpp's envelope."""

    error: EngineFault


class ModelObject(msgspec.Struct):
    """An entry of `GET /v1/models`."""

    id: str
    created: int
    owned_by: str
    object: str = "model"


class ModelObjects(msgspec.Struct):
    """`GET /v1/models`."""

    data: list[ModelObject]
    object: str = "list"
