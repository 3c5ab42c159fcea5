"""What is asked of a tuning: read, and checked for what cannot be, before anything is computed or queued."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any, cast, get_args

import msgspec

from fust.core.decode_words import words_of
from fust.core.errors import InvalidInput, NotOffered
from fust.core.extras import install_command, list_missing
from fust.formats.ggml_types import FileType, check_file_type
from fust.tune.budget import parse_budget
from fust.tune.recipe import Method, Precision, Wish, rank_of
from fust.tune.shape import Family, ModelWish


def read_wish(params: dict[str, Any]) -> Wish:
    """Returns what was asked.

    Raises:
        InvalidInput: a field that there is not, or a value that does not fit.

    """
    wish = as_wish({key: value for key, value in params.items() if key != "memory_bytes"})
    check_wish(wish)
    return wish


def as_wish(params: dict[str, Any]) -> Wish:
    """Returns params as a wish, whose values are not compared with each other yet.

    Raises:
        InvalidInput: a field that there is not, or a value of another type; names it.

    """
    _check_names(params, Wish, "")
    table = params.get("model")
    if isinstance(table, dict):
        _check_names(cast("dict[str, Any]", table), ModelWish, "model.")
    try:
        return msgspec.convert(params, Wish)
    except msgspec.ValidationError as error:
        raise _explained(params, str(error)) from None


def _check_names(params: dict[str, Any], kind: type[msgspec.Struct], table: str) -> None:
    for name in params:
        if name not in kind.__struct_fields__:
            raise InvalidInput(
                "A tuning has no field {name!r}.",
                hint="It has: {names}.",
                name=table + name[:50],
                names=", ".join(table + known for known in kind.__struct_fields__),
            )


def _explained(params: dict[str, Any], error: str) -> InvalidInput:
    """Returns what msgspec found as an error that names the field, its value and what it takes."""
    place = re.search(r"at `\$\.([\w.]+)", error)
    expected = re.search(r"Expected `(\w+)", error)
    name, kind = place[1] if place else "", expected[1] if expected else ""
    value: Any = params
    for part in name.split("."):
        value = cast("dict[str, Any]", value).get(part) if isinstance(value, dict) else value
    said = str(value)[:50]
    choices = _choices_of(name)
    if choices:
        return InvalidInput(
            "{name} is {value!r}, and takes one of: {choices}.", name=name, value=said, choices=choices
        )
    if kind == "int":
        return InvalidInput("{name} is {value!r}, and takes a whole number.", name=name, value=said)
    if kind == "float":
        return InvalidInput("{name} is {value!r}, and takes a number.", name=name, value=said)
    if kind == "bool":
        return InvalidInput("{name} is {value!r}, and takes true or false.", name=name, value=said)
    if kind == "str":
        return InvalidInput(
            "{name} is {value!r}, and takes a text in quotation marks.", name=name, value=said
        )
    return InvalidInput("The params of the tuning are not valid: {reason}.", reason=words_of(error))


def _choices_of(name: str) -> str:
    """Returns the words that a field takes, where it takes no others."""
    words = {"method": Method, "precision": Precision, "gguf": FileType, "model.family": Family}
    return ", ".join(get_args(words[name])) if name in words else ""


def check_wish(wish: Wish) -> None:
    """Raises InvalidInput when values do not fit the method or each other."""
    if wish.method == "pretrain" and wish.base:
        raise InvalidInput(
            "pretrain begins from nothing and takes no base, and {base} was named.",
            hint="Leave BASE out; to go on with {base} on documents, use --method continue.",
            base=wish.base,
        )
    if wish.method != "pretrain" and not wish.base:
        raise InvalidInput(
            "{method} needs a base model.",
            hint="Name one: fust tune OWNER/NAME …; without a base only --method pretrain works.",
            method=wish.method,
        )
    if wish.method != "pretrain" and wish.model != ModelWish():
        raise InvalidInput("The table `model` belongs to pretrain; {base} has its shape.", base=wish.base)
    parse_budget(wish.budget)
    if wish.steps is not None and wish.steps < 1:
        raise InvalidInput("steps is {value}, and begins at 1.", value=wish.steps)
    if wish.epochs is not None and not 0 < wish.epochs <= 1000:
        raise InvalidInput("epochs is {value}, and goes from 0 to 1000.", value=wish.epochs)
    if wish.beta is not None and (wish.method != "dpo" or not 0 < wish.beta <= 10):
        raise InvalidInput("beta is {value}; it belongs to dpo, and goes from 0 to 10.", value=wish.beta)
    if rank_of(wish) == 0 and wish.merge:
        raise InvalidInput("All weights are trained: there is no adapter to merge.", hint="Leave merge out.")
    for file_type in wish.gguf:
        check_file_type(file_type)
    if wish.compile:
        check_compiler()


def check_compiler() -> None:
    """Raises NotOffered when there is nothing to compile layers with: torch asks for the same compiler and headers."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    missing = [] if shutil.which(compiler) else [compiler]
    missing += [] if header.exists() else [str(header)]
    if missing:
        raise NotOffered(
            "compile needs a C++ compiler and the headers of Python, and {missing} is not here.",
            hint="Install them (on Debian: apt install g++ python3-dev), or leave compile out.",
            missing=", ".join(missing),
        )


def check_installed() -> None:
    """Raises NotOffered when the packages for tuning are not here."""
    if missing := list_missing(("torch", "transformers", "peft")):
        raise NotOffered(
            "Tuning needs {packages}, which is not installed.",
            hint="Install it: {command}",
            command=install_command("tune"),
            packages=missing,
        )
