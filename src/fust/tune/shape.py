"""The shape of a decoder that is trained from nothing: its dimensions, and how many weights follow from them. No torch."""

from __future__ import annotations

from typing import Literal

import msgspec

from fust.tune.base import BaseConfig

Family = Literal["llama", "qwen3"]


class ModelWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What a person decides of a model that is trained from nothing (`[model]` of a recipe file). None: derived."""

    family: Family = "llama"
    vocab_size: int | None = None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder's dimensions, by the names that config.json of transformers has; embeddings are tied."""

    family: Family
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int

    @classmethod
    def of(cls, family: Family, vocab_size: int, context: int, layers: int, width: int) -> Shape:
        """Returns the shape of a depth and a width: heads of 64 (32 where it is narrow), two to one key-value head, SwiGLU of 8/3."""
        head = 64 if width % 64 == 0 and width >= 256 else 32
        heads = width // head
        return cls(
            family=family,
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=max(64, round(width * 8 / 3 / 64) * 64),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2 if heads % 2 == 0 else heads,
            head_dim=head,
            max_position_embeddings=context,
        )

    @property
    def body(self) -> int:
        """Returns the weights of the layers, which every token passes; the embedding is not counted."""
        kv = self.num_key_value_heads * self.head_dim
        attention = 2 * self.hidden_size * (self.hidden_size + kv)
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.family == "qwen3" else 0)
        layer = attention + 3 * self.hidden_size * self.intermediate_size + norms
        return self.num_hidden_layers * layer + self.hidden_size

    @property
    def parameters(self) -> int:
        """Returns all weights."""
        return self.body + self.vocab_size * self.hidden_size

    def as_config(self) -> BaseConfig:
        """Returns the parts of config.json that planning reads."""
        return BaseConfig(
            model_type=self.family,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            vocab_size=self.vocab_size,
            max_position_embeddings=self.max_position_embeddings,
            tie_word_embeddings=True,
        )
