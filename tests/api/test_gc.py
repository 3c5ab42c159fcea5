"""`fust gc` removes what nothing points to when its time is over, beside a server that takes uploads, and nothing else."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.compat.test_hub_clients import run_client
from tests.conftest import RunningFust


def gc(server: RunningFust, *words: str, keep_s: float | None = None) -> dict[str, int]:
    environ = dict(server.environ)
    if keep_s is not None:
        environ["FUST_HUB__KEEP_UNREFERENCED_S"] = str(keep_s)
    command = [sys.executable, "-m", "fust.cli.main", "gc", "--json", *words]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def fsck(server: RunningFust) -> list[object]:
    return json.loads(server.cli("fsck", "--deep", "--json", check=False).stdout)["findings"]


def stored(server: RunningFust) -> int:
    folders = [server.home / "blobs" / kind for kind in ("lfs", "xorbs")]
    return sum(path.is_file() for folder in folders for path in folder.rglob("*"))


def test_deleted_files_go_when_their_time_is_over(server: RunningFust, tmp_path: Path) -> None:
    run_client(
        server,
        tmp_path,
        """
        import os
        from huggingface_hub import HfApi
        api = HfApi()
        shared, own = os.urandom(400_000), os.urandom(400_000)
        open("own.bin", "wb").write(own); open("shared.bin", "wb").write(shared)
        for name in ("gone", "stays"):
            api.create_repo(f"admin/{name}")
            api.upload_file(path_or_fileobj=shared, path_in_repo="shared.bin", repo_id=f"admin/{name}")
        api.upload_file(path_or_fileobj=own, path_in_repo="own.bin", repo_id="admin/gone")
        """,
    )
    before = stored(server)
    server.cli("rm", "admin/gone", "--yes")
    assert gc(server)["files"] == 0, "the grace is not over"
    would = gc(server, "--dry-run", keep_s=0)
    assert would["files"] == 1 and would["xorbs"] == 1 and would["size_bytes"] > 390_000
    assert stored(server) == before
    gone = gc(server, keep_s=0)
    assert {**gone, "dry_run": True} == would
    assert stored(server) == before - 1
    assert gc(server, keep_s=0)["size_bytes"] == 0
    assert (
        server.request("GET", "/admin/stays/resolve/main/shared.bin")[2]
        == (tmp_path / "shared.bin").read_bytes()
    )
    assert fsck(server) == []
    run_client(  # a client that remembers what it sent, and one that does not
        server,
        tmp_path,
        """
        import os
        from huggingface_hub import HfApi
        api = HfApi()
        api.create_repo("admin/again")
        api.upload_file(path_or_fileobj="own.bin", path_in_repo="own.bin", repo_id="admin/again")
        """,
    )
    assert (
        server.request("GET", "/admin/again/resolve/main/own.bin")[2] == (tmp_path / "own.bin").read_bytes()
    )
    assert fsck(server) == []


def test_folders_of_old_runs_go_and_their_rows_stay(server: RunningFust) -> None:
    asked = {"kind": "pull", "params": {"repo_id": "nobody/nothing", "source": server.url}}
    _, _, body = server.request("POST", "/fust/v1/runs", asked)
    run = json.loads(body)["id"]
    deadline = time.monotonic() + 60
    while json.loads(server.request("GET", f"/fust/v1/runs/{run}")[2])["state"] in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    folder = server.home / "runs" / run
    assert folder.is_dir() and gc(server)["runs"] == 0 and folder.is_dir()
    connection = sqlite3.connect(server.home / "fust.db", timeout=30)
    connection.execute("UPDATE runs SET ended_at = '2020-01-01 00:00:00.000000' WHERE id = ?", (run,))
    connection.commit()
    connection.close()
    assert gc(server)["runs"] == 1 and not folder.exists()
    assert json.loads(server.request("GET", f"/fust/v1/runs/{run}")[2])["state"] == "failed"
    assert server.request("GET", f"/fust/v1/runs/{run}/log")[0] == 200


def test_converted_models_that_nothing_serves_go_when_their_time_is_over(server: RunningFust) -> None:
    left = server.home / "engines/converted" / ("0" * 32 + ".gguf")
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_bytes(b"GGUF" * 1000)
    (count,) = [c for c in json.loads(server.cli("doctor", "--json", check=False).stdout)["checks"] if c["name"] == "converted models"]  # fmt: skip
    assert (count["state"], count["value"]) == ("ok", "1, 4 kB")
    assert gc(server)["converted"] == 0 and left.exists()
    os.utime(left, (time.time() - 8 * 86_400,) * 2)
    would = gc(server, "--dry-run")
    assert (would["converted"], would["size_bytes"]) == (1, 4000) and left.exists()
    assert gc(server)["converted"] == 1 and not left.exists()


@pytest.mark.faults
def test_uploads_in_flight_are_safe(server: RunningFust, tmp_path: Path) -> None:
    """Two clients bring the same few files again and again while repos go and sweeps run without a pause."""
    script = """
import hashlib, os, random, sys
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi()
rng = random.Random(int(sys.argv[1]))
pool = [random.Random(n).randbytes(150_000) for n in range(6)]
for i in range(12):
    name = f"admin/flight-{sys.argv[1]}-{i}"
    api.create_repo(name)
    api.create_commit(name, [CommitOperationAdd(f"{n}.bin", rng.choice(pool)) for n in range(2)], commit_message="x")
    if i >= 2: api.delete_repo(f"admin/flight-{sys.argv[1]}-{i - 2}")
print("done")
"""
    writers = []
    for seed in ("1", "2"):
        environ = {"HF_ENDPOINT": server.url, "HF_TOKEN": server.token, "PATH": "/usr/bin"}
        environ |= {"HF_HOME": str(tmp_path / seed), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-W", "ignore", "-c", script, seed]
        writers.append(subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    removed = 0
    while any(writer.poll() is None for writer in writers):
        removed += gc(server, keep_s=3)["files"]
    for writer in writers:
        output, errors = writer.communicate()
        assert output == b"done\n", errors.decode()[-2000:]
    assert fsck(server) == []
    for seed in (1, 2):
        for i in (10, 11):
            for n in (0, 1):
                assert server.request("GET", f"/admin/flight-{seed}-{i}/resolve/main/{n}.bin")[0] == 200
    os.sync()


@pytest.mark.faults
def test_bytes_whose_row_never_came_go_after_a_day(server: RunningFust) -> None:
    for kind, age_s, stays in (
        ("lfs/ab/cd", 90_000, False),
        ("xorbs/ab", 90_000, False),
        ("lfs/ab/ce", 60, True),
    ):
        path = server.home / "blobs" / kind / ("ab" + kind[-2:] + "12" * 30)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (time.time() - age_s,) * 2)
        gc(server)
        assert path.exists() is stays
