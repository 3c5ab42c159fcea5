"""`/{repo}.git/…`: clone, fetch and push over smart HTTP (gitprotocol-http(5)).

Supported: `git-upload-pack` with protocol v0 to v2, shallow and partial; `git-receive-pack` under the hub's policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import zlib
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

from fust.core.errors import InvalidInput
from fust.core.files import full_disk_is_clear
from fust.core.i18n import accepted_language
from fust.core.ids import RepoType
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
from fust.hub.pktline import FLUSH, packet
from fust.hub.push import advertise
from fust.hub.routing import GIT_BASES, Route
from fust.hub.types import RepoInfo

_MAX_REQUEST_BYTES = 32 * 2**20


# Smart HTTP


async def info_refs(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> AnyReply:
    """`GET /{id}.git/info/refs?service=git-upload-pack` or `git-receive-pack`."""
    repo_id, service = f"{owner}/{name}", request.query.get("service")
    if service == "git-receive-pack":
        info = await surface.run(surface.hub.get_repo_to_push, request.identity, repo_id, type)
        output = await surface.run(lambda: advertise(surface.hub.content.open_repo(info)))
    elif service == "git-upload-pack":
        info = await surface.run(surface.hub.get_repo_to_open, request.identity, repo_id, type)
        output = await _advertise(surface, request, info)
    else:
        raise InvalidInput("Only git's smart protocol is spoken here.", hint="Use git 2.0 or newer.")
    body = packet(f"# service={service}\n".encode()) + FLUSH + output
    return Reply(200, body, _git_headers(f"application/x-{service}-advertisement"))


async def upload_pack(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> AnyReply:
    """`POST /{id}.git/git-upload-pack`."""
    info = await surface.run(surface.hub.get_repo_to_open, request.identity, f"{owner}/{name}", type)
    body = await read_body(request, _MAX_REQUEST_BYTES)
    if _is_gzip(request):
        body = _gunzip(body)
    if b"want " in body:
        await surface.run(surface.hub.gates.note_download, request.identity, info, "git")
    process = await _start(surface, request, info, [], asyncio.subprocess.PIPE)
    return AsyncReply(200, _git_headers("application/x-git-upload-pack-result"), _talk(process, body))


async def receive_pack(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> AnyReply:
    """`POST /{id}.git/git-receive-pack`: a push, done as a whole or refused with the reason."""
    info = await surface.run(surface.hub.get_repo_to_push, request.identity, f"{owner}/{name}", type)
    limit = surface.settings.hub.max_push_bytes
    spool = await spool_body(surface, request, limit)
    try:
        if _is_gzip(request):
            await surface.run(_gunzip_file, spool.path, limit)
        language = accepted_language(request.headers.get("accept-language"))
        report = await surface.run(surface.hub.push, request.identity, info, spool.path, language)
    finally:
        spool.discard()
    return Reply(200, report, _git_headers("application/x-git-receive-pack-result"))


def _is_gzip(request: Request) -> bool:
    return request.headers.get("content-encoding", "") in ("gzip", "x-gzip")


def _gunzip_file(path: Path, limit: int) -> None:
    """Unpacks a file in its place, up to a limit."""
    plain = path.with_suffix(".plain")
    try:
        with full_disk_is_clear(path), gzip.open(path) as source, open(plain, "xb") as target:
            while piece := source.read(2**20):
                target.write(piece)
                if target.tell() > limit:
                    raise too_large(limit)
        os.replace(plain, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidInput("The request's body cannot be read: {error}.", error=str(error)) from None
    finally:
        plain.unlink(missing_ok=True)


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


def _routes() -> Iterator[Route]:
    for base in GIT_BASES:
        yield Route("GET", base + "/info/refs", info_refs, errors="git")
        yield Route("POST", base + "/git-upload-pack", upload_pack, errors="git")
        yield Route("POST", base + "/git-receive-pack", receive_pack, errors="git")


ROUTES = tuple(_routes())
