"""Clients that leave in the middle of a stream."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable

from tests.support.model_house import House


def leave_midstream(house: House, model: str, count: int = 64) -> None:
    """Asks for long streams at once, and goes when the first of them has begun."""
    body = json.dumps({"model": model, "prompt": "x", "max_tokens": 500, "stream": True, "ignore_eos": True}).encode()  # fmt: skip
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {house.token}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    host, port = house.url.removeprefix("http://").split(":")
    clients = [socket.create_connection((host, int(port))) for _ in range(count)]
    for one in clients:
        one.sendall(head.encode() + body)
    assert b"200" in clients[0].recv(100)
    time.sleep(0.3)
    for one in clients:
        one.close()


def leave(house: House, path: str, body: dict[str, object], *, begun: bool, count: int = 64) -> None:
    """Asks many times at once, and goes.

    Args:
        house: where.
        path: of the route.
        body: of each request.
        begun: whether to wait until the first answer begins; else all go before.
        count: how many ask.
    """
    raw = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {house.token}\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    host, port = house.url.removeprefix("http://").split(":")
    clients = [socket.create_connection((host, int(port))) for _ in range(count)]
    for one in clients:
        one.sendall(head.encode() + raw)
    if begun:
        (first, *_), _, _ = select.select(clients, [], [], 60)
        assert b"200" in first.recv(100)
    time.sleep(0.1)
    for one in clients:
        one.close()


def wait_until_idle(busy: Callable[[], float], timeout_s: float = 15) -> None:
    """Waits until nothing is worked on any more; fails when something still is."""
    deadline = time.monotonic() + timeout_s
    while busy() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert busy() == 0
