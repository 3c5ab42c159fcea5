"""`/fust/v1/repos`: repos as Fust's own page and CLI show them. Changes go through the hub surface `/api/…`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import psutil
from litestar import Request, delete, get
from litestar.datastructures import State
from litestar.params import Parameter
from litestar.types import ControllerRouterHandler

from fust.accounts.rights import Identity, may
from fust.core.clock import iso
from fust.core.i18n import Language, accepted_language, fill
from fust.core.ids import RepoType, check_repo_type
from fust.core.settings import Settings
from fust.core.units import show_size
from fust.hub.safety import Finding, Level
from fust.hub.service import Hub
from fust.hub.static_spaces import open_app
from fust.hub.types import RepoInfo, Sort

AnyRequest = Request[object, object, State]
_HEADROOM = 1.15
"""A model needs more than its file: context and buffers."""


class DeploymentRef(msgspec.Struct):
    """The deployment that serves a repo."""

    id: str
    name: str
    state: str


class RepoSummary(msgspec.Struct, kw_only=True):
    """A repo in a list."""

    repo_id: str
    type: RepoType
    private: bool
    gated: Literal["no", "auto", "manual"]
    revision: str
    created_at: str
    updated_at: str
    size_bytes: int
    downloads: int
    likes: int
    licence: str
    languages: list[str]
    task: str
    library: str
    tags: list[str]
    formats: list[str]
    sdk: str
    description: str
    fits: Literal["yes", "no", "unknown"]
    fits_reason: str
    deployment: DeploymentRef | None


class FileSafety(msgspec.Struct):
    """Whether loading a file runs code, as far as its opcodes tell."""

    level: Level
    imports: list[str]
    """What it would import, dangerous and suspicious things only: `os.system`."""
    doubts: list[str]
    """Why not all was seen: `too long`, `broken`, `encrypted`, `unreadable`."""


class RepoFileLine(msgspec.Struct):
    """A file of a repo; `sha256` of a large one only."""

    path: str
    size_bytes: int
    oid: str
    lfs: bool
    sha256: str | None
    safety: FileSafety | None = None
    """Of one that may be loaded as a pickle."""


class CommitLine(msgspec.Struct):
    """A commit in a history."""

    oid: str
    title: str
    author: str
    date: str
    licence_before: str | None = None
    licence_after: str | None = None
    """Of a commit that changed it; empty: none is named."""


class LeakLine(msgspec.Struct):
    """Where a secret seems to lie in the repo's history."""

    id: str
    commit_oid: str
    path: str
    kind: str
    line: int
    by: str
    found_at: str


class RepoDetails(RepoSummary, kw_only=True):
    """A repo at a revision."""

    may: list[str]
    """What the caller may do with it: `discuss`, `push`, `settings`, `delete`."""
    liked: bool
    """By the caller."""
    protected: list[str]
    """Patterns of branches whose history nobody rewrites."""
    discussions_open: int
    open: bool
    """Whether the caller may have its files; no, before the gate of a gated one."""
    access_pending: int
    """Requests for access that wait for the caller's word."""
    files: list[RepoFileLine]
    card: str | None
    commits: list[CommitLine]
    clone_url: str
    leaks: list[LeakLine] = []
    """For who may write to it."""


class SpaceApp(msgspec.Struct):
    """Where the pages of a static space are; whoever has the address reads them until `expires_at`."""

    path: str
    """Below the root."""
    revision: str
    expires_at: str


class RepoList(msgspec.Struct):
    """A page of repos."""

    items: list[RepoSummary]
    next: str | None
    total: int


def _language(request: AnyRequest) -> Language:
    return accepted_language(request.headers.get("accept-language"))


def _fits(info: RepoInfo, language: Language) -> tuple[Literal["yes", "no", "unknown"], str]:
    """Returns whether a GGUF of the repo fits into the memory that is free now, and why."""
    if info.type != "model" or not info.smallest_gguf_bytes:
        return "unknown", ""
    free = psutil.virtual_memory().available
    needed = int(info.smallest_gguf_bytes * _HEADROOM)
    params: dict[str, object] = {"needed": show_size(needed), "free": show_size(free)}
    if needed <= free:
        return "yes", fill("needs about {needed}, {free} is free", params, language)
    return "no", fill("needs about {needed}, only {free} is free", params, language)


def _summary(hub: Hub, info: RepoInfo, language: Language) -> dict[str, object]:
    fits, reason = _fits(info, language)
    return {
        "repo_id": info.repo_id,
        "type": info.type,
        "private": info.private,
        "gated": info.gate,
        "revision": info.head_oid,
        "created_at": iso(info.created_at),
        "updated_at": iso(info.updated_at),
        "size_bytes": info.size_bytes,
        "downloads": info.downloads,
        "likes": info.likes,
        "licence": info.licence,
        "languages": info.languages,
        "task": info.task,
        "library": info.library,
        "tags": info.tags,
        "formats": info.formats,
        "sdk": info.sdk,
        "description": info.description,
        "fits": fits,
        "fits_reason": reason,
        "deployment": hub.find_deployment(info) if info.type == "model" else None,
    }


@get("/fust/v1/repos", sync_to_thread=True, tags=["repos"])
def list_repos(
    request: AnyRequest,
    hub: Hub,
    identity: Identity,
    repo_type: Annotated[Literal["model", "dataset", "space"] | None, Parameter(query="type")] = None,
    search: str = "",
    author: str = "",
    sort: Literal["updated", "created", "name", "size", "downloads", "likes", "trending"] = "updated",
    limit: Annotated[int, Parameter(ge=1, le=500)] = 50,
    cursor: str | None = None,
) -> RepoList:
    """Repos that the caller may see."""
    order: Sort = sort
    hub.flush_downloads()
    page = hub.list_repos(
        identity, repo_type, search=search, author=author, sort=order, limit=limit, cursor=cursor
    )
    items = [
        msgspec.convert(_summary(hub, info, _language(request)), RepoSummary, from_attributes=True)
        for info in page.items
    ]
    return RepoList(items, page.next, page.total)


@get("/fust/v1/repos/{repo_type:str}/{owner:str}/{name:str}", sync_to_thread=True, tags=["repos"])
def get_repo(
    request: AnyRequest,
    hub: Hub,
    settings: Settings,
    identity: Identity,
    repo_type: str,
    owner: str,
    name: str,
    revision: str = "main",
    files: bool = True,
) -> RepoDetails:
    """One repo at a revision: its files, its card as written, its newest commits; without those when `files` is off.

    An old name answers with the repo that had it: `repo_id` is the one to use.
    """
    info = hub.get_repo_by_any_name(identity, f"{owner}/{name}", check_repo_type(repo_type))
    oid = hub.resolve_revision(info, revision)
    drawn = _summary(hub, info, _language(request)) | {
        "revision": oid,
        "may": [word for word, allowed in _rights(hub, identity, info).items() if allowed],
        "liked": hub.likes.is_liked_by(identity, info),
        "protected": info.protected,
        "discussions_open": hub.discussions.count_open(info),
        "open": hub.gates.opens(identity, info),
        "access_pending": hub.access.count_pending(identity, info),
        "files": _files(hub, info, oid) if files else [],
        "card": hub.read_card(info, oid) if files else None,
        "commits": _commits(hub, info, oid) if files else [],
        "leaks": _leaks(hub, info) if _rights(hub, identity, info).get("push") else [],
        "clone_url": f"{settings.public_url}/{info.prefix}{info.repo_id}",
    }
    return msgspec.convert(drawn, RepoDetails, from_attributes=True)


def _rights(hub: Hub, identity: Identity, info: RepoInfo) -> dict[str, bool]:
    return {
        "discuss": hub.discussions.may_take_part(identity, info),
        "push": may(identity, "repo.push", info.repo_id, info.type),
        "settings": may(identity, "repo.settings", info.repo_id, info.type),
        "delete": may(identity, "repo.delete", info.repo_id, info.type),
    }


def _files(hub: Hub, info: RepoInfo, oid: str) -> list[RepoFileLine]:
    entries = hub.list_tree(info, oid, recursive=True)
    findings = hub.safety.look(info, oid, entries)
    return [
        RepoFileLine(e.path, e.size, e.oid, bool(e.sha256), e.sha256 or None, _safety(findings.get(e.path)))
        for e in entries
        if not e.is_folder
    ]


def _safety(finding: Finding | None) -> FileSafety | None:
    if finding is None:
        return None
    told = [f"{it['module']}.{it['name']}" for it in finding.imports if it["safety"] != "innocuous"]
    return FileSafety(finding.level, told, finding.doubts)


def _leaks(hub: Hub, info: RepoInfo) -> list[LeakLine]:
    return [
        LeakLine(row.id, row.commit_oid, row.path, row.kind, row.line, row.by, iso(row.found_at) or "")
        for row in hub.leaks.list(info)
    ]


def _commits(hub: Hub, info: RepoInfo, oid: str) -> list[CommitLine]:
    found = hub.list_commits(info, oid, limit=20)
    changes = hub.licence_changes(info, [commit.oid for commit in found])
    lines: list[CommitLine] = []
    for commit in found:
        change = changes.get(commit.oid)
        lines.append(
            CommitLine(
                commit.oid,
                commit.title,
                commit.authors[0] if commit.authors else "",
                iso(commit.date) or "",
                change.before if change else None,
                change.after if change else None,
            )
        )
    return lines


@delete(
    "/fust/v1/repos/{repo_type:str}/{owner:str}/{name:str}/leaks/{leak_id:str}",
    sync_to_thread=True,
    tags=["repos"],
)
def settle_leak(hub: Hub, identity: Identity, repo_type: str, owner: str, name: str, leak_id: str) -> None:
    """Takes a warning of a secret off the list: it was ended, or was none."""
    info = hub.get_repo_to_write(identity, f"{owner}/{name}", check_repo_type(repo_type))
    hub.leaks.settle(identity, info, leak_id)


@get("/fust/v1/repos/{repo_type:str}/{owner:str}/{name:str}/app", sync_to_thread=True, tags=["repos"])
def open_space(hub: Hub, identity: Identity, repo_type: str, owner: str, name: str) -> SpaceApp:
    """Where the pages of a static space are, for this reader and for four hours; they run in an origin of their own."""
    info = hub.get_repo_to_open(identity, f"{owner}/{name}", check_repo_type(repo_type))
    app = open_app(hub, identity, info)
    return SpaceApp(app.path, app.oid, iso(app.expires) or "")


handlers: list[ControllerRouterHandler] = [list_repos, get_repo, settle_leak, open_space]
