"""`/{repo}.git/info/lfs/…`: git-lfs (git-lfs/docs/api): batch, `basic` and `multipart` transfers, verify, locks.

`multipart` is Hugging Face's (huggingface_hub/lfs.py; `hf lfs-enable-largefiles` teaches it to git-lfs): the upload
action's header names `chunk_size` and a URL for each part; a POST to its `href` puts them together.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode

import msgspec

from fust.core.clock import iso
from fust.core.errors import Denied, InvalidInput
from fust.core.files import BLOCK_BYTES, full_disk_is_clear
from fust.core.ids import RepoType
from fust.core.units import read_number
from fust.hub.content import upload_scope
from fust.hub.errors import BadHash, entry_not_found
from fust.hub.file_routes import bytes_reply
from fust.hub.http import (
    LFS_JSON,
    AnyReply,
    Headers,
    Reply,
    Request,
    Surface,
    header,
    number,
    spool_body,
    too_large,
)
from fust.hub.lfs_locks import Lock
from fust.hub.routing import BODY, GIT_BASES, Route
from fust.hub.types import RepoInfo, StoredFile

URL_LIFE_S = 6 * 3600
_MAX_OBJECTS = 1000
_MAX_PARTS = 10_000
_LOCKS_PAGE = 100


class LfsObject(msgspec.Struct):
    """An object that a client wants to move."""

    oid: str
    size: int


class LfsBatch(msgspec.Struct):
    """Body of a batch request."""

    operation: Literal["upload", "download"]
    objects: list[LfsObject] = msgspec.field(default_factory=lambda: [])
    transfers: list[str] = msgspec.field(default_factory=lambda: [])


class LfsPart(msgspec.Struct):
    """A part that was uploaded."""

    partNumber: int
    etag: str


class LfsParts(msgspec.Struct):
    """Body of the request that puts parts together."""

    oid: str
    parts: list[LfsPart] = msgspec.field(default_factory=lambda: [])


class NewLock(msgspec.Struct):
    """Body of a request for a lock."""

    path: str


class LockPage(msgspec.Struct):
    """Body of `locks/verify`."""

    cursor: str | None = None
    limit: int | None = None


class Unlock(msgspec.Struct):
    """Body of `locks/{id}/unlock`."""

    force: bool = False


def _lfs_reply(value: object, status: int = 200) -> Reply:
    return Reply(status, msgspec.json.encode(value), [LFS_JSON])


def _check_oid(oid: str) -> str:
    if len(oid) != 64 or not set(oid) <= set("0123456789abcdef"):
        raise InvalidInput("{oid!r} is not a SHA-256.", hint="It has 64 hex digits.", oid=oid[:100])
    return oid


# Batch


def lfs_batch(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`POST /{id}.git/info/lfs/objects/batch`."""
    asked = request.decode(LfsBatch)
    if len(asked.objects) > _MAX_OBJECTS:
        raise InvalidInput(
            "A batch may name {limit} objects.", hint="Ask for less at a time.", limit=_MAX_OBJECTS
        )
    upload = asked.operation == "upload"
    get = surface.hub.get_repo_to_push if upload else surface.hub.get_repo_to_open
    info = get(request.identity, f"{owner}/{name}", type)
    oids = [_check_oid(item.oid) for item in asked.objects]
    content = surface.hub.content
    pointed = content.may_point(request.identity, info, oids) if upload else content.pointed_by(info, oids)
    states = content.large_states(oids)
    if upload:
        surface.hub.content.note_brought([oid for oid in oids if oid in pointed and oid in states])
    part = surface.settings.hub.lfs_part_bytes
    # The transfer is one for all objects of a batch.
    in_parts = upload and "multipart" in asked.transfers and any(i.size > part for i in asked.objects)
    drawn: list[object] = []
    for item in asked.objects:
        here = item.oid in pointed and item.oid in states
        entry: dict[str, object] = {"oid": item.oid, "size": item.size, "authenticated": True}
        if upload and not here:
            entry["actions"] = {
                "upload": _upload(surface, request, info, item, part if in_parts else 0),
                "verify": {"href": _verify_url(surface, request, info, item)},
            }
        elif not upload and here:
            size = states[item.oid].size
            href = _lfs_url(surface, request, info, "get", item.oid, size)
            entry["actions"] = {"download": {"href": href, "expires_in": URL_LIFE_S}}
        elif not upload:
            entry = {"oid": item.oid, "size": item.size, "error": {"code": 404, "message": "not here"}}
        drawn.append(entry)
    transfer = "multipart" if in_parts else "basic"
    return _lfs_reply({"transfer": transfer, "objects": drawn, "hash_algo": "sha256"})


def _upload(
    surface: Surface, request: Request, info: RepoInfo, item: LfsObject, part: int
) -> dict[str, object]:
    """Returns the action that uploads an object, in parts of so many bytes when ``part`` is not 0."""
    if not 0 <= item.size <= surface.settings.hub.max_file_bytes:
        raise too_large(surface.settings.hub.max_file_bytes)
    if not part:
        href = _lfs_url(surface, request, info, "put", item.oid, item.size)
        return {"href": href, "expires_in": URL_LIFE_S}
    part = max(part, -(-item.size // _MAX_PARTS))
    count = -(-item.size // part)
    head = {"chunk_size": str(part)}
    for i in range(1, count + 1):
        size = min(part, item.size - (i - 1) * part)
        head[f"{i:05d}"] = _lfs_url(surface, request, info, f"part{i}", item.oid, size, f"/parts/{i}")
    href = _lfs_url(surface, request, info, f"join{count}", item.oid, item.size, f"/parts?c={count}")
    return {"href": href, "header": head, "expires_in": URL_LIFE_S}


def _git_url(surface: Surface, info: RepoInfo) -> str:
    return f"{surface.settings.public_url}/{info.prefix}{info.repo_id}.git"


def _lfs_url(
    surface: Surface, request: Request, info: RepoInfo, verb: str, oid: str, size: int, below: str = ""
) -> str:
    """Returns a URL that lets who asked do one thing with one object, as long as they may."""
    expires = int(time.time()) + URL_LIFE_S
    key, scope = request.identity.key, upload_scope(request.identity, info.type, info.repo_id)
    signature = surface.hub.signer.sign("lfs", f"{verb}:{info.id}:{oid}:{size}:{expires}:{key}:{scope}")
    url = f"{_git_url(surface, info)}/info/lfs/objects/{oid}{below}"
    query = urlencode({"n": size, "e": expires, "k": key, "o": scope, "s": signature})
    return f"{url}{'&' if '?' in below else '?'}{query}"


def _verify_url(surface: Surface, request: Request, info: RepoInfo, item: LfsObject) -> str:
    """Returns where an upload is verified; signed, for git-lfs sends no key to the URLs of actions."""
    url = _lfs_url(surface, request, info, "verify", item.oid, item.size)
    return url.replace(f"/objects/{item.oid}?", "/objects/verify?")


def _opened(
    surface: Surface, request: Request, verb: str, type: RepoType, owner: str, name: str, oid: str
) -> RepoInfo:
    """Returns the repo that a signed URL was made for, while who got it may still use it; no key is sent with it."""
    info = surface.hub.repos.find_row(type, f"{owner}/{name}")
    size, expires = request.query.get("n", ""), request.query.get("e", "")
    key, scope = request.query.get("k", ""), request.query.get("o", "")
    text = f"{verb}:{info.id if info else ''}:{oid}:{size}:{expires}:{key}:{scope}"
    good = surface.hub.signer.check("lfs", text, request.query.get("s", ""))
    live = good and (read_number(expires) or 0) >= time.time()
    action = "repo.read" if verb == "get" else "repo.push"
    if info is None or not live or not surface.hub.may_still(key, info.id, action, scope):
        raise Denied("The URL's signature is not valid or is over its time.", hint="Ask for the file again.")
    return info


# Up


async def lfs_put(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, sha256: str
) -> Reply:
    """`PUT` of a large file to a signed URL; its bytes must have the hash and size that it was signed for."""
    oid = _check_oid(sha256)
    info = await surface.run(_opened, surface, request, "put", type, owner, name, oid)
    size = int(request.query["n"])
    digest = hashlib.sha256()
    spool = await spool_body(surface, request, size, digest=digest)
    try:
        if spool.size != size or digest.hexdigest() != oid:
            raise _not_these(info, digest.hexdigest(), oid)
        await surface.run(surface.hub.content.keep_blob, request.query["o"], spool.path, oid, size)
        surface.hub.chunker.add(request.query["o"], oid)
    finally:
        spool.discard()
    return Reply(200)


def _not_these(info: RepoInfo, found: str, wanted: str) -> BadHash:
    return BadHash(
        "The bytes of {path} have the SHA-256 {found}, not {wanted}.",
        hint="Upload the file again.",
        path=info.repo_id,
        found=found,
        wanted=wanted,
    )


async def lfs_put_part(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, sha256: str, part: str
) -> Reply:
    """`PUT` of one part of a large file to a signed URL; the `ETag` names its bytes."""
    oid = _check_oid(sha256)
    info = await surface.run(_opened, surface, request, f"part{part}", type, owner, name, oid)
    size = int(request.query["n"])
    digest = hashlib.md5(usedforsecurity=False)  # as S3's ETag
    spool = await spool_body(surface, request, size, digest=digest)
    try:
        if spool.size != size:
            raise InvalidInput(
                "Part {part} has {found} bytes, not {size}.",
                hint="Send it again.",
                part=part[:10],
                found=spool.size,
                size=size,
            )
        folder = _parts_folder(surface, info, oid)
        await surface.run(folder.mkdir, parents=True, exist_ok=True)
        await surface.run(os.replace, spool.path, folder / f"{int(part)}-{digest.hexdigest()}")
    finally:
        spool.discard()
    return Reply(200, b"", [header("etag", f'"{digest.hexdigest()}"')])


def _parts_folder(surface: Surface, info: RepoInfo, oid: str) -> Path:
    return surface.hub.blobs.root / "parts" / f"{info.id}-{oid}"


def lfs_join(surface: Surface, request: Request, type: RepoType, owner: str, name: str, sha256: str) -> Reply:
    """`POST` that puts the parts of a large file together; they must be all there and make its hash."""
    oid = _check_oid(sha256)
    count = request.query.get("c", "")
    info = _opened(surface, request, f"join{count}", type, owner, name, oid)
    asked = request.decode(LfsParts)
    folder = _parts_folder(surface, info, oid)
    paths: list[Path] = []
    for i, part in enumerate(sorted(asked.parts, key=lambda part: part.partNumber), 1):
        tag = part.etag.strip('"')
        path = folder / f"{i}-{tag if tag.isalnum() else ''}"
        if part.partNumber != i or not path.is_file():
            raise InvalidInput("Part {part} is not here.", hint="Send it again.", part=part.partNumber)
        paths.append(path)
    if len(paths) != int(count):
        raise InvalidInput("{count} parts are needed.", hint="Send them all.", count=count)
    whole = surface.hub.blobs.new_temporary()
    digest = hashlib.sha256()
    try:
        with full_disk_is_clear(whole), open(whole, "xb", buffering=0) as target:
            for path in paths:
                with open(path, "rb", buffering=0) as source:
                    while piece := source.read(BLOCK_BYTES):
                        digest.update(piece)
                        target.write(piece)
            size = target.tell()
        if digest.hexdigest() != oid or size != int(request.query["n"]):
            raise _not_these(info, digest.hexdigest(), oid)
        surface.hub.content.keep_blob(request.query["o"], whole, oid, size)
        surface.hub.chunker.add(request.query["o"], oid)
    finally:
        whole.unlink(missing_ok=True)
    for path in folder.iterdir():
        path.unlink(missing_ok=True)
    folder.rmdir()
    return _lfs_reply({})


def lfs_verify(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`POST /{id}.git/info/lfs/objects/verify`: whether an upload arrived."""
    asked = request.decode(LfsObject)
    if "s" in request.query:
        info = _opened(surface, request, "verify", type, owner, name, asked.oid)
    else:
        info = surface.hub.get_repo_to_push(request.identity, f"{owner}/{name}", type)
    scope = request.query.get("o") or upload_scope(request.identity, info.type, info.repo_id)
    state = surface.hub.content.large_states([asked.oid]).get(asked.oid)
    if (
        asked.oid not in surface.hub.content.may_point_in(info, {scope}, [asked.oid])
        or state is None
        or state.size != asked.size
    ):
        raise entry_not_found(asked.oid, "lfs")
    return _lfs_reply({})


# Down


def lfs_get(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, sha256: str
) -> AnyReply:
    """`GET` of a large file by a signed URL."""
    oid = _check_oid(sha256)
    info = _opened(surface, request, "get", type, owner, name, oid)
    state = surface.hub.content.large_states([oid]).get(oid)
    if state is None:
        raise entry_not_found(oid, "lfs")
    if request.method == "GET":
        caller = surface.accounts.by_key(request.query.get("k", ""))
        surface.hub.gates.note_download(caller, info, "git-lfs", sha256=oid)
    file = StoredFile(oid, "", oid, state.size, oid, state.xet_hash)
    headers: Headers = [
        (b"content-type", b"application/octet-stream"),
        (b"x-content-type-options", b"nosniff"),
        (b"accept-ranges", b"bytes"),
        header("etag", f'"{oid}"'),
    ]
    return bytes_reply(surface, request, info, file, headers)


# Locks


def _draw_lock(lock: Lock) -> dict[str, object]:
    when = (iso(lock.locked_at) or "").partition(".")[0].removesuffix("Z") + "Z"
    return {"id": lock.id, "path": lock.path, "locked_at": when, "owner": {"name": lock.owner}}


def create_lock(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`POST /{id}.git/info/lfs/locks`: says that the caller works on a file; 409 when somebody does already."""
    asked = request.decode(NewLock)
    info = surface.hub.get_repo_to_write(request.identity, f"{owner}/{name}", type)
    lock, made = surface.hub.locks.create(request.identity, info, asked.path)
    if made:
        return _lfs_reply({"lock": _draw_lock(lock)}, 201)
    return _lfs_reply({"lock": _draw_lock(lock), "message": f"already locked by {lock.owner}"}, 409)


def list_locks(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`GET /{id}.git/info/lfs/locks`, by `path` or `id` when given."""
    info = surface.hub.get_repo(request.identity, f"{owner}/{name}", type)
    limit = number(request.query.get("limit"), _LOCKS_PAGE, 1, 1000)
    skip = number(request.query.get("cursor"), 0, 0, 10**9)
    found = surface.hub.locks.list(
        info,
        path=request.query.get("path", ""),
        lock_id=request.query.get("id", ""),
        limit=limit + 1,
        skip=skip,
    )
    drawn: dict[str, object] = {"locks": [_draw_lock(lock) for lock in found[:limit]]}
    return _lfs_reply(_with_cursor(drawn, len(found) > limit, skip + limit))


def verify_locks(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`POST /{id}.git/info/lfs/locks/verify`: the caller's locks and those of others; git-lfs asks before a push."""
    asked = request.decode(LockPage)
    info = surface.hub.get_repo_to_push(request.identity, f"{owner}/{name}", type)
    limit = max(1, min(asked.limit or _LOCKS_PAGE, 1000))
    skip = number(asked.cursor, 0, 0, 10**9)
    found = surface.hub.locks.list(info, limit=limit + 1, skip=skip)
    page = found[:limit]
    me = request.identity.user
    drawn: dict[str, object] = {
        "ours": [_draw_lock(lock) for lock in page if lock.owner == me],
        "theirs": [_draw_lock(lock) for lock in page if lock.owner != me],
    }
    return _lfs_reply(_with_cursor(drawn, len(found) > limit, skip + limit))


def _with_cursor(drawn: dict[str, object], more: bool, cursor: int) -> dict[str, object]:
    return drawn | {"next_cursor": str(cursor)} if more else drawn


def remove_lock(surface: Surface, request: Request, type: RepoType, owner: str, name: str, id: str) -> Reply:
    """`POST /{id}.git/info/lfs/locks/{lock}/unlock`."""
    info = surface.hub.get_repo_to_write(request.identity, f"{owner}/{name}", type)
    lock = surface.hub.locks.remove(request.identity, info, id, force=request.decode(Unlock).force)
    return _lfs_reply({"lock": _draw_lock(lock)})


def _routes() -> Iterator[Route]:
    for base in (f"{base}/info/lfs" for base in GIT_BASES):
        yield Route("POST", base + "/objects/batch", lfs_batch, BODY, errors="lfs")
        yield Route("POST", base + "/objects/verify", lfs_verify, 100_000, errors="lfs")
        yield Route("PUT", base + "/objects/{sha256}", lfs_put, errors="lfs")
        yield Route("GET", base + "/objects/{sha256}", lfs_get, errors="lfs")
        yield Route("HEAD", base + "/objects/{sha256}", lfs_get, errors="lfs")
        yield Route("PUT", base + "/objects/{sha256}/parts/{part}", lfs_put_part, errors="lfs")
        yield Route("POST", base + "/objects/{sha256}/parts", lfs_join, BODY, errors="lfs")
        yield Route("POST", base + "/locks", create_lock, 100_000, errors="lfs")
        yield Route("GET", base + "/locks", list_locks, errors="lfs")
        yield Route("POST", base + "/locks/verify", verify_locks, 100_000, errors="lfs")
        yield Route("POST", base + "/locks/{id}/unlock", remove_lock, 100_000, errors="lfs")


ROUTES = tuple(_routes())
