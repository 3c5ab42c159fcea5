"""Reads tokenizer.json and its neighbours as far as GGUF needs them: byte-level BPE only, refused when unsure.

llama.cpp cuts text by a rule compiled into it and named in ``tokenizer.ggml.pre``; tokenizer.json spells the rule out.
The table below maps one to the other. A rule that is not in it is refused: with a wrong one, a model reads other tokens
than it was trained on and nothing says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from fust.core.errors import InvalidInput

_QUOTES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_ENDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
PRE_TOKENIZERS = {
    _QUOTES + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _ENDS: "llama-bpe",
    _QUOTES + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _ENDS: "qwen2",
    _QUOTES + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _ENDS: "qwen35",
}
"""The Split rule of tokenizer.json: the name that llama.cpp has for it (src/llama-vocab.cpp)."""

IGNORES_MERGES = ("llama-bpe",)
"""Rules for which llama.cpp takes a whole word from the vocabulary before trying merges."""

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


@dataclass(frozen=True, slots=True)
class BPETokenizer:
    """A byte-level BPE tokenizer as GGUF stores it; ``types`` are those of llama.h (enum llama_token_type)."""

    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    bos: int | None
    eos: int | None
    pad: int | None
    adds_bos: bool
    chat_template: str | None


class _Added(msgspec.Struct):
    id: int
    content: str
    special: bool


class _Pattern(msgspec.Struct):
    Regex: str | None = None


class _Step(msgspec.Struct):
    """A normalizer, pre-tokenizer or post-processor; fields of all kinds that matter here."""

    type: str
    pattern: _Pattern | None = None
    behavior: str | None = None
    invert: bool = False
    add_prefix_space: bool = False
    use_regex: bool = True
    individual_digits: bool = False
    pretokenizers: list[_Step] = []
    processors: list[_Step] = []
    single: list[dict[str, dict[str, object]]] = []


class _Model(msgspec.Struct):
    vocab: dict[str, int]
    merges: list[str | tuple[str, str]]
    type: str = "BPE"
    byte_fallback: bool = False
    ignore_merges: bool = False
    dropout: float | None = None


class _TokenizerFile(msgspec.Struct):
    model: _Model
    added_tokens: list[_Added] = []
    normalizer: _Step | None = None
    pre_tokenizer: _Step | None = None
    post_processor: _Step | None = None


class _Named(msgspec.Struct):
    content: str


class _NamedTemplate(msgspec.Struct):
    name: str
    template: str


class _TokenizerConfig(msgspec.Struct):
    bos_token: str | _Named | None = None
    eos_token: str | _Named | None = None
    pad_token: str | _Named | None = None
    add_bos_token: bool | None = None
    chat_template: str | list[_NamedTemplate] | None = None


def read_tokenizer(folder: Path, vocab_size: int) -> BPETokenizer:
    """Returns the tokenizer of a Hugging Face folder; ids without a token are filled up to ``vocab_size``.

    Raises:
        InvalidInput: not a byte-level BPE tokenizer whose rules llama.cpp knows by name.
        OSError: a file cannot be read.
    """
    try:
        file = msgspec.json.decode((folder / "tokenizer.json").read_bytes(), type=_TokenizerFile)
        path = folder / "tokenizer_config.json"
        config = msgspec.json.decode(path.read_bytes() if path.exists() else b"{}", type=_TokenizerConfig)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _refused("its files are not those of a byte-level BPE tokenizer") from error
    pre = _pre_tokenizer(file)
    by_id = {number: token for token, number in file.model.vocab.items()}
    kinds = dict.fromkeys(by_id, NORMAL)
    for added in file.added_tokens:
        by_id[added.id] = added.content
        kinds[added.id] = CONTROL if added.special else USER_DEFINED
    if not by_id or min(by_id) < 0 or max(by_id) >= vocab_size:
        raise _refused("it has more tokens than the model")
    ids = {token: number for number, token in by_id.items()}

    def id_of(token: str | _Named | None) -> int | None:
        return None if token is None else ids.get(token if isinstance(token, str) else token.content)

    bos = id_of(config.bos_token)
    adds_bos = (
        config.add_bos_token if config.add_bos_token is not None else _template_adds_bos(file.post_processor)
    )
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in file.model.merges)
    return BPETokenizer(
        pre,
        tuple(by_id.get(i, f"[PAD{i}]") for i in range(vocab_size)),
        tuple(kinds.get(i, UNUSED) for i in range(vocab_size)),
        tuple(merges),
        bos,
        id_of(config.eos_token),
        id_of(config.pad_token),
        bos is not None and adds_bos,
        _chat_template(folder, config),
    )


def _pre_tokenizer(file: _TokenizerFile) -> str:
    """Returns llama.cpp's name for the tokenizer's rules."""
    if file.model.type != "BPE" or file.model.byte_fallback or file.model.dropout:
        raise _refused("its model is not byte-level BPE")
    if file.normalizer is not None and file.normalizer.type != "NFC":
        raise _refused("its normalizer is " + file.normalizer.type[:50])
    step = file.pre_tokenizer
    steps = step.pretokenizers if step is not None and step.type == "Sequence" else [step] if step else []
    kinds = [s.type for s in steps]
    name = None
    if kinds == ["ByteLevel"] and steps[0].use_regex and not steps[0].add_prefix_space:
        name = "gpt-2"
    elif kinds == ["Digits", "ByteLevel"] and steps[0].individual_digits and steps[1].use_regex:
        name = "smollm"
    elif kinds == ["Split", "ByteLevel"] and not steps[1].use_regex and not steps[1].add_prefix_space:
        pattern = steps[0].pattern
        if pattern is not None and pattern.Regex and steps[0].behavior == "Isolated" and not steps[0].invert:
            name = PRE_TOKENIZERS.get(pattern.Regex)
    if name is None or file.model.ignore_merges != (name in IGNORES_MERGES):
        raise _refused("its pre-tokenizer has no known name in llama.cpp")
    return name


def _template_adds_bos(step: _Step | None) -> bool:
    if step is None:
        return False
    if step.type == "Sequence":
        return any(_template_adds_bos(inner) for inner in step.processors)
    return step.type == "TemplateProcessing" and bool(step.single) and "SpecialToken" in step.single[0]


def _chat_template(folder: Path, config: _TokenizerConfig) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text("utf-8")
    if isinstance(config.chat_template, list):
        return next((t.template for t in config.chat_template if t.name == "default"), None)
    return config.chat_template


def _refused(why: str) -> InvalidInput:
    return InvalidInput(
        "This tokenizer cannot be written as GGUF: {why}.",
        hint="Export the model as GGUF with llama.cpp's own converter.",
        code="cannot_export",
        why=why,
    )
