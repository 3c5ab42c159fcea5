"""Requests of clients as engine requests: what is forwarded, what is mended on the way, what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET

from fust.core.errors import InvalidInput, Unsupported
from fust.wire.openai import (
    MAX_PROMPTS,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Message,
    Sampling,
    check_depth,
    forwarded_fields,
    unsupported,
)
from fust.wire.targets import Mode, Target

_CHAT_FIELDS = forwarded_fields(ChatRequest)
_COMPLETION_FIELDS = forwarded_fields(CompletionRequest)
_FREE_FORM = ("response_format", "tools", "tool_choice", "json_schema", "chat_template_kwargs")
_EXCLUSIVE = frozenset({"reasoning_content"})


@dataclass(slots=True)
class Plan:
    """A client's request, ready to be sent once its engine is known."""

    endpoint: str
    """`chat`, `completions` or `embeddings`; also its row in the usage table."""
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
    echo: bool = False
    """Of completions: the prompt comes back with its own log-probabilities."""

    @property
    def is_single(self) -> bool:
        """Whether one engine request makes the whole answer, so that its bytes pass as they are."""
        return self.choices == 1 and len(self.prompts) <= 1

    def encode(self, target: Target, number: int = 0) -> bytes:
        """Returns the body of the engine's request for choice `number`."""
        body = self.body
        if not self.is_single or target.adapters:
            body = dict(body)
        if self.prompts:
            body["prompt"] = self.prompts[number // self.choices]
        if self.seed is not None:
            body["seed"] = (self.seed + number % self.choices) % 2**32
        body["model"] = target.alias
        if target.adapters:
            # All of them, zeros included: left out, the engine would reuse another adapter's KV cache.
            body["lora"] = [{"id": i, "scale": target.adapter_scales.get(i, 0.0)} for i in target.adapters]
        return msgspec.json.encode(body)


def plan_chat(request: ChatRequest) -> Plan:
    """Returns the plan of a chat.

    Raises:
        InvalidInput, Unsupported: values that do not go together, or that no engine can honour.
    """
    body = _forward(request, _CHAT_FIELDS)
    body["messages"] = [_mend_message(message, i) for i, message in enumerate(request.messages)]
    limits = [v for v in (request.max_tokens, request.max_completion_tokens) if isinstance(v, int)]
    if limits:
        body["max_tokens"] = min(limits)
    if request.top_logprobs and request.logprobs is not True:
        raise InvalidInput(
            "top_logprobs needs logprobs.", hint="Send `logprobs: true` with it.", param="top_logprobs"
        )
    if isinstance(request.reasoning_effort, str):
        body["chat_template_kwargs"] = {
            "reasoning_effort": request.reasoning_effort,
            **(body.get("chat_template_kwargs") or {}),
        }
    choice = request.tool_choice
    if isinstance(choice, dict) or choice == "required":
        raise Unsupported(
            "tool_choice can be auto or none here; a call cannot be forced yet.",
            hint="Use response_format with a json_schema where the form of the answer matters.",
            param="tool_choice",
        )
    plan = Plan("chat", "/v1/chat/completions", request.model, "generate", *_streaming(request), body)
    return _with_choices(plan, request)


def _mend_message(message: Message, index: int) -> Message:
    for name in ("audio", "function_call"):
        if getattr(message, name) not in (UNSET, None):
            raise unsupported(f"messages[{index}].{name}")
    for position, part in enumerate(message.content if isinstance(message.content, list) else ()):
        if part.type not in ("text", "refusal") or not isinstance(
            part.text if part.type == "text" else part.refusal, str
        ):
            raise Unsupported(
                "Content of type {kind!r} is not offered here: models read text only.",
                hint="Send text parts.",
                kind=part.type[:50],
                param=f"messages[{index}].content[{position}]",
            )
    message.annotations = message.audio = message.function_call = UNSET
    if message.role == "developer":
        message.role = "system"  # the same thing under its newer name, which few templates know
    if isinstance(message.content, list):
        message.content = "\n".join(
            str(part.text if part.type == "text" else part.refusal) for part in message.content
        )
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
    if request.echo is True:
        plan.echo, plan.mode = True, "score"
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


def plan_embedding(request: EmbeddingRequest) -> Plan:
    """Returns the plan of an embedding."""
    given = request.input
    if given in ("", []) or (isinstance(given, list) and any(item in ("", []) for item in given)):
        raise InvalidInput("An input is empty.", hint="Leave empty inputs out.", param="input")
    if isinstance(given, list) and (len(given) > MAX_PROMPTS and not isinstance(given[0], int)):
        raise InvalidInput("A request takes at most {limit} inputs.", limit=MAX_PROMPTS, param="input")
    body: dict[str, Any] = {"input": given, "encoding_format": request.encoding_format or "float"}
    return Plan("embeddings", "/v1/embeddings", request.model, "embed", False, True, body)


def _forward(request: Sampling, names: tuple[str, ...]) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for name in names:
        value = getattr(request, name)
        if value is not UNSET and value is not None:
            body[name] = value
    for name in _FREE_FORM:
        if name in body:
            check_depth(msgspec.to_builtins(body[name]) if name == "response_format" else body[name], name)
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
        plan.body["stream"] = True
        plan.body["stream_options"] = {"include_usage": True}  # counted always, sent on when it was asked for
    return plan
