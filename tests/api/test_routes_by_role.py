"""Every route of every surface, met by every kind of caller. A route that is not in the table fails the test."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from litestar.handlers import HTTPRouteHandler

from fust.accounts.rights import SYSTEM
from fust.accounts.service import Accounts
from fust.app import asgi
from fust.app.fust_api import HANDLERS
from fust.core.settings import load_settings
from fust.gateway.routes import BODIES
from fust.gateway.shelf import ROUTES as SHELF
from fust.hub.routes import ROUTES
from fust.store.database import Database
from tests.conftest import RunningFust

OPEN, CLOSED, GUILD, GATED = REPOS = ("ada/open", "ada/closed", "guild/closed", "guild/gated")
NONE, SEE, READ, PUSH, MANAGE = range(5)
"""SEE: a gated repo before its gate, its card and its tree. READ: its files too."""
CANARY = "canary-4711"
"""Stands in a file of every repo: no answer may hold it for who may not READ."""

# What each caller may do with each repo: the rules of docs, written down a second time on purpose.
MAY: dict[str, tuple[int, int, int, int]] = {
    "nobody": (READ, NONE, NONE, SEE),
    "stranger": (READ, NONE, NONE, SEE),
    "ada, reading key": (READ, READ, NONE, SEE),
    # What changes nothing is answered (no other page can read it); what changes something is refused before rights.
    # Before ada herself, who signs out everywhere.
    "ada, from another site": (MANAGE, MANAGE, NONE, SEE),
    "ada": (MANAGE, MANAGE, NONE, SEE),
    "ada, key for ada/open": (MANAGE, NONE, NONE, SEE),
    "guild reader": (READ, NONE, READ, SEE),
    "guild writer": (READ, NONE, PUSH, PUSH),
    "guild admin": (READ, NONE, MANAGE, MANAGE),
    "guild owner": (READ, NONE, MANAGE, MANAGE),
    # Before the gate of guild/gated.
    "asked for access": (READ, NONE, NONE, SEE),
    "let in": (READ, NONE, NONE, READ),
    "let in, reading key": (READ, NONE, NONE, READ),
    "let in, key for ada/open": (READ, NONE, NONE, SEE),
    "let in until yesterday": (READ, NONE, NONE, SEE),
    "let in to older terms": (READ, NONE, NONE, SEE),
    "turned away": (READ, NONE, NONE, SEE),
    "administrator": (MANAGE, MANAGE, MANAGE, MANAGE),
}
FOREIGN = "ada, from another site"
FINE = ("ada, key for ada/open", "let in, key for ada/open")
READING = ("ada, reading key", "let in, reading key")
ROLES = tuple(MAY)


@dataclass(frozen=True)
class Row:
    """One request: who it is for (``need``), what it answers to those."""

    method: str
    pattern: str
    need: str
    """What it takes of a repo, a key of LEVELS; else a name in NEEDS."""
    path: str
    body: object = None
    ok: tuple[int, ...] = (200,)
    before: tuple[str, str, object] | None = None
    """What an administrator does first, so that there is something to change."""
    repos: tuple[str, ...] = field(default=REPOS)


LEVELS: dict[str, int] = {
    "see": SEE,  # what is said of a repo
    "see, writing": SEE,  # by a key that writes
    "ask": SEE,  # by a key that writes and was made for the repo
    "read": READ,  # bytes of its files, and what people say of them
    "take part": READ,  # by a key that writes
    "push": PUSH,
    "manage": MANAGE,
}


NEEDS: dict[str, Callable[[str], bool]] = {
    "anybody": lambda role: True,
    "a key": lambda role: role != "nobody",
    "a writing key": lambda role: role not in ("nobody", *READING),
    "a whole key": lambda role: role not in ("nobody", *FINE),
    "a whole writing key": lambda role: role not in ("nobody", *FINE, *READING),
    "an administrator": lambda role: role == "administrator",
    "ada": lambda role: role in ("ada", "ada, reading key", FOREIGN, "administrator"),
    "ada, writing": lambda role: role in ("ada", "administrator"),
    "nobody at all": lambda role: False,
    "guild read": lambda role: MAY[role][2] >= READ,
    "guild push": lambda role: MAY[role][2] >= PUSH,
    "guild manage": lambda role: MAY[role][2] >= MANAGE,
    "guild owner": lambda role: role in ("guild owner", "administrator"),
}

A = "/api/models/{repo}"
_API = "/api/{type}/{owner}/{name}"
_FUST = "/fust/v1/repos/{repo_type:str}/{owner:str}/{name:str}"
_LFS = "/{owner}/{name}.git/info/lfs"
_TALKS = _API + "/discussions/{num}"
_TALK = {"title": "A title", "description": "x"}


def ndjson(role: str) -> bytes:
    lines = [
        {"key": "header", "value": {"summary": "x"}},
        {
            "key": "file",
            "value": {"path": f"{role}.txt".replace(" ", ""), "content": "", "encoding": "utf-8"},
        },
    ]
    return "\n".join(json.dumps(line) for line in lines).encode()


def organisation_rows() -> list[Row]:
    """Organisations: an admin looks after the shown name and members up to `write`, an owner after the rest."""
    base = "/fust/v1/organisations"
    one, member = base + "/{organisation:str}", base + "/{organisation:str}/members/{user:str}"
    victim = base + "/guild/members/victim"
    return [
        Row("GET", base, "a whole key", base),
        Row("POST", base, "a whole writing key", base, {"name": "o-{slug}"}, (201,)),
        Row("GET", one, "a whole key", base + "/guild"),
        Row("PATCH", one, "guild manage", base + "/guild", {"display_name": "The Guild"}),
        Row("DELETE", one, "guild owner", base + "/guild", ok=(409,)),  # it keeps a repo
        Row("GET", one + "/members", "a whole key", base + "/guild/members"),
        Row("PUT", member, "guild manage", victim, {"role": "write"}),
        Row("PUT", member, "guild owner", victim, {"role": "admin"}),
        Row("DELETE", member, "guild owner", victim, ok=(204,), before=("PUT", victim, {"role": "admin"})),
        Row("DELETE", member, "guild manage", victim, ok=(204,), before=("PUT", victim, {"role": "read"})),
    ]


def bucket_rows() -> list[Row]:
    """Buckets: whoever reads the name's private repos reads its private buckets, and so on."""
    one = "/api/buckets/{space}/{bucket}"
    closed = "/api/buckets/guild/vault"
    made = ("POST", closed, {"private": True})
    other = "/api/buckets/guild/gone-{slug}"
    empty = {"type": "addFile", "path": "empty", "xetHash": "0" * 64}
    return [
        Row("GET", "/api/buckets/{space}", "anybody", "/api/buckets/guild"),
        Row("POST", one, "guild push", "/api/buckets/guild/new-{slug}", {}),
        Row("GET", one, "guild read", closed, before=made),
        Row("DELETE", one, "guild manage", other, before=("POST", other, {"private": True})),
        Row("PUT", one + "/settings", "guild manage", closed + "/settings", {"private": True}, before=made),
        Row("GET", one + "/tree", "guild read", closed + "/tree", before=made),
        Row("GET", one + "/tree/{prefix*}", "guild read", closed + "/tree/a%2Fb", before=made),
        Row("POST", one + "/paths-info", "guild read", closed + "/paths-info", {"paths": ["a"]}, before=made),
        Row("POST", one + "/batch", "guild push", closed + "/batch", empty, before=made),
        Row("GET", one + "/xet-read-token", "guild read", closed + "/xet-read-token", before=made),
        Row("GET", one + "/xet-write-token", "guild push", closed + "/xet-write-token", before=made),
        Row("GET", one + "/events", "guild read", closed + "/events", ok=(501,), before=made),
        *(
            Row(m, "/buckets/{space}/{bucket}/resolve/{path*}", "guild read", path, ok=(404,), before=made)
            for m in ("GET", "HEAD")
            for path in ("/buckets/guild/vault/resolve/none",)
        ),
    ]


def webhook_rows() -> list[Row]:
    """Webhooks are each person's own; with a key that writes and has no limits. One that is not there: 404."""
    base, need = "/api/settings/webhooks", "a whole writing key"
    wish = {"url": "https://hooks.example/{slug}", "watched": [{"type": "user", "name": "ada"}]}
    one, none = base + "/{webhook}", base + "/none"
    return [
        Row("GET", base, need, base),
        Row("POST", base, need, base, wish),
        Row("GET", one, need, none, ok=(404,)),
        Row("POST", one, need, none, {}, (404,)),
        Row("PUT", one, need, none, {}, (404,)),
        Row("DELETE", one, need, none, ok=(404,)),
        Row("POST", one + "/enable", need, none + "/enable", {}, (404,)),
        Row("POST", one + "/disable", need, none + "/disable", {}, (404,)),
    ]


HUB: list[Row] = [
    Row("GET", "/api/whoami-v2", "a key", "/api/whoami-v2"),
    # A program without a name is not let wait, and a code that nobody gave brings nothing.
    Row("POST", "/oauth/device", "anybody", "/oauth/device", {}, (400,)),
    Row("POST", "/oauth/token", "anybody", "/oauth/token", {}, (400,)),
    Row(
        "GET",
        "/.well-known/oauth-authorization-server",
        "anybody",
        "/.well-known/oauth-authorization-server",
    ),
    Row("GET", "/api/users/{name}/overview", "anybody", "/api/users/ada/overview"),
    Row("GET", "/api/organizations/{name}/overview", "anybody", "/api/organizations/guild/overview"),
    Row("GET", "/api/organizations/{name}/members", "a whole key", "/api/organizations/guild/members"),
    *(
        Row("GET", f"/api/{kind}/{{name}}/{what}", "anybody", f"/api/{kind}/{name}/{what}")
        for kind, name, what in (
            ("users", "ada", "followers"),
            ("users", "ada", "following"),
            ("organizations", "guild", "followers"),
        )
    ),
    *(
        Row(method, f"/api/{kind}/{{name}}/follow", "a whole writing key", f"/api/{kind}/{name}/follow")
        for kind, name in (("users", "victim"), ("organizations", "guild"))
        for method in ("POST", "DELETE")
    ),
    Row("GET", "/api/agent-harnesses", "anybody", "/api/agent-harnesses"),
    Row("POST", "/api/validate-yaml", "anybody", "/api/validate-yaml", {"content": "---\na: b\n---"}),
    Row("POST", "/api/repos/create", "guild push", "/api/repos/create", {"name": "guild/new-{slug}"}),
    Row(
        "DELETE",
        "/api/repos/delete",
        "guild manage",
        "/api/repos/delete",
        {"name": "guild/gone-{slug}"},
        before=("POST", "/api/repos/create", {"name": "guild/gone-{slug}", "private": True}),
    ),
    Row("GET", "/api/{type}", "anybody", "/api/models"),
    Row("GET", _API, "see", A),
    Row("GET", _API + "/revision/{revision}", "see", A + "/revision/main"),
    Row("PUT", _API + "/settings", "manage", A + "/settings", {"protectedBranches": ["main"]}),
    Row("GET", _API + "/auth-check", "read", A + "/auth-check"),
    Row("GET", _API + "/auth-check/{right}", "push", A + "/auth-check/write"),
    Row("GET", _API + "/tree/{revision}", "see", A + "/tree/main"),
    Row("GET", _API + "/tree/{revision}/{path*}", "see", A + "/tree/main/folder"),
    Row("POST", _API + "/paths-info/{revision}", "see", A + "/paths-info/main", {"paths": ["README.md"]}),
    Row("POST", _API + "/preupload/{revision}", "push", A + "/preupload/main", {"files": []}),
    Row("POST", _API + "/commit/{revision}", "push", A + "/commit/main", ndjson),
    Row("GET", _API + "/commits/{revision}", "see", A + "/commits/main"),
    Row("GET", _API + "/refs", "see", A + "/refs"),
    Row("POST", _API + "/branch/{branch}", "push", A + "/branch/b-{slug}", {}),
    Row(
        "DELETE",
        _API + "/branch/{branch}",
        "push",
        A + "/branch/d-{slug}",
        before=("POST", A + "/branch/d-{slug}", {}),
    ),
    Row("POST", _API + "/tag/{revision}", "push", A + "/tag/main", {"tag": "t-{slug}"}),
    Row(
        "DELETE",
        _API + "/tag/{tag}",
        "push",
        A + "/tag/d-{slug}",
        before=("POST", A + "/tag/main", {"tag": "d-{slug}"}),
    ),
    Row("GET", _API + "/xet-read-token/{revision}", "read", A + "/xet-read-token/main"),
    Row("GET", _API + "/xet-write-token/{revision}", "push", A + "/xet-write-token/main"),
    *(
        Row(
            method,
            f"/{{owner}}/{{name}}/{word}/{{revision}}/{{path*}}",
            "read",
            f"/{{repo}}/{word}/main/folder/file.txt",
        )
        for method in ("GET", "HEAD")
        for word in ("resolve", "raw")
    ),
    *(
        Row(
            method,
            "/api/resolve-cache/{type}/{owner}/{name}/{revision}/{path*}",
            "read",
            "/api/resolve-cache/models/{repo}/main/folder/file.txt",
        )
        for method in ("GET", "HEAD")
    ),
    # Xet: only its own short-lived tokens and signed URLs open anything there.
    Row("GET", "/xet/xorbs/{hash}", "nobody at all", "/xet/xorbs/" + "0" * 64),
    Row("POST", "/xet/v1/xorbs/default/{hash}", "nobody at all", "/xet/v1/xorbs/default/" + "0" * 64, b"x"),
    Row("POST", "/xet/v1/shards", "nobody at all", "/xet/v1/shards", b"x"),
    Row("POST", "/xet/v2/shards", "nobody at all", "/xet/v2/shards", b"x"),
    Row("GET", "/xet/v1/chunks/{prefix}/{hash}", "nobody at all", "/xet/v1/chunks/default/" + "0" * 64),
    Row("POST", "/xet/shards", "nobody at all", "/xet/shards", b"x"),
    Row(
        "GET",
        "/xet/{version}/reconstructions/{hash}",
        "nobody at all",
        "/xet/v1/reconstructions/" + "0" * 64,
    ),
    *bucket_rows(),
    *(Row(m, "/xet/{path*}", "anybody", "/xet/v1/telemetry", b"", (404,)) for m in ("GET", "POST", "HEAD")),
    Row("GET", "/{owner}/{name}.git/info/refs", "read", "/{repo}.git/info/refs?service=git-upload-pack"),
    Row("POST", "/{owner}/{name}.git/git-upload-pack", "read", "/{repo}.git/git-upload-pack", b"0000"),
    Row(
        "POST",
        "/{owner}/{name}.git/git-receive-pack",
        "push",
        "/{repo}.git/git-receive-pack",
        b"0000",
        (200, 400),
    ),
    Row(
        "POST",
        "/{owner}/{name}.git/info/lfs/objects/batch",
        "read",
        "/{repo}.git/info/lfs/objects/batch",
        {"operation": "download", "objects": []},
    ),
    Row(
        "POST",
        "/{owner}/{name}.git/info/lfs/objects/verify",
        "push",
        "/{repo}.git/info/lfs/objects/verify",
        {"oid": "0" * 64, "size": 1},
        (404,),
    ),
    *(
        Row(
            m,
            "/{owner}/{name}.git/info/lfs/objects/{sha256}",
            "nobody at all",
            "/{repo}.git/info/lfs/objects/" + "0" * 64,
        )
        for m in ("PUT", "GET", "HEAD")
    ),
    Row("GET", _LFS + "/locks", "see", "/{repo}.git/info/lfs/locks"),
    Row(
        "POST",
        _LFS + "/locks",
        "push",
        "/{repo}.git/info/lfs/locks",
        {"path": "{slug}.bin"},
        (200, 201),
    ),
    Row("POST", _LFS + "/locks/verify", "push", "/{repo}.git/info/lfs/locks/verify", {}),
    Row("POST", _LFS + "/locks/{id}/unlock", "push", "/{repo}.git/info/lfs/locks/none/unlock", {}, (404,)),
    Row(
        "POST",
        _LFS + "/objects/{sha256}/parts",
        "nobody at all",
        "/{repo}.git/info/lfs/objects/" + "0" * 64 + "/parts",
        {},
    ),
    Row(
        "PUT",
        _LFS + "/objects/{sha256}/parts/{part}",
        "nobody at all",
        "/{repo}.git/info/lfs/objects/" + "0" * 64 + "/parts/1",
        b"x",
    ),
    Row(
        "POST",
        "/api/repos/move",
        "guild manage",
        "/api/repos/move",
        {"fromRepo": "guild/mv-{slug}", "toRepo": "guild/moved-{slug}"},
        before=("POST", "/api/repos/create", {"name": "guild/mv-{slug}", "private": True}),
    ),
    Row(
        "POST",
        _API + "/duplicate",
        "guild push",
        "/api/models/guild/closed/duplicate",
        {"repository": "guild/copy-{slug}"},
    ),
    Row(
        "POST",
        _API + "/super-squash/{branch}",
        "push",
        A + "/super-squash/s-{slug}",
        {},
        before=("POST", A + "/branch/s-{slug}", {}),
    ),
    Row("GET", _API + "/compare/{range}", "read", A + "/compare/main..main"),
    Row("POST", _API + "/like", "see, writing", A + "/like"),
    Row("DELETE", _API + "/like", "see, writing", A + "/like"),
    Row("GET", _API + "/likers", "see", A + "/likers"),
    Row("GET", "/api/users/{user}/likes", "anybody", "/api/users/ada/likes"),
    Row("GET", "/api/models-tags-by-type", "anybody", "/api/models-tags-by-type"),
    Row("GET", "/api/datasets-tags-by-type", "anybody", "/api/datasets-tags-by-type"),
    Row("GET", "/api/settings/repositories", "a key", "/api/settings/repositories"),
    Row(
        "GET",
        "/api/organizations/{space}/settings/repositories",
        "a key",
        "/api/organizations/guild/settings/repositories",
    ),
    Row("GET", _API + "/lfs-files", "push", A + "/lfs-files"),
    Row("POST", _API + "/lfs-files/batch", "manage", A + "/lfs-files/batch", {"deletions": {"sha": []}}),
    Row(
        "POST",
        _API + "/lfs-files/duplicate",
        "push",
        A + "/lfs-files/duplicate",
        {"target": {"type": "model", "name": "{repo}"}, "files": []},
    ),
    Row(
        "GET",
        _API + "/safetensors-metadata/{path*}",
        "read",
        A + "/safetensors-metadata/none.json",
        ok=(404,),
    ),
    *webhook_rows(),
    Row("GET", "/api/collections", "anybody", "/api/collections"),
    Row(
        "POST",
        "/api/collections",
        "guild manage",
        "/api/collections",
        {"title": "c-{slug}", "namespace": "guild"},
    ),
    *(
        # One that is not there: what an owner may do, and others may not, is in tests/compat/test_hub_contract.py.
        Row(
            method,
            "/api/collections/{space}/{slug}" + more,
            "anybody",
            "/api/collections/guild/none-1" + path,
            body,
            (404,),
        )
        for method, more, path, body in (
            ("GET", "", "", None),
            ("PATCH", "", "", {}),
            ("DELETE", "", "", None),
            ("POST", "/items", "/items", {"item": {"id": "a/b", "type": "model"}}),
            ("PATCH", "/items/{item}", "/items/1", {}),
            ("DELETE", "/items/{item}", "/items/1", None),
        )
    ),
    Row(
        "GET",
        _API + "/user-access-request/{status}",
        "push",
        A + "/user-access-request/pending",
        repos=(GATED,),
    ),
    Row(
        "POST",
        _API + "/user-access-request/handle",
        "push",
        A + "/user-access-request/handle",
        {"user": "nobody-asked", "status": "accepted"},
        (404,),
        repos=(GATED,),
    ),
    Row(
        "POST",
        _API + "/user-access-request/grant",
        "push",
        A + "/user-access-request/grant",
        {"user": "victim"},
        (200, 400),  # 400: the one before gave it
        repos=(GATED,),
    ),
    # 409: the terms were not read; 400: who may write to it need not ask.
    Row(
        "POST",
        "/{owner}/{name}/ask-access",
        "ask",
        "/{repo}/ask-access",
        {"terms": "unread"},
        (409, 400),
        repos=(GATED,),
    ),
    Row("GET", "/{owner}/{name}/user-access-report", "push", "/{repo}/user-access-report", repos=(GATED,)),
    Row("GET", _API + "/discussions", "read", A + "/discussions"),
    Row("POST", _API + "/discussions", "take part", A + "/discussions", _TALK),
    Row("GET", _TALKS, "read", A + "/discussions/1", before=("POST", A + "/discussions", _TALK)),
    Row("POST", _TALKS + "/comment", "take part", A + "/discussions/1/comment", {"comment": "x"}),
    # The administrator opened number 1: its author may too, and nobody here is that.
    Row("POST", _TALKS + "/title", "push", A + "/discussions/1/title", {"title": "Another title"}),
    Row("POST", _TALKS + "/status", "push", A + "/discussions/1/status", {"status": "open"}),
    Row("POST", _TALKS + "/merge", "push", A + "/discussions/1/merge", {}, (400,)),
    Row(
        "POST",
        _TALKS + "/comment/{id}/edit",
        "take part",
        A + "/discussions/1/comment/none/edit",
        {"content": "x"},
        (404,),
    ),
    Row(
        "POST", _TALKS + "/comment/{id}/hide", "take part", A + "/discussions/1/comment/none/hide", {}, (404,)
    ),
    *(
        Row(m, "/api/telemetry/{path*}", "anybody", "/api/telemetry/x", ok=(404,))
        for m in ("GET", "HEAD", "POST")
    ),
    *(
        Row(m, "/api/{path*}", "anybody", "/api/nothing/here", ok=(501,))
        for m in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    ),
]
FUST: list[Row] = [
    Row("GET", "/fust/v1/session", "anybody", "/fust/v1/session"),
    Row("POST", "/fust/v1/session", "anybody", "/fust/v1/session", {}, (400,)),
    Row("DELETE", "/fust/v1/session", "anybody", "/fust/v1/session", ok=(204,)),
    Row("POST", "/fust/v1/open", "a whole writing key", "/fust/v1/open"),
    Row("GET", "/fust/v1/tokens", "a whole key", "/fust/v1/tokens"),
    Row("POST", "/fust/v1/tokens", "a whole key", "/fust/v1/tokens", {"name": "x"}, (201,)),
    Row("DELETE", "/fust/v1/tokens/{token_id:str}", "a whole writing key", "/fust/v1/tokens/none", ok=(404,)),
    *organisation_rows(),
    Row("GET", "/fust/v1/people", "a whole key", "/fust/v1/people"),
    Row("GET", "/fust/v1/users/{user:str}/tokens", "an administrator", "/fust/v1/users/victim/tokens"),
    Row(
        "POST",
        "/fust/v1/users/{user:str}/tokens",
        "an administrator",
        "/fust/v1/users/victim/tokens",
        {"name": "x"},
        (201,),
    ),
    Row(
        "PATCH", "/fust/v1/users/{user:str}", "an administrator", "/fust/v1/users/victim", {"full_name": "V"}
    ),
    Row(
        "DELETE",
        "/fust/v1/users/{user:str}",
        "an administrator",
        "/fust/v1/users/d-{slug}",
        ok=(204,),
        before=("POST", "/fust/v1/users", {"name": "d-{slug}"}),
    ),
    Row("GET", "/fust/v1/users", "an administrator", "/fust/v1/users"),
    Row("POST", "/fust/v1/users", "an administrator", "/fust/v1/users", {"name": "u-{slug}"}, (201,)),
    Row(
        "PUT",
        "/fust/v1/users/{user:str}/password",
        "an administrator",
        "/fust/v1/users/victim/password",
        {"password": "long enough a password"},
        (204,),
    ),
    Row("GET", "/fust/v1/status", "a key", "/fust/v1/status"),
    Row("GET", "/fust/v1/doctor", "an administrator", "/fust/v1/doctor"),
    Row("GET", "/fust/v1/config", "an administrator", "/fust/v1/config"),
    Row("GET", "/fust/v1/sessions", "a whole writing key", "/fust/v1/sessions"),
    Row("DELETE", "/fust/v1/sessions", "a whole writing key", "/fust/v1/sessions"),
    Row(
        "DELETE",
        "/fust/v1/sessions/{session_id:str}",
        "a whole writing key",
        "/fust/v1/sessions/x",
        ok=(404,),
    ),
    Row("POST", "/fust/v1/users/{user:str}/sign-out", "an administrator", "/fust/v1/users/victim/sign-out"),
    Row("GET", "/fust/v1/sign-in", "anybody", "/fust/v1/sign-in"),
    Row("GET", "/fust/v1/oidc/start", "anybody", "/fust/v1/oidc/start", ok=(404,)),
    Row("GET", "/fust/v1/oidc/callback", "anybody", "/fust/v1/oidc/callback?state=x&code=y", ok=(200,)),
    # Only browsers let programs in, and every caller here but one (from another site) comes with a key.
    *(
        Row(
            "POST",
            f"/fust/v1/device/{word}",
            "nobody at all",
            f"/fust/v1/device/{word}",
            {"code": "BCDF-BCDF"},
        )
        for word in ("look", "allow", "deny")
    ),
    Row("GET", "/fust/v1/invitations", "a whole writing key", "/fust/v1/invitations"),
    Row("POST", "/fust/v1/invitations", "an administrator", "/fust/v1/invitations", {}, (201,)),
    Row(
        "POST",
        "/fust/v1/invitations",
        "guild manage",
        "/fust/v1/invitations",
        {"organisation": "guild"},
        (201,),
    ),
    Row(
        "DELETE",
        "/fust/v1/invitations/{invitation_id:str}",
        "a whole writing key",
        "/fust/v1/invitations/x",
        ok=(404,),
    ),
    Row("POST", "/fust/v1/invitations/look", "anybody", "/fust/v1/invitations/look", {"code": "x"}, (404,)),
    Row(
        "POST", "/fust/v1/invitations/accept", "anybody", "/fust/v1/invitations/accept", {"code": "x"}, (404,)
    ),
    Row("GET", "/fust/v1/audit", "an administrator", "/fust/v1/audit"),
    Row("GET", "/fust/v1/audit/actions", "anybody", "/fust/v1/audit/actions"),
    Row("GET", "/fust/v1/audit/export", "an administrator", "/fust/v1/audit/export"),
    Row("GET", "/fust/v1/audit/verify", "an administrator", "/fust/v1/audit/verify"),
    Row("GET", "/fust/v1/first-minute", "a key", "/fust/v1/first-minute", ok=(200, 404)),
    Row("GET", "/fust/v1/notices", "a key", "/fust/v1/notices"),
    Row("POST", "/fust/v1/notices/read", "a key", "/fust/v1/notices/read", {}, (200, 201, 204)),
    Row("GET", "/fust/v1/storage", "an administrator", "/fust/v1/storage"),
    Row("GET", "/fust/v1/repos", "anybody", "/fust/v1/repos"),
    Row("GET", _FUST, "see", "/fust/v1/repos/model/{repo}"),
    Row("GET", _FUST + "/gate", "see", "/fust/v1/repos/model/{repo}/gate"),
    Row("GET", "/fust/v1/access", "a key", "/fust/v1/access"),
    # A model is no static space; that one is walked in tests/api/test_gates_by_surface.py.
    Row("GET", _FUST + "/app", "read", "/fust/v1/repos/model/{repo}/app", ok=(400,)),
    *(
        Row(method, "/static/{ticket}/{path*}", "nobody at all", "/static/none/index.html", ok=(403,))
        for method in ("GET", "HEAD")
    ),
    Row("GET", _FUST + "/preview", "read", "/fust/v1/repos/model/{repo}/preview?path=folder/file.txt"),
    Row("GET", _FUST + "/commits", "see", "/fust/v1/repos/model/{repo}/commits"),
    Row("GET", _FUST + "/commits/{oid:str}", "read", "/fust/v1/repos/model/{repo}/commits/{oid}"),
    Row(
        "DELETE",
        _FUST + "/leaks/{leak_id:str}",
        "push",
        "/fust/v1/repos/model/{repo}/leaks/none",
        ok=(404,),
    ),
    Row("GET", _FUST + "/compare", "read", "/fust/v1/repos/model/{repo}/compare?head=main"),
    Row("GET", _FUST + "/refs", "see", "/fust/v1/repos/model/{repo}/refs"),
    Row("GET", "/fust/v1/webhooks", "a whole writing key", "/fust/v1/webhooks"),
    Row(
        "GET",
        "/fust/v1/webhooks/{webhook_id:str}/deliveries",
        "a whole writing key",
        "/fust/v1/webhooks/none/deliveries",
        ok=(404,),
    ),
    Row(
        "POST",
        "/fust/v1/webhooks/{webhook_id:str}/deliveries/{delivery_id:str}/redeliver",
        "a whole writing key",
        "/fust/v1/webhooks/none/deliveries/none/redeliver",
        ok=(404,),
    ),
    Row("GET", "/fust/v1/runs", "a key", "/fust/v1/runs"),
    Row(
        "POST",
        "/fust/v1/runs",
        "a writing key",
        "/fust/v1/runs",
        {"kind": "no such kind", "params": {}},
        (400, 404),
    ),
    Row("GET", "/fust/v1/runs/{run_id:str}", "ada", "/fust/v1/runs/{run}"),
    Row("GET", "/fust/v1/runs/{run_id:str}/log", "ada", "/fust/v1/runs/{run}/log"),
    Row("GET", "/fust/v1/runs/{run_id:str}/events", "ada", "/fust/v1/runs/{run}/events"),
    Row(
        "POST",
        "/fust/v1/runs/{run_id:str}/cancel",
        "ada, writing",
        "/fust/v1/runs/{run}/cancel",
        ok=(200, 409),
    ),
    Row(
        "POST",
        "/fust/v1/runs/{run_id:str}/resume",
        "ada, writing",
        "/fust/v1/runs/{run}/resume",
        ok=(200, 409),
    ),
    Row(
        "POST",
        "/fust/v1/runs/{run_id:str}/end-early",
        "ada, writing",
        "/fust/v1/runs/{run}/end-early",
        ok=(409,),  # it tunes nothing
    ),
    Row("GET", "/fust/v1/tune/bases", "a key", "/fust/v1/tune/bases"),
    Row(
        "POST",
        "/fust/v1/tune/check",
        "a writing key",
        "/fust/v1/tune/check",
        {"params": {"extends": "r-none", "steps": 1}},
        (404,),
    ),
    *(
        Row(
            "GET",
            f"/fust/v1/tune/runs/{{run_id:str}}{what}",
            "ada",
            f"/fust/v1/tune/runs/{{run}}{what}",
            ok=(404,),  # it tunes nothing
        )
        for what in ("", "/points", "/points.csv")
    ),
    Row("GET", "/fust/v1/deployments", "a key", "/fust/v1/deployments"),
    Row("GET", "/fust/v1/deployments/plan", "a key", "/fust/v1/deployments/plan?repo_id=no/such", ok=(404,)),
    Row("GET", "/fust/v1/engines", "a key", "/fust/v1/engines"),
    Row(
        "POST",
        "/fust/v1/deployments",
        "guild read",  # who may read a model may serve it
        "/fust/v1/deployments",
        {"repo_id": GUILD},
        (400, 404),
    ),
    Row("GET", "/fust/v1/deployments/{deployment_id:str}", "a key", "/fust/v1/deployments/none", ok=(404,)),
    Row(
        "GET",
        "/fust/v1/deployments/{deployment_id:str}/adapters",
        "a key",
        "/fust/v1/deployments/none/adapters",
        ok=(404,),
    ),
    Row(
        "POST",
        "/fust/v1/deployments/{deployment_id:str}/adapters",
        "a writing key",
        "/fust/v1/deployments/none/adapters",
        {"repo_id": "ada/open"},
        (404,),
    ),
    Row(
        "DELETE",
        "/fust/v1/deployments/{deployment_id:str}/adapters/{name:str}",
        "a writing key",
        "/fust/v1/deployments/none/adapters/none",
        ok=(404,),
    ),
    Row(
        "DELETE",
        "/fust/v1/deployments/{deployment_id:str}",
        "a writing key",
        "/fust/v1/deployments/none",
        ok=(404,),
    ),
    Row(
        "PATCH",
        "/fust/v1/deployments/{deployment_id:str}",
        "a writing key",
        "/fust/v1/deployments/none",
        {"pinned": True},
        ok=(404,),
    ),
    *(
        Row(
            method,
            f"/fust/v1/deployments/{{deployment_id:str}}/{what}",
            "a writing key",
            f"/fust/v1/deployments/none/{what}",
            ok=(404,),
        )
        for method, what in (("POST", "load"), ("POST", "unload"), ("GET", "logs"))
    ),
]
CHATS: list[Row] = [
    Row("GET", "/fust/v1/chats", "a whole writing key", "/fust/v1/chats"),
    Row("POST", "/fust/v1/chats", "a whole writing key", "/fust/v1/chats", {"title": "x"}, (201,)),
    Row("GET", "/fust/v1/chats/history", "a whole writing key", "/fust/v1/chats/history"),
    Row("PUT", "/fust/v1/chats/history", "a whole writing key", "/fust/v1/chats/history", {"keep": True}),
    Row("GET", "/fust/v1/chats/export", "a whole writing key", "/fust/v1/chats/export"),
    Row("GET", "/fust/v1/chats/{chat_id:str}", "a whole writing key", "/fust/v1/chats/none", ok=(404,)),
    Row(
        "PATCH",
        "/fust/v1/chats/{chat_id:str}",
        "a whole writing key",
        "/fust/v1/chats/none",
        {"title": "x"},
        (404,),
    ),
    Row(
        "GET",
        "/fust/v1/chats/{chat_id:str}/export",
        "a whole writing key",
        "/fust/v1/chats/none/export",
        ok=(404,),
    ),
    Row(
        "PUT",
        "/fust/v1/chats/{chat_id:str}/turns/{turn_id:str}",
        "a whole writing key",
        "/fust/v1/chats/none/turns/one",
        {"role": "user", "text": "x"},
        (404, 400),
    ),
    Row("DELETE", "/fust/v1/chats/{chat_id:str}", "a whole writing key", "/fust/v1/chats/none", ok=(404,)),
    Row("DELETE", "/fust/v1/chats", "a whole writing key", "/fust/v1/chats", ok=(200, 204)),
]
MODEL: list[Row] = [
    Row("POST", path, "a key", path, {"model": "none", **more}, (404,))
    for path, more in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/responses", {"input": "x"}),
        ("/v1/messages", {"max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/rerank", {"query": "x", "documents": ["x"]}),
        ("/v1/classify", {"input": "x"}),
        ("/v1/tokenize", {"prompt": "x"}),
        ("/v1/detokenize", {"tokens": [1]}),
    )
] + [
    Row("GET", "/v1/models", "a key", "/v1/models"),
    Row("GET", "/v1/models/{id*}", "a key", "/v1/models/none", ok=(404,)),
    Row("GET", "/v1/responses/{id}", "a key", "/v1/responses/none", ok=(404,)),
    Row("DELETE", "/v1/responses/{id}", "a key", "/v1/responses/none", ok=(404,)),
    Row("GET", "/v1/responses/{id}/input_items", "a key", "/v1/responses/none/input_items", ok=(404,)),
    Row("POST", "/v1/responses/{id}/cancel", "a key", "/v1/responses/none/cancel", ok=(404,)),
    Row("POST", "/v1/files", "a key", "/v1/files", {}, (400,)),
    Row("GET", "/v1/files", "a key", "/v1/files"),
    Row("GET", "/v1/files/{id}", "a key", "/v1/files/none", ok=(404,)),
    Row("GET", "/v1/files/{id}/content", "a key", "/v1/files/none/content", ok=(404,)),
    Row("DELETE", "/v1/files/{id}", "a key", "/v1/files/none", ok=(404,)),
    Row("POST", "/v1/batches", "a key", "/v1/batches", {}, (400,)),
    Row("GET", "/v1/batches", "a key", "/v1/batches"),
    Row("GET", "/v1/batches/{id}", "a key", "/v1/batches/none", ok=(404,)),
    Row("POST", "/v1/batches/{id}/cancel", "a key", "/v1/batches/none/cancel", ok=(404,)),
]
SYSTEM_ROWS: list[Row] = [
    Row("GET", "/healthz", "anybody", "/healthz"),
    Row("GET", "/metrics", "an administrator", "/metrics"),
    Row("GET", "/", "anybody", "/"),
    Row("GET", "/assets/", "anybody", "/assets/none.js", ok=(404,)),
]
TABLE = [*HUB, *FUST, *CHATS, *MODEL, *SYSTEM_ROWS]


def known_routes() -> set[tuple[str, str]]:
    """Returns (method, pattern) of every route, as the code has them."""
    found = {(r.method, _plain(r.pattern)) for r in ROUTES}
    for handler in HANDLERS:
        assert isinstance(handler, HTTPRouteHandler)
        found |= {(str(getattr(m, "value", m)), path) for path in handler.paths for m in handler.http_methods}
    found |= {("POST", path) for path in BODIES} | {(route.method, route.pattern) for route in SHELF}
    source = Path(asgi.__file__).read_text()
    found |= {("GET", path) for path in re.findall(r'raw == b"(/[a-z]+)"', source) if path != "/fust"}
    return found


def _plain(pattern: str) -> str:
    """Returns a hub pattern without the parts that only spell it another way."""
    pattern = re.sub(r"^/(datasets|spaces)/\{owner\}", "/{owner}", pattern)
    pattern = re.sub(r"^/\{owner\}/\{name\}/(info|git-)", r"/{owner}/{name}.git/\1", pattern)
    return pattern.replace("/xet/{scope}/", "/xet/")


def test_the_table_is_whole() -> None:
    known, listed = known_routes(), {(row.method, row.pattern) for row in TABLE}
    missing = known - listed
    assert not missing, f"say in the table who may use: {sorted(missing)}"
    gone = listed - known - {("GET", "/"), ("GET", "/assets/")}
    assert not gone, f"no longer routes: {sorted(gone)}"


@dataclass(frozen=True)
class Town:
    """A server with its people, and how each calls."""

    server: RunningFust
    headers: dict[str, dict[str, str]]
    run: str
    oids: dict[str, str]


GATE_USERS = ("asked", "inside", "late", "older", "away")


@pytest.fixture(scope="module")
def town(server: RunningFust) -> Iterator[Town]:
    database = Database(f"sqlite:///{server.home / 'fust.db'}")
    accounts = Accounts(database, load_settings(server.home, environ={}))
    for name in ("ada", "stranger", "reader", "writer", "keeper", "master", "victim", *GATE_USERS):
        accounts.users.create(name, password="a long enough password" if name == "ada" else None)
    accounts.organisations.create("guild", by=SYSTEM, owner="master")
    for name, role in (("reader", "read"), ("writer", "write"), ("keeper", "admin")):
        accounts.organisations.set_member("guild", name, role, by=SYSTEM)

    def key(user: str, scope: str = "write", repos: list[str] | None = None) -> dict[str, str]:
        secret = accounts.tokens.create(user, "k", scope, repos=repos).secret
        return {"authorization": f"Bearer {secret}"}

    cookie = accounts.sessions.sign_in_by_password("ada", "a long enough password")
    headers = {
        "nobody": {},
        "stranger": key("stranger"),
        "ada, reading key": key("ada", "read"),
        "ada": key("ada"),
        FINE[0]: key("ada", repos=[OPEN]),
        "asked for access": key("asked"),
        "let in": key("inside"),
        "let in, reading key": key("inside", "read"),
        FINE[1]: key("inside", repos=[OPEN]),
        "let in until yesterday": key("late"),
        "let in to older terms": key("older"),
        "turned away": key("away"),
        FOREIGN: {
            "cookie": f"fust_session={cookie}",
            "origin": "https://evil.example",
            "sec-fetch-site": "cross-site",
        },
        "guild reader": key("reader"),
        "guild writer": key("writer"),
        "guild admin": key("keeper"),
        "guild owner": key("master"),
        "administrator": {"authorization": f"Bearer {server.token}"},
    }
    database.close()
    oids: dict[str, str] = {}
    for repo in REPOS:
        body = {"name": repo, "private": repo in (CLOSED, GUILD)}
        assert server.request("POST", "/api/repos/create", body)[0] == 200
        lines = ndjson("x").replace(b"x.txt", b"README.md")
        assert server.request("POST", f"/api/models/{repo}/commit/main", lines)[0] == 200
        lines = ndjson("folder/file").replace(b'"content": ""', f'"content": "{CANARY}"'.encode())
        status, _, answer = server.request("POST", f"/api/models/{repo}/commit/main", lines)
        assert status == 200, answer
        oids[repo] = json.loads(answer)["commitOid"]
    fill_gate(server, headers)
    params = {"repo_id": "nobody/nothing", "source": "http://127.0.0.1:9"}
    status, _, answer = server.request(
        "POST", "/fust/v1/runs", {"kind": "pull", "params": params}, token=None, headers=headers["ada"]
    )
    assert status == 201, answer
    yield Town(server, headers, json.loads(answer)["id"], oids)


def fill_gate(server: RunningFust, headers: dict[str, dict[str, str]]) -> None:
    """Puts everybody of GATE_USERS where its name says, before the gate of guild/gated."""

    def call(method: str, path: str, body: object, role: str = "administrator") -> None:
        status, _, answer = server.request(method, path, body, token=None, headers=headers[role])
        assert status == 200, answer

    settings, requests = f"/api/models/{GATED}/settings", f"/api/models/{GATED}/user-access-request"
    call("PUT", settings, {"gated": "manual"})
    call("POST", requests + "/grant", {"user": "older"})
    call("PUT", settings, {"askAgain": True})
    call("POST", requests + "/grant", {"user": "late", "until": soon()})
    terms = json.loads(server.request("GET", f"/fust/v1/repos/model/{GATED}/gate")[2])["terms"]
    for role, user, became in (
        ("asked for access", "asked", ""),
        ("let in", "inside", "accepted"),
        ("turned away", "away", "rejected"),
    ):
        call("POST", f"/{GATED}/ask-access", {"terms": terms}, role)
        if became:
            call("POST", requests + "/handle", {"user": user, "status": became})
    time.sleep(1.2)  # until "late" is late


def soon() -> str:
    return (datetime.now(UTC) + timedelta(seconds=1)).isoformat()


def ask(town: Town, role: str, row: Row, repo: str) -> tuple[int, bytes]:
    slug = re.sub(r"[^a-z]+", "-", role)

    def fill(text: str) -> str:
        for name, value in (("repo", repo), ("slug", slug), ("run", town.run), ("oid", town.oids[repo])):
            text = text.replace("{" + name + "}", value)
        return text

    def body_of(value: object) -> object:
        if callable(value):
            return value(slug)
        return json.loads(fill(json.dumps(value))) if isinstance(value, dict) else value

    if row.before:
        method, path, value = row.before
        town.server.request(method, fill(path), body_of(value))
    status, _, answer = town.server.request(
        row.method, fill(row.path), body_of(row.body), token=None, headers=town.headers[role]
    )
    return status, answer


def expected(role: str, row: Row, repo: str) -> tuple[int, ...]:
    """Returns the statuses that are right."""
    unsafe = row.method not in ("GET", "HEAD")
    if role == FOREIGN and unsafe:
        return (403, 401) if row.need != "anybody" else (403, *row.ok)
    # The Hub says 401 to who has no key, Fust's own surface says of hidden things that they are not there.
    hidden = (401, 404) if role == "nobody" else (404,)
    refused = (401,) if role == "nobody" else (403, 404)
    denied = (401,) if role == "nobody" else (403,)
    wanted = LEVELS.get(row.need)
    if wanted is None:
        if row.need == "nobody at all":
            return (401, 403)
        if row.need.startswith("ada"):
            refused = (*refused, *hidden)
        return row.ok if NEEDS[row.need](role) else refused
    level = MAY[role][REPOS.index(repo)]
    if level >= wanted:
        writes = NEEDS["a whole writing key" if row.need == "ask" else "a writing key"](role)
        return row.ok if writes or row.need not in ("see, writing", "take part", "ask") else denied
    return hidden if level == NONE else denied


@pytest.mark.parametrize("role", ROLES)
def test_every_route_as(town: Town, role: str) -> None:
    wrong: list[str] = []
    for row in TABLE:
        for repo in row.repos if "{repo}" in row.path else row.repos[:1]:
            (status, answer), right = ask(town, role, row, repo), expected(role, row, repo)
            if status not in right:
                wrong.append(f"{row.method} {row.pattern} of {repo}: {status}, not {right} ({row.need})")
            if CANARY.encode() in answer and MAY[role][REPOS.index(repo)] < READ:
                wrong.append(f"{row.method} {row.pattern} of {repo} shows what is in its files")
    assert not wrong, "\n" + "\n".join(wrong)
