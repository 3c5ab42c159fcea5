"""Tools: what the caller allows is what the model can do, whatever its template and its engine know of tools.

* A call that is asked for (`required`, or a tool by name) is enforced by a schema over the whole answer, which is then
  read as calls: llama.cpp itself lets text pass.
* A template that knows tools writes them, and llama.cpp reads the calls. Where it does not, a system message tells of the
  tools, and the gateway reads the calls.
* `none` leaves the tools out, so that nothing can be called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import msgspec

from fust.core.errors import InvalidInput, Unsupported
from fust.gateway.calls import CallReader, FirstCall, ForcedCalls, TaggedCalls
from fust.gateway.schemas import check_schema, moved
from fust.wire.openai import Message
from fust.wire.targets import Target

Choice = Literal["none", "auto", "required"]

NATIVE = "tool_choice"
"""The capability of a target that takes tools and calls them as it is told; nothing is enforced from outside then."""
IN_TEMPLATE = "template_tools"
"""The capability of a target whose chat template writes tools."""
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_MOST_TOOLS = 512
_MOST_CALLS = 16
_ANY_OBJECT: dict[str, Any] = {"type": "object"}
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Function:
    """A tool that the model may call."""

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool = False

    def as_tool(self, *, strict: bool = False) -> dict[str, Any]:
        """Returns it in the form of OpenAI's chat API."""
        body = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": {**body, "strict": True} if strict else body}


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools of a request and what is to become of them."""

    functions: tuple[Function, ...]
    choice: Choice = "auto"
    parallel: bool | None = None
    """Whether several calls may come in one answer; None when the caller did not say."""

    def narrowed(self, names: Sequence[str], choice: Choice, param: str = "tool_choice") -> Tools:
        """Returns these tools with only those named left.

        Raises:
            InvalidInput: a name that is none of them.
        """
        known = {function.name for function in self.functions}
        for name in names:
            if name not in known:
                raise InvalidInput(
                    "tool_choice names {name!r}, which is not among the tools.", name=name[:100], param=param
                )
        return replace(self, functions=tuple(f for f in self.functions if f.name in names), choice=choice)

    def apply(self, body: dict[str, Any], target: Target) -> dict[str, Any]:
        """Returns the engine's request with the tools in it."""
        body = dict(body)
        in_template = IN_TEMPLATE in target.capabilities
        if not in_template:
            body["messages"] = plain_messages(body["messages"])
        if self.choice == "none" or not self.functions:
            return body
        if NATIVE in target.capabilities:
            body["tools"] = [function.as_tool(strict=function.strict) for function in self.functions]
            body["tool_choice"] = self.choice
            if self.parallel is not None:
                body["parallel_tool_calls"] = self.parallel
            return body
        if in_template:
            body["tools"] = [function.as_tool() for function in self.functions]
            body["tool_choice"] = "auto" if self.choice == "auto" else "none"  # else the schema is not taken
            if self.parallel is not None:
                body["parallel_tool_calls"] = self.parallel
        else:
            body["messages"] = _introduced(body["messages"], self._introduction())
        if self.choice == "required":
            schema = self.calls_schema()
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "calls", "schema": schema},
            }
        return body

    def reader(self, target: Target) -> CallReader | None:
        """Returns what reads the calls out of one answer; None when the engine's own words are right."""
        if self.choice == "none" or not self.functions:
            return None
        if NATIVE in target.capabilities:
            return FirstCall() if self.parallel is False else None
        if self.choice == "required":
            return ForcedCalls()
        if IN_TEMPLATE not in target.capabilities:
            return TaggedCalls({function.name for function in self.functions}, single=self.parallel is False)
        return FirstCall() if self.parallel is False else None

    def calls_schema(self) -> dict[str, Any]:
        """Returns the schema of an answer that is nothing but calls: one, or a list when several were asked for."""
        definitions: dict[str, Any] = {}
        for index, function in enumerate(self.functions):
            definitions[f"arguments{index}"] = moved(function.parameters, f"/$defs/arguments{index}")
        calls = [
            {
                "type": "object",
                "properties": {
                    "name": {"const": function.name},
                    "arguments": {"$ref": f"#/$defs/arguments{index}"},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for index, function in enumerate(self.functions)
        ]
        call = calls[0] if len(calls) == 1 else {"anyOf": calls}
        whole = (
            {"type": "array", "items": call, "minItems": 1, "maxItems": _MOST_CALLS}
            if self.parallel
            else call
        )
        return {**whole, "$defs": definitions}

    def _introduction(self) -> str:
        lines = [
            msgspec.json.encode(
                {"name": f.name, "description": f.description, "parameters": f.parameters}
            ).decode()
            for f in self.functions
        ]
        how = (
            'Answer with nothing but {"name": …, "arguments": {…}} of the function that you call.'
            if self.choice == "required"
            else 'To call one, answer with <tool_call>{"name": …, "arguments": {…}}</tool_call> and nothing else.'
        )
        return "You can call these functions:\n" + "\n".join(lines) + "\n" + how


def read_tools(
    tools: Sequence[dict[str, Any]] | None,
    choice: str | dict[str, Any] | None,
    parallel: bool | None,
) -> Tools | None:
    """Returns the tools of a chat request, or None when it has none.

    Raises:
        InvalidInput, Unsupported: a tool or a choice that is not as the API describes, or of a kind that is not offered.
    """
    functions = unique([_function(tool, f"tools[{i}]") for i, tool in enumerate(tools or ())])
    if not functions:
        if choice not in (None, "none", "auto"):
            raise InvalidInput("tool_choice needs tools.", hint="Send them with it.", param="tool_choice")
        return None
    return choose(Tools(functions, parallel=parallel), choice, _chosen_name)


def choose(
    found: Tools, choice: str | dict[str, Any] | None, name_of: Callable[[dict[str, Any], str], str]
) -> Tools:
    """Returns the tools with the choice made, in the forms that both of OpenAI's APIs know.

    Args:
        found: all tools.
        choice: as the client sent it.
        name_of: reads the function's name out of a named choice; gets the object and its place.
    """
    if choice is None or choice in ("none", "auto", "required"):
        return replace(found, choice=choice or "auto")
    if isinstance(choice, str):
        raise InvalidInput(
            "tool_choice can be none, auto, required or a function, not {value!r}.",
            value=choice[:50],
            param="tool_choice",
        )
    kind = choice.get("type")
    if kind == "function":
        return found.narrowed([name_of(choice, "tool_choice")], "required")
    if kind == "allowed_tools":
        held = choice.get("allowed_tools", choice)
        allowed = cast("dict[str, Any]", held) if isinstance(held, dict) else {}
        entries, mode = allowed.get("tools"), allowed.get("mode", "auto")
        if not isinstance(entries, list) or mode not in ("auto", "required"):
            raise InvalidInput(
                "allowed_tools needs a mode, auto or required, and tools.", param="tool_choice.allowed_tools"
            )
        names = [
            name_of(cast("dict[str, Any]", entry), f"tool_choice.tools[{i}]")
            for i, entry in enumerate(cast("list[object]", entries))
        ]
        return found.narrowed(names, mode)
    raise Unsupported("{param} is not offered here.", hint="Leave it out.", param="tool_choice.type")


def _function(tool: dict[str, Any], path: str) -> Function:
    if tool.get("type") != "function":
        raise Unsupported(
            "Tools of type {kind!r} are not offered here: functions of your own are.",
            hint="Send tools of type function.",
            kind=str(tool.get("type"))[:50],
            param=f"{path}.type",
        )
    _refuse_unknown(tool, {"type", "function"}, path)
    body = tool.get("function")
    if not isinstance(body, dict):
        raise InvalidInput("The parameter {param!r} is missing.", param=f"{path}.function")
    return make_function(cast("dict[str, Any]", body), f"{path}.function")


def make_function(body: dict[str, Any], path: str, schema_field: str = "parameters") -> Function:
    """Returns a function out of its object, whose schema stands under ``schema_field``."""
    _refuse_unknown(body, {"name", "description", "strict", schema_field}, path)
    name, description = body.get("name"), body.get("description") or ""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(
            "{param} has a value that is not allowed: {reason}.",
            param=f"{path}.name",
            reason="1 to 128 letters, digits, '_' or '-' are wanted",
        )
    if not isinstance(description, str):
        raise InvalidInput(
            "{param} has a value that is not allowed: {reason}.",
            param=f"{path}.description",
            reason="text is wanted",
        )
    parameters = body.get(schema_field)
    if parameters is None:
        parameters = _NO_PARAMETERS
    if not isinstance(parameters, dict):
        raise InvalidInput(
            "{param} has a value that is not allowed: {reason}.",
            param=f"{path}.{schema_field}",
            reason="a JSON schema is wanted",
        )
    schema = cast("dict[str, Any]", parameters)
    strict = body.get("strict") is True
    check_schema(schema, f"{path}.{schema_field}", strict=strict)
    return Function(name, description, schema or _ANY_OBJECT, strict)


def unique(functions: Sequence[Function]) -> tuple[Function, ...]:
    """Returns a request's functions; raises InvalidInput when two share a name, or when there are too many."""
    names = [function.name for function in functions]
    if len(names) > _MOST_TOOLS:
        raise InvalidInput("A request takes at most {limit} tools.", limit=_MOST_TOOLS, param="tools")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidInput("Two tools are called {name!r}.", name=name, param=f"tools[{index}]")
    return tuple(functions)


def _refuse_unknown(body: dict[str, Any], known: set[str], path: str) -> None:
    for name in body:
        if name not in known:
            raise InvalidInput(
                "There is no parameter {param!r}.",
                hint="Check its spelling, or leave it out.",
                param=f"{path}.{name[:100]}",
                code="unknown_parameter",
            )


def _chosen_name(choice: dict[str, Any], path: str) -> str:
    body = choice.get("function")
    name = cast("dict[str, Any]", body).get("name") if isinstance(body, dict) else None
    if not isinstance(name, str):
        raise InvalidInput("The parameter {param!r} is missing.", param=f"{path}.function.name")
    return name


# Templates that know no tools


def plain_messages(messages: list[Message]) -> list[Message]:
    """Returns a conversation in which calls and their results are text, for templates that know neither."""
    if not any(message.tool_calls or message.role == "tool" for message in messages):
        return messages
    plain: list[Message] = []
    results: list[str] = []

    def put_results() -> None:
        if results:
            plain.append(Message("user", "\n".join(results)))
            results.clear()

    for message in messages:
        if message.role == "tool":
            results.append(f"<tool_response>\n{message.content}\n</tool_response>")
            continue
        put_results()
        if message.tool_calls:
            calls = "\n".join(
                f'<tool_call>{{"name": "{call.function.name}", "arguments": {call.function.arguments or "{}"}}}</tool_call>'
                for call in message.tool_calls
            )
            text = f"{message.content}\n{calls}" if message.content else calls
            plain.append(Message("assistant", text))
        else:
            plain.append(message)
    put_results()
    return plain


def _introduced(messages: list[Message], introduction: str) -> list[Message]:
    first = messages[0]
    if first.role == "system" and isinstance(first.content, str):
        return [Message("system", f"{first.content}\n\n{introduction}"), *messages[1:]]
    return [Message("system", introduction), *messages]
