"""What the page shows of repos beyond their lists: first rows, history, changes, and storage sums."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import RunningFust, start_fust


def get(server: RunningFust, path: str, *, lang: str = "en") -> Any:
    status, _, body = server.request("GET", path, headers={"accept-language": lang})
    assert status == 200, body
    return json.loads(body)


def commit(server: RunningFust, repo: str, files: dict[str, bytes], *, summary: str = "Add") -> str:
    """Commits small files; None as content deletes."""
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": summary, "description": "Why."}}]
    for path, data in files.items():
        if data is None:
            lines.append({"key": "deletedFile", "value": {"path": path}})
            continue
        content = base64.b64encode(data).decode()
        lines.append({"key": "file", "value": {"path": path, "encoding": "base64", "content": content}})
    body = "\n".join(json.dumps(line) for line in lines).encode()
    headers = {"content-type": "application/x-ndjson"}
    status, _, answer = server.request("POST", f"/api/datasets/{repo}/commit/main", body, headers=headers)
    assert status == 200, answer
    return json.loads(answer)["commitOid"]


@pytest.fixture(scope="module")
def repo(server: RunningFust) -> str:
    status, _, body = server.request("POST", "/api/repos/create", {"name": "looks", "type": "dataset"})
    assert status == 200, body
    return "admin/looks"


def preview(server: RunningFust, repo: str, path: str, data: bytes, *, lang: str = "en") -> Any:
    commit(server, repo, {path: data})
    return get(server, f"/fust/v1/repos/dataset/{repo}/preview?path={quote(path)}", lang=lang)


def parquet_bytes(columns: dict[str, list[Any]]) -> bytes:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    out = io.BytesIO()
    parquet.write_table(arrow.table(columns), out, row_group_size=1000)
    return out.getvalue()


def test_json_lines_keep_their_values_as_written(server: RunningFust, repo: str) -> None:
    rows = b'{"q": "\xe4\xbd\xa0\xe5\xa5\xbd", "n": 1.10, "ok": true}\n{"q": null, "tags": ["a", {"b": 1}]}\n'
    seen = preview(server, repo, "data/train.jsonl", rows)
    assert seen["kind"] == "table"
    assert seen["columns"] == [
        {"name": "q", "kind": "text"},
        {"name": "n", "kind": "number"},
        {"name": "ok", "kind": "bool"},
        {"name": "tags", "kind": "list"},
    ]
    assert seen["rows"] == [["你好", "1.10", "true", None], [None, None, None, '["a", {"b": 1}]']]
    assert seen["more"] is False


def test_csv_with_quotes_semicolons_and_short_rows(server: RunningFust, repo: str) -> None:
    seen = preview(server, repo, "a.csv", b'name;text\nx;"two\nlines; one cell"\ny\n')
    assert [c["name"] for c in seen["columns"]] == ["name", "text"]
    assert seen["rows"] == [["x", "two\nlines; one cell"], ["y", None]]


def test_long_files_are_cut_and_say_so(server: RunningFust, repo: str) -> None:
    text = "".join(json.dumps({"i": i, "t": "x" * 5000}) + "\n" for i in range(300))
    seen = preview(server, repo, "long.jsonl", text.encode())
    assert len(seen["rows"]) == 100
    assert seen["more"] is True
    assert seen["rows"][0][1] == "x" * 2000 + "…"


def test_parquet_is_read_without_its_whole(server: RunningFust, repo: str) -> None:
    columns = {
        "id": list(range(5000)),
        "messages": [[{"role": "user", "content": f"Frage {i}"}] for i in range(5000)],
        "bytes": [random.Random(i).randbytes(40) for i in range(5000)],
    }
    seen = preview(server, repo, "t.parquet", parquet_bytes(columns))
    assert seen["reason"] == ""
    assert seen["rows_total"] == 5000
    assert [c["kind"] for c in seen["columns"]][0::2] == ["int64", "binary"]
    assert len(seen["rows"]) == 100
    assert seen["rows"][7] == ["7", '[{"role": "user", "content": "Frage 7"}]', "<40 bytes>"]
    assert seen["more"] is True


def test_what_is_no_table_is_shown_as_text_or_not_at_all(server: RunningFust, repo: str) -> None:
    broken = preview(server, repo, "broken.jsonl", b'{"a": 1}\nnot json\n')
    assert broken["kind"] == "text"
    assert "not json" in broken["text"]
    assert "JSONL" in broken["reason"]
    assert "JSONL" in preview(server, repo, "broken.jsonl", b"{]\n", lang="zh-CN")["reason"]
    assert preview(server, repo, "b.txt", bytes(range(256)))["kind"] == "none"
    assert preview(server, repo, "note.md", b"# Title\n")["text"] == "# Title\n"


@pytest.mark.faults
@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("deep.jsonl", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"),
        ("deep.json", b"[" * 200_000),
        ("digits.jsonl", b'{"a": ' + b"9" * 100_000 + b"}\n"),
        ("bomb.jsonl.gz", gzip.compress(b'{"a": "' + b"x" * 50_000_000 + b'"}\n')),
        ("wide.csv", b"," * 500_000),
        ("cell.csv", b'a\n"' + b"x" * 900_000),
        ("nul.csv", b"a,b\n\0,\0\n"),
        ("fake.parquet", b"PAR1" + b"\xff" * 5_000 + b"\xff\xff\xff\x7fPAR1"),
        ("short.parquet", b"PAR1"),
        ("empty.parquet", b""),
        ("empty.csv", b""),
        ("utf16.csv", "a,b\nä,ß\n".encode("utf-16")),
        ("half.csv.gz", gzip.compress(b"a,b\n1,2\n" * 1000)[:-20]),
        ("not.json.gz", b"plain"),
        ("names.jsonl", b'{"__proto__": 1, "": 2, "<script>": 3}\n'),
        ("many.jsonl", ("{" + ",".join(f'"k{i}":1' for i in range(20_000)) + "}\n").encode()),
    ],
)
def test_hostile_files_are_answered_within_bounds(
    server: RunningFust, repo: str, path: str, data: bytes
) -> None:
    commit(server, repo, {path: data})
    status, _, body = server.request("GET", f"/fust/v1/repos/dataset/{repo}/preview?path={path}")
    assert status == 200, body
    assert len(body) < 4_000_000
    seen = json.loads(body)
    assert len(seen["columns"]) <= 100
    assert len(seen["rows"]) <= 100


@pytest.mark.faults
def test_a_parquet_file_that_lies_does_not_harm_the_server(server: RunningFust, repo: str) -> None:
    """Bytes of a right file, changed here and there: a table, or a word why not, and the server answers on."""
    right = parquet_bytes({"a": list(range(2000)), "b": [f"text {i}" for i in range(2000)]})
    chance = random.Random(7)
    for turn in range(4):
        wrong = bytearray(right)
        for _ in range(20):
            wrong[chance.randrange(4, len(wrong))] = chance.randrange(256)
        seen = preview(server, repo, f"wrong-{turn}.parquet", bytes(wrong))
        assert seen["kind"] in ("table", "none")
        assert seen["kind"] == "table" or seen["reason"]


def test_history_pages_and_old_revisions(server: RunningFust) -> None:
    server.request("POST", "/api/repos/create", {"name": "past", "type": "dataset"})
    oids = [commit(server, "admin/past", {"n.txt": str(i).encode()}, summary=f"Turn {i}") for i in range(5)]
    base = "/fust/v1/repos/dataset/admin/past"
    first = get(server, f"{base}/commits?limit=3")
    assert [it["oid"] for it in first["items"]] == oids[:1:-1]
    rest = get(server, f"{base}/commits?limit=3&cursor={first['next']}")
    assert [it["oid"] for it in rest["items"]][:2] == oids[1::-1]
    assert rest["next"] is None
    assert get(server, f"{base}?revision={oids[1]}")["revision"] == oids[1]
    assert get(server, f"{base}/refs")["items"][0] == {"name": "main", "kind": "branch", "oid": oids[-1]}


def test_a_commit_tells_its_changes(server: RunningFust) -> None:
    server.request("POST", "/api/repos/create", {"name": "changes", "type": "dataset"})
    repo = "admin/changes"
    text = "".join(f"line {i}\n" for i in range(20))
    commit(server, repo, {"a.txt": text.encode(), "old/name.txt": b"same bytes, long enough\n"})
    changed = text.replace("line 10\n", "line ten\n").encode()
    files: dict[str, Any] = {
        "a.txt": changed,
        "old/name.txt": None,
        "new/name.txt": b"same bytes, long enough\n",
        "b.bin": bytes(range(256)),
        "é.txt": b"neu\n",
    }
    oid = commit(server, repo, files, summary="Many changes")
    seen = get(server, f"/fust/v1/repos/dataset/{repo}/commits/{oid}")
    assert seen["title"] == "Many changes"
    assert seen["message"] == "Why."
    assert len(seen["parents"]) == 1
    by_path = {it["path"]: it for it in seen["files"]}
    assert by_path["a.txt"]["hunks"][0]["lines"][3:5] == ["-line 10", "+line ten"]
    assert (by_path["a.txt"]["size_before"], by_path["a.txt"]["size_after"]) == (len(text), len(changed))
    assert by_path["new/name.txt"]["change"] == "moved"
    assert by_path["new/name.txt"]["old_path"] == "old/name.txt"
    assert by_path["b.bin"]["hunks"] == []
    assert by_path["é.txt"]["change"] == "added"
    assert by_path["é.txt"]["hunks"][0]["lines"] == ["+neu"]
    first = get(server, f"/fust/v1/repos/dataset/{repo}/commits")["items"][-1]["oid"]
    start = get(server, f"/fust/v1/repos/dataset/{repo}/commits/{first}")
    assert [it["change"] for it in start["files"]] == ["added"]


def test_a_huge_commit_stays_bounded(server: RunningFust) -> None:
    server.request("POST", "/api/repos/create", {"name": "huge", "type": "dataset"})
    files = {f"d/{i}.txt": f"{i}\n".encode() * 20 for i in range(600)} | {"long.txt": b"x\n" * 50_000}
    oid = commit(server, "admin/huge", files)
    seen = get(server, f"/fust/v1/repos/dataset/admin/huge/commits/{oid}")
    assert seen["files_total"] == 601
    assert len(seen["files"]) == 500
    assert sum(len(h["lines"]) for it in seen["files"] for h in it["hunks"]) <= 2000


def test_a_stranger_sees_no_private_repo(server: RunningFust) -> None:
    server.request("POST", "/api/repos/create", {"name": "hidden", "type": "dataset", "private": True})
    oid = commit(server, "admin/hidden", {"a.txt": b"secret\n"})
    base = "/fust/v1/repos/dataset/admin/hidden"
    for path in ("/preview?path=a.txt", "/commits", f"/commits/{oid}", "/refs"):
        assert server.request("GET", base + path)[0] == 200
        missing = "/fust/v1/repos/dataset/admin/missing" + path
        answers = [server.request("GET", it, token=None) for it in (base + path, missing)]
        assert [status for status, _, _ in answers] == [404, 404]
    assert server.request("GET", "/fust/v1/storage", token=None)[0] == 401


def test_wrong_names_are_told(server: RunningFust, repo: str) -> None:
    base = f"/fust/v1/repos/dataset/{repo}"
    assert server.request("GET", f"{base}/preview?path=no.txt")[0] == 404
    assert server.request("GET", f"{base}/preview?path=../x")[0] == 400
    assert server.request("GET", f"{base}/commits/{'0' * 40}")[0] == 404
    assert server.request("GET", f"{base}/commits/nothing")[0] == 404
    assert server.request("GET", f"{base}/commits?cursor=-1")[0] == 400


def test_storage_tells_what_large_files_take(tmp_path: Path) -> None:
    running = start_fust(tmp_path / "home")
    try:
        weights = tmp_path / "w.safetensors"
        weights.write_bytes((2).to_bytes(8, "little") + b"{}" + random.Random(1).randbytes(300_000))
        for name in ("one", "two"):
            running.cli("push", str(weights), f"admin/{name}")
        seen = get(running, "/fust/v1/storage")
        size = weights.stat().st_size
        assert seen["files"] == 1
        assert seen["files_bytes"] == size
        assert seen["referenced_bytes"] == 2 * size
        assert 0 < seen["xorb_bytes"] + seen["whole_bytes"] <= 1.1 * size
    finally:
        running.stop()


def test_two_revisions_are_compared_and_a_file_of_them_whole(server: RunningFust, repo: str) -> None:
    first = commit(server, repo, {"long.txt": b"".join(b"%d\n" % i for i in range(1500)), "same.txt": b"x\n"})
    body = {"startingPoint": first}
    assert server.request("POST", f"/api/datasets/{repo}/branch/other", body)[0] == 200
    commit(server, repo, {"main.txt": b"only on main\n"})
    lines = [
        {"key": "header", "value": {"summary": "On the other", "description": ""}},
        {
            "key": "file",
            "value": {
                "path": "long.txt",
                "content": "".join(f"{i}!\n" for i in range(1500)),
                "encoding": "utf-8",
            },
        },
    ]
    path = f"/api/datasets/{repo}/commit/other"
    assert server.request("POST", path, "\n".join(json.dumps(line) for line in lines).encode())[0] == 200

    base = f"/fust/v1/repos/dataset/{repo}/compare?head=other"
    parted = get(server, base + "&since_parted=true")
    assert parted["start_oid"] == first
    assert [c["title"] for c in parted["commits"]] == ["On the other"]
    assert [(f["path"], f["change"], f["cut"]) for f in parted["files"]] == [("long.txt", "changed", True)]
    assert parted["files"][0]["hunks"][0]["old_start"] == 1
    straight = get(server, base)
    assert {f["path"]: f["change"] for f in straight["files"]} == {
        "long.txt": "changed",
        "main.txt": "removed",
    }
    assert straight["start_oid"] == straight["base_oid"] != first
    whole = get(server, base + "&since_parted=true&path=long.txt")
    assert whole["files"][0]["cut"] is False
    assert sum(len(hunk["lines"]) for hunk in whole["files"][0]["hunks"]) == 3000
    assert server.request("GET", base.replace("other", "nothing"))[0] == 404


def test_the_history_of_one_file(server: RunningFust, repo: str) -> None:
    for text in (b"1", b"2"):
        commit(server, repo, {"folder/one.txt": text}, summary=f"One: {text.decode()}")
        commit(server, repo, {"two.txt": text}, summary="Two")
    base = f"/fust/v1/repos/dataset/{repo}/commits?limit=1&path="
    newest = get(server, base + "folder/one.txt")
    assert [line["title"] for line in newest["items"]] == ["One: 2"]
    older = get(server, f"{base}folder/one.txt&cursor={newest['next']}")
    assert ([line["title"] for line in older["items"]], older["next"]) == (["One: 1"], None)
    assert [line["title"] for line in get(server, base + "folder")["items"]] == ["One: 2"]
    assert get(server, base + "nowhere")["items"] == []


def test_what_a_reader_may_do_and_an_old_name(server: RunningFust, repo: str) -> None:
    server.request("POST", "/api/repos/create", {"name": "before", "type": "dataset"})
    moved = {"fromRepo": "admin/before", "toRepo": "admin/after", "type": "dataset"}
    assert server.request("POST", "/api/repos/move", moved)[0] == 200
    server.request("POST", "/api/datasets/admin/after/like")
    found = get(server, "/fust/v1/repos/dataset/admin/before?files=false")
    assert (found["repo_id"], found["files"], found["card"]) == ("admin/after", [], None)
    assert found["may"] == ["discuss", "push", "settings", "delete"]
    assert (found["liked"], found["likes"], found["protected"]) == (True, 1, ["main"])
    status, _, body = server.request("GET", "/fust/v1/repos/dataset/admin/after", token=None)
    assert status == 200 and json.loads(body)["may"] == []
    assert server.request("PUT", "/api/datasets/admin/after/settings", {"private": True})[0] == 200
    for name in ("before", "after"):
        assert server.request("GET", f"/fust/v1/repos/dataset/admin/{name}", token=None)[0] == 404
