"""Every sentence of msgspec and of tomllib has words in both languages, and none of its English stays in a Chinese message."""

from __future__ import annotations

import ast
import datetime
import decimal
import enum
import json
import re
import tomllib
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import msgspec._core
import pytest
from msgspec import Meta

from fust.core.decode_words import FAULTS, SENTENCES, TOML_FAULTS, words_of
from fust.core.errors import FustError, InvalidInput
from fust.core.i18n import Words
from fust.core.settings import load_settings
from fust.gateway.upstream import explain_fault
from fust.wire.body import decode_request
from fust.wire.openai import ChatRequest, CompletionRequest
from tests.unit.test_serve_openai import TARGET


class Colour(enum.Enum):
    red = "red"


class Point(msgspec.Struct, forbid_unknown_fields=True):
    x: int
    y: str = ""


class Pair(msgspec.Struct, array_like=True):
    a: int
    b: int


class One(msgspec.Struct, tag="one"):
    a: int


class Two(msgspec.Struct, tag="two"):
    a: int


WRONG: list[tuple[bytes, Any]] = [
    (b'"x"', int),
    (b'{"x": "a"}', Point),
    (b"{}", Point),
    (b'{"x": 1, "`z": 2}', Point),
    (b'{"a": {"b": [1, "x"]}}', dict[str, dict[str, list[int]]]),
    (b'{"x": 1}', dict[int, int]),
    (b'"x"', int | float | None),
    (b"[1]", Pair),
    (b"[1]", tuple[int, int]),
    (b'{"type": "three", "a": 1}', One | Two),
    (b'"`blue"', Literal["red", "green"]),
    (b"5", Literal[1, 2]),
    (b'"blue"', Colour),
    (b"3", Annotated[int, Meta(ge=5)]),
    (b"3", Annotated[int, Meta(le=1)]),
    (b"3", Annotated[int, Meta(multiple_of=2)]),
    (b"3.5", Annotated[float, Meta(gt=5)]),
    (b"3.5", Annotated[float, Meta(lt=1)]),
    (b'"a"', Annotated[str, Meta(min_length=2)]),
    (b'"aaa"', Annotated[str, Meta(max_length=2)]),
    (b'"a"', Annotated[str, Meta(pattern="^b`{x}$")]),
    (b"[]", Annotated[list[int], Meta(min_length=2)]),
    (b"[1, 2]", Annotated[list[int], Meta(max_length=1)]),
    (b"{}", Annotated[dict[str, int], Meta(min_length=1)]),
    (b'"x"', datetime.datetime),
    (b'"2026-01-01T00:00:00"', Annotated[datetime.datetime, Meta(tz=True)]),
    (b'"2026-01-01T00:00:00Z"', Annotated[datetime.datetime, Meta(tz=False)]),
    (b'"x"', datetime.date),
    (b'"x"', datetime.time),
    (b'"x"', datetime.timedelta),
    (b'"P1Y"', datetime.timedelta),
    (b'"P9999999999D"', datetime.timedelta),
    (b'"x"', uuid.UUID),
    (b'"x"', decimal.Decimal),
    (b'"!"', bytes),
    (b"1e999", float),
    (b"1" * 5000, int),
    (b'{"x": 1', Point),
    (b"", Any),
    (b"nope", Any),
    (b"[1,]", Any),
    (b'{"a": 1,}', Any),
    (b'{"a" 1}', Any),
    (b"[1 2]", Any),
    (b'{"a": 1 "b": 2}', Any),
    (b"{1: 2}", Any),
    (b"1 2", Any),
    (b"-", Any),
    (rb'"\x"', Any),
    (rb'"\uZZZZ"', Any),
    (rb'"\ud800\u0041"', Any),
    (b'"\xff"', Any),
    (b"[" * 20_000, Any),
]


def raised(body: bytes, kind: Any) -> Exception:
    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError, RecursionError)) as caught:
        msgspec.json.decode(body, type=kind)
    return caught.value


def english_in(text: str) -> list[str]:
    """Returns the words of a Chinese sentence that are English, but for what is quoted and for names of formats."""
    plain = re.sub(r"`[^`]*`|'[^']*'", "", text)
    return [
        word
        for word in re.findall(r"[A-Za-z]{2,}", plain)
        if word not in ("JSON", "UTF", "UUID", "RFC", "ISO", "Unicode", "base")
    ]


@pytest.mark.parametrize(("body", "kind"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_what_does_not_fit_is_told_in_both_languages(body: bytes, kind: Any) -> None:
    error = raised(body, kind)
    words = words_of(error)
    assert isinstance(words, Words)
    if isinstance(error, msgspec.MsgspecError):
        assert str(words) == str(error)
    chinese = words.draw("zh")
    assert re.search("[一-鿿]", chinese) and not english_in(chinese), chinese


def test_every_sentence_of_the_library_is_known() -> None:
    """Its format strings, read from its own file: a new version that says something new is noticed here."""
    held = Path(str(msgspec._core.__file__)).read_bytes()
    found = {
        text.decode().removesuffix("%U").rstrip()
        for text in re.findall(rb"[\x20-\x7e]{6,}", held)
        if text.endswith(b"%U") and b" " in text and b"MessagePack" not in text
    } - {" - at"}
    assert len(found) > 40
    filled = [
        re.sub(r"%R", "'v'", re.sub(r"%zd|%lld|%llu", "3", re.sub(r"%[sU]", "int", text))) for text in found
    ]
    unknown = [
        text for text in filled if isinstance(words_of(text.replace("`float` int 'v'", "`float` >= 3")), str)
    ]
    assert not unknown, unknown
    faults = {text.decode() for text in re.findall(rb"[\x20-\x7e]{6,}", held)}
    assert {fault.replace("}}", "}") for fault in FAULTS} <= faults


def test_every_template_is_in_the_catalogue() -> None:
    zh = json.loads(
        (Path(__file__).parents[2] / "src/fust/core/locales/zh/decode.json").read_text(encoding="utf-8")
    )
    assert set(SENTENCES) | set(FAULTS) | set(TOML_FAULTS) <= set(zh)


WRONG_TOML = [
    "a = ", "a 1", "= 1", "a = 1\na = 2", "[a]\n[a]", "[a", "[[a]", "a = 'x", "a = [1", "a = {b = 1", "a = {b = 1, b = 2}",
    "a = 1 2", "a = 2026-13-01", 'a = "\\q"', 'a = "\\uD800"', 'a = "\\uZZZZ"', 'a = "\x01"', "a = 1 # \x01", "a = {}\na.b = 1",
    "[a]\nb = 1\n[a.b.c]", "a = {x = 1}\n[a.y]", "[[a]]\n[a]", "a = nope", "a = 1\n[a.b]", "rows: 3", "é = 1",
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG_TOML)
def test_toml_that_cannot_be_read_is_told_in_both_languages(text: str) -> None:
    with pytest.raises(tomllib.TOMLDecodeError) as caught:
        tomllib.loads(text)
    words = words_of(caught.value)
    assert isinstance(words, Words) and str(words) == str(caught.value)
    chinese = re.sub(r"\('[^)]*\)", "", words.draw("zh"))
    assert re.search("[一-鿿]", chinese) and not english_in(chinese), chinese


def test_every_sentence_of_tomllib_is_known() -> None:
    """Its messages, read from its own source; where a value stands, anything may."""
    source = Path(tomllib.__file__).with_name("_parser.py").read_text(encoding="utf-8")
    raised = [
        call.args[2]
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "suffixed_err"
    ]
    said = {
        "".join(
            part.value if isinstance(part, ast.Constant) else "{}"
            for part in (it.values if isinstance(it, ast.JoinedStr) else [it])
        )
        for it in raised
    }
    assert len(said) > 15
    assert said <= {re.sub(r"{\w+}", "{}", fault) for fault in TOML_FAULTS}


def test_what_nobody_knows_stays_as_it_is() -> None:
    for said in ("Something else", "Expected", "Invalid - at `there`", "{0} %s"):
        assert words_of(msgspec.ValidationError(said)) == words_of(said) == said
    assert words_of(ValueError("the line is too long")) == "the line is too long"
    assert len(words_of("x" * 1000)) == 200  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "body", "chinese"),
    [
        (CompletionRequest, b'{"model": "m", "prompt": "a", "max_tokens": "5"}', "max_tokens 的值不被允许：应为 `int | null`，实际为 `str`。"),
        (ChatRequest, b'{"model": "m", "messages": []}', "messages 的值不被允许：应为长度 >= 1 的 `array`。"),
        (ChatRequest, b'{"model": "m", "messages": [{"role": "boss"}]}', "messages[0].role 的值不被允许：不在允许的值之中：'boss'。"),
        (ChatRequest, b'{"model": "m",}', "JSON 格式有误：对象末尾有多余的逗号（第 14 字节）。"),
        (ChatRequest, b'{"model": "\xff"}', "第 0 字节不是 UTF-8。"),
    ],
)  # fmt: skip
def test_a_request_is_refused_in_chinese(kind: Any, body: bytes, chinese: str) -> None:
    with pytest.raises(FustError) as caught:
        decode_request(msgspec.json.Decoder(kind), body)
    assert caught.value.message("zh").endswith(chinese), caught.value.message("zh")


def test_what_an_engine_says_of_a_field_is_in_chinese() -> None:
    fault = {"error": {"message": "Expected `array`, got `str` - at `$.tokens`", "code": 400}}
    refused = explain_fault(msgspec.json.encode(fault), 400, TARGET)
    assert refused.message("zh").endswith("：应为 `array`，实际为 `str`（位于 `$.tokens`）。")


def test_a_setting_is_refused_in_chinese(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_settings(tmp_path, flags={"serve.threads": "many"}, environ={})
    assert "（应为 `int`，实际为 `str`（位于 `$.threads`））" in caught.value.message("zh")
