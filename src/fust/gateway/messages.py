"""Anthropic's Messages API over the engine's chat: requests in, answers and events out.

docs.anthropic.com/en/api/messages and /streaming. PDFs and blocks that the vendor's own tools make (web search, code
execution) are refused by their place; plain-text documents and search results are read as text.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from fust.core.decode_words import words_of
from fust.core.errors import InvalidInput, Unsupported
from fust.core.ids import new_id
from fust.gateway.images import Pictures
from fust.gateway.schemas import check_schema
from fust.gateway.shapes import Whole, choice_of, event
from fust.gateway.tools import Function, Tools, make_function, unique
from fust.gateway.translate import (
    Plan,
    ask_for_stream,
    beginning,
    check_forced,
    join_parts,
    not_text,
    put_effort,
    tools_of_old,
)
from fust.wire.anthropic import Block, Conversation, CountRequest, MessagesRequest, Source, Tool, ToolChoice
from fust.wire.body import check_neutral
from fust.wire.openai import FunctionCall, Message, Part, ToolCall, Usage

_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def plan_messages(request: MessagesRequest) -> Plan:
    """Returns the plan of an answer.

    Raises:
        InvalidInput, Unsupported: values that do not go together, or that no engine can honour.
    """
    plan = _plan(request, "messages", "/v1/chat/completions", stream=request.stream is True)
    body = plan.body
    body["max_tokens"] = request.max_tokens
    for name in ("temperature", "top_p", "top_k"):
        value = getattr(request, name)
        if isinstance(value, int | float):
            body[name] = value
    stops = [word for word in request.stop_sequences or () if word]
    if stops:
        body["stop"] = stops
        body["verbose"] = True  # the engine then says which of them it met
    if plan.stream:
        ask_for_stream(plan)
        body["timings_per_token"] = True  # so that the first event can tell the tokens of the prompt
    plan.shape = MessageShape(request)
    return plan


def plan_count(request: CountRequest) -> Plan:
    """Returns the plan of counting a prompt's tokens, the template's included."""
    plan = _plan(request, "count_tokens", "/v1/chat/completions/input_tokens", stream=False)
    plan.shape = CountShape()
    return plan


def _plan(request: Conversation, endpoint: str, path: str, *, stream: bool) -> Plan:
    messages: list[Message] = []
    pictures = Pictures()
    if request.system:
        messages.append(Message("system", _text_of(request.system, "system")))
    for index, turn in enumerate(request.messages):
        path_of = f"messages[{index}].content"
        if isinstance(turn.content, str):
            messages.append(Message(turn.role, turn.content))
        elif turn.role == "assistant":
            messages.append(_assistant(turn.content, path_of))
        elif turn.role == "system":
            messages.append(Message("system", _text_of(turn.content, path_of)))
        else:
            messages += _user(turn.content, path_of, pictures)
    body: dict[str, Any] = {"messages": messages}
    _put_thinking(body, request)
    plan = Plan(endpoint, path, request.model, "generate", stream, True, body)
    plan.pictures = pictures.found
    plan.begun = beginning(messages)
    plan.tools = _tools(request) or tools_of_old(messages)
    check_forced(plan)
    return plan


# Blocks


def _user(blocks: list[Block], path: str, pictures: Pictures) -> list[Message]:
    """Returns a user's turn as chat messages: results of tools first, each on its own, then the rest.

    Images of results stand among the rest, for templates put none into results.
    """
    results: list[Message] = []
    parts: list[Part] = []
    for index, block in enumerate(blocks):
        place = f"{path}[{index}]"
        if block.type == "tool_result":
            held = block.content or ""
            if isinstance(held, list):
                shown = [(i, inner) for i, inner in enumerate(held) if inner.type == "image"]
                parts += [_picture(inner, f"{place}.content[{i}]", pictures) for i, inner in shown]
                held = [inner for inner in held if inner.type != "image"]
            text = _text_of(held, f"{place}.content")
            if block.is_error is True:
                text = f"Error: {text}"
            results.append(Message("tool", text, tool_call_id=block.tool_use_id or ""))
        elif block.type == "image":
            parts.append(_picture(block, place, pictures))
        else:
            parts.append(Part("text", _block_text(block, place)))
    if parts:
        return [*results, Message("user", join_parts(parts))]
    if not results:
        raise InvalidInput("The parameter {param!r} is empty.", param=path)
    return results


def _picture(block: Block, path: str, pictures: Pictures) -> Part:
    check_neutral(block, path)
    source = block.source
    if isinstance(source, Source) and source.type == "base64" and isinstance(source.data, str):
        return pictures.put_bytes(source.data, f"{path}.source.data")
    if isinstance(source, Source) and source.type == "url" and isinstance(source.url, str):
        return pictures.put(source.url, f"{path}.source.url")
    if isinstance(source, Source) and source.type == "file" and isinstance(source.file_id, str):
        return pictures.put("", f"{path}.source.file_id", file_id=source.file_id)
    raise Unsupported(
        "Images come as base64, by a URL or by a file's id here.",
        hint="Send a source of type base64, url or file.",
        param=f"{path}.source",
    )


def _assistant(blocks: list[Block], path: str) -> Message:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for index, block in enumerate(blocks):
        place = f"{path}[{index}]"
        if block.type == "tool_use":
            if not isinstance(block.name, str):
                raise InvalidInput("The parameter {param!r} is missing.", param=f"{place}.name")
            arguments = msgspec.json.encode(block.input or {}).decode()
            calls.append(ToolCall(FunctionCall(block.name, arguments), block.id or ""))
        elif block.type == "thinking":
            thoughts.append(block.thinking or "")
        elif block.type != "redacted_thinking":  # of another model's, and sealed
            texts.append(_block_text(block, place))
    message = Message("assistant", "".join(texts))
    if thoughts:
        message.reasoning_content = "".join(thoughts)
    if calls:
        message.tool_calls = calls
    return message


def _text_of(content: str | list[Block], path: str) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_block_text(block, f"{path}[{index}]") for index, block in enumerate(content))


def _block_text(block: Block, path: str) -> str:
    if block.type == "text" and isinstance(block.text, str):
        return block.text
    if block.type == "document" and isinstance(block.source, Source):
        check_neutral(block, path)
        head = "\n".join(str(part) for part in (block.title, block.context) if part)
        return f"{head}\n{_document_text(block.source, path)}" if head else _document_text(block.source, path)
    if block.type == "search_result":
        check_neutral(block, path)
        head = "\n".join(str(part) for part in (block.title, block.source) if part)
        return f"{head}\n{_text_of(block.content or '', f'{path}.content')}"
    raise not_text(block.type, f"{path}.type")


def _document_text(source: Source, path: str) -> str:
    if source.type == "text" and isinstance(source.data, str):
        return source.data
    if source.type == "content" and source.content:
        try:
            content = msgspec.convert(source.content, str | list[Block])
        except msgspec.ValidationError as error:
            raise InvalidInput(
                "{param} has a value that is not allowed: {reason}.",
                param=f"{path}.source.content",
                reason=words_of(error),
            ) from None
        return _text_of(content, f"{path}.source.content")
    raise Unsupported(
        "Documents are read as plain text here, not as {kind!r}.",
        hint="Send the text of it: a source of type text.",
        kind=str(source.media_type or source.type)[:50],
        param=f"{path}.source",
    )


# Tools, thinking, form


def _tools(request: Conversation) -> Tools | None:
    functions: list[Function] = []
    for index, tool in enumerate(request.tools or ()):
        functions.append(_function(tool, f"tools[{index}]"))
    choice = request.tool_choice or None
    if not functions:
        if isinstance(choice, ToolChoice) and choice.type not in ("none", "auto"):
            raise InvalidInput("tool_choice needs tools.", hint="Send them with it.", param="tool_choice")
        return None
    found = Tools(unique(functions))
    if not isinstance(choice, ToolChoice):
        return found
    if choice.disable_parallel_tool_use is True:
        found = replace(found, parallel=False)
    if choice.type == "tool":
        if not isinstance(choice.name, str):
            raise InvalidInput("The parameter {param!r} is missing.", param="tool_choice.name")
        return found.narrowed([choice.name], "required", "tool_choice.name")
    return replace(found, choice="required" if choice.type == "any" else choice.type)


def _function(tool: Tool, path: str) -> Function:
    check_neutral(tool, path)
    if not isinstance(tool.input_schema, dict):
        raise InvalidInput("The parameter {param!r} is missing.", param=f"{path}.input_schema")
    body = {
        "name": tool.name,
        "description": tool.description or "",
        "input_schema": tool.input_schema,
        "strict": tool.strict is True,
    }
    return make_function(body, path, "input_schema")


def _put_thinking(body: dict[str, Any], request: Conversation) -> None:
    thinking, config = request.thinking or None, request.output_config or None
    if thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": thinking.type != "disabled"}
        if isinstance(thinking.budget_tokens, int):
            body["thinking_budget_tokens"] = body["reasoning_budget_tokens"] = thinking.budget_tokens
    if config is None:
        return
    if isinstance(config.effort, str):
        put_effort(body, config.effort)
    if config.format:
        check_schema(config.format.schema, "output_config.format.schema", strict=True)
        held = {"name": "answer", "schema": config.format.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": held}


# Answers


class CountShape(Whole):
    """The answer to a count."""

    def whole(self, answer: dict[str, Any], usage: Usage) -> bytes:
        """See `Shape.whole`."""
        return msgspec.json.encode({"input_tokens": answer["input_tokens"]})


class MessageShape:
    """An answer as a message, or as the events of one."""

    def __init__(self, request: MessagesRequest) -> None:
        self._id = new_id("msg_")
        self._model = request.model
        self._stops = frozenset(request.stop_sequences or ())
        thinking = request.thinking or None
        self._hides_thoughts = thinking is not None and thinking.display == "omitted"
        self._begun = False
        self._block = -1
        self._kind = ""
        self._call = -1
        self._reason: str | None = None
        self._stop_sequence: str | None = None

    def whole(self, answer: dict[str, Any], usage: Usage) -> bytes:
        """See `Shape.whole`."""
        choice = choice_of(answer)
        message: dict[str, Any] = choice["message"]
        blocks: list[dict[str, Any]] = []
        if message.get("reasoning_content"):
            thought = "" if self._hides_thoughts else message["reasoning_content"]
            blocks.append({"type": "thinking", "thinking": thought, "signature": ""})
        if message.get("content"):
            blocks.append({"type": "text", "text": message["content"], "citations": None})
        for call in message.get("tool_calls") or ():
            blocks.append(
                {
                    "type": "tool_use",
                    "id": call["id"],
                    "name": call["function"]["name"],
                    "input": _arguments(call["function"]["arguments"]),
                }
            )
        self._note_end(answer, choice)
        return msgspec.json.encode({**self._head(usage), "content": blocks, **self._ending()})

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """See `Shape.chunk`."""
        choice = choice_of(chunk)
        delta: dict[str, Any] = choice.get("delta") or {}
        out: list[bytes] = []
        thought, text, calls = delta.get("reasoning_content"), delta.get("content"), delta.get("tool_calls")
        if thought or text or calls or choice.get("finish_reason"):
            out.append(self._begin(chunk))
        if thought:
            out.append(self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""}))
            if not self._hides_thoughts:
                out.append(self._delta({"type": "thinking_delta", "thinking": thought}))
        if text:
            out.append(self._open("text", {"type": "text", "text": "", "citations": None}))
            out.append(self._delta({"type": "text_delta", "text": text}))
        for call in calls or ():
            if call["index"] != self._call:
                self._call = call["index"]
                head: dict[str, Any] = {
                    "type": "tool_use",
                    "id": call["id"],
                    "name": call["function"]["name"],
                    "input": {},
                }
                out += [self._close(), self._open("tool_use", head)]
            if call["function"].get("arguments"):
                out.append(
                    self._delta({"type": "input_json_delta", "partial_json": call["function"]["arguments"]})
                )
        if choice.get("finish_reason"):
            self._note_end(chunk, choice)
        return b"".join(out)

    def end(self, usage: Usage) -> bytes:
        """See `Shape.end`."""
        return b"".join(
            (
                self._begin({}),
                self._close(),
                event("message_delta", {"delta": self._ending(), "usage": _usage(usage)}),
                event("message_stop", {}),
            )
        )

    def _begin(self, chunk: dict[str, Any]) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        timings: dict[str, Any] = chunk.get("timings") or {}
        cached = timings.get("cache_n", 0)
        usage = Usage(timings.get("prompt_n", 0) + cached, prompt_tokens_details={"cached_tokens": cached})
        return event("message_start", {"message": {**self._head(usage), "content": [], **self._ending()}})

    def _open(self, kind: str, block: dict[str, Any]) -> bytes:
        if self._kind == kind:
            return b""
        closed = self._close()
        self._block += 1
        self._kind = kind
        return closed + event("content_block_start", {"index": self._block, "content_block": block})

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        out = b""
        if self._kind == "thinking":
            out = self._delta({"type": "signature_delta", "signature": ""})
        self._kind = ""
        return out + event("content_block_stop", {"index": self._block})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return event("content_block_delta", {"index": self._block, "delta": delta})

    def _note_end(self, answer: dict[str, Any], choice: dict[str, Any]) -> None:
        self._reason = _STOP.get(choice["finish_reason"], "end_turn")
        told: dict[str, Any] = answer.get("__verbose") or {}
        word = told.get("stopping_word") or choice.get("stop_reason")
        if self._reason == "end_turn" and word in self._stops:
            self._reason, self._stop_sequence = "stop_sequence", word

    def _head(self, usage: Usage) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "usage": _usage(usage),
            "container": None,
        }

    def _ending(self) -> dict[str, Any]:
        return {"stop_reason": self._reason, "stop_sequence": self._stop_sequence}


def _usage(usage: Usage) -> dict[str, Any]:
    cached = usage.cached_tokens
    return {
        "input_tokens": usage.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
    }


def _arguments(text: str) -> dict[str, Any]:
    """Returns a call's arguments; those of a call that was cut short cannot be read."""
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
