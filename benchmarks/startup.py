"""Start and idle memory of `fust up`, beside the smallest Litestar application on the same server (uvicorn).

The peer is the floor of the parts that Fust is built from: what Fust adds for hub, API, jobs and page is the ratio.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
from _common import Result, free_port, fust_server, options, show

BARE = """
import sys
import uvicorn
from litestar import Litestar, get

@get("/healthz")
async def health() -> str:
    return "ok"

uvicorn.run(Litestar([health]), port=int(sys.argv[1]), log_level="critical", http="httptools")
"""


def pss_mb(pid: int) -> float:
    """Returns the proportional memory of a process and its children, in MB (1e6 bytes)."""
    process = psutil.Process(pid)
    return sum(p.memory_full_info().pss for p in [process, *process.children(recursive=True)]) / 1e6


def bare_server() -> tuple[float, float]:
    """Returns (seconds until ready, PSS in MB) of the peer."""
    port = free_port()
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", BARE, str(port)])
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1).read()
                break
            except OSError:
                time.sleep(0.01)
        ready_s = time.perf_counter() - started
        time.sleep(1)
        return ready_s, pss_mb(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=10)


def first_token_s() -> float:
    """Returns the seconds from the command to the first token of the starter model, on an empty home."""
    started = time.perf_counter()
    body = {"model": "starter", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1}
    with fust_server(serve__starter="true") as server:
        while time.perf_counter() - started < 60:
            request = urllib.request.Request(
                f"{server.url}/v1/chat/completions",
                data=json.dumps(body).encode(),
                headers={"authorization": f"Bearer {server.token}", "content-type": "application/json"},
            )
            try:
                urllib.request.urlopen(request, timeout=30).read()
                break
            except urllib.error.HTTPError as error:
                error.close()
                time.sleep(0.05)
        return time.perf_counter() - started


def measure(rounds: int) -> list[Result]:
    """Returns the promises: ready within 3 s, first token within 5 s, idle under 150 MB."""
    ready: list[float] = []
    memory: list[float] = []
    bare: list[tuple[float, float]] = []
    for _ in range(rounds):
        bare.append(bare_server())
        with fust_server() as server:
            ready.append(server.ready_s)
            time.sleep(2)
            memory.append(pss_mb(server.pid))
    token_s = min(first_token_s() for _ in range(rounds))
    peer_ready, peer_memory = min(b[0] for b in bare), min(b[1] for b in bare)
    peer = "a bare Litestar on uvicorn"
    return [
        Result(
            "startup_ready",
            peer,
            round(min(ready) / peer_ready, 2),
            "ready in under 3 s",
            min(ready) < 3,
            {"fust_s": round(min(ready), 2), "peer_s": round(peer_ready, 2)},
        ),
        Result(
            "startup_first_token",
            peer,
            round(token_s / peer_ready, 2),
            "first token in under 5 s",
            token_s < 5,
            {"fust_s": round(token_s, 2), "peer_ready_s": round(peer_ready, 2)},
        ),
        Result(
            "startup_memory",
            peer,
            round(min(memory) / peer_memory, 2),
            "PSS under 150 MB",
            max(memory) < 150,
            {"fust_mb": round(max(memory)), "peer_mb": round(peer_memory)},
        ),
    ]


if __name__ == "__main__":
    asked = options(__doc__ or "")
    raise SystemExit(show(measure(1 if asked.quick else 3), as_json=asked.json))
