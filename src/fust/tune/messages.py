"""Messages of a conversation as chat templates take them, out of the ways in which data sets write them.

| what | ways |
|---|---|
| role | `role` or `from`, by any name of the field |
| text | `content` or `value`: a text, or a list of parts (`text`, `reasoning`, `tool_call`) |
| calls | `tool_calls`, `function_call`, a message from `function_call` or `tool_call`, `tool_call` parts; arguments as objects or as JSON |
| whether it is learned | `weight`, `loss_weight` or `train` of an answer: 0 and false keep it as context |
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "ai": "assistant",
    "bing": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "system": "system",
    "developer": "system",
    "observation": "tool",
    "function": "tool",
    "ipython": "tool",
    "tool_response": "tool",
    "tool": "tool",
}
_CALLERS = ("function_call", "tool_call")
"""Roles whose whole text is a call."""
_TURNS = (("input", "output"), ("human", "assistant"), ("user", "assistant"))
"""Entries that are a question with its answer."""
_WEIGHTS = ("weight", "loss_weight", "train")
_PART_WEIGHTS = (*_WEIGHTS, "train_detail")


class Message(msgspec.Struct, omit_defaults=True):
    """A message as chat templates take it."""

    role: str
    content: str = ""
    tool_calls: list[dict[str, Any]] | None = None
    reasoning_content: str | None = None
    name: str | None = None
    tool_call_id: str | None = None
    is_context: bool = False
    """Whether it is an answer that is not learned, as its row says."""

    def as_dict(self) -> dict[str, Any]:
        """Returns what a template sees; ``content`` is there even when it is empty."""
        fields = cast("dict[str, Any]", msgspec.to_builtins(self))
        fields.pop("is_context", None)
        return {"content": self.content, **fields}


class Unusable(Exception):
    """A row that cannot be used; ``code`` says why (see ``fust.tune.report``)."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


def read_messages(value: object) -> tuple[Message, ...]:
    """Returns messages from either naming (role and content, from and value), JSON in a string included.

    Raises:
        Unusable: they are none; says why.

    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise Unusable("no_messages") from None
    entries = [cast("object", value)] if isinstance(value, Mapping) else list_of(value)
    found = tuple(_message(message) for entry in entries for message in _turn(entry))
    if not found:
        raise Unusable("empty")
    return found


def _turn(entry: object) -> list[object]:
    """Returns the messages of an entry, which may be a question with its answer."""
    fields: Mapping[str, Any] = cast("Mapping[str, Any]", entry) if isinstance(entry, Mapping) else {}
    for asked, said in _TURNS:
        if asked in fields and said in fields and "role" not in fields and "from" not in fields:
            system = fields.get("system")
            before: list[object] = [{"role": "system", "content": system}] if system else []
            return [*before, {"role": "user", "content": fields[asked]}, {"role": "assistant", "content": fields[said]}]  # fmt: skip
    return [entry]


def _message(entry: object) -> Message:
    if not isinstance(entry, Mapping):
        raise Unusable("no_messages")
    fields = cast("Mapping[str, Any]", entry)
    said = str(fields.get("role", fields.get("from", ""))).lower()
    role = _ROLES.get(said)
    if role is None:
        raise Unusable("unknown_role", said[:40])
    content = fields.get("content", fields.get("value"))
    calls = [*list_of(fields.get("tool_calls")), *_calls_in(fields.get("function_call"))]
    reasoning = read_text(fields.get("reasoning_content") or "")
    if said in _CALLERS:
        calls, content = _calls_in(content), ""
    elif isinstance(content, list):
        content, thought, more = _parts(cast("list[object]", content))
        reasoning, calls = reasoning + thought, [*calls, *more]
    return Message(
        role,
        read_text(content if content is not None else ""),
        [_call(call) for call in calls] or None,
        reasoning or None,
        fields.get("name") or None,
        fields.get("tool_call_id") or None,
        role == "assistant" and _is_context(fields),
    )


def _parts(parts: Sequence[object]) -> tuple[str, str, list[object]]:
    """Returns what a list of parts says, what it thinks, and the tools it calls.

    Raises:
        Unusable: a part is something else, such as an image, or is weighed by itself.

    """
    text, thought, calls = "", "", list[object]()
    for part in parts:
        if isinstance(part, str):
            text += read_text(part)
            continue
        if not isinstance(part, Mapping):
            raise Unusable("not_text")
        fields = cast("Mapping[str, Any]", part)
        kind = fields.get("type")
        for name in _PART_WEIGHTS:
            if fields.get(name) is not None:
                raise Unusable("unknown_weight", f"{kind}.{name}"[:40])
        said: object = next(
            (fields[name] for name in ("text", "value", "content") if fields.get(name) is not None), ""
        )
        if kind in ("text", "input_text", "output_text"):
            text += read_text(said)
        elif kind in ("reasoning", "thinking"):
            thought += read_text(fields.get("thinking", said))
        elif kind == "tool_call":
            calls += _calls_in(said)
        else:
            raise Unusable("not_text", str(kind)[:40])
    return text, thought, calls


def _calls_in(value: object) -> list[object]:
    """Returns the calls that a message is, one or a list of them, mostly as JSON."""
    found = from_json(value, "no_messages")
    return list_of(cast("object", found)) if isinstance(found, list | None) else [found]


def _call(value: object) -> dict[str, Any]:
    """Returns a call as templates take it, and as servers hand it to them: its arguments are an object, not JSON."""
    call = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    function = cast("object", call.get("function", call))
    if not isinstance(function, dict) or not cast("dict[str, Any]", function).get("name"):
        raise Unusable("no_messages")
    named = cast("dict[str, Any]", function)
    arguments = named.get("arguments", named.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            raise Unusable("bad_arguments", str(named["name"])[:40]) from None
    outside = {"id": call["id"]} if call.get("id") else {}
    return {
        **outside,
        "type": "function",
        "function": {"name": str(named["name"]), "arguments": {} if arguments is None else arguments},
    }


def _is_context(fields: Mapping[str, Any]) -> bool:
    """Returns whether a row says of an answer that it is not to be learned."""
    for name in _WEIGHTS:
        weight = fields.get(name)
        if weight is None:
            continue
        if weight not in (0, 1, "0", "1", "true", "false"):
            raise Unusable("unknown_weight", f"{name} {weight}"[:40])
        return weight in (0, "0", "false")
    if fields.get("train_detail"):
        raise Unusable("unknown_weight", "train_detail")
    return False


def read_tools(value: object) -> tuple[dict[str, Any], ...]:
    """Returns tools as templates take them, out of a list or its JSON; a bare function is put where it belongs.

    Raises:
        Unusable: they are none.

    """
    found: object = from_json(value, "no_tools") if value else ()
    tools: object = [cast("object", found)] if isinstance(found, Mapping) else found
    if not isinstance(tools, list | tuple):
        raise Unusable("no_tools")
    return tuple(_tool(tool) for tool in cast("Iterable[object]", tools))


def _tool(value: object) -> dict[str, Any]:
    tool = cast("dict[str, Any]", from_json(value, "no_tools"))
    if not isinstance(tool, dict):  # pyright: ignore[reportUnnecessaryIsInstance] # it came out of JSON
        raise Unusable("no_tools")
    function: Any = tool.get("function", tool)
    if not isinstance(function, dict) or not cast("dict[str, Any]", function).get("name"):
        raise Unusable("no_tools")
    named = cast("dict[str, Any]", function)
    if isinstance(named.get("parameters"), str):
        named = {**named, "parameters": from_json(named["parameters"], "no_tools")}
    return {**tool, "function": named} if "function" in tool else {"type": "function", "function": named}


def read_text(value: object) -> str:
    """Returns text; a list of text parts is joined.

    Raises:
        Unusable: something else, such as an image.

    """
    if isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise Unusable("not_utf8")
        return value
    if isinstance(value, list):
        text, thought, calls = _parts(cast("list[object]", value))
        if not thought and not calls:
            return text
    if value != value:  # no number: what tables write for a cell that is empty
        raise Unusable("empty")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise Unusable("not_text")


def list_of(value: object) -> list[object]:
    """Returns a list; of nothing, an empty one.

    Raises:
        Unusable: it is none.

    """
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise Unusable("no_messages")
    return list(cast("Iterable[object]", value))


def from_json(value: object, code: str) -> object:
    """Returns what a text says as JSON; anything else as it is.

    Raises:
        Unusable: it is no JSON, for the reason ``code``.

    """
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise Unusable(code) from None
