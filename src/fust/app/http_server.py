"""The HTTP/1.1 server: uvicorn, with what a hub of large files needs beside it.

* Small ranges of hot files are answered while the request is parsed: no task, no change of threads.
* ``http.response.zerocopysend`` (asgi.readthedocs.io, extensions): files leave from a few threads, which a slow reader
  never holds.
* Clients that send their headers slowly, or stop in the middle of a body or an answer, are let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import select
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import httptools
import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from fust.core.errors import Conflict, FustError
from fust.wire.asgi import SENT_URL, ZEROCOPY, ClientGone, Receive, Scope, Send

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
FindHot = Callable[[bytes, list[tuple[bytes, bytes]]], tuple[bytes, bytes] | None]
"""(URL as sent, request headers) -> (status line and headers without their last empty line, body), or None."""

KEEP_ALIVE_S = 75
HEAD_BYTES, HEAD_S = 2**16, 30.0
"""How large the request line with all headers may be, and how long they may take."""
UNREAD_BYTES = 2**20
"""How much of a body is read after its request was answered already."""
STALLED_S = 120.0
"""How long a client may send nothing of a body, or take nothing of an answer."""
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_SWEEP_S = 5.0
_SENDERS = 8
_PIECE_BYTES = 2**17
_TURN_S, _PATIENCE_MS = 0.25, 20
"""How long one download holds a thread while others wait, and how long it waits there for its reader."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    find_hot: FindHot | None = None
    most_connections = 1000

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the event loop."""
        super().connection_made(transport)
        self._ends = False
        self._is_hot = False
        self._unread = 0
        self._too_large = False
        self._head_left = HEAD_BYTES
        self._in_head: float | None = self.loop.time()
        self._last_data = self._in_head
        self._paused_at: float | None = None
        self._idle_since: float | None = None
        if len(self.connections) > self.most_connections:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._last_data = self.loop.time()
        self._idle_since = None
        if b"pgrade:" in data and not (self._is_answering() and self.cycle.more_body):
            data = _without_upgrade(data)
        super().data_received(data)

    def pause_writing(self) -> None:
        """Called by the event loop: the client takes less than it is sent."""
        self._paused_at = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Called by the event loop."""
        self._paused_at = None
        super().resume_writing()

    def shutdown(self) -> None:
        """Ends after the answer that is on its way."""
        self._ends = True
        super().shutdown()

    # The parser's calls

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._is_hot = False
        self._unread = 0
        self._head_left = HEAD_BYTES
        self._in_head = self._last_data
        cast(Scope, self.scope)["extensions"] = {ZEROCOPY: {}}

    def on_url(self, url: bytes) -> None:
        """A piece of the request line's target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._head_left -= size
        if self._head_left < 0:
            self._too_large = True
            raise ValueError("the request's head is too large")

    def send_400_response(self, msg: str) -> None:
        """Answers what cannot be parsed, and ends the connection."""
        if self._too_large:
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.transport.close()
        elif not self.transport.is_closing():
            super().send_400_response(msg)

    def on_headers_complete(self) -> None:
        """The head is whole: answered at once when it can be, else by the app."""
        self._in_head = None
        if self._answer_hot():
            self._is_hot = True
        else:
            if self.url[:1] != b"/":
                self._absolute_url()
            cast(Scope, self.scope)[SENT_URL] = self.url
            super().on_headers_complete()

    def _absolute_url(self) -> None:
        """Cuts `http://host` off (RFC 9112, 3.2.2); what is no URL at all is refused by the parser."""
        with contextlib.suppress(httptools.HttpParserInvalidURLError):
            parsed = httptools.parse_url(self.url)
            self.url = (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")

    def on_body(self, body: bytes) -> None:
        """A piece of the body; one that nobody waits for ends the connection when it is long."""
        if not self._is_hot and not self.cycle.response_complete:
            super().on_body(body)
            return
        self._unread += len(body)
        if self._unread > UNREAD_BYTES:
            self.transport.close()

    def on_message_complete(self) -> None:
        """The request is whole."""
        if not self._is_hot:
            super().on_message_complete()

    def _answer_hot(self) -> bool:
        parser, find = self.parser, self.find_hot
        if find is None or parser is None or parser.get_method() != b"GET":
            return False
        if (
            self._is_answering()
            or self._ends
            or self._paused_at is not None
            or not parser.should_keep_alive()
        ):
            return False
        found = find(self.url, self.headers)
        if found is None:
            return False
        lines = [found[0]]
        for name, value in self.server_state.default_headers:
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"\r\n" if parser.get_http_version() == "1.1" else b"connection: keep-alive\r\n\r\n")
        self.transport.writelines((b"".join(lines), found[1]))
        self._idle_since = self._last_data
        return True

    def _is_answering(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # uvicorn has none before the first request
        return cycle is not None and not cycle.response_complete

    def sweep(self, now: float) -> None:
        """Ends the connection when its client has been silent for too long."""
        waits_for_body = self._is_answering() and self.cycle.more_body and not self.flow.read_paused
        if (
            (self._in_head is not None and now - self._in_head > HEAD_S)
            or (self._idle_since is not None and now - self._idle_since > KEEP_ALIVE_S)
            or (waits_for_body and now - self._last_data > STALLED_S)
            or (self._paused_at is not None and now - self._paused_at > STALLED_S)
        ):
            self.transport.abort()


def _without_upgrade(data: bytes) -> bytes:
    """Returns a request whose wish for another protocol is not heard (RFC 9110, 7.8).

    Java's HttpClient asks for h2c with every first request; the parser would take the body for the other protocol.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-upgrade:", head) + end + rest


class FileSender:
    """Sends files on the connections of an event loop, from threads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_SENDERS, thread_name_prefix="fust-send")

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def send(self, transport: asyncio.Transport, file: int, start: int, count: int) -> None:
        """Sends ``count`` bytes of a file after what the transport still holds.

        Raises:
            ClientGone: the client closed the connection, or took nothing for two minutes.
            RuntimeError, OSError: the file ended before its time, or cannot be read.
        """
        loop = asyncio.get_running_loop()
        await _emptied(transport)
        out = os.dup(
            transport.get_extra_info("socket").fileno()
        )  # outlives a transport that closes meanwhile
        try:
            end = start + count
            while start < end:
                start, is_full = await loop.run_in_executor(self._threads, _burst, out, file, start, end)
                if is_full:
                    await _writable(loop, out)
        except (
            ConnectionError,
            TimeoutError,
        ) as error:  # of the socket; what the disk does is the app's to log
            raise ClientGone from error
        finally:
            os.close(out)


def _burst(out: int, file: int, start: int, end: int) -> tuple[int, bool]:
    """Sends for one turn; returns the next offset and whether the client's window is full.

    Reading into a buffer that stays in the processor's cache and writing it is up to twice as fast as sendfile(2).
    """
    until = time.monotonic() + _TURN_S
    poller = select.poll()
    poller.register(out, select.POLLOUT)
    buffer = memoryview(bytearray(_PIECE_BYTES))
    while start < end and time.monotonic() < until:
        size = os.preadv(file, [buffer[: min(_PIECE_BYTES, end - start)]], start)
        if size == 0:
            raise RuntimeError("the file is shorter than it was")
        sent = 0
        while sent < size:
            try:
                sent += os.write(out, buffer[sent:size])
            except BlockingIOError:
                if not poller.poll(_PATIENCE_MS):
                    return start + sent, True
        start += sent
    return start, False


async def _writable(loop: asyncio.AbstractEventLoop, out: int) -> None:
    ready = loop.create_future()
    loop.add_writer(out, lambda: ready.done() or ready.set_result(None))
    try:
        async with asyncio.timeout(STALLED_S):
            await ready
    finally:
        loop.remove_writer(out)


async def _emptied(transport: asyncio.Transport) -> None:
    """Waits until the transport has handed over what was written to it; only a slow reader makes that long."""
    until = time.monotonic() + STALLED_S
    await asyncio.sleep(0)
    while transport.get_write_buffer_size() > 0:
        if transport.is_closing() or time.monotonic() > until:
            raise ClientGone
        await asyncio.sleep(0.005)


class _App:
    """The ASGI app as uvicorn calls it: with zero-copy sends, and an end when the client has left."""

    def __init__(self, app: ASGIApp, sender: FileSender) -> None:
        self._app, self._sender = app, sender

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cycle = cast(RequestResponseCycle, getattr(send, "__self__"))  # noqa: B009  (typed as a plain callable)

        async def send_or_leave(message: MutableMapping[str, Any]) -> None:
            if cycle.disconnected:
                raise ClientGone
            if message["type"] == ZEROCOPY:
                await self._send_file(cycle, send, message)
            else:
                await send(message)

        with contextlib.suppress(ClientGone):
            await self._app(scope, receive, send_or_leave)
            return
        cycle.disconnected = True
        cycle.transport.abort()

    async def _send_file(
        self, cycle: RequestResponseCycle, send: Send, message: MutableMapping[str, Any]
    ) -> None:
        count: int = message["count"]
        if count > cycle.expected_content_length:
            raise RuntimeError("more bytes than the content-length said")
        await self._sender.send(cycle.transport, message["file"], message.get("offset", 0), count)
        cycle.expected_content_length -= count
        await send({"type": "http.response.body", "body": b"", "more_body": message.get("more_body", False)})


class HttpServer(uvicorn.Server):
    """Serves one ASGI app on one socket until `stop` is called. Signals are the caller's."""

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        *,
        most_connections: int,
        find_hot: FindHot | None = None,
    ) -> None:
        self._sender = FileSender()
        bound = {
            "find_hot": staticmethod(find_hot) if find_hot else None,
            "most_connections": most_connections,
        }
        kind = type("BoundProtocol", (Protocol,), bound)
        config = Config(
            _App(app, self._sender),
            http=kind,
            ws="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            log_level="critical",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=3,
        )
        super().__init__(config)  # what goes wrong in the app, the app logs itself
        self._listener = listener

    async def run_until_stopped(self) -> None:
        """Answers requests; returns when the last connection has ended or three seconds after `stop`."""
        sweeper = asyncio.create_task(self._sweep())
        try:
            await self.serve(sockets=[self._listener])
        finally:
            sweeper.cancel()
            self._sender.close()

    def stop(self) -> None:
        """Takes no new connection and ends."""
        self.should_exit = True

    def capture_signals(self) -> Any:
        """Leaves signals to the caller."""
        return contextlib.nullcontext()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Protocol):
                    connection.sweep(now)


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens.

    Raises:
        Conflict: another program has the port.
        FustError: the address is none of this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return socket.create_server(found[0][4][:2], family=found[0][0], backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise port_taken(host, port) from None
        raise FustError(
            "Fust cannot listen on {host}, port {port}: {reason}.",
            hint="See `fust config show`: server.host and server.port.",
            host=host,
            port=port,
            reason=error.strerror or str(error),
        ) from error


def port_taken(host: str, port: int) -> Conflict:
    """Returns the error for a port that another program has."""
    return Conflict(
        "Port {port} of {host} is taken by another program.",
        hint="Name another, or leave --port away to take the next free one.",
        port=port,
        host=host,
    )
