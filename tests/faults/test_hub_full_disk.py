"""A full disk answers 507, nothing half stays, and what was there before stays readable."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import RunningFust, start_fust
from tests.support import xet_bytes as make

pytestmark = pytest.mark.faults


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[RunningFust]:
    """A server whose home lies on a file system of 80 MB."""
    home = tmp_path / "small"
    home.mkdir()
    mounted = os.geteuid() == 0 and (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(home)], capture_output=True, check=False
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip("mounting a small file system needs root")
    try:
        server = start_fust(home)
        yield server
        server.stop()
    finally:
        subprocess.run(["umount", "-l", str(home)], check=False)


def test_uploads_meet_a_full_disk(small_server: RunningFust) -> None:
    server = small_server
    server.request("POST", "/api/repos/create", {"name": "admin/m"})
    kept = upload(server, b"kept" * 10_000)
    assert kept == 200
    commit_lfs(server, b"kept" * 10_000)
    leave(server, 15_000_000)
    assert upload(server, os.urandom(60_000_000)) == 507
    assert_clean(server)
    _, _, body = server.request("GET", "/api/models/admin/m/xet-write-token/main")
    answer = json.loads(body)
    chunks = [os.urandom(100_000) for _ in range(300)]
    name, data = make.xorb(chunks)
    path = urlsplit(answer["casUrl"]).path
    status, headers, body = server.request(
        "POST", f"{path}/v1/xorbs/default/{name}", data, token=answer["accessToken"]
    )
    assert status == 507 and headers["x-error-code"] == "StorageFull", body
    assert_clean(server)
    assert server.request("GET", "/admin/m/resolve/main/kept.bin")[2] == b"kept" * 10_000


def test_a_commit_meets_a_full_disk(small_server: RunningFust) -> None:
    server = small_server
    server.request("POST", "/api/repos/create", {"name": "admin/m"})
    filler = server.home / "filler"
    _, _, before = server.request("GET", "/api/models/admin/m/commits/main")
    leave(server, 1_000_000)
    with open(filler, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    lines = [{"key": "header", "value": {"summary": "x"}}]
    lines += [{"key": "file", "value": {"path": f"f{i}", "content": "x" * 50_000}} for i in range(20)]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    status, headers, answer = server.request("POST", "/api/models/admin/m/commit/main", body)
    assert status == 507 and headers["x-error-code"] == "StorageFull", answer
    assert "full" in json.loads(answer)["error"]
    filler.unlink()
    assert server.request("GET", "/api/models/admin/m/commits/main")[2] == before
    assert_clean(server)
    assert server.request("POST", "/api/models/admin/m/commit/main", body)[0] == 200
    git = server.home / "git/models/admin/m.git"
    subprocess.run(["git", "-C", str(git), "fsck"], check=True, capture_output=True)


def leave(server: RunningFust, room_bytes: int) -> None:
    """Fills the disk but for some room."""
    with open(server.home / "filler", "wb") as file:
        free = os.statvfs(server.home)
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - room_bytes)


def upload(server: RunningFust, data: bytes) -> int:
    oid = hashlib.sha256(data).hexdigest()
    batch = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
    _, _, body = server.request("POST", "/admin/m.git/info/lfs/objects/batch", batch)
    url = urlsplit(json.loads(body)["objects"][0]["actions"]["upload"]["href"])
    try:
        return server.request("PUT", f"{url.path}?{url.query}", data, token=None)[0]
    except OSError:  # the answer came before the body was read, and the line was cut
        return 507


def commit_lfs(server: RunningFust, data: bytes) -> None:
    oid = hashlib.sha256(data).hexdigest()
    lines = [
        {"key": "header", "value": {"summary": "x"}},
        {"key": "lfsFile", "value": {"path": "kept.bin", "algo": "sha256", "oid": oid, "size": len(data)}},
    ]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    assert server.request("POST", "/api/models/admin/m/commit/main", body)[0] == 200


def assert_clean(server: RunningFust) -> None:
    assert list((server.home / "blobs" / "tmp").iterdir()) == []
    assert not list((server.home / "cache" / "files").glob(".*.tmp"))
