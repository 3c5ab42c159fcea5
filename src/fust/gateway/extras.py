"""Reranking, classes and tokens: requests that are neither vendor's own."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from fust.core.ids import new_id
from fust.gateway.shapes import Whole
from fust.gateway.translate import Plan
from fust.wire.openai import Usage
from fust.wire.rerank import ClassifyRequest, DetokenizeRequest, Document, RerankRequest, TokenizeRequest


def plan_rerank(request: RerankRequest) -> Plan:
    """Returns the plan of a reranking; the answer has the fields that Jina's and Cohere's clients read."""
    texts = [item.text if isinstance(item, Document) else item for item in request.documents]
    body: dict[str, Any] = {"query": request.query, "documents": texts}
    plan = Plan("rerank", "/v1/rerank", request.model, "embed", False, True, body, param="documents")
    top = request.top_n if isinstance(request.top_n, int) else len(texts)
    plan.shape = _Ranked(request.model, texts if request.return_documents else None, top)
    plan.needs = "rerank"
    return plan


class _Ranked(Whole):
    def __init__(self, model: str, texts: list[str] | None, top: int) -> None:
        self._model, self._texts, self._top = model, texts, top

    def whole(self, answer: dict[str, Any], usage: Usage) -> bytes:
        found = sorted(answer["results"], key=lambda result: -result["relevance_score"])[: self._top]
        results: list[dict[str, Any]] = [
            {"index": result["index"], "relevance_score": result["relevance_score"]} for result in found
        ]
        if self._texts is not None:
            for result in results:
                result["document"] = {"text": self._texts[result["index"]]}
        body: dict[str, Any] = {
            "id": new_id("rerank-"),
            "model": self._model,
            "object": "list",
            "results": results,
            "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens},
            "meta": {"api_version": {"version": "2"}, "tokens": {"input_tokens": usage.prompt_tokens}},
        }
        return msgspec.json.encode(body)


def plan_classify(request: ClassifyRequest) -> Plan:
    """Returns the plan of sorting texts into the model's classes."""
    texts = [request.input] if isinstance(request.input, str) else request.input
    plan = Plan(
        "classify", "/v1/classify", request.model, "embed", False, True, {"input": texts}, param="input"
    )
    plan.shape = _Classified(request.model)
    plan.needs = "classify"
    return plan


class _Classified(Whole):
    def __init__(self, model: str) -> None:
        self._model = model

    def whole(self, answer: dict[str, Any], usage: Usage) -> bytes:
        counted = {
            "prompt_tokens": usage.prompt_tokens,
            "total_tokens": usage.prompt_tokens,
            "completion_tokens": 0,
        }
        head = {"id": new_id("classify-"), "created": int(time.time()), "model": self._model}
        return msgspec.json.encode({**answer, **head, "usage": counted})


def plan_tokenize(request: TokenizeRequest) -> Plan:
    """Returns the plan of cutting a text into tokens; names as in vLLM's `/tokenize`."""
    body: dict[str, Any] = {
        "content": request.prompt,
        "add_special": request.add_special_tokens,
        "with_pieces": request.return_token_strs,
    }
    plan = Plan("tokenize", "/tokenize", request.model, "generate", False, True, body, param="prompt")
    plan.any_mode = True
    plan.shape = _Tokens(with_pieces=request.return_token_strs)
    return plan


class _Tokens(Whole):
    def __init__(self, *, with_pieces: bool) -> None:
        self._with_pieces = with_pieces

    def whole(self, answer: dict[str, Any], usage: Usage) -> bytes:
        found: list[Any] = answer["tokens"]
        if not self._with_pieces:
            return msgspec.json.encode({"count": len(found), "tokens": found})
        pieces = [
            bytes(token["piece"]).decode("utf-8", "replace")
            if isinstance(token["piece"], list)
            else token["piece"]
            for token in found
        ]
        ids = [token["id"] for token in found]
        return msgspec.json.encode({"count": len(ids), "tokens": ids, "token_strs": pieces})


def plan_detokenize(request: DetokenizeRequest) -> Plan:
    """Returns the plan of putting tokens together again."""
    plan = Plan(
        "detokenize", "/detokenize", request.model, "generate", False, True, {"tokens": request.tokens}
    )
    plan.any_mode = True
    plan.param = "tokens"
    plan.shape = _Text()
    return plan


class _Text(Whole):
    def whole(self, answer: dict[str, Any], usage: Usage) -> bytes:
        return msgspec.json.encode({"prompt": answer["content"]})
