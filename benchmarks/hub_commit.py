"""A one-file commit into a repo of many files, over HTTP, beside the same commit made by pygit2 alone.

pygit2 writes blob, tree, commit and ref with its own fsync on, as the hub has it; the hub also checks the key and the
policy, keeps its rows, and answers over HTTP. Both in turns, on one disk; the median of the rounds counts.
"""

from __future__ import annotations

import base64
import http.client
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import pygit2
from _common import Result, Server, fust_server, options, show

REPO = "admin/bench-commit"


class Hub:
    """A connection that is kept, as clients keep theirs."""

    def __init__(self, server: Server) -> None:
        parts = urlsplit(server.url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        self._headers = {"authorization": f"Bearer {server.token}"}

    def call(self, method: str, path: str, body: bytes) -> dict:
        """Sends one request."""
        self._connection.request(method, path, body, self._headers)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path} answered {answer.status}: {data[:500]!r}")
        return json.loads(data)

    def commit(self, files: dict[str, bytes]) -> None:
        """Commits small files to main."""
        lines = [json.dumps({"key": "header", "value": {"summary": "x"}})]
        for path, data in files.items():
            value = {"path": path, "content": base64.b64encode(data).decode(), "encoding": "base64"}
            lines.append(json.dumps({"key": "file", "value": value}))
        self.call("POST", f"/api/models/{REPO}/commit/main", "\n".join(lines).encode())


def commit_alone(git: pygit2.Repository, path: str, data: bytes) -> None:
    """The same by pygit2."""
    head = git.references["refs/heads/main"]
    commit = git[head.target]
    assert isinstance(commit, pygit2.Commit)
    builder = git.TreeBuilder(commit.tree)
    builder.insert(path, git.create_blob(data), 0o100644)
    who = pygit2.Signature("bench", "bench@example.org")
    git.create_commit("refs/heads/main", who, who, "x", builder.write(), [commit.id])


def run(quick: bool) -> Result:
    """Returns the ratio."""
    files, rounds = (1000, 10) if quick else (5000, 40)
    start = {f"file-{i:05d}.txt": f"{i}\n".encode() for i in range(files)}
    with tempfile.TemporaryDirectory(prefix="fust-bench-") as folder, fust_server() as server:
        git = pygit2.init_repository(str(Path(folder) / "alone.git"), bare=True, initial_head="main")
        git.config["core.fsyncObjectFiles"] = True
        builder = git.TreeBuilder()
        for path, data in start.items():
            builder.insert(path, git.create_blob(data), 0o100644)
        who = pygit2.Signature("bench", "bench@example.org")
        git.create_commit("refs/heads/main", who, who, "start", builder.write(), [])
        hub = Hub(server)
        hub.call("POST", "/api/repos/create", json.dumps({"name": REPO}).encode())
        hub.commit(start)
        ours: list[float] = []
        alone: list[float] = []
        for i in range(rounds):
            begin = time.perf_counter()
            hub.commit({f"new-{i}.txt": f"new {i}".encode()})
            middle = time.perf_counter()
            commit_alone(git, f"new-{i}.txt", f"new {i}".encode())
            ours.append(middle - begin)
            alone.append(time.perf_counter() - middle)
    a, b = statistics.median(ours) * 1e3, statistics.median(alone) * 1e3
    return Result(
        f"one-file commit into {files} files",
        "pygit2 alone",
        a / b,
        "< 4",
        a / b < 4,
        {"fust_ms": round(a, 1), "pygit2_ms": round(b, 1)},
    )


def main() -> int:
    """Prints the result; returns an exit status."""
    given = options(__doc__ or "")
    return show([run(given.quick)], as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
