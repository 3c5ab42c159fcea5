"""Tokens a second through Fust and from the engine's own server by itself: one, four and sixteen streams, prompts, a cold start.

The peer is llama.cpp's server out of the wheel, started with the same flags and asked by the same clients, in turns with Fust.
With `--llama-server PATH` both use that binary instead, and the wheel's server is measured beside them. Weights are random:
120 million in 16 bits.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from _common import Result, Server, fust_server, options, path_given, show, tokens_per_s

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from gateway_overhead import call, deploy
from small_models import write_llama

from fust.core.ids import new_id
from fust.core.settings import ServeSettings
from fust.serve.engines.base import EngineSpec
from fust.serve.engines.llamacpp import LlamaCppEngine
from fust.serve.engines.native import WHEEL

MODEL = "admin/bench-120m"
STREAMS = (1, 4, 16)
CONTEXT, PROMPT_TOKENS = 512, 384
THREADS = 1


@dataclass(frozen=True)
class Place:
    """Who answers: Fust, or an engine by itself."""

    url: str
    key: str
    model: str

    def ask(self, prompt: list[int], tokens: int) -> tuple[float, int]:
        """Streams one completion; returns the seconds to its first token and the number of its tokens."""
        wish = {
            "model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True,
            "stream_options": {"include_usage": True}, "cache_prompt": False,
        }  # fmt: skip
        request = urllib.request.Request(
            f"{self.url}/v1/completions",
            json.dumps(wish).encode(),
            {"authorization": f"Bearer {self.key}", "content-type": "application/json"},
        )
        began, first, written = time.perf_counter(), 0.0, 0
        with urllib.request.urlopen(request, timeout=600) as answer:
            for line in answer:
                if not line.startswith(b"data: {"):
                    continue
                first = first or time.perf_counter() - began
                if b'"usage":{' in line:
                    written = json.loads(line[6:])["usage"]["completion_tokens"]
        assert written == tokens, (written, tokens)
        return first, written


def prompt_of(seed: int, tokens: int) -> list[int]:
    """Returns a prompt that shares no beginning with another's."""
    return [400 + (seed * 7919 + i * 31) % 30_000 for i in range(tokens)]


def pace(place: Place, streams: int, tokens: int, seed: int) -> float:
    """Returns the tokens that all streams write in a second."""
    return tokens_per_s(streams, lambda client: place.ask(prompt_of(seed * 100 + client, 16), tokens)[1])


def prefill(place: Place, _: int, __: int, seed: int) -> float:
    """Returns the tokens of a prompt that are read in a second, the first token of the answer counted in."""
    seconds, _tokens = place.ask(prompt_of(seed, PROMPT_TOKENS), 1)
    return PROMPT_TOKENS / seconds


def compare(
    places: list[Place], how: Callable[[Place, int, int, int], float], streams: int, tokens: int, turns: int
) -> list[float]:
    """Returns each place's best figure of some turns, taken one after another; the first of each does not count."""
    best = [0.0] * len(places)
    for turn in range(turns + 1):
        for index, place in enumerate(places):
            figure = how(place, streams, tokens if turn else 2, turn * 10 + index)
            best[index] = max(best[index], figure) if turn else 0.0
    return best


@contextlib.contextmanager
def engine(model: Path, folder: Path, server: str, slots: int) -> Iterator[Place]:
    """Starts an engine's own server by itself."""
    spec = EngineSpec(
        new_id("e"),
        model,
        "bench",
        "generate",
        CONTEXT,
        slots,
        THREADS,
        settings=ServeSettings(llama_server=server),
        log_name=new_id("l"),
    )
    made = LlamaCppEngine(spec, folder)
    info = made.start(120, lambda _, reason: sys.exit(reason))
    try:
        yield Place(info.base_url, info.api_key, "bench")
    finally:
        made.stop()


def cold(server: Server, model: Path, folder: Path, binary: str, turns: int) -> Result:
    """Returns how long an unloaded model takes to its first token, beside the engine's own server from its start."""
    ours, theirs = [], []
    place = Place(server.url, server.token, MODEL)
    deployed = call(server, "GET", "/fust/v1/deployments")["items"][0]["id"]
    call(server, "PATCH", f"/fust/v1/deployments/{deployed}", {"pinned": False})
    for turn in range(turns):
        call(server, "POST", f"/fust/v1/deployments/{deployed}/unload")
        ours.append(place.ask(prompt_of(turn, 8), 1)[0])
        began = time.perf_counter()
        with engine(model, folder, binary, max(STREAMS)) as peer:
            peer.ask(prompt_of(turn, 8), 1)
            theirs.append(time.perf_counter() - began)
    mine, other = statistics.median(ours), statistics.median(theirs)
    detail = {"fust_s": round(mine, 3), "peer_s": round(other, 3), "starts": turns}
    return Result(
        "serving_cold",
        "the engine's own server",
        round(mine / other, 3),
        "at most 1.2",
        mine / other <= 1.2,
        detail,
    )


def measure(quick: bool, binary: str) -> list[Result]:
    """Returns all promises."""
    turns, tokens = (1, 16) if quick else (4, 64)
    least = 0.95 if binary else 0.97
    results: list[Result] = []
    with (
        tempfile.TemporaryDirectory(prefix="fust-bench-") as name,
        fust_server(
            serve__slots=max(STREAMS), serve__context=CONTEXT, serve__threads=THREADS, serve__llama_server=binary or WHEEL
        ) as server,
    ):  # fmt: skip
        folder = Path(name)
        model = folder / "bench-120m.gguf"
        write_llama(model, layers=14, width=768, heads=12, feed_forward=2048, vocabulary=32_000, half=True)
        deploy(server, MODEL, model)
        with contextlib.ExitStack() as stack:
            places = [Place(server.url, server.token, MODEL)]
            places.append(stack.enter_context(engine(model, folder, binary or WHEEL, max(STREAMS))))
            if binary:
                places.append(stack.enter_context(engine(model, folder, WHEEL, max(STREAMS))))
            for what, how, streams in [
                *((f"serving_{n}_streams", pace, n) for n in STREAMS),
                ("serving_prefill", prefill, 1),
            ]:
                figures = compare(places, how, streams, tokens, turns)
                results += judged(what, figures, least)
        results.append(cold(server, model, folder, binary or WHEEL, 2 if quick else 5))
    return results


def judged(what: str, figures: list[float], least: float) -> list[Result]:
    """Returns a promise beside the engine's own server and, with a binary, beside the wheel's."""
    ratio = figures[0] / figures[1]
    detail = {"tokens_per_s": round(figures[0], 1), "peer_tokens_per_s": round(figures[1], 1)}
    found = [
        Result(what, "the engine's own server", round(ratio, 3), f"at least {least}", ratio >= least, detail)
    ]
    if len(figures) > 2:
        gain = figures[0] / figures[2]
        beside = {"tokens_per_s": round(figures[0], 1), "wheel_tokens_per_s": round(figures[2], 1)}
        found.append(
            Result(
                what + "_native",
                "the wheel's server",
                round(gain, 3),
                "at least 1.3 of the plain wheel",
                gain >= 1.3,
                beside,
            )
        )
    return found


if __name__ == "__main__":
    binary = path_given("--llama-server")
    asked = options(__doc__.split("\n")[0] + " [--llama-server PATH]")
    raise SystemExit(show(measure(asked.quick, binary), as_json=asked.json))
