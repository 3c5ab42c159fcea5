"""Talks to engines: one pooled HTTP client, its errors in our words."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import aiohttp
import msgspec

from fust.core.decode_words import words_of
from fust.core.errors import (
    FustError,
    InvalidInput,
    NotOffered,
    RateLimited,
    Unavailable,
    Unsupported,
    UpstreamFailed,
)
from fust.wire.openai import EngineFault, EngineFaultBody
from fust.wire.targets import Target

_KEEPALIVE_S = 4.0  # cpp-httplib closes an idle connection after 5 s
_CONNECT_S = 10.0
_CLOSING_S = 0.1
_PER_ENGINE = 96  # below the engine's own HTTP threads, so that its health check is always heard
_FAULT_BYTES = 64 * 1024
_CHAT = "/v1/chat/completions"
_LOOK_AFTER_S, _LOOK_AGAIN_S = 10.0, 60.0
_FILL_IN_S = 15.0
"""For a chat template on a busy machine; it takes milliseconds."""
_HEALTH_S = 5.0
_LARGE = re.compile(r"input \((\d+) tokens\)")
_DEFERRED = re.compile(rb"^llamacpp:requests_deferred (\S+)$", re.MULTILINE)
_MARK = "n_discard"
"""A field of llama.cpp's that it tells of each slot, and does not read while contexts never shift."""
_LOST_S = 15.0
"""A request that is twice in no slot and no queue, so long apart, is still being read: tokens take seconds at most."""
_LOOKS = 8
"""After clients who left before an answer began: so many at a time."""
_BUDGET = "thinking_budget_tokens"
_NO_MEMORY = (
    "bad_alloc",
    "can't allocate memory",
    "Cannot allocate memory",
    "MemoryError",
    "can't start new thread",
)
"""In the words of C++, of PyTorch, of the system and of Python, whose threads want stacks."""


class ContextExceeded(InvalidInput):
    """Prompt and answer do not fit the model's context."""

    code = "context_length_exceeded"


class EngineLost(UpstreamFailed):
    """The engine ended, or does not answer."""

    code = "engine_unavailable"


class TemplateWithoutEnd(InvalidInput):
    """The model's chat template does not come to an end with these messages, and its engine hangs in it.

    An error of the request, not of the server: clients repeat a request by themselves after the latter.
    """

    code = "bad_chat_template"


class EngineRefused(EngineLost):
    """Nobody listens where the engine was: it never saw the request, which may go to the next one."""


class Upstream:
    """The client of all engines; belongs to one event loop."""

    def __init__(self) -> None:
        self.end: Callable[[Target], Awaitable[None]] | None = None
        """Ends an engine whose client left it in a chat template that never ends."""
        self._looks: set[asyncio.Task[None]] = set()
        self._sent = 0
        self._unanswered: dict[int, tuple[str, float]] = {}
        """Chats of which an engine has said nothing yet: by their marks, the engine's id and when they were sent."""
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._gates: dict[str, asyncio.Semaphore] = {}

    def _client(self, *, pooled: bool = True) -> aiohttp.ClientSession:
        """Returns the session whose connections are used again, or the one that makes a new one for each request."""
        session = self._sessions.get(pooled)
        if session is None or session.closed:
            keeps: dict[str, Any] = {"keepalive_timeout": _KEEPALIVE_S} if pooled else {"force_close": True}
            session = self._sessions[pooled] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, use_dns_cache=False, **keeps),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return session

    async def close(self) -> None:
        """Closes all connections."""
        self.end = None
        for look in self._looks:
            look.cancel()
        for session in self._sessions.values():
            await session.close()

    @contextlib.asynccontextmanager
    async def post(
        self, target: Target, path: str, body: bytes, param: str = "messages"
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Sends a request; the answer's head is there when the block begins, and its connection is closed when left early.

        Args:
            target: the engine.
            path: of the engine's route.
            body: as it goes out.
            param: the client's field that holds what the model reads; named when it is too long.

        Raises:
            FustError: the engine refused, in our words.
            EngineLost: it is gone or does not answer.
            TemplateWithoutEnd: it hangs in the chat template.
        """
        if len(self._gates) > 256:
            self._gates.clear()
        gate = self._gates.setdefault(target.engine_id, asyncio.Semaphore(_PER_ENGINE))
        async with gate:
            response = await self._send(target, path, body)
            try:
                if response.status != 200:
                    raw = await response.content.read(_FAULT_BYTES)
                    raise explain_fault(raw, response.status, target, param, _wait_of(response))
                yield response
            except aiohttp.ClientError as error:
                raise lost(target) from error
            finally:
                # Ends the connection unless the answer was read to its end: so the engine hears of it and stops.
                response.close()

    async def _send(self, target: Target, path: str, body: bytes) -> aiohttp.ClientResponse:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {target.api_key}"}
        mark = 0
        if target.engine == "llamacpp" and path == _CHAT:
            mark = self._sent = self._sent % 2**31 + 1
            body = b'%s,"%s":%d}' % (body[:-1], _MARK.encode(), mark)
        for pooled in (True, False):
            try:
                async with self._patience(target, path, body, headers, mark):
                    client = self._client(pooled=pooled)
                    return await client.post(target.base_url + path, data=body, headers=headers)
            except aiohttp.ClientConnectorError as error:
                raise lost(target, EngineRefused) from error
            except (aiohttp.ClientError, ConnectionError) as error:
                # A pooled connection may have died unseen; no byte of an answer came, so the request is sent once more,
                # on a new one: those that are left in the pool may have died with it.
                if not pooled:
                    raise lost(target) from error
                # A process that is being ended closes its connections a moment before its port.
                await asyncio.sleep(_CLOSING_S)
        raise AssertionError

    @contextlib.asynccontextmanager
    async def _patience(
        self, target: Target, path: str, body: bytes, headers: dict[str, str], mark: int
    ) -> AsyncGenerator[None]:
        """Waits as long as an answer's head takes, but not for a chat template that never ends.

        The engine fills the template in on a thread that nothing can stop, and says nothing meanwhile. So a chat that
        waits for long is given to it once more, for its template alone: that takes milliseconds, or it hangs as well.
        A template that reads the clock may hang at one time only; then the request is looked for among those that the
        engine works on, by its mark.

        Raises:
            TemplateWithoutEnd: it hangs; the engine has to be ended.
        """
        if not path.startswith(_CHAT):
            yield
            return
        loop = asyncio.get_running_loop()
        if mark:
            self._unanswered[mark] = target.engine_id, loop.time()
        watchers: list[asyncio.Task[None]] = []
        limit = asyncio.timeout(None)

        async def watch() -> None:
            was_lost = False
            while not await self._hangs(target, body, headers):
                is_lost = await self._is_lost(target, headers, mark)
                if is_lost and was_lost:
                    break
                was_lost = is_lost
                await asyncio.sleep(_LOST_S if is_lost else _LOOK_AGAIN_S)
            limit.reschedule(loop.time())

        timer = loop.call_later(_LOOK_AFTER_S, lambda: watchers.append(loop.create_task(watch())))
        try:
            async with limit:
                yield
        except asyncio.CancelledError:
            self._look_after(target, body, headers)
            raise
        except TimeoutError:
            if not limit.expired():
                raise
            raise template_without_end(target, TemplateWithoutEnd) from None
        finally:
            self._unanswered.pop(mark, None)
            timer.cancel()
            for watcher in watchers:
                watcher.cancel()

    def _look_after(self, target: Target, body: bytes, headers: dict[str, str]) -> None:
        """Looks whether a client who left before an answer began left its engine in a chat template for ever."""

        async def look() -> None:
            if self.end is not None and await self._hangs(target, body, headers):
                await self.end(target)

        if len(self._looks) < _LOOKS:
            task = asyncio.get_running_loop().create_task(look())
            self._looks.add(task)
            task.add_done_callback(self._looks.discard)

    async def _hangs(self, target: Target, body: bytes, headers: dict[str, str]) -> bool:
        """Returns whether the engine is well, but does not come back from filling in its chat template."""
        url, limits = target.base_url, aiohttp.ClientTimeout
        try:
            fill_in = self._client().post(
                url + "/apply-template", data=body, headers=headers, timeout=limits(total=_FILL_IN_S)
            )
            async with fill_in as answer:
                await answer.read()
            return False
        except TimeoutError:
            pass
        except (aiohttp.ClientError, ConnectionError):
            return False
        try:
            async with self._client().get(url + "/health", timeout=limits(total=_HEALTH_S)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            return False

    async def _is_lost(self, target: Target, headers: dict[str, str], mark: int) -> bool:
        """Returns whether llama.cpp neither works on a request nor keeps it waiting: it has not read it to its end yet."""
        if not mark:
            return False
        limits = aiohttp.ClientTimeout(total=_HEALTH_S)
        try:
            async with self._client().get(
                target.base_url + "/slots", headers=headers, timeout=limits
            ) as answer:
                slots = msgspec.json.decode(await answer.read(), type=list[_Slot])
            async with self._client().get(
                target.base_url + "/metrics", headers=headers, timeout=limits
            ) as answer:
                waiting = _DEFERRED.search(await answer.read())
        except (aiohttp.ClientError, ConnectionError, TimeoutError, msgspec.DecodeError):
            return False
        at_work = {slot.params.n_discard for slot in slots if slot.is_processing}
        if waiting is None or mark in at_work or None in at_work:
            return False
        queued = float(waiting[1])
        then = asyncio.get_running_loop().time() - _LOOK_AFTER_S
        old = [
            each
            for each, (engine_id, sent_s) in self._unanswered.items()
            if engine_id == target.engine_id and sent_s <= then and each not in at_work
        ]
        # Of more than can be queued one is lost; those that are queued go on in the order in which they came.
        return queued == 0 or (len(old) > queued and mark == min(old, default=0))


class _SlotParams(msgspec.Struct):
    n_discard: int | None = None
    """None: this llama.cpp does not tell."""


class _Slot(msgspec.Struct):
    """The part of `GET /slots` that counts here."""

    is_processing: bool = False
    params: _SlotParams = msgspec.field(default_factory=_SlotParams)


def lost(target: Target, kind: type[EngineLost] = EngineLost) -> EngineLost:
    """Returns the error for an engine that is gone."""
    return kind(
        "The engine of {model} ended before the answer was complete.",
        hint="It is started again; send the request once more.",
        model=target.model,
        retry_after_s=1,
    )


def template_without_end(target: Target, kind: type[InvalidInput] = InvalidInput) -> InvalidInput:
    """Returns the error for a chat template that loops."""
    return kind(
        "The chat template of {model} does not come to an end with these messages.",
        hint="Mend the template in its file, or use a copy of the model from somebody you trust.",
        model=target.model,
        code="bad_chat_template",
    )


def no_answer(target: Target) -> UpstreamFailed:
    """Returns the error for an engine that sent what is none of its API's answers."""
    return UpstreamFailed(
        "The engine of {model} sent something that is no answer.",
        hint="Send the request once more; if it happens again, the engine's log may tell why.",
        model=target.model,
        code="engine_nonsense",
    )


def no_numbers(target: Target) -> UpstreamFailed:
    """Returns the error for a model whose answer is NaN, which JSON cannot say."""
    return UpstreamFailed(
        "What {model} says are no numbers (NaN): its weights are damaged, or those of its adapter.",
        hint="Download the model again, or serve another file of it.",
        model=target.model,
        code="no_numbers",
    )


def _elsewhere(kind: str, target: Target, reason: str) -> FustError:
    """Returns the error for an API elsewhere that could not be asked, or failed."""
    model = target.model
    match kind:
        case "upstream_key_refused":
            return UpstreamFailed(
                "The API behind {model} refuses Fust's key: {reason}.",
                hint="Serve it again with a key that it knows: `fust serve {model} --engine upstream --key-env NAME …`.",
                model=model,
                reason=reason,
                code=kind,
            )
        case "upstream_no_model":
            return UpstreamFailed(
                "The API behind {model} does not know the model or the route: {reason}.",
                hint="Serve it again with the --model and the --url that it has.",
                model=model,
                reason=reason,
                code=kind,
            )
        case (
            "upstream_unreachable"
            | "upstream_timeout"
            | "upstream_tls"
            | "upstream_private"
            | "upstream_redirect"
        ):
            return UpstreamFailed(
                "The API behind {model} cannot be reached: {reason}.",
                hint="Check its address, or wait until it is back.",
                model=model,
                reason=reason,
                code=kind,
            )
        case _:
            return UpstreamFailed(
                "The API behind {model} failed: {reason}.",
                hint="Send the request once more.",
                model=model,
                reason=reason,
                code=kind,
            )


def _wait_of(response: aiohttp.ClientResponse) -> float | None:
    try:
        return min(max(0.0, float(response.headers.get("Retry-After", ""))), 86_400.0)
    except ValueError:
        return None


def explain_fault(
    raw: bytes, status: int, target: Target, param: str = "messages", retry_after_s: float | None = None
) -> FustError:
    """Returns an engine's error (its HTTP body, or the object of an error event) as one of ours."""
    try:
        fault = msgspec.json.decode(raw, type=EngineFaultBody).error
    except msgspec.DecodeError:
        fault = EngineFault(message=raw[:300].decode("utf-8", "replace"))
    if isinstance(fault.code, int) and fault.code >= 400:
        status = fault.code
    message = (
        fault.message.replace(target.alias, target.model).strip().rstrip(".")
        if fault.message
        else "no reason given"
    )
    if fault.type == "exceed_context_size_error" or "context size" in message:
        if not (fault.n_ctx or target.context):
            return ContextExceeded(
                "The request is longer than the context of {model}.",
                hint="Shorten it.",
                model=target.model,
                param=param,
            )
        return ContextExceeded(
            "The request has {tokens} tokens, and the context of {model} holds {context}.",
            hint="Shorten it, or serve the model with a longer context (setting serve.context).",
            tokens=fault.n_prompt_tokens or "more",
            model=target.model,
            context=fault.n_ctx or target.context,
            param=param,
        )
    if fault.type == "start_too_late_error":
        return InvalidInput(
            "logprob_start_len is more than the {tokens} tokens of the prompt.",
            hint="Send how many of its tokens go without a log-probability: {tokens} at most.",
            tokens=fault.n_prompt_tokens,
            param="logprob_start_len",
        )
    if _BUDGET in (fault.param or message):
        fault.type, fault.param = "unsupported_parameter", "thinking.budget_tokens"  # as the client called it
    if "_M_range_check" in message and param == "tokens":
        return InvalidInput("{model} has no token of one of these numbers.", model=target.model, param=param)
    if fault.type.startswith("upstream_"):
        return _elsewhere(fault.type, target, message[:500])
    if fault.type == "unsupported_parameter" and fault.param:
        return Unsupported(
            "{param} is not offered by the engine {engine}, which serves {model}.",
            hint="Leave it out, or serve the model with another engine.",
            param=fault.param,
            engine=target.engine,
            model=target.model,
        )
    if fault.type == "template_without_end":
        return template_without_end(target)
    if "bad_alloc" in message and "template" in message:
        return InvalidInput(
            "The chat template of {model} takes far too much memory with these messages.",
            hint="Mend the template in its file, or use a copy of the model from somebody you trust.",
            model=target.model,
            code="bad_chat_template",
        )
    if "are no numbers" in message:
        return no_numbers(target)
    if any(word in message for word in _NO_MEMORY):
        return UpstreamFailed(
            "The engine of {model} has no memory for this request.",
            hint="Send a shorter one, or send it again when others are answered; `fust ps` shows what the engines take.",
            model=target.model,
            code="engine_out_of_memory",
        )
    if "too large to process" in message or "physical batch size" in message:
        found = _LARGE.search(message)
        return ContextExceeded(
            "An input has {tokens} tokens, and {model} embeds {context} at once.",
            hint="Split the input.",
            tokens=found[1] if found else "more",
            context=target.context,
            model=target.model,
            param=param,
        )
    if status == 429:
        return RateLimited(
            "{model} has too much to do: {reason}.",
            hint="Try again later.",
            model=target.model,
            reason=message[:500],
            code="engine_busy",
            retry_after_s=retry_after_s,
        )
    if status == 501:
        return NotOffered("{model} does not offer this: {reason}.", model=target.model, reason=message)
    if status == 503:
        return Unavailable(
            "{model} is not ready: {reason}.", model=target.model, reason=message, retry_after_s=1
        )
    if 400 <= status < 500 and status not in (401, 403, 404):
        return InvalidInput("The engine refused the request: {reason}.", reason=words_of(message[:500]))
    return UpstreamFailed("The engine of {model} failed: {reason}.", model=target.model, reason=message[:500])
