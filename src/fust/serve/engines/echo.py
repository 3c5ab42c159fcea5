"""The echo engine: answers that follow from the request, and misbehaviour on demand, for people who test clients."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from fust.core.errors import InvalidInput
from fust.core.settings import ServeSettings
from fust.serve.engines.bare import Wish, no_shape, read_options
from fust.serve.engines.base import Engine, EngineSpec, Mode
from fust.serve.engines.child_engine import ChildEngine
from fust.serve.engines.echo_words import EMBEDDING
from fust.serve.facts import ModelFacts
from fust.serve.notes import note
from fust.serve.plan import Plan

CLAIMS: Mapping[Mode, frozenset[str]] = {
    "generate": frozenset(
        {"chat", "completions", "logprobs", "json_schema", "tools", "template_tools", "embeddings", "rerank"}
    ),
}
PROCESSES: Mapping[Mode, Mode] = {"generate": "generate", "embed": "generate"}

MISBEHAVIOUR: Mapping[str, str] = {
    "ok": "answers well",
    "slow": "waits before the first token (5 s)",
    "stall": "stops in the middle for a while (30 s), then goes on",
    "cut": "closes the connection in the middle",
    "garbage": "sends bytes that are no answer",
    "500": "fails with an error of its own",
    "429": "has too much to do: try again later (1 s)",
    "type": "sends a page of HTML",
    "huge": "answers with 4 MiB of text",
    "utf8": "splits characters between packets and sends bytes that are no text",
    "endless": "never comes to an end",
    "die": "ends its process in the middle",
    "hang": "stops answering anything, its health check too",
}
"""What `--misbehave` takes, and what the engine does then; `NAME:SECONDS` sets the time where there is one."""
TIMES_S: Mapping[str, float] = {"slow": 5.0, "stall": 30.0, "429": 1.0}
_MEMORY_BYTES = 70_000_000  # interpreter and HTTP server, measured


class EchoOptions(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """How it is to behave: one after the other, request by request, from the beginning again at the end."""

    misbehave: list[str] = []


class Turn(msgspec.Struct, frozen=True):
    """What happens to one request."""

    name: str
    seconds: float = 0.0


def read_turns(words: list[str]) -> list[Turn]:
    """Returns the turns of a list such as `["slow:0.5", "ok"]`.

    Raises:
        InvalidInput: a word that is none of `MISBEHAVIOUR`, or a time where none is taken.
    """
    turns: list[Turn] = []
    for word in words:
        name, colon, number = word.partition(":")
        try:
            seconds = float(number) if colon else TIMES_S.get(name, 0.0)
        except ValueError:
            seconds = -1.0
        if name not in MISBEHAVIOUR or (colon and name not in TIMES_S) or not 0 <= seconds <= 3600:
            raise InvalidInput(
                "{word!r} is no misbehaviour.",
                hint="There are: {names}; {timed} take seconds, as in `slow:0.5`.",
                word=word[:100],
                names=", ".join(MISBEHAVIOUR),
                timed=", ".join(TIMES_S),
                param="options.misbehave",
            )
        turns.append(Turn(name, seconds))
    return turns


def read_wish(given: object) -> Wish:
    """Returns the options of a new deployment, checked."""
    options = read_options("echo", given, EchoOptions)
    read_turns(options.misbehave)
    return Wish(msgspec.json.encode(options))


def facts_of(options: bytes) -> ModelFacts:
    """Returns the shape of a model that is none."""
    return no_shape("echo", embedding=EMBEDDING)


def plan_of(options: bytes, settings: ServeSettings) -> Plan:
    """Returns how it is started."""
    misbehave = msgspec.json.decode(options, type=EchoOptions).misbehave
    why = (
        note("It repeats what it is told; no model answers."),
        *([note("It misbehaves: {modes}.", modes=", ".join(misbehave))] if misbehave else []),
    )
    return Plan("generate", settings.context, settings.slots, 1, "", _MEMORY_BYTES, why)


def make(spec: EngineSpec, home: Path) -> Engine:
    """Returns an engine that was not started."""
    return ChildEngine(spec, home, "fust.serve.engines.echo_child", CLAIMS["generate"])
