"""Hostile requests to the hub surface over HTTP: each is refused with its code, and nothing of it stays."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fust.hub.xet import hashing
from tests.conftest import RunningFust
from tests.support import xet_bytes as make

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def repo(server: RunningFust) -> str:
    status, _, body = server.request("POST", "/api/repos/create", {"name": "admin/target", "private": True})
    assert status == 200, body
    commit(
        server, [("file", {"path": "page.html", "content": b64(b"<script>1</script>"), "encoding": "base64"})]
    )
    return "admin/target"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def commit(
    server: RunningFust, lines: list[tuple[str, dict]], *, head: dict | None = None
) -> tuple[int, dict, bytes]:
    every = [("header", head or {"summary": "x"}), *lines]
    body = b"\n".join(json.dumps({"key": k, "value": v}).encode() for k, v in every)
    return server.request("POST", "/api/models/admin/target/commit/main", body)


def xet_token(server: RunningFust, right: str = "write", name: str = "target") -> tuple[str, str]:
    status, headers, body = server.request("GET", f"/api/models/admin/{name}/xet-{right}-token/main")
    assert status == 200, body
    answer = json.loads(body)
    assert headers["x-xet-access-token"] == answer["accessToken"]
    return urlsplit(answer["casUrl"]).path, answer["accessToken"]


def leftovers(server: RunningFust) -> list[str]:
    return [p.name for p in (server.home / "blobs" / "tmp").iterdir()]


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/x",
        "a/../../x",
        ".git/hooks/post-update",
        "a\\b",
        "a\0b",
        "x" * 300,
        "a/" * 600 + "b",
        "\ud800",
    ],
)
def test_paths_that_would_leave_the_repo(server: RunningFust, repo: str, path: str) -> None:
    value = {"path": path, "content": b64(b"x"), "encoding": "base64"}
    status, headers, _ = commit(server, [("file", value)])
    assert status == 400 and headers["x-error-code"] in ("BadPath", "InvalidInput")
    for key in ("deletedFile", "deletedFolder"):
        assert commit(server, [(key, {"path": path})])[0] in (400, 404)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"key":"header","value":{"summary":"x"}}',
        b'{"key":"file","value":{"path":"a","content":"eA==","encoding":"base64"}}',
        b'{"key":"header","value":{"summary":"x"}}\nnot json',
        b'{"key":"header","value":{"summary":"x"}}\n{"key":"unknown","value":{}}',
        b'{"key":"header","value":{"summary":"x"}}\n{"key":"file","value":{"path":"a","content":"!!!","encoding":"base64"}}',
        b'{"key":"header","value":{"summary":"x"}}\n{"key":"file","value":{"path":"a","content":"x","encoding":"rot13"}}',
        b'{"key":"header","value":{"summary":"x"}}\n{"key":"lfsFile","value":{"path":"a","oid":"../../etc","size":1}}',
        b'{"key":"header","value":{"summary":"x"}}\n{"key":"lfsFile","value":{"path":"a","oid":"'
        + b"0" * 64
        + b'"}}',
        b'{"key":"header","value":{"summary":"\xff\xfe"}}',
        b"[" * 100_000,
    ],
)
def test_malformed_commits(server: RunningFust, repo: str, body: bytes) -> None:
    status, headers, answer = server.request("POST", "/api/models/admin/target/commit/main", body)
    assert status == 400, answer
    assert headers["x-error-code"] and json.loads(answer)["error"]
    assert leftovers(server) == []


def test_oversize_bodies(server: RunningFust, repo: str) -> None:
    parts = urlsplit(server.url)
    cas, token = xet_token(server)
    for method, path, size, key in (
        ("POST", "/api/models/admin/target/commit/main", 900_000_000, server.token),
        ("POST", "/api/repos/create", 500_000_000, server.token),
        ("POST", f"{cas}/v1/xorbs/default/{'ab' * 32}", 500_000_000, token),
        ("POST", f"{cas}/v1/shards", 500_000_000, token),
    ):
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        connection.putrequest(method, path)
        connection.putheader("authorization", f"Bearer {key}")
        connection.putheader("content-length", str(size))
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 413, path
        connection.close()
    # No length told: the body is cut off when it is over.
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    connection.putrequest("POST", "/api/repos/create")
    connection.putheader("authorization", f"Bearer {server.token}")
    connection.putheader("transfer-encoding", "chunked")
    connection.endheaders()
    try:
        for _ in range(100):
            connection.send(b"100000\r\n" + bytes(2**20) + b"\r\n")
        raise AssertionError("all of it was read")
    except OSError:
        pass
    connection.close()
    assert leftovers(server) == []


def test_a_client_that_leaves_keeps_nothing_here(server: RunningFust, repo: str) -> None:
    parts = urlsplit(server.url)
    cas, token = xet_token(server)
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as line:
        line.sendall(
            f"POST {cas}/v1/xorbs/default/{'ab' * 32} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
            "content-length: 5000000\r\n\r\n".encode()
            + bytes(2_000_000)
        )
    deadline(lambda: leftovers(server) == [])


def deadline(condition: Callable[[], bool]) -> None:
    import time

    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_forged_xorbs_shards_and_tokens(server: RunningFust, repo: str) -> None:
    cas, token = xet_token(server)
    name, data = make.xorb([b"hello" * 50])

    def post(path: str, body: bytes, key: str = token) -> tuple[int, dict[str, str], bytes]:
        return server.request("POST", cas + path, body, token=key)

    for bad in (data[:-1], data + b"x", make.chunk(b"other"), b""):
        status, headers, _ = post(f"/v1/xorbs/default/{name}", bad)
        assert status == 400 and headers["x-error-code"] in ("BadXorb", "BadHash")
    assert post("/v1/xorbs/default/..%2f..%2fx", data)[0] == 400
    assert post(f"/v1/xorbs/default/{name.upper()}", data)[0] == 400
    _, reading = xet_token(server, "read")
    assert post(f"/v1/xorbs/default/{name}", data, reading)[0] == 403
    assert post(f"/v1/xorbs/default/{name}", data, server.token)[0] == 401
    assert post(f"/v1/xorbs/default/{name}", data, token[:-1] + "x")[0] == 401
    assert post(f"/v1/xorbs/default/{name}", data)[0] == 200
    whole = make.file_hash([b"hello" * 50])
    good = [(name, 250, 0, 1)]
    sha = hashlib.sha256(b"hello" * 50).hexdigest()
    for bad in (make.shard(whole, good, sha256="0" * 64), make.shard("0" * 64, good), b"junk", b""):
        assert post("/v1/shards", bad)[0] == 400
    assert server.request("GET", f"{cas}/v1/reconstructions/{whole}", token=token)[0] == 404
    assert post("/v1/shards", make.shard(whole, good, sha256=sha))[0] == 200
    assert post("/v2/shards", b"")[0] == 400
    assert server.request("GET", f"{cas}/v1/chunks/default-merkledb/{whole}", token=token)[0] == 404
    # The writer sees it, a reader of the repo only when a commit points to it.
    assert server.request("GET", f"{cas}/v1/reconstructions/{whole}", token=token)[0] == 200
    assert server.request("GET", f"{cas}/v1/reconstructions/{whole}", token=reading)[0] == 404
    assert (
        commit(server, [("lfsFile", {"path": "h.bin", "algo": "sha256", "oid": sha, "size": 250})])[0] == 200
    )
    status, _, body = server.request("GET", f"{cas}/v1/reconstructions/{whole}", token=reading)
    answer = json.loads(body)
    assert status == 200 and answer["terms"][0]["unpacked_length"] == 250
    fetch = answer["fetch_info"][name][0]
    url = urlsplit(fetch["url"])
    window = f"bytes={fetch['url_range']['start']}-{fetch['url_range']['end']}"

    def get(query: str, window: str) -> tuple[int, dict[str, str], bytes]:
        return server.request("GET", f"{url.path}?{query}", token=None, headers={"range": window})

    assert get(url.query, window)[0] == 206 and get(url.query, window)[2] == data
    assert get(url.query[:-1] + "x", window)[0] == 403
    assert get(url.query.replace("r=0-", "r=1-"), window)[0] == 403
    assert get("", window)[0] == 403
    status, headers, _ = server.request(
        "GET", f"{cas}/v1/reconstructions/{whole}", token=reading, headers={"range": "bytes=250-"}
    )
    assert status == 416
    assert leftovers(server) == []
    assert hashing.is_hash(whole)


def test_a_signed_url_opens_its_own_bytes_only(server: RunningFust, repo: str) -> None:
    cas, token = xet_token(server)
    chunks = [bytes([i]) * 1000 for i in range(4)]
    name, data = make.xorb(chunks)
    server.request("POST", f"{cas}/v1/xorbs/default/{name}", data, token=token)
    part = make.file_hash(chunks[1:2])
    server.request("POST", f"{cas}/v1/shards", make.shard(part, [(name, 1000, 1, 2)]), token=token)
    _, _, body = server.request("GET", f"{cas}/v2/reconstructions/{part}", token=token)
    entry = json.loads(body)["xorbs"][name][0]
    assert entry["ranges"] == [{"chunks": {"start": 1, "end": 2}, "bytes": {"start": 1008, "end": 2015}}]
    url = urlsplit(entry["url"])
    for window, status in (
        ("bytes=1008-2015", 206),
        ("bytes=0-100", 403),
        ("bytes=1008-2016", 403),
        ("", 206),
    ):
        headers = {"range": window} if window else {}
        found = server.request("GET", f"{url.path}?{url.query}", token=None, headers=headers)
        assert found[0] == status
        assert status != 206 or found[2] == data[1008:2016]


def test_pages_never_run_and_ranges_are_exact(server: RunningFust, repo: str) -> None:
    base = f"/{repo}/resolve/main/page.html"
    status, headers, body = server.request("GET", base)
    assert status == 200 and body == b"<script>1</script>"
    assert (
        headers["content-type"] == "application/octet-stream"
        and headers["x-content-type-options"] == "nosniff"
    )
    assert (
        headers["content-disposition"].startswith("attachment")
        and "sandbox" in headers["content-security-policy"]
    )
    for window, expected in (
        ("bytes=0-0", (206, b"<")),
        ("bytes=-3", (206, b"pt>")),
        ("bytes=5-", (206, b"pt>1</script>")),
        ("bytes=5-3", (200, body)),
        ("bytes=0-1,3-4", (200, body)),
        ("lines=0-1", (200, body)),
        ("bytes=17-999999999999999999", (206, b">")),
        ("bytes=18-", (416, b"")),
        ("bytes=-0", (416, b"")),
        ("bytes=99999999999999999999-", (200, body)),
    ):
        status, headers, got = server.request("GET", base, headers={"range": window})
        assert (status, got) == expected, window
        if status == 416:
            assert headers["content-range"] == "bytes */18"
    etag = server.request("HEAD", base)[1]["etag"]
    assert server.request("GET", base, headers={"if-none-match": etag})[0] == 304
    assert server.request("GET", base, headers={"range": "bytes=0-0", "if-range": '"old"'})[0] == 200
    assert server.request("HEAD", base)[1]["content-length"] == "18"


def test_strange_urls(server: RunningFust, repo: str) -> None:
    for path, expected in (
        ("/admin/target/resolve/main/..%2f..%2f..%2fetc%2fpasswd", 404),
        ("/admin/target/resolve/main/%2e%2e/%2e%2e/token", 404),
        ("/admin/target/resolve/main/%00", 400),
        ("/admin/target/resolve/main/%ff", 400),
        ("/admin/target/resolve/..%2f..%2f/x", 404),
        ("/admin/target/resolve/refs%2fheads%2fmain/page.html", 200),
        ("/admin/target/resolve/%2d%2dupload/x", 404),
        ("/api/models/admin/target/tree/main/nope", 404),
        ("/api/models/admin/target/tree/main?cursor=-1&limit=999999999999", 200),
        ("/api/models/admin/target/tree/main?cursor=99999999999999999999", 200),
        ("/api/models?limit=0&cursor=abc", 400),
        ("/api/nothing/here", 501),
        ("/api/models/%2e%2e/%2e%2e/refs", 404),
        ("/admin/target/info/refs?service=git-upload-archive", 400),
        ("/admin/target/info/lfs/objects/" + "0" * 64, 403),
    ):
        parts = urlsplit(server.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        connection.putrequest("GET", path, skip_host=False)
        connection.putheader("authorization", f"Bearer {server.token}")
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == expected, (path, answer.status, answer.read()[:200])
        if expected == 404 and "/resolve/main/" in path and path.startswith("/admin/target"):
            assert answer.headers["X-Error-Code"] == "EntryNotFound" and answer.headers["X-Repo-Commit"]
        answer.read()
        connection.close()


def test_lfs_uploads_must_be_what_was_promised(server: RunningFust, repo: str) -> None:
    data = b"lfs" * 1000
    oid = hashlib.sha256(data).hexdigest()
    batch = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
    _, _, body = server.request("POST", f"/{repo}.git/info/lfs/objects/batch", batch)
    url = urlsplit(json.loads(body)["objects"][0]["actions"]["upload"]["href"])

    def put(body: bytes, query: str = url.query) -> tuple[int, dict[str, str], bytes]:
        return server.request("PUT", f"{url.path}?{query}", body, token=None)

    assert put(data[:-1])[0] == 400
    assert put(b"x" * len(data))[0] == 400
    assert put(data + b"x")[0] == 413
    assert put(data, url.query.replace(f"n={len(data)}", "n=99999999"))[0] == 403
    assert put(data, "")[0] == 403
    assert leftovers(server) == []
    assert put(data)[0] == 200
    other = {"operation": "upload", "objects": [{"oid": "../../x", "size": 1}]}
    assert server.request("POST", f"/{repo}.git/info/lfs/objects/batch", other)[0] == 400


def test_a_stranger_sees_no_private_repo_anywhere(server: RunningFust, repo: str) -> None:
    oid = json.loads(server.request("GET", f"/api/models/{repo}")[2])["sha"]
    for method, path in (
        ("GET", f"/api/models/{repo}"),
        ("GET", f"/api/models/{repo}/tree/main"),
        ("GET", f"/api/models/{repo}/revision/{oid}"),
        ("POST", f"/api/models/{repo}/paths-info/main"),
        ("GET", f"/api/models/{repo}/refs"),
        ("GET", f"/api/models/{repo}/commits/main"),
        ("GET", f"/api/models/{repo}/xet-read-token/main"),
        ("GET", f"/api/models/{repo}/xet-write-token/main"),
        ("GET", f"/{repo}/resolve/main/page.html"),
        ("GET", f"/{repo}/resolve/{oid}/page.html"),
        ("GET", f"/{repo}.git/info/refs?service=git-upload-pack"),
        ("POST", f"/{repo}.git/git-upload-pack"),
        ("POST", f"/{repo}.git/git-receive-pack"),
        ("POST", f"/api/models/{repo}/commit/main"),
        ("POST", f"/api/models/{repo}/preupload/main"),
        ("POST", f"/api/models/{repo}/branch/x"),
        ("DELETE", f"/api/models/{repo}/branch/main"),
        ("PUT", f"/api/models/{repo}/settings"),
        ("GET", f"/fust/v1/repos/model/{repo}"),
    ):
        body = {"files": []} if "preupload" in path else {} if method in ("POST", "PUT") else None
        missing = path.replace(repo, "admin/never-made")
        status, headers, found = server.request(method, path, body, token=None)
        status2, headers2, found2 = server.request(method, missing, body, token=None)
        assert status == status2 and status in (401, 404), (path, status, found)
        assert headers.get("x-error-code") == headers2.get("x-error-code")
        assert (
            found.replace(b"target", b"never-made").split(b"request_id")[0] == found2.split(b"request_id")[0]
        )
    batch = {"operation": "download", "objects": [{"oid": "0" * 64, "size": 1}]}
    assert server.request("POST", f"/{repo}.git/info/lfs/objects/batch", batch, token=None)[0] == 401
    assert b"target" not in server.request("GET", "/api/models", token=None)[2]
    assert b"target" not in server.request("GET", "/fust/v1/repos", token=None)[2]


def test_a_hostile_host_header_changes_no_url(server: RunningFust, repo: str) -> None:
    headers = {"host": "evil.example", "x-forwarded-host": "evil.example"}
    for path in (
        f"/api/models/{repo}/xet-read-token/main",
        f"/{repo}/resolve/main/page.html",
        "/api/models?limit=1",
    ):
        _, answer, body = server.request("GET", path, headers=headers)
        assert b"evil" not in body and not any("evil" in value for value in answer.values())


def test_reading_keys_do_not_write(server: RunningFust, repo: str) -> None:
    _, _, body = server.request("POST", "/fust/v1/tokens", {"name": "r", "scope": "read"})
    key = json.loads(body)["token"]
    assert server.request("GET", f"/api/models/{repo}", token=key)[0] == 200
    for method, path in (
        ("POST", f"/api/models/{repo}/commit/main"),
        ("GET", f"/api/models/{repo}/xet-write-token/main"),
        ("POST", f"/api/models/{repo}/branch/x"),
    ):
        assert server.request(method, path, {}, token=key)[0] == 403
    assert server.request("POST", "/api/repos/create", {"name": "admin/new"}, token=key)[0] == 403
    assert server.request("DELETE", "/api/repos/delete", {"name": repo}, token=key)[0] == 403
    status, headers, _ = server.request("GET", f"/api/models/{repo}", token="fust_wrong")
    assert status == 401 and headers["x-error-message"] == "Invalid credentials in Authorization header"


def test_home_of_the_test_is_whole(server: RunningFust, repo: str) -> None:
    import subprocess

    git = Path(server.home) / "git/models/admin/target.git"
    subprocess.run(["git", "-C", str(git), "fsck", "--strict"], check=True, capture_output=True)
