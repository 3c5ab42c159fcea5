"""A receiver of webhooks on a free port: takes notes, and answers as it is told."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler, int], None]


@dataclass(frozen=True)
class Heard:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)

    @property
    def what(self) -> str:
        """`update repo.content`."""
        return f"{self.json['event']['action']} {self.json['event']['scope']}"


def say(status: int, headers: dict[str, str] | None = None) -> Answer:
    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()

    return answer


def in_turn(*answers: Answer) -> Answer:
    """Answers the n-th request with the n-th, all later ones with the last."""
    return lambda handler, number: answers[min(number, len(answers) - 1)](handler, number)


class Receiver:
    """Listens until closed."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.heard: list[Heard] = []
        self.answer = answer or say(200)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.heard.append(Heard(self.path, headers, body, time.monotonic()))
                self.close_connection = True
                with contextlib.suppress(OSError):  # the sender left
                    outer.answer(self, len(outer.heard) - 1)

            def do_GET(self) -> None:
                outer.heard.append(Heard("GET " + self.path, {}, b"{}", time.monotonic()))
                say(200)(self, 0)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def wait(self, count: int, *, within_s: float = 20.0) -> list[Heard]:
        """Returns the first ``count`` requests; fails when fewer came in time."""
        until = time.monotonic() + within_s
        while len(self.heard) < count:
            assert time.monotonic() < until, (
                f"{len(self.heard)} of {count}: {[h.body[:80] for h in self.heard]}"
            )
            time.sleep(0.02)
        return self.heard[:count]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def is_signed(heard: Heard, secret: str) -> bool:
    """Checks a message as Standard Webhooks 1.0.0 says, written down a second time."""
    signed = f"{heard.headers['webhook-id']}.{heard.headers['webhook-timestamp']}.".encode() + heard.body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    fresh = abs(time.time() - int(heard.headers["webhook-timestamp"])) < 300
    return fresh and heard.headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
