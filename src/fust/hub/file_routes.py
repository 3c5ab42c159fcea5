"""`/{repo}/resolve/{revision}/{path}`: files, whole and in ranges, from whatever form they are kept in.

A file is always sent as `application/octet-stream` with `nosniff` and a sandbox: a hosted page never runs here.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fust.core.ids import RepoType, check_repo_type
from fust.hub.cache import CacheWriter, Follower
from fust.hub.http import (
    AnyReply,
    AsyncReply,
    FileReply,
    Headers,
    RangeError,
    Reply,
    Request,
    StreamReply,
    Surface,
    header,
    parse_range,
)
from fust.hub.paths import is_commit_oid
from fust.hub.routing import Route
from fust.hub.types import RepoInfo, StoredFile
from fust.hub.xet.cas import PIECE_BYTES
from fust.wire.asgi import SENT_URL

_POLL_S = 0.01
_PATIENCE_S = 3.0
"""How long a download waits for another one that is rebuilding the same file, and whose client may read slowly."""
_COUNTED = (".gguf",)
_COUNTED_NAMES = frozenset({"config.json", "adapter_config.json", "model_index.json"})
_HOT_S = 0.5
"""With the second that a key is remembered, less than the two within which a revoked one is refused."""
_REF_S = 0.05
_HOT_HEADERS = frozenset(
    [
        b"etag",
        b"x-repo-commit",
        b"accept-ranges",
        b"content-type",
        b"x-content-type-options",
        b"content-disposition",
    ]
)
"""What a range needs; the rest came with the first answer."""
_HOT_FILES = 128
_INLINE_BYTES = 2**18
"""Ranges up to this size are read on the event loop: cheaper than a change of threads."""


def resolve(
    surface: Surface,
    request: Request,
    type: RepoType,
    owner: str,
    name: str,
    revision: str,
    path: str,
) -> AnyReply:
    """`GET` and `HEAD /{prefix}{id}/resolve/{revision}/{path}`."""
    hub = surface.hub
    info = hub.get_repo_to_open(request.identity, f"{owner}/{name}", type)
    file = hub.content.find_file(info, hub.resolve_revision(info, revision), path, revision)
    headers = file_headers(surface, info, file)
    if is_known(request, file.etag):
        return Reply(304, b"", headers)
    if path.endswith(_COUNTED) or path in _COUNTED_NAMES:
        _count(surface, request, info)
    if request.method == "GET":
        hub.gates.note_download(request.identity, info, "file", path=path, commit=file.commit_oid)
    return bytes_reply(surface, request, info, file, headers)


def is_known(request: Request, etag: str) -> bool:
    """Returns whether the client says that it has these bytes already (RFC 9110, 13.1.2)."""
    tags = request.headers.get("if-none-match", "").split(",")
    return etag in [tag.strip().removeprefix("W/").strip('"') for tag in tags]


def _count(surface: Surface, request: Request, info: RepoInfo) -> None:
    if not request.headers.get("range", "bytes=0-").startswith("bytes=0-"):
        return
    if request.method == "GET":
        surface.hub.note_download(info)


def file_headers(surface: Surface, info: RepoInfo, file: StoredFile) -> Headers:
    """Returns the headers that Hugging Face's client reads (file_download.py: get_hf_file_metadata)."""
    token_url = f"/api/{info.type}s/{info.repo_id}/xet-read-token/{file.commit_oid}"
    return [header("x-repo-commit", file.commit_oid), *download_headers(surface, file, token_url)]


def download_headers(surface: Surface, file: StoredFile, token_url: str) -> Headers:
    """Returns the headers of a file, in whatever it lies; ``token_url`` is where Xet's clients ask for a token."""
    name = file.path.rsplit("/", 1)[-1]
    plain = "".join(c if 32 <= ord(c) < 127 and c not in '"\\' else "_" for c in name)
    headers = [
        header("etag", f'"{file.etag}"'),
        (b"accept-ranges", b"bytes"),
        (b"content-type", b"application/octet-stream"),
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", b"default-src 'none'; sandbox"),
        (b"cross-origin-resource-policy", b"same-origin"),
        header("content-disposition", f"attachment; filename*=UTF-8''{quote(name)}; filename=\"{plain}\""),
        (b"cache-control", b"private, no-cache"),
    ]
    if file.sha256:
        headers += [header("x-linked-etag", f'"{file.sha256}"'), header("x-linked-size", str(file.size))]
    if file.xet_hash:
        url = f"{surface.settings.public_url}{token_url}"
        headers += [header("x-xet-hash", file.xet_hash), header("link", f'<{url}>; rel="xet-auth"')]
    return headers


def bytes_reply(
    surface: Surface, request: Request, info: RepoInfo | None, file: StoredFile, headers: Headers
) -> AnyReply:
    """Returns the bytes asked for: 200 or 206 from a file, from git, or straight out of xorbs; else 416.

    ``info`` may be None for a file that lies outside git.
    """
    asked = request.headers.get("range")
    condition = request.headers.get("if-range")
    if condition is not None and condition.strip('"') != file.etag:
        asked = None
    try:
        window = parse_range(asked, file.size)
    except RangeError:
        return Reply(416, b"", [header("content-range", f"bytes */{file.size}"), *headers])
    start, end = window or (0, file.size)
    if window:
        headers = [*headers, header("content-range", f"bytes {start}-{end - 1}/{file.size}")]
    status = 206 if window else 200
    content = surface.hub.content
    local = content.local_path(file)
    if local:
        return FileReply(status, headers, local, start, end - start)
    if request.method == "HEAD":
        return StreamReply(status, headers, iter(()), end - start)
    if not file.sha256:
        return Reply(status, b"".join(content.iter_bytes(info, file, start, end)), headers)
    pieces = content.iter_bytes(info, file, start, end)
    if window is None and surface.hub.cache.has_room(file.size):
        writer = surface.hub.cache.begin_or_follow(file.sha256, file.size)
        if isinstance(writer, Follower):
            rest = functools.partial(content.iter_bytes, info, file)
            length = (b"content-length", b"%d" % file.size)
            return AsyncReply(status, [*headers, length], _follow(surface, writer, file.size, rest))
        pieces = _Kept(pieces, writer)
    return StreamReply(status, headers, pieces, end - start)


async def _follow(
    surface: Surface, follower: Follower, size: int, rest: Callable[[int, int], Iterator[bytes]]
) -> AsyncGenerator[bytes]:
    """Yields a file that another download is rebuilding; ``rest`` rebuilds bytes [start, end) when that one rests."""
    at = 0
    patience = _PATIENCE_S
    with follower:
        while at < size:
            if at < follower.ready:
                piece = await surface.run(follower.read, at, PIECE_BYTES // 4)
                patience = _PATIENCE_S
            elif follower.is_growing and patience > 0:
                await asyncio.sleep(_POLL_S)
                patience -= _POLL_S
                continue
            else:
                piece = await surface.run(b"".join, rest(at, min(size, at + PIECE_BYTES)))
            at += len(piece)
            yield piece


class _Kept:
    """Passes pieces on and keeps them for the next download; what breaks off leaves nothing behind."""

    def __init__(self, pieces: Iterator[bytes], writer: CacheWriter) -> None:
        self._pieces = pieces
        self._writer: CacheWriter | None = writer

    def __iter__(self) -> _Kept:
        return self

    def __next__(self) -> bytes:
        try:
            piece = next(self._pieces)
        except StopIteration:
            if self._writer is not None:
                self._writer.finish()
                self._writer = None
            raise
        if self._writer is not None:
            try:
                self._writer.write(piece)
            except Exception:
                self.close()  # no room to keep it: the download goes on
        return piece

    def close(self) -> None:
        """Drops what was kept so far, unless it is whole."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None


# The short way for many small ranges of one file


@dataclass(slots=True)
class _Hot:
    """An open file that was just served: what is needed to serve another range of it."""

    descriptor: int
    size: int
    head: bytes
    until: float
    generation: int
    ref: Path | None
    ref_stamp: tuple[int, int]
    ref_seen: float


_Key = tuple[bytes, bytes]
"""The URL as sent, and what signs the caller in."""


class HotFiles:
    """Answers small ranges of files that were served within the last half second, without asking database or git again.

    An entry is for one URL as sent and one key; it ends after half a second, with any change that this process makes,
    and at most 50 ms after the branch's ref file changed. It lives on the event loop's thread only, and reads there:
    a change of threads costs more than the read. The server asks it while it parses, before there is a task.
    """

    def __init__(self, surface: Surface) -> None:
        self._repos = surface.hub.repos
        self._accounts = surface.accounts
        self._git = surface.hub.git
        self._entries: OrderedDict[_Key, _Hot] = OrderedDict()

    @property
    def generation(self) -> int:
        """Grows with every change of repos, keys and roles that this process makes."""
        return self._repos.generation + self._accounts.generation

    def find(self, url: bytes, headers: Headers) -> tuple[bytes, bytes] | None:
        """Returns status line with headers and body of the answer, or None when the long way must answer."""
        if not self._entries or b"/resolve/" not in url:
            return None
        key, asked = _read_headers(url, headers)
        if not asked or key is None:
            return None
        hot = self._entries.get(key)
        if hot is None or not self._is_live(key, hot):
            return None
        first, _, last = asked[6:].partition(b"-")
        if not (asked.startswith(b"bytes=") and first.isdigit() and last.isdigit() and len(asked) < 50):
            return None
        start, end = int(first), int(last) + 1
        length = end - start
        if not 0 < length <= _INLINE_BYTES or end > hot.size:
            return None
        data = os.pread(hot.descriptor, length, start)
        if len(data) != length:
            return None
        return hot.head % (start, end - 1, hot.size, length), data

    def _is_live(self, key: _Key, hot: _Hot) -> bool:
        now = time.monotonic()
        live = now < hot.until and hot.generation == self.generation
        if live and hot.ref is not None and now - hot.ref_seen > _REF_S:
            live = _stamp(hot.ref) == hot.ref_stamp
            hot.ref_seen = now
        if not live:
            self._drop(key)
        return live

    def keep(self, request: Request, reply: AnyReply, generation: int, began: float) -> None:
        """Remembers a file that was just answered with a range of it.

        ``began`` is when its request came: an answer that took long says nothing of the rights of now.
        """
        if not isinstance(reply, FileReply) or reply.status != 206 or "resolve" not in request.segments[2:4]:
            return
        if request.segments[0] in ("buckets", "static"):
            return  # files that change in place, and those whose every answer is sandboxed
        key, asked = _read_headers(request.scope.get(SENT_URL, b""), request.scope["headers"])
        if key is None or not asked:
            return
        at = request.segments.index("resolve", 2)
        owner, name, revision = request.segments[at - 2], request.segments[at - 1], request.segments[at + 1]
        ref: Path | None = None
        stamp = (0, 0)
        if not is_commit_oid(revision):
            repo_type = check_repo_type(request.segments[0]) if at == 3 else "model"
            ref = self._git.path(repo_type, owner, name) / "refs" / "heads" / revision
            stamp = _stamp(ref)
            if stamp == (0, 0):
                return
        self._drop(key)
        descriptor = os.open(reply.path, os.O_RDONLY | os.O_CLOEXEC)
        now = time.monotonic()
        size = os.fstat(descriptor).st_size
        self._entries[key] = _Hot(
            descriptor, size, _hot_head(reply.headers), began + _HOT_S, generation, ref, stamp, now
        )
        if len(self._entries) > _HOT_FILES:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: _Key) -> None:
        hot = self._entries.pop(key, None)
        if hot is not None:
            os.close(hot.descriptor)


def _hot_head(headers: Headers) -> bytes:
    """Returns status line and headers of a 206, a `%d` for first, last, size and length."""
    kept = b"".join(
        name + b": " + value.replace(b"%", b"%%") + b"\r\n" for name, value in headers if name in _HOT_HEADERS
    )
    return (
        b"HTTP/1.1 206 Partial Content\r\n"
        + kept
        + b"content-range: bytes %d-%d/%d\r\ncontent-length: %d\r\n"
    )


def _read_headers(url: bytes, headers: Headers) -> tuple[_Key | None, bytes]:
    """Returns the key of a request and the range it asks for; no key for sign-in by cookie and for conditions."""
    asked = token = b""
    for name, value in headers:
        if name == b"range":
            asked = value
        elif name == b"authorization" or name == b"x-api-key":
            token += name + value
        elif name == b"cookie" or name == b"if-range" or name == b"if-none-match":
            return None, b""
    return (url, token), asked


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = os.stat(path)
    except OSError:
        return (0, 0)
    return stat.st_mtime_ns, stat.st_ino


ROUTES = (
    *(
        Route(method, f"{prefix}/{{owner}}/{{name}}/{word}/{{revision}}/{{path*}}", resolve)
        for prefix in ("", "/datasets", "/spaces")
        for word in ("resolve", "raw")
        for method in ("GET", "HEAD")
    ),
    *(
        Route(method, "/api/resolve-cache/{type}/{owner}/{name}/{revision}/{path*}", resolve)
        for method in ("GET", "HEAD")
    ),
)
