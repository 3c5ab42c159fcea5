"""Requests of neither vendor's own schema: reranking as Jina and Cohere have it, classes and tokens as vLLM has them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, UnsetType

from fust.wire.body import Body
from fust.wire.openai import MAX_PROMPTS, TokenIds


class Document(Body):
    """A document as an object."""

    text: str


class RerankRequest(Body):
    """`POST /v1/rerank` (jina.ai/reranker, docs.cohere.com/reference/rerank)."""

    model: str
    query: str
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=MAX_PROMPTS)]
    top_n: Annotated[int, Meta(ge=1)] | UnsetType | None = UNSET
    return_documents: bool | UnsetType | None = UNSET
    user: Any = UNSET
    max_tokens_per_doc: Any = UNSET
    max_chunks_per_doc: Any = UNSET
    priority: Any = UNSET

    ignored: ClassVar[frozenset[str]] = frozenset({"priority", "user"})
    neutral: ClassVar[dict[str, tuple[object, ...]]] = {"max_chunks_per_doc": (1,), "max_tokens_per_doc": ()}


class ClassifyRequest(Body):
    """`POST /v1/classify`: the class of each text (docs.vllm.ai, Classification API)."""

    model: str
    input: str | Annotated[list[str], Meta(min_length=1, max_length=MAX_PROMPTS)]
    user: Any = UNSET
    priority: Any = UNSET

    ignored: ClassVar[frozenset[str]] = frozenset({"priority", "user"})


class TokenizeRequest(Body):
    """`POST /v1/tokenize`: the tokens of a text."""

    model: str
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(Body):
    """`POST /v1/detokenize`."""

    model: str
    tokens: TokenIds
