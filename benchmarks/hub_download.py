"""Downloads from the hub beside nginx with sendfile, same bytes, same machine, in turns.

One large whole blob by curl to /dev/null (best of some rounds), and 64 KiB ranges of it by `ab` with kept
connections. nginx checks no key and knows no repo; Fust does both.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from _common import Result, Server, free_port, fust_server, options, show

REPO = "admin/bench-download"
FILE = "weights.bin"
RANGE_BYTES = 64 * 2**10


def call(server: Server, method: str, path: str, body: bytes, kind: str = "application/json") -> dict:
    """Sends one request to the hub surface."""
    request = urllib.request.Request(
        server.url + path,
        method=method,
        data=body,
        headers={"authorization": f"Bearer {server.token}", "content-type": kind},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read() or b"{}")


def upload(server: Server, path: Path) -> None:
    """Brings a file as a whole blob, as git-lfs does."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(2**22):
            digest.update(piece)
    oid, size = digest.hexdigest(), path.stat().st_size
    call(server, "POST", "/api/repos/create", json.dumps({"name": REPO, "visibility": "private"}).encode())
    asked = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": oid, "size": size}]}
    batch = call(server, "POST", f"/{REPO}.git/info/lfs/objects/batch", json.dumps(asked).encode())
    href = urlsplit(batch["objects"][0]["actions"]["upload"]["href"])
    connection = http.client.HTTPConnection(href.hostname or "", href.port, timeout=300, blocksize=2**20)
    with open(path, "rb") as file:
        connection.request(
            "PUT", f"{href.path}?{href.query}", body=file, headers={"content-length": str(size)}
        )
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
    lines = [
        {"key": "header", "value": {"summary": "bench"}},
        {"key": "lfsFile", "value": {"path": FILE, "algo": "sha256", "oid": oid, "size": size}},
    ]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    call(server, "POST", f"/api/models/{REPO}/commit/main", body, "application/x-ndjson")


@contextlib.contextmanager
def nginx(root: Path) -> Iterator[str]:
    """Runs nginx with sendfile on a folder; yields its URL."""
    port = free_port()
    config = root / "nginx.conf"
    config.write_text(
        f"""
daemon off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/error.log; user root;
events {{ worker_connections 256; }}
http {{ access_log off; sendfile on; keepalive_requests 1000000; default_type application/octet-stream;
  server {{ listen 127.0.0.1:{port}; root {root}; }} }}
"""
    )
    process = subprocess.Popen(
        [shutil.which("nginx") or "/usr/sbin/nginx", "-p", str(root), "-c", str(config)]
    )
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/nginx.conf"):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=10)


BARE = """
import os, sys, uvicorn
path, port = sys.argv[1], int(sys.argv[2])
descriptor = os.open(path, os.O_RDONLY)
headers = [(b"content-length", b"%d" % SIZE), (b"content-range", b"bytes 0-0/1")]
async def app(scope, receive, send):
    if scope["type"] == "http":
        data = os.pread(descriptor, SIZE, 2**20)
        await send({"type": "http.response.start", "status": 206, "headers": headers})
        await send({"type": "http.response.body", "body": data})
uvicorn.run(app, port=port, http="httptools", log_level="critical", lifespan="off", ws="none")
""".replace("SIZE", str(RANGE_BYTES))


@contextlib.contextmanager
def bare_asgi(path: Path) -> Iterator[str]:
    """Runs the same HTTP server with an app that does nothing but read: the most that Python can reach here."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", BARE, str(path), str(port)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/"):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        process.wait()


def curl_s(url: str, token: str) -> float:
    """Returns the seconds that curl takes for the whole file."""
    command = [
        "curl",
        "-s",
        "-f",
        "-o",
        "/dev/null",
        "-w",
        "%{time_total}",
        "-H",
        f"Authorization: Bearer {token}",
        url,
    ]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def ab_per_s(url: str, token: str, connections: int, requests: int) -> float:
    """Returns ranges answered per second."""
    command = ["ab", "-q", "-k", "-c", str(connections), "-n", str(requests)]
    command += [
        "-H",
        f"Range: bytes={2**20}-{2**20 + RANGE_BYTES - 1}",
        "-H",
        f"Authorization: Bearer {token}",
        url,
    ]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.search(r"Failed requests:\s+0\n", printed) and "Non-2xx" not in printed, printed
    assert re.search(rf"HTML transferred:\s+{RANGE_BYTES * requests} bytes", printed), printed
    found = re.search(r"Requests per second:\s+([\d.]+)", printed)
    assert found, printed
    return float(found[1])


def main() -> int:
    """Measures and prints."""
    asked = options(__doc__ or "")
    missing = [tool for tool in ("curl", "ab") if shutil.which(tool) is None]
    if missing or not (shutil.which("nginx") or Path("/usr/sbin/nginx").exists()):
        print(
            "hub_download needs nginx, ab and curl: apt-get install nginx-light apache2-utils curl",
            file=sys.stderr,
        )
        return 0
    size = 2**28 if asked.quick else 2**30
    rounds = 3 if asked.quick else 7
    requests = 2000 if asked.quick else 5000
    with tempfile.TemporaryDirectory(prefix="fust-bench-nginx-") as folder, fust_server() as server:
        root = Path(folder)
        os.chmod(root, 0o755)
        path = root / FILE
        block = os.urandom(2**20)
        with open(path, "wb") as file:
            for i in range(size // 2**20):
                file.write(i.to_bytes(8, "little") + block[8:])
        upload(server, path)
        ours = f"{server.url}/{REPO}/resolve/main/{FILE}"
        with nginx(root) as base:
            theirs = f"{base}/{FILE}"
            whole = [(curl_s(theirs, server.token), curl_s(ours, server.token)) for _ in range(rounds)]
            with bare_asgi(path) as bare:
                urls = (theirs, ours, bare)
                ranges = {
                    c: [[ab_per_s(url, server.token, c, requests) for url in urls] for _ in range(rounds)]
                    for c in (4, 1)
                }
    peer_s, our_s = min(pair[0] for pair in whole), min(pair[1] for pair in whole)
    results = [
        Result(
            "hub_download.whole",
            "nginx sendfile's time",
            our_s / peer_s,
            "<= 1.2",
            our_s / peer_s <= 1.2,
            {"MiB": size >> 20, "nginx_s": round(peer_s, 3), "fust_s": round(our_s, 3)},
        )
    ]
    for connections, target in ((4, 0.3), (1, 0.45)):
        peer, our, bare_per_s = (max(row[i] for row in ranges[connections]) for i in range(3))
        results.append(
            Result(
                f"hub_download.ranges_c{connections}",
                "nginx's requests per second",
                our / peer,
                f">= {target}",
                our / peer >= target,
                {
                    "KiB": RANGE_BYTES >> 10,
                    "nginx_per_s": round(peer),
                    "fust_per_s": round(our),
                    "bare_asgi_per_s": round(bare_per_s),
                    "of_bare_asgi": round(our / bare_per_s, 2),
                },
            )
        )
    return show(results, as_json=asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
