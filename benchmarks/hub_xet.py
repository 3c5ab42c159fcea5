"""Xet: an upload beside hf-xet's own local store, plain downloads of what came so beside nginx, and memory.

The upload is hf-xet's in both cases: cut, packed, hashed and sent to Fust, which verifies all of it again and keeps it
on the disk, or written to a folder. Both in turns, into empty stores, by a process of its own each; the shorter times
count. A plain download rebuilds the file the first time and keeps it; nginx sends the same file by sendfile. Memory is
looked at while many download at once, the file kept already, and again when the first of them has it rebuilt.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from _common import Result, Server, fust_server, options, show
from hub_download import call, curl_s, nginx

REPO = "admin/bench-xet"
FILE = "weights.bin"
UPLOAD = """
import json, sys, time
import hf_xet
path, sha256, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
began = time.perf_counter()
commit = hf_xet.XetSession().new_upload_commit(**options)
commit.start_upload_file(path, sha256=sha256)
commit.wait_to_finish()
print(time.perf_counter() - began)
"""
ROOM_BYTES = 50 * 10**6
"""By how much the server may grow while all of them download."""


def upload_s(path: Path, sha256: str, **where: object) -> float:
    """Returns the seconds of one upload by hf-xet, with a cache of its own."""
    with tempfile.TemporaryDirectory(prefix="fust-bench-hf-") as folder:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environ |= {"HF_HOME": folder}
        command = [sys.executable, "-c", UPLOAD, str(path), sha256, json.dumps(where)]
        return float(subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout)


def write_file(path: Path, size: int) -> str:
    """Writes bytes that do not compress and share nothing; returns their SHA-256."""
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for _ in range(size // 2**20):
            piece = os.urandom(2**20)
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def to_fust_s(server: Server, path: Path, sha256: str) -> float:
    """Uploads to a server and commits; returns the seconds of the upload."""
    call(server, "POST", "/api/repos/create", json.dumps({"name": REPO, "visibility": "private"}).encode())
    request = urllib.request.Request(
        f"{server.url}/api/models/{REPO}/xet-write-token/main",
        headers={"authorization": f"Bearer {server.token}"},
    )
    with urllib.request.urlopen(request) as answer:
        said = json.loads(answer.read())
    seconds = upload_s(
        path,
        sha256,
        endpoint=said["casUrl"],
        token=said["accessToken"],
        token_expiry_unix_secs=said["exp"],
    )
    lines = [
        {"key": "header", "value": {"summary": "bench"}},
        {
            "key": "lfsFile",
            "value": {"path": FILE, "algo": "sha256", "oid": sha256, "size": path.stat().st_size},
        },
    ]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    call(server, "POST", f"/api/models/{REPO}/commit/main", body, "application/x-ndjson")
    return seconds


def pss_bytes(pid: int) -> int:
    """Returns the proportional memory of a process."""
    sums = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(
        int(line.split()[1]) * 1024
        for line in sums
        if line.startswith(("Pss_Anon:", "Pss_Shmem:", "Pss_File:"))
    )


def many_at_once(server: Server, url: str, count: int) -> tuple[int, float]:
    """Downloads a file ``count`` times at once; returns by how many bytes the server grew at most, and the seconds."""
    before = pss_bytes(server.pid)
    command = ["curl", "-s", "-f", "-o", "/dev/null", "-H", f"Authorization: Bearer {server.token}", url]
    most = before
    began = time.perf_counter()
    clients = [subprocess.Popen(command) for _ in range(count)]
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.1):
            most = max(most, pss_bytes(server.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    failed = [client.wait() for client in clients]
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    if any(failed):
        raise SystemExit(f"{sum(map(bool, failed))} of {count} downloads failed")
    return most - before, seconds


def main() -> int:
    """Measures and prints."""
    asked = options(__doc__ or "")
    size = 2**28 if asked.quick else 2**30
    rounds = 1 if asked.quick else 3
    count = 16 if asked.quick else 64
    uploads: list[tuple[float, float]] = []
    firsts: list[tuple[float, float]] = []
    laters: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="fust-bench-xet-") as folder:
        root = Path(folder)
        os.chmod(root, 0o755)
        path = root / FILE
        sha256 = write_file(path, size)
        with nginx(root) as base:
            for number in range(rounds):
                with tempfile.TemporaryDirectory(prefix="fust-bench-local-") as local:
                    peer = upload_s(path, sha256, endpoint=f"local://{local}")
                with fust_server() as server:
                    ours = to_fust_s(server, path, sha256)
                    url = f"{server.url}/{REPO}/resolve/main/{FILE}"
                    uploads.append((peer, ours))
                    firsts.append((curl_s(f"{base}/{FILE}", ""), curl_s(url, server.token)))
                    for _ in range(3):
                        laters.append((curl_s(f"{base}/{FILE}", ""), curl_s(url, server.token)))
                    if number == rounds - 1:
                        later = many_at_once(server, url, count)
                        for kept in (server.home / "cache" / "files").glob("[!.]*"):
                            kept.unlink()
                        first = many_at_once(server, url, count)
    results: list[Result] = []
    mib = size >> 20

    def add(name: str, peer: str, pairs: list[tuple[float, float]], limit: float | None) -> None:
        theirs, ours = min(p for p, _ in pairs), min(o for _, o in pairs)
        ratio = ours / theirs
        detail = {"MiB": mib, "peer_s": round(theirs, 2), "fust_s": round(ours, 2)}
        ok = limit is None or ratio <= limit
        results.append(Result(name, peer, ratio, "stated" if limit is None else f"<= {limit}", ok, detail))

    add("hub_xet.upload", "hf-xet's time into its local store", uploads, 2.0)
    add("hub_xet.first_plain", "nginx sendfile's time", firsts, None)
    add("hub_xet.later_plain", "nginx sendfile's time", laters, 1.2)
    for name, (grown, seconds) in (("memory", later), ("memory_first", first)):
        results.append(
            Result(
                f"hub_xet.{name}",
                "50 MB more than the idle server",
                grown / ROOM_BYTES,
                "<= 1",
                grown <= ROOM_BYTES,
                {"MiB": mib, "downloads": count, "more_MB": round(grown / 1e6, 1), "s": round(seconds, 1)},
            )
        )
    return show(results, as_json=asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
