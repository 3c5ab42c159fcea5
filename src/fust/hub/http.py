"""A small HTTP layer on `raw_path`: split first, decode after, so that `%2F` stays inside a revision.

Bodies stream to disk or to bounded memory; files leave by the server's ``http.response.zerocopysend`` when it has that,
else in pieces of 256 KiB read in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

from fust.accounts.devices import Devices
from fust.accounts.rights import ANONYMOUS, Identity
from fust.accounts.service import Accounts
from fust.core.decode_words import words_of
from fust.core.errors import FustError, InvalidInput, TooLarge
from fust.core.i18n import accepted_language
from fust.core.settings import Settings
from fust.core.units import read_number
from fust.hub.blobs import Spool
from fust.hub.errors import EntryNotFound, GatedRepo, RepoNotFound, RevisionNotFound
from fust.hub.formats import Formats
from fust.hub.routing import Reader
from fust.hub.service import Hub
from fust.hub.xet.cas import PIECE_BYTES
from fust.wire.asgi import ZEROCOPY, ClientGone, Receive, Scope, Send, headers_of, request_id_of

Headers = list[tuple[bytes, bytes]]
T = TypeVar("T")

JSON = (b"content-type", b"application/json; charset=utf-8")
LFS_JSON = (b"content-type", b"application/vnd.git-lfs+json")
CHUNK_BYTES = 2**20
MAX_QUERY_FIELDS = 500
DRAIN_BYTES, DRAIN_S = 2**27, 20.0


@dataclass(slots=True)
class Request:
    """One request, its path split on `/` and each part decoded."""

    method: str
    segments: list[str]
    query: dict[str, str]
    query_lists: dict[str, list[str]]
    headers: dict[str, str]
    scope: Scope
    receive: Receive
    request_id: str
    identity: Identity = ANONYMOUS
    body: bytes = b""
    errors: Reader = "hub"
    """Whose client reads a refusal."""
    params: dict[str, str] = field(default_factory=lambda: {})
    """What the route took from the path."""
    is_read: bool = False
    """The body was read to its end."""

    def decode(self, kind: type[T]) -> T:
        """Returns the JSON body as a message.

        Raises:
            InvalidInput: not JSON, or not of that shape; says where.

        """
        try:
            return msgspec.json.decode(self.body or b"{}", type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInput("The request's body cannot be read: {error}.", error=words_of(error)) from None

    def flag(self, name: str) -> bool:
        """Returns whether a query value says yes."""
        return self.query.get(name, "").lower() in ("1", "true", "yes")


@dataclass(slots=True)
class Reply:
    """An answer that is in memory."""

    status: int = 200
    body: bytes = b""
    headers: Headers = field(default_factory=lambda: [])


@dataclass(slots=True)
class FileReply:
    """Bytes [start, start + length) of a file on the disk."""

    status: int
    headers: Headers
    path: Path
    start: int
    length: int


@dataclass(slots=True)
class StreamReply:
    """Pieces from a blocking iterator, made one after another in the pool; ``length`` is told to the client."""

    status: int
    headers: Headers
    pieces: Iterator[bytes]
    length: int


@dataclass(slots=True)
class AsyncReply:
    """Pieces as they come, of unknown length."""

    status: int
    headers: Headers
    pieces: AsyncGenerator[bytes]


AnyReply = Reply | FileReply | StreamReply | AsyncReply


@dataclass(frozen=True, slots=True)
class Surface:
    """What every handler of the hub surface may use."""

    hub: Hub
    accounts: Accounts
    settings: Settings
    pool: ThreadPoolExecutor
    formats: Formats
    devices: Devices

    async def run(self, function: Callable[..., T], *args: object, **kwargs: object) -> T:
        """Calls something that blocks, in the pool."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, functools.partial(function, *args, **kwargs))


def json_reply(value: object, status: int = 200, headers: Headers | None = None) -> Reply:
    """Returns a value as JSON."""
    return Reply(status, msgspec.json.encode(value), [JSON, *(headers or [])])


def header(name: str, value: str) -> tuple[bytes, bytes]:
    """Returns a header pair; what Latin-1 cannot hold is replaced, control characters are removed (RFC 9110, 5.5)."""
    clean = re.sub(r"[\x00-\x1f\x7f]+", " ", value)
    return name.encode(), clean.encode("latin-1", "replace")


def number(text: str | None, default: int, low: int, high: int) -> int:
    """Returns a number of a query within bounds; what is not one counts as absent."""
    if text is None or not re.fullmatch(r"[0-9]{1,9}", text):
        return default
    return max(low, min(high, int(text)))


# Reading


def read_request(scope: Scope, receive: Receive) -> Request:
    """Returns the request of an ASGI scope whose sub-path was cut off already.

    Raises:
        InvalidInput: the address is not UTF-8 when decoded, holds NUL, or the query has too many fields.

    """
    raw = bytes(scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]
    try:
        segments = [unquote_to_bytes(part).decode() for part in raw.lstrip(b"/").split(b"/")]
    except UnicodeDecodeError:
        raise InvalidInput("The path is not UTF-8.", code="bad_path") from None
    headers = headers_of(scope)
    try:
        query = scope["query_string"].decode("latin-1")
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise InvalidInput(
            "The query has more than {limit} fields.", hint="Send less at a time.", limit=MAX_QUERY_FIELDS
        ) from None
    if any("\0" in text for text in (*segments, *(value for _, value in pairs))):
        # No name here has it, and PostgreSQL takes none.
        raise InvalidInput("The address holds a NUL character.", code="bad_path")
    lists: dict[str, list[str]] = {}
    for name, value in pairs:
        lists.setdefault(name, []).append(value)
    return Request(
        scope["method"], segments, dict(pairs), lists, headers, scope, receive, request_id_of(scope)
    )


def _check_length(request: Request, limit: int) -> None:
    if (read_number(request.headers.get("content-length", "")) or 0) > limit:
        raise too_large(limit)


def too_large(limit: int) -> TooLarge:
    """Returns the error for a body over its limit."""
    return TooLarge(
        "The request's body is larger than {limit} bytes.", hint="Send less at a time.", limit=limit
    )


async def read_body(request: Request, limit: int) -> bytes:
    """Returns the whole body.

    Raises:
        TooLarge: it is longer than the limit.
        ClientGone: it broke off.

    """
    _check_length(request, limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise too_large(limit)
        parts.append(piece)
        if not message.get("more_body", False):
            request.is_read = True
            return b"".join(parts)


async def spool_body(surface: Surface, request: Request, limit: int, *, digest: Any = None) -> Spool:
    """Returns the body in a temporary file beside the blobs; the caller keeps or discards it.

    ``digest.update`` is called with every byte, in the pool.

    Raises:
        TooLarge, ClientGone, StorageFull: nothing is left on the disk.

    """
    _check_length(request, limit)
    spool = Spool(surface.hub.blobs.new_temporary())

    def take(data: bytes) -> None:
        if digest is not None:
            digest.update(data)
        spool.write(data)

    pending: list[bytes] = []
    held = 0
    try:
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            piece: bytes = message.get("body", b"")
            pending.append(piece)
            held += len(piece)
            if spool.size + held > limit:
                raise too_large(limit)
            more = message.get("more_body", False)
            request.is_read = not more
            if held >= CHUNK_BYTES or not more:
                await surface.run(take, b"".join(pending))
                pending.clear()
                held = 0
            if not more:
                await surface.run(spool.close)
                return spool
    except BaseException:
        spool.discard()
        raise


async def drain_body(request: Request) -> None:
    """Reads what a refused request still sends, within bounds: a client that is writing sees no answer before."""
    declared = read_number(request.headers.get("content-length", ""))
    known = request.identity.user is not None or request.segments[:1] == ["xet"]
    room = DRAIN_BYTES if known and declared is not None else 2**20
    if request.is_read or request.method in ("GET", "HEAD") or (declared or 0) > room:
        return
    with contextlib.suppress(asyncio.TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while room > 0:
                message = await request.receive()
                room -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return


# Answering


async def send_reply(surface: Surface, request: Request, reply: AnyReply, send: Send) -> None:
    """Sends an answer; a HEAD gets the headers only. Raises FileNotFoundError, with nothing sent, when its file went."""
    headers = [*reply.headers, header("x-request-id", request.request_id)]
    if reply.status not in (204, 304) and not isinstance(reply, AsyncReply):
        length = len(reply.body) if isinstance(reply, Reply) else reply.length
        headers.append((b"content-length", b"%d" % length))
    start = {"type": "http.response.start", "status": reply.status, "headers": headers}
    bare = request.method == "HEAD" or reply.status in (204, 304)
    if isinstance(reply, FileReply) and not bare:
        await _send_file(surface, request, reply, start, send)
        return
    await send(start)
    if bare or isinstance(reply, FileReply):
        await send({"type": "http.response.body", "body": b""})
    elif isinstance(reply, Reply):
        await send({"type": "http.response.body", "body": reply.body})
    elif isinstance(reply, AsyncReply):
        async with contextlib.aclosing(reply.pieces) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    else:
        await _send_pieces(surface, reply.pieces, send)


async def _send_file(
    surface: Surface, request: Request, reply: FileReply, start: dict[str, Any], send: Send
) -> None:
    """Sends a file's bytes; opened before the head, so that one which went meanwhile is no answer that breaks off.

    Raises:
        FileNotFoundError: it went; nothing was sent.
    """
    extensions: object = request.scope.get("extensions")
    with open(reply.path, "rb", buffering=0) as file:
        await send(start)
        if reply.length and isinstance(extensions, dict) and ZEROCOPY in extensions:
            await send(
                {"type": ZEROCOPY, "file": file.fileno(), "offset": reply.start, "count": reply.length}
            )
            return
        await _send_pieces(surface, iter_file(reply.path, reply.start, reply.length), send)


async def _send_pieces(surface: Surface, pieces: Iterator[bytes], send: Send) -> None:
    try:
        while (piece := await surface.run(next, pieces, None)) is not None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            await surface.run(close)


def iter_file(path: Path, start: int, length: int) -> Iterator[bytes]:
    """Yields bytes of a file, a piece at a time."""
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while length > 0:
            piece = file.read(min(PIECE_BYTES, length))
            if not piece:
                return
            length -= len(piece)
            yield piece


_HUB_CODES: tuple[tuple[type[FustError], str], ...] = (
    (RepoNotFound, "RepoNotFound"),
    (RevisionNotFound, "RevisionNotFound"),
    (EntryNotFound, "EntryNotFound"),
    (GatedRepo, "GatedRepo"),
)


def draw_error(
    error: FustError,
    request_headers: dict[str, str],
    identity: Identity,
    reader: Reader = "hub",
) -> Reply:
    """Returns an error as Hugging Face's client reads it: `X-Error-Code`, `X-Error-Message`, JSON `error`.

    git shows the body of a text answer (after `remote:`), as a browser does; git-lfs the JSON's `message`.
    """
    language = accepted_language(request_headers.get("accept-language"))
    status = error.status
    code = next((name for kind, name in _HUB_CODES if isinstance(error, kind)), "")
    if code == "RepoNotFound" and identity.user is None:
        status = 401  # as the Hub: who has not signed in learns nothing
    message = error.message("en") if status == 401 else error.sentence("en")
    headers = [JSON, header("x-error-message", message[:1000])]
    headers.append(header("x-error-code", code or _camel(error.code)))
    if isinstance(error, EntryNotFound) and error.commit_oid:
        headers.append(header("x-repo-commit", error.commit_oid))
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="fust", Basic realm="fust"'))
    if error.retry_after_s is not None:
        headers.append(header("retry-after", str(max(1, round(error.retry_after_s)))))
    if reader in ("git", "page"):
        headers[0] = (b"content-type", b"text/plain; charset=utf-8")
        return Reply(status, (error.sentence(language) + "\n").encode(), headers)
    if reader == "lfs":
        headers[0] = LFS_JSON
        return Reply(status, msgspec.json.encode({"message": error.sentence(language)}), headers)
    body = {"error": error.message(language), "code": error.code, "hint": error.hint(language)}
    return Reply(status, msgspec.json.encode(body), headers)


def _camel(code: str) -> str:
    return "".join(part.capitalize() for part in code.split("_"))


# Ranges


def parse_range(value: str | None, size: int) -> tuple[int, int] | None:
    """Returns [start, end) of a single byte range, or None for the whole (RFC 9110, 14.2).

    Several ranges, other units and malformed ones are answered with the whole.

    Raises:
        RangeError: no byte of it lies in the file.

    """
    if not value:
        return None
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", value.strip())
    if not match or match[1] == match[2] == "":
        return None
    if match[1] == "":
        length = int(match[2])
        if length == 0 or size == 0:
            raise RangeError
        return max(0, size - length), size
    start = int(match[1])
    if match[2] and int(match[2]) < start:
        return None
    if start >= size:
        raise RangeError
    return start, min(int(match[2]) + 1, size) if match[2] else size


class RangeError(Exception):
    """A range that lies outside the file."""
