"""The model surface `/v1`: what OpenAI's clients speak. Plain ASGI, for each token passes here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote

import msgspec
from prometheus_client import CollectorRegistry

from fust.accounts.rights import Identity, may_use
from fust.accounts.service import Accounts
from fust.core.errors import FustError, InvalidInput, NotFound, TooLarge
from fust.core.i18n import accepted_language
from fust.core.settings import Settings
from fust.gateway.meter import Meter
from fust.gateway.serving import Exchange, Serving, no_model
from fust.gateway.translate import Plan, plan_chat, plan_completion, plan_embedding
from fust.gateway.upstream import Upstream
from fust.records.usage import UsageWriter
from fust.wire.asgi import Receive, Scope, Send, headers_of, request_id_of
from fust.wire.openai import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ModelObject,
    ModelObjects,
    decode_request,
)
from fust.wire.targets import ModelEntry, Targets

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 32 * 1024 * 1024
_BODY_S = 120.0

_CHAT = msgspec.json.Decoder(ChatRequest)
_COMPLETION = msgspec.json.Decoder(CompletionRequest)
_EMBEDDING = msgspec.json.Decoder(EmbeddingRequest)
_PLANS: dict[str, Callable[[bytes], Plan]] = {
    "/v1/chat/completions": lambda body: plan_chat(decode_request(_CHAT, body)),
    "/v1/completions": lambda body: plan_completion(decode_request(_COMPLETION, body)),
    "/v1/embeddings": lambda body: plan_embedding(decode_request(_EMBEDDING, body)),
}


class MethodNotAllowed(FustError):
    """The path exists, with another method."""

    status = 405
    code = "method_not_allowed"


class Gateway:
    """The ASGI application of the model surface."""

    def __init__(
        self,
        targets: Targets,
        accounts: Accounts,
        pool: ThreadPoolExecutor,
        usage: UsageWriter,
        meter: Meter,
    ) -> None:
        self._targets = targets
        self._accounts = accounts
        self._pool = pool
        self.upstream = Upstream()
        self._serving = Serving(targets, pool, self.upstream, usage, meter)

    async def close(self) -> None:
        """Closes the connections to engines."""
        await self.upstream.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request (ASGI 3)."""
        if scope["type"] != "http":
            return
        headers = headers_of(scope)
        request_id = request_id_of(scope)
        exchange = Exchange(
            send, request_id, headers, scope["method"], accepted_language(headers.get("accept-language"))
        )
        try:
            await self._route(scope, receive, exchange)
        except FustError as error:
            await exchange.fail(error)
        except Exception:
            log.exception("a model request failed", extra={"request_id": request_id})
            await exchange.fail(
                FustError(
                    "Something went wrong inside Fust.",
                    hint="The log has the trace (`fust logs`); quote the request id.",
                )
            )

    async def _route(self, scope: Scope, receive: Receive, exchange: Exchange) -> None:
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        path = raw.split(b"?", 1)[0].decode("latin-1")
        plan_of = _PLANS.get(path.rstrip("/"))
        if plan_of is not None:
            _check_method(exchange, "POST")
            await self._answer(plan_of, receive, exchange)
        elif path.rstrip("/") == "/v1/models":
            _check_method(exchange, "GET")
            await exchange.answer(await self._in_pool(self._list_models, exchange))
        elif path.startswith("/v1/models/"):
            _check_method(exchange, "GET")
            name = unquote(path.removeprefix("/v1/models/"))
            await exchange.answer(await self._in_pool(self._get_model, exchange, name))
        else:
            raise NotFound(
                "There is nothing at {path}.",
                hint="`/fust/v1/schema` and the docs list what there is.",
                path=path[:200],
            )

    async def _in_pool(self, function: Callable[..., bytes], *args: object) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    async def _answer(self, plan_of: Callable[[bytes], Plan], receive: Receive, exchange: Exchange) -> None:
        # Who calls is asked before the body is read: nobody's gigabytes are not taken in.
        identity = self._accounts.cached_identity(exchange.headers)
        if identity is None:
            loop = asyncio.get_running_loop()
            identity = await loop.run_in_executor(self._pool, self._identify, exchange)
        self._accounts.require(identity, "read")
        body = await _read_body(receive, exchange.headers)
        plan = plan_of(body)
        del body
        await self._serving.run(plan, identity, receive, exchange)

    def _identify(self, exchange: Exchange) -> Identity:
        return self._accounts.identify(exchange.headers, method=exchange.method)

    # Models

    def _visible(self, exchange: Exchange) -> list[ModelEntry]:
        identity = self._identify(exchange)
        self._accounts.require(identity, "read")
        return [
            entry
            for entry in self._targets.list_models()
            if may_use(identity, (entry.name, *entry.aliases), entry.repo_id, private=entry.private)
        ]

    def _list_models(self, exchange: Exchange) -> bytes:
        found = [
            ModelObject(name, entry.created_s, entry.owned_by)
            for entry in self._visible(exchange)
            for name in (entry.name, *entry.aliases)
        ]
        return msgspec.json.encode(ModelObjects(found))

    def _get_model(self, exchange: Exchange, name: str) -> bytes:
        for entry in self._visible(exchange):
            if name == entry.name or name in entry.aliases:
                return msgspec.json.encode(ModelObject(name, entry.created_s, entry.owned_by))
        raise no_model(name)


def _check_method(exchange: Exchange, method: str) -> None:
    if exchange.method != method and not (method == "GET" and exchange.method == "HEAD"):
        raise MethodNotAllowed("This path takes {method} only.", method=method)


async def _read_body(receive: Receive, headers: dict[str, str]) -> bytes:
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
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
    usage: UsageWriter,
    registry: CollectorRegistry | None = None,
) -> Gateway:
    """Returns the ASGI application of `/v1`."""
    return Gateway(targets, accounts, pool, usage, Meter(registry or CollectorRegistry()))
