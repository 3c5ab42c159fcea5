"""`kill -9` of the server during uploads and commits: every acknowledged commit stays whole, no half one is seen."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.compat.test_hub_clients import run_client
from tests.conftest import RunningFust, start_fust

pytestmark = pytest.mark.faults

WRITER = """
import hashlib, json, os, random, sys
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi()
rng = random.Random(int(sys.argv[1]))
log = open(sys.argv[2], "a")
i = int(sys.argv[3])
while True:
    i += 1
    big = rng.randbytes(rng.randint(200_000, 1_500_000))
    adds = [CommitOperationAdd(f"big/{i}.bin", big)]
    adds += [CommitOperationAdd(f"small/{i}-{n}.txt", f"{i}.{n}".encode()) for n in range(rng.randint(1, 6))]
    oid = api.create_commit("admin/killed", adds, commit_message=f"commit {i}").oid
    log.write(json.dumps({"i": i, "oid": oid, "sha": hashlib.sha256(big).hexdigest(), "small": len(adds) - 1}) + "\\n")
    log.flush()
"""


def start_writer(server: RunningFust, folder: Path, seed: int, done: int) -> subprocess.Popen[bytes]:
    environ = {
        "HF_ENDPOINT": server.url,
        "HF_TOKEN": server.token,
        "HF_HOME": str(folder / "hf"),
        "PATH": "/usr/bin",
    }
    environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HOME": str(folder)}
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        textwrap.dedent(WRITER),
        str(seed),
        str(folder / "log"),
        str(done),
    ]
    return subprocess.Popen(command, env=environ, cwd=folder, stderr=subprocess.DEVNULL)


def acknowledged(folder: Path) -> list[dict]:
    path = folder / "log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def check(server: RunningFust, folder: Path) -> int:
    """Every acknowledged commit is in the history with all of its bytes; returns how many commits there are."""
    _, _, body = server.request("GET", "/api/models/admin/killed/commits/main?limit=1000")
    history = json.loads(body)
    titles = {c["title"]: c["id"] for c in history}
    assert len(titles) == len(history), "a commit is there twice"
    done = acknowledged(folder)
    for entry in done:
        assert titles[f"commit {entry['i']}"] == entry["oid"]
    _, _, body = server.request("GET", "/api/models/admin/killed/tree/main?recursive=true")
    tree = json.loads(body)
    files = {line["path"]: line for line in tree if line["type"] == "file"}
    numbers = sorted(int(path[4:-4]) for path in files if path.startswith("big/"))
    assert len(numbers) == len(history) - 1, "a commit is there by half"
    for entry in done[-5:]:
        assert files[f"big/{entry['i']}.bin"]["lfs"]["oid"] == entry["sha"]
        assert sum(path.startswith(f"small/{entry['i']}-") for path in files) == entry["small"]
    for number in numbers[-6:]:  # what was not acknowledged but is there must be whole too
        status, _, data = server.request("GET", f"/admin/killed/resolve/main/big/{number}.bin")
        assert status == 200 and hashlib.sha256(data).hexdigest() == files[f"big/{number}.bin"]["lfs"]["oid"]
    _, _, body = server.request("GET", "/api/models/admin/killed")
    assert json.loads(body)["sha"] == history[0]["id"]
    _, _, body = server.request("GET", "/fust/v1/repos?search=killed")
    assert json.loads(body)["items"][0]["revision"] == history[0]["id"], "the row follows its ref"
    git = server.home / "git/models/admin/killed.git"
    fsck = subprocess.run(
        ["git", "-C", str(git), "fsck", "--full"], capture_output=True, text=True, check=False
    )
    assert fsck.returncode == 0 and "missing" not in fsck.stdout + fsck.stderr, fsck.stdout + fsck.stderr
    assert list((server.home / "blobs" / "tmp").iterdir()) == []
    assert not list((server.home / "cache" / "files").glob(".*.tmp"))
    return len(history)


def test_killed_at_many_moments(tmp_path: Path) -> None:
    rng = random.Random(5)
    home = tmp_path / "home"
    server = start_fust(home)
    try:
        run_client(server, tmp_path, "from huggingface_hub import HfApi; HfApi().create_repo('admin/killed')")
        seen = 0
        for turn in range(8):
            writer = start_writer(server, tmp_path, turn, seen)
            before = len(acknowledged(tmp_path))
            deadline = time.monotonic() + 30
            while len(acknowledged(tmp_path)) < before + 1 and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(rng.random() * 0.25)
            server.kill()
            writer.kill()
            writer.wait()
            server = start_fust(home)
            seen = max(check(server, tmp_path), seen) + 100 * (turn + 1)
        assert len(acknowledged(tmp_path)) >= 8
    finally:
        server.stop()


def test_killed_while_repos_come_and_go(tmp_path: Path) -> None:
    script = """
import itertools, sys
from huggingface_hub import HfApi
api = HfApi()
for i in itertools.count():
    api.create_repo(f"admin/r{i}")
    if i % 2: api.delete_repo(f"admin/r{i - 1}")
    print(i, flush=True)
"""
    home = tmp_path / "home"
    server = start_fust(home)
    try:
        for turn in range(3):
            environ = {
                "HF_ENDPOINT": server.url,
                "HF_TOKEN": server.token,
                "HF_HOME": str(tmp_path),
                "PATH": "/usr/bin",
            }
            source = script.replace("admin/r", f"admin/t{turn}-r")
            writer = subprocess.Popen(
                [sys.executable, "-c", source], env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            assert writer.stdout is not None
            for _ in range(5 + turn):
                writer.stdout.readline()
            server.kill()
            writer.kill()
            writer.wait()
            writer.stdout.close()
            server = start_fust(home)
            _, _, body = server.request("GET", "/fust/v1/repos?limit=500")
            names = {item["repo_id"].partition("/")[2] for item in json.loads(body)["items"]}
            folders = {p.name.removesuffix(".git") for p in (home / "git/models/admin").iterdir()}
            assert names == folders
            for name in names:
                assert server.request("GET", f"/api/models/admin/{name}/tree/main")[0] == 200
    finally:
        server.stop()
