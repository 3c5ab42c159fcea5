"""`/api/{type}/{id}/preupload`, `commit` and `commits`: writing a revision, and the history."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Literal

import msgspec

from fust.core.decode_words import words_of
from fust.core.errors import InvalidInput
from fust.core.ids import RepoType
from fust.formats.secrets import find_secrets
from fust.hub.api.common import next_link, page_url
from fust.hub.attributes import is_ignored, is_lfs
from fust.hub.draw import Json, draw_commit
from fust.hub.http import Reply, Request, Surface, header, json_reply, number, spool_body
from fust.hub.leaks import warning_of
from fust.hub.paths import check_path
from fust.hub.routing import BODY, REPO, Route
from fust.hub.types import AddFile, AddLargeFile, CopyFile, DeleteFile, DeleteFolder, Operation, RepoInfo

MAX_LINE_BYTES = 64 * 2**20


class PreuploadFile(msgspec.Struct):
    """A file that a client is about to upload."""

    path: str
    size: int
    sample: str = ""


class Preupload(msgspec.Struct):
    """Body of `/api/{type}/{id}/preupload/{revision}`."""

    files: list[PreuploadFile]
    gitIgnore: str | None = None


class CommitValue(msgspec.Struct):
    """`value` of any line of a commit."""

    summary: str = ""
    description: str = ""
    parentCommit: str | None = None
    path: str = ""
    content: str = ""
    encoding: str = "utf-8"
    algo: str = "sha256"
    oid: str = ""
    size: int | None = None
    srcPath: str = ""
    srcRevision: str | None = None


class CommitLine(msgspec.Struct):
    """One line of a commit's body."""

    key: Literal["header", "file", "lfsFile", "deletedFile", "deletedFolder", "copyFile"]
    value: CommitValue


def preupload(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, revision: str
) -> Reply:
    """`POST /api/{type}/{id}/preupload/{revision}`: which files go to git and which are large."""
    hub = surface.hub
    asked = request.decode(Preupload)
    create_pr = request.flag("create_pr")
    info = hub.get_repo_to_commit(request.identity, f"{owner}/{name}", type, revision, create_pr=create_pr)
    oid = hub.resolve_revision(info, revision)
    git = hub.content.open_repo(info)
    attributes = _text_at(surface, info, oid, ".gitattributes")
    ignore = asked.gitIgnore if asked.gitIgnore is not None else _text_at(surface, info, oid, ".gitignore")
    answers: list[Json] = []
    for file in asked.files:
        check_path(file.path)
        entry = git.find_entry(oid, file.path)
        large = file.size > 0 and (
            is_lfs(attributes, file.path)
            or file.size > surface.settings.hub.max_regular_file_bytes
            or (file.size > 2**20 and _is_binary(file.sample))
        )
        answers.append(
            {
                "path": file.path,
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": is_ignored(ignore, file.path),
                "oid": (entry.sha256 or entry.oid) if entry and not entry.is_folder else None,
            }
        )
    return json_reply({"files": answers})


def _is_binary(sample: str) -> bool:
    try:
        return b"\0" in base64.b64decode(sample)
    except (binascii.Error, ValueError):
        return False


def _text_at(surface: Surface, info: RepoInfo, oid: str, path: str) -> str:
    git = surface.hub.content.open_repo(info)
    entry = git.find_entry(oid, path)
    if entry is None or entry.is_folder or entry.sha256 or entry.size > 1_000_000:
        return ""
    return git.read_blob(entry.oid).decode("utf-8", "replace")


async def commit(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, revision: str
) -> Reply:
    """`POST /api/{type}/{id}/commit/{revision}`: a header line, then operations, as JSON lines."""
    info = await surface.run(
        surface.hub.get_repo_to_commit,
        request.identity,
        f"{owner}/{name}",
        type,
        revision,
        create_pr=request.flag("create_pr"),
    )
    spool = await spool_body(surface, request, surface.settings.hub.max_commit_body_bytes)
    try:
        return await surface.run(_commit, surface, request, info, revision, spool.path)
    finally:
        spool.discard()


def _commit(surface: Surface, request: Request, info: RepoInfo, revision: str, body: Path) -> Reply:
    head, operations = read_commit(body)
    request_url: str | None = None
    if request.flag("create_pr"):
        oid, num = surface.hub.propose(
            request.identity,
            info,
            operations,
            head.summary,
            description=head.description,
            branch=revision,
            parent=head.parentCommit,
        )
        request_url = f"{page_url(surface, request, info)}/discussions/{num}"
    else:
        oid = surface.hub.commit(
            request.identity,
            info,
            operations,
            head.summary,
            description=head.description,
            branch=revision,
            parent=head.parentCommit,
            action="repo.push",
        )
    secrets = [
        secret for op in operations if isinstance(op, AddFile) for secret in find_secrets(op.path, op.data)
    ]
    surface.hub.leaks.note(request.identity, info, oid, secrets)
    return json_reply(
        {
            "success": True,
            "commitOid": oid,
            "commitUrl": f"{page_url(surface, request, info)}/commit/{oid}",
            "pullRequestUrl": request_url,
            "hookOutput": "",
        },
        # Clients print it (huggingface_hub: `_warn_on_warning_headers`), in the one language that a header can hold.
        headers=[header("x-hf-warning", f"secrets-{oid}; {warning_of(secrets, 'en')}")] if secrets else None,
    )


def read_commit(body: Path) -> tuple[CommitValue, list[Operation]]:
    """Returns the header and the operations of a commit's JSON lines.

    Raises:
        InvalidInput: a line is not JSON of a known kind, or there is no header; says which line.

    """
    decoder = msgspec.json.Decoder(CommitLine)
    head: CommitValue | None = None
    operations: list[Operation] = []
    with open(body, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            if not line.strip():
                continue
            try:
                if len(line) > MAX_LINE_BYTES:
                    raise ValueError("the line is too long")
                said = decoder.decode(line)
                if said.key == "header":
                    head = said.value
                else:
                    operations.append(_operation(said))
            except (msgspec.DecodeError, UnicodeError, ValueError, RecursionError) as error:
                raise InvalidInput(
                    "Line {number} of the commit cannot be read: {error}.",
                    hint="Send one JSON object a line, the header first.",
                    number=number,
                    error=words_of(error),
                ) from None
    if head is None:
        raise InvalidInput(
            "The commit has no header line.", hint="Send one JSON object a line, the header first."
        )
    return head, operations


def _operation(line: CommitLine) -> Operation:
    value = line.value
    if line.key == "file":
        if value.encoding == "base64":
            return AddFile(value.path, base64.b64decode(value.content, validate=True))
        if value.encoding != "utf-8":
            raise ValueError(f"unknown encoding {value.encoding[:50]!r}")
        return AddFile(value.path, value.content.encode())
    if line.key == "lfsFile":
        if value.algo != "sha256" or len(value.oid) != 64 or not set(value.oid) <= set("0123456789abcdef"):
            raise ValueError("oid is not a SHA-256")
        return AddLargeFile(value.path, value.oid, value.size)
    if line.key == "deletedFile":
        return DeleteFile(value.path)
    if line.key == "deletedFolder":
        return DeleteFolder(value.path)
    return CopyFile(value.srcPath, value.path, value.srcRevision or "")


def list_commits(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, revision: str
) -> Reply:
    """`GET /api/{type}/{id}/commits/{revision}`."""
    info = surface.hub.get_repo(request.identity, f"{owner}/{name}", type)
    limit = number(request.query.get("limit"), 50, 1, 1000)
    start = number(request.query.get("cursor"), 0, 0, 10**9)
    found = surface.hub.list_commits(info, revision, limit=limit + 1, skip=start)
    following = str(start + limit) if len(found) > limit else None
    drawn = [draw_commit(c) for c in found[:limit]]
    changes = surface.hub.licence_changes(info, [c.oid for c in found[:limit]])
    for line in drawn:
        change = changes.get(str(line["id"]))
        if change is not None:
            line["licenseChange"] = {"from": change.before or None, "to": change.after or None}
    return json_reply(drawn, headers=next_link(surface, request, following))


_NOSNIFF = (b"x-content-type-options", b"nosniff")


def compare(surface: Surface, request: Request, type: RepoType, owner: str, name: str, range: str) -> Reply:
    """`GET /api/{type}/{id}/compare/{base}..{head}`: what changed between two revisions, as a text diff.

    With three dots, since they parted.
    """
    info = surface.hub.get_repo_to_open(request.identity, f"{owner}/{name}", type)
    surface.hub.gates.note_download(request.identity, info, "preview", range=range)
    dots = "..." if "..." in range else ".."
    base, _, head = range.partition(dots)
    old = surface.hub.resolve_revision(info, base or "main")
    new = surface.hub.resolve_revision(info, head or "main")
    text = surface.hub.content.open_repo(info).diff_text(old, new, since_parted=dots == "...")
    return Reply(
        200, text.encode("utf-8", "replace"), [(b"content-type", b"text/plain; charset=utf-8"), _NOSNIFF]
    )


ROUTES = (
    Route("GET", REPO + "/compare/{range}", compare),
    Route("POST", REPO + "/preupload/{revision}", preupload, BODY),
    Route("POST", REPO + "/commit/{revision}", commit),
    Route("GET", REPO + "/commits/{revision}", list_commits),
)
