"""Requests of the transformers engine, in the dialect that llama.cpp's server speaks, and what they ask of the model."""

from __future__ import annotations

import importlib
import json
import re
import threading
from typing import Any, TypeVar

import msgspec

from fust.serve.engines.child_http import Refused
from fust.serve.engines.scored import BadRow, TooLong
from fust.serve.engines.tf_batch import Sequence
from fust.serve.engines.tf_model import Loaded
from fust.serve.engines.tf_sample import Grammar, Sampler, Sampling, ThoughtLimit
from fust.serve.engines.tf_template import rendered
from fust.serve.engines.turns import is_begun

Kind = TypeVar("Kind")
MOST_TOP = 20
_OWN = frozenset({"chat_template", "tokenizer_kwargs"})
"""Words of transformers among a template's: another template would run here, which nobody looked at."""
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`")


class Writing(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What chat and plain completions share; any other field is refused by its name."""

    model: str = ""
    stream: bool = False
    stream_options: Any = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    logit_bias: dict[str, float] = {}
    seed: int | None = None
    stop: str | list[str] = []
    ignore_eos: bool = False
    grammar: str = ""
    json_schema: dict[str, Any] | None = None
    response_format: dict[str, Any] = {}
    timings_per_token: bool | None = None
    # These cannot change the answer; which stop word was met is told always.
    cache_prompt: Any = None
    verbose: Any = None

    @property
    def stops(self) -> list[str]:
        """Its stop words."""
        return [self.stop] if isinstance(self.stop, str) else self.stop


class ChatBody(Writing, kw_only=True):
    """`POST /v1/chat/completions`; messages and tools are the template's business."""

    messages: list[dict[str, Any]]
    logprobs: bool = False
    top_logprobs: int = 0
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    chat_template_kwargs: dict[str, Any] = {}
    reasoning_format: str = "auto"
    thinking_budget_tokens: int | None = None
    reasoning_budget_tokens: Any = None
    """The same again, as other versions of llama.cpp call it."""


class CompletionBody(Writing, kw_only=True):
    """`POST /v1/completions` with one prompt."""

    prompt: str | list[int]
    logprobs: int | None = None


class EmbeddingBody(msgspec.Struct):
    """`POST /v1/embeddings`."""

    input: str | list[str | int | list[int]]
    encoding_format: str = "float"


class RerankBody(msgspec.Struct):
    """`POST /v1/rerank`."""

    query: str
    documents: list[str]


class ClassifyBody(msgspec.Struct):
    """`POST /v1/classify`."""

    input: list[str]


class TokenizeBody(msgspec.Struct):
    """`POST /tokenize`."""

    content: str
    add_special: bool = True
    with_pieces: bool = False


class DetokenizeBody(msgspec.Struct):
    """`POST /detokenize`."""

    tokens: list[int]


def decode(body: bytes, kind: type[Kind]) -> Kind:
    """Returns a body as a `kind`.

    Raises:
        Refused: a field that this engine does not know.
        msgspec.DecodeError: it is none.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        unknown = _UNKNOWN.match(str(error))
        if unknown is None:
            raise
        name = unknown[1]
        raise Refused(
            400, "unsupported_parameter", f"{name} is not offered by this engine", param=name
        ) from None


class Words:
    """The tokenizer as others see it: tokens as bytes, grammars over tokens, conversations as prompts."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._made: Any = None
        self._lock = threading.Lock()

    def _trie(self) -> Any:
        """Returns llguidance's view of the vocabulary; made at first use, which takes a second for a large one."""
        with self._lock:
            if self._made is None:
                guidance: Any = importlib.import_module("llguidance.hf")
                self._made = guidance.from_tokenizer(
                    self._loaded.tokenizer,
                    n_vocab=self._loaded.vocabulary,
                    eos_token=sorted(self._loaded.eos) or None,
                )
            return self._made

    def piece(self, token: int) -> bytes:
        """Returns a token's text, which may be a piece of a character."""
        if not self._loaded.tokenizer.is_fast:
            return self._loaded.tokenizer.decode([token]).encode()
        return self._trie().decode_bytes([token])

    def render(self, body: ChatBody) -> str:
        """Returns a conversation as the model's own template writes it, in the sandbox of transformers.

        Raises:
            Refused: the template says no, or does not come to an end.
        """
        goes_on = is_begun(body.messages)
        own = sorted(_OWN & body.chat_template_kwargs.keys())
        if own:
            name = f"chat_template_kwargs.{own[0]}"
            raise Refused(400, "unsupported_parameter", f"{name} is not offered by this engine", param=name)
        return rendered(
            lambda: self._loaded.tokenizer.apply_chat_template(
                body.messages,
                tools=body.tools,
                tokenize=False,
                add_generation_prompt=not goes_on,
                continue_final_message=goes_on,
                **body.chat_template_kwargs,
            )
        )

    def grammar(self, body: Writing) -> Grammar | None:
        """Returns what the answer has to fit, or None.

        Raises:
            Refused: a grammar or schema that cannot be kept.
        """
        source = self._source(body)
        if source is None:
            return None
        if not self._loaded.tokenizer.is_fast:
            raise Refused(501, "not_supported_error", "grammars need a tokenizer.json")
        matcher: Any = importlib.import_module("llguidance").LLMatcher
        fault = matcher.validate_grammar(source, self._trie())
        if fault and not fault.startswith("WARNING"):
            raise Refused(400, "invalid_request_error", fault[:500])
        return matcher(self._trie(), source, log_level=0)

    def _source(self, body: Writing) -> str | None:
        matcher: Any = importlib.import_module("llguidance").LLMatcher
        form = body.response_format
        kind = form.get("type", "text")
        schema: Any = body.json_schema
        if kind == "json_schema":
            schema = form.get("json_schema", form).get("schema")
        elif kind == "json_object":
            schema = form.get("schema", {"type": "object"})
        if schema is not None:
            # No white space but one space after a comma or colon: a model that likes spaces would never come to an end.
            return matcher.grammar_from_json_schema(
                json.dumps(schema), overrides={"whitespace_flexible": False}
            )
        if not body.grammar:
            return None
        try:
            lark = importlib.import_module("llguidance.gbnf_to_lark").gbnf_to_lark(body.grammar)
        except Exception as error:
            raise Refused(400, "invalid_request_error", f"the grammar cannot be read: {error}") from None
        return matcher.grammar_from_lark(lark)

    def thought_limit(self, body: ChatBody, *, inside: bool) -> ThoughtLimit | None:
        """Returns what keeps a thought short, or None: none was asked for, or the model knows no marks of thoughts."""
        marks = [self._loaded.tokenize(mark, special=False) for mark in ("<think>", "</think>")]
        if body.thinking_budget_tokens is None or any(len(mark) != 1 for mark in marks):
            return None
        ending = self._loaded.tokenize("\n</think>\n\n", special=False)
        return ThoughtLimit(body.thinking_budget_tokens, (marks[0][0], marks[1][0]), ending, inside=inside)

    def sequence(
        self, body: Writing, prompt: list[int], top: int, limit: ThoughtLimit | None = None
    ) -> Sequence:
        """Returns a request to write after a prompt; `top` as in `Sequence`.

        Raises:
            TooLong: the prompt leaves no room for an answer.
            BadRow, Refused: it asks for what cannot be done.
        """
        loaded = self._loaded
        check_prompt(prompt, loaded)
        if len(prompt) >= loaded.context:
            raise TooLong(len(prompt), loaded.context)
        room = loaded.context - len(prompt)
        most = room if body.max_tokens is None or body.max_tokens < 0 else min(room, max(1, body.max_tokens))
        eos = frozenset[int]() if body.ignore_eos else loaded.eos
        sampler = Sampler(_sampling(body, loaded), prompt, loaded.eos, self.grammar(body), limit)
        return Sequence(prompt, sampler, most, eos, min(top, MOST_TOP))


def check_prompt(prompt: list[int], loaded: Loaded) -> None:
    """Raises BadRow when a prompt is empty or has a token that the model has not."""
    if not prompt:
        raise BadRow("the prompt has no tokens")
    odd = next((token for token in prompt if not 0 <= token < loaded.vocabulary), None)
    if odd is not None:
        raise BadRow(f"there is no token {odd}; the model has 0 to {loaded.vocabulary - 1}")


def _sampling(body: Writing, loaded: Loaded) -> Sampling:
    def choose(given: float | None, name: str, default: float) -> float:
        return given if given is not None else loaded.defaults.get(name, default)

    try:
        bias = {int(token): value for token, value in body.logit_bias.items()}
    except ValueError:
        raise BadRow("logit_bias names tokens by their numbers") from None
    return Sampling(
        temperature=choose(body.temperature, "temperature", 1.0),
        top_p=choose(body.top_p, "top_p", 1.0),
        top_k=int(choose(body.top_k, "top_k", 0)),
        min_p=choose(body.min_p, "min_p", 0.0),
        typical_p=body.typical_p,
        presence=body.presence_penalty,
        frequency=body.frequency_penalty,
        repeat=body.repeat_penalty,
        repeat_last=body.repeat_last_n,
        bias=bias,
        seed=None if body.seed is None else body.seed % 2**63,
        ignore_eos=body.ignore_eos,
    )
