"""Tools without an engine: choices, the schema over the answer, calls read out of text however it is cut, limits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fust.accounts.rights import ANONYMOUS, Identity
from fust.core.errors import FustError, RateLimited, Unsupported
from fust.core.settings import GatewaySettings
from fust.gateway.calls import CallReader, ForcedCalls, TaggedCalls
from fust.gateway.limits import Limits
from fust.gateway.schemas import check_schema
from fust.gateway.tools import Tools, read_tools


def tool(name: str, parameters: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "parameters": parameters or {"type": "object"}, **more},
    }


def made(reader: CallReader, text: str, cuts: list[int]) -> tuple[str, list[tuple[str, Any]], str]:
    """Returns text, calls and reason as a client puts a stream together."""
    places = sorted({cut % (len(text) + 1) for cut in cuts})
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    said, calls, reason = "", [], ""
    for index, piece in enumerate(pieces):
        choice: dict[str, Any] = {"delta": {"content": piece}, "finish_reason": None}
        if index == len(pieces) - 1:
            choice["finish_reason"] = "stop"
        reader.chunk(choice)
        said += choice["delta"].get("content", "")
        for call in choice["delta"].get("tool_calls", ()):
            if call["index"] == len(calls):
                assert call["id"] and call["type"] == "function"
                calls.append([call["function"]["name"], ""])
            calls[call["index"]][1] += call["function"]["arguments"]
        reason = choice["finish_reason"] or reason
    return said, [(name, json.loads(arguments)) for name, arguments in calls], reason


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab{}[]:,"\\ \n你name'),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "arguments", "x"]), inner)
    ),
    max_leaves=6,
)
CALLS = st.lists(
    st.tuples(st.sampled_from(["f", "g"]), st.dictionaries(st.text(max_size=4), VALUES, max_size=3)),
    min_size=1,
    max_size=3,
)
CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@given(CALLS, CUTS, st.sampled_from([None, 1]), st.booleans())
def test_forced_calls_are_read_however_they_are_cut(
    calls: list[tuple[str, Any]], cuts: list[int], indent: int | None, listed: bool
) -> None:
    objects = [{"name": name, "arguments": arguments} for name, arguments in calls]
    if not listed:
        calls, objects = calls[:1], objects[:1]
    text = json.dumps(objects if listed else objects[0], indent=indent)
    assert made(ForcedCalls(), text, cuts) == ("", calls, "tool_calls")
    choice: dict[str, Any] = {"message": {"content": text}, "finish_reason": "stop"}
    ForcedCalls().whole(choice)
    whole = [
        (c["function"]["name"], json.loads(c["function"]["arguments"]))
        for c in choice["message"]["tool_calls"]
    ]
    assert whole == calls and choice["message"]["content"] is None


@given(CALLS, CUTS, st.sampled_from(["", "I look. ", "a < b <tool", "<<"]))
def test_tagged_calls_are_read_however_they_are_cut(
    calls: list[tuple[str, Any]], cuts: list[int], before: str
) -> None:
    tags = "\n".join(
        f"<tool_call>\n{json.dumps({'name': n, 'arguments': a})}\n</tool_call>" for n, a in calls
    )
    if "</tool_call>" in json.dumps(calls):
        return
    said, found, reason = made(TaggedCalls({"f", "g"}, single=False), before + tags, cuts)
    assert (said, found, reason) == (before, calls, "tool_calls")


@given(st.text(alphabet="<>tool_cal/ {}x", max_size=40), CUTS)
def test_text_that_is_no_call_comes_out_as_it_was(text: str, cuts: list[int]) -> None:
    assert made(TaggedCalls({"f"}, single=True), text, cuts) == (text, [], "stop")


def test_a_call_that_is_cut_short_keeps_its_reason() -> None:
    reader = ForcedCalls()
    choice: dict[str, Any] = {
        "delta": {"content": '{"name": "f", "arguments": {"a": "b'},
        "finish_reason": "length",
    }
    reader.chunk(choice)
    assert choice["finish_reason"] == "length"
    assert choice["delta"]["tool_calls"][0]["function"]["arguments"] == '{"a": "b'


@pytest.mark.parametrize(
    ("choice", "names", "wanted"),
    [
        (None, ["f", "g"], "auto"),
        ("none", ["f", "g"], "none"),
        ("required", ["f", "g"], "required"),
        ({"type": "function", "function": {"name": "g"}}, ["g"], "required"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}},
            ["f"],
            "required",
        ),
    ],
)  # fmt: skip
def test_choices(choice: Any, names: list[str], wanted: str) -> None:
    found = read_tools([tool("f"), tool("g")], choice, None)
    assert found is not None
    assert ([f.name for f in found.functions], found.choice) == (names, wanted)


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ([tool("f")], {"type": "function", "function": {"name": "g"}}, "tool_choice"),
        ([tool("f")], "any", "tool_choice"),
        ([tool("f")], {"type": "custom"}, "tool_choice.type"),
        ([], "required", "tool_choice"),
        ([tool("f"), tool("f")], None, "tools[1]"),
        ([tool("a b")], None, "tools[0].function.name"),
        ([tool("f", colour=1)], None, "tools[0].function.colour"),
        ([{"type": "web_search"}], None, "tools[0].type"),
        ([tool("f", {"type": "object", "not": {}}, strict=True)], None, "tools[0].function.parameters.not"),
    ],
)
def test_faults_name_their_place(tools: Any, choice: Any, param: str) -> None:
    with pytest.raises(FustError) as caught:
        read_tools(tools, choice, None)
    assert (caught.value.status, caught.value.params.get("param")) == (400, param)


def test_references_inside_a_tools_schema_still_lead_somewhere() -> None:
    nested = {"type": "object", "properties": {"x": {"$ref": "#/$defs/y"}}, "$defs": {"y": {"enum": [1]}}}
    found = read_tools([tool("f", nested)], "required", True)
    assert isinstance(found, Tools)
    schema = found.calls_schema()
    assert schema["type"] == "array" and schema["minItems"] == 1
    reference = schema["$defs"]["arguments0"]["properties"]["x"]["$ref"]
    node: Any = schema
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    assert node == {"enum": [1]}


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "integer", "multipleOf": 7}, "s.multipleOf"),
        ({"type": "number", "minimum": 0}, "s.minimum"),
        ({"type": "array", "items": {"type": "string", "format": "email"}}, "s.items.format"),
        ({"anyOf": [{"type": "null"}, {"if": {}}]}, "s.anyOf[1].if"),
        ({"properties": {"not": {"uniqueItems": True}}}, "s.properties.not.uniqueItems"),
    ],
)
def test_a_strict_schema_says_only_what_is_kept(schema: Any, place: str) -> None:
    check_schema(schema, "s", strict=False)
    with pytest.raises(Unsupported) as refused:
        check_schema(schema, "s", strict=True)
    assert refused.value.params["param"] == place


def test_a_strict_schema_requires_what_it_describes() -> None:
    good = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}
    check_schema(good, "s", strict=True)
    with pytest.raises(FustError, match="'b'"):
        check_schema({**good, "required": ["b"]}, "s", strict=True)


def test_limits() -> None:
    caller = Identity("ada", False, frozenset({"read"}), "t1", "token")
    limits = Limits(GatewaySettings(requests_per_minute=3, tokens_per_minute=100))
    for left in (2, 1):
        limits.take(caller)
        assert dict(limits.headers(caller))[b"x-ratelimit-remaining-requests"] == str(left).encode()
    limits.spend(caller, 150)
    with pytest.raises(RateLimited) as full:
        limits.take(caller)
    assert full.value.retry_after_s is not None and 20 < full.value.retry_after_s < 40, (
        "50 over, and 1 is wanted"
    )
    assert dict(limits.headers(caller, anthropic=True))[b"anthropic-ratelimit-tokens-remaining"] == b"0"
    limits.take(Identity("ada", False, frozenset({"read"}), "t2", "token"))
    assert Limits(GatewaySettings()).headers(ANONYMOUS) == []
