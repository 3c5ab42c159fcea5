"""The upstream engine's process: `python -m fust.serve.engines.upstream_child` asks an API elsewhere, with a key of its own.

It holds the key and no other process does. Addresses are checked when a connection is made, redirects are not followed,
certificates are verified (`SSL_CERT_FILE` names an authority of one's own), and answers are read before they are passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import sys
from collections.abc import AsyncGenerator
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.abc import ResolveResult

from fust.hub.guard import is_private
from fust.serve.engines.child_http import (
    END,
    Handler,
    Refused,
    answer,
    begin_stream,
    event,
    read_json,
    serve_routes,
)
from fust.serve.engines.child_main import ChildConfig, ChildReady, run_child
from fust.serve.engines.upstream import ASSUMED, UpstreamOptions
from fust.serve.engines.upstream_words import Broken, Estimate, events_of, request_of, usage_in_words

_CONNECT_S, _SILENCE_S, _PROBE_S = 10.0, 300.0, 10.0
_FAULT_BYTES = 64 << 10
_MOST_ANSWER_BYTES = 64 << 20


_PARAMETERS = {
    "tools": {"tools"},
    "json_schema": {"structured_outputs", "response_format"},
    "logprobs": {"logprobs"},
}


class _Model(msgspec.Struct):
    """An entry of `GET /models`, with what vLLM and OpenRouter add."""

    id: str
    max_model_len: int | None = None
    context_length: int | None = None
    supported_parameters: list[str] | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _Private(OSError):
    """A name that leads to a private address, though nobody allowed one."""


class _Resolver(aiohttp.ThreadedResolver):
    """Finds public addresses only, unless an administrator named a private one."""

    def __init__(self, *, private: bool) -> None:
        super().__init__()
        self._may_private = private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Returns the addresses of a host; raises OSError when it has none that may be reached."""
        found = await super().resolve(host, port, family)
        if not self._may_private and any(is_private(entry["host"]) for entry in found):
            raise _Private(f"{host} leads to a private address")
        return found


class Elsewhere:
    """The API elsewhere."""

    def __init__(self, config: ChildConfig) -> None:
        self._options = msgspec.json.decode(config.options, type=UpstreamOptions)
        self._key, self._alias = config.secret, config.alias
        self._can = frozenset(self._options.can) or ASSUMED
        self._newer_limit = self._no_stream_options = False
        self._context = self._options.context
        self._client: aiohttp.ClientSession | None = None

    def routes(self) -> dict[str, Handler]:
        """Returns path -> handler."""
        return {
            "/v1/chat/completions": self.complete,
            "/v1/completions": self.complete,
            "/v1/embeddings": self.embed,
            "/v1/rerank": self.rerank,
        }

    def ready(self, port: int) -> ChildReady:
        """Returns what the gateway has to know."""
        can = {*self._can, "dimensions"}
        if "tools" in can:
            can |= {"template_tools", "tool_choice"}
        return ChildReady(port=port, context=self._context, capabilities=sorted(can))

    async def open(self) -> None:
        """Makes the client and asks which models there are.

        Raises:
            RuntimeError: the key is refused, or the address is a private one that nobody allowed.
        """
        host = urlsplit(self._options.url).hostname or ""
        with contextlib.suppress(ValueError):
            if not self._options.private and is_private(str(ipaddress.ip_address(host))):
                raise RuntimeError(f"{host} is a private address")
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, resolver=_Resolver(private=self._options.private)),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            skip_auto_headers=("User-Agent",),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        try:
            async with asyncio.timeout(_PROBE_S), self._asked("GET", "/models", None) as response:
                models = msgspec.json.decode(await _read(response), type=_Models)
        except Refused as error:
            if error.body["type"] == "upstream_key_refused":
                raise RuntimeError(str(error)) from None
            return  # not all of them list their models, and one that is away may come back
        except (TimeoutError, msgspec.DecodeError):
            return
        self._learn(models)

    def _learn(self, models: _Models) -> None:
        """Takes what the list of models says of ours: vLLM and OpenRouter tell more than the name."""
        entry = next((entry for entry in models.data if entry.id == self._options.model), None)
        if entry is None:
            return
        self._context = self._context or entry.max_model_len or entry.context_length or 0
        told = entry.supported_parameters
        if told is not None and not self._options.can:
            self._can -= {word for word, names in _PARAMETERS.items() if not names & set(told)}

    # Requests of the gateway

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Passes a chat or a completion on, whole or streamed."""
        body = await read_json(request)
        path = request.path.removeprefix("/v1")
        self._check(body, "chat" if path.startswith("/chat") else "completions")
        estimate = Estimate(body)
        if body.get("stream"):
            return await self._stream(request, path, body, estimate)
        made = await self._whole(path, body)
        estimate.add(made)
        made["usage"] = usage_in_words(made.get("usage")) or estimate.usage()
        return answer(made)

    async def embed(self, request: web.Request) -> web.StreamResponse:
        """Passes inputs on."""
        body = await read_json(request)
        self._check(body, "embeddings")
        made = await self._whole("/embeddings", body)
        made["usage"] = usage_in_words(made.get("usage")) or Estimate(body).usage()
        return answer(made)

    async def rerank(self, request: web.Request) -> web.StreamResponse:
        """Passes documents on, in the form of Jina's and Cohere's APIs."""
        body = await read_json(request)
        self._check(body, "rerank")
        made = await self._whole("/rerank", body)
        made["usage"] = usage_in_words(made.get("usage")) or Estimate(body).usage()
        return answer(made)

    def _check(self, body: dict[str, Any], wanted: str) -> None:
        form: dict[str, Any] = body.get("response_format") or {}
        asked = {
            wanted: True,
            "json_schema": form.get("type") == "json_schema",
            "logprobs": body.get("logprobs") not in (None, False),
        }
        for word, is_asked in asked.items():
            if is_asked and word not in self._can:
                raise Refused(501, "not_supported_error", f"the upstream does not offer {word}")

    async def _whole(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._sent(path, body) as response:
            made = await self._decoded(response)
        self._mend(made)
        made["model"] = self._alias
        return made

    async def _decoded(self, response: aiohttp.ClientResponse) -> dict[str, Any]:
        try:
            return msgspec.json.decode(await _read(response), type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Refused(502, "upstream_nonsense", "it sent something that is no answer") from None

    async def _stream(
        self, request: web.Request, path: str, body: dict[str, Any], estimate: Estimate
    ) -> web.StreamResponse:
        async with self._sent(path, body) as response:
            if response.content_type != "text/event-stream":
                raise Refused(502, "upstream_nonsense", "it sent something that is no stream of events")
            out = await begin_stream(request)
            await self._relay(response, out, estimate)
        return out

    async def _relay(
        self, response: aiohttp.ClientResponse, out: web.StreamResponse, estimate: Estimate
    ) -> None:
        """Writes event after event; a slow reader holds the upstream back, since nothing is read ahead."""
        usage = finished = False
        last: dict[str, Any] = {}
        with _explained(self._key):
            async for data in events_of(response.content.iter_any()):
                if data == b"[DONE]":
                    finished = True
                    break
                try:
                    chunk = msgspec.json.decode(data, type=dict[str, Any])
                except (msgspec.DecodeError, UnicodeDecodeError):
                    raise Refused(502, "upstream_nonsense", "it sent something that is no answer") from None
                if chunk.get("error"):
                    raise _fault(data, 502, None, self._key)
                told = usage_in_words(chunk.pop("usage", None))
                if told is not None:
                    usage, chunk["usage"] = True, told
                finished = finished or any(
                    choice.get("finish_reason") for choice in chunk.get("choices") or ()
                )
                if not chunk.get("choices") and told is None:
                    continue
                self._mend(chunk)
                chunk["model"] = self._alias
                estimate.add(chunk)
                last = chunk
                await out.write(event(chunk))
        if not finished:
            raise Refused(502, "upstream_cut", "it ended before its answer did")
        if not usage:
            await out.write(event({**last, "choices": [], "usage": estimate.usage()}))
        await out.write(END)

    # Requests to the upstream

    @contextlib.asynccontextmanager
    async def _sent(self, path: str, body: dict[str, Any]) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Sends a request, once more in other words when the upstream says that it wants them."""
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                words = await self._words(path, body)
                try:
                    response = await stack.enter_async_context(self._asked("POST", path, words))
                except Refused as error:
                    if not self._learn_words(error, words):
                        raise
                else:
                    yield response
                    return
            raise Refused(502, "upstream_error", "it refuses every form of the request")

    async def _words(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Returns a request as the other side reads it."""
        return request_of(
            body,
            self._options.model,
            newer_limit=self._newer_limit,
            no_stream_options=self._no_stream_options,
        )

    def _mend(self, made: dict[str, Any]) -> None:
        """Puts an answer or a chunk into the gateway's words where it has others."""

    def _address(self, path: str) -> str:
        return self._options.url + path

    def _learn_words(self, error: Refused, words: dict[str, Any]) -> bool:
        said = str(error)
        if error.status != 400:
            return False
        if "max_completion_tokens" in said and "max_tokens" in words:
            self._newer_limit = True
            return True
        if "stream_options" in said and "stream_options" in words:
            self._no_stream_options = True
            return True
        return False

    @contextlib.asynccontextmanager
    async def _asked(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        assert self._client is not None
        data = None if body is None else msgspec.json.encode(body)
        headers = {"Accept-Encoding": "identity", **({"Content-Type": "application/json"} if data else {})}
        with _explained(self._key):
            response = await self._client.request(
                method, self._address(path), data=data, headers=headers, allow_redirects=False
            )
        try:
            if response.status != 200:
                with _explained(self._key):
                    raw = await response.content.read(_FAULT_BYTES)
                raise _fault(raw, response.status, response.headers.get("Retry-After"), self._key)
            with _explained(self._key):
                yield response
        finally:
            response.close()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > _MOST_ANSWER_BYTES:
            raise Refused(502, "upstream_nonsense", "its answer is larger than 64 MiB")
        pieces.append(piece)
    return b"".join(pieces)


@contextlib.contextmanager
def _explained(key: str) -> Any:
    """Turns what goes wrong on the way into answers; none of them holds the key."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        raise Refused(
            502, "upstream_tls", f"its certificate is not trusted ({error.certificate_error})"
        ) from None
    except aiohttp.ClientSSLError:
        raise Refused(502, "upstream_tls", "no secure connection could be made") from None
    except aiohttp.ClientConnectorError as error:
        private = isinstance(error.os_error, _Private)
        kind = "upstream_private" if private else "upstream_unreachable"
        reason = str(error.os_error) if private else (error.os_error.strerror or "no connection")
        raise Refused(502, kind, _hidden(reason, key)) from None
    except TimeoutError:
        raise Refused(502, "upstream_timeout", "it did not answer in time") from None
    except (aiohttp.ClientError, ConnectionError):
        raise Refused(502, "upstream_cut", "it ended before its answer did") from None
    except Broken as error:
        raise Refused(502, "upstream_nonsense", str(error)) from None


def _fault(raw: bytes, status: int, retry_after: str | None, key: str) -> Refused:
    """Returns an upstream's error as ours: what its key or its address lack is none of the client's fault."""
    message, code = _said(raw)
    message = _hidden(message, key) or f"status {status}"
    if status in (401, 403):
        return Refused(502, "upstream_key_refused", message)
    if status == 404:
        return Refused(502, "upstream_no_model", message)
    if status == 429:
        try:
            wait_s = min(max(0.0, float(retry_after or "")), 86_400.0)
        except ValueError:
            wait_s = None
        return Refused(429, "rate_limit_error", message, retry_after_s=wait_s)
    if code == "context_length_exceeded":
        return Refused(400, "exceed_context_size_error", message)
    if status in (400, 413, 422):
        return Refused(400, "invalid_request_error", message)
    if 300 <= status < 400:
        return Refused(502, "upstream_redirect", "it answers with a redirect, which is not followed")
    return Refused(502, "upstream_error", message)


def _said(raw: bytes) -> tuple[str, str]:
    try:
        found = _object(msgspec.json.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", ""
    fault = _object(found.get("error")) or found
    message = fault.get("message") or fault.get("detail") or found.get("error") or ""
    return str(message)[:500], str(fault.get("code") or "")


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _hidden(text: str, key: str) -> str:
    return text.replace(key, "…") if key else text


def _start(config: ChildConfig) -> ChildReady:
    elsewhere = Elsewhere(config)
    return elsewhere.ready(serve_routes(config, elsewhere.routes(), elsewhere.open))


if __name__ == "__main__":
    sys.exit(run_child(_start))
