"""Fuzzers over transfers: packs of pushes, ranges of files made of chunks, batches of buckets, shards, chunk queries."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fust.hub.xet.xorb import decode_chunk
from tests.conftest import RunningFust
from tests.support import xet_bytes as make
from tests.support.hostile import Line, as_json, bounded, damaged, segments, texts, values

pytestmark = pytest.mark.faults
REPO = "admin/packed"
_DICE = random.Random(4)
CHUNKS = [_DICE.randbytes(n) for n in (9000, 1, 40_000, 3, 70_000)]
WHOLE = b"".join(CHUNKS)
XET = make.file_hash(CHUNKS)


@dataclass(frozen=True)
class World:
    """A repo with a clone's next commit as a pack, and a Xet token for it."""

    server: RunningFust
    line: Line
    cas: Line
    base: str
    new: str
    pack: bytes


@pytest.fixture(scope="module")
def world(server: RunningFust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    for path, body in (("/api/repos/create", {"name": "packed"}), ("/api/buckets/admin/fuzzed", {})):
        assert server.request("POST", path, body)[0] == 200
    folder = tmp_path_factory.mktemp("packed")
    environ = {**os.environ, "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*words: str, stdin: bytes = b"") -> bytes:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ["git", "-C", str(folder / "clone"), *who, *words]
        return subprocess.run(command, env=environ, input=stdin, capture_output=True, check=True).stdout

    url = server.url.replace("http://", f"http://me:{server.token}@") + f"/{REPO}"
    subprocess.run(["git", "clone", "-q", url, str(folder / "clone")], env=environ, check=True)
    Path(folder, "clone", "new.txt").write_text("new\n" * 50)
    git("add", "-A")
    git("commit", "-qm", "new")
    new = git("rev-parse", "HEAD").decode().strip()
    pack = git("pack-objects", "--revs", "--stdout", "-q", stdin=f"{new}\n^origin/main\n".encode())
    line = Line(server)
    said = json.loads(line.ask("GET", f"/api/models/{REPO}/xet-write-token/main")[2])
    cas, base = Line(server, said["accessToken"]), urlsplit(said["casUrl"]).path
    name, data = make.xorb(CHUNKS, 1)
    assert cas.ask("POST", f"{base}/v1/xorbs/default/{name}", data)[0] == 200
    # Out of order and one chunk twice: a file need not be a xorb.
    shard = make.shard(XET, [(name, len(WHOLE), 0, len(CHUNKS))])
    assert cas.ask("POST", f"{base}/v1/shards", shard)[0] == 200
    yield World(server, line, cas, base, new, pack)
    line.close()
    cas.close()


# Pushes


def push(world: World, body: bytes) -> tuple[int, bytes]:
    kind = {"content-type": "application/x-git-receive-pack-request"}
    status, _, answer = world.line.ask("POST", f"/{REPO}.git/git-receive-pack", body, kind)
    return status, answer


def request(world: World, ref: str, pack: bytes, new: str = "") -> bytes:
    line = f"{'0' * 40} {new or world.new} {ref}\0report-status\n".encode()
    return b"%04x%s0000" % (len(line) + 4, line) + pack


@bounded(150)
@given(st.data(), st.integers(0, 10**9))
def test_packs(world: World, data: st.DataObject, number: int) -> None:
    """What arrives damaged makes no ref; and what makes one is whole."""
    ref = f"refs/heads/f{number}"
    status, answer = push(world, request(world, ref, data.draw(damaged(world.pack))))
    assert status in (200, 400, 413)
    there = world.line.ask("GET", f"/api/models/{REPO}/tree/f{number}")[0] == 200
    assert there == (f"ok {ref}".encode() in answer)
    if there:
        assert world.line.ask("GET", f"/{REPO}/resolve/f{number}/new.txt")[2] == b"new\n" * 50


@bounded(100)
@given(
    st.one_of(
        st.builds(
            lambda a, b, ref, more: f"{a} {b} {ref}".encode() + more,
            *(st.one_of(st.sampled_from(["0" * 40, "f" * 40, "main"]), texts) for _ in range(2)),
            st.one_of(st.sampled_from(["refs/heads/x", "refs/heads/../x", "refs/pr/1", "HEAD"]), texts),
            st.sampled_from([b"\0report-status\n", b"\0atomic push-options\n", b"\n", b"\0\0\0"]),
        ),
        st.binary(max_size=80),
    ),
    st.one_of(st.none(), st.binary(max_size=4)),
    st.binary(max_size=200),
)
def test_push_commands(world: World, command: bytes, length: bytes | None, rest: bytes) -> None:
    head = b"%04x" % (len(command) + 4) if length is None else length
    assert push(world, head + command + b"0000" + rest)[0] in (200, 400, 403, 413)


def test_the_repo_is_whole_after_all_of_it(world: World) -> None:
    path = world.server.home / "git/models" / f"{REPO}.git"
    done = subprocess.run(
        ["git", "-C", str(path), "fsck", "--full"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "missing" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert not list((world.server.home / "git" / ".incoming").glob("*"))


# Xet


@bounded(150)
@given(
    st.sampled_from(["v1", "v2"]),
    st.integers(0, len(WHOLE) + 10),
    st.one_of(st.none(), st.integers(0, len(WHOLE) + 10)),
)
def test_ranges_of_chunks_are_those_bytes(world: World, version: str, start: int, last: int | None) -> None:
    """A client puts together from terms, offsets and signed URLs exactly what it asked for."""
    asked = {"range": f"bytes={start}-{'' if last is None else last}"}
    status, _, body = world.cas.ask("GET", f"{world.base}/{version}/reconstructions/{XET}", b"", asked)
    if start >= len(WHOLE):
        assert status == 416
        return
    assert status == 200, body
    end = len(WHOLE) if last is None or last < start else min(last + 1, len(WHOLE))
    begin = 0 if last is not None and last < start else start  # not a range: the whole
    answer = json.loads(body)
    fetched: dict[tuple[str, int], bytes] = {}
    for xorb, infos in answer["xorbs" if version == "v2" else "fetch_info"].items():
        for info in infos:
            ranges = (
                info["ranges"] if version == "v2" else [{"chunks": info["range"], "bytes": info["url_range"]}]
            )
            for one in ranges:
                url = urlsplit(info["url"])
                span = {"range": f"bytes={one['bytes']['start']}-{one['bytes']['end']}"}
                got = world.line.ask("GET", f"{url.path}?{url.query}", b"", span)
                assert got[0] == 206
                at, chunk = 0, one["chunks"]["start"]
                while at < len(got[2]):
                    piece, at = decode_chunk(got[2], at)
                    fetched[xorb, chunk] = piece
                    chunk += 1
                assert chunk == one["chunks"]["end"]
    whole = b""
    for term in answer["terms"]:
        parts = [fetched[term["hash"], n] for n in range(term["range"]["start"], term["range"]["end"])]
        assert sum(map(len, parts)) == term["unpacked_length"]
        whole += b"".join(parts)
    skip = answer["offset_into_first_range"]
    assert whole[skip : skip + end - begin] == WHOLE[begin:end]


@bounded(100)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30).map(str.strip), segments)
def test_odd_ranges_hashes_and_prefixes(world: World, asked: str, segment: str) -> None:
    for path in (
        f"v1/reconstructions/{XET}",
        f"v2/reconstructions/{segment}",
        f"v1/chunks/default/{segment}",
    ):
        status, _, _ = world.cas.ask("GET", f"{world.base}/{path}", b"", {"range": asked})
        assert status in (200, 400, 404, 416)
    assert world.cas.ask("GET", f"{world.base}/v1/chunks/{segment}/{XET}")[0] in (400, 404)


@bounded(80)
@given(st.data())
def test_shards_of_the_second_form(world: World, data: st.DataObject) -> None:
    name, _ = make.xorb(CHUNKS, 1)
    good = make.shard(XET, [(name, len(WHOLE), 0, len(CHUNKS))])
    status, _, body = world.cas.ask("POST", f"{world.base}/v2/shards", data.draw(damaged(good)))
    assert status in (200, 400, 404, 413)
    if status == 200:
        assert json.loads(body.splitlines()[-1])["type"] in ("result", "error")


# Buckets

_hashes = st.one_of(st.sampled_from([XET, "0" * 64, "f" * 64]), texts)
_lines = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["addFile", "copyFile", "deleteFile", "x"]), "path": texts},
        optional={
            "xetHash": _hashes,
            "mtime": st.one_of(st.integers(-(2**70), 2**70), values),
            "contentType": texts,
            "sourceRepoType": st.one_of(st.sampled_from(["bucket", "model", "models", "kernel"]), texts),
            "sourceRepoId": st.one_of(st.sampled_from(["admin/fuzzed", REPO]), texts),
        },
    ),
    values,
)


@bounded(200)
@given(st.lists(_lines, max_size=5))
def test_bucket_batches(world: World, lines: list[object]) -> None:
    body = b"\n".join(as_json(line) for line in lines)
    status, _, answer = world.line.ask("POST", "/api/buckets/admin/fuzzed/batch", body)
    assert status in (200, 400, 413, 422), answer
    look(world)


@bounded(100)
@given(segments, texts)
def test_bucket_paths(world: World, segment: str, text: str) -> None:
    for path in (f"tree/{segment}", f"tree?cursor={segment}", f"tree/{segment}?recursive=true"):
        assert world.line.ask("GET", f"/api/buckets/admin/fuzzed/{path}")[0] in (200, 400)
    assert world.line.ask("GET", f"/buckets/admin/fuzzed/resolve/{segment}")[0] in (200, 400, 404)
    status = world.line.ask("POST", "/api/buckets/admin/fuzzed/paths-info", as_json({"paths": [text]}))[0]
    assert status in (200, 400)


def look(world: World) -> None:
    """The bucket can be listed, and its sums are those of its files."""
    _, _, body = world.line.ask("GET", "/api/buckets/admin/fuzzed/tree?recursive=true")
    files = json.loads(body)
    info = json.loads(world.line.ask("GET", "/api/buckets/admin/fuzzed")[2])
    if len(files) < 1000:
        assert (info["totalFiles"], info["size"]) == (len(files), sum(file["size"] for file in files))
