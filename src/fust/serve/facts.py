"""What a GGUF header says that serving needs, and how much memory a model will take."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fust.core.errors import InvalidInput
from fust.formats.gguf import GGUFHeader, LongList, read_gguf
from fust.serve.engines.base import SCORE_LOGITS, Mode
from fust.serve.projector import Vision
from fust.serve.template_check import check_template

_ENCODERS = frozenset({"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "neo-bert", "modern-bert", "gemma-embedding", "t5encoder", "eurobert"})  # fmt: skip
_REPACKED = frozenset({"Q4_0", "Q4_K", "IQ4_NL"})
"""Types whose matrices llama.cpp lays out anew for AVX2: in memory a second time, beside the mapped file."""
_KV_BYTES = {"generate": 2, "embed": 2, "score": 4}  # of one key or value
_WINDOWED = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "cohere2": 4}
"""Architectures whose layers look back through a window, but every so manieth."""
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
    repacked: float = field(default=0.0, kw_only=True)
    """Share of the weights that is in memory twice."""
    window: int = field(default=0, kw_only=True)
    """Tokens that layers with a sliding window look back; 0 when there are none."""
    window_width: int = field(default=0, kw_only=True)
    """Part of `kv_width` that belongs to those layers."""

    vision: Vision | None = field(default=None, kw_only=True)
    """What it sees by, when it is to generate."""

    @property
    def is_encoder(self) -> bool:
        """Whether it can only embed."""
        return self.architecture in _ENCODERS

    @property
    def known(self) -> frozenset[str]:
        """All that it can, where the file says so; empty where the kind of its engine decides."""
        return frozenset()

    def embed_pooling(self) -> str:
        """Returns how its embeddings are pooled: the file's word, else the mean."""
        return self.pooling if self.pooling not in ("", "none") else "mean"

    def memory_bytes(self, mode: Mode, context: int, slots: int) -> int:
        """Returns an estimate of what an engine will take: weights, KV cache, work space, the process itself."""
        batch = context if mode == "embed" else _UBATCH
        kept = context + (_UBATCH if mode == "score" else 0)  # room for the ends of several rows
        # Scoring goes back to a beginning that rows share, so llama.cpp keeps all of it for layers with a window too.
        looked_at = kept if mode == "score" or not self.window else min(kept, self.window + batch)
        numbers = (self.kv_width - self.window_width) * kept + self.window_width * looked_at
        cache = 0 if self.is_encoder else numbers * _KV_BYTES[mode] * slots
        # Of a prompt only the last token's logits are kept; scoring keeps a batch's, in the engine and in the graph.
        scored = 2 * min(SCORE_LOGITS, _UBATCH * self.vocabulary)
        # Embedding, llama.cpp makes a decoder's logits of a whole batch all the same, in its graph and for the answer.
        embedded = 0 if self.is_encoder else 2 * batch * self.vocabulary
        outputs = {"embed": embedded, "generate": self.vocabulary * slots, "score": scored}[mode]
        work = (batch * (6 * self.embedding + 3 * self.feed_forward) + outputs) * 4
        mask = batch * kept * 6  # who looks at whom, in 32 bits and again in 16
        seeing = self.vision.memory_bytes if self.vision and mode == "generate" else 0
        return int(self.weights_bytes * (1 + self.repacked)) + cache + work + mask + seeing + _PROCESS_BYTES


def read_facts(path: Path, weights_bytes: int) -> ModelFacts:
    """Returns what the header says.

    Raises:
        InvalidInput: not a GGUF file of a language model, a damaged one, one of an impossible context, or one whose chat
            template does not end.
    """
    header = read_gguf(path)
    if header.architecture is None or header.kind != "model":
        raise InvalidInput(
            "{file} is a GGUF file, but not a model's.",
            hint="Serve a model file; adapters and projectors go with their base model.",
            file=path.name,
        )
    context = header.of_architecture("context_length")
    if context is not None and not 0 < context < 2**31:
        raise InvalidInput(
            "{file} says that its context holds {context} tokens.",
            hint="Download it again, or serve another file of the model.",
            code="bad_model_file",
            file=path.name,
            context=context,
        )
    if header.chat_template is not None:
        check_template(header.chat_template, path.name)

    def number(key: str, default: int = 0) -> int:
        value = header.of_architecture(key)
        return value if value is not None and 0 <= value < 2**40 else default

    layers, embedding = number("block_count"), number("embedding_length")
    heads = max(number("attention.head_count", 1), 1)
    key_length = number("attention.key_length", embedding // heads)
    value_length = number("attention.value_length", embedding // heads)
    per_layer = header.values.get(f"{header.architecture}.attention.head_count_kv")
    if isinstance(per_layer, tuple):
        kv_heads = sum(item for item in per_layer if isinstance(item, int))
    else:
        kv_heads = number("attention.head_count_kv", heads) * layers
    window, windowed = _window(header, layers)
    tokens = header.values.get("tokenizer.ggml.tokens")
    listed = (
        tokens.length if isinstance(tokens, LongList) else len(tokens) if isinstance(tokens, tuple) else 0
    )
    return ModelFacts(
        architecture=header.architecture,
        context_train=header.context_length or 0,
        layers=layers,
        kv_width=kv_heads * (key_length + value_length),
        embedding=embedding,
        feed_forward=number("feed_forward_length", 4 * embedding),
        vocabulary=number("vocab_size", listed),
        has_chat_template=header.chat_template is not None,
        pooling=header.pooling or "",
        weights_bytes=weights_bytes,
        repacked=_repacked(header),
        window=window,
        window_width=kv_heads * (key_length + value_length) * windowed // max(layers, 1),
    )


def _repacked(header: GGUFHeader) -> float:
    """Returns the share of a file's tensors that is laid out anew: of a split model's first part, for all."""
    sizes = [(tensor, tensor.size_bytes or 0) for tensor in header.tensors]
    again = (
        size
        for tensor, size in sizes
        if tensor.type_name in _REPACKED and tensor.name.startswith("blk.") and len(tensor.shape) == 2
    )
    return sum(again) / max(1, sum(size for _, size in sizes))


def _window(header: GGUFHeader, layers: int) -> tuple[int, int]:
    """Returns (tokens, number of layers) of the sliding window; what llama.cpp does not keep short counts as none."""
    window = header.of_architecture("attention.sliding_window") or 0
    every = _WINDOWED.get(header.architecture or "", 0)
    return (window, layers - layers // every) if window and every else (0, 0)
