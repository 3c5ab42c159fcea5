"""Pulling a repo from a second Fust beside `huggingface_hub.snapshot_download` of the same repo, in turns.

Fust's figure is the whole run, from the request to the commit: its process starts, lists, fetches, hashes every byte
and keeps it. The peer's is a process of its own that downloads into an empty folder, and hashes nothing.
Once over Xet, once over plain HTTP (a bandwidth limit far above the line keeps Fust off Xet).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import Result, Server, fust_server, options, show

REPO = "admin/bench-pull"
FILES = 4
SNAPSHOT = (
    "import sys; from huggingface_hub import snapshot_download;"
    "snapshot_download(sys.argv[1], cache_dir=sys.argv[2], endpoint=sys.argv[3], token=sys.argv[4])"
)


def upload(server: Server, folder: Path) -> None:
    """Pushes the folder."""
    command = [sys.executable, "-m", "fust.cli.main", "push", str(folder), REPO]
    environ = {**os.environ, "FUST_HOME": str(server.home)}
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def peer_s(server: Server, *, xet: bool) -> float:
    """Returns the seconds that snapshot_download takes."""
    with tempfile.TemporaryDirectory(prefix="fust-bench-peer-") as folder:
        environ = {**os.environ, "HF_HOME": folder, "HF_HUB_DISABLE_XET": "0" if xet else "1"}
        started = time.perf_counter()
        command = [sys.executable, "-c", SNAPSHOT, REPO, f"{folder}/hub", server.url, server.token]
        subprocess.run(command, env=environ, check=True, capture_output=True)
        return time.perf_counter() - started


def our_s(server: Server, *, xet: bool) -> float:
    """Returns the seconds that `fust pull` takes into a home of its own, server start not counted."""
    with fust_server() as here:
        environ = {**os.environ, "FUST_HOME": str(here.home)}
        command = [sys.executable, "-m", "fust.cli.main", "pull", REPO, "--from", server.url, "--json"]
        command += [] if xet else ["--limit", "100GB/s"]
        started = time.perf_counter()
        subprocess.run(command, env=environ, check=True, capture_output=True)
        return time.perf_counter() - started


def main() -> int:
    """Measures and prints."""
    asked = options(__doc__ or "")
    size = 2**25 if asked.quick else 2**27
    rounds = 1 if asked.quick else 3
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="fust-bench-pull-") as folder, fust_server() as server:
        for number in range(FILES):
            Path(folder, f"weights-{number}.safetensors").write_bytes(os.urandom(size))
        upload(server, Path(folder))
        peer_s(server, xet=False)  # the whole files are rebuilt once
        for xet in (True, False):
            pairs = [(peer_s(server, xet=xet), our_s(server, xet=xet)) for _ in range(rounds)]
            peer, ours = min(p for p, _ in pairs), min(o for _, o in pairs)
            total = FILES * size
            results.append(
                Result(
                    f"pull.{'xet' if xet else 'http'}",
                    "snapshot_download's time",
                    ours / peer,
                    "<= 1.5",
                    ours / peer <= 1.5,
                    {
                        "size_MB": round(total / 1e6),
                        "ours_MB_s": round(total / ours / 1e6),
                        "peer_MB_s": round(total / peer / 1e6),
                        "rounds": rounds,
                    },
                )
            )
    return show(results, as_json=asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
