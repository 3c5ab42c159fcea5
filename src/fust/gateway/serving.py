"""One request to a model: finds its engine, sends, relays, stops when the client leaves, and counts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import msgspec

from fust.accounts.rights import Identity, may_use, may_use_with
from fust.core.clock import utc_naive
from fust.core.errors import FustError, NotFound, Unsupported
from fust.core.ids import new_id
from fust.gateway.calls import CallReader
from fust.gateway.choices import add_usage, merge_answers, number_choice, old_logprobs, without_beginning
from fust.gateway.echo import follows_greedily, greedy_end, put_before, score_request
from fust.gateway.exchange import Exchange
from fust.gateway.images import Images
from fust.gateway.limits import Limits
from fust.gateway.meter import Meter
from fust.gateway.relay import DONE, EventStream, Names, check_numbers, decode_answer, usage_of_answer
from fust.gateway.shapes import thought_of
from fust.gateway.translate import Plan
from fust.gateway.upstream import EngineRefused, TemplateWithoutEnd, Upstream, no_answer
from fust.records.usage import Usage as UsageRecord
from fust.records.usage import UsageWriter
from fust.wire.asgi import Receive
from fust.wire.openai import Usage
from fust.wire.scoring import ScoreAnswer
from fust.wire.targets import ModelEntry, Target, Targets

log = logging.getLogger(__name__)

_CLIENT_LEFT = 499
_WATCH_AFTER_S = 0.02
_NOTICED_S = 0.1  # within this time `serve` has seen that an engine ended
_AT_ONCE = 16  # choices of one request that are asked for at the same time


class _Count:
    """What a request has taken so far."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.first_token: float | None = None
        self.usage = Usage()


CheckGate = Callable[[Identity, str], None]
"""Raises Gated unless the caller was let in to the files of a gated repo."""


class Serving:
    """Runs planned requests."""

    def __init__(
        self,
        targets: Targets,
        pool: ThreadPoolExecutor,
        check_gate: CheckGate,
        upstream: Upstream,
        usage: UsageWriter,
        meter: Meter,
        limits: Limits,
        images: Images,
    ) -> None:
        self.awaited = 0
        """Requests in flight that somebody waits for."""
        self._limits = limits
        self._images = images
        self._targets = targets
        self._pool = pool
        self._check_gate = check_gate
        self._upstream = upstream
        upstream.end = self._end_engine
        self._usage = usage
        self._meter = meter

    async def run(self, plan: Plan, identity: Identity, receive: Receive, exchange: Exchange) -> None:
        """Answers one request; returns early, with the engine's work ended, when the client leaves."""
        count = _Count()
        target: Target | None = None
        status, code = 200, ""
        me = asyncio.current_task()
        assert me is not None
        watch = _Watch(receive, me)
        self._meter.running.inc()
        self.awaited += not exchange.background
        try:
            target = await self._acquire(plan, identity)
            check_fit(plan, target)
            await self._images.bring(plan.pictures, identity)
            try:
                await self._send(plan, identity, target, exchange, count)
            except EngineRefused:
                if exchange.streaming:
                    raise
                self._targets.release(target, failed=True)
                target = None
                await asyncio.sleep(_NOTICED_S)
                target = await self._acquire(plan, identity)
                await self._send(plan, identity, target, exchange, count)
        except asyncio.CancelledError:
            if not watch.gone:
                raise  # the server itself is stopping
            me.uncancel()
            status, code = _CLIENT_LEFT, "client_left"
        except FustError as error:
            status, code = error.status, error.code
            if isinstance(error, TemplateWithoutEnd) and target is not None:
                await self._end_engine(target)
            raise
        except BaseException:
            status, code = 500, "internal"
            raise
        finally:
            watch.end()
            self._meter.running.dec()
            self.awaited -= not exchange.background
            self._finish(plan, identity, exchange, target, count, status, code)

    async def _end_engine(self, target: Target) -> None:
        """Ends an engine that works on a template without an end: nothing else stops it, client or none."""
        ending = asyncio.get_running_loop().run_in_executor(self._pool, self._targets.end, target)
        await asyncio.shield(ending)

    # Finding the engine

    async def _acquire(self, plan: Plan, identity: Identity) -> Target:
        entry = self._targets.peek(plan.model)
        # The quick way asks nothing that could wait for a disk: a known model, plainly open, already loaded.
        if entry is not None and not gated_repos(entry) and may_use_entry(identity, entry):
            _check_entry(plan, entry)
            target = self._targets.acquire_now(plan.model, plan.mode)
            if target is not None:
                return target
        waiting = asyncio.get_running_loop().run_in_executor(self._pool, self._acquire_slowly, plan, identity)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            waiting.add_done_callback(self._release_unused)
            raise

    def _release_unused(self, waiting: asyncio.Future[Target]) -> None:
        if not waiting.cancelled() and waiting.exception() is None:
            self._targets.release(waiting.result())

    def _acquire_slowly(self, plan: Plan, identity: Identity) -> Target:
        entry = self._targets.find(plan.model)
        if entry is None or not may_use_entry(identity, entry):
            raise no_model(plan.model)
        for repo_id in gated_repos(entry):
            self._check_gate(identity, repo_id)
        _check_entry(plan, entry)
        return self._targets.acquire(plan.model, plan.mode)

    # Sending

    async def _send(
        self, plan: Plan, identity: Identity, target: Target, exchange: Exchange, count: _Count
    ) -> None:
        if plan.echo:
            await self._answer_echo(plan, identity, target, exchange, count)
        elif not plan.is_plain(target):
            send = self._relay_choices if plan.stream else self._answer_choices
            await send(plan, target, exchange, count)
        elif plan.stream:
            await self._relay(plan, target, exchange, count)
        else:
            body = await self._ask(plan, target, 0)
            count.usage = usage_of_answer(body, target)
            await exchange.answer(Names(target).put(body))

    async def _ask(self, plan: Plan, target: Target, number: int) -> bytes:
        async with self._upstream.post(
            target, plan.path, plan.encode(target, number), plan.param
        ) as response:
            answer = await response.read()
        check_numbers(answer, target)
        return answer

    async def _relay(self, plan: Plan, target: Target, exchange: Exchange, count: _Count) -> None:
        async with self._upstream.post(target, plan.path, plan.encode(target), plan.param) as response:
            stream = EventStream(response, target, include_usage=plan.include_usage)
            await exchange.begin_stream()
            try:
                async for piece in stream.pieces():
                    await exchange.send_piece(piece)
            finally:
                count.first_token, count.usage = stream.first_token_s, stream.usage or Usage()
            await exchange.end_stream()

    async def _answer_choices(self, plan: Plan, target: Target, exchange: Exchange, count: _Count) -> None:
        answers = await self._gather(plan, target, count)
        if plan.shape is None:
            made = msgspec.json.encode(merge_answers(answers, count.usage))
        else:
            await self._count_thought(plan, target, thought_of(answers[0], "message"), count.usage)
            made = plan.shape.whole(answers[0], count.usage)
        await self._keep(plan)
        await exchange.answer(made)

    async def _count_thought(self, plan: Plan, target: Target, thought: str, usage: Usage) -> None:
        """Counts the tokens of a thought where they have to be told and the engine does not: see `Usage`."""
        if plan.endpoint != "responses" or not thought or usage.reasoning_tokens is not None:
            return
        body = msgspec.json.encode({"content": thought, "add_special": False})
        with contextlib.suppress(FustError):  # an engine without a tokenizer: its count stays unknown
            async with self._upstream.post(target, "/tokenize", body) as response:
                counted = len(decode_answer(await response.read(), target)["tokens"])
            usage.completion_tokens_details = {"reasoning_tokens": min(counted, usage.completion_tokens)}

    async def _keep(self, plan: Plan) -> None:
        if plan.keep is not None:
            await asyncio.get_running_loop().run_in_executor(self._pool, plan.keep)

    async def _gather(self, plan: Plan, target: Target, count: _Count) -> list[dict[str, Any]]:
        """Returns an answer for every choice, and counts them."""
        number = plan.choices * max(1, len(plan.prompts))
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(index: int) -> dict[str, Any]:
            async with gate:
                body = await self._ask(plan, target, index)
            answer = decode_answer(Names(target).put(body), target)
            if plan.logprobs:
                old_logprobs(answer, plan.body["logprobs"])
            if plan.begun and target.engine == "llamacpp":
                without_beginning(answer, plan.begun)
            reader = plan.reader(target)
            if reader is not None:
                for choice in answer["choices"]:
                    reader.whole(choice)
            return answer

        async with _all_or_none() as group:
            tasks = [group.create_task(one(index)) for index in range(number)]
        answers: list[dict[str, Any]] = [task.result() for task in tasks]
        count.usage = add_usage(
            plan, [msgspec.convert(answer.get("usage") or {}, Usage) for answer in answers]
        )
        return answers

    async def _answer_echo(
        self, plan: Plan, identity: Identity, target: Target, exchange: Exchange, count: _Count
    ) -> None:
        """Answers with prompts and their log-probabilities, and with what follows each."""
        body = score_request(plan, target.adapter)
        async with self._upstream.post(target, "/score", body, plan.param) as response:
            raw = await response.read()
        try:
            scored = msgspec.json.decode(raw, type=ScoreAnswer)
        except msgspec.DecodeError:
            raise no_answer(target) from None
        ends = await self._ends(plan, identity, scored, count)
        choices = [
            put_before(end, plan.prompts[i // plan.choices], scored.rows[i // plan.choices], scored, logprobs=plan.logprobs)
            | {"index": i}
            for i, end in enumerate(ends)
        ]  # fmt: skip
        count.usage.prompt_tokens = sum(len(row.tokens) for row in scored.rows)
        count.usage.total_tokens = count.usage.prompt_tokens + count.usage.completion_tokens
        answer = {
            "id": new_id("cmpl-"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": target.model,
            "choices": choices,
            "usage": count.usage,
        }
        await exchange.answer(msgspec.json.encode(answer))

    async def _ends(
        self, plan: Plan, identity: Identity, scored: ScoreAnswer, count: _Count
    ) -> list[dict[str, Any]]:
        """Returns the choice that follows each prompt: the likeliest token, or the model's own words."""
        if follows_greedily(plan):
            ends = [greedy_end(plan, row, scored.pieces) for row in scored.rows for _ in range(plan.choices)]
            count.usage.completion_tokens = len(ends) * plan.body["max_tokens"]
            return ends
        written = replace(plan, mode="generate", echo=False, prompts=[row.tokens for row in scored.rows])
        target = await self._acquire(written, identity)
        failed = True
        try:
            answers = await self._gather(written, target, count)
            failed = False
        finally:
            self._targets.release(target, failed=failed)
        return merge_answers(answers, count.usage)["choices"]

    async def _relay_choices(self, plan: Plan, target: Target, exchange: Exchange, count: _Count) -> None:
        number = plan.choices * max(1, len(plan.prompts))
        gate = asyncio.Semaphore(_AT_ONCE)
        usages = [Usage() for _ in range(number)]
        last: dict[str, Any] = {}
        thoughts: list[str] = []
        identifier = new_id("chatcmpl-" if plan.endpoint == "chat" else "cmpl-")

        async def one(index: int) -> None:
            offset = 0
            reader = plan.reader(target)
            async with (
                gate,
                self._upstream.post(target, plan.path, plan.encode(target, index), plan.param) as response,
            ):
                if not exchange.streaming:
                    await exchange.begin_stream()
                stream = EventStream(response, target, include_usage=False)
                async for chunk in stream.chunks():
                    count.first_token = count.first_token or stream.first_token_s
                    if plan.logprobs:
                        offset = old_logprobs(chunk, plan.body["logprobs"], offset)
                    if reader is not None and not _read_calls(reader, chunk):
                        continue
                    if plan.shape is not None:
                        thoughts.append(thought_of(chunk, "delta"))
                        piece = plan.shape.chunk(chunk)
                    else:
                        chunk.pop("usage", None)
                        chunk.pop("timings", None)
                        chunk["id"] = identifier
                        last.update(chunk)
                        piece = b"data: " + msgspec.json.encode(number_choice(chunk, index)) + b"\n\n"
                    if piece:
                        await exchange.send_piece(piece)
                usages[index] = stream.usage or Usage()

        try:
            async with _all_or_none() as group:
                for index in range(number):
                    group.create_task(one(index))
        finally:
            count.usage = add_usage(plan, usages)
        if plan.shape is not None:
            await self._count_thought(plan, target, "".join(thoughts), count.usage)
            tail = plan.shape.end(count.usage)
        elif plan.include_usage:
            final: dict[str, Any] = {**last, "choices": [], "usage": count.usage}
            tail = b"data: " + msgspec.json.encode(final) + b"\n\n" + DONE
        else:
            tail = DONE
        await self._keep(plan)
        await exchange.send_piece(tail)
        await exchange.end_stream()

    # Counting

    def _finish(
        self,
        plan: Plan,
        identity: Identity,
        exchange: Exchange,
        target: Target | None,
        count: _Count,
        status: int,
        code: str,
    ) -> None:
        ended = time.perf_counter()
        usage = count.usage
        spent_s = ended - (count.first_token or count.started)
        if target is not None:
            self._targets.release(
                target, failed=status >= 500, tokens=usage.completion_tokens, seconds=spent_s
            )
        ttft_s = count.first_token - count.started if count.first_token else None
        self._limits.spend(identity, usage.prompt_tokens + usage.completion_tokens)
        meter = self._meter
        meter.requests.labels(plan.endpoint, str(status)).inc()
        if usage.prompt_tokens:
            meter.tokens.labels("prompt").inc(usage.prompt_tokens)
            meter.tokens.labels("cached").inc(usage.cached_tokens)
            meter.tokens.labels("completion").inc(usage.completion_tokens)
        if ttft_s is not None:
            meter.first_token_s.observe(ttft_s)
        if usage.completion_tokens > 1 and spent_s > 0:
            meter.tokens_per_s.observe(usage.completion_tokens / spent_s)
        self._usage.add(
            UsageRecord(
                id=new_id("u"),
                created_at=utc_naive(),
                endpoint=plan.endpoint,
                model=plan.model[:500],
                request_id=exchange.request_id,
                user_name=identity.user or "",
                token_id=identity.token_id,
                deployment_id=target.deployment_id if target else "",
                repo_id=target.repo_id if target else "",
                revision=target.revision if target else "",
                stream=plan.stream,
                status=status,
                error_code=code,
                prompt_tokens=usage.prompt_tokens,
                cached_tokens=usage.cached_tokens,
                completion_tokens=usage.completion_tokens,
                estimated=usage.estimated is True,
                ttft_ms=None if ttft_s is None else round(ttft_s * 1000, 2),
                duration_ms=round((ended - count.started) * 1000, 2),
            )
        )


def no_model(name: str) -> NotFound:
    """Returns the error for a model that is not served, or that the caller may not know of."""
    return NotFound(
        "There is no model {model!r} here.",
        hint="GET /v1/models lists those that are served; `fust serve OWNER/NAME` serves another, and BASE:OWNER/NAME is an adapter on one.",
        model=name[:200],
        param="model",
        code="model_not_found",
    )


def may_use_entry(identity: Identity, entry: ModelEntry) -> bool:
    """Returns whether the caller may know of a model and use it; gates are asked besides."""
    names, adapter = (entry.name, *entry.aliases), entry.adapter
    if adapter is None:
        return may_use(identity, names, entry.repo_id, private=entry.private)
    return may_use_with(
        identity, names, entry.repo_id, adapter.repo_id,
        private=entry.private, adapter_private=adapter.private,
    )  # fmt: skip


def gated_repos(entry: ModelEntry) -> list[str]:
    """Returns the repos whose gates stand before a model."""
    gated = [entry.repo_id] if entry.gated else []
    return [*gated, entry.adapter.repo_id] if entry.adapter and entry.adapter.gated else gated


def _check_entry(plan: Plan, entry: ModelEntry) -> None:
    if plan.needs_template and not entry.has_chat_template:
        raise _no_template(plan)
    if plan.any_mode and "completions" not in entry.capabilities:
        plan.mode = "embed"


def check_fit(plan: Plan, target: Target) -> None:
    """Raises Unsupported when the model cannot do what the request asks, which only its engine knows."""
    if plan.needs_template and not target.has_chat_template:
        raise _no_template(plan)
    if plan.pictures and "vision" not in target.capabilities:
        raise Unsupported(
            "{model} reads text only, and {param} is an image.",
            hint="Leave it out, or use a model that sees: GET /fust/v1/deployments lists what each can.",
            model=plan.model,
            param=plan.pictures[0].param,
        )
    if plan.needs and plan.needs not in target.capabilities:
        raise _lacks(plan)
    if plan.dimensions is not None and target.embedding and plan.dimensions != target.embedding:
        raise Unsupported(
            "Embeddings of {model} have {number} dimensions, no fewer and no more.",
            hint="Leave dimensions out.",
            model=plan.model,
            number=target.embedding,
            param="dimensions",
        )


def _lacks(plan: Plan) -> Unsupported:
    if plan.needs == "classify":
        return Unsupported(
            "{model} does not sort texts into classes.",
            hint="Serve a model for sequence classification, as safetensors.",
            model=plan.model,
            param="model",
            code="not_a_classifier",
        )
    return Unsupported(
        "{model} does not rank documents.",
        hint="Serve a reranker: a GGUF file whose pooling is `rank`, or safetensors of a classifier with one class.",
        model=plan.model,
        param="model",
        code="not_a_reranker",
    )


def _read_calls(reader: CallReader, chunk: dict[str, Any]) -> bool:
    """Lets the reader mend a chunk; returns whether something is left to be sent."""
    for choice in chunk.get("choices", ()):
        delta = choice["delta"]
        had = bool(delta)
        reader.chunk(choice)
        if had and not delta and not choice.get("finish_reason"):
            return False
    return True


def _no_template(plan: Plan) -> Unsupported:
    return Unsupported(
        "{model} has no chat template, so it does not know how a conversation is written.",
        hint="Use /v1/completions, or a model whose file holds a chat template.",
        model=plan.model,
        param="model",
        code="no_chat_template",
    )


class _Watch:
    """Cancels a request's task when its client has gone.

    It begins a moment late: an answer that is there by then was never worth a second task.
    """

    def __init__(self, receive: Receive, task: asyncio.Task[Any]) -> None:
        self.gone = False
        self._receive = receive
        self._task = task
        self._watcher: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, self._begin)

    def _begin(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass  # more of a body that had ended already
        self.gone = True
        self._task.cancel()

    def end(self) -> None:
        """Stops watching."""
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()


@contextlib.asynccontextmanager
async def _all_or_none() -> AsyncGenerator[asyncio.TaskGroup]:
    """A task group whose first error comes out alone, as it was."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise _first_of(errors) from None


def _first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first = errors.exceptions[0]
    return (
        _first_of(cast("BaseExceptionGroup[BaseException]", first))
        if isinstance(first, BaseExceptionGroup)
        else first
    )
