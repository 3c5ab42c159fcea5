r"""A tokenizer from texts: byte-level BPE, so no word is unknown and every byte has a token to fall back on.

Text is cut into words first by the rule that llama.cpp calls `qwen35`. It keeps vowel signs (\p{M}) with their letter,
which the more common GPT-2 and Llama 3 rules do not: with those, Hindi falls apart at every matra.
"""

# tokenizers types its functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

DOCUMENT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (DOCUMENT, TURN_START, TURN_END)
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


class Fertility(msgspec.Struct, frozen=True):
    """How finely a tokenizer cuts texts."""

    tokens_per_word: float
    """Words are what stands between white space; of scripts that write none, it says little."""
    bytes_per_token: float
    """UTF-8."""


def new_tokenizer(texts: Iterable[str], vocab_size: int, *, special: Sequence[str] = SPECIAL) -> Tokenizer:
    """Returns a tokenizer whose merges follow from texts; special tokens come first."""
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
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context: int, *, end: str, padding: str) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja as transformers reads them."""
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=None,
        eos_token=end,
        pad_token=padding,
        additional_special_tokens=[TURN_START] if end == TURN_END else [TURN_START, TURN_END],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # transformers 5 writes a name that 4 does not know
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")


def fertility(tokenizer: Tokenizer, texts: Sequence[str]) -> Fertility | None:
    """Returns tokens per word and UTF-8 bytes per token; None when there is nothing to count."""
    tokens = sum(len(encoded.ids) for encoded in tokenizer.encode_batch(list(texts)))
    words = sum(len(text.split()) for text in texts)
    if not tokens or not words:
        return None
    size = sum(len(text.encode()) for text in texts)
    return Fertility(round(tokens / words, 3), round(size / tokens, 3))
