"""The model surface `/v1`: what OpenAI's and Anthropic's clients speak. Plain ASGI, for each token passes here."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.errors import FustError, InvalidInput, NotFound, TooLarge
from fust.core.i18n import accepted_language
from fust.core.settings import GatewaySettings, Settings
from fust.core.units import read_number
from fust.gateway.batch_runner import BatchRunner
from fust.gateway.batches import Batches
from fust.gateway.exchange import Exchange, dialect_of
from fust.gateway.extras import plan_classify, plan_detokenize, plan_rerank, plan_tokenize
from fust.gateway.files import Files
from fust.gateway.images import Images
from fust.gateway.limits import Limits
from fust.gateway.messages import plan_count, plan_messages
from fust.gateway.meter import Meter
from fust.gateway.responses import ResponseShape, input_items, plan_response
from fust.gateway.serving import CheckGate, Serving
from fust.gateway.shelf import Call, MethodNotAllowed, Shelf, encode, find_route, query_of, upload_file
from fust.gateway.stored import Responses
from fust.gateway.translate import Plan, plan_chat, plan_completion, plan_embedding
from fust.gateway.upstream import Upstream
from fust.records.usage import UsageWriter
from fust.store.database import Database
from fust.wire.anthropic import CountRequest, MessagesRequest
from fust.wire.asgi import ClientGone, Receive, Scope, Send, headers_of, request_id_of
from fust.wire.body import Body, decode_request, unsupported
from fust.wire.openai import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
)
from fust.wire.rerank import ClassifyRequest, DetokenizeRequest, RerankRequest, TokenizeRequest
from fust.wire.responses import InputItem, ResponsesRequest
from fust.wire.targets import Targets

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 32 * 1024 * 1024
_BODY_S = 120.0
_PIECE_BYTES = 256 * 1024

BODIES: dict[str, type[Body]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/messages": MessagesRequest,
    "/v1/messages/count_tokens": CountRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/v1/rerank": RerankRequest,
    "/v1/classify": ClassifyRequest,
    "/v1/tokenize": TokenizeRequest,
    "/v1/detokenize": DetokenizeRequest,
}
"""What each route that asks a model takes."""
_PLANS: dict[str, Callable[[Any], Plan]] = {
    "/v1/chat/completions": plan_chat,
    "/v1/completions": plan_completion,
    "/v1/messages": plan_messages,
    "/v1/messages/count_tokens": plan_count,
    "/v1/embeddings": plan_embedding,
    "/v1/rerank": plan_rerank,
    "/v1/classify": plan_classify,
    "/v1/tokenize": plan_tokenize,
    "/v1/detokenize": plan_detokenize,
}
_DECODERS = {path: msgspec.json.Decoder(kind) for path, kind in BODIES.items()}


class Gateway:
    """The ASGI application of the model surface."""

    def __init__(
        self,
        targets: Targets,
        accounts: Accounts,
        pool: ThreadPoolExecutor,
        check_gate: CheckGate,
        usage: UsageWriter,
        meter: Meter,
        database: Database,
        settings: GatewaySettings,
        home: Path,
    ) -> None:
        self._accounts = accounts
        self._pool = pool
        self._limits = Limits(settings)
        self._responses = Responses(database) if settings.keep_responses else None
        files = Files(database, home, settings)
        batches = Batches(database, files)
        self._shelf = Shelf(targets, self._responses, check_gate, files, batches, self._wake)
        self.upstream = Upstream()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runner: BatchRunner | None = None
        self._running: asyncio.Task[None] | None = None
        images = Images(settings.image_hosts, files)
        self._serving = Serving(targets, pool, check_gate, self.upstream, usage, meter, self._limits, images)

    def start(self) -> None:
        """Begins to work on batches; called in the event loop."""
        serving, shelf = self._serving, self._shelf
        self._runner = BatchRunner(
            shelf.batches, self._accounts, self._ask, lambda: serving.awaited == 0, self._pool
        )
        self._loop = asyncio.get_running_loop()
        self._running = self._loop.create_task(self._runner.run())

    def _wake(self) -> None:
        if self._runner is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._runner.wake)

    async def close(self) -> None:
        """Ends the work on batches and closes the connections to engines."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        await self.upstream.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request (ASGI 3)."""
        if scope["type"] != "http":
            return
        headers = headers_of(scope)
        request_id = request_id_of(scope)
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        path = raw.split(b"?", 1)[0].decode("latin-1").rstrip("/")
        exchange = Exchange(
            send,
            request_id,
            headers,
            scope["method"],
            accepted_language(headers.get("accept-language")),
            dialect_of(path, headers),
        )
        await _answered(self._route(path, scope.get("query_string", b""), receive, exchange), exchange)

    async def _ask(self, path: str, body: bytes, identity: Identity, request_id: str) -> tuple[int, bytes]:
        """Answers a line of a batch."""
        sink = _Sink()
        exchange = Exchange(sink.send, request_id, {}, "POST", "en")
        exchange.background = True
        await _answered(self._answer_line(path, body, identity, exchange), exchange)
        return sink.status, sink.body

    async def _answer_line(self, path: str, body: bytes, identity: Identity, exchange: Exchange) -> None:
        plan = await self._plan(path, body, identity)
        if plan.stream:
            raise InvalidInput("A batch has no streams.", hint="Leave stream out.", param="body.stream")
        await self._serving.run(plan, identity, _never, exchange)

    async def _route(self, path: str, query: bytes, receive: Receive, exchange: Exchange) -> None:
        if path in BODIES:
            if exchange.method != "POST":
                raise MethodNotAllowed("This path takes {method} only.", method="POST")
            await self._answer(path, receive, exchange)
            return
        route, names = find_route(exchange.method, path)
        identity = await self._caller(exchange)
        call = Call(identity, names, query_of(query), b"", exchange.dialect == "anthropic")
        loop = asyncio.get_running_loop()
        if route.function is upload_file:
            files = self._shelf.files
            await loop.run_in_executor(self._pool, files.check_room, identity)
            kind = exchange.headers.get("content-type", "")
            async with files.receive(_body_pieces(receive), kind, identity) as upload:
                call = replace(call, upload=upload)
                made = await loop.run_in_executor(self._pool, route.function, self._shelf, call)
        else:
            if route.method == "POST":
                call = replace(call, body=await _read_body(receive, exchange.headers))
            made = await loop.run_in_executor(self._pool, route.function, self._shelf, call)
        if isinstance(made, Path):
            await self._send_file(made, exchange)
        else:
            await exchange.answer(encode(made))

    async def _send_file(self, path: Path, exchange: Exchange) -> None:
        loop = asyncio.get_running_loop()
        try:
            file = await loop.run_in_executor(self._pool, path.open, "rb")
        except FileNotFoundError:
            raise NotFound("The bytes of this file are gone.", hint="Upload it again.") from None
        with file:
            await exchange.begin_file(os.fstat(file.fileno()).st_size)
            while exchange.method != "HEAD":
                piece = await loop.run_in_executor(self._pool, file.read, _PIECE_BYTES)
                if not piece:
                    break
                await exchange.send_piece(piece)
            await exchange.end_stream()

    async def _caller(self, exchange: Exchange) -> Identity:
        """Returns who calls; asked before a body is read, so that nobody's gigabytes are taken in."""
        identity = self._accounts.cached_identity(exchange.headers)
        if identity is None:
            loop = asyncio.get_running_loop()
            identity = await loop.run_in_executor(self._pool, self._identify, exchange)
        self._accounts.require(identity, "read")
        return identity

    async def _answer(self, path: str, receive: Receive, exchange: Exchange) -> None:
        identity = await self._caller(exchange)
        try:
            self._limits.take(identity)
        finally:
            exchange.more = self._limits.headers(identity, anthropic=exchange.dialect == "anthropic")
        plan = await self._plan(path, await _read_body(receive, exchange.headers), identity)
        await self._serving.run(plan, identity, receive, exchange)

    async def _plan(self, path: str, body: bytes, identity: Identity) -> Plan:
        request: Any = decode_request(_DECODERS[path], body)
        if isinstance(request, ResponsesRequest):
            return await self._plan_response(request, identity)
        return _PLANS[path](request)

    async def _plan_response(self, request: ResponsesRequest, identity: Identity) -> Plan:
        kept = self._responses
        if kept is None and request.store is True:
            raise unsupported("store")
        if kept is None and request.previous_response_id:
            raise unsupported("previous_response_id")
        before: list[InputItem] = []
        if kept is not None and request.previous_response_id:
            loop = asyncio.get_running_loop()
            before = await loop.run_in_executor(
                self._pool, kept.conversation, identity, request.previous_response_id
            )
        request.store = kept is not None and request.store is not False
        plan = plan_response(request, before)
        shape = plan.shape
        if kept is not None and request.store and isinstance(shape, ResponseShape):
            items = input_items(request)
            plan.keep = lambda: kept.put(identity, shape.response, items)
        return plan

    def _identify(self, exchange: Exchange) -> Identity:
        return self._accounts.identify(exchange.headers, method=exchange.method)


async def _answered(work: Coroutine[Any, Any, None], exchange: Exchange) -> None:
    """Runs a request to its end; what goes wrong becomes its answer."""
    try:
        await work
    except FustError as error:
        await exchange.fail(error)
    except ClientGone:
        raise
    except Exception:
        log.exception("a model request failed", extra={"request_id": exchange.request_id})
        await exchange.fail(
            FustError(
                "Something went wrong inside Fust.",
                hint="The log has the trace (`fust logs`); quote the request id.",
            )
        )


class _Sink:
    """Takes an answer that no client waits for."""

    def __init__(self) -> None:
        self.status = 500
        self.body = b""

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Takes a message of ASGI."""
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")


async def _never() -> MutableMapping[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


async def _body_pieces(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidInput("The request ended before its body did.", code="incomplete_body")
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body", False):
            return


async def _read_body(receive: Receive, headers: dict[str, str]) -> bytes:
    declared = read_number(headers.get("content-length", ""))
    if declared is not None and declared > MAX_BODY_BYTES:
        raise _too_large()
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise InvalidInput("The request ended before its body did.", code="incomplete_body")
                piece = message.get("body", b"")
                size += len(piece)
                if size > MAX_BODY_BYTES:
                    raise _too_large()
                pieces.append(piece)
                if not message.get("more_body", False):
                    return b"".join(pieces) if len(pieces) > 1 else pieces[0]
    except TimeoutError:
        raise InvalidInput(
            "The body did not arrive within {span} s.", span=round(_BODY_S), code="body_timeout"
        ) from None


def _too_large() -> TooLarge:
    return TooLarge(
        "The body is larger than {limit} MiB.", hint="Send less at once.", limit=MAX_BODY_BYTES >> 20
    )


def gateway_app(
    targets: Targets,
    accounts: Accounts,
    settings: Settings,
    pool: ThreadPoolExecutor,
    check_gate: CheckGate,
    usage: UsageWriter,
    database: Database,
    registry: CollectorRegistry | None = None,
) -> Gateway:
    """Returns the ASGI application of `/v1`."""
    meter = Meter(registry or CollectorRegistry())
    return Gateway(
        targets, accounts, pool, check_gate, usage, meter, database, settings.gateway, settings.home
    )
