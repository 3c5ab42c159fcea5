"""Four adapters with two streams each on one base: Fust beside the same wheel's own server, and what they take in memory.

The peer is llama.cpp's server out of the wheel, alone, started with the same flags and the same adapters; its clients choose
by `lora` as its documents say. Both are asked by the same clients in turns, from a process of their own.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _common import Result, Server, fust_server, options, show, tokens_per_s

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
import psutil
from gateway_overhead import deploy
from small_adapters import write_lora_gguf
from small_models import write_llama

MODEL = "admin/bench-120m"
SHAPE: dict[str, Any] = {"layers": 14, "width": 768, "feed_forward": 2048}
SLOTS, CONTEXT, ADAPTERS, STREAMS = 8, 1024, 4, 2
PROMPT = "ba be bi bo bu " * 8


def pss_bytes(pid: int) -> int:
    """Returns what a process takes, its share of shared pages counted."""
    return int(psutil.Process(pid).memory_full_info().pss)


@contextlib.contextmanager
def bare_server(model: Path, adapters: list[Path]) -> Iterator[tuple[str, int]]:
    """Starts the wheel's server as Fust's own child does; yields (URL, pid)."""
    config = {
        "path": str(model), "alias": "m", "lock": str(model) + ".lock", "api_key": "k", "context": CONTEXT, "slots": SLOTS,
        "threads": 1, "embed": False, "pooling": "none", "most_bytes": 0, "adapters": [str(p) for p in adapters],
    }  # fmt: skip
    import os

    process = subprocess.Popen(
        [sys.executable, "-m", "fust.serve.engines.llamacpp_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps({**config, "parent_pid": os.getpid()}).encode() + b"\n")
    process.stdin.flush()
    try:
        port = json.loads(process.stdout.readline())["port"]
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.stdin.close()
        process.wait(timeout=20)


def stream(url: str, token: str, body: dict[str, Any]) -> int:
    """Streams one completion; returns how many tokens came."""
    wish = {
        "prompt": PROMPT, "max_tokens": 48, "temperature": 0, "stream": True, "ignore_eos": True,
        "stream_options": {"include_usage": True}, **body,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps(wish).encode(),
        {"authorization": f"Bearer {token}", "content-type": "application/json"},
    )
    tokens = 0
    with urllib.request.urlopen(request, timeout=300) as answer:
        for line in answer:
            if line.startswith(b"data: {") and b'"usage":{' in line:
                tokens = json.loads(line[6:])["usage"]["completion_tokens"]
    return tokens


def pace(ask: Callable[[int], int], rounds: int) -> float:
    """Returns tokens per second of all streams together: `STREAMS` clients for each adapter, one request after another."""
    return tokens_per_s(ADAPTERS * STREAMS, lambda client: sum(ask(client % ADAPTERS) for _ in range(rounds)))


def call(server: Server, method: str, path: str, body: object = None) -> Any:
    """Sends a request to Fust."""
    request = urllib.request.Request(
        server.url + path,
        None if body is None else json.dumps(body).encode(),
        {"authorization": f"Bearer {server.token}", "content-type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def deployment(server: Server) -> dict[str, Any]:
    """Returns the one deployment."""
    return call(server, "GET", "/fust/v1/deployments")["items"][0]


def engine_pid(server: Server) -> int:
    """Returns the engine's process; waits until it is one."""
    while len(found := list((server.home / "engines").glob("*.json"))) != 1:
        time.sleep(0.1)
    return int(json.loads(found[0].read_text())["pid"])


def main() -> int:
    """Runs the benchmark."""
    given = options(__doc__.split("\n")[0])
    rounds, turns = (1, 2) if given.quick else (2, 4)
    with (
        tempfile.TemporaryDirectory() as folder,
        fust_server(serve__threads=1, serve__context=CONTEXT, serve__slots=SLOTS) as server,
    ):
        model = Path(folder) / "bench-120m.gguf"
        write_llama(model, heads=12, vocabulary=32_000, half=True, **SHAPE)
        files = [
            write_lora_gguf(Path(folder) / f"a{i}.gguf", rank=16, seed=i, strength=0.1, **SHAPE)
            for i in range(ADAPTERS)
        ]
        deploy(server, MODEL, model)
        stream(server.url, server.token, {"model": MODEL})
        alone_bytes = pss_bytes(engine_pid(server))
        for number, file in enumerate(files):
            deploy_adapter(server, number, file)
        while any(a["state"] != "ready" for a in deployment(server)["adapters"]):
            time.sleep(0.1)
        with bare_server(model, files) as (peer, _):
            chosen = [
                [{"id": i, "scale": float(i == one)} for i in range(ADAPTERS)] for one in range(ADAPTERS)
            ]

            def ours(adapter: int) -> int:
                return stream(server.url, server.token, {"model": f"{MODEL}:a{adapter}"})

            def theirs(adapter: int) -> int:
                return stream(peer, "k", {"model": "m", "lora": chosen[adapter]})

            pace(ours, 1), pace(theirs, 1)
            paces = [(pace(ours, rounds), pace(theirs, rounds)) for _ in range(turns)]
        beside_bytes = pss_bytes(engine_pid(server))
        size_bytes = sum(file.stat().st_size for file in files)
    best = (max(one for one, _ in paces), max(other for _, other in paces))
    ratio = best[0] / best[1]
    memory = beside_bytes / (alone_bytes + size_bytes)
    detail = {"tokens_per_s": round(best[0], 1), "peer_tokens_per_s": round(best[1], 1)}
    taken = {"mb": beside_bytes // 10**6, "base_mb": alone_bytes // 10**6, "adapters_mb": size_bytes // 10**6}
    results = [
        Result("adapters", "the wheel's own server", round(ratio, 3), "at least 0.9", ratio >= 0.9, detail),
        Result("adapters_memory", "base and adapters", round(memory, 3), "at most 1.1", memory <= 1.1, taken),
    ]
    return show(results, as_json=given.json)


def deploy_adapter(server: Server, number: int, file: Path) -> None:
    """Puts an adapter into the hub and beside the model."""
    from huggingface_hub import HfApi

    api = HfApi(server.url, token=server.token)
    repo_id = f"admin/a{number}"
    api.create_repo(repo_id)
    api.upload_file(path_or_fileobj=file, path_in_repo=file.name, repo_id=repo_id)
    call(server, "POST", f"/fust/v1/deployments/{deployment(server)['id']}/adapters", {"repo_id": repo_id})


if __name__ == "__main__":
    sys.exit(main())
