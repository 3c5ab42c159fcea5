"""Requests of clients as engine requests: what is forwarded, what is mended on the way, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET

from fust.core.errors import InvalidInput, Unsupported
from fust.gateway.calls import CallReader
from fust.gateway.images import Picture, Pictures
from fust.gateway.schemas import check_schema
from fust.gateway.shapes import Shape
from fust.gateway.tools import Tools, read_tools
from fust.wire.body import check_depth, check_neutral
from fust.wire.openai import (
    MAX_PROMPTS,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    FileRef,
    ImageURL,
    Message,
    Part,
    ResponseFormat,
    Sampling,
    forwarded_fields,
)
from fust.wire.targets import Mode, Target

_CHAT_FIELDS = forwarded_fields(ChatRequest)
_COMPLETION_FIELDS = forwarded_fields(CompletionRequest)
_FREE_FORM = ("json_schema", "chat_template_kwargs")
_NO_EFFORT = ("none", "minimal")


@dataclass(slots=True)
class Plan:
    """A client's request, ready to be sent once its engine is known."""

    endpoint: str
    """What was asked for: `chat`, `completions`, `messages` and so on; also its row in the usage table."""
    path: str
    model: str
    mode: Mode
    stream: bool
    include_usage: bool
    body: dict[str, Any]
    prompts: list[Any] = field(default_factory=lambda: [])
    """Of completions: several prompts make several choices."""
    choices: int = 1
    """Choices for each prompt."""
    seed: int | None = None
    logprobs: bool = False
    """Of completions: log-probabilities are asked for, in that API's own form."""
    echo: bool = False
    """Of completions: the prompt comes back with its own log-probabilities."""
    starts: list[int] = field(default_factory=lambda: [])
    """Of an echo: for each prompt its first token whose log-probability is wanted; empty: all but the very first."""
    tools: Tools | None = None
    shape: Shape | None = None
    """How the answer is drawn; None for the form in which engines give it."""
    dimensions: int | None = None
    """Of embeddings: how many numbers each is to have."""
    keep: Callable[[], None] | None = None
    """Called in a thread when the answer is complete, before its last byte is sent."""
    needs: str = ""
    """A capability that the model must have."""
    any_mode: bool = False
    """Whether an engine that embeds is as good as one that generates."""
    param: str = "messages"
    """The field that holds what the model reads; named when it is too long."""
    begun: str = ""
    """Of a conversation whose last message is the assistant's: its text, which the answer goes on from."""
    pictures: list[Picture] = field(default_factory=lambda: [])
    """Images among the messages, to be brought before the request is sent."""

    @property
    def is_single(self) -> bool:
        """Whether one engine request makes the whole answer."""
        return self.choices == 1 and len(self.prompts) <= 1

    def is_plain(self, target: Target) -> bool:
        """Whether the engine's bytes pass as they are."""
        return (
            self.is_single
            and not self.logprobs
            and self.shape is None
            and not (self.begun and not self.stream)
            and self.reader(target) is None
        )

    def reader(self, target: Target) -> CallReader | None:
        """Returns what reads the calls out of one choice; None when there is nothing to read."""
        return None if self.tools is None or self.endpoint == "count_tokens" else self.tools.reader(target)

    @property
    def needs_template(self) -> bool:
        """Whether the model has to know how a conversation is written."""
        return self.path.startswith("/v1/chat/")

    def encode(self, target: Target, number: int = 0) -> bytes:
        """Returns the body of the engine's request for choice `number`."""
        body = dict(self.body) if self.tools is None else self.tools.apply(self.body, target)
        if self.logprobs:
            body["logprobs"] = max(1, self.body["logprobs"])  # llama.cpp takes 0 for none at all
        if self.prompts:
            body["prompt"] = self.prompts[number // self.choices]
        if self.seed is not None:
            body["seed"] = (self.seed + number % self.choices) % 2**32
        if self.dimensions is not None and "dimensions" in target.capabilities:
            body["dimensions"] = self.dimensions
        body["model"] = target.alias
        if target.adapters:
            # All of them, zeros included: left out, the engine would reuse another adapter's KV cache.
            body["lora"] = [{"id": i, "scale": target.adapter_scales.get(i, 0.0)} for i in target.adapters]
        elif target.adapter:
            body["lora"] = target.adapter
        return msgspec.json.encode(body)


def plan_chat(request: ChatRequest) -> Plan:
    """Returns the plan of a chat.

    Raises:
        InvalidInput, Unsupported: values that do not go together, or that no engine can honour.
    """
    body = _forward(request, _CHAT_FIELDS)
    pictures = Pictures()
    body["messages"] = [mend_message(message, i, pictures) for i, message in enumerate(request.messages)]
    limits = [v for v in (request.max_tokens, request.max_completion_tokens) if isinstance(v, int)]
    if limits:
        body["max_tokens"] = min(limits)
    if request.top_logprobs and request.logprobs is not True:
        raise InvalidInput(
            "top_logprobs needs logprobs.", hint="Send `logprobs: true` with it.", param="top_logprobs"
        )
    if isinstance(request.reasoning_effort, str):
        put_effort(body, request.reasoning_effort)
    if isinstance(request.response_format, ResponseFormat):
        _check_format(request.response_format)
    plan = Plan("chat", "/v1/chat/completions", request.model, "generate", *_streaming(request), body)
    plan.pictures = pictures.found
    plan.begun = beginning(body["messages"])
    parallel = request.parallel_tool_calls
    plan.tools = read_tools(
        request.tools or None, request.tool_choice or None, parallel if isinstance(parallel, bool) else None
    ) or tools_of_old(body["messages"])
    check_forced(plan)
    return _with_choices(plan, request)


def beginning(messages: list[Message]) -> str:
    """Returns the text that the caller began the answer with, or nothing."""
    last = messages[-1]
    is_begun = last.role == "assistant" and not last.tool_calls and isinstance(last.content, str)
    return str(last.content) if is_begun else ""


def put_effort(body: dict[str, Any], effort: str) -> None:
    """Says how much the model is to reason, in the words that chat templates know."""
    given: dict[str, Any] = body.get("chat_template_kwargs") or {}
    off = {"enable_thinking": False} if effort in _NO_EFFORT else {}
    body["chat_template_kwargs"] = {"reasoning_effort": effort, **off, **given}


def tools_of_old(messages: list[Message]) -> Tools | None:
    """Returns no tools at all when a conversation without any holds calls, so that these are still written."""
    return Tools(()) if any(message.tool_calls or message.role == "tool" for message in messages) else None


def check_forced(plan: Plan) -> None:
    """Raises InvalidInput when a call is asked for and a grammar of the caller's own says otherwise."""
    if plan.tools is not None and plan.tools.choice == "required":
        for name in ("grammar", "json_schema"):
            if name in plan.body:
                raise InvalidInput(
                    "{param} and a tool that has to be called exclude each other.",
                    hint="Send one of them.",
                    param=name,
                )


def _check_format(form: ResponseFormat) -> None:
    if form.type != "json_schema" and isinstance(form.schema, dict):
        check_schema(form.schema, "response_format.schema", strict=False)
    elif form.type == "json_schema":
        held = form.json_schema
        schema = form.schema if held is UNSET else held.schema
        path = "response_format.schema" if held is UNSET else "response_format.json_schema.schema"
        if schema is UNSET:
            raise InvalidInput(
                "The parameter {param!r} is missing.", param=path, code="missing_required_parameter"
            )
        check_schema(schema, path, strict=held is not UNSET and held.strict is True)


def check_grammar(grammar: object) -> None:
    """Raises Unsupported for a grammar that the engine would take and not keep."""
    if isinstance(grammar, str) and "%llguidance" in grammar:
        raise Unsupported(
            "Grammars are in GBNF here; this one is in another language.",
            hint="Write it in GBNF, or send a JSON schema.",
            param="grammar",
        )


def not_text(kind: str, param: str) -> Unsupported:
    """Returns the error for content that no model here reads."""
    return Unsupported(
        "Content of type {kind!r} is not offered here.",
        hint="Send text, or images as what a user says.",
        kind=kind[:50],
        param=param,
    )


def join_parts(parts: list[Part]) -> str | list[Part]:
    """Returns content as templates want it: text in one piece, unless there are images in it."""
    if any(part.type == "image_url" for part in parts):
        return parts
    return "\n".join(str(part.text) for part in parts)


def _mend_part(part: Part, path: str, message: Message, pictures: Pictures) -> Part:
    check_neutral(part, path)
    text = part.refusal if part.type == "refusal" else part.text
    if part.type in ("text", "refusal") and isinstance(text, str):
        return Part("text", text)
    if part.type == "file" and message.role == "user" and isinstance(part.file, FileRef):
        if isinstance(part.file.file_id, str):
            return pictures.put("", f"{path}.file.file_id", file_id=part.file.file_id)
        return pictures.put(part.file.file_data or "", f"{path}.file.file_data")
    if part.type != "image_url" or message.role != "user":
        raise not_text(part.type, path)
    if not isinstance(part.image_url, ImageURL):
        raise InvalidInput("The parameter {param!r} is missing.", param=f"{path}.image_url")
    return pictures.put(part.image_url.url, f"{path}.image_url.url", part.image_url.detail)


def mend_message(message: Message, index: int, pictures: Pictures) -> Message:
    """Returns a message as templates want it: text in one piece, roles that they know."""
    path = f"messages[{index}]"
    check_neutral(message, path)
    message.annotations = message.audio = message.function_call = UNSET
    if isinstance(message.content, list):
        message.content = join_parts(
            [
                _mend_part(part, f"{path}.content[{i}]", message, pictures)
                for i, part in enumerate(message.content)
            ]
        )
    return settle(message, index)


def settle(message: Message, index: int) -> Message:
    """Returns a message whose role templates know, and which has content."""
    if message.role == "developer":
        message.role = "system"  # the same thing under its newer name, which few templates know
    if message.content in (UNSET, None):
        if not message.tool_calls and not message.reasoning_content:
            if not isinstance(message.refusal, str):
                raise InvalidInput(
                    "Message {index} has no content.", index=index, param=f"messages[{index}].content"
                )
            message.content = message.refusal
        else:
            message.content = ""
    for call in message.tool_calls or ():
        call.index = UNSET
    message.refusal = UNSET
    if message.tool_calls is None:
        message.tool_calls = UNSET
    return message


def plan_completion(request: CompletionRequest) -> Plan:
    """Returns the plan of a plain completion; each prompt of a list makes choices of its own."""
    body = _forward(request, _COMPLETION_FIELDS)
    prompt = request.prompt
    is_one = isinstance(prompt, str) or bool(prompt and isinstance(prompt[0], int))
    prompts: list[Any] = [prompt] if is_one else list(prompt)
    if isinstance(prompt, list):
        kinds = {type(item) for item in prompt}
        if len(kinds) > 1:
            raise InvalidInput(
                "A prompt's list mixes text and tokens.", hint="Send one kind.", param="prompt"
            )
    if not prompts or len(prompts) > MAX_PROMPTS or any(item == [] for item in prompts):
        raise InvalidInput(
            "A request takes 1 to {limit} prompts that are not empty.", limit=MAX_PROMPTS, param="prompt"
        )
    plan = Plan(
        "completions", "/v1/completions", request.model, "generate", *_streaming(request), body, prompts
    )
    plan.logprobs = isinstance(request.logprobs, int)
    plan.param = "prompt"
    if request.echo is True:
        plan.echo, plan.mode = True, "score"
    plan.starts = _starts(request, plan)
    plan = _with_choices(plan, request)
    if request.max_tokens == 0 and not plan.echo:
        raise InvalidInput(
            "max_tokens is 0, which leaves nothing to answer.",
            hint="Ask for 1 or more, or send `echo: true` for the prompt's own log-probabilities.",
            param="max_tokens",
        )
    if plan.echo and plan.stream:
        raise Unsupported(
            "echo and stream do not go together here.",
            hint="Send one of them; an echo comes as one answer.",
            param="echo",
        )
    return plan


def _starts(request: CompletionRequest, plan: Plan) -> list[int]:
    given = request.logprob_start_len
    if given is UNSET or given is None:
        return []
    if not plan.echo or not plan.logprobs:
        raise InvalidInput(
            "logprob_start_len needs echo and logprobs.",
            hint="Send `echo: true` and `logprobs` with it, or leave it out.",
            param="logprob_start_len",
        )
    if isinstance(given, int):
        return [given] * len(plan.prompts)
    if len(given) != len(plan.prompts):
        raise InvalidInput(
            "logprob_start_len has {found} numbers, and there are {wanted} prompts.",
            hint="Send one number for all prompts, or one for each.",
            found=len(given),
            wanted=len(plan.prompts),
            param="logprob_start_len",
        )
    return given


def plan_embedding(request: EmbeddingRequest) -> Plan:
    """Returns the plan of an embedding."""
    given = request.input
    if given in ("", []) or (isinstance(given, list) and any(item in ("", []) for item in given)):
        raise InvalidInput("An input is empty.", hint="Leave empty inputs out.", param="input")
    if isinstance(given, list) and (len(given) > MAX_PROMPTS and not isinstance(given[0], int)):
        raise InvalidInput("A request takes at most {limit} inputs.", limit=MAX_PROMPTS, param="input")
    body: dict[str, Any] = {"input": given, "encoding_format": request.encoding_format or "float"}
    plan = Plan("embeddings", "/v1/embeddings", request.model, "embed", False, True, body, param="input")
    plan.dimensions = request.dimensions if isinstance(request.dimensions, int) else None
    return plan


def _forward(request: Sampling, names: tuple[str, ...]) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for name in names:
        value = getattr(request, name)
        if value is not UNSET and value is not None:
            body[name] = value
    words = [request.stop] if isinstance(request.stop, str) else request.stop or ()
    body["stop"] = [
        word for word in words if word
    ]  # an empty one would end some engines' answers before they begin
    if not body["stop"]:
        del body["stop"]
    for name in _FREE_FORM:
        check_depth(body.get(name), name)
    check_grammar(body.get("grammar"))
    return body


def _streaming(request: Sampling) -> tuple[bool, bool]:
    stream = request.stream is True
    options = request.stream_options
    if isinstance(options, msgspec.Struct) and not stream:
        raise InvalidInput(
            "stream_options needs stream.", hint="Send `stream: true` with it.", param="stream_options"
        )
    return stream, bool(isinstance(options, msgspec.Struct) and options.include_usage)


def _with_choices(plan: Plan, request: Sampling) -> Plan:
    plan.choices = request.n if isinstance(request.n, int) else 1
    plan.seed = request.seed if isinstance(request.seed, int) else None
    if plan.choices * max(1, len(plan.prompts)) > MAX_PROMPTS:
        raise InvalidInput("n times the prompts is more than {limit}.", limit=MAX_PROMPTS, param="n")
    if plan.stream:
        ask_for_stream(plan)
    return plan


def ask_for_stream(plan: Plan) -> None:
    """Asks the engine for a stream."""
    plan.body["stream"] = True
    plan.body["stream_options"] = {"include_usage": True}  # counted always, sent on when it was asked for
