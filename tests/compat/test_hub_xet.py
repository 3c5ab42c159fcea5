"""Xet by hf-xet itself: what versions cost, and who is told of which chunks."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fust.hub.xet import hashing
from tests.compat.test_hub_clients import run_client
from tests.conftest import RunningFust
from tests.support import xet_bytes

MIB = 2**20
UPLOAD = """
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("{repo}", exist_ok=True, private=True)
api.upload_file(path_or_fileobj="{file}", path_in_repo="model.safetensors", repo_id="{repo}")
"""
DOWNLOAD = """
import hashlib
from huggingface_hub import hf_hub_download
with open(hf_hub_download("{repo}", "model.safetensors"), "rb") as file:
    out["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
"""


def kept_bytes(server: RunningFust) -> int:
    """What xorbs take on the disk."""
    return sum(p.stat().st_size for p in (server.home / "blobs" / "xorbs").rglob("*") if p.is_file())


def checkpoints(folder: Path, seed: int, size: int = 48 * MIB) -> tuple[Path, Path]:
    """Two versions of a checkpoint: four of its tensors, a tenth of the bytes, differ."""
    dice = random.Random(seed)
    data = bytearray(dice.randbytes(size))
    (folder / "one").write_bytes(data)
    for quarter in range(4):
        at = size // 4 * quarter + size // 10
        data[at : at + size // 40] = dice.randbytes(size // 40)
    (folder / "two").write_bytes(data)
    return folder / "one", folder / "two"


@pytest.mark.parametrize("machines", [1, 2])
def test_a_second_version_costs_what_changed(server: RunningFust, tmp_path: Path, machines: int) -> None:
    """From the machine that sent the first version, and from another one, which has to ask what is here."""
    one, two = checkpoints(tmp_path, seed=machines)
    other = tmp_path / "other"
    other.mkdir()
    before = kept_bytes(server)
    repo = f"admin/versions-{machines}"
    run_client(server, tmp_path, UPLOAD.format(repo=repo, file=one))
    first = kept_bytes(server) - before
    assert first >= one.stat().st_size
    run_client(server, tmp_path if machines == 1 else other, UPLOAD.format(repo=repo, file=two))
    both = kept_bytes(server) - before
    assert both <= 1.15 * first, (first, both, both / first)
    got = run_client(server, other, DOWNLOAD.format(repo=repo))
    assert got["sha256"] == hashlib.sha256(two.read_bytes()).hexdigest()


class Cas:
    """The store as a client that holds one token sees it."""

    def __init__(self, server: RunningFust, repo: str, right: str = "write", key: str = "") -> None:
        status, _, body = server.request("GET", f"/api/models/{repo}/xet-{right}-token/main", token=key)
        assert status == 200, body
        said = json.loads(body)
        self.server = server
        self.base = said["casUrl"].removeprefix(server.url)
        self.token = said["accessToken"]

    def send(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        """One request below the `casUrl`."""
        return self.server.request(method, self.base + path, body, token=self.token)

    def bring(self, chunks: list[bytes]) -> str:
        """Uploads a file of these chunks; returns its Xet hash."""
        name, data = xet_bytes.xorb(chunks)
        assert self.send("POST", f"/v1/xorbs/default/{name}", data)[0] == 200
        xet_hash = xet_bytes.file_hash(chunks)
        whole = [(name, sum(map(len, chunks)), 0, len(chunks))]
        assert self.send("POST", "/v1/shards", xet_bytes.shard(xet_hash, whole))[0] == 200
        return xet_hash


@pytest.fixture(scope="module")
def eve(server: RunningFust) -> str:
    """A key of somebody who owns one repo and sees no other private one."""
    assert server.request("POST", "/fust/v1/users", {"name": "eve"})[0] == 201
    key = json.loads(server.request("POST", "/fust/v1/users/eve/tokens", {"name": "x", "scope": "write"})[2])[
        "token"
    ]
    for repo, token in (("eve/own", key), ("admin/hidden", "")):
        name = repo.partition("/")[2]
        body = {"name": name, "private": True}
        assert server.request("POST", "/api/repos/create", body, token=token)[0] == 200
    return str(key)


def test_a_stranger_learns_of_no_chunk(server: RunningFust, eve: str) -> None:
    dice = random.Random(77)
    chunks = [dice.randbytes(20_000) for _ in range(3)]
    mine = Cas(server, "admin/hidden")
    mine.bring(chunks)
    asked = hashing.to_hex(hashing.chunk_hash(chunks[0]))
    unknown = hashing.to_hex(hashing.chunk_hash(b"nobody has this"))

    def answer(cas: Cas, chunk: str) -> tuple[int, dict[str, str], bytes]:
        status, headers, body = cas.send("GET", f"/v1/chunks/default-merkledb/{chunk}")
        named = {k: v for k, v in headers.items() if k not in ("date", "x-request-id")}
        return status, named, body.replace(chunk.encode(), b"CHUNK")

    status, _, shard = answer(mine, asked)
    assert status == 200
    # Only a hash of the hash is in it: who has not the chunk cannot tell which it is.
    assert hashing.chunk_hash(chunks[0]) not in shard and hashing.chunk_hash(chunks[1]) not in shard
    key, now_s, expires_s = struct.unpack_from("<32sQQ", shard, len(shard) - 200 + 72)
    assert (
        hashing.under_key(hashing.chunk_hash(chunks[1]), key) in shard and 0 < expires_s - now_s <= 8 * 86400
    )
    stranger = Cas(server, "eve/own", key=eve)
    for prefixed in (asked, unknown):
        assert answer(stranger, prefixed)[0] == 404

    def same(answered: tuple[int, dict[str, str], bytes]) -> tuple[int, dict[str, str], bytes]:
        text = answered[1].get("x-error-message", "").replace(asked, "CHUNK").replace(unknown, "CHUNK")
        return answered[0], {**answered[1], "x-error-message": text}, answered[2]

    assert same(answer(stranger, asked)) == same(answer(stranger, unknown))
    assert answer(Cas(server, "admin/hidden", "read"), asked)[0] == 404, "a reader's token asks for nothing"
    # The stranger brings the same bytes: only then, and of its own upload, is it told.
    stranger.bring([chunks[0], dice.randbytes(9000)])
    status, _, own = answer(stranger, asked)
    assert status == 200 and len(own) < len(shard)
    assert struct.unpack_from("<32s", own, len(own) - 200 + 72)[0] != key


def test_shards_of_the_second_form_tell_their_end(server: RunningFust, eve: str) -> None:
    del eve
    cas = Cas(server, "admin/hidden")
    chunks = [random.Random(3).randbytes(30_000)]
    name, data = xet_bytes.xorb(chunks)
    good = xet_bytes.shard(xet_bytes.file_hash(chunks), [(name, 30_000, 0, 1)])
    status, _, body = cas.send("POST", "/v2/shards", good)
    assert status == 400 and b"not here" in body, "the xorb comes first"
    assert cas.send("POST", f"/v1/xorbs/default/{name}", data)[0] == 200
    status, headers, body = cas.send("POST", "/v2/shards", good)
    assert status == 200 and headers["content-type"] == "application/x-ndjson"
    events = [json.loads(line) for line in body.splitlines()]
    assert events[-1] == {"type": "result"} and {e["type"] for e in events} == {"validating", "result"}


def wait_until(true: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def test_many_first_downloads_rebuild_once(server: RunningFust, tmp_path: Path) -> None:
    """A file of 24 MiB out of xorbs: who reads slowly, or leaves, neither stops the others nor leaves a half file."""
    data = random.Random(9).randbytes(24 * MIB)
    (tmp_path / "w").write_bytes(data)
    run_client(server, tmp_path, UPLOAD.format(repo="admin/crowd", file=tmp_path / "w"))
    parts = urlsplit(server.url)
    asked = (
        f"GET /admin/crowd/resolve/main/model.safetensors HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Authorization: Bearer {server.token}\r\n\r\n"
    ).encode()
    cache = server.home / "cache" / "files"
    copies: set[str] = set()

    def get() -> bool:
        got = server.request("GET", "/admin/crowd/resolve/main/model.safetensors")[2]
        copies.update(p.name for p in cache.glob(".*.tmp"))
        return got == data

    with socket.create_connection((parts.hostname or "", parts.port or 0)) as slow:
        slow.sendall(asked)
        assert slow.recv(1000).startswith(b"HTTP/1.1 200")
        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(lambda _: get(), range(6)))
        assert len(copies) == 1, copies
    wait_until(lambda: not list(cache.glob(".*.tmp")), "the half file of who left stays")
    assert get()
    wait_until((cache / hashlib.sha256(data).hexdigest()).exists, "what was rebuilt is not kept")
    assert (cache / hashlib.sha256(data).hexdigest()).read_bytes() == data
