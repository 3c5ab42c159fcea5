"""Byte-level BPE for four scripts: no word is unknown, and every byte has a token to fall back on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from examples.starter.corpus import Corpus
from examples.starter.sources import LANGUAGES
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 8192
DOCUMENT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (DOCUMENT, TURN_START, TURN_END)

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How text is cut before merging: the rule that llama.cpp calls `qwen35`. It keeps vowel signs (\\p{M}) with their
letter, which the more common GPT-2 and Llama 3 rules do not: with those, Hindi falls apart at every matra."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)

SHARE_CHARACTERS = {"en": 2_400_000, "ru": 2_000_000, "hi": 900_000, "sw": 900_000}
"""Characters each language contributes to the merges: small languages are repeated up to it, large ones cut."""


def train_tokenizer(corpus: Corpus, extra: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Returns a tokenizer trained on a share of each language plus ``extra`` texts (the chat rows)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    shares = itertools.chain.from_iterable(_share(corpus, language) for language in LANGUAGES)
    tokenizer.train_from_iterator(itertools.chain(shares, extra), trainer=trainer)
    return tokenizer


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
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja as transformers reads them."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=None,
        eos_token=TURN_END,
        pad_token=DOCUMENT,
        additional_special_tokens=[TURN_START],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # transformers 5 writes a name that 4 does not know
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")


def fertility(tokenizer: Tokenizer, corpus: Corpus) -> dict[str, dict[str, float]]:
    """Returns tokens per word and UTF-8 bytes per token on held-out stories, per language."""
    figures: dict[str, dict[str, float]] = {}
    for language in LANGUAGES:
        texts = [s.text for s in corpus.of(language, "held_out")[:100]]
        n_tokens = sum(len(e.ids) for e in tokenizer.encode_batch(texts))
        if n_tokens:
            figures[language] = {
                "tokens_per_word": round(n_tokens / sum(len(t.split()) for t in texts), 3),
                "bytes_per_token": round(sum(len(t.encode()) for t in texts) / n_tokens, 3),
            }
    return figures
