"""Requests of OpenAI's API as Fust reads them: chat completions, completions, embeddings.

Every field of the vendor's schema is here (platform.openai.com/docs/api-reference, and the types of openai 3.54).
Sampling fields that llama.cpp's server documents are forwarded too, and SGLang's `logprob_start_len` is known. What becomes of each: `fust.wire.body`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from fust.wire.body import Body

Probability = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1, le=128)]
Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
ScoreStart = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Strings = Annotated[list[str], Meta(max_length=64)]
TokenIds = list[Annotated[int, Meta(ge=0, le=2**31 - 1)]]

MAX_PROMPTS = 2048


class StreamOptions(Body):
    """How a stream ends. Padding against traffic analysis is accepted and not done."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None

    ignored: ClassVar[frozenset[str]] = frozenset({"include_obfuscation"})


Detail = Literal["auto", "low", "high", "original"]
"""How closely an image is to be looked at: `low` is at most 512 pixels a side, the others all that the model sees."""


class ImageURL(Body):
    """Where an image is: a `data:` URL, or one of the web."""

    url: str
    detail: Detail | UnsetType | None = UNSET


class FileRef(Body):
    """A file: one that was uploaded, or its bytes as a `data:` URL. Images are read."""

    file_id: str | UnsetType | None = UNSET
    file_data: str | UnsetType | None = UNSET
    filename: Any = UNSET

    ignored: ClassVar[frozenset[str]] = frozenset({"filename"})


class Part(Body):
    """A part of a message's content: text, or an image."""

    type: str
    text: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    image_url: ImageURL | UnsetType = UNSET
    input_audio: Any = UNSET
    file: FileRef | UnsetType | None = UNSET
    prompt_cache_breakpoint: Any = UNSET

    ignored: ClassVar[frozenset[str]] = frozenset({"prompt_cache_breakpoint"})
    neutral: ClassVar[dict[str, tuple[object, ...]]] = {"input_audio": ()}


class FunctionCall(Body):
    """A function that the model called."""

    name: str
    arguments: str


class ToolCall(Body):
    """A tool call of an earlier answer."""

    function: FunctionCall
    id: str = ""
    type: Literal["function"] = "function"
    index: int | UnsetType = UNSET


class Message(Body, omit_defaults=True):
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

    ignored: ClassVar[frozenset[str]] = frozenset({"annotations"})
    neutral: ClassVar[dict[str, tuple[object, ...]]] = {"audio": (), "function_call": ()}


class JSONSchema(Body):
    """A schema that the answer has to fit."""

    name: str
    schema: dict[str, Any] | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    strict: bool | UnsetType | None = UNSET


class ResponseFormat(Body):
    """Text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchema | UnsetType = UNSET
    schema: dict[str, Any] | UnsetType = UNSET


class Sampling(Body):
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


class ChatRequest(Sampling, kw_only=True):
    """`POST /v1/chat/completions`."""

    ignored: ClassVar[frozenset[str]] = frozenset(
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
    neutral: ClassVar[dict[str, tuple[object, ...]]] = {
        "audio": (),
        "function_call": ("none",),
        "functions": ([],),
        "modalities": (["text"],),
        "moderation": (),
        "verbosity": ("medium",),
        "web_search_options": (),
    }

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


class CompletionRequest(Sampling, kw_only=True):
    """`POST /v1/completions`."""

    ignored: ClassVar[frozenset[str]] = frozenset({"user"})
    neutral: ClassVar[dict[str, tuple[object, ...]]] = {"best_of": (1,), "suffix": ("",)}

    prompt: str | list[str | int | TokenIds]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | UnsetType | None = UNSET
    best_of: Any = UNSET
    echo: bool | UnsetType | None = UNSET
    max_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | UnsetType | None = UNSET
    suffix: Any = UNSET
    # SGLang
    logprob_start_len: ScoreStart | list[ScoreStart] | UnsetType | None = UNSET


class EmbeddingRequest(Body):
    """`POST /v1/embeddings`."""

    ignored: ClassVar[frozenset[str]] = frozenset({"user"})

    model: str
    input: str | list[str | int | TokenIds]
    encoding_format: Literal["float", "base64"] | UnsetType | None = UNSET
    dimensions: Annotated[int, Meta(ge=1)] | UnsetType | None = UNSET
    user: str | UnsetType | None = UNSET


# Handled by the gateway itself, not sent as they came.
_OURS = frozenset(
    {
        "dimensions", "echo", "encoding_format", "input", "logprob_start_len", "max_completion_tokens", "messages", "model", "n",
        "parallel_tool_calls", "prompt", "reasoning_effort", "stream", "stream_options", "tool_choice", "tools",
    }
)  # fmt: skip


def forwarded_fields(kind: type[Body]) -> tuple[str, ...]:
    """Returns the names that go to the engine as they came."""
    apart = kind.ignored | set(kind.neutral) | _OURS
    return tuple(name for name in kind.__struct_fields__ if name not in apart)


class Usage(msgspec.Struct):
    """Tokens of a request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: dict[str, int] | None = None
    completion_tokens_details: dict[str, Any] | UnsetType | None = UNSET
    estimated: bool | UnsetType = UNSET
    """Counted by the length of the text, since the API elsewhere does not tell."""

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that the engine had already."""
        return (self.prompt_tokens_details or {}).get("cached_tokens", 0)

    @property
    def reasoning_tokens(self) -> int | None:
        """Tokens of the answer that were thought and not said; None where the engine does not tell."""
        return (self.completion_tokens_details or {}).get("reasoning_tokens")


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
    param: str | None = None


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
