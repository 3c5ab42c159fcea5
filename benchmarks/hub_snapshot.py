"""`snapshot_download` of 200 small files, from Fust and from a server that answers the same bytes out of memory.

The second one is what the client itself can reach: it knows no key, no repo and no disk. Both in turns, each download by
a process of its own into an empty folder; imports are not counted. `git clone` of the same repo stands beside them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from _common import Result, Server, free_port, fust_server, options, show

REPO = "admin/bench-small"
CLIENT = """
import sys, time
from huggingface_hub import snapshot_download
began = time.perf_counter()
folder = snapshot_download(sys.argv[1], cache_dir=sys.argv[2], endpoint=sys.argv[3], token=sys.argv[4])
print(time.perf_counter() - began)
"""
MEMORY = """
import asyncio, sys, urllib.request, urllib.error
import uvicorn
source, port = sys.argv[1], int(sys.argv[2])
base = f"http://127.0.0.1:{port}"
kept = {}

class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *a):
        return None

opener = urllib.request.build_opener(Stay)

def fetch(method, path, token):
    request = urllib.request.Request(source + path, method=method, headers={"authorization": token})
    try:
        answer = opener.open(request)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        body = answer.read().replace(source.encode(), base.encode())
        headers = [(k.lower().encode(), v.replace(source, base).encode("latin-1")) for k, v in answer.headers.items()
                   if k.lower() not in ("date", "server", "connection", "transfer-encoding", "content-length")]
        length = len(body) if method == "GET" else int(answer.headers.get("content-length") or 0)
        return answer.status, headers + [(b"content-length", b"%d" % length)], body

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    query = scope["query_string"].decode()
    path = scope["raw_path"].decode() + ("?" + query if query else "")
    key = (scope["method"], path)
    if key not in kept:
        token = dict(scope["headers"]).get(b"authorization", b"").decode()
        kept[key] = await asyncio.to_thread(fetch, *key, token)
    status, headers, body = kept[key]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

uvicorn.run(app, port=port, http="httptools", log_level="critical", lifespan="off", ws="none")
"""


@contextlib.contextmanager
def in_memory(server: Server) -> Iterator[str]:
    """Runs a server that asks Fust once for each URL and answers it from memory from then on."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", MEMORY, server.url, str(port)], stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def download_s(url: str, token: str) -> float:
    """Returns the seconds of one download into an empty folder."""
    with tempfile.TemporaryDirectory(prefix="fust-bench-hub-") as folder:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environ |= {"HF_HOME": folder, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-c", CLIENT, REPO, f"{folder}/hub", url, token]
        return float(subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout)


def clone_s(server: Server) -> float:
    """Returns the seconds of a `git clone`."""
    with tempfile.TemporaryDirectory(prefix="fust-bench-git-") as folder:
        url = server.url.replace("http://", f"http://bench:{server.token}@")
        began = time.perf_counter()
        subprocess.run(["git", "clone", "-q", f"{url}/{REPO}.git", f"{folder}/clone"], check=True)
        return time.perf_counter() - began


def main() -> int:
    """Measures and prints."""
    asked = options(__doc__ or "")
    rounds = 2 if asked.quick else 6
    with tempfile.TemporaryDirectory(prefix="fust-bench-files-") as folder, fust_server() as server:
        for number in range(200):
            Path(folder, f"file-{number:03d}.json").write_text(f'{{"number": {number}}}\n' * 40)
        command = [sys.executable, "-m", "fust.cli.main", "push", folder, REPO, "--private"]
        environ = {**os.environ, "FUST_HOME": str(server.home)}
        subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with in_memory(server) as memory:
            download_s(memory, server.token)  # fills it
            pairs = [
                (download_s(memory, server.token), download_s(server.url, server.token))
                for _ in range(rounds)
            ]
        clone = min(clone_s(server) for _ in range(rounds))
    peer, ours = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
    detail = {
        "files": 200,
        "memory_s": round(peer, 2),
        "fust_s": round(ours, 2),
        "git_clone_s": round(clone, 2),
        "times_git_clone": round(ours / clone, 1),
    }
    ratio = ours / peer
    return show(
        [Result("hub_snapshot", "an in-memory server's time", ratio, "<= 1.3", ratio <= 1.3, detail)],
        as_json=asked.json,
    )


if __name__ == "__main__":
    raise SystemExit(main())
