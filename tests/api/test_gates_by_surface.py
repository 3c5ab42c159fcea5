"""Every surface that gives bytes of a repo, by every kind of caller, on public, private and gated repos.

A surface here goes its whole way: a token is asked for, then used; a URL is handed out, then fetched. Each names the
routes that it walks, and a route whose row in test_routes_by_role.py says `read`, or that opens by signature alone, and
that no surface walks fails the first test: whoever adds one says here how bytes leave by it.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fust.accounts.rights import SYSTEM
from fust.accounts.service import Accounts
from fust.core.settings import load_settings
from fust.store.database import Database
from tests.api.test_routes_by_role import TABLE
from tests.compat.test_hub_clients import run_client
from tests.conftest import RunningFust

OPEN, CLOSED, GATED, BOTH = REPOS = ("guild/open", "guild/closed", "guild/gated", "guild/both")
"""`both` is private and gated."""
NO, SEE, YES = "no", "see", "yes"
MAY: dict[str, tuple[str, str, str, str]] = {
    "nobody": (YES, NO, SEE, NO),
    "stranger": (YES, NO, SEE, NO),
    "pending": (YES, NO, SEE, NO),
    "accepted": (YES, NO, YES, NO),  # being let in through a gate opens no private repo
    "accepted, reading key": (YES, NO, YES, NO),
    "accepted, key for guild/gated": (YES, NO, YES, NO),
    "accepted, key for others": (YES, NO, SEE, NO),
    "rejected": (YES, NO, SEE, NO),
    "expired": (YES, NO, SEE, NO),
    "outdated": (YES, NO, SEE, NO),
    "guild reader": (YES, YES, SEE, SEE),
    "guild reader, accepted": (YES, YES, YES, YES),
    "guild writer": (YES, YES, YES, YES),
    "guild writer, reading key": (YES, YES, YES, YES),
    "guild writer, key for guild/open": (YES, NO, SEE, NO),
    "guild admin": (YES, YES, YES, YES),
    "guild owner": (YES, YES, YES, YES),
    "administrator": (YES, YES, YES, YES),
}
BUCKETS = {
    **{name: name for name in ("stranger", "pending", "accepted", "rejected", "expired", "outdated")},
    "guild reader": "reader",
    "guild reader, accepted": "reader-in",
    "guild writer": "writer",
    "guild admin": "keeper",
    "guild owner": "master",
}
"""Under which name a caller keeps a bucket of its own."""
CANARY = b"canary-4711"
WEIGHTS = CANARY * 30_000


@dataclass(frozen=True)
class Town:
    """A server with its people and the revisions of its repos."""

    server: RunningFust
    headers: dict[str, dict[str, str]]
    oids: dict[str, str]
    sha256: str
    xet_hash: str
    chunk: str
    """Hash of the first chunk of the large file."""

    def call(
        self, role: str, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        return self.server.request(method, path, body, token=None, headers={**self.headers[role], **headers})

    def fetch(self, url: str, **headers: str) -> tuple[int, bytes]:
        """Fetches a URL as it was handed out: with nothing but what it holds."""
        path = url.removeprefix(self.server.url)
        status, _, body = self.server.request("GET", path, token=None, headers=headers)
        return status, body


Surface = Callable[[Town, str, str], bytes]
"""Returns what a caller got of a repo by it."""
SURFACES: dict[str, tuple[Surface, tuple[str, ...]]] = {}


def surface(*routes: str) -> Callable[[Surface], Surface]:
    def add(function: Surface) -> Surface:
        SURFACES[function.__name__] = (function, routes)
        return function

    return add


_API = "/api/{type}/{owner}/{name}"
_FUST = "/fust/v1/repos/{repo_type:str}/{owner:str}/{name:str}"
_FILE = "/{owner}/{name}/%s/{revision}/{path*}"


@surface(*(f"{method} {_FILE % 'resolve'}" for method in ("GET", "HEAD")))
def resolve(town: Town, role: str, repo: str) -> bytes:
    small = town.call(role, "GET", f"/{repo}/resolve/main/a.txt")
    large = town.call(role, "GET", f"/{repo}/resolve/main/w.bin", range="bytes=0-99")
    head = town.call(role, "HEAD", f"/{repo}/resolve/{town.oids[repo]}/w.bin")
    assert small[0] // 100 == large[0] // 100 == head[0] // 100, "all of it or nothing"
    if MAY[role][REPOS.index(repo)] == SEE:
        for _, headers, _ in (small, large, head):
            assert headers["x-error-code"] == "GatedRepo", headers
            assert "x-linked-etag" not in headers and "etag" not in headers, "nor what its bytes are"
    return small[2] + large[2]


@surface(*(f"{method} {_FILE % 'raw'}" for method in ("GET", "HEAD")))
def raw(town: Town, role: str, repo: str) -> bytes:
    return town.call(role, "GET", f"/{repo}/raw/main/a.txt")[2]


@surface(
    *(f"{m} /api/resolve-cache/{{type}}/{{owner}}/{{name}}/{{revision}}/{{path*}}" for m in ("GET", "HEAD"))
)
def resolve_cache(town: Town, role: str, repo: str) -> bytes:
    return town.call(role, "GET", f"/api/resolve-cache/models/{repo}/main/a.txt")[2]


@surface("GET /{owner}/{name}.git/info/refs", "POST /{owner}/{name}.git/git-upload-pack")
def git(town: Town, role: str, repo: str) -> bytes:
    # As git signs in: any name, the key as the password.
    key = town.headers[role].get("authorization", "").removeprefix("Bearer ")
    basic = {"authorization": "Basic " + base64.b64encode(f"me:{key}".encode()).decode()} if key else {}
    refs = town.server.request(
        "GET", f"/{repo}.git/info/refs?service=git-upload-pack", token=None, headers=basic
    )
    wish = b"0032want %s\n00000009done\n" % town.oids[repo].encode()
    pack = town.server.request("POST", f"/{repo}.git/git-upload-pack", wish, token=None, headers=basic)
    assert (refs[0] == 200) == (b"PACK" in pack[2]), (refs, pack[0])
    return CANARY if b"PACK" in pack[2] else b""


@surface(
    "POST /{owner}/{name}.git/info/lfs/objects/batch",
    *(f"{method} /{{owner}}/{{name}}.git/info/lfs/objects/{{sha256}}" for method in ("GET", "HEAD")),
)
def git_lfs(town: Town, role: str, repo: str) -> bytes:
    wish = {"operation": "download", "objects": [{"oid": town.sha256, "size": len(WEIGHTS)}]}
    status, _, body = town.call(role, "POST", f"/{repo}.git/info/lfs/objects/batch", wish)
    if status != 200:
        return b""
    return town.fetch(json.loads(body)["objects"][0]["actions"]["download"]["href"])[1]


@surface(
    f"GET {_API}/xet-read-token/{{revision}}",
    "GET /xet/{version}/reconstructions/{hash}",
    "GET /xet/v1/chunks/{prefix}/{hash}",
    "GET /xet/xorbs/{hash}",
)
def xet(town: Town, role: str, repo: str) -> bytes:
    status, _, body = town.call(role, "GET", f"/api/models/{repo}/xet-read-token/main")
    if status != 200:
        return b""
    said = json.loads(body)
    bearer = {"authorization": f"Bearer {said['accessToken']}"}
    asked = town.fetch(f"{said['casUrl']}/v1/chunks/default/{town.chunk}", **bearer)
    assert asked[0] == 404, "chunks are told of to those who write"
    found = b""
    for version in ("v1", "v2"):
        status, body = town.fetch(f"{said['casUrl']}/{version}/reconstructions/{town.xet_hash}", **bearer)
        assert status == 200, body
        recipe = json.loads(body)
        for fetches in recipe["fetch_info" if version == "v1" else "xorbs"].values():
            for one in fetches:
                wanted = one["url_range"] if version == "v1" else one["ranges"][0]["bytes"]
                status, piece = town.fetch(one["url"], range=f"bytes={wanted['start']}-{wanted['end']}")
                assert status == 206
                found += piece
    assert found
    return CANARY


def writes(role: str, repo: str) -> bool:
    """Returns whether the caller's key changes anything in a repo, whatever its user may."""
    return role != "nobody" and "reading key" not in role and ("key for" not in role or repo in role)


def as_due(role: str, repo: str) -> bytes:
    """Returns what is right, where a surface cannot tell the gate from the key."""
    return CANARY if MAY[role][REPOS.index(repo)] == YES else b""


@surface()
def xet_by_a_token_to_write(town: Town, role: str, repo: str) -> bytes:
    """A pull request may be opened by who reads: its token to write reads too."""
    status, _, body = town.call(role, "GET", f"/api/models/{repo}/xet-write-token/main?create_pr=1")
    if status != 200:
        return as_due(role, repo) if not writes(role, repo) else b""
    said = json.loads(body)
    bearer = {"authorization": f"Bearer {said['accessToken']}"}
    status, body = town.fetch(f"{said['casUrl']}/v1/reconstructions/{town.xet_hash}", **bearer)
    return CANARY if status == 200 else b""


@surface(f"GET {_FUST}/preview")
def preview(town: Town, role: str, repo: str) -> bytes:
    return town.call(role, "GET", f"/fust/v1/repos/model/{repo}/preview?path=a.txt")[2]


@surface(f"GET {_FUST}/commits/{{oid:str}}")
def lines_of_a_commit(town: Town, role: str, repo: str) -> bytes:
    return town.call(role, "GET", f"/fust/v1/repos/model/{repo}/commits/{town.oids[repo]}")[2]


@surface(f"GET {_FUST}/app", *(f"{method} /static/{{ticket}}/{{path*}}" for method in ("GET", "HEAD")))
def static_space(town: Town, role: str, repo: str) -> bytes:
    """A space of the same name, with the same gate; its pages are fetched as a browser does: by their address alone."""
    status, _, body = town.call(role, "GET", f"/fust/v1/repos/space/{repo}/app")
    assert (status == 200) == (b"path" in body)
    return town.fetch("/" + json.loads(body)["path"])[1] if status == 200 else b""


@surface(f"GET {_API}/compare/{{range}}")
def compare(town: Town, role: str, repo: str) -> bytes:
    return town.call(role, "GET", f"/api/models/{repo}/compare/start..main")[2]


@surface(f"GET {_FUST}/compare")
def compare_in_the_page(town: Town, role: str, repo: str) -> bytes:
    return town.call(role, "GET", f"/fust/v1/repos/model/{repo}/compare?base=start&head=main")[2]


@surface(f"GET {_API}/discussions", f"GET {_API}/discussions/{{num}}")
def pull_requests(town: Town, role: str, repo: str) -> bytes:
    listed = town.call(role, "GET", f"/api/models/{repo}/discussions")
    one = town.call(role, "GET", f"/api/models/{repo}/discussions/1?diff=1")
    assert listed[0] == one[0]
    return one[2]


@surface(f"GET {_API}/safetensors-metadata/{{path*}}")
def safetensors(town: Town, role: str, repo: str) -> bytes:
    return town.call(role, "GET", f"/api/models/{repo}/safetensors-metadata/model.safetensors")[2]


@surface(f"GET {_API}/auth-check")
def auth_check(town: Town, role: str, repo: str) -> bytes:
    return CANARY if town.call(role, "GET", f"/api/models/{repo}/auth-check")[0] == 200 else b""


@surface()
def copy_into_a_bucket(town: Town, role: str, repo: str) -> bytes:
    """Into a bucket of the caller's own, by the hash that the tree shows."""
    line = {"type": "copyFile", "path": "w.bin", "xetHash": town.xet_hash}
    line |= {"sourceRepoType": "model", "sourceRepoId": repo}
    mine = BUCKETS.get(role, "")
    if not mine:
        return as_due(role, repo)  # no bucket that this key writes to
    town.call(role, "POST", f"/api/buckets/{mine}/mine", {})
    status, _, body = town.call(role, "POST", f"/api/buckets/{mine}/mine/batch", line)
    if status != 200:
        return b""
    got = town.call(role, "GET", f"/buckets/{mine}/mine/resolve/w.bin")
    town.call(role, "POST", f"/api/buckets/{mine}/mine/batch", {"type": "deleteFile", "path": "w.bin"})
    return got[2] if got[0] == 200 else body


HOOKS: dict[str, dict[tuple[str, str], str]] = {}
"""By the server: the webhook of each caller on each repo."""


@surface()
def webhooks(town: Town, role: str, repo: str) -> bytes:
    """What is told of a comment: it is as open as the files."""
    if role == "nobody" or "key" in role:
        return as_due(role, repo)  # webhooks belong to a whole account, and are changed by keys that write
    if town.server.url not in HOOKS:
        HOOKS[town.server.url] = watch_and_comment(town)
    hook = HOOKS[town.server.url].get((role, repo))
    return messages_of(town, role, hook) if hook else b""


def watch_and_comment(town: Town) -> dict[tuple[str, str], str]:
    """Has everybody watch every repo, comments in each, and waits until that was told."""
    made: dict[tuple[str, str], str] = {}
    for role in MAY:
        for repo in REPOS:
            body = {"url": "https://hooks.invalid/", "watched": [{"type": "model", "name": repo}]}
            status, _, answer = town.call(role, "POST", "/api/settings/webhooks", body)
            if status == 200:
                made[role, repo] = json.loads(answer)["webhook"]["id"]
    for repo in REPOS:
        said = {"comment": CANARY.decode()}
        assert town.call("administrator", "POST", f"/api/models/{repo}/discussions/1/comment", said)[0] == 200
    deadline = time.monotonic() + 20
    while any(
        CANARY not in messages_of(town, "administrator", made["administrator", repo]) for repo in REPOS
    ):
        assert time.monotonic() < deadline, "nobody was told of the comments"
        time.sleep(0.1)
    return made


def messages_of(town: Town, role: str, hook: str) -> bytes:
    return town.call(role, "GET", f"/fust/v1/webhooks/{hook}/deliveries")[2]


@surface()
def serving(town: Town, role: str, repo: str) -> bytes:
    """Nothing here can be served; who may have the files is told so, the rest never come that far."""
    status, _, body = town.call(role, "POST", "/fust/v1/deployments", {"repo_id": repo})
    if not writes(role, repo):
        assert status in (401, 403, 404)
        return as_due(role, repo)
    return CANARY if any(said in body for said in (b"neither a GGUF file", b"holds no model file")) else b""


def test_every_way_to_bytes_is_here() -> None:
    walked = {route for _, routes in SURFACES.values() for route in routes}
    needed = {
        f"{row.method} {row.pattern}"
        for row in TABLE
        if row.need == "read" or (row.need == "nobody at all" and row.method in ("GET", "HEAD"))
    }
    assert not needed - walked, f"say in a surface how bytes leave by {sorted(needed - walked)}"
    assert not walked - needed, f"no longer ways to bytes: {sorted(walked - needed)}"


@pytest.fixture(scope="module")
def town(server: RunningFust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    headers = people(server)
    out = run_client(server, tmp_path_factory.mktemp("client"), MAKE.replace("REPOS", repr(REPOS)))
    found: dict[str, Any] = out
    town = Town(server, headers, found["oids"], found["sha256"], found["xet"], first_chunk(server))
    stand(town)
    yield town


MAKE = f"""
import json, struct
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi()
add = lambda path, data: CommitOperationAdd(path_in_repo=path, path_or_fileobj=data)
name = {CANARY.decode()!r}
head = json.dumps({{name: {{"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}}}).encode()
tensors = struct.pack("<Q", len(head)) + head + b"x"
out["oids"] = {{}}
for repo in REPOS:
    api.create_repo(repo, private=repo.endswith(("closed", "both")))
    api.create_branch(repo, branch="start")
    files = [add("a.txt", name.encode()), add("w.bin", name.encode() * 30_000), add("model.safetensors", tensors)]
    out["oids"][repo] = api.create_commit(repo, files, commit_message="x").oid
    api.create_commit(repo, [add("b.txt", name.encode())], commit_message="a change", create_pr=True)
    api.create_repo(repo, repo_type="space", space_sdk="static", private=repo.endswith(("closed", "both")))
    pages = [add("README.md", b"---\\nsdk: static\\n---\\n"), add("index.html", name.encode())]
    api.create_commit(repo, pages, commit_message="x", repo_type="space")
    if repo.endswith(("gated", "both")):
        for kind in ("model", "space"):
            api.update_repo_settings(repo, gated="manual", repo_type=kind)
[file] = api.get_paths_info("guild/open", "w.bin")
out["sha256"], out["xet"] = file.lfs.sha256, file.xet_hash
"""


def first_chunk(server: RunningFust) -> str:
    """Returns a chunk that answers a chunk query: the hub keeps some of each file."""
    with sqlite3.connect(server.home / "fust.db") as database:
        return database.execute("SELECT chunk FROM dedup_chunks LIMIT 1").fetchone()[0]


def people(server: RunningFust) -> dict[str, dict[str, str]]:
    """Makes everybody of MAY; returns how each calls."""
    database = Database(f"sqlite:///{server.home / 'fust.db'}")
    accounts = Accounts(database, load_settings(server.home, environ={}))
    members = {"reader": "read", "reader-in": "read", "writer": "write", "keeper": "admin"}
    outsiders = ("stranger", "pending", "accepted", "rejected", "expired", "outdated")
    for name in (*outsiders, *members, "master"):
        accounts.users.create(name)
    accounts.organisations.create("guild", by=SYSTEM, owner="master")
    for name, role in members.items():
        accounts.organisations.set_member("guild", name, role, by=SYSTEM)

    def key(user: str, scope: str = "write", repos: list[str] | None = None) -> dict[str, str]:
        secret = accounts.tokens.create(user, "k", scope, repos=repos).secret
        return {"authorization": f"Bearer {secret}"}

    headers = {
        "nobody": {},
        **{name: key(name) for name in outsiders},
        "accepted, reading key": key("accepted", "read"),
        "accepted, key for guild/gated": key("accepted", repos=[GATED]),
        "accepted, key for others": key("accepted", repos=["accepted/*"]),
        "guild reader": key("reader"),
        "guild reader, accepted": key("reader-in"),
        "guild writer": key("writer"),
        "guild writer, reading key": key("writer", "read"),
        "guild writer, key for guild/open": key("writer", repos=[OPEN]),
        "guild admin": key("keeper"),
        "guild owner": key("master"),
        "administrator": {"authorization": f"Bearer {server.token}"},
    }
    database.close()
    return headers


def stand(town: Town) -> None:
    """Puts everybody where their name says, before the gates of guild/gated and guild/both."""

    def call(method: str, path: str, body: object, role: str = "administrator") -> None:
        status, _, answer = town.call(role, method, path, body)
        assert status == 200, answer

    for kind, repo in ((kind, repo) for kind in ("model", "space") for repo in (GATED, BOTH)):
        requests = f"/api/{kind}s/{repo}/user-access-request"
        call("POST", requests + "/grant", {"user": "outdated"})
        call("PUT", f"/api/{kind}s/{repo}/settings", {"askAgain": True})
        moment = (datetime.now(UTC) + timedelta(seconds=0.2)).isoformat()
        call("POST", requests + "/grant", {"user": "expired", "until": moment})
        for user in ("accepted", "reader-in"):
            call("POST", requests + "/grant", {"user": user})
        call("POST", requests + "/grant", {"user": "rejected"})
        call("POST", requests + "/handle", {"user": "rejected", "status": "rejected"})
    for kind, prefix in (("model", ""), ("space", "/spaces")):
        terms = json.loads(town.call("stranger", "GET", f"/fust/v1/repos/{kind}/{GATED}/gate")[2])["terms"]
        call("POST", f"{prefix}/{GATED}/ask-access", {"terms": terms}, "pending")


@pytest.mark.parametrize("name", SURFACES)
def test_bytes_leave_for_those_who_may(town: Town, name: str) -> None:
    function, _ = SURFACES[name]
    wrong: list[str] = []
    for role, levels in MAY.items():
        for repo, level in zip(REPOS, levels, strict=True):
            got = CANARY in function(town, role, repo)
            if got != (level == YES):
                wrong.append(f"{role} {'gets' if got else 'does not get'} {repo}")
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize("role", MAY)
def test_what_is_seen_and_counted(town: Town, role: str) -> None:
    """A gated repo is in every list, whole in its tree; a private one is in none."""
    seen = {repo for repo, level in zip(REPOS, MAY[role], strict=True) if level != NO}
    listed = json.loads(town.call(role, "GET", "/api/models?author=guild")[2])
    assert {found["id"] for found in listed} == seen
    gated = json.loads(town.call(role, "GET", "/api/models?author=guild&gated=true")[2])
    assert {found["id"] for found in gated} == seen & {GATED, BOTH}
    page = json.loads(town.call(role, "GET", "/fust/v1/repos?author=guild&type=model")[2])
    assert {found["repo_id"] for found in page["items"]} == seen and page["total"] == len(seen)
    overview = json.loads(town.call(role, "GET", "/api/organizations/guild/overview")[2])
    assert overview["numModels"] == len(seen)
    for repo in REPOS:
        tree = town.call(role, "GET", f"/api/models/{repo}/tree/main?recursive=1")
        info = town.call(role, "GET", f"/api/models/{repo}")
        gate = town.call(role, "GET", f"/fust/v1/repos/model/{repo}/gate")
        assert {tree[0], info[0], gate[0]} <= ({200} if repo in seen else {401, 404})
        if repo in seen:
            assert len(json.loads(tree[2])) == 4 and len(json.loads(info[2])["siblings"]) == 4
            assert json.loads(gate[2])["open"] == (MAY[role][REPOS.index(repo)] == YES)


def test_what_was_handed_out_ends_with_the_access(town: Town) -> None:
    """A URL or a token that somebody got while inside opens nothing once access is taken away, nor a copy's way in."""
    wish = {"operation": "download", "objects": [{"oid": town.sha256, "size": len(WEIGHTS)}]}
    batch = town.call("accepted", "POST", f"/{GATED}.git/info/lfs/objects/batch", wish)[2]
    lfs = json.loads(batch)["objects"][0]["actions"]["download"]["href"]
    said = json.loads(town.call("accepted", "GET", f"/api/models/{GATED}/xet-read-token/main")[2])
    bearer = {"authorization": f"Bearer {said['accessToken']}"}
    plan = f"{said['casUrl']}/v1/reconstructions/{town.xet_hash}"
    recipe = json.loads(town.fetch(plan, **bearer)[1])
    xorb = next(iter(recipe["fetch_info"].values()))[0]["url"]
    app = "/" + json.loads(town.call("accepted", "GET", f"/fust/v1/repos/space/{GATED}/app")[2])["path"]
    ranged = {"range": "bytes=0-9"}
    assert town.fetch(app) == (200, CANARY)
    assert town.fetch(lfs)[0] == 200 and town.fetch(xorb)[0] == 206
    assert town.call("accepted", "GET", f"/{GATED}/resolve/main/w.bin", **ranged)[0] == 206
    handle = f"/api/models/{GATED}/user-access-request/handle"
    for path in (handle, handle.replace("models", "spaces")):
        out = town.call("guild writer", "POST", path, {"user": "accepted", "status": "rejected"})
        assert out[0] == 200, out
    try:
        assert town.fetch(app)[0] == 403
        assert town.fetch(lfs)[0] == 403
        assert town.fetch(xorb)[0] == 403
        assert town.fetch(plan, **bearer)[0] == 401
        assert town.call("accepted", "GET", f"/{GATED}/resolve/main/w.bin", **ranged)[0] == 403
    finally:
        for path in (handle, handle.replace("models", "spaces")):
            back = town.call("guild writer", "POST", path, {"user": "accepted", "status": "accepted"})
            assert back[0] == 200, back


def test_a_large_file_is_no_way_around(town: Town) -> None:
    """Whoever cannot have a gated repo's file cannot put it into a repo of their own by its hash, and read it there."""
    sha, size = town.sha256, len(WEIGHTS)
    body = {"name": "stranger/thief", "private": False}
    assert town.call("stranger", "POST", "/api/repos/create", body)[0] == 200
    line = {"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": sha, "size": size}}
    lines = "\n".join(json.dumps(part) for part in ({"key": "header", "value": {"summary": "x"}}, line))
    status, _, answer = town.call(
        "stranger", "POST", "/api/models/stranger/thief/commit/main", lines.encode()
    )
    assert status == 400 and b"not uploaded" in answer, answer
    wish = {"target": {"type": "model", "name": "stranger/thief"}, "files": [{"sha256": sha}]}
    assert town.call("stranger", "POST", f"/api/models/{GATED}/lfs-files/duplicate", wish)[0] == 403
    copy = {"repository": "stranger/copy"}
    assert town.call("stranger", "POST", f"/api/models/{GATED}/duplicate", copy)[0] == 403
    batch = {"operation": "upload", "objects": [{"oid": sha, "size": size}]}
    answer = json.loads(town.call("stranger", "POST", "/stranger/thief.git/info/lfs/objects/batch", batch)[2])
    assert "upload" in answer["objects"][0]["actions"], "that the bytes are here is not told"


def test_chunks_are_not_told_of(town: Town) -> None:
    """A chunk of a repo is answered like one that nobody has, to whoever did not bring it there."""
    status, _, body = town.call("guild writer", "GET", f"/api/models/{GATED}/xet-write-token/main")
    assert status == 200, body
    recipe_of = json.loads(body)
    bearer = {"authorization": f"Bearer {recipe_of['accessToken']}"}
    assert town.fetch(f"{recipe_of['casUrl']}/v1/chunks/default/{town.chunk}", **bearer)[0] == 200
    for role, repo, kind in (
        ("accepted", GATED, "read"),
        ("stranger", OPEN, "read"),
        ("stranger", OPEN, "write"),
        ("accepted", GATED, "write"),
        ("guild reader, accepted", GATED, "write"),
    ):
        path = f"/api/models/{repo}/xet-{kind}-token/main" + ("?create_pr=1" if kind == "write" else "")
        said = json.loads(town.call(role, "GET", path)[2])
        bearer = {"authorization": f"Bearer {said['accessToken']}"}
        answers = [
            town.fetch(f"{said['casUrl']}/v1/chunks/default/{name}", **bearer)
            for name in (town.chunk, "0" * 64)
        ]
        assert answers[0][0] == answers[1][0] == 404, (role, repo, kind)
        assert answers[0][1].replace(town.chunk.encode(), b"") == answers[1][1].replace(b"0" * 64, b"")
