"""`/{repo}.git/…`: clone and fetch over smart HTTP (gitprotocol-http(5)), and the git-lfs batch API.

Supported: `git-upload-pack` with protocol v0 to v2, shallow and partial; LFS `basic` transfers both ways. A push is
answered with a sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
import zlib
from collections.abc import AsyncGenerator, Iterator
from typing import Literal

import msgspec

from fust.core.errors import Denied, InvalidInput, NotOffered
from fust.core.ids import RepoType
from fust.hub.errors import BadHash, entry_not_found
from fust.hub.file_routes import bytes_reply
from fust.hub.http import (
    AnyReply,
    AsyncReply,
    Headers,
    Reply,
    Request,
    Surface,
    header,
    read_body,
    spool_body,
    too_large,
)
from fust.hub.routing import BODY, Route
from fust.hub.types import RepoInfo, StoredFile

LFS_JSON = (b"content-type", b"application/vnd.git-lfs+json")
URL_LIFE_S = 6 * 3600
_MAX_REQUEST_BYTES = 32 * 2**20
_MAX_OBJECTS = 1000


# Smart HTTP


def _no_push() -> NotOffered:
    return NotOffered(
        "git push is not offered yet.",
        hint="Upload with `hf upload` or huggingface_hub; clone and pull work.",
    )


async def info_refs(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> AnyReply:
    """`GET /{id}.git/info/refs?service=git-upload-pack`."""
    info = await surface.run(surface.hub.get_repo, request.identity, f"{owner}/{name}", type)
    if request.query.get("service") == "git-receive-pack":
        raise _no_push()
    if request.query.get("service") != "git-upload-pack":
        raise InvalidInput("Only git's smart protocol is spoken here.", hint="Use git 2.0 or newer.")
    output = await _advertise(surface, request, info)
    body = b"001e# service=git-upload-pack\n0000" + output
    return Reply(200, body, _git_headers("application/x-git-upload-pack-advertisement"))


async def upload_pack(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> AnyReply:
    """`POST /{id}.git/git-upload-pack`."""
    info = await surface.run(surface.hub.get_repo, request.identity, f"{owner}/{name}", type)
    body = await read_body(request, _MAX_REQUEST_BYTES)
    if request.headers.get("content-encoding", "") in ("gzip", "x-gzip"):
        body = _gunzip(body)
    process = await _start(surface, request, info, [], asyncio.subprocess.PIPE)
    return AsyncReply(200, _git_headers("application/x-git-upload-pack-result"), _talk(process, body))


async def receive_pack(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> AnyReply:
    """`POST /{id}.git/git-receive-pack`."""
    await surface.run(surface.hub.get_repo, request.identity, f"{owner}/{name}", type)
    raise _no_push()


def _git_headers(kind: str) -> Headers:
    return [header("content-type", kind), (b"cache-control", b"no-cache, max-age=0, must-revalidate")]


def _gunzip(body: bytes) -> bytes:
    decoder = zlib.decompressobj(31)
    try:
        plain = decoder.decompress(body, _MAX_REQUEST_BYTES)
    except zlib.error as error:
        raise InvalidInput("The request's body cannot be read: {error}.", error=str(error)) from None
    if decoder.unconsumed_tail:
        raise too_large(_MAX_REQUEST_BYTES)
    return plain


async def _start(
    surface: Surface, request: Request, info: RepoInfo, extra: list[str], stdin: int
) -> asyncio.subprocess.Process:
    path = surface.hub.git.path(info.type, info.owner, info.name)
    env = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": str(surface.settings.home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "LC_ALL": "C",
    }
    version = request.headers.get("git-protocol", "")
    if version in ("version=1", "version=2"):
        env["GIT_PROTOCOL"] = version
    command = ["git", "-c", "safe.directory=*", "upload-pack", "--strict", "--timeout=600", "--stateless-rpc"]
    return await asyncio.create_subprocess_exec(
        *command,
        *extra,
        str(path),
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=env,
    )


async def _advertise(surface: Surface, request: Request, info: RepoInfo) -> bytes:
    # It reads nothing: a pipe to it may be closed before the first write, which uvloop takes for a fault.
    process = await _start(surface, request, info, ["--advertise-refs"], asyncio.subprocess.DEVNULL)
    output, _ = await process.communicate()
    return output


async def _talk(process: asyncio.subprocess.Process, given: bytes) -> AsyncGenerator[bytes]:
    """Yields what git answers; git is ended when the client leaves."""
    assert process.stdin is not None and process.stdout is not None
    try:
        with contextlib.suppress(
            RuntimeError, ConnectionError
        ):  # git left already: what it said is read below
            process.stdin.write(given)
            process.stdin.close()
        while piece := await process.stdout.read(2**18):
            yield piece
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()


# Large files (git-lfs/docs/api/batch.md)


class LfsObject(msgspec.Struct):
    """An object that a client wants to move."""

    oid: str
    size: int


class LfsBatch(msgspec.Struct):
    """Body of a batch request."""

    operation: Literal["upload", "download"]
    objects: list[LfsObject] = msgspec.field(default_factory=lambda: [])
    transfers: list[str] = msgspec.field(default_factory=lambda: [])


def _lfs_reply(value: object, status: int = 200) -> Reply:
    return Reply(status, msgspec.json.encode(value), [LFS_JSON])


def _check_oid(oid: str) -> str:
    if len(oid) != 64 or not set(oid) <= set("0123456789abcdef"):
        raise InvalidInput("{oid!r} is not a SHA-256.", hint="It has 64 hex digits.", oid=oid[:100])
    return oid


def lfs_batch(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`POST /{id}.git/info/lfs/objects/batch`."""
    asked = request.decode(LfsBatch)
    if len(asked.objects) > _MAX_OBJECTS:
        raise InvalidInput(
            "A batch may name {limit} objects.", hint="Ask for less at a time.", limit=_MAX_OBJECTS
        )
    upload = asked.operation == "upload"
    get = surface.hub.get_repo_to_write if upload else surface.hub.get_repo
    info = get(request.identity, f"{owner}/{name}", type)
    oids = [_check_oid(item.oid) for item in asked.objects]
    pointed = surface.hub.content.may_point(info, oids)
    states = surface.hub.content.large_states(oids)
    drawn: list[object] = []
    for item in asked.objects:
        here = item.oid in pointed and item.oid in states
        entry: dict[str, object] = {"oid": item.oid, "size": item.size, "authenticated": True}
        if upload and not here:
            entry["actions"] = {
                "upload": {
                    "href": _lfs_url(surface, info, "put", item.oid, item.size),
                    "expires_in": URL_LIFE_S,
                },
                "verify": {"href": f"{_git_url(surface, info)}/info/lfs/objects/verify"},
            }
        elif not upload and here:
            size = states[item.oid].size
            href = _lfs_url(surface, info, "get", item.oid, size)
            entry["actions"] = {"download": {"href": href, "expires_in": URL_LIFE_S}}
        elif not upload:
            entry = {"oid": item.oid, "size": item.size, "error": {"code": 404, "message": "not here"}}
        drawn.append(entry)
    return _lfs_reply({"transfer": "basic", "objects": drawn, "hash_algo": "sha256"})


def _git_url(surface: Surface, info: RepoInfo) -> str:
    return f"{surface.settings.public_url}/{info.prefix}{info.repo_id}.git"


def _lfs_url(surface: Surface, info: RepoInfo, verb: str, oid: str, size: int) -> str:
    expires = int(time.time()) + URL_LIFE_S
    signature = surface.hub.signer.sign("lfs", f"{verb}:{info.id}:{oid}:{size}:{expires}")
    return f"{_git_url(surface, info)}/info/lfs/objects/{oid}?n={size}&e={expires}&s={signature}"


def _opened(
    surface: Surface, request: Request, verb: str, type: RepoType, owner: str, name: str, oid: str
) -> RepoInfo:
    """Returns the repo that a signed URL was made for; the URL is the right, no key is sent with it."""
    info = surface.hub.repos.find_row(type, f"{owner}/{name}")
    size, expires = request.query.get("n", ""), request.query.get("e", "")
    text = f"{verb}:{info.id if info else ''}:{oid}:{size}:{expires}"
    good = surface.hub.signer.check("lfs", text, request.query.get("s", ""))
    if info is None or not good or not expires.isdigit() or int(expires) < time.time():
        raise Denied("The URL's signature is not valid or is over its time.", hint="Ask for the file again.")
    return info


async def lfs_put(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, sha256: str
) -> Reply:
    """`PUT` of a large file to a signed URL; its bytes must have the hash and size that it was signed for."""
    oid = _check_oid(sha256)
    info = await surface.run(_opened, surface, request, "put", type, owner, name, oid)
    size = int(request.query["n"])
    if size > surface.settings.hub.max_file_bytes:
        raise too_large(surface.settings.hub.max_file_bytes)
    digest = hashlib.sha256()
    spool = await spool_body(surface, request, size, digest=digest)
    try:
        if spool.size != size or digest.hexdigest() != oid:
            raise BadHash(
                "The bytes of {path} have the SHA-256 {found}, not {wanted}.",
                hint="Upload the file again.",
                path=f"{owner}/{name}",
                found=digest.hexdigest(),
                wanted=oid,
            )
        await surface.run(surface.hub.content.keep_blob, info.owner, spool.path, oid, size)
    finally:
        spool.discard()
    return Reply(200)


def lfs_verify(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`POST /{id}.git/info/lfs/objects/verify`: whether an upload arrived."""
    asked = request.decode(LfsObject)
    info = surface.hub.get_repo_to_write(request.identity, f"{owner}/{name}", type)
    state = surface.hub.content.large_states([asked.oid]).get(asked.oid)
    if (
        asked.oid not in surface.hub.content.may_point(info, [asked.oid])
        or state is None
        or state.size != asked.size
    ):
        raise entry_not_found(asked.oid, "lfs")
    return _lfs_reply({})


def lfs_get(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, sha256: str
) -> AnyReply:
    """`GET` of a large file by a signed URL."""
    oid = _check_oid(sha256)
    info = _opened(surface, request, "get", type, owner, name, oid)
    state = surface.hub.content.large_states([oid]).get(oid)
    if state is None:
        raise entry_not_found(oid, "lfs")
    file = StoredFile(oid, "", oid, state.size, oid, state.xet_hash)
    headers: Headers = [
        (b"content-type", b"application/octet-stream"),
        (b"x-content-type-options", b"nosniff"),
        (b"accept-ranges", b"bytes"),
        header("etag", f'"{oid}"'),
    ]
    return bytes_reply(surface, request, info, file, headers)


def _routes() -> Iterator[Route]:
    # git itself leaves out `.git` when the URL that it was given has none.
    bases = [f"{prefix}/{{owner}}/{{name}}" for prefix in ("", "/datasets", "/spaces")]
    for base in [base + suffix for base in bases for suffix in (".git", "")]:
        yield Route("GET", base + "/info/refs", info_refs)
        yield Route("POST", base + "/git-upload-pack", upload_pack)
        yield Route("POST", base + "/git-receive-pack", receive_pack)
        yield Route("POST", base + "/info/lfs/objects/batch", lfs_batch, BODY)
        yield Route("POST", base + "/info/lfs/objects/verify", lfs_verify, 100_000)
        yield Route("PUT", base + "/info/lfs/objects/{sha256}", lfs_put)
        yield Route("GET", base + "/info/lfs/objects/{sha256}", lfs_get)
        yield Route("HEAD", base + "/info/lfs/objects/{sha256}", lfs_get)


ROUTES = tuple(_routes())
