"""`/fust/v1/repos/…/preview`, `/commits`, `/compare`, `/refs` and `/fust/v1/storage`: looking into repos and their history."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from litestar import Request, get
from litestar.datastructures import State
from litestar.params import Parameter
from litestar.types import ControllerRouterHandler

from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.clock import iso
from fust.core.i18n import accepted_language, fill
from fust.core.ids import check_repo_type
from fust.hub.git_repo import CommitInfo
from fust.hub.history import Change, FileChange
from fust.hub.licences import LicenceChange
from fust.hub.paths import check_path
from fust.hub.service import Hub
from fust.hub.types import RepoInfo

AnyRequest = Request[object, object, State]
_REFS = {"refs/heads/": "branch", "refs/tags/": "tag"}


class PreviewColumn(msgspec.Struct):
    """A column of a preview; `kind` as the file says, or as its first rows let think."""

    name: str
    kind: str


class Preview(msgspec.Struct, kw_only=True):
    """The beginning of a file. Cells are cut at 2,000 characters; null is a value that is not there."""

    path: str
    revision: str
    size_bytes: int
    kind: Literal["table", "text", "none"]
    format: str
    columns: list[PreviewColumn]
    rows: list[list[str | None]]
    text: str
    more: bool
    rows_total: int | None
    reason: str


class HistoryLine(msgspec.Struct):
    """A commit in a list."""

    oid: str
    title: str
    author: str
    date: str
    licence_before: str | None = None
    licence_after: str | None = None
    """Of a commit that changed the licence that the card names; empty: none is named."""


class History(msgspec.Struct):
    """Commits, newest first."""

    items: list[HistoryLine]
    next: str | None


class DiffHunk(msgspec.Struct):
    """Lines that belong together; each begins with a space (same), `-` (removed) or `+` (added)."""

    old_start: int
    new_start: int
    lines: list[str]


class ChangedFile(msgspec.Struct, kw_only=True):
    """A file that a commit changed; no hunks for large, binary and long ones."""

    path: str
    change: Change
    old_path: str
    size_before: int | None
    size_after: int | None
    large: bool
    sha256_before: str
    sha256_after: str
    hunks: list[DiffHunk]
    cut: bool


class CommitDetails(msgspec.Struct, kw_only=True):
    """A commit and what it changed against the one before it."""

    oid: str
    title: str
    message: str
    author: str
    date: str
    parents: list[str]
    files: list[ChangedFile]
    files_total: int


class ComparedRevisions(msgspec.Struct, kw_only=True):
    """What lies between two revisions."""

    base_oid: str
    head_oid: str
    start_oid: str
    """What the files are compared with: the commit of the base, or where the two parted; empty: nothing is shared."""
    commits: list[HistoryLine]
    """Of the head, those that the base has not, newest first; 250 at most."""
    files: list[ChangedFile]
    files_total: int


class RefLine(msgspec.Struct):
    """A branch or a tag."""

    name: str
    kind: Literal["branch", "tag"]
    oid: str


class RefList(msgspec.Struct):
    """Branches, `main` first, then tags."""

    items: list[RefLine]


class Storage(msgspec.Struct, kw_only=True):
    """What large files take. Small files live in git and are not counted."""

    files: int
    files_bytes: int
    """Every large file once."""
    referenced_bytes: int
    """What they would take if each repo kept its own copies."""
    whole_bytes: int
    """Of files kept as one piece: pulled, or sent by git-lfs."""
    xet_bytes: int
    """Of files kept as chunks, before chunks that are the same were shared."""
    xorb_bytes: int
    """What those chunks take on the disk."""
    cache_bytes: int
    cache_room_bytes: int


def _find(hub: Hub, identity: Identity, repo_type: str, owner: str, name: str) -> RepoInfo:
    return hub.get_repo(identity, f"{owner}/{name}", check_repo_type(repo_type))


@get("/fust/v1/repos/{repo_type:str}/{owner:str}/{name:str}/preview", sync_to_thread=True, tags=["repos"])
def preview_file(
    request: AnyRequest,
    hub: Hub,
    identity: Identity,
    repo_type: str,
    owner: str,
    name: str,
    path: str,
    revision: str = "main",
) -> Preview:
    """The first rows of a JSONL, JSON, CSV, TSV or Parquet file, or the beginning of a text."""
    info = hub.get_repo_to_open(identity, f"{owner}/{name}", check_repo_type(repo_type))
    hub.gates.note_download(identity, info, "preview", path=path)
    file = hub.find_file(info, check_path(path), revision)
    look = hub.preview(info, file)
    language = accepted_language(request.headers.get("accept-language"))
    return Preview(
        path=path,
        revision=file.commit_oid,
        size_bytes=file.size,
        kind=look.kind,
        format=look.format,
        columns=[PreviewColumn(c.name, c.kind) for c in look.columns],
        rows=look.rows,
        text=look.text,
        more=look.more,
        rows_total=look.rows_total,
        reason=fill(look.reason, look.params or {}, language) if look.reason else "",
    )


@get("/fust/v1/repos/{repo_type:str}/{owner:str}/{name:str}/commits", sync_to_thread=True, tags=["repos"])
def list_history(
    hub: Hub,
    identity: Identity,
    repo_type: str,
    owner: str,
    name: str,
    revision: str = "main",
    path: str = "",
    limit: Annotated[int, Parameter(ge=1, le=200)] = 50,
    cursor: Annotated[int, Parameter(ge=0, le=10_000_000)] = 0,
) -> History:
    """The commits of a branch, a tag or a commit, newest first; with `path`, those that changed that file or folder."""
    info = _find(hub, identity, repo_type, owner, name)
    found = hub.list_commits(
        info, revision, path=check_path(path) if path else "", limit=limit + 1, skip=cursor
    )
    changes = hub.licence_changes(info, [commit.oid for commit in found[:limit]])
    items = [_line(commit, changes.get(commit.oid)) for commit in found[:limit]]
    return History(items, str(cursor + limit) if len(found) > limit else None)


def _line(commit: CommitInfo, change: LicenceChange | None = None) -> HistoryLine:
    before, after = (change.before, change.after) if change else (None, None)
    return HistoryLine(
        commit.oid, commit.title, ", ".join(commit.authors), iso(commit.date) or "", before, after
    )


@get(
    "/fust/v1/repos/{repo_type:str}/{owner:str}/{name:str}/commits/{oid:str}",
    sync_to_thread=True,
    tags=["repos"],
)
def get_commit(
    hub: Hub, identity: Identity, repo_type: str, owner: str, name: str, oid: str
) -> CommitDetails:
    """One commit: the files it changed, and the changed lines of small text files."""
    info = hub.get_repo_to_open(identity, f"{owner}/{name}", check_repo_type(repo_type))
    hub.gates.note_download(identity, info, "preview", commit=oid)
    found = hub.read_changes(info, oid)
    commit = found.commit
    return CommitDetails(
        oid=commit.oid,
        title=commit.title,
        message=commit.message,
        author=", ".join(commit.authors),
        date=iso(commit.date) or "",
        parents=found.parents,
        files=_draw_files(found.files),
        files_total=found.files_total,
    )


def _draw_files(files: list[FileChange]) -> list[ChangedFile]:
    return [msgspec.convert(file, ChangedFile, from_attributes=True) for file in files]


@get("/fust/v1/repos/{repo_type:str}/{owner:str}/{name:str}/compare", sync_to_thread=True, tags=["repos"])
def compare_revisions(
    hub: Hub,
    identity: Identity,
    repo_type: str,
    owner: str,
    name: str,
    head: str,
    base: str = "main",
    since_parted: bool = False,
    path: str = "",
) -> ComparedRevisions:
    """What lies between two branches, tags or commits; `since_parted` reads it as a pull request.

    With `path`, that file alone, with up to 10,000 of its lines.
    """
    info = hub.get_repo_to_open(identity, f"{owner}/{name}", check_repo_type(repo_type))
    hub.gates.note_download(identity, info, "preview", range=f"{base}..{head}")
    base_oid, head_oid, found = hub.compare(info, base, head, since_parted=since_parted, path=path)
    return ComparedRevisions(
        base_oid=base_oid,
        head_oid=head_oid,
        start_oid=found.start_oid,
        commits=[_line(commit) for commit in found.commits],
        files=_draw_files(found.files),
        files_total=found.files_total,
    )


@get("/fust/v1/repos/{repo_type:str}/{owner:str}/{name:str}/refs", sync_to_thread=True, tags=["repos"])
def list_repo_refs(hub: Hub, identity: Identity, repo_type: str, owner: str, name: str) -> RefList:
    """The branches and tags of a repo."""
    info = _find(hub, identity, repo_type, owner, name)
    found: list[RefLine] = []
    for ref in hub.list_refs(info):
        for prefix, kind in _REFS.items():
            if ref.ref.startswith(prefix):
                found.append(RefLine(ref.name, "branch" if kind == "branch" else "tag", ref.oid))
    return RefList(sorted(found, key=lambda ref: (ref.kind, ref.name != "main", ref.name)))


@get("/fust/v1/storage", sync_to_thread=True, tags=["system"])
def get_storage(hub: Hub, accounts: Accounts, identity: Identity) -> Storage:
    """What large files take on the disk, and what keeping equal chunks once saved; for administrators."""
    accounts.check_admin(identity)
    return msgspec.convert(hub.measure_storage(), Storage, from_attributes=True)


handlers: list[ControllerRouterHandler] = [
    preview_file,
    list_history,
    get_commit,
    compare_revisions,
    list_repo_refs,
    get_storage,
]
