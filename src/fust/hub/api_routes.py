"""`/api/…` of the Hugging Face Hub: who am I, repos, trees, commits, refs."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, quote, urlencode

import msgspec

from fust.core.errors import Denied, InvalidInput, NotFound, NotOffered, Unauthenticated
from fust.core.ids import RepoType, check_repo_type
from fust.hub.attributes import is_ignored, is_lfs
from fust.hub.cards import parse_card
from fust.hub.commits import read_card
from fust.hub.draw import Json, draw_commit, draw_details, draw_entry, draw_refs, draw_repo
from fust.hub.errors import RepoExists, revision_not_found
from fust.hub.git_store import CommitInfo
from fust.hub.http import Headers, Reply, Request, Surface, header, json_reply, spool_body
from fust.hub.paths import check_path
from fust.hub.types import (
    AddFile,
    AddLargeFile,
    CopyFile,
    DeleteFile,
    DeleteFolder,
    Operation,
    RepoInfo,
    Sort,
)

PAGE = 1000
EXPANDED_PAGE = 50
MAX_LINE_BYTES = 64 * 2**20
_SORTS: dict[str, Sort] = {
    "lastModified": "updated",
    "last_modified": "updated",
    "createdAt": "created",
    "created_at": "created",
    "downloads": "downloads",
    "likes": "downloads",
    "trendingScore": "updated",
    "trending_score": "updated",
}


class CreateRepo(msgspec.Struct):
    """Body of `/api/repos/create`; 2.x sends `visibility`, older clients `private`."""

    name: str
    organization: str | None = None
    type: str | None = "model"
    private: bool | None = None
    visibility: Literal["public", "private", "protected"] | None = None
    sdk: str | None = None


class NameRepo(msgspec.Struct):
    """Body of `/api/repos/delete`."""

    name: str
    organization: str | None = None
    type: str | None = "model"


class RepoSettings(msgspec.Struct):
    """Body of `/api/{type}/{id}/settings`."""

    private: bool | None = None
    visibility: Literal["public", "private", "protected"] | None = None
    gated: Literal["auto", "manual", False] | None = None


class PreuploadFile(msgspec.Struct):
    """A file that a client is about to upload."""

    path: str
    size: int
    sample: str = ""


class Preupload(msgspec.Struct):
    """Body of `/api/{type}/{id}/preupload/{revision}`."""

    files: list[PreuploadFile]
    gitIgnore: str | None = None


class ValidateYaml(msgspec.Struct):
    """Body of `/api/validate-yaml`."""

    content: str = ""
    repoType: str | None = None


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


class NewBranch(msgspec.Struct):
    """Body of a new branch; the revision it starts at."""

    startingPoint: str | None = None
    emptyBranch: bool = False
    overwrite: bool = False


class NewTag(msgspec.Struct):
    """Body of a new tag."""

    tag: str
    message: str | None = None


# Who


def whoami(surface: Surface, request: Request) -> Reply:
    """`GET /api/whoami-v2`."""
    if request.identity.user is None:
        raise Unauthenticated(
            "Invalid username or password.", hint="Set HF_TOKEN to a key from `fust tokens new`."
        )
    user = surface.accounts.find_user(request.identity.user)
    spaces = surface.accounts.namespaces_of(request.identity)
    token = surface.accounts.find_token(request.identity.token_id)
    drawn: Json = {
        "type": "user",
        "id": user.id if user else "",
        "name": request.identity.user,
        "fullname": (user.full_name if user else "") or request.identity.user,
        "isPro": False,
        "canPay": False,
        "email": None,
        "emailVerified": False,
        "avatarUrl": "",
        "orgs": [
            {
                "type": "org",
                "id": space.key,
                "name": space.name,
                "fullname": space.name,
                "isEnterprise": False,
                "canPay": False,
                "avatarUrl": "",
                "roleInOrg": "admin",
            }
            for space in spaces
            if space.kind == "org"
        ],
        "auth": {
            "type": "access_token",
            "accessToken": {
                "displayName": token.name if token else "session",
                "role": "write" if "write" in request.identity.scopes else "read",
            },
        },
    }
    return json_reply(drawn)


# Repos


def create_repo(surface: Surface, request: Request) -> Reply:
    """`POST /api/repos/create`."""
    asked = request.decode(CreateRepo)
    repo_type = check_repo_type(asked.type or "model")
    repo_id = _named(surface, request, asked.name, asked.organization)
    private = asked.private if asked.private is not None else asked.visibility == "private"
    try:
        info = surface.hub.create_repo(
            request.identity, repo_id, repo_type, private=bool(private), sdk=(asked.sdk or "")[:50]
        )
    except RepoExists as error:
        known = surface.hub.find_repo(request.identity, repo_id, repo_type)
        url = _page_url(surface, known) if known else ""
        return json_reply(
            {"error": error.message(), "url": url}, 409, [header("x-error-message", error.message())]
        )
    return json_reply(
        {"url": _page_url(surface, info), "name": info.repo_id, "id": info.id, "private": info.private}
    )


def _named(surface: Surface, request: Request, name: str, organization: str | None) -> str:
    surface.accounts.require(request.identity, "read")
    if organization is None and "/" in name:
        return name
    return f"{organization or request.identity.user}/{name}"


def _page_url(surface: Surface, info: RepoInfo) -> str:
    return f"{surface.settings.public_url}/{info.prefix}{info.repo_id}"


def delete_repo(surface: Surface, request: Request) -> Reply:
    """`DELETE /api/repos/delete`."""
    asked = request.decode(NameRepo)
    repo_id = _named(surface, request, asked.name, asked.organization)
    surface.hub.delete_repo(request.identity, repo_id, check_repo_type(asked.type or "model"))
    return json_reply({"deleted": repo_id})


def update_settings(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`PUT /api/{type}/{id}/settings`."""
    asked = request.decode(RepoSettings)
    info = surface.hub.get_repo_to_write(request.identity, f"{owner}/{name}", type)
    private = asked.private
    if asked.visibility is not None:
        private = asked.visibility == "private"
    if asked.gated:
        raise NotOffered("Gated repos are not offered yet.", hint="Make the repo private instead.")
    updated = surface.hub.repos.update(
        request.identity, info, private=private, gated="" if asked.gated is False else None
    )
    return json_reply({"private": updated.private, "gated": updated.gated or False})


def repo_info(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, revision: str = "main"
) -> Reply:
    """`GET /api/{type}/{id}[/revision/{revision}]`."""
    hub = surface.hub
    info = hub.get_repo(request.identity, f"{owner}/{name}", type)
    git = hub.content.open_repo(info)
    oid = hub.resolve_revision(info, revision)
    last = next(git.iter_commits(oid))
    entries = [entry for entry in git.iter_tree(oid, recursive=True) if not entry.is_folder]
    formats = surface.formats.read(info, oid, entries)
    blobs = request.flag("blobs") or request.flag("files_metadata")
    drawn = draw_details(
        info, sha=oid, last=last, entries=entries, card=read_card(git, oid), blobs=blobs, formats=formats
    )
    if request.flag("securityStatus"):
        drawn["securityRepoStatus"] = {"scansDone": False, "filesWithIssues": []}
    expand = _expanded(request)
    if expand:
        drawn = {key: drawn[key] for key in ("_id", "id", *expand) if key in drawn}
    return json_reply(drawn)


def _expanded(request: Request) -> list[str]:
    return [*request.query_lists.get("expand", []), *request.query_lists.get("expand[]", [])]


def list_repos(surface: Surface, request: Request, type: RepoType) -> Reply:
    """`GET /api/{type}`."""
    limit = _number(request.query.get("limit"), 100, 1, 1000)
    tags = [*request.query_lists.get("filter", [])]
    tags += [tag for tag in [request.query.get("pipeline_tag"), request.query.get("library")] if tag]
    page = surface.hub.list_repos(
        request.identity,
        type,
        search=request.query.get("search", ""),
        author=request.query.get("author", ""),
        tags=[part for tag in tags for part in tag.split(",") if part],
        sort=_SORTS.get(request.query.get("sort", ""), "updated"),
        limit=limit,
        cursor=request.query.get("cursor"),
    )
    drawn = [draw_repo(info) for info in page.items]
    if request.flag("full"):
        for info, entry in zip(page.items, drawn, strict=True):
            entry["siblings"] = [
                {"rfilename": e.path} for e in surface.hub.list_tree(info, recursive=True) if not e.is_folder
            ]
    expand = _expanded(request)
    if expand:
        drawn = [{key: d[key] for key in ("_id", "id", *expand) if key in d} for d in drawn]
    return json_reply(drawn, headers=_next_link(surface, request, page.next))


def _number(text: str | None, default: int, low: int, high: int) -> int:
    if text is None or not text.isdigit() or len(text) > 9:
        return default
    return max(low, min(high, int(text)))


def _next_link(surface: Surface, request: Request, cursor: str | None) -> Headers:
    if cursor is None:
        return []
    pairs = [(k, v) for k, values in request.query_lists.items() if k != "cursor" for v in values]
    path = "/".join(quote(segment, safe="") for segment in request.segments)
    query = urlencode([*pairs, ("cursor", cursor)])
    return [header("link", f'<{surface.settings.public_url}/{path}?{query}>; rel="next"')]


def auth_check(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, right: str = "read"
) -> Reply:
    """`GET /api/{type}/{id}/auth-check[/write]`."""
    if right == "write":
        surface.hub.get_repo_to_write(request.identity, f"{owner}/{name}", type)
    else:
        surface.hub.get_repo(request.identity, f"{owner}/{name}", type)
    return json_reply({"ok": True})


# Trees


def list_tree(
    surface: Surface,
    request: Request,
    type: RepoType,
    owner: str,
    name: str,
    revision: str,
    path: str = "",
) -> Reply:
    """`GET /api/{type}/{id}/tree/{revision}[/{path}]`, 1000 a page, 50 with `expand`."""
    hub = surface.hub
    info = hub.get_repo(request.identity, f"{owner}/{name}", type)
    oid = hub.resolve_revision(info, revision)
    expand = request.flag("expand")
    entries = hub.list_tree(info, oid, path.strip("/"), recursive=request.flag("recursive"))
    limit = _number(request.query.get("limit"), EXPANDED_PAGE if expand else PAGE, 1, PAGE)
    start = _number(request.query.get("cursor"), 0, 0, 10**9)
    page = entries[start : start + limit]
    states = hub.content.large_states([entry.sha256 for entry in page])
    last: dict[str, CommitInfo] = {}
    if expand:
        last = hub.content.open_repo(info).last_commits(oid, [entry.path for entry in page])
    following = str(start + limit) if start + limit < len(entries) else None
    drawn = [draw_entry(entry, states, last.get(entry.path)) for entry in page]
    return json_reply(drawn, headers=[*_next_link(surface, request, following), header("x-repo-commit", oid)])


def paths_info(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, revision: str
) -> Reply:
    """`POST /api/{type}/{id}/paths-info/{revision}`, a form or JSON."""
    hub = surface.hub
    info = hub.get_repo(request.identity, f"{owner}/{name}", type)
    paths, expand = _asked_paths(request)
    oid = hub.resolve_revision(info, revision)
    git = hub.content.open_repo(info)
    found = [entry for path in paths if (entry := git.find_entry(oid, path.strip("/"))) and entry.path]
    states = hub.content.large_states([entry.sha256 for entry in found])
    last = git.last_commits(oid, [entry.path for entry in found]) if expand else {}
    return json_reply([draw_entry(entry, states, last.get(entry.path)) for entry in found])


class AskedPaths(msgspec.Struct):
    """JSON body of `paths-info`."""

    paths: list[str] = msgspec.field(default_factory=lambda: [])
    expand: bool = False


def _asked_paths(request: Request) -> tuple[list[str], bool]:
    if request.headers.get("content-type", "").startswith("application/json"):
        asked = request.decode(AskedPaths)
        return asked.paths[:2000], asked.expand
    try:
        form = parse_qs(request.body.decode(), keep_blank_values=True, max_num_fields=5000)
    except (UnicodeDecodeError, ValueError) as error:
        raise InvalidInput("The request's body cannot be read: {error}.", error=str(error)) from None
    return form.get("paths", [])[:2000], form.get("expand", [""])[0].lower() in ("true", "1")


# Commits


def preupload(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, revision: str
) -> Reply:
    """`POST /api/{type}/{id}/preupload/{revision}`: which files go to git and which are large."""
    hub = surface.hub
    asked = request.decode(Preupload)
    info = hub.get_repo_to_write(request.identity, f"{owner}/{name}", type)
    _check_branch(request)
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


def _check_branch(request: Request) -> None:
    if request.flag("create_pr"):
        raise NotOffered("Pull requests are not offered yet.", hint="Commit to a branch instead.")


async def commit(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, revision: str
) -> Reply:
    """`POST /api/{type}/{id}/commit/{revision}`: a header line, then operations, as JSON lines."""
    _check_branch(request)
    info = await surface.run(surface.hub.get_repo_to_write, request.identity, f"{owner}/{name}", type)
    spool = await spool_body(surface, request, surface.settings.hub.max_commit_body_bytes)
    try:
        return await surface.run(_commit, surface, request, info, revision, spool.path)
    finally:
        spool.discard()


def _commit(surface: Surface, request: Request, info: RepoInfo, revision: str, body: Path) -> Reply:
    head, operations = read_commit(body)
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
    return json_reply(
        {
            "success": True,
            "commitOid": oid,
            "commitUrl": f"{_page_url(surface, info)}/commit/{oid}",
            "pullRequestUrl": None,
            "hookOutput": "",
        }
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
            except (msgspec.DecodeError, UnicodeError, ValueError) as error:
                raise InvalidInput(
                    "Line {number} of the commit cannot be read: {error}.",
                    hint="Send one JSON object a line, the header first.",
                    number=number,
                    error=str(error)[:300],
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
    limit = _number(request.query.get("limit"), 50, 1, 1000)
    start = _number(request.query.get("cursor"), 0, 0, 10**9)
    found = surface.hub.list_commits(info, revision, limit=limit + 1, skip=start)
    following = str(start + limit) if len(found) > limit else None
    return json_reply(
        [draw_commit(c) for c in found[:limit]], headers=_next_link(surface, request, following)
    )


# Refs


def list_refs(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`GET /api/{type}/{id}/refs`."""
    info = surface.hub.get_repo(request.identity, f"{owner}/{name}", type)
    return json_reply(draw_refs(surface.hub.list_refs(info)))


def create_branch(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, branch: str
) -> Reply:
    """`POST /api/{type}/{id}/branch/{branch}`."""
    asked = request.decode(NewBranch)
    info = surface.hub.get_repo_to_write(request.identity, f"{owner}/{name}", type)
    oid = surface.hub.resolve_revision(info, asked.startingPoint or "main")
    surface.hub.content.open_repo(info).create_ref("heads", branch, oid)
    surface.hub.repos.forget()
    return json_reply({"name": branch, "targetCommit": oid})


def delete_branch(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, branch: str
) -> Reply:
    """`DELETE /api/{type}/{id}/branch/{branch}`."""
    info = surface.hub.get_repo_to_write(request.identity, f"{owner}/{name}", type)
    if branch == "main":
        raise Denied("The branch main cannot be deleted.", hint="Delete the repo instead.")
    if not surface.hub.content.open_repo(info).delete_ref("heads", branch):
        raise revision_not_found(info.repo_id, branch)
    surface.hub.repos.forget()
    return json_reply({"deleted": branch})


def create_tag(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, revision: str
) -> Reply:
    """`POST /api/{type}/{id}/tag/{revision}`."""
    asked = request.decode(NewTag)
    info = surface.hub.get_repo_to_write(request.identity, f"{owner}/{name}", type)
    oid = surface.hub.resolve_revision(info, revision)
    git = surface.hub.content.open_repo(info)
    if asked.message:
        git.create_annotated_tag(asked.tag, oid, asked.message, request.identity.user or "fust")
    else:
        git.create_ref("tags", asked.tag, oid)
    surface.hub.repos.forget()
    return json_reply({"name": asked.tag, "targetCommit": oid})


def delete_tag(surface: Surface, request: Request, type: RepoType, owner: str, name: str, tag: str) -> Reply:
    """`DELETE /api/{type}/{id}/tag/{tag}`."""
    info = surface.hub.get_repo_to_write(request.identity, f"{owner}/{name}", type)
    if not surface.hub.content.open_repo(info).delete_ref("tags", tag):
        raise revision_not_found(info.repo_id, tag)
    surface.hub.repos.forget()
    return json_reply({"deleted": tag})


# Small ones


def validate_yaml(surface: Surface, request: Request) -> Reply:
    """`POST /api/validate-yaml`: the client wants JSON whatever happens."""
    del surface
    card = parse_card(request.decode(ValidateYaml).content[:1_000_000])
    errors: Sequence[Json] = [{"message": f"YAML metadata: {card.error}"}] if card.error else []
    warnings: Sequence[Json] = (
        [] if card.data or card.error else [{"message": "empty or missing yaml metadata"}]
    )
    return json_reply({"errors": errors, "warnings": warnings}, 400 if card.error else 200)


def agent_harnesses(surface: Surface, request: Request) -> Reply:
    """`GET /api/agent-harnesses`: 2.x asks at every start."""
    del surface, request
    return json_reply({})


def not_offered(surface: Surface, request: Request, path: str = "") -> Reply:
    """Answers parts of the Hub's API that Fust does not have."""
    del surface, path
    raise NotOffered(
        "{method} /{path} is not offered by this hub.",
        hint="docs/reference/hub-contract.md lists what is.",
        method=request.method,
        path="/".join(request.segments)[:200],
    )


def telemetry(surface: Surface, request: Request, path: str = "") -> Reply:
    """Telemetry is drained and forgotten."""
    del surface, request, path
    raise NotFound("Nothing is collected here.")
