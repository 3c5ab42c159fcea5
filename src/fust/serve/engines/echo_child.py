"""The echo engine's process: `python -m fust.serve.engines.echo_child` answers with what it was told, well or badly."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import struct
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiohttp import web

from fust.core.ids import new_id
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
from fust.serve.engines.child_main import ChildConfig, run_child
from fust.serve.engines.echo import EchoOptions, Turn, read_turns
from fust.serve.engines.echo_schema import instance_of
from fust.serve.engines.echo_words import (
    bytes_of,
    embedding_of,
    pieces_of,
    relevance_of,
    text_of,
    tokens_of,
)

_HUGE = "The quick brown fox jumps over the lazy dog. " * 93_207  # 4 MiB
_ENDLESS_S = 0.02
_GARBAGE = bytes(range(256)) * 4
_NOT_TEXT = '{"text": "你好'.encode()[:-1] + b"\xff\xfe"


class Echo:
    """Answers every route of an engine; its state is the number of the next turn."""

    def __init__(self, config: ChildConfig) -> None:
        options = msgspec.json.decode(config.options, type=EchoOptions)
        self._alias, self._context = config.alias, config.context
        self._turns = read_turns(options.misbehave) or [Turn("ok")]
        self._count = 0
        self._hanging = False

    def routes(self) -> dict[str, Handler]:
        """Returns path -> handler."""
        return {
            "/v1/chat/completions": self.chat,
            "/v1/chat/completions/input_tokens": self.count,
            "/v1/completions": self.complete,
            "/v1/embeddings": self.embed,
            "/v1/rerank": self.rerank,
            "/tokenize": self.tokenize,
            "/detokenize": self.detokenize,
            "/apply-template": self.apply_template,
        }

    # Well

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answers with the last message; with a value of the schema, or a call, when one is asked for."""
        body = await read_json(request)
        return await self._respond(request, body, _message_of(body), _prompt_tokens(body), is_chat=True)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Answers with the prompt."""
        body = await read_json(request)
        prompt = body.get("prompt", "")
        text = prompt if isinstance(prompt, str) else text_of(prompt)
        if isinstance(body.get("json_schema"), dict):
            text = _json(instance_of(body["json_schema"]))
        return await self._respond(request, body, {"content": text}, len(tokens_of(text)), is_chat=False)

    async def count(self, request: web.Request) -> web.StreamResponse:
        """Answers how many tokens a conversation has."""
        return answer({"input_tokens": _prompt_tokens(await read_json(request))})

    async def embed(self, request: web.Request) -> web.StreamResponse:
        """Answers with a vector for each input."""
        body = await read_json(request)
        given = body.get("input", "")
        is_one = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
        texts = [text if isinstance(text, str) else text_of(text) for text in ([given] if is_one else given)]
        vectors: list[Any] = [embedding_of(text) for text in texts]
        if body.get("encoding_format") == "base64":
            vectors = [base64.b64encode(struct.pack(f"<{len(v)}f", *v)).decode() for v in vectors]
        made = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
        tokens = sum(len(tokens_of(text)) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return await self._whole(
            request, {"object": "list", "model": self._alias, "data": made, "usage": usage}
        )

    async def rerank(self, request: web.Request) -> web.StreamResponse:
        """Answers how many of the query's words each document holds."""
        body = await read_json(request)
        documents = [str(document) for document in body.get("documents", ())]
        results = [
            {"index": index, "relevance_score": relevance_of(str(body.get("query", "")), document)}
            for index, document in enumerate(documents)
        ]
        tokens = sum(len(tokens_of(text)) for text in (str(body.get("query", "")), *documents))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return await self._whole(request, {"model": self._alias, "results": results, "usage": usage})

    async def tokenize(self, request: web.Request) -> web.StreamResponse:
        """Answers with the tokens of a text, in llama.cpp's form."""
        body = await read_json(request)
        tokens = tokens_of(str(body.get("content", "")))
        if not body.get("with_pieces"):
            return answer({"tokens": tokens})
        return answer({"tokens": [{"id": token, "piece": list(bytes_of(token))} for token in tokens]})

    async def detokenize(self, request: web.Request) -> web.StreamResponse:
        """Answers with the text of tokens."""
        return answer({"content": text_of((await read_json(request)).get("tokens", []))})

    async def apply_template(self, request: web.Request) -> web.StreamResponse:
        """Answers with the conversation; the gateway asks when an answer is long in coming."""
        if self._hanging:
            await asyncio.Event().wait()
        messages = (await read_json(request)).get("messages", ())
        return answer({"prompt": "\n".join(str(message.get("content", "")) for message in messages)})

    async def _respond(
        self,
        request: web.Request,
        body: dict[str, Any],
        message: dict[str, Any],
        prompt_tokens: int,
        *,
        is_chat: bool,
    ) -> web.StreamResponse:
        if prompt_tokens >= self._context:
            raise Refused(
                400,
                "exceed_context_size_error",
                "the request exceeds the available context size",
                n_prompt_tokens=prompt_tokens,
                n_ctx=self._context,
            )
        turn = self._next()
        if turn.name == "huge":
            message = {"content": _HUGE}
        limit = min(body.get("max_tokens") or self._context, self._context - prompt_tokens)
        reply = Reply(
            message,
            body,
            prompt_tokens,
            sys.maxsize if turn.name == "huge" else limit,
            self._alias,
            is_chat=is_chat,
        )
        if body.get("stream"):
            return await self._stream(request, reply, turn)
        return await self._whole(request, reply.whole(), turn)

    # Badly

    def _next(self) -> Turn:
        turn = self._turns[self._count % len(self._turns)]
        self._count += 1
        return turn

    async def _before(self, turn: Turn) -> web.Response | None:
        """Does what comes before an answer, or is given in its place."""
        if turn.name == "slow":
            await asyncio.sleep(turn.seconds)
        elif turn.name == "500":
            raise Refused(500, "server_error", "the echo engine was told to fail")
        elif turn.name == "429":
            raise Refused(
                429, "rate_limit_error", "the echo engine was told to be busy", retry_after_s=turn.seconds
            )
        elif turn.name == "type":
            return web.Response(text="<!doctype html><title>Sign in</title>", content_type="text/html")
        elif turn.name == "hang":
            self._hanging = True
            time.sleep(86_400)  # the loop itself: nothing answers any more
        return None

    async def _whole(
        self, request: web.Request, body: object, turn: Turn | None = None
    ) -> web.StreamResponse:
        turn = turn or self._next()
        instead = await self._before(turn)
        if instead is not None:
            return instead
        raw = {"garbage": _GARBAGE, "utf8": _NOT_TEXT}.get(turn.name, msgspec.json.encode(body))
        if turn.name not in ("cut", "stall", "die", "endless"):
            return web.Response(body=raw, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(raw)
        await response.prepare(request)
        await response.write(raw[: len(raw) // 2])
        await _interrupt(request, turn)
        await response.write(raw[len(raw) // 2 :])
        return response

    async def _stream(self, request: web.Request, reply: Reply, turn: Turn) -> web.StreamResponse:
        instead = await self._before(turn)
        if instead is not None:
            return instead
        response = await begin_stream(request)
        events = reply.events()
        half = len(events) // 2
        for index, chunk in enumerate(events):
            if index == half:
                if turn.name == "garbage":
                    await response.write(_GARBAGE + b"\n\n")
                    return response
                async for more in _endless(reply, turn):
                    await response.write(more)
                await _interrupt(request, turn)
            if turn.name == "utf8":
                await _write_apart(response, chunk, index == half)
            else:
                await response.write(chunk)
        return response


async def _endless(reply: Reply, turn: Turn) -> AsyncIterator[bytes]:
    while turn.name == "endless":
        yield event(reply.chunk("and so on "))
        await asyncio.sleep(_ENDLESS_S)


async def _interrupt(request: web.Request, turn: Turn) -> None:
    if turn.name == "die":
        os._exit(9)
    if turn.name == "stall":
        await asyncio.sleep(turn.seconds)
    elif turn.name == "endless":
        await asyncio.Event().wait()
    elif turn.name == "cut" and request.transport is not None:
        await asyncio.sleep(0.05)  # so that what was written is on its way
        request.transport.abort()
        await asyncio.sleep(0)


async def _write_apart(response: web.StreamResponse, chunk: bytes, broken: bool) -> None:
    """Writes an event byte by byte where its text is not ASCII, and once with bytes that are no text."""
    if broken:
        chunk = chunk.replace(b'"content":"', b'"content":"\xff\xfe').replace(
            b'"text":"', b'"text":"\xff\xfe'
        )
    for piece in re.findall(rb"[\x00-\x7f]+|[\x80-\xff]", chunk):
        await response.write(piece)
        await asyncio.sleep(0.001)


class Reply:
    """One answer, whole or in events, in the form of llama.cpp's server."""

    def __init__(
        self,
        message: dict[str, Any],
        body: dict[str, Any],
        prompt_tokens: int,
        limit: int,
        alias: str,
        *,
        is_chat: bool,
    ) -> None:
        self._alias, self._chat, self._prompt = alias, is_chat, prompt_tokens
        self._calls: list[dict[str, Any]] = message.get("tool_calls", [])
        self._top: int | None = (
            body.get("top_logprobs", 0) if body.get("logprobs") is True else body.get("logprobs")
        )
        if body.get("logprobs") in (None, False):
            self._top = None
        text, self._finish = str(message.get("content") or ""), "stop"
        stops = [body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop") or []
        places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
        text = text[: min(places)] if places else text
        tokens = tokens_of(text)
        if len(tokens) > limit:
            tokens, self._finish = tokens[:limit], "length"
        if self._calls:
            self._finish = "tool_calls"
        self._tokens, self._pieces = tokens, pieces_of(tokens)
        self._id, self._created = new_id("chatcmpl-" if is_chat else "cmpl-"), int(time.time())

    def _written(self) -> int:
        return len(self._tokens) + sum(len(tokens_of(call["function"]["arguments"])) for call in self._calls)

    def _usage(self) -> dict[str, Any]:
        written = self._written()
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": written,
            "total_tokens": self._prompt + written,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def _logprobs(self, start: int, end: int) -> dict[str, Any] | None:
        if self._top is None:
            return None
        content: list[dict[str, Any]] = []
        for token, piece in zip(self._tokens[start:end], self._pieces[start:end], strict=True):
            sure = {"token": piece, "logprob": 0.0, "bytes": list(bytes_of(token))}
            content.append({**sure, "id": token, "top_logprobs": [sure] if self._top else []})
        return {"content": content}

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = f"chat.completion{kind}" if self._chat else "text_completion"
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._alias,
            "choices": choices,
        }

    def whole(self) -> dict[str, Any]:
        """Returns the answer that is not streamed."""
        text, logprobs = "".join(self._pieces), self._logprobs(0, len(self._tokens))
        choice: dict[str, Any] = {"index": 0, "finish_reason": self._finish}
        if self._chat:
            calls = {"tool_calls": self._calls} if self._calls else {}
            choice["message"] = {"role": "assistant", "content": None if self._calls else text, **calls}
        else:
            choice["text"] = text
        if logprobs is not None:
            choice["logprobs"] = logprobs
        return {**self._frame("", [choice]), "usage": self._usage()}

    def chunk(self, piece: str, logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
        """Returns a chunk that holds a piece of the text."""
        said: dict[str, Any] = {"delta": {"content": piece}} if self._chat else {"text": piece}
        more = {} if logprobs is None else {"logprobs": logprobs}
        return self._frame(".chunk", [{"index": 0, "finish_reason": None, **said, **more}])

    def events(self) -> list[bytes]:
        """Returns the events of the stream, one for each token, the end mark last."""
        chunks = [self.chunk(piece, self._logprobs(i, i + 1)) for i, piece in enumerate(self._pieces)]
        for index, call in enumerate(self._calls):
            name, written = call["function"]["name"], call["function"]["arguments"]
            opened = {**call, "index": index, "function": {"name": name, "arguments": ""}}
            deltas = [{"tool_calls": [opened]}]
            deltas += [
                {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
                for piece in pieces_of(tokens_of(written))
            ]
            chunks += [
                self._frame(".chunk", [{"index": 0, "finish_reason": None, "delta": delta}])
                for delta in deltas
            ]
        if self._chat:
            first = {"role": "assistant", "content": None}
            chunks.insert(0, self._frame(".chunk", [{"index": 0, "finish_reason": None, "delta": first}]))
        end: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
        chunks.append(self._frame(".chunk", [{"index": 0, "finish_reason": self._finish, **end}]))
        chunks.append({**self._frame(".chunk", []), "usage": self._usage()})
        return [*(event(chunk) for chunk in chunks), END]


def _message_of(body: dict[str, Any]) -> dict[str, Any]:
    """Returns the message that answers a chat."""
    form: dict[str, Any] = body.get("response_format") or {}
    if form.get("type") == "json_schema":
        return {"content": _json(instance_of(form.get("json_schema", form).get("schema", {})))}
    if isinstance(body.get("json_schema"), dict):
        return {"content": _json(instance_of(body["json_schema"]))}
    if form.get("type") == "json_object":
        return {"content": _json(instance_of(form.get("schema") or {}) or {})}
    messages: list[dict[str, Any]] = body.get("messages") or [{}]
    last = messages[-1]
    text = str(next((m.get("content") for m in reversed(messages) if m.get("role") in ("user", "tool")), ""))
    if last.get("role") == "user" and body.get("tool_choice") != "none":
        called = [tool["function"] for tool in body.get("tools") or () if tool["function"]["name"] in text]
        if called:
            return {"tool_calls": [_call(function) for function in called]}
    return {"content": text}


def _call(function: dict[str, Any]) -> dict[str, Any]:
    written = _json(instance_of(function.get("parameters") or {"type": "object"}))
    return {
        "id": new_id("call_"),
        "type": "function",
        "function": {"name": function["name"], "arguments": written},
    }


def _prompt_tokens(body: dict[str, Any]) -> int:
    return sum(1 + len(tokens_of(str(message.get("content") or ""))) for message in body.get("messages", ()))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _start(config: ChildConfig) -> int:
    return serve_routes(config, Echo(config).routes())


if __name__ == "__main__":
    sys.exit(run_child(_start))
