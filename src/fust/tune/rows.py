"""What rows mean: the common shapes of tuning data are told apart by their columns and become few kinds of example.

| format | columns |
|---|---|
| `messages` | `messages`: [{role, content}], also `tools` (OpenAI) |
| `sharegpt` | `conversations`: [{from, value}], also `system`, `tools` |
| `alpaca` | `instruction`, `output`, also `input`, `system`, `history` |
| `preference` | `chosen`, `rejected`, also `prompt` (text or messages) |
| `unpaired` | `prompt` and `completion`, or `messages`, or `conversations`; `label` (true or false) |
| `completion` | `prompt`, `completion` (also `response`, `answer`; `question`), text or messages |
| `text` | `text` (also `content`) |
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec

Format = Literal["messages", "sharegpt", "alpaca", "preference", "unpaired", "completion", "text"]
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "bing": "assistant",
    "function_call": "assistant",
    "system": "system",
    "developer": "system",
    "observation": "tool",
    "function": "tool",
    "tool": "tool",
}
_PROMPTS = ("prompt", "question", "query", "instruction", "input")
_ANSWERS = ("completion", "response", "answer", "output")


class Message(msgspec.Struct, omit_defaults=True):
    """A message as chat templates take it."""

    role: str
    content: str = ""
    tool_calls: list[dict[str, Any]] | None = None
    reasoning_content: str | None = None
    name: str | None = None
    tool_call_id: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns what a template sees; ``content`` is there even when it is empty."""
        return {"content": self.content, **cast("dict[str, Any]", msgspec.to_builtins(self))}


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation; every answer of the assistant is learned."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A text and how it goes on; only the second part is learned. An empty prompt makes it a document."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, the first the better one."""

    chosen: Chat | Completion
    rejected: Chat | Completion


Example = Chat | Completion | Pair


class Unusable(Exception):
    """A row that cannot be used; ``code`` says why (see ``fust.tune.report``)."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


def detect(columns: Iterable[str]) -> Format | None:
    """Returns what rows with these columns are, or None; a whole row tells by its label whether conversations were judged."""
    have = {column.lower() for column in columns}
    if {"chosen", "rejected"} <= have:
        return "preference"
    if have & {"messages", "conversations", "conversation"}:
        if isinstance(columns, Mapping) and _is_judgement(cast("Mapping[str, Any]", columns)):
            return "unpaired"
        return "messages" if "messages" in have else "sharegpt"
    if {"instruction", "output"} <= have:
        return "alpaca"
    answered = any(name in have for name in _ANSWERS)
    if answered and "label" in have and "prompt" in have:
        return "unpaired"
    if answered and any(name in have for name in _PROMPTS):
        return "completion"
    return "text" if have & {"text", "content"} else None


def _is_judgement(row: Mapping[str, Any]) -> bool:
    """Returns whether a row's label says good or bad, and is not the name of some class."""
    label = _label(row)
    return isinstance(label, bool) or (isinstance(label, str) and label.lower() in ("true", "false"))


def read_judged(values: Mapping[str, Any], *, chat: bool) -> Chat | Completion:
    """Returns the answer of a row of the format `unpaired`, whatever its judgement is (see ``is_good``).

    Raises:
        Unusable: it is empty.

    """
    row = {key.lower(): value for key, value in values.items()}
    if "messages" in row:
        return Chat(_messages(row["messages"]), _tools(row.get("tools")))
    if "conversations" in row or "conversation" in row:
        return _sharegpt(row)
    return _answer(_first(row, _PROMPTS), _first(row, _ANSWERS), chat=chat)


def read_example(values: Mapping[str, Any], format: Format, *, chat: bool) -> Example:
    """Returns the example that a row is; ``chat``: a lone prompt and its answer are turns of a conversation.

    Raises:
        Unusable: the row is not what its columns say, or it is empty.

    """
    row = {key.lower(): value for key, value in values.items()}
    if format == "messages":
        return Chat(_messages(row["messages"]), _tools(row.get("tools")))
    if format == "sharegpt":
        return _sharegpt(row)
    if format == "alpaca":
        return _alpaca(row, chat=chat)
    if format == "preference":
        return _preference(row, chat=chat)
    if format == "unpaired":
        if not is_good(row):
            raise Unusable("judged_bad")
        return read_judged(row, chat=chat)
    if format == "completion":
        return _answer(_first(row, _PROMPTS), _first(row, _ANSWERS), chat=chat)
    text = _text(row.get("text", row.get("content")))
    if not text.strip():
        raise Unusable("empty")
    return Completion("", text)


def _sharegpt(row: Mapping[str, Any]) -> Chat:
    messages = _messages(row.get("conversations", row.get("conversation")))
    system = _text(row.get("system") or "")
    if system and messages[0].role != "system":
        messages = (Message("system", system), *messages)
    return Chat(messages, _tools(row.get("tools")))


def _alpaca(row: Mapping[str, Any], *, chat: bool) -> Example:
    asked = "\n".join(text for key in ("instruction", "input") if (text := _text(row.get(key) or "").strip()))
    answer = _text(row.get("output") or "")
    if not asked or not answer.strip():
        raise Unusable("empty")
    system, history = _text(row.get("system") or ""), row.get("history")
    if not chat:
        return Completion(f"{asked}\n", answer)
    messages = [Message("system", system)] if system else []
    for turn in _list(history):
        before, after = [*_list(turn), "", ""][:2]
        messages += [Message("user", _text(before)), Message("assistant", _text(after))]
    return Chat((*messages, Message("user", asked), Message("assistant", answer)))


def _preference(row: Mapping[str, Any], *, chat: bool) -> Pair:
    prompt = row.get("prompt")
    if prompt is None:
        prompt = row.get("conversations", row.get("question", row.get("instruction")))
    if prompt is not None and row.get("input"):
        prompt = f"{_text(prompt)}\n{_text(row['input'])}"
    good, bad = (_whole(row, _preferred(prompt, row[name], chat=chat)) for name in ("chosen", "rejected"))
    if good == bad:
        raise Unusable("same_answers")
    return Pair(good, bad)


def _whole(row: Mapping[str, Any], answer: Chat | Completion) -> Chat | Completion:
    """Returns a conversation with the row's system prompt and tools."""
    system, tools = _text(row.get("system") or ""), _tools(row.get("tools"))
    if isinstance(answer, Completion) or not (system or tools):
        return answer
    before = (Message("system", system),) if system and answer.messages[0].role != "system" else ()
    return Chat((*before, *answer.messages), tools)


def _preferred(prompt: object, answer: object, *, chat: bool) -> Chat | Completion:
    if isinstance(answer, str) and isinstance(prompt, (str, type(None))):
        if not prompt:
            raise Unusable("no_prompt")
        return _answer(prompt, answer, chat=chat)
    before = () if prompt is None else _messages(prompt)
    after = (Message("assistant", answer),) if isinstance(answer, str) else _messages(answer)
    return Chat((*before, *after))


def _answer(prompt: object, answer: object, *, chat: bool) -> Chat | Completion:
    if not isinstance(prompt, str) or not isinstance(answer, str):
        said = _messages([{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer)
        asked = _messages([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
        return Chat((*asked, *said))
    if not answer.strip() or not prompt.strip():
        raise Unusable("empty")
    if not chat:
        return Completion(prompt, answer)
    return Chat((Message("user", prompt), Message("assistant", answer)))


def _messages(value: object) -> tuple[Message, ...]:
    """Returns messages from either naming (role and content, from and value), JSON in a string included."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise Unusable("no_messages") from None
    entries = [cast("object", value)] if isinstance(value, Mapping) else _list(value)
    found = tuple(_message(entry) for entry in entries)
    if not found:
        raise Unusable("empty")
    return found


def _message(entry: object) -> Message:
    if not isinstance(entry, Mapping):
        raise Unusable("no_messages")
    fields = cast("Mapping[str, Any]", entry)
    said = str(fields.get("role", fields.get("from", "")))
    role = _ROLES.get(said.lower())
    if role is None:
        raise Unusable("unknown_role", said[:40])
    content = fields.get("content", fields.get("value"))
    calls: object = fields.get("tool_calls")
    if said == "function_call":
        calls, content = [{"type": "function", "function": _json(content)}], ""
    return Message(
        role,
        _text(content if content is not None else ""),
        [cast("dict[str, Any]", call) for call in _list(calls)] if calls else None,
        fields.get("reasoning_content") or None,
        fields.get("name") or None,
        fields.get("tool_call_id") or None,
    )


def _text(value: object) -> str:
    """Returns text; a list of text parts (OpenAI) is joined.

    Raises:
        Unusable: something else, such as an image.

    """
    if isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise Unusable("not_utf8")
        return value
    if isinstance(value, list):
        parts = [
            cast("Mapping[str, Any]", part)
            for part in cast("list[object]", value)
            if isinstance(part, Mapping)
        ]
        if len(parts) == len(cast("list[object]", value)) and all(
            part.get("type") == "text" for part in parts
        ):
            return "".join(_text(part.get("text")) for part in parts)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise Unusable("not_text")


def _list(value: object) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise Unusable("no_messages")
    return list(cast("Iterable[object]", value))


def _json(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise Unusable("no_messages") from None


def _tools(value: object) -> tuple[dict[str, Any], ...]:
    if not value:
        return ()
    found = _json(value)
    return tuple(cast("dict[str, Any]", tool) for tool in _list(found) if isinstance(tool, Mapping))


def _first(row: Mapping[str, Any], names: Iterable[str]) -> object:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise Unusable("empty")


def is_good(row: Mapping[str, Any]) -> bool:
    """Returns whether the label of a judged answer says that it is a good one."""
    return _label(row) in (True, 1, "1", "true", "True", "good", "yes")


def _label(row: Mapping[str, Any]) -> object:
    return next((value for key, value in row.items() if key.lower() == "label"), None)
