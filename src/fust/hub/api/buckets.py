"""`/api/buckets/…` and `/buckets/…/resolve/…`: files without history, as huggingface_hub's bucket functions ask."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from fust.core.clock import iso
from fust.core.decode_words import words_of
from fust.core.errors import FustError, InvalidInput, NotOffered, TooLarge, Unauthenticated
from fust.core.i18n import accepted_language
from fust.core.ids import check_repo_type
from fust.hub.api.common import bucket_url, next_link
from fust.hub.bucket_batch import Failure, PutFile, Written
from fust.hub.buckets import BucketInfo
from fust.hub.content import upload_scopes
from fust.hub.draw import Json
from fust.hub.errors import BadHash, RepoExists, RepoNotFound
from fust.hub.file_routes import bytes_reply, download_headers
from fust.hub.http import AnyReply, Reply, Request, Surface, header, json_reply
from fust.hub.paths import check_path
from fust.hub.routing import BODY, Route
from fust.hub.xet import hashing
from fust.hub.xet_routes import give_token

MAX_OPERATIONS = 10_000
_BATCH_BYTES = 16 * 10**6
_PAGE = 1000
_EPOCH = datetime(1970, 1, 1)
_LAST_MS = 253402300799999
"""The end of the year 9999."""


class NewBucket(msgspec.Struct):
    """Body of `POST /api/buckets/{id}`; `region` and `resourceGroupId` mean nothing here."""

    private: bool | None = None
    visibility: Literal["public", "private"] | None = None


class BucketSettings(msgspec.Struct):
    """Body of `PUT /api/buckets/{id}/settings`."""

    private: bool | None = None
    visibility: Literal["public", "private"] | None = None


class AskedPaths(msgspec.Struct):
    """Body of `POST /api/buckets/{id}/paths-info`."""

    paths: list[str]


class AddLine(msgspec.Struct, tag_field="type", tag="addFile"):
    """A line of a batch: bytes that were uploaded through Xet, at a path. ``mtime`` in milliseconds."""

    path: str
    xetHash: str
    mtime: int | None = None
    contentType: str | None = None


class CopyLine(msgspec.Struct, tag_field="type", tag="copyFile"):
    """A line of a batch: bytes of another bucket or repo, at a path."""

    path: str
    xetHash: str
    sourceRepoType: str
    sourceRepoId: str
    mtime: int | None = None
    contentType: str | None = None


class DeleteLine(msgspec.Struct, tag_field="type", tag="deleteFile"):
    """A line of a batch: a file to delete."""

    path: str


Line = AddLine | CopyLine | DeleteLine


# Buckets


def create_bucket(surface: Surface, request: Request, space: str, bucket: str) -> Reply:
    """`POST /api/buckets/{namespace}/{name}`; `me` is the caller. 409 when it is there, with its address."""
    asked = request.decode(NewBucket)
    bucket_id = f"{_namespace(request, space)}/{bucket}"
    private = asked.private if asked.private is not None else asked.visibility == "private"
    try:
        info = surface.hub.buckets.create(request.identity, bucket_id, private=private)
    except RepoExists as error:
        known = surface.hub.buckets.find(request.identity, bucket_id)
        body = {"error": error.message(), "url": bucket_url(surface, known) if known else ""}
        return json_reply(body, 409, [header("x-error-message", error.message())])
    return json_reply({"url": bucket_url(surface, info), "id": info.repo_id, "name": info.repo_id})


def _namespace(request: Request, space: str) -> str:
    if space != "me":
        return space
    if request.identity.user is None:
        raise Unauthenticated("This needs a key.", hint="Name the owner of the buckets, or sign in.")
    return request.identity.user


def list_buckets(surface: Surface, request: Request, space: str) -> Reply:
    """`GET /api/buckets/{namespace}`: the buckets of a name that the caller may see; `me` is the caller."""
    found, cursor = surface.hub.buckets.list_page(
        request.identity,
        _namespace(request, space),
        request.query.get("search", ""),
        limit=_PAGE,
        cursor=request.query.get("cursor", ""),
    )
    return json_reply([_draw(info) for info in found], headers=next_link(surface, request, cursor))


def bucket_info(surface: Surface, request: Request, space: str, bucket: str) -> Reply:
    """`GET /api/buckets/{id}`."""
    return json_reply(_draw(_get(surface, request, space, bucket)))


def _get(surface: Surface, request: Request, space: str, bucket: str) -> BucketInfo:
    return surface.hub.buckets.get(request.identity, f"{space}/{bucket}")


def _draw(info: BucketInfo) -> Json:
    return {
        "_id": info.id,
        "id": info.repo_id,
        "author": info.owner,
        "type": "bucket",
        "private": info.private,
        "createdAt": iso(info.created_at),
        "updatedAt": iso(info.updated_at),
        "size": info.size_bytes,
        "totalFiles": info.files,
    }


def delete_bucket(surface: Surface, request: Request, space: str, bucket: str) -> Reply:
    """`DELETE /api/buckets/{id}`: with all its files."""
    surface.hub.buckets.remove(request.identity, f"{space}/{bucket}")
    return json_reply({"success": True})


def change_settings(surface: Surface, request: Request, space: str, bucket: str) -> Reply:
    """`PUT /api/buckets/{id}/settings`: who may see it."""
    asked = request.decode(BucketSettings)
    info = surface.hub.buckets.get_for(request.identity, "repo.settings", f"{space}/{bucket}")
    private = (
        asked.private if asked.private is not None else asked.visibility and asked.visibility == "private"
    )
    if private is not None:
        info = surface.hub.buckets.update(request.identity, info.repo_id, private=private)
    return json_reply({"private": info.private})


# Files


def list_files(surface: Surface, request: Request, space: str, bucket: str, prefix: str = "") -> Reply:
    """`GET /api/buckets/{id}/tree[/{prefix}]`: files whose paths begin with the prefix, letter by letter."""
    info = _get(surface, request, space, bucket)
    found, cursor = surface.hub.buckets.list_tree(
        info,
        prefix,
        recursive=request.flag("recursive"),
        limit=_PAGE,
        cursor=request.query.get("cursor", ""),
    )
    drawn = [_draw_file(e.file) if e.file else {"type": "directory", "path": e.path} for e in found]
    return json_reply(drawn, headers=next_link(surface, request, cursor))


def _draw_file(file: Written) -> Json:
    return {
        "type": "file",
        "path": file.path,
        "size": file.size,
        "xetHash": file.xet_hash,
        "mtime": iso(file.mtime),
        "uploadedAt": iso(file.uploaded_at),
        **({"contentType": file.content_type} if file.content_type else {}),
    }


def paths_info(surface: Surface, request: Request, space: str, bucket: str) -> Reply:
    """`POST /api/buckets/{id}/paths-info`: the files at these paths; those that are not there are left out."""
    info = _get(surface, request, space, bucket)
    paths = request.decode(AskedPaths).paths
    if len(paths) > MAX_OPERATIONS:
        raise _too_many()
    found = surface.hub.buckets.find_files(info, [path for path in paths if "\0" not in path])
    return json_reply([_draw_file(file) for file in found])


def resolve(surface: Surface, request: Request, space: str, bucket: str, path: str) -> AnyReply:
    """`GET` and `HEAD /buckets/{id}/resolve/{path}`: a file's bytes, whole or in ranges."""
    info = _get(surface, request, space, bucket)
    file = surface.hub.buckets.get_file(info, path)
    headers = download_headers(surface, file, f"/api/buckets/{info.repo_id}/xet-read-token")
    return bytes_reply(surface, request, None, file, headers)


def read_token(surface: Surface, request: Request, space: str, bucket: str) -> Reply:
    """`GET /api/buckets/{id}/xet-read-token`."""
    return give_token(surface, request, _get(surface, request, space, bucket), "read")


def write_token(surface: Surface, request: Request, space: str, bucket: str) -> Reply:
    """`GET /api/buckets/{id}/xet-write-token`."""
    info = surface.hub.buckets.get_for(request.identity, "repo.push", f"{space}/{bucket}")
    return give_token(surface, request, info, "write")


# Batches


def batch(surface: Surface, request: Request, space: str, bucket: str) -> Reply:
    """`POST /api/buckets/{id}/batch`: lines of `addFile`, `copyFile`, `deleteFile`; what failed is listed.

    Those that can be done are done together; 422 when none could.
    """
    info = surface.hub.buckets.get_for(request.identity, "repo.push", f"{space}/{bucket}")
    lines = _read_lines(request.body)
    puts: list[PutFile] = []
    deletes: list[str] = []
    failures: list[Failure] = []
    for line in lines:
        try:
            if isinstance(line, DeleteLine):
                deletes.append(check_path(line.path))
            else:
                puts.append(_put(surface, request, line))
        except FustError as error:
            failures.append(Failure(line.path, error))
    scopes = upload_scopes(request.identity, info.type, info.repo_id)
    failures += surface.hub.buckets.write(request.identity, info, puts, deletes, scopes)
    language = accepted_language(request.headers.get("accept-language"))
    failed = [{"path": one.path, "error": one.error.sentence(language)} for one in failures]
    body = {
        "success": not failed,
        "processed": len(lines),
        "succeeded": len(lines) - len(failed),
        "failed": failed,
    }
    return json_reply(body, 422 if failed and len(failed) == len(lines) else 200)


def _read_lines(body: bytes) -> Sequence[Line]:
    raw = [line for line in body.split(b"\n") if line.strip()]
    if len(raw) > MAX_OPERATIONS:
        raise _too_many()
    lines: list[Line] = []
    for number, line in enumerate(raw, 1):
        try:
            lines.append(msgspec.json.decode(line, type=Line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInput(
                "Line {number} of the batch cannot be read: {error}.", number=number, error=words_of(error)
            ) from None
    return lines


def _too_many() -> TooLarge:
    return TooLarge(
        "More than {limit} paths at once.", hint="Send them in several requests.", limit=MAX_OPERATIONS
    )


def _put(surface: Surface, request: Request, line: AddLine | CopyLine) -> PutFile:
    path = check_path(line.path)
    if not hashing.is_hash(line.xetHash):
        raise InvalidInput(
            "{value!r} is not a Xet hash.", hint="It has 64 hex digits.", value=line.xetHash[:100]
        )
    mtime = _time(line.mtime)
    content_type = (line.contentType or "")[:200]
    allowed = isinstance(line, CopyLine) and _may_copy(surface, request, line)
    return PutFile(path, line.xetHash, mtime, content_type if content_type.isprintable() else "", allowed)


def _time(milliseconds: int | None) -> datetime:
    if milliseconds is None:
        return datetime.now(UTC).replace(tzinfo=None)
    if not 0 <= milliseconds <= _LAST_MS:
        raise InvalidInput(
            "{value} is not a time in milliseconds since 1970.", value=milliseconds, hint="Leave `mtime` out."
        )
    return _EPOCH + timedelta(milliseconds=milliseconds)


def _may_copy(surface: Surface, request: Request, line: CopyLine) -> bool:
    """Returns whether the caller reads the bytes where they are copied from.

    Raises:
        RepoNotFound, GatedRepo, BadHash: no such source, or it holds no such file.

    """
    hub = surface.hub
    try:
        if line.sourceRepoType.rstrip("s") == "bucket":
            source = hub.buckets.get(request.identity, line.sourceRepoId)
            held = hub.buckets.holds(source, line.xetHash) is not None
        else:
            repo_type = check_repo_type(line.sourceRepoType)
            repo = hub.get_repo_to_open(request.identity, line.sourceRepoId, repo_type)
            hub.gates.note_download(request.identity, repo, "copy", xet_hash=line.xetHash)
            held = hub.content.points_to(repo, line.xetHash)
    except RepoNotFound:
        held = False
    if not held:
        raise BadHash(
            "{source} holds no file with the Xet hash {xet_hash}, or you may not read it.",
            hint="Check the source's name, or sign in with a key that may read it.",
            source=line.sourceRepoId[:200],
            xet_hash=line.xetHash,
        )
    return True


def events_not_offered(surface: Surface, request: Request, space: str, bucket: str) -> Reply:
    """`GET /api/buckets/{id}/events`: changes are not streamed; clients list again instead."""
    _get(surface, request, space, bucket)
    raise NotOffered("Changes of a bucket are not streamed here.", hint="List its files again.")


_ONE = "/api/buckets/{space}/{bucket}"
ROUTES = (
    Route("GET", "/api/buckets/{space}", list_buckets),
    Route("POST", _ONE, create_bucket, BODY),
    Route("GET", _ONE, bucket_info),
    Route("DELETE", _ONE, delete_bucket),
    Route("PUT", _ONE + "/settings", change_settings, BODY),
    Route("GET", _ONE + "/tree", list_files),
    Route("GET", _ONE + "/tree/{prefix*}", list_files),
    Route("POST", _ONE + "/paths-info", paths_info, _BATCH_BYTES),
    Route("POST", _ONE + "/batch", batch, _BATCH_BYTES),
    Route("GET", _ONE + "/xet-read-token", read_token),
    Route("GET", _ONE + "/xet-write-token", write_token),
    Route("GET", _ONE + "/events", events_not_offered),
    *(Route(method, "/buckets/{space}/{bucket}/resolve/{path*}", resolve) for method in ("GET", "HEAD")),
)
