"""`/api/{type}/{id}/lfs-files` and `safetensors-metadata`: the large files of a repo, and what their headers say."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from fust.core.clock import iso
from fust.core.decode_words import words_of
from fust.core.errors import InvalidInput
from fust.core.ids import RepoType, check_repo_type
from fust.hub.api.common import next_link
from fust.hub.draw import Json
from fust.hub.http import Reply, Request, Surface, json_reply, number
from fust.hub.routing import BODY, REPO, Route

_PAGE = 1000
_MAX_HEADER_BYTES = 100_000_000
_MAX_INDEX_BYTES = 50_000_000
_MAX_SHARDS = 1000


class Deletions(msgspec.Struct):
    """Which large files go."""

    sha: list[str]
    rewriteHistory: bool = True


class LfsFilesBatch(msgspec.Struct):
    """Body of `lfs-files/batch`."""

    deletions: Deletions


class Target(msgspec.Struct):
    """The repo that large files are copied to."""

    type: str
    name: str


class CopiedFile(msgspec.Struct):
    """A large file that is to be copied."""

    sha256: str
    xetHash: str = ""
    filename: str = ""


class DuplicateFiles(msgspec.Struct):
    """Body of `lfs-files/duplicate`."""

    target: Target
    files: list[CopiedFile]


def list_lfs_files(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`GET /api/{type}/{id}/lfs-files`: every large file of any revision, those of no branch too."""
    info = surface.hub.get_repo_to_write(request.identity, f"{owner}/{name}", type)
    skip = number(request.query.get("cursor"), 0, 0, 10**9)
    found = surface.hub.large_files.list(info)
    page = found[skip : skip + _PAGE]
    drawn = [
        {
            "fileOid": file.sha256,
            "filename": file.path,
            "oid": file.sha256,
            "pushedAt": iso(file.pushed_at),
            "ref": file.ref,
            "size": file.size,
        }
        for file in page
    ]
    following = str(skip + _PAGE) if skip + _PAGE < len(found) else None
    return json_reply(drawn, headers=next_link(surface, request, following))


def delete_lfs_files(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`POST /api/{type}/{id}/lfs-files/batch`: removes large files for good, from the history too."""
    asked = request.decode(LfsFilesBatch).deletions
    info = surface.hub.repos.get_for(request.identity, "repo.settings", type, f"{owner}/{name}")
    surface.hub.large_files.delete(request.identity, info, set(asked.sha), rewrite=asked.rewriteHistory)
    return json_reply({"success": True, "deleted": len(asked.sha)})


def duplicate_lfs_files(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`POST /api/{type}/{id}/lfs-files/duplicate`: lets another repo of the caller's point to this one's files."""
    asked = request.decode(DuplicateFiles)
    source = surface.hub.get_repo_to_open(request.identity, f"{owner}/{name}", type)
    target = surface.hub.get_repo_to_write(
        request.identity, asked.target.name, check_repo_type(asked.target.type)
    )
    wanted = [file.sha256 for file in asked.files]
    surface.hub.gates.note_download(request.identity, source, "copy", to=target.repo_id)
    lent = surface.hub.large_files.lend(source, target, wanted)
    failed = [{"sha256": sha, "error": "not a file of the source repo"} for sha in wanted if sha not in lent]
    return json_reply({"success": sorted(lent), "failed": failed})


# What headers say


def safetensors_metadata(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, path: str
) -> Reply:
    """`GET /api/models/{id}/safetensors-metadata/{index}`: an index, and the header of each shard it names."""
    hub = surface.hub
    info = hub.get_repo_to_open(request.identity, f"{owner}/{name}", type)
    hub.gates.note_download(request.identity, info, "preview", path=path)
    oid = hub.resolve_revision(info, request.query.get("revision", "main"))
    index: dict[str, Any] = {}
    if path.endswith(".json"):
        raw = hub.read_file(info, path, oid, limit_bytes=_MAX_INDEX_BYTES)
        try:
            index = msgspec.json.decode(raw, type=dict[str, Any])
            shards = sorted(set(msgspec.convert(index.get("weight_map"), dict[str, str]).values()))
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
            raise InvalidInput(
                "{path} is not a safetensors index: {error}.", path=path, error=words_of(error)
            ) from None
    else:
        shards = [path]
    if len(shards) > _MAX_SHARDS:
        raise InvalidInput("{path} names more than {limit} files.", path=path, limit=_MAX_SHARDS)
    folder = path.rpartition("/")[0]
    headers: Json = {}
    for shard in shards:
        where = f"{folder}/{shard}" if folder else shard
        headers[shard] = msgspec.Raw(_header(surface, info, where, oid))
    return json_reply({"index": {k: v for k, v in index.items() if k != "weight_map"}, "headers": headers})


def _header(surface: Surface, info: Any, path: str, oid: str) -> bytes:
    """Returns a safetensors file's header, as JSON that was read once (github.com/huggingface/safetensors)."""
    first = b"".join(surface.hub.iter_file(info, path, oid, end=8))
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > _MAX_HEADER_BYTES:
        raise InvalidInput("{path} is not a safetensors file.", path=path)
    raw = b"".join(surface.hub.iter_file(info, path, oid, start=8, end=8 + length)).rstrip(b" ")
    try:
        msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidInput("{path} is not a safetensors file.", path=path) from None
    return re.sub(rb"[\r\n]", b" ", raw)


ROUTES = (
    Route("GET", REPO + "/lfs-files", list_lfs_files),
    Route("POST", REPO + "/lfs-files/batch", delete_lfs_files, BODY),
    Route("POST", REPO + "/lfs-files/duplicate", duplicate_lfs_files, BODY),
    Route("GET", REPO + "/safetensors-metadata/{path*}", safetensors_metadata),
)
