"""Fuzzers over what the hub takes from strangers: paths, ranges, commits, cards, pointers, LFS, xorbs and shards."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import RunningFust
from tests.support import xet_bytes as make
from tests.support.hostile import Line, as_json, bounded, damaged, segments, texts, values

pytestmark = pytest.mark.faults
REPO = "admin/fuzzed"


@pytest.fixture(scope="module")
def line(server: RunningFust) -> Iterator[Line]:
    status, _, body = server.request("POST", "/api/repos/create", {"name": REPO})
    assert status == 200, body
    made = Line(server)
    assert commit(
        made, [("file", {"path": "data.txt", "content": b64(b"0123456789" * 50), "encoding": "base64"})]
    )
    yield made
    made.close()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def commit(line: Line, lines: list[tuple[object, object]], branch: str = "main") -> bool:
    every = [{"key": "header", "value": {"summary": "x"}}, *({"key": k, "value": v} for k, v in lines)]
    body = b"\n".join(as_json(item) for item in every)
    return line.ask("POST", f"/api/models/{REPO}/commit/{branch}", body)[0] == 200


def look(line: Line) -> None:
    """Reads everything that shows a repo: what was stored must not break the reading of it."""
    for path in (
        f"/api/models/{REPO}?blobs=true",
        "/api/models?full=true",
        f"/api/models/{REPO}/tree/main?recursive=true&expand=true",
        f"/api/models/{REPO}/commits/main",
        f"/fust/v1/repos/model/{REPO}",
        "/fust/v1/repos?type=model",
    ):
        assert line.ask("GET", path)[0] == 200, path


operations = st.tuples(
    st.one_of(
        st.sampled_from(["file", "lfsFile", "deletedFile", "deletedFolder", "copyFile", "header"]), texts
    ),
    st.one_of(
        st.fixed_dictionaries(
            {},
            optional={
                "path": texts,
                "content": st.one_of(texts, st.binary(max_size=50).map(b64)),
                "encoding": st.one_of(st.sampled_from(["base64", "utf-8"]), texts),
                "oid": st.one_of(st.sampled_from(["0" * 64, "a" * 64]), texts),
                "size": st.one_of(st.integers(), values),
                "srcPath": texts,
                "srcRevision": st.one_of(st.none(), texts),
                "summary": texts,
                "description": texts,
                "parentCommit": texts,
            },
        ),
        values,
    ),
)


@bounded(120)
@given(st.lists(operations, max_size=5))
def test_commits(line: Line, lines: list[tuple[object, object]]) -> None:
    if commit(line, lines):
        look(line)


@bounded(60)
@given(st.data())
def test_commits_cut_and_changed(line: Line, data: st.DataObject) -> None:
    good = b'{"key":"header","value":{"summary":"x"}}\n{"key":"file","value":{"path":"a/b.txt","content":"eA==","encoding":"base64"}}\n'
    line.ask("POST", f"/api/models/{REPO}/commit/main", data.draw(damaged(good)))


ROUTES = [
    ("GET", "/api/models/{}/{}"),
    ("GET", "/api/{}"),
    ("GET", "/api/models/{}/{}/revision/{}"),
    ("GET", "/api/models/admin/fuzzed/tree/{}/{}"),
    ("GET", "/api/models/admin/fuzzed/tree/main/{}?cursor={}&limit={}&expand={}"),
    ("GET", "/api/models?search={}&author={}&filter={}&sort={}&limit={}&cursor={}"),
    ("GET", "/api/models/admin/fuzzed/commits/{}?p={}&limit={}"),
    ("GET", "/admin/fuzzed/resolve/{}/{}"),
    ("HEAD", "/admin/fuzzed/resolve/main/{}"),
    ("GET", "/admin/fuzzed/raw/{}/data.txt"),
    ("GET", "/datasets/{}/{}/resolve/{}/{}"),
    ("GET", "/{}/{}.git/info/refs?service={}"),
    ("POST", "/{}/{}.git/git-upload-pack"),
    ("POST", "/admin/fuzzed.git/git-upload-pack"),
    ("GET", "/admin/fuzzed.git/info/lfs/objects/{}?n={}&e={}&s={}"),
    ("PUT", "/admin/fuzzed.git/info/lfs/objects/{}?n={}&e={}&s={}"),
    ("GET", "/api/models/admin/fuzzed/xet-{}-token/{}"),
    ("GET", "/xet/xorbs/{}?t={}&r={}"),
    ("GET", "/xet/{}/v1/reconstructions/{}"),
    ("GET", "/xet/v2/reconstructions/{}"),
    ("POST", "/xet/{}/v1/xorbs/default/{}"),
    ("POST", "/api/models/admin/fuzzed/branch/{}"),
    ("DELETE", "/api/models/admin/fuzzed/branch/{}"),
    ("POST", "/api/models/admin/fuzzed/tag/{}"),
    ("DELETE", "/api/models/admin/fuzzed/tag/{}"),
    ("GET", "/{}/{}/{}"),
    ("GET", "/{}"),
    ("GET", "/fust/v1/{}/{}"),
    ("GET", "/fust/v1/repos/{}/{}/{}?revision={}"),
    ("GET", "/fust/v1/repos/model/admin/fuzzed?revision={}"),
    ("GET", "/v1/models/{}"),
    ("GET", "/v1/{}"),
]


@bounded(500)
@given(st.sampled_from(ROUTES), st.data())
def test_paths(line: Line, route: tuple[str, str], data: st.DataObject) -> None:
    method, pattern = route
    path = pattern.format(*(data.draw(segments) for _ in range(pattern.count("{}"))))
    body = as_json(data.draw(values)) if method in ("POST", "PUT", "DELETE") else b""
    line.ask(method, path, body)


@bounded(80)
@given(
    st.one_of(
        st.from_regex(r"\A(bytes|lines)?=?[0-9]{0,25}-[0-9]{0,25}(,[0-9]{0,3}-[0-9]{0,3})?\Z"),
        st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30).map(str.strip),
    )
)
def test_ranges(line: Line, asked: str) -> None:
    status, headers, body = line.ask("GET", f"/{REPO}/resolve/main/data.txt", headers={"range": asked})
    assert status in (200, 206, 400, 416)
    whole = b"0123456789" * 50
    if status == 206:
        start, end = headers["content-range"].split()[1].split("/")[0].split("-")
        assert body == whole[int(start) : int(end) + 1]
    elif status == 200:
        assert body == whole


def test_many_query_fields(line: Line) -> None:
    assert line.ask("GET", "/api/models?" + "a=1&" * 5000)[0] == 400
    assert line.ask("GET", "/fust/v1/repos?" + "a=1&" * 5000)[0] in (200, 400)
    assert line.ask("GET", "/?" + "a=1&" * 5000)[0] == 200
    assert line.ask("GET", "/fust/v1/repos?search=" + "a+" * 5000)[0] == 200
    assert line.ask("GET", "/api/models?filter=" + "a," * 5000)[0] == 200
    assert line.ask("GET", "/fust/v1/repos?cursor=" + "9" * 5000)[0] == 400


@bounded(60)
@given(st.one_of(texts, st.from_regex(r"\A[0-9]{1,6000}\Z")))
def test_last_event_id(line: Line, seen: str) -> None:
    header = seen.encode("latin-1", "replace").decode("latin-1").translate({10: None, 13: None, 0: None})
    line.ask("GET", "/fust/v1/runs/nothing/events", headers={"last-event-id": header})


BODIES = [
    "/api/repos/create",
    f"/api/models/{REPO}/paths-info/main",
    f"/api/models/{REPO}/preupload/main",
    f"/api/models/{REPO}/branch/x",
    f"/api/models/{REPO}/tag/main",
    f"/{REPO}.git/info/lfs/objects/batch",
    f"/{REPO}.git/info/lfs/objects/verify",
    "/api/validate-yaml",
    "/fust/v1/runs",
    "/fust/v1/deployments",
    "/fust/v1/session",
    "/fust/v1/tokens",
]
SHAPES = st.fixed_dictionaries(
    {},
    optional={
        "name": values,
        "organization": values,
        "type": st.one_of(st.sampled_from(["model", "dataset"]), values),
        "private": values,
        "files": st.lists(
            st.fixed_dictionaries({"path": texts, "size": values}, optional={"sample": texts}), max_size=3
        ),
        "paths": st.lists(texts, max_size=3),
        "tag": texts,
        "message": texts,
        "startingPoint": texts,
        "operation": st.one_of(st.sampled_from(["upload", "download"]), values),
        "objects": st.lists(
            st.fixed_dictionaries({"oid": st.one_of(st.just("0" * 64), texts), "size": values}), max_size=3
        ),
        "oid": st.one_of(st.just("0" * 64), texts),
        "size": values,
        "content": texts.map(lambda text: f"---\n{text}\n---\n"),
        "kind": st.one_of(st.just("pull"), texts),
        "params": st.dictionaries(texts, values, max_size=3),
        "repo_id": texts,
    },
)


@bounded(300)
@given(st.sampled_from(BODIES), st.one_of(SHAPES, values))
def test_bodies(line: Line, path: str, value: object) -> None:
    line.ask("POST", path, as_json(value))


@pytest.mark.parametrize("path", BODIES)
def test_deep_and_broken_bodies(line: Line, path: str) -> None:
    deep = b"[" * 100_000
    for body in (
        b"",
        b"\xff\xfe",
        deep,
        b'{"params":' + deep,
        b'{"kind":"pull","params":{"a":' + deep + b"1" + b"]" * 100_000 + b"}}",
        b'{"kind":"pull","params":{"a":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}}",
        b'{"name":"\\ud800"}',
        b'{"repo_id":"\\ud800/x","kind":"\\udfff"}',
        b'{"size":' + b"9" * 100_000 + b"}",
    ):
        assert line.ask("POST", path, body)[0] >= 200


# Cards

YAML_PIECES = st.sampled_from(
    [
        "license: apache-2.0",
        "license: [a, [b, [c]]]",
        "license: 0xffffffffffffffffffffffff",
        "language: [en, no, 1, 2024-01-01, ~, {a: b}]",
        "tags: !!set {a, b}",
        "tags: !!binary aGVsbG8=",
        "x: !!python/object/apply:os.system [id]",
        "x: !!int '9'",
        "x: " + "9" * 10_000,
        "x: 0x" + "f" * 10_000,
        "x: " + ":".join(["59"] * 500),
        "x: 1e999",
        "x: .nan",
        "x: -.inf",
        "x: 2024-99-99",
        "x: 2001-12-14t21:59:43.10-05:00",
        "x: '\\ud800'",
        'x: "\\ud800"',
        'x: "\\uD83D"',
        'x: "\\0"',
        "x: \x07",
        "? [a, b]\n: c",
        "? {a: b}\n: c",
        "<<: {a: b}",
        "a: &a [1]\nb: *a",
        "a: &a [*a]",
        "x: " + "[" * 2000,
        "x: " + "[" * 50 + "]" * 50,
        "x: " + "{a: " * 500 + "1" + "}" * 500,
        "- a\n- b",
        "x: |\n  text\n---",
        "pipeline_tag: " + "x" * 100_000,
        "tags: [" + "a, " * 50_000 + "]",
        "k" * 100_000 + ": 1",
        "%YAML 9.9",
        "!<tag:yaml.org,2002:map> {}",
        "x: !!timestamp 1",
        "x: !!omap [a: 1]",
        "x: !!float 0x_._",
        "x: !!bool maybe",
        "x: =",
        "library_name: [1]",
        "task_categories: {a: 1}",
    ]
)


@bounded(100)
@given(st.lists(st.one_of(YAML_PIECES, texts), max_size=4), texts)
def test_cards(line: Line, pieces: list[str], body: str) -> None:
    card = ("---\n" + "\n".join(pieces) + "\n---\n" + body).encode("utf-8", "replace")
    line.ask("POST", "/api/validate-yaml", as_json({"content": card.decode()}))
    if commit(line, [("file", {"path": "README.md", "content": b64(card), "encoding": "base64"})]):
        look(line)


# Large files


@bounded(60)
@given(
    st.one_of(
        st.builds(
            lambda oid, size, more: (
                f"version https://git-lfs.github.com/spec/v1\n{more}oid sha256:{oid}\nsize {size}\n"
            ),
            st.one_of(st.sampled_from(["0" * 64, "Z" * 64, "../../x"]), texts),
            st.one_of(st.integers(-(2**70), 2**70).map(str), texts),
            st.sampled_from(["", "ext-0-a sha256:" + "1" * 64 + "\n", "\r\n"]),
        ).map(lambda text: text.encode("utf-8", "replace")),
        damaged(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12\n"),
    )
)
def test_pointer_files(line: Line, pointer: bytes) -> None:
    if commit(line, [("file", {"path": "weights.bin", "content": b64(pointer), "encoding": "base64"})]):
        status, _, body = line.ask("GET", f"/{REPO}/resolve/main/weights.bin")
        assert status == 404 or body == pointer
        look(line)


@pytest.fixture(scope="module")
def cas(server: RunningFust, line: Line) -> Iterator[tuple[str, Line]]:
    """Where xorbs go, and a line that may write there."""
    answer = json.loads(line.ask("GET", f"/api/models/{REPO}/xet-write-token/main")[2])
    made = Line(server, answer["accessToken"])
    yield urlsplit(answer["casUrl"]).path, made
    made.close()


CHUNKS = [b"hello" * 50, bytes(3000), b"abcdefg" * 300]


@bounded(120)
@given(st.data(), st.integers(0, 2))
def test_xorbs(cas: tuple[str, Line], data: st.DataObject, scheme: int) -> None:
    path, key = cas
    name, body = make.xorb(CHUNKS, scheme)
    sent = data.draw(damaged(body))
    # What is taken has the hash of its name: a compressed chunk may be written in more than one way.
    assert key.ask("POST", f"{path}/v1/xorbs/default/{name}", sent)[0] in (200, 400)


@bounded(120)
@given(st.data())
def test_shards(cas: tuple[str, Line], data: st.DataObject) -> None:
    path, key = cas
    name, body = make.xorb(CHUNKS)
    assert key.ask("POST", f"{path}/v1/xorbs/default/{name}", body)[0] == 200
    size = sum(map(len, CHUNKS))
    sha = hashlib.sha256(b"".join(CHUNKS)).hexdigest()
    good = make.shard(make.file_hash(CHUNKS), [(name, size, 0, 3)], sha256=sha)
    status = key.ask("POST", f"{path}/v1/shards", data.draw(damaged(good)))[0]
    assert status in (200, 400, 404, 413)
