"""What the gateway adds to an engine: latency of a whole answer, CPU of a streamed token.

The peer is the same engine (llama.cpp's own server, same file, same settings), asked directly, in turns with Fust. Weights are
random: 15 million for streams, so that tokens come one by one as they do from real models; 100 thousand for latency, so
that the engine's own noise does not hide what is added.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from _common import Result, Server, fust_server, options, show

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from small_models import write_llama

from fust.serve.engines.base import EngineSpec
from fust.serve.engines.llamacpp import LlamaCppEngine

STREAM_MODEL = "admin/bench-15m"
QUICK_MODEL = "admin/bench-100k"
STREAMS = 16
MESSAGES = [{"role": "user", "content": "ba be bi bo bu " * 5}]


def call(server: Server, method: str, path: str, body: object = None) -> dict:
    """Sends one request to the Fust surface."""
    request = urllib.request.Request(
        server.url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {server.token}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def deploy(server: Server, name: str, file: Path, engine: str = "") -> None:
    """Pushes the model (a file or a folder) as any user would, and waits until it is served."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=server.url, token=server.token)
    api.create_repo(name, exist_ok=True)
    if file.is_dir():
        api.upload_folder(folder_path=file, repo_id=name)
    else:
        api.upload_file(path_or_fileobj=str(file), path_in_repo=file.name, repo_id=name)
    made = call(
        server, "POST", "/fust/v1/deployments", {"repo_id": name, "pin": True, "engine": engine or None}
    )
    while made["state"] == "loading":
        time.sleep(0.05)
        made = call(server, "GET", f"/fust/v1/deployments/{made['id']}")
    assert made["state"] == "ready", made


class Asker:
    """Asks for one-token answers over one kept connection."""

    def __init__(self, url: str, key: str, model: str) -> None:
        parts = urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        self.headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self.body = json.dumps({"model": model, "messages": MESSAGES, "max_tokens": 1, "temperature": 0})

    def ask(self) -> float:
        """Returns the seconds of one answer."""
        started = time.perf_counter()
        for attempt in (1, 2):
            try:
                self.connection.request("POST", "/v1/chat/completions", self.body, self.headers)
                answer = self.connection.getresponse()
                answer.read()
                break
            except (http.client.HTTPException, ConnectionError):
                # cpp-httplib ends a connection after 100 requests; the time of the new one does not count
                self.connection.close()
                started = time.perf_counter()
                assert attempt == 1
        assert answer.status == 200
        return time.perf_counter() - started


def latency(ours: Asker, theirs: Asker, rounds: int) -> Result:
    """Returns the median of what a non-streamed chat takes longer through Fust."""
    for asker in (ours, theirs):
        for _ in range(20):
            asker.ask()
    fust, direct = [], []
    for _ in range(rounds):
        fust.append(ours.ask())
        direct.append(theirs.ask())
    added_ms = (statistics.median(fust) - statistics.median(direct)) * 1000
    return Result(
        "gateway_overhead_latency",
        "llama.cpp's own server",
        round(statistics.median(fust) / statistics.median(direct), 3),
        "adds at most 1 ms (median)",
        added_ms <= 1.0,
        {
            "added_ms": round(added_ms, 3),
            "fust_ms": round(statistics.median(fust) * 1000, 3),
            "peer_ms": round(statistics.median(direct) * 1000, 3),
            "requests": rounds,
        },
    )


async def stream(url: str, key: str, model: str, tokens: int) -> int:
    """Reads one stream to its end; returns the number of token events."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    body = json.dumps(
        {
            "model": model,
            "messages": MESSAGES,
            "max_tokens": tokens,
            "stream": True,
            "ignore_eos": True,
            "seed": 1,
        }
    )
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
    )
    events = 0
    while data := await reader.read(65536):
        events += data.count(b'"delta":{"content"')
    writer.close()
    return events


async def streams(url: str, key: str, model: str, tokens: int) -> tuple[int, float]:
    """Returns tokens and seconds of 16 streams at once."""
    started = time.perf_counter()
    counts = await asyncio.gather(*(stream(url, key, model, tokens) for _ in range(STREAMS)))
    return sum(counts), time.perf_counter() - started


def cpu_s(pid: int) -> float:
    """Returns the CPU seconds of one process, its children not counted."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def per_token(server: Server, engine: tuple[str, str], tokens: int) -> Result:
    """Returns the CPU that the server's process spends for a token at 16 streams."""
    asyncio.run(streams(server.url, server.token, STREAM_MODEL, 8))
    before = cpu_s(server.pid)
    count, seconds = asyncio.run(streams(server.url, server.token, STREAM_MODEL, tokens))
    spent = cpu_s(server.pid) - before
    peer_count, peer_seconds = asyncio.run(streams(engine[0], engine[1], "bench", tokens))
    micro = spent / count * 1e6
    rate, peer_rate = count / seconds, peer_count / peer_seconds
    return Result(
        "gateway_overhead_stream",
        "llama.cpp's own server",
        round(rate / peer_rate, 3),
        "at most 150 µs CPU per token at 16 streams",
        micro <= 150,
        {
            "cpu_us_per_token": round(micro, 1),
            "tokens": count,
            "fust_tokens_per_s": round(rate),
            "peer_tokens_per_s": round(peer_rate),
        },
    )


@contextlib.contextmanager
def own_engine(file: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Starts the engine's own server by itself; gives its URL and key."""
    spec = EngineSpec(file.stem, file, "bench", "generate", context=512, slots=STREAMS, threads=1)
    engine = LlamaCppEngine(spec, folder)
    info = engine.start(60, lambda _, reason: sys.exit(reason))
    try:
        yield info.base_url, info.api_key
    finally:
        engine.stop()


def measure(quick: bool) -> list[Result]:
    """Returns both promises."""
    with tempfile.TemporaryDirectory(prefix="fust-bench-") as name:
        folder = Path(name)
        shape = {"layers": 6, "width": 288, "heads": 6, "feed_forward": 768, "vocabulary": 32000}
        large = write_llama(folder / "bench-15m.gguf", half=True, context=512, **shape)
        small = write_llama(folder / "bench-100k.gguf", context=512)
        results: list[Result] = []
        with fust_server(serve__slots=STREAMS, serve__context=512, serve__threads=1) as server:
            deploy(server, QUICK_MODEL, small)
            with own_engine(small, folder) as (url, key):
                ours = Asker(server.url, server.token, QUICK_MODEL)
                results.append(latency(ours, Asker(url, key, "bench"), 100 if quick else 500))
            deploy(server, STREAM_MODEL, large)
            with own_engine(large, folder) as engine:
                results.append(per_token(server, engine, 32 if quick else 128))
        return results


if __name__ == "__main__":
    asked = options(__doc__ or "")
    raise SystemExit(show(measure(asked.quick), as_json=asked.json))
