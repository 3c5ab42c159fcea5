"""One HTTP request to the model surface and what was answered so far, in the form of its client's vendor."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from fust.core.errors import FustError
from fust.core.i18n import Language
from fust.wire.asgi import Send
from fust.wire.problems import draw_anthropic, draw_openai

Dialect = Literal["openai", "responses", "anthropic"]
Headers = list[tuple[bytes, bytes]]


def dialect_of(path: str, headers: dict[str, str]) -> Dialect:
    """Returns whose words a request's answers and errors are in."""
    shared = path.startswith(("/v1/models", "/v1/files"))
    if path.startswith("/v1/messages") or (shared and "anthropic-version" in headers):
        return "anthropic"
    return "responses" if path == "/v1/responses" else "openai"


class Exchange:
    """One HTTP request and what was answered so far."""

    def __init__(
        self,
        send: Send,
        request_id: str,
        headers: dict[str, str],
        method: str,
        language: Language,
        dialect: Dialect = "openai",
    ) -> None:
        self._send = send
        self.request_id = request_id
        self.headers = headers
        self.method = method
        self.language: Language = language
        self.dialect: Dialect = dialect
        self.streaming = False
        self._events = 0
        """Events of a response that were sent: each has its number."""
        self.background = False
        """Whether nobody waits for the answer."""
        self.more: Headers = []
        """Headers that every answer gets, such as what is left of a limit."""

    def _common(self) -> Headers:
        name = b"request-id" if self.dialect == "anthropic" else b"x-request-id"
        given = self.request_id.encode()
        ids = (
            [(b"x-request-id", given)]
            if name == b"x-request-id"
            else [(b"x-request-id", given), (name, given)]
        )
        return [*ids, *self.more]

    async def answer(
        self, body: bytes, status: int = 200, more: Headers | None = None, kind: bytes = b"application/json"
    ) -> None:
        """Sends a whole answer."""
        headers = [
            (b"content-type", kind),
            (b"content-length", str(len(body)).encode()),
            *self._common(),
            *(more or ()),
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def begin_stream(self) -> None:
        """Sends the head of an event stream."""
        self.streaming = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *self._common(),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def begin_file(self, size_bytes: int) -> None:
        """Sends the head of a file's bytes."""
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", str(size_bytes).encode()),
            (b"content-disposition", b"attachment"),
            (b"x-content-type-options", b"nosniff"),
            *self._common(),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def send_piece(self, piece: bytes) -> None:
        """Sends a part of the stream, of whole events."""
        if self.dialect == "responses":
            self._events += piece.count(b"\n\n")  # ends of events: those of JSON's strings are escaped
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end_stream(self) -> None:
        """Ends the stream."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def fail(self, error: FustError) -> None:
        """Sends an error: as an answer, or as the last event when a stream has begun."""
        draw = draw_anthropic if self.dialect == "anthropic" else draw_openai
        status, body = draw(error, self.language, self.request_id)
        if self.streaming:
            await self.send_piece(_error_event(body, self.dialect, self._events))
            await self.end_stream()
            return
        more: Headers = []
        if error.retry_after_s is not None:
            more.append((b"retry-after", str(max(1, round(error.retry_after_s))).encode()))
        await self.answer(body, status, more)


def _error_event(body: bytes, dialect: Dialect, number: int) -> bytes:
    if dialect == "openai":
        return b"data: " + body + b"\n\n"
    if dialect == "responses":
        fault: dict[str, Any] = msgspec.json.decode(body)["error"]
        kept = {name: fault[name] for name in ("code", "message", "param")}
        body = msgspec.json.encode({"type": "error", **kept, "sequence_number": number})
    return b"event: error\ndata: " + body + b"\n\n"
