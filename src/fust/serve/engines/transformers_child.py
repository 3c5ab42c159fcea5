"""The transformers engine's process: `python -m fust.serve.engines.transformers_child` speaks llama.cpp's HTTP dialect.

Routes: /v1/chat/completions (and /input_tokens below it), /v1/completions, /v1/embeddings, /v1/rerank, /v1/classify,
/score, /tokenize, /detokenize, /apply-template; GET /health, /props (what the model can), /slots.
"""

from __future__ import annotations

import base64
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from fust.serve.engines.child_main import ChildConfig, ChildReady, run_child
from fust.serve.engines.loopback import LoopbackHandler, LoopbackServer, Refused
from fust.serve.engines.scored import TooLong, Wanted, named_tokens, read_score_request
from fust.wire.scoring import ScoreAnswer

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
# Below here torch and transformers come in, and read the environment.
import torch

from fust.serve.engines import tf_model
from fust.serve.engines import tf_requests as asked
from fust.serve.engines.tf_answers import Form, Reading
from fust.serve.engines.tf_batch import Batcher, Sequence
from fust.serve.engines.tf_score import score
from fust.serve.engines.tf_text import Decoder, Stops, Thoughts

_EMBED_TOKENS = 4096
"""Places of one batch, the filled up ones included."""


class _Server(LoopbackServer):
    def __init__(self, loaded: tf_model.Loaded, config: ChildConfig) -> None:
        super().__init__(_Handler, config.api_key)
        self.loaded, self.alias = loaded, config.alias
        self.batcher = Batcher(loaded, config.slots)
        self.words = asked.Words(loaded)
        self.offers = _offers(loaded)


def _offers(loaded: tf_model.Loaded) -> frozenset[str]:
    """Returns what a model can."""
    if loaded.task == "embed":
        return frozenset({"embeddings"})
    if loaded.task == "classify":
        return frozenset({"classify", *(["rerank"] if loaded.model.config.num_labels == 1 else [])})
    chat = {"chat", "tools"} if loaded.tokenizer.chat_template else set[str]()
    return frozenset({"completions", "logprobs", "json_schema", "embeddings", "scoring", *chat})


class _Handler(LoopbackHandler):
    @property
    def _of(self) -> _Server:
        assert isinstance(self.server, _Server)
        return self.server

    def find(self, path: str) -> bytes | None:
        """See `LoopbackHandler.find`."""
        if path == "/props":
            return msgspec.json.encode({"capabilities": sorted(self._of.offers)})
        if path == "/slots":
            batcher = self._of.batcher
            return msgspec.json.encode(
                [{"id": i, "is_processing": i < batcher.busy} for i in range(batcher.slots)]
            )
        return super().find(path)

    def post(self, path: str, body: bytes) -> None:
        """See `LoopbackHandler.post`."""
        route, needs = _ROUTES.get(path, (None, ""))
        if route is None:
            raise Refused(404, "not_found_error", f"there is no route {path[:100]}")
        if needs and needs not in self._of.offers:
            raise Refused(501, "not_supported_error", f"this model has no {needs}")
        made = route(self, body)
        if made is not None:
            self.answer(200, msgspec.json.encode(made))

    # Writing

    def chat(self, raw: bytes) -> None:
        """`POST /v1/chat/completions`."""
        body = asked.decode(raw, asked.ChatBody)
        text = self._of.words.render(body)
        prompt = self._of.loaded.tokenize(text, special=False)
        sequence = self._of.words.sequence(body, prompt, body.top_logprobs if body.logprobs else -1)
        is_plain = body.reasoning_format == "none" or body.grammar or body.response_format or body.json_schema
        thoughts = None if is_plain else Thoughts(inside=text.rstrip().endswith("<think>"))
        self._write(sequence, body, thoughts, Form("chat", self._of.alias, self._of.words.piece))

    def complete(self, raw: bytes) -> None:
        """`POST /v1/completions`."""
        body = asked.decode(raw, asked.CompletionBody)
        prompt = body.prompt if isinstance(body.prompt, list) else self._of.loaded.tokenize(body.prompt)
        sequence = self._of.words.sequence(body, prompt, -1 if body.logprobs is None else body.logprobs)
        self._write(sequence, body, None, Form("text", self._of.alias, self._of.words.piece))

    def _write(self, sequence: Sequence, body: asked.Writing, thoughts: Thoughts | None, form: Form) -> None:
        decoder = Decoder(self._of.loaded.tokenizer, sequence.prompt)
        reading = Reading(sequence, decoder, Stops(body.stops), thoughts, self.is_there)
        told = sequence.top >= 0
        try:
            self._of.batcher.write(sequence)
            if body.stream:
                self._stream(reading, form, told=told)
            else:
                whole = form.whole(list(reading.pieces()), reading.usage, told=told)
                self.answer(200, msgspec.json.encode(whole))
        finally:
            sequence.left = True  # its slot is free before the next step

    def _stream(self, reading: Reading, form: Form, *, told: bool) -> None:
        for piece in reading.pieces():
            if not self.streaming:  # what is wrong before the first text is an answer of its own
                self.begin_stream()
                first = form.first()
                if first is not None:
                    self.send_event(first)
            self.send_event(form.chunk(piece, told=told))
        self.send_event(form.last(reading.usage))
        self.send_event(b"[DONE]")
        self.end_stream()

    # Other work

    def embed(self, raw: bytes) -> dict[str, Any]:
        """`POST /v1/embeddings`."""
        body = asked.decode(raw, asked.EmbeddingBody)
        loaded = self._of.loaded
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
                while end < len(order) and len(rows[order[end]]) * (end + 1 - at) <= _EMBED_TOKENS:
                    end += 1
                part = order[at:end]
                vectors.update(zip(part, tf_model.embed(loaded, [rows[i] for i in part]), strict=True))
                at = end
                yield vectors

        found = self._of.batcher.run(work, self.is_there)
        as_text = body.encoding_format == "base64"
        data = [
            {
                "object": "embedding",
                "index": i,
                "embedding": base64.b64encode(found[i].astype("<f4").tobytes()).decode() if as_text else found[i].tolist(),
            }
            for i in range(len(rows))
        ]  # fmt: skip
        return {"object": "list", "model": self._of.alias, "data": data, "usage": _usage(rows)}

    def rerank(self, raw: bytes) -> dict[str, Any]:
        """`POST /v1/rerank`: how well each document answers the query, between 0 and 1."""
        body = asked.decode(raw, asked.RerankBody)
        rows = [self._pair(body.query, document) for document in body.documents]
        scores = self._classified(rows)
        results = [{"index": i, "relevance_score": float(line[0])} for i, line in enumerate(scores)]
        return {"results": results, "usage": _usage([row["input_ids"] for row in rows])}

    def classify(self, raw: bytes) -> dict[str, Any]:
        """`POST /v1/classify`: the probability of each class (docs.vllm.ai, Classification API)."""
        body = asked.decode(raw, asked.ClassifyBody)
        rows = [self._pair(text) for text in body.input]
        names = tf_model.labels(self._of.loaded)
        data = [
            {
                "index": i,
                "label": names[int(line.argmax())],
                "probs": line.tolist(),
                "num_classes": len(names),
            }
            for i, line in enumerate(self._classified(rows))
        ]
        return {"object": "list", "model": self._of.alias, "data": data, "usage": _usage([row["input_ids"] for row in rows])}  # fmt: skip

    def _pair(self, *texts: str) -> dict[str, list[int]]:
        loaded = self._of.loaded
        row = {name: list(values) for name, values in loaded.tokenizer(*texts).items()}
        if len(row["input_ids"]) > loaded.context:
            raise TooLong(len(row["input_ids"]), loaded.context)
        return row

    def _classified(self, rows: list[dict[str, list[int]]]) -> list[Any]:
        lines: list[Any] = []

        def work() -> Iterator[list[Any]]:
            for row in rows:
                lines.append(tf_model.classify(self._of.loaded, row))
                yield lines

        return self._of.batcher.run(work, self.is_there)

    def score(self, raw: bytes) -> ScoreAnswer:
        """`POST /score` (`fust.wire.scoring`)."""
        request = read_score_request(raw)
        if request.adapter:
            raise Refused(501, "not_supported_error", "adapters go with GGUF files")
        loaded, batcher = self._of.loaded, self._of.batcher
        rows = [
            Wanted(
                row.tokens if row.tokens is not None else loaded.tokenize(row.text or ""), max(1, row.start)
            )
            for row in request.rows
        ]
        scored = batcher.run(lambda: score(loaded, rows, request.top, shares=batcher.shares), self.is_there)
        named = named_tokens(scored) if request.pieces else ()
        return ScoreAnswer(scored, {token: self._of.words.piece(token) for token in named})

    # Words

    def tokenize(self, raw: bytes) -> dict[str, Any]:
        """`POST /tokenize`."""
        body = asked.decode(raw, asked.TokenizeBody)
        ids = self._of.loaded.tokenize(body.content, special=body.add_special)
        if not body.with_pieces:
            return {"tokens": ids}
        return {"tokens": [{"id": token, "piece": _shown(self._of.words.piece(token))} for token in ids]}

    def detokenize(self, raw: bytes) -> dict[str, Any]:
        """`POST /detokenize`."""
        body = asked.decode(raw, asked.DetokenizeBody)
        asked.check_prompt(body.tokens, self._of.loaded)
        return {"content": self._of.loaded.tokenizer.decode(body.tokens, clean_up_tokenization_spaces=False)}

    def render(self, raw: bytes) -> dict[str, Any]:
        """`POST /apply-template`."""
        return {"prompt": self._of.words.render(asked.decode(raw, asked.ChatBody))}

    def count(self, raw: bytes) -> dict[str, Any]:
        """`POST /v1/chat/completions/input_tokens`."""
        text = self._of.words.render(asked.decode(raw, asked.ChatBody))
        return {"input_tokens": len(self._of.loaded.tokenize(text, special=False))}


def _shown(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def _usage(rows: list[list[int]]) -> dict[str, int]:
    count = sum(map(len, rows))
    return {"prompt_tokens": count, "total_tokens": count}


_ROUTES: dict[str, tuple[Callable[[_Handler, bytes], object], str]] = {
    "/v1/chat/completions": (_Handler.chat, "chat"),
    "/v1/chat/completions/input_tokens": (_Handler.count, "chat"),
    "/apply-template": (_Handler.render, "chat"),
    "/v1/completions": (_Handler.complete, "completions"),
    "/v1/embeddings": (_Handler.embed, "embeddings"),
    "/v1/rerank": (_Handler.rerank, "rerank"),
    "/v1/classify": (_Handler.classify, "classify"),
    "/score": (_Handler.score, "scoring"),
    "/tokenize": (_Handler.tokenize, ""),
    "/detokenize": (_Handler.detokenize, ""),
}
"""What answers each route, and the capability that it needs."""


def _start(config: ChildConfig) -> ChildReady:
    torch.set_num_threads(config.threads)
    folder = Path(config.path).parent
    try:
        loaded = tf_model.load(folder, config.context)
    except Exception as error:  # transformers writes whole pages; the first line says what it is
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise tf_model.CannotLoad(lines[0][:400].replace(str(folder), "the model")) from error
    server = _Server(loaded, config)
    threading.Thread(target=server.serve_forever, name="fust-serve", daemon=True).start()
    return ChildReady(port=int(server.server_address[1]), capabilities=sorted(server.offers))


if __name__ == "__main__":
    sys.exit(run_child(_start))
