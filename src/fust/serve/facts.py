"""What a GGUF header says that serving needs, and how much memory a model will take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fust.core.errors import InvalidInput
from fust.serve._header import Value, read_metadata
from fust.serve.engines.base import Mode

_POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}
_ENCODERS = frozenset({"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "neo-bert", "modern-bert", "gemma-embedding", "t5encoder", "eurobert"})  # fmt: skip
_KV_BYTES = 2  # keys and values are kept as 16-bit floats
_PROCESS_BYTES = 45_000_000  # interpreter and library, measured
_UBATCH = 512


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Shape of a model, from its header."""

    architecture: str
    context_train: int
    layers: int
    kv_width: int
    """Sum over all layers of the numbers kept for one token (keys and values)."""
    embedding: int
    feed_forward: int
    vocabulary: int
    has_chat_template: bool
    pooling: str
    """As the file says; empty when it does not."""
    weights_bytes: int

    @property
    def is_encoder(self) -> bool:
        """Whether it can only embed."""
        return self.architecture in _ENCODERS

    def embed_pooling(self) -> str:
        """Returns how its embeddings are pooled: the file's word, else the mean."""
        return self.pooling if self.pooling not in ("", "none") else "mean"

    def memory_bytes(self, mode: Mode, context: int, slots: int) -> int:
        """Returns an estimate of what an engine will take: weights, KV cache, work space, the process itself."""
        cache = 0 if self.is_encoder else self.kv_width * _KV_BYTES * context * slots
        batch = context if mode == "embed" else _UBATCH
        outputs = 0 if mode == "embed" else self.vocabulary
        work = batch * (outputs + 6 * self.embedding + 3 * self.feed_forward) * 4
        return self.weights_bytes + cache + work + _PROCESS_BYTES


def read_facts(path: Path, weights_bytes: int) -> ModelFacts:
    """Returns what the header says.

    Raises:
        InvalidInput: not a GGUF file of a language model, or a damaged one.
    """
    header = read_metadata(path)
    architecture = str(header.get("general.architecture", ""))
    if not architecture:
        raise InvalidInput(
            "{file} is a GGUF file without an architecture.",
            hint="Serve a model file; adapters and projectors go with their base model.",
            file=path.name,
        )

    def number(key: str, default: int = 0) -> int:
        value: object = header.get(f"{architecture}.{key}", default)
        return value if isinstance(value, int) and 0 <= value < 2**40 else default

    layers = number("block_count")
    embedding = number("embedding_length")
    heads = max(_first(header.get(f"{architecture}.attention.head_count")) or 1, 1)
    key_length = number("attention.key_length", embedding // heads)
    value_length = number("attention.value_length", embedding // heads)
    kv_heads = header.get(f"{architecture}.attention.head_count_kv", heads)
    if isinstance(kv_heads, list):
        kv_heads_all = sum(item for item in kv_heads if isinstance(item, int))
    else:
        kv_heads_all = (_first(kv_heads) or heads) * layers
    return ModelFacts(
        architecture=architecture,
        context_train=number("context_length"),
        layers=layers,
        kv_width=kv_heads_all * (key_length + value_length),
        embedding=embedding,
        feed_forward=_first(header.get(f"{architecture}.feed_forward_length")) or 4 * embedding,
        vocabulary=_vocabulary(header, architecture),
        has_chat_template="tokenizer.chat_template" in header,
        pooling=_POOLING.get(number("pooling_type", -1), ""),
        weights_bytes=weights_bytes,
    )


def _first(value: Value | None) -> int:
    if isinstance(value, list):
        return max((item for item in value if isinstance(item, int)), default=0)
    return value if isinstance(value, int) else 0


def _vocabulary(header: dict[str, Value], architecture: str) -> int:
    tokens = header.get("tokenizer.ggml.tokens")
    return _first(header.get(f"{architecture}.vocab_size")) or (
        len(tokens) if isinstance(tokens, list) else 0
    )
