"""The starter's tokenizer: that of the library (``fust.tune.vocabulary``), its merges from a share of each language."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from examples.starter.corpus import Corpus
from examples.starter.sources import LANGUAGES
from tokenizers import Tokenizer

from fust.tune import vocabulary
from fust.tune.vocabulary import DOCUMENT, SPECIAL, TURN_END, TURN_START

__all__ = ["DOCUMENT", "SPECIAL", "TURN_END", "TURN_START", "fertility", "save_tokenizer", "train_tokenizer"]

VOCAB_SIZE = 8192
SHARE_CHARACTERS = {"en": 2_400_000, "ru": 2_000_000, "hi": 900_000, "sw": 900_000}
"""Characters each language contributes to the merges: small languages are repeated up to it, large ones cut."""


def train_tokenizer(corpus: Corpus, extra: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Returns a tokenizer trained on a share of each language plus ``extra`` texts (the chat rows)."""
    shares = itertools.chain.from_iterable(_share(corpus, language) for language in LANGUAGES)
    return vocabulary.new_tokenizer(itertools.chain(shares, extra), vocab_size)


def _share(corpus: Corpus, language: str) -> Iterator[str]:
    stories = corpus.of(language, "train")
    taken = 0
    for _ in range(12 if stories else 0):
        for story in stories:
            if taken > SHARE_CHARACTERS[language]:
                return
            taken += len(story.text)
            yield story.text


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Writes the tokenizer as transformers reads it; a turn's end ends an answer."""
    vocabulary.save_tokenizer(tokenizer, folder, context, end=TURN_END, padding=DOCUMENT)


def fertility(tokenizer: Tokenizer, corpus: Corpus) -> dict[str, dict[str, float]]:
    """Returns tokens per word and UTF-8 bytes per token on held-out stories, per language."""
    found = {
        language: vocabulary.fertility(tokenizer, [s.text for s in corpus.of(language, "held_out")[:100]])
        for language in LANGUAGES
    }
    return {language: msgspec.to_builtins(figures) for language, figures in found.items() if figures}
