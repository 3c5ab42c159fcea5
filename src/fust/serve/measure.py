"""How fast a llama.cpp server answers: the same prompts to each in turns, the best of some rounds."""

from __future__ import annotations

import random
import tempfile
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import msgspec

from fust.core.ids import new_id
from fust.core.machine import physical_cores
from fust.core.settings import ServeSettings
from fust.serve.engines.base import Engine, EngineSpec
from fust.serve.engines.llamacpp import LlamaCppEngine
from fust.serve.engines.native import WHEEL, Speed

_PROMPT, _WRITTEN = 256, 32
_ROUNDS = 4
_LEAST_S = 3.0
"""A small model has so many more rounds: one of 50 ms tells of what else runs, not of the server."""
_ASK_S = 300.0


def measure(model: Path, servers: list[str], threads: int = 0) -> list[Speed]:
    """Returns the speed of each server with a model, in turns, the best of four rounds or more.

    Args:
        model: a GGUF file.
        servers: paths of `llama-server`; empty for the wheel's.
        threads: of each; 0: the physical cores.

    Raises:
        EngineLoadFailed: one of them cannot serve it.
    """
    spec = EngineSpec("", model, "measured", "generate", 1024, 1, threads or physical_cores())
    best = [Speed(1e-9, 1e-9) for _ in servers]
    with tempfile.TemporaryDirectory(prefix="fust-measure-") as folder:
        engines = [
            LlamaCppEngine(
                replace(
                    spec,
                    engine_id=new_id("e"),
                    log_name=f"engine-{i}",
                    settings=ServeSettings(llama_server=server or WHEEL),
                ),
                Path(folder),
            )
            for i, server in enumerate(servers)
        ]
        try:
            infos = [engine.start(120.0, _gone) for engine in engines]
            chance = random.Random(0)
            began, rounds = time.monotonic(), 0
            while rounds < _ROUNDS or time.monotonic() - began < _LEAST_S:
                rounds += 1
                prompt = [chance.randrange(3, 250) for _ in range(_PROMPT)]
                for index, info in enumerate(infos):
                    speed = ask(info.base_url, info.api_key, prompt)
                    best[index] = Speed(
                        max(best[index].prompt, speed.prompt), max(best[index].decode, speed.decode)
                    )
        finally:
            for engine in engines:
                engine.stop()
    return best


def _gone(engine: Engine, reason: str) -> None:
    """What comes of it is told by the request that fails."""


class _Timings(msgspec.Struct):
    prompt_per_second: float
    predicted_per_second: float


class _Timed(msgspec.Struct):
    timings: _Timings


def ask(base_url: str, api_key: str, prompt: list[int]) -> Speed:
    """Returns the speed of one request, as the server itself measures it."""
    body = {
        "prompt": prompt,
        "n_predict": _WRITTEN,
        "cache_prompt": False,
        "ignore_eos": True,
        "temperature": 0,
    }
    request = urllib.request.Request(base_url + "/completion", msgspec.json.encode(body))
    request.add_header("Content-Type", "application/json")
    request.add_header("Authorization", f"Bearer {api_key}")
    with urllib.request.urlopen(request, timeout=_ASK_S) as answer:
        found = msgspec.json.decode(answer.read(), type=_Timed).timings
    return Speed(found.prompt_per_second, found.predicted_per_second)
