"""The HTTP server by itself: raw sockets against a small app."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fust.app import http_server
from fust.app.http_server import HttpServer, listen
from fust.core.errors import Conflict
from fust.wire.asgi import SENT_URL, ZEROCOPY, ClientGone, Receive, Scope, Send

SIZE = 30_000_000


class House:
    """A running server; `/file` is a large file, `/body` returns what it was sent, `/slow` counts who left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left = 0
        self.faults = 0
        self.hot_asked: list[bytes] = []
        self.listener = listen("127.0.0.1", 0)
        self.address: tuple[str, int] = self.listener.getsockname()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        if scope["path"] == "/no":
            await self._start(send, 0)
            await send({"type": "http.response.body", "body": b""})
            return
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        if scope["path"] == "/file":
            await self._start(send, SIZE)
            with open(self.path, "rb") as file:
                await send({"type": ZEROCOPY, "file": file.fileno(), "offset": 0, "count": SIZE})
        elif scope["path"] == "/short":
            await self._start(send, SIZE)
            with open("/dev/null", "rb") as file:
                try:
                    await send({"type": ZEROCOPY, "file": file.fileno(), "offset": 0, "count": SIZE})
                except RuntimeError:
                    self.faults += 1
                    raise
        elif scope["path"] == "/slow":
            await self._start(send, SIZE)
            try:
                for _ in range(SIZE // 1000):
                    await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
                    await asyncio.sleep(0.001)
            except ClientGone:
                self.left += 1
                raise
        else:
            text = scope[SENT_URL] + b" " + body
            await self._start(send, len(text))
            await send({"type": "http.response.body", "body": text})

    async def _start(self, send: Send, length: int) -> None:
        headers = [(b"content-length", b"%d" % length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    def find_hot(self, url: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes] | None:
        self.hot_asked.append(url)
        return (b"HTTP/1.1 206 Partial Content\r\ncontent-length: 3\r\n", b"hot") if url == b"/hot" else None

    async def _main(self) -> None:
        self._server = HttpServer(self.app, self.listener, most_connections=100, find_hot=self.find_hot)
        asyncio.get_running_loop().call_later(0.05, self._ready.set)
        await self._server.run_until_stopped()

    def __enter__(self) -> House:
        self._thread.start()
        self._ready.wait(5)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.stop()
        self._thread.join(10)
        self.listener.close()

    @contextlib.contextmanager
    def connected(self, *, window: int = 0) -> Iterator[socket.socket]:
        with socket.socket() as client:
            if window:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            client.settimeout(10)
            client.connect(self.address)
            yield client


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    path = tmp_path_factory.mktemp("house") / "file"
    path.write_bytes(os.urandom(2**20) * (SIZE // 2**20 + 1))
    with House(path) as running:
        yield running


def read_all(client: socket.socket, until: bytes = b"") -> bytes:
    """Returns what comes until the end, or until it ends with ``until``."""
    data = bytearray()
    while piece := client.recv(2**20):
        data += piece
        if until and data.endswith(until):
            break
    return bytes(data)


def test_a_large_file_is_sent_whole_and_the_connection_goes_on(house: House) -> None:
    with house.connected() as client:
        client.sendall(b"GET /file HTTP/1.1\r\nhost: a\r\n\r\nGET /next HTTP/1.1\r\nhost: a\r\n\r\n")
        got = read_all(client, b"/next ")
        head, _, rest = got.partition(b"\r\n\r\n")
        assert b"200 OK" in head
        assert rest[:SIZE] == house.path.read_bytes()[:SIZE]


def test_readers_that_take_nothing_hold_up_nobody(house: House) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):  # more than there are threads
            client = stack.enter_context(house.connected(window=4096))
            client.sendall(b"GET /file HTTP/1.1\r\nhost: a\r\n\r\n")
        with house.connected() as client:
            client.sendall(b"GET /file HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            assert len(read_all(client)) > SIZE


def test_a_file_that_ends_too_early_is_a_fault_not_a_client_that_left(house: House) -> None:
    with house.connected() as client:
        client.sendall(b"GET /short HTTP/1.1\r\nhost: a\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert len(read_all(client)) < 1000
    assert house.faults == 1


def test_the_app_learns_that_its_client_left(house: House) -> None:
    before = house.left
    with house.connected() as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
        client.recv(2000)
    until = time.monotonic() + 5
    while house.left == before and time.monotonic() < until:
        time.sleep(0.01)
    assert house.left == before + 1


def test_a_hot_answer_keeps_its_place_in_the_line(house: House) -> None:
    with house.connected() as client:
        client.sendall(
            b"GET /hot HTTP/1.1\r\nhost: a\r\n\r\n"
            b"POST /1 HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab"
            b"GET /hot HTTP/1.1\r\nhost: a\r\n\r\n"  # comes while /1 is answered: the app must answer it, in turn
            b"GET /2?x=%2F HTTP/1.1\r\nhost: a\r\n\r\n"
        )
        got = read_all(client, b"/2?x=%2F ")
    places = [got.index(text) for text in (b"hot", b"/1 ab", b"/hot ", b"/2?x=%2F ")]
    assert places == sorted(places)
    with house.connected() as client:  # ab and other old clients: kept only when told so
        client.sendall(b"GET /hot HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        assert b"connection: keep-alive" in read_all(client, b"hot")


def test_a_body_sent_with_a_hot_request_is_not_a_request(house: House) -> None:
    inner = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
    with house.connected() as client:
        client.sendall(b"GET /hot HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(inner) + inner)
        client.sendall(b"GET /after HTTP/1.1\r\nhost: a\r\n\r\n")
        got = read_all(client, b"/after ")
    assert b"smuggled" not in got and b"hot" in got


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"y" * 70_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 rubbish", b"400"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: a\r\na b: c\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_request_is_refused(house: House, sent: bytes, status: bytes) -> None:
    with house.connected() as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(sent)
        assert read_all(client).split(b" ")[1] == status


def test_a_wish_for_another_protocol_costs_no_body(house: House) -> None:
    """Java's HttpClient and `curl --http2` ask for h2c; the answer is HTTP/1.1."""
    wish = b"connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    with house.connected() as client:
        client.sendall(
            b"POST /1 HTTP/1.1\r\nhost: a\r\n" + wish + b"content-length: 15\r\n\r\n\r\nupgrade: abcd"
        )
        client.sendall(b"POST /2 HTTP/1.1\r\nhost: a\r\n" + wish + b"content-length: 2\r\n\r\n")
        time.sleep(0.1)
        client.sendall(b"ab")
        got = read_all(client, b"/2 ab")
    assert b"/1 \r\nupgrade: abcd" in got


@pytest.mark.parametrize("target", [b"/no", b"/hot"])
def test_a_body_that_nobody_reads_is_cut_off(house: House, target: bytes) -> None:
    with house.connected() as client, pytest.raises(OSError):
        method = b"POST " if target == b"/no" else b"GET "
        client.sendall(method + target + b" HTTP/1.1\r\nhost: a\r\ncontent-length: 500000000\r\n\r\n")
        for _ in range(100):
            client.sendall(bytes(2**20))


def test_absolute_urls_are_read_as_paths(house: House) -> None:
    with house.connected() as client:
        client.sendall(b"GET http://other/x?y HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert read_all(client).endswith(b"/x?y ")


def test_clients_that_stop_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("HEAD_S", 0.3), ("STALLED_S", 0.3), ("KEEP_ALIVE_S", 0.3), ("_SWEEP_S", 0.1)):
        monkeypatch.setattr(http_server, name, value)
    path = tmp_path / "file"
    path.write_bytes(bytes(SIZE))
    with House(path) as house:
        for sent in (
            b"",
            b"GET / HTTP/1.1\r\nhost: a\r\nx: ",
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nab",
            b"GET /hot HTTP/1.1\r\nhost: a\r\n\r\n",
        ):
            with house.connected() as client:
                client.sendall(sent)
                with contextlib.suppress(ConnectionResetError):
                    assert b"200" not in read_all(client)  # ends, or recv times out after ten seconds
        with house.connected(window=4096) as client:
            client.sendall(b"GET /file HTTP/1.1\r\nhost: a\r\n\r\n")
            time.sleep(1)
            with contextlib.suppress(ConnectionResetError):
                assert len(read_all(client)) < SIZE


def test_one_connection_too_many_is_closed(house: House) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(house.connected())
        time.sleep(0.2)
        with house.connected() as client, contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_a_taken_port_is_named() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(Conflict, match="taken by another program"):
        listen("127.0.0.1", first.getsockname()[1])
