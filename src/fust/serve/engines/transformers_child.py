"""The transformers engine's process: `python -m fust.serve.engines.transformers_child` speaks llama.cpp's HTTP dialect.

Routes: /v1/chat/completions (and /input_tokens below it), /v1/completions, /v1/embeddings, /v1/rerank, /v1/classify,
/score, /tokenize, /detokenize, /apply-template; GET /health, /props (what the model can), /slots.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fust.serve.engines.child_http import END, Call, Handler, Refused, event, on_thread, serve_routes
from fust.serve.engines.child_main import ChildConfig, ChildReady, run_child
from fust.serve.engines.scored import TooLong, Wanted, named_tokens, read_score_request
from fust.wire.scoring import ScoreAnswer

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
# Below here torch and transformers come in, and read the environment.
import torch

from fust.serve.engines import tf_model
from fust.serve.engines import tf_requests as asked
from fust.serve.engines.safetensors import EMBED_TOKENS
from fust.serve.engines.tf_answers import Form, Reading
from fust.serve.engines.tf_batch import Batcher, Sequence
from fust.serve.engines.tf_score import score
from fust.serve.engines.tf_template import bound_templates
from fust.serve.engines.tf_text import Decoder, Stops, Thoughts


def _offers(loaded: tf_model.Loaded) -> frozenset[str]:
    """Returns what a model can."""
    if loaded.task == "embed":
        return frozenset({"embeddings"})
    if loaded.task == "classify":
        return frozenset({"classify", *(["rerank"] if loaded.model.config.num_labels == 1 else [])})
    chat = {"chat", "tools"} if loaded.tokenizer.chat_template else set[str]()
    return frozenset({"completions", "logprobs", "json_schema", "embeddings", "scoring", *chat})


class Answers:
    """Answers every route of an engine; each request on a thread of its own."""

    def __init__(self, loaded: tf_model.Loaded, config: ChildConfig) -> None:
        self.offers = _offers(loaded)
        self._loaded, self._alias = loaded, config.alias
        self._batcher = Batcher(loaded, config.slots)
        self._words = asked.Words(loaded)

    def routes(self) -> dict[str, Handler]:
        """Returns path -> handler."""
        return {path: self._route(work, needs) for path, (work, needs) in _ROUTES.items()}

    def _route(self, work: Callable[[Answers, Call], object], needs: str) -> Handler:
        def respond(call: Call) -> object:
            if needs and needs not in self.offers:
                raise Refused(501, "not_supported_error", f"this model has no {needs}")
            return work(self, call)

        return on_thread(respond)

    # What it is

    def props(self) -> dict[str, Any]:
        """`GET /props`."""
        return {"capabilities": sorted(self.offers)}

    def slots(self) -> list[dict[str, Any]]:
        """`GET /slots`."""
        busy = self._batcher.busy
        return [{"id": i, "is_processing": i < busy} for i in range(self._batcher.slots)]

    # Writing

    def chat(self, call: Call) -> dict[str, Any] | None:
        """`POST /v1/chat/completions`."""
        body = asked.decode(call.body, asked.ChatBody)
        text = self._words.render(body)
        prompt = self._loaded.tokenize(text, special=False)
        inside = text.rstrip().endswith("<think>")
        is_plain = body.reasoning_format == "none" or body.grammar or body.response_format or body.json_schema
        thoughts = None if is_plain else Thoughts(inside=inside)
        limit = None if is_plain else self._words.thought_limit(body, inside=inside)
        sequence = self._words.sequence(body, prompt, body.top_logprobs if body.logprobs else -1, limit)
        return self._write(call, sequence, body, thoughts, Form("chat", self._alias, self._words.piece))

    def complete(self, call: Call) -> dict[str, Any] | None:
        """`POST /v1/completions`."""
        body = asked.decode(call.body, asked.CompletionBody)
        prompt = body.prompt if isinstance(body.prompt, list) else self._loaded.tokenize(body.prompt)
        sequence = self._words.sequence(body, prompt, -1 if body.logprobs is None else body.logprobs)
        return self._write(call, sequence, body, None, Form("text", self._alias, self._words.piece))

    def _write(
        self, call: Call, sequence: Sequence, body: asked.Writing, thoughts: Thoughts | None, form: Form
    ) -> dict[str, Any] | None:
        decoder = Decoder(self._loaded.tokenizer, sequence.prompt)
        reading = Reading(sequence, decoder, Stops(body.stops), thoughts, call.is_there)
        told = sequence.top >= 0
        try:
            self._batcher.write(sequence)
            if body.stream:
                form.prompt_tokens = len(sequence.prompt) if body.timings_per_token else None
                return self._stream(call, reading, form, told=told)
            return form.whole(list(reading.pieces()), reading.usage, told=told)
        finally:
            sequence.left = True  # its slot is free before the next step

    def _stream(self, call: Call, reading: Reading, form: Form, *, told: bool) -> None:
        first = form.first()
        for piece in reading.pieces():  # what is wrong before the first text is an answer of its own
            head = event(first) if first is not None else b""
            call.send(head + event(form.chunk(piece, told=told)))
            first = None
        call.send(event(form.last(reading.usage)) + END)

    # Other work

    def embed(self, call: Call) -> dict[str, Any]:
        """`POST /v1/embeddings`."""
        body = asked.decode(call.body, asked.EmbeddingBody)
        loaded = self._loaded
        given = body.input
        inputs: list[Any] = (
            [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
        )
        rows = [loaded.tokenize(item) if isinstance(item, str) else item for item in inputs]
        for row in rows:
            asked.check_prompt(row, loaded)
            if len(row) > loaded.context:
                raise TooLong(len(row), loaded.context)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        vectors: dict[int, Any] = {}

        def work() -> Iterator[dict[int, Any]]:
            at = 0
            while at < len(order):
                end = at + 1
                while end < len(order) and len(rows[order[end]]) * (end + 1 - at) <= EMBED_TOKENS:
                    end += 1
                part = order[at:end]
                vectors.update(zip(part, tf_model.embed(loaded, [rows[i] for i in part]), strict=True))
                at = end
                yield vectors

        found = self._batcher.run(work, call.is_there)
        as_text = body.encoding_format == "base64"
        data = [
            {
                "object": "embedding",
                "index": i,
                "embedding": base64.b64encode(found[i].astype("<f4").tobytes()).decode() if as_text else found[i].tolist(),
            }
            for i in range(len(rows))
        ]  # fmt: skip
        return {"object": "list", "model": self._alias, "data": data, "usage": _usage(rows)}

    def rerank(self, call: Call) -> dict[str, Any]:
        """`POST /v1/rerank`: how well each document answers the query, between 0 and 1."""
        body = asked.decode(call.body, asked.RerankBody)
        rows = [self._pair(body.query, document) for document in body.documents]
        scores = self._classified(call, rows)
        results = [{"index": i, "relevance_score": float(line[0])} for i, line in enumerate(scores)]
        return {"results": results, "usage": _usage([row["input_ids"] for row in rows])}

    def classify(self, call: Call) -> dict[str, Any]:
        """`POST /v1/classify`: the probability of each class (docs.vllm.ai, Classification API)."""
        body = asked.decode(call.body, asked.ClassifyBody)
        rows = [self._pair(text) for text in body.input]
        names = tf_model.labels(self._loaded)
        data = [
            {
                "index": i,
                "label": names[int(line.argmax())],
                "probs": line.tolist(),
                "num_classes": len(names),
            }
            for i, line in enumerate(self._classified(call, rows))
        ]
        return {"object": "list", "model": self._alias, "data": data, "usage": _usage([row["input_ids"] for row in rows])}  # fmt: skip

    def _pair(self, *texts: str) -> dict[str, list[int]]:
        loaded = self._loaded
        row = {name: list(values) for name, values in loaded.tokenizer(*texts).items()}
        if len(row["input_ids"]) > loaded.context:
            raise TooLong(len(row["input_ids"]), loaded.context)
        return row

    def _classified(self, call: Call, rows: list[dict[str, list[int]]]) -> list[Any]:
        lines: list[Any] = []

        def work() -> Iterator[list[Any]]:
            for row in rows:
                lines.append(tf_model.classify(self._loaded, row))
                yield lines

        return self._batcher.run(work, call.is_there)

    def score(self, call: Call) -> ScoreAnswer:
        """`POST /score` (`fust.wire.scoring`)."""
        request = read_score_request(call.body)
        if request.adapter:
            raise Refused(501, "not_supported_error", "adapters go with GGUF files")
        loaded, batcher = self._loaded, self._batcher
        rows = [
            Wanted.of(row, row.tokens if row.tokens is not None else loaded.tokenize(row.text or ""))
            for row in request.rows
        ]
        scored = batcher.run(lambda: score(loaded, rows, request.top, shares=batcher.shares), call.is_there)
        named = named_tokens(scored) if request.pieces else ()
        return ScoreAnswer(scored, {token: self._words.piece(token) for token in named})

    # Words

    def tokenize(self, call: Call) -> dict[str, Any]:
        """`POST /tokenize`."""
        body = asked.decode(call.body, asked.TokenizeBody)
        ids = self._loaded.tokenize(body.content, special=body.add_special)
        if not body.with_pieces:
            return {"tokens": ids}
        return {"tokens": [{"id": token, "piece": _shown(self._words.piece(token))} for token in ids]}

    def detokenize(self, call: Call) -> dict[str, Any]:
        """`POST /detokenize`."""
        body = asked.decode(call.body, asked.DetokenizeBody)
        asked.check_prompt(body.tokens, self._loaded)
        return {"content": self._loaded.tokenizer.decode(body.tokens, clean_up_tokenization_spaces=False)}

    def render(self, call: Call) -> dict[str, Any]:
        """`POST /apply-template`."""
        return {"prompt": self._words.render(asked.decode(call.body, asked.ChatBody))}

    def count(self, call: Call) -> dict[str, Any]:
        """`POST /v1/chat/completions/input_tokens`."""
        text = self._words.render(asked.decode(call.body, asked.ChatBody))
        return {"input_tokens": len(self._loaded.tokenize(text, special=False))}


def _shown(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def _usage(rows: list[list[int]]) -> dict[str, int]:
    count = sum(map(len, rows))
    return {"prompt_tokens": count, "total_tokens": count}


_ROUTES: dict[str, tuple[Callable[[Answers, Call], object], str]] = {
    "/v1/chat/completions": (Answers.chat, "chat"),
    "/v1/chat/completions/input_tokens": (Answers.count, "chat"),
    "/apply-template": (Answers.render, "chat"),
    "/v1/completions": (Answers.complete, "completions"),
    "/v1/embeddings": (Answers.embed, "embeddings"),
    "/v1/rerank": (Answers.rerank, "rerank"),
    "/v1/classify": (Answers.classify, "classify"),
    "/score": (Answers.score, "scoring"),
    "/tokenize": (Answers.tokenize, ""),
    "/detokenize": (Answers.detokenize, ""),
}
"""What answers each route, and the capability that it needs."""


def _start(config: ChildConfig) -> ChildReady:
    torch.set_num_threads(config.threads)
    bound_templates()
    folder = Path(config.path).parent
    try:
        loaded = tf_model.load(folder, config.context)
    except Exception as error:  # transformers writes whole pages; the first line says what it is
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        if "ignore_mismatched_sizes" in lines[0]:  # it speaks to programmers, of a report on another stream
            lines[0] = "its tensors have other sizes than its config.json says"
        raise tf_model.CannotLoad(lines[0][:400].replace(str(folder), "the model")) from error
    answers = Answers(loaded, config)
    tells = {"/props": answers.props, "/slots": answers.slots}
    port = serve_routes(config, answers.routes(), tells=tells)
    return ChildReady(port=port, capabilities=sorted(answers.offers))


if __name__ == "__main__":
    sys.exit(run_child(_start))
