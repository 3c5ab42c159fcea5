"""Clients that are slow, idle or leave half-way: others are served meanwhile, and memory and files come back."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.conftest import RunningFust

pytestmark = pytest.mark.faults
IDLE = 2000
MIB = 2**20


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < IDLE + 500:
        pytest.skip(f"this shell may open {hard} files only (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(server: RunningFust) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=20)
    made.settimeout(20)
    return made


def memory(server: RunningFust) -> int:
    return psutil.Process(server.process.pid).memory_full_info().pss


def others_are_served(server: RunningFust, rounds: int = 5) -> None:
    for _ in range(rounds):
        started = time.monotonic()
        assert server.request("GET", "/fust/v1/status")[0] == 200
        assert time.monotonic() - started < 3


def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@contextlib.contextmanager
def closing(lines: list[socket.socket]) -> Iterator[None]:
    try:
        yield
    finally:
        for line in lines:
            line.close()


def test_two_thousand_idle_connections(server: RunningFust) -> None:
    others_are_served(server)
    before = memory(server)
    idle: list[socket.socket] = []
    with closing(idle):
        for i in range(IDLE):
            line = connect(server)
            idle.append(line)
            if i % 4 == 0:  # a quarter has asked once and is kept alive
                line.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
                assert line.recv(4096).startswith(b"HTTP/1.1 200")
        others_are_served(server, 20)
        taken = memory(server) - before
        print(f"{IDLE} idle connections: {taken / MIB:.1f} MiB, {taken / IDLE / 1024:.1f} KiB each")
        assert taken < 100 * MIB
    others_are_served(server)


def test_more_connections_than_the_backlog(server: RunningFust) -> None:
    idle: list[socket.socket] = []
    with closing(idle):
        idle += [connect(server) for _ in range(2600)]
        others_are_served(server)


def test_slow_heads_and_slow_bodies(server: RunningFust) -> None:
    key = f"authorization: Bearer {server.token}\r\n".encode()
    slow: list[socket.socket] = []
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.5):
            for line in slow:
                with contextlib.suppress(OSError):
                    line.sendall(b"x")

    with closing(slow):
        for i in range(300):
            line = connect(server)
            if i % 3 == 0:
                line.sendall(b"GET /api/models HTTP/1.1\r\nhost: x\r\nx-slow: ")
            elif i % 3 == 1:
                line.sendall(
                    b"POST /api/repos/create HTTP/1.1\r\nhost: x\r\n"
                    + key
                    + b"content-length: 100000\r\n\r\n"
                )
            else:
                line.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
                    + key
                    + b"content-length: 100000\r\n\r\n"
                )
            slow.append(line)
        thread = threading.Thread(target=drip)
        thread.start()
        others_are_served(server, 10)
        stop.set()
        thread.join()
    others_are_served(server)


@pytest.mark.slow
def test_a_head_that_never_ends_is_hung_up_on(server: RunningFust) -> None:
    with connect(server) as line:
        line.settimeout(60)
        line.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ")
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while line.recv(4096):
                pass
        assert time.monotonic() - started < 45


@pytest.fixture(scope="module")
def large(server: RunningFust, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """A file of 200 MiB in the hub: its path to download, and its size."""
    import huggingface_hub

    path = tmp_path_factory.mktemp("large") / "large.bin"
    block = os.urandom(MIB)
    with path.open("wb") as file:
        for i in range(200):
            file.write(i.to_bytes(4, "little") + block[4:])
    api = huggingface_hub.HfApi(endpoint=server.url, token=server.token)
    api.create_repo("admin/large")
    api.upload_file(path_or_fileobj=str(path), path_in_repo="large.bin", repo_id="admin/large")
    return "/admin/large/resolve/main/large.bin", path.stat().st_size


def test_slow_readers_of_a_large_file(server: RunningFust, large: tuple[str, int]) -> None:
    path, size = large
    # Once at full speed: what is rebuilt and kept for the next is there then.
    assert len(server.request("GET", path)[2]) == size
    before = memory(server)
    readers: list[socket.socket] = []
    with closing(readers):
        for i in range(60):
            line = connect(server)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            window = f"range: bytes={i}-\r\n" if i % 2 else ""
            line.sendall(
                f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.token}\r\n{window}\r\n".encode()
            )
            assert line.recv(4096).startswith(b"HTTP/1.1 20")
            readers.append(line)
        time.sleep(2)
        others_are_served(server, 10)
        taken = memory(server) - before
        print(f"60 readers that stopped: {taken / MIB:.0f} MiB")
        assert taken < 250 * MIB  # about 3 MiB each
    others_are_served(server)
    # One copy may stay open for the next range of the same file.
    until(lambda: open_copies(server) <= 1)


def open_copies(server: RunningFust) -> int:
    process = psutil.Process(server.process.pid)
    return sum("/blobs/" in file.path or "/cache/" in file.path for file in process.open_files())


def test_uploads_that_stop_half_way(server: RunningFust) -> None:
    assert server.request("POST", "/api/repos/create", {"name": "admin/half"})[0] == 200
    temporary = server.home / "blobs" / "tmp"
    before = memory(server)
    lines: list[socket.socket] = []
    with closing(lines):
        for _ in range(20):
            line = connect(server)
            line.sendall(
                b"POST /api/models/admin/half/commit/main HTTP/1.1\r\nhost: x\r\n"
                + f"authorization: Bearer {server.token}\r\ncontent-length: 9000000\r\n\r\n".encode()
                + b'{"key":"header","value":{"summary":"x"}}\n{"key":"file","value":{"path":"a","content":"'
                + b"QUJD" * 500_000
            )
            lines.append(line)
        others_are_served(server)
        assert memory(server) - before < 200 * MIB
    until(lambda: not list(temporary.iterdir()))
    status, _, body = server.request("GET", "/api/models/admin/half/tree/main")
    assert status == 200 and b'"path":"a"' not in body


def test_followers_who_left_cost_nothing(server: RunningFust) -> None:
    params = {"repo_id": "nobody/nothing", "source": server.url}
    _, _, body = server.request("POST", "/fust/v1/runs", {"kind": "pull", "params": params})
    run_id = json.loads(body)["id"]
    process = psutil.Process(server.process.pid)
    for _ in range(50):
        line = connect(server)
        line.sendall(
            f"GET /fust/v1/runs/{run_id}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.token}\r\n\r\n".encode()
        )
        line.recv(100)
        line.close()
    time.sleep(1)
    until(lambda: process.cpu_percent(0.5) < 20)
    others_are_served(server)
