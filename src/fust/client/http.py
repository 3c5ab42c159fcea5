"""Requests and server-sent events over the standard library: nothing to import, nothing to configure."""

from __future__ import annotations

import http.client
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

import msgspec

from fust import __version__
from fust.core.errors import FustError, Unavailable, UpstreamFailed
from fust.core.i18n import terminal_language
from fust.core.settings import NEAR


class ClientError(FustError):
    """What the server refused, in the server's words (it was asked for our language)."""

    code = "refused"

    def __init__(self, status: int, code: str, message: str, hint: str, request_id: str = "") -> None:
        super().__init__(
            "{message}", hint="{advice}" if hint else "", code=code, message=message, advice=hint
        )
        self.status = status
        self.request_id = request_id


@dataclass(frozen=True, slots=True)
class Event:
    """A server-sent event."""

    name: str
    data: bytes
    id: str


class Transport:
    """One server and one key; a connection per request."""

    def __init__(self, base_url: str, token: str, *, timeout_s: float = 60.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._token = token
        self._timeout_s = timeout_s
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UpstreamFailed(
                "{url!r} is not the address of a server.",
                hint="Write it like http://host:8787.",
                url=base_url[:200],
            )
        self._parts = parts

    def request(self, method: str, path: str, body: object = None) -> bytes:
        """Returns the body of a good answer.

        Raises:
            ClientError: the server refused, in its own words.
            Unavailable: nobody answers there.

        """
        connection, response = self._send(method, path, body, {})
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(error) from error
        finally:
            connection.close()

    def stream(
        self, method: str, path: str, body: object = None, *, last_event_id: str = ""
    ) -> Generator[Event]:
        """Yields the events of an answer as they come; closing the generator hangs up."""
        headers = {"accept": "text/event-stream"}
        if last_event_id:
            headers["last-event-id"] = last_event_id
        connection, response = self._send(method, path, body, headers)
        try:
            yield from _parse_events(response)
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(error) from error
        finally:
            connection.close()

    def lines(self, method: str, path: str) -> Generator[bytes]:
        """Yields the lines of a good answer as they come."""
        connection, response = self._send(method, path, None, {})
        try:
            yield from response
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(error) from error
        finally:
            connection.close()

    def _send(
        self, method: str, path: str, body: object, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=self._timeout_s)
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        sent = {
            "user-agent": f"fust/{__version__}",
            "accept-language": terminal_language(),
            NEAR: "1",
            **headers,
        }
        if self._token:
            sent["authorization"] = f"Bearer {self._token}"
        if content is not None:
            sent["content-type"] = "application/json"
        try:
            connection.request(method, self._parts.path + path, content, sent)
            response = connection.getresponse()
            if response.status >= 300:
                raise _refusal(response.status, response.read(1 << 20), response.headers)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._gone(error) from error
        except BaseException:
            connection.close()
            raise
        return connection, response

    def _gone(self, error: Exception) -> Unavailable:
        return Unavailable(
            "The server at {url} does not answer ({reason}).",
            hint="See `fust status`; start one with `fust up -d`.",
            url=self.base_url,
            reason=str(error) or type(error).__name__,
        )


class _Refusal(msgspec.Struct):
    """The three forms in which a Fust server draws an error, in one."""

    error: dict[str, Any] | str | None = None
    detail: str = ""
    hint: str = ""
    code: str = ""
    request_id: str = ""


def _refusal(status: int, body: bytes, headers: Message) -> ClientError:
    try:
        drawn = msgspec.json.decode(body, type=_Refusal)
    except msgspec.MsgspecError:
        drawn = _Refusal(error=body[:200].decode("utf-8", "replace").strip())
    request_id = drawn.request_id or headers.get("x-request-id", "")
    if drawn.detail:
        return ClientError(status, drawn.code or str(status), drawn.detail, drawn.hint, request_id)
    if isinstance(drawn.error, dict):
        code, words = str(drawn.error.get("code") or status), str(drawn.error.get("message"))
        return ClientError(status, code, words, "", request_id)
    words = headers.get("x-error-message") or drawn.error or f"HTTP {status}"
    return ClientError(status, headers.get("x-error-code", str(status)), words, "", request_id)


def _parse_events(response: http.client.HTTPResponse) -> Generator[Event]:
    """Yields events (WHATWG HTML, 9.2.6); comments are skipped."""
    name, event_id, data = "message", "", list[bytes]()
    while True:
        line = response.readline(1 << 24)
        if not line:
            return
        line = line.rstrip(b"\r\n")
        if not line:
            if data:
                yield Event(name, b"\n".join(data), event_id)
            name, data = "message", []
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode()
        elif field == b"id":
            event_id = value.decode()
