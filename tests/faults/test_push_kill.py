"""`kill -9` of the server during git pushes of several refs: acknowledged ones stay, no push is done by half."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.conftest import RunningFust, free_port, start_fust

pytestmark = pytest.mark.faults

PUSHER = """
import subprocess, sys
clone, log, i = sys.argv[1], open(sys.argv[2], "a"), int(sys.argv[3])
def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=clone, capture_output=True, text=True)
while True:
    i += 1
    open(f"{clone}/f{i}.txt", "w").write(f"{i}" * 1000)
    git("add", "-A"); git("commit", "-m", f"commit {i}"); git("tag", f"t{i}"); git("branch", f"b{i}")
    if git("push", "-q", "origin", "main", f"t{i}", f"b{i}").returncode: break
    log.write(f"{i}\\n"); log.flush()
"""


def refs_of(server: RunningFust) -> dict[str, str]:
    _, _, body = server.request("GET", "/api/models/admin/killed/refs")
    refs = json.loads(body)
    return {ref["ref"]: ref["targetCommit"] for kind in ("branches", "tags") for ref in refs[kind]}


def check(server: RunningFust, log: Path) -> int:
    """Every acknowledged push is there, and of every push all refs or none; returns the newest number."""
    refs = refs_of(server)
    acknowledged = [int(line) for line in log.read_text().split()] if log.exists() else []
    numbers = {int(ref.split("/b")[1]) for ref in refs if ref.startswith("refs/heads/b")}
    assert set(acknowledged) <= numbers
    assert {int(ref.split("/t")[-1]) for ref in refs if ref.startswith("refs/tags/")} == numbers
    _, _, body = server.request("GET", "/api/models/admin/killed/commits/main?limit=1000")
    titles = [commit["title"] for commit in json.loads(body)]
    newest = max(numbers, default=0)
    if newest:
        assert titles[0] == f"commit {newest}" and refs["refs/heads/main"] == refs[f"refs/heads/b{newest}"]
    _, _, body = server.request("GET", "/fust/v1/repos?search=killed")
    listed = json.loads(body)["items"][0]
    assert listed["revision"] == refs["refs/heads/main"]
    _, _, body = server.request("GET", "/api/models/admin/killed/tree/main")
    assert listed["size_bytes"] == sum(line["size"] for line in json.loads(body)), "sums follow pushes"
    path = server.home / "git/models/admin/killed.git"
    fsck = subprocess.run(
        ["git", "-C", str(path), "fsck", "--full"], capture_output=True, text=True, check=False
    )
    assert fsck.returncode == 0 and "missing" not in fsck.stdout + fsck.stderr, fsck.stdout + fsck.stderr
    assert not list((server.home / "git" / ".incoming").glob("*"))
    return newest


def test_killed_while_pushes_come(tmp_path: Path) -> None:
    rng = random.Random(9)
    home, log = tmp_path / "home", tmp_path / "log"
    port = free_port()  # the clone's remote stays the same
    environ = {**os.environ, "HOME": str(tmp_path), "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}
    for who in ("AUTHOR", "COMMITTER"):
        environ |= {f"GIT_{who}_NAME": "a", f"GIT_{who}_EMAIL": "a@example.org"}
    server = start_fust(home, port=port)
    try:
        assert server.request("POST", "/api/repos/create", {"name": "killed"})[0] == 200
        url = server.url.replace("http://", f"http://me:{server.token}@") + "/admin/killed"
        subprocess.run(["git", "clone", "-q", url, "clone"], cwd=tmp_path, env=environ, check=True)
        number = 0
        for _ in range(8):
            command = [
                sys.executable,
                "-c",
                textwrap.dedent(PUSHER),
                str(tmp_path / "clone"),
                str(log),
                str(number),
            ]
            pusher = subprocess.Popen(command, env=environ, cwd=tmp_path, start_new_session=True)
            before = len(log.read_text()) if log.exists() else 0
            deadline = time.monotonic() + 30
            while (not log.exists() or len(log.read_text()) == before) and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(rng.random() * 0.2)
            server.kill()
            pusher.wait(timeout=60)
            server = start_fust(home, port=port)
            check(server, log)
            number += 1000
            subprocess.run(["git", "fetch", "-q", "origin"], cwd=tmp_path / "clone", env=environ, check=True)
            subprocess.run(
                ["git", "reset", "-q", "--hard", "origin/main"],
                cwd=tmp_path / "clone",
                env=environ,
                check=True,
            )
        assert len(log.read_text().split()) >= 8
    finally:
        server.stop()
