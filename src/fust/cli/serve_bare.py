"""What `fust serve` tells an engine that serves no file of the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fust.core.errors import InvalidInput

BARE = ("echo", "upstream")


def read_options(
    engine: str,
    misbehave: str,
    url: str,
    upstream_model: str,
    key_env: str,
    key_file: str,
    can: str,
    context: int,
) -> dict[str, Any]:
    """Returns the options of a deployment.

    Raises:
        InvalidInput: an option of another engine, or one that is missing.
    """
    if engine != "echo" and misbehave:
        raise _only("echo", "--misbehave")
    given = {
        "--url": url,
        "--model": upstream_model,
        "--key-env": key_env,
        "--key-file": key_file,
        "--can": can,
    }
    if engine != "upstream":
        for option, value in given.items():
            if value:
                raise _only("upstream", option)
    if engine == "echo":
        return {"misbehave": misbehave.split(",")} if misbehave else {}
    if engine != "upstream":
        return {}
    for option in ("--url", "--model"):
        if not given[option]:
            raise InvalidInput(
                "The engine upstream needs {option}.",
                hint="fust serve NAME --engine upstream --url https://api.example.org/v1 --model THEIRS --key-env NAME",
                option=option,
            )
    options: dict[str, Any] = {"url": url, "model": upstream_model, "key": _read_key(key_env, key_file)}
    if can:
        options["can"] = can.split(",")
    if context:
        options["context"] = context
    return options


def _only(engine: str, option: str) -> InvalidInput:
    return InvalidInput(
        "{option} goes with the engine {engine} only.",
        hint="Add --engine {engine}.",
        option=option,
        engine=engine,
    )


def _read_key(key_env: str, key_file: str) -> str:
    """Returns the key of a variable or a file: a key on the command line would stand in histories and process lists."""
    if key_env:
        key = os.environ.get(key_env, "").strip()
        if not key:
            raise InvalidInput("The variable {name} holds no key.", hint="export {name}=…", name=key_env)
        return key
    if not key_file:
        return ""
    try:
        return Path(key_file).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("{path} cannot be read: {error}.", path=key_file, error=error) from None
