"""The process before vLLM: `python -m fust.serve.engines.vllm_child` turns the gateway's words into vLLM's.

It is an upstream that is near: chats and completions are passed on as they come, and what vLLM calls otherwise (tokens,
scores, rows to rerank) is asked for in its own way.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from aiohttp import web

from fust.serve.engines.child_http import Handler, Refused, answer, read_json, serve_routes
from fust.serve.engines.child_main import ChildConfig, ChildReady, run_child
from fust.serve.engines.scored import TooLong, Wanted, named_tokens, read_score_request
from fust.serve.engines.upstream_child import Elsewhere
from fust.serve.engines.vllm_words import going_on, mend, request_of, score_of, scored_of
from fust.wire.scoring import ScoreAnswer, ScoreRow

_AT_ROOT = frozenset({"/tokenize", "/detokenize", "/classify", "/rerank"})
"""Routes that are not below `/v1`; no key guards them."""
_TEMPLATE_TOKENS = 64
"""What a chat template may add beyond the length of the messages as JSON."""


class Near(Elsewhere):
    """vLLM on this machine."""

    def __init__(self, config: ChildConfig) -> None:
        super().__init__(config)
        self._at_once = asyncio.Semaphore(config.slots)
        self._pieces: dict[int, bytes] = {}

    def routes(self) -> dict[str, Handler]:
        """Returns path -> handler."""
        return {
            **super().routes(),
            "/v1/chat/completions/input_tokens": self.count,
            "/v1/classify": self.classify,
            "/score": self.score,
            "/tokenize": self.tokenize,
            "/detokenize": self.detokenize,
            "/apply-template": self.apply_template,
        }

    def ready(self, port: int) -> ChildReady:
        """Returns what the gateway has to know."""
        return ChildReady(port=port, context=self._context, capabilities=sorted(self._can))

    # How it is asked

    def _address(self, path: str) -> str:
        return (self._options.url.removesuffix("/v1") if path in _AT_ROOT else self._options.url) + path

    async def _words(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path not in ("/chat/completions", "/completions"):
            return {**body, "model": self._options.model}
        words = request_of(body, self._options.model)
        await self._fit(words)
        return words

    def _mend(self, made: dict[str, Any]) -> None:
        mend(made)

    async def _fit(self, words: dict[str, Any]) -> None:
        """Shortens the wanted answer to what the context leaves, which vLLM would refuse.

        Raises:
            TooLong: the context leaves nothing.
        """
        wanted = words.get("max_tokens") or 0
        said = words.get("messages", words.get("prompt", ""))
        tools = len(str(words["tools"])) if "tools" in words else 0
        if len(str(said).encode("utf-8", "replace")) + tools + _TEMPLATE_TOKENS + wanted <= self._context:
            return  # a token is at least a byte
        count = await self._count(words)
        if count >= self._context:
            raise TooLong(count, self._context)
        if wanted:
            words["max_tokens"] = min(wanted, self._context - count)

    async def _count(self, words: dict[str, Any]) -> int:
        if isinstance(words.get("prompt"), list):
            return len(words["prompt"])
        kept = ("messages", "tools", "chat_template_kwargs", "prompt")
        asked = {name: words[name] for name in kept if name in words} | going_on(words)
        return (await self._whole("/tokenize", asked))["count"]

    # What it calls otherwise

    async def rerank(self, request: web.Request) -> web.StreamResponse:
        """`POST /rerank`, in the form of Jina's API."""
        body = await read_json(request)
        self._check(body, "rerank")
        made = await self._whole("/rerank", body)
        results = [
            {"index": found["index"], "relevance_score": found["relevance_score"]}
            for found in made["results"]
        ]
        return answer({"results": results, "usage": made["usage"]})

    async def classify(self, request: web.Request) -> web.StreamResponse:
        """`POST /classify`."""
        body = await read_json(request)
        self._check(body, "classify")
        return answer(await self._whole("/classify", body))

    async def count(self, request: web.Request) -> web.StreamResponse:
        """Answers how many tokens a conversation has."""
        return answer({"input_tokens": await self._count(await read_json(request))})

    async def apply_template(self, request: web.Request) -> web.StreamResponse:
        """Tells whether the chat template comes to an end; the gateway asks when an answer is long in coming."""
        await self._count(await read_json(request))
        return answer({"prompt": ""})

    async def tokenize(self, request: web.Request) -> web.StreamResponse:
        """Answers with the tokens of a text."""
        body = await read_json(request)
        tokens = await self._tokens(body["content"], special=bool(body.get("add_special")))
        if not body.get("with_pieces"):
            return answer({"tokens": tokens})
        pieces = await self._pieces_of(set(tokens))
        return answer({"tokens": [{"id": token, "piece": list(pieces[token])} for token in tokens]})

    async def detokenize(self, request: web.Request) -> web.StreamResponse:
        """Answers with the text of tokens."""
        return answer({"content": await self._text((await read_json(request))["tokens"])})

    async def score(self, request: web.Request) -> web.StreamResponse:
        """`POST /score` (`fust.wire.scoring`)."""
        self._check({}, "scoring")
        wanted = read_score_request(await request.read())
        model = wanted.adapter or self._options.model
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._score(row, model, wanted.top)) for row in wanted.rows]
        rows = [task.result() for task in tasks]
        named = await self._pieces_of(named_tokens(rows)) if wanted.pieces else {}
        return answer(ScoreAnswer(rows, named))

    async def _score(self, row: ScoreRow, model: str, top: int) -> Any:
        tokens = row.tokens if row.tokens is not None else await self._tokens(row.text or "", special=True)
        if not tokens:
            raise Refused(400, "invalid_request_error", "a row has no tokens")
        if len(tokens) >= self._context:  # vLLM wants room for one token more
            raise TooLong(len(tokens) + 1, self._context)
        one = Wanted.of(row, tokens)
        async with self._at_once, self._asked("POST", "/completions", score_of(one, model, top)) as response:  # fmt: skip
            return scored_of(one, await self._decoded(response), top)

    async def _tokens(self, text: str, *, special: bool) -> list[int]:
        return (await self._whole("/tokenize", {"prompt": text, "add_special_tokens": special}))["tokens"]

    async def _text(self, tokens: list[int]) -> str:
        return (await self._whole("/detokenize", {"tokens": tokens}))["prompt"]

    async def _pieces_of(self, tokens: set[int]) -> dict[int, bytes]:
        """Returns the text of each token as it stands behind another one; a piece of a character is U+FFFD here."""

        async def look(token: int) -> None:
            async with self._at_once:
                alone, twice = await self._text([token]), await self._text([token, token])
            self._pieces[token] = twice[len(alone) :].encode()

        async with asyncio.TaskGroup() as group:
            for token in tokens - self._pieces.keys():
                group.create_task(look(token))
        return {token: self._pieces[token] for token in tokens}


def _start(config: ChildConfig) -> ChildReady:
    near = Near(config)
    return near.ready(serve_routes(config, near.routes(), near.open))


if __name__ == "__main__":
    sys.exit(run_child(_start))
