"""OpenAI's Responses API over the engine's chat: items in, items and events out (platform.openai.com/docs/api-reference)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import msgspec
from msgspec import UNSET

from fust.core.errors import InvalidInput, Unsupported
from fust.core.ids import new_id
from fust.gateway.images import Pictures
from fust.gateway.schemas import check_schema
from fust.gateway.shapes import choice_of, event
from fust.gateway.tools import Function, Tools, choose, make_function, unique
from fust.gateway.translate import (
    Plan,
    ask_for_stream,
    beginning,
    check_forced,
    join_parts,
    not_text,
    put_effort,
    settle,
    tools_of_old,
)
from fust.wire.body import check_neutral
from fust.wire.openai import FunctionCall, Message, Part, ToolCall, Usage
from fust.wire.responses import Format, InputItem, InputPart, Reasoning, ResponsesRequest, Text

LOGPROBS = "message.output_text.logprobs"
_INCLUDABLE = frozenset({LOGPROBS, "reasoning.encrypted_content"})


def input_items(request: ResponsesRequest) -> list[InputItem]:
    """Returns what is said to the model as items."""
    if isinstance(request.input, str):
        return [InputItem(role="user", content=[InputPart("input_text", text=request.input)])]
    return request.input


def plan_response(request: ResponsesRequest, before: Sequence[InputItem]) -> Plan:
    """Returns the plan of a response.

    Args:
        request: as it came.
        before: the items of the conversation so far, of the response that `previous_response_id` names.

    Raises:
        InvalidInput, Unsupported: values that do not go together, or that no engine can honour.
    """
    items = input_items(request)
    messages = [Message("system", request.instructions)] if request.instructions else []
    pictures = Pictures()
    messages += _messages([*before, *items], len(before), pictures)
    body: dict[str, Any] = {"messages": [settle(message, i) for i, message in enumerate(messages)]}
    for name, sent in (
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("max_output_tokens", "max_tokens"),
    ):
        value = getattr(request, name)
        if isinstance(value, int | float):
            body[sent] = value
    includes = set(request.include or ())
    for index, name in enumerate(request.include or ()):
        if name not in _INCLUDABLE:
            raise Unsupported("{param} is not offered here.", hint="Leave it out.", param=f"include[{index}]")
    if request.top_logprobs or LOGPROBS in includes:
        body["logprobs"] = True
        body["top_logprobs"] = request.top_logprobs or 0
    _put_text(body, request)
    stream = request.stream is True
    if isinstance(request.stream_options, msgspec.Struct) and not stream:
        raise InvalidInput(
            "stream_options needs stream.", hint="Send `stream: true` with it.", param="stream_options"
        )
    plan = Plan(
        "responses", "/v1/chat/completions", request.model, "generate", stream, True, body, param="input"
    )
    plan.pictures = pictures.found
    plan.begun = beginning(body["messages"])
    plan.tools = _tools(request) or tools_of_old(body["messages"])
    check_forced(plan)
    if stream:
        ask_for_stream(plan)
    plan.shape = ResponseShape(request)
    return plan


# Input


def _messages(items: Sequence[InputItem], skipped: int, pictures: Pictures) -> list[Message]:
    """Returns items as chat messages: calls and thoughts that follow one another belong to one assistant's message."""
    messages: list[Message] = []
    open_turn: Message | None = None
    for number, item in enumerate(items):
        path = f"input[{number - skipped}]"
        check_neutral(item, path)
        if item.type in ("reasoning", "function_call"):
            if open_turn is None:
                open_turn = Message("assistant", "")
                messages.append(open_turn)
            _add_to_turn(open_turn, item, path)
        elif item.type == "function_call_output":
            open_turn = None
            messages += _result(item, f"{path}.output", pictures)
        elif item.type == "message" and item.role:
            message = _message(item, path, pictures)
            if message.role != "assistant":
                open_turn = None
            elif open_turn is not None and not open_turn.content and not open_turn.tool_calls:
                open_turn.content = message.content
                continue
            else:
                open_turn = message
            messages.append(message)
        else:
            raise not_text(item.type, f"{path}.type")
    return messages


def _add_to_turn(turn: Message, item: InputItem, path: str) -> None:
    if item.type == "reasoning":
        parts = item.content if isinstance(item.content, list) and item.content else item.summary or []
        turn.reasoning_content = "".join(part.text or "" for part in parts) or UNSET
        return
    if not item.name or not isinstance(item.arguments, str):
        raise InvalidInput(
            "The parameter {param!r} is missing.", param=f"{path}.{'arguments' if item.name else 'name'}"
        )
    calls = turn.tool_calls or []
    calls.append(ToolCall(FunctionCall(item.name, item.arguments), item.call_id or ""))
    turn.tool_calls = calls


def _result(item: InputItem, path: str, pictures: Pictures) -> list[Message]:
    """Returns what a tool gave; its images follow it as a user's, for templates put none into results."""
    said = _content(item.output or "", path, pictures)
    if isinstance(said, str):
        return [Message("tool", said, tool_call_id=item.call_id or "")]
    texts = join_parts([part for part in said if part.type == "text"])
    shown = [part for part in said if part.type != "text"]
    return [Message("tool", texts, tool_call_id=item.call_id or ""), Message("user", shown)]


def _message(item: InputItem, path: str, pictures: Pictures) -> Message:
    assert item.role
    if item.content is UNSET or item.content is None:
        raise InvalidInput("The parameter {param!r} is missing.", param=f"{path}.content")
    if isinstance(item.content, str):
        return Message(item.role, item.content)
    return Message(
        item.role, _content(item.content, f"{path}.content", pictures if item.role == "user" else None)
    )


def _content(content: str | list[InputPart], path: str, pictures: Pictures | None) -> str | list[Part]:
    """Returns content as a chat message has it; without ``pictures`` images are refused."""
    if isinstance(content, str):
        return content
    parts: list[Part] = []
    for index, part in enumerate(content):
        place = f"{path}[{index}]"
        text = part.refusal if part.type == "refusal" else part.text
        if part.type == "input_image" and pictures is not None:
            if isinstance(part.file_id, str):
                parts.append(pictures.put("", f"{place}.file_id", part.detail, file_id=part.file_id))
                continue
            if not isinstance(part.image_url, str):
                raise InvalidInput("The parameter {param!r} is missing.", param=f"{place}.image_url")
            parts.append(pictures.put(part.image_url, f"{place}.image_url", part.detail))
        elif part.type in ("input_text", "output_text", "refusal", "text") and isinstance(text, str):
            parts.append(Part("text", text))
        else:
            raise not_text(part.type, f"{place}.type")
    return join_parts(parts)


def _put_text(body: dict[str, Any], request: ResponsesRequest) -> None:
    if isinstance(request.reasoning, Reasoning):
        check_neutral(request.reasoning, "reasoning")
        if isinstance(request.reasoning.effort, str):
            put_effort(body, request.reasoning.effort)
    if not isinstance(request.text, Text):
        return
    check_neutral(request.text, "text")
    form = request.text.format
    if not isinstance(form, Format) or form.type == "text":
        return
    if form.type == "json_object":
        body["response_format"] = {"type": "json_object"}
        return
    if not isinstance(form.schema, dict):
        raise InvalidInput(
            "The parameter {param!r} is missing.",
            param="text.format.schema",
            code="missing_required_parameter",
        )
    check_schema(form.schema, "text.format.schema", strict=form.strict is True)
    held = {"name": form.name or "answer", "schema": form.schema}
    body["response_format"] = {"type": "json_schema", "json_schema": held}


def _tools(request: ResponsesRequest) -> Tools | None:
    functions: list[Function] = []
    for index, tool in enumerate(request.tools or ()):
        if tool.type != "function":
            raise Unsupported(
                "Tools of type {kind!r} are not offered here: functions of your own are.",
                hint="Send tools of type function.",
                kind=tool.type[:50],
                param=f"tools[{index}].type",
            )
        check_neutral(tool, f"tools[{index}]")
        kept = ("name", "description", "parameters", "strict")
        body = {key: value for key in kept if (value := getattr(tool, key)) is not UNSET}
        functions.append(make_function(body, f"tools[{index}]"))
    choice = request.tool_choice or None
    if not functions:
        if choice not in (None, "none", "auto"):
            raise InvalidInput("tool_choice needs tools.", hint="Send them with it.", param="tool_choice")
        return None
    found = choose(Tools(unique(functions)), choice, _chosen_name)
    parallel = request.parallel_tool_calls
    return replace(found, parallel=parallel) if isinstance(parallel, bool) else found


def _chosen_name(choice: dict[str, Any], path: str) -> str:
    name = choice.get("name")
    if not isinstance(name, str):
        raise InvalidInput("The parameter {param!r} is missing.", param=f"{path}.name")
    return name


# Output


class ResponseShape:
    """A response, or the events of one."""

    def __init__(self, request: ResponsesRequest) -> None:
        self.response = _frame(request)
        """Complete once the answer has ended."""
        self._sequence = 0
        self._item: dict[str, Any] | None = None
        """The item that is being written."""
        self._call = -1
        self._reason = "stop"
        self._text: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    @property
    def _output(self) -> list[dict[str, Any]]:
        return self.response["output"]

    def whole(self, answer: dict[str, Any], usage: Usage) -> bytes:
        """See `Shape.whole`."""
        choice = choice_of(answer)
        message: dict[str, Any] = choice["message"]
        self._reason = choice["finish_reason"]
        if message.get("reasoning_content"):
            self._output.append(_thought(message["reasoning_content"]))
        if message.get("content"):
            held: dict[str, Any] = choice.get("logprobs") or {}
            self._output.append(_said(message["content"], held.get("content") or []))
        for call in message.get("tool_calls") or ():
            function = call["function"]
            self._output.append(_called(call["id"], function["name"], function["arguments"]))
        self._complete(usage)
        return msgspec.json.encode(self.response)

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """See `Shape.chunk`."""
        choice = choice_of(chunk)
        delta: dict[str, Any] = choice.get("delta") or {}
        out: list[bytes] = []
        if self._sequence == 0:
            out.append(self._event("response.created", response=self.response))
            out.append(self._event("response.in_progress", response=self.response))
        if delta.get("reasoning_content"):
            out += self._think(delta["reasoning_content"])
        if delta.get("content"):
            held: dict[str, Any] = choice.get("logprobs") or {}
            out += self._say(delta["content"], held.get("content") or [])
        for call in delta.get("tool_calls") or ():
            out += self._call_on(call)
        self._reason = choice.get("finish_reason") or self._reason
        return b"".join(out)

    def end(self, usage: Usage) -> bytes:
        """See `Shape.end`."""
        out = self._close()
        self._complete(usage)
        kind = "response.completed" if self.response["status"] == "completed" else "response.incomplete"
        return b"".join([*out, self._event(kind, response=self.response)])

    def _event(self, kind: str, /, **fields: Any) -> bytes:
        made = event(kind, {**fields, "sequence_number": self._sequence})
        self._sequence += 1
        return made

    def _open(self, item: dict[str, Any]) -> list[bytes]:
        out = self._close()
        self._item = item
        self._text, self._logprobs = [], []
        shown = {**item, "status": "in_progress"} if "status" in item else item
        self._output.append(item)
        return [
            *out,
            self._event("response.output_item.added", output_index=len(self._output) - 1, item=shown),
        ]

    def _at(self, *, part: bool = False) -> dict[str, Any]:
        assert self._item is not None
        place = {"item_id": self._item["id"], "output_index": len(self._output) - 1}
        return {**place, "content_index": 0} if part else place

    def _think(self, text: str) -> list[bytes]:
        out: list[bytes] = []
        if self._item is None or self._item["type"] != "reasoning":
            out = self._open({**_thought(""), "content": []})
            part = {"type": "reasoning_text", "text": ""}
            out.append(self._event("response.content_part.added", **self._at(part=True), part=part))
        self._text.append(text)
        out.append(self._event("response.reasoning_text.delta", **self._at(part=True), delta=text))
        return out

    def _say(self, text: str, logprobs: list[dict[str, Any]]) -> list[bytes]:
        out: list[bytes] = []
        if self._item is None or self._item["type"] != "message":
            out = self._open({**_said("", []), "content": []})
            part = _said("", [])["content"][0]
            out.append(self._event("response.content_part.added", **self._at(part=True), part=part))
        self._text.append(text)
        told = _logprobs(logprobs)
        self._logprobs += told
        out.append(
            self._event("response.output_text.delta", **self._at(part=True), delta=text, logprobs=told)
        )
        return out

    def _call_on(self, call: dict[str, Any]) -> list[bytes]:
        out: list[bytes] = []
        if call["index"] != self._call:
            self._call = call["index"]
            out = self._open(_called(call["id"], call["function"]["name"], ""))
        arguments = call["function"].get("arguments")
        if arguments:
            self._text.append(arguments)
            out.append(self._event("response.function_call_arguments.delta", **self._at(), delta=arguments))
        return out

    def _close(self) -> list[bytes]:
        item = self._item
        if item is None:
            return []
        text = "".join(self._text)
        out: list[bytes]
        if item["type"] == "function_call":
            item["arguments"] = text
            out = [
                self._event(
                    "response.function_call_arguments.done", **self._at(), name=item["name"], arguments=text
                )
            ]
        elif item["type"] == "reasoning":
            part = {"type": "reasoning_text", "text": text}
            item["content"] = [part]
            out = [
                self._event("response.reasoning_text.done", **self._at(part=True), text=text),
                self._event("response.content_part.done", **self._at(part=True), part=part),
            ]
        else:
            item["content"] = [
                {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs}
            ]
            done = self._event(
                "response.output_text.done", **self._at(part=True), text=text, logprobs=self._logprobs
            )
            part = item["content"][0]
            out = [done, self._event("response.content_part.done", **self._at(part=True), part=part)]
        if self._reason == "length" and "status" in item:
            item["status"] = "incomplete"
        out.append(self._event("response.output_item.done", output_index=len(self._output) - 1, item=item))
        self._item = None
        return out

    def _complete(self, usage: Usage) -> None:
        response = self.response
        if self._reason == "length":
            response["status"] = "incomplete"
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            response["status"] = "completed"
            response["completed_at"] = int(time.time())
        response["usage"] = {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }


def _frame(request: ResponsesRequest) -> dict[str, Any]:
    """Returns a response before its output, with what was asked of it."""

    def given(value: Any) -> Any:
        return None if value is UNSET else value

    text = request.text if isinstance(request.text, Text) else Text()
    return {
        "id": new_id("resp_"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": given(request.instructions),
        "max_output_tokens": given(request.max_output_tokens),
        "metadata": given(request.metadata) or {},
        "model": request.model,
        "output": cast("list[dict[str, Any]]", []),
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": given(request.previous_response_id),
        "reasoning": {
            "effort": given(request.reasoning.effort) if request.reasoning else None,
            "summary": None,
        },
        "store": request.store is True,
        "temperature": given(request.temperature),
        "text": {"format": text.format if text.format else {"type": "text"}},
        "tool_choice": request.tool_choice or "auto",
        "tools": request.tools or [],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": given(request.top_p),
        "truncation": "disabled",
        "usage": None,
    }


def _said(text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": _logprobs(logprobs)}
    return {
        "id": new_id("msg_"),
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }


def _thought(text: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}]
    return {"id": new_id("rs_"), "type": "reasoning", "summary": [], "content": content}


def _called(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": new_id("fc_"),
        "type": "function_call",
        "status": "completed",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def _logprobs(tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def one(token: dict[str, Any]) -> dict[str, Any]:
        return {"token": token["token"], "bytes": token.get("bytes") or [], "logprob": token["logprob"]}

    return [
        {**one(token), "top_logprobs": [one(top) for top in token.get("top_logprobs", ())]}
        for token in tokens
    ]
