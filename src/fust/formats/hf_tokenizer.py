"""Reads tokenizer.json and its neighbours as far as GGUF needs them: two kinds of BPE, refused when unsure.

Byte-level BPE (GPT-2's, Llama 3's, Qwen's): llama.cpp cuts text by a rule compiled into it and named in
``tokenizer.ggml.pre``; tokenizer.json spells the rule out. The table below maps one to the other. A rule that is not in
it is refused: with a wrong one, a model reads other tokens than it was trained on and nothing says so.

BPE with byte fallback (sentencepiece's: Llama 2, Mistral, Gemma, Phi 3): llama.cpp joins the two neighbours whose whole
has the best score, where tokenizer.json lists which pairs may be joined, in order. Both are the same when the list has
every way to make a piece, side by side; that is checked, and the scores follow from the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
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
"""The Split rule of tokenizer.json: the name that llama.cpp has for it (src/llama-vocab.cpp).

Mistral Nemo's rule (tekken) is not here: llama.cpp has an approximation of it, which cuts Indic scripts otherwise.
"""

IGNORES_MERGES = ("llama-bpe",)
"""Rules for which llama.cpp takes a whole word from the vocabulary before trying merges."""
_WITH_MERGES = {"llama-bpe": "dbrx"}
"""What llama.cpp calls the same rule where it does not."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_SPACE = "▁"
_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_ADDED_SCORE, _UNUSED_SCORE = -1000.0, -10000.0
_PHI3_KEEP_SPACES = {"<unk>", "<s>", "<|endoftext|>"}


@dataclass(frozen=True, slots=True)
class BPETokenizer:
    """A BPE tokenizer as GGUF stores it; ``types`` are those of llama.h (enum llama_token_type)."""

    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    bos: int | None
    eos: int | None
    pad: int | None
    adds_bos: bool
    chat_template: str | None
    scores: tuple[float, ...] = ()
    """Of tokens with byte fallback; empty for byte-level BPE."""
    unknown: int | None = None
    space_prefix: bool = False
    """Whether a space is put before a text; only with byte fallback."""
    strips_like_phi3: bool = False
    """Whether added tokens swallow the spaces behind them, all but three, as llama.cpp does for models named Phi-3."""


class _Added(msgspec.Struct):
    id: int
    content: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False


class _Pattern(msgspec.Struct):
    Regex: str | None = None
    String: str | None = None


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
    normalizers: list[_Step] = []
    prepend: str | None = None
    content: str | None = None
    prepend_scheme: str = "always"
    replacement: str | None = None
    split: bool = True
    processors: list[_Step] = []
    single: list[dict[str, dict[str, object]]] = []


class _Model(msgspec.Struct):
    vocab: dict[str, int]
    merges: list[str | tuple[str, str]]
    type: str = "BPE"
    byte_fallback: bool = False
    unk_token: str | None = None
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
        InvalidInput: not a BPE tokenizer whose rules llama.cpp has too.
        OSError: a file cannot be read.
    """
    try:
        file = msgspec.json.decode((folder / "tokenizer.json").read_bytes(), type=_TokenizerFile)
        path = folder / "tokenizer_config.json"
        config = msgspec.json.decode(path.read_bytes() if path.exists() else b"{}", type=_TokenizerConfig)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _refused("its files are not those of a BPE tokenizer") from error
    if file.model.type != "BPE" or file.model.dropout:
        raise _refused("its model is not BPE")
    falls_back = file.model.byte_fallback
    pre = "default" if falls_back else _pre_tokenizer(file)
    by_id = {number: token for token, number in file.model.vocab.items()}
    if falls_back:  # Gemma has a second name for one of them
        by_id |= {number: name for name, number in file.model.vocab.items() if name in _BYTES}
    kinds = dict.fromkeys(by_id, NORMAL) | (_kinds_of_pieces(file) if falls_back else {})
    for added in file.added_tokens:
        by_id[added.id] = added.content
        if added.content != file.model.unk_token:
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
    template = _chat_template(folder, config)
    if falls_back:
        scores = _scores(file)
        added_ids = {added.id for added in file.added_tokens}
        all_scores = tuple(
            _ADDED_SCORE if i in added_ids else scores.get(by_id[i], 0.0) if i in by_id else _UNUSED_SCORE
            for i in range(vocab_size)
        )
    else:
        all_scores = ()
    merges = (
        []
        if falls_back
        else [merge if isinstance(merge, str) else " ".join(merge) for merge in file.model.merges]
    )
    return BPETokenizer(
        pre,
        tuple(by_id.get(i, f"[PAD{i}]") for i in range(vocab_size)),
        tuple(kinds.get(i, UNUSED) for i in range(vocab_size)),
        tuple(merges),
        bos,
        id_of(config.eos_token),
        id_of(config.pad_token),
        bos is not None and adds_bos,
        template,
        all_scores,
        file.model.vocab.get(file.model.unk_token or ""),
        falls_back and _puts_space(file, has_template=template is not None),
        _strips_like_phi3(file),
    )


def _pre_tokenizer(file: _TokenizerFile) -> str:
    """Returns llama.cpp's name for the tokenizer's rules."""
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
    if name is not None and not file.model.ignore_merges:
        name = _WITH_MERGES.get(name, name)
    if name is None or file.model.ignore_merges != (name in IGNORES_MERGES):
        rule = next((it.pattern.Regex for it in steps if it.pattern is not None and it.pattern.Regex), "")
        named = " + ".join(kinds) + (f" by {rule}" if rule else "") or "none"
        raise _refused(f"its pre-tokenizer ({named[:200]}) has no known name in llama.cpp")
    return name


# Byte fallback


def _kinds_of_pieces(file: _TokenizerFile) -> dict[int, int]:
    """Returns the types of the tokens for single bytes and for what is unknown."""
    vocab = file.model.vocab
    if any(name not in vocab for name in _BYTES):
        raise _refused("it has no token for each byte")
    if file.model.unk_token is None or file.model.unk_token not in vocab:
        raise _refused("it has no token for what is unknown")
    return {vocab[name]: BYTE for name in _BYTES} | {vocab[file.model.unk_token]: UNKNOWN}


def _scores(file: _TokenizerFile) -> dict[str, float]:
    """Returns minus the place of each piece in the order of the merges.

    Raises:
        InvalidInput: a piece could be made of two others in a way that is not listed, or its ways do not stand together
            (those of runs need not: sentencepiece's models give all runs of spaces one score).

    """
    vocab, order = file.model.vocab, dict[str, int]()
    added = {token.content for token in file.added_tokens}  # found before anything is joined
    ways = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else merge for merge in file.model.merges]
    scattered: set[str] = set()
    last = ""
    for left, right in ways:
        piece = left + right
        if piece != last and piece in order and piece not in added:
            scattered.add(piece)
        order.setdefault(piece, len(order))
        last = piece
    if scattered and not _runs_join_alike(ways, scattered):
        raise _refused("the ways to make one piece do not stand together in its merges")
    listed = set(ways)
    joinable = vocab.keys() - _BYTES - added
    for piece in order.keys() - added:
        for cut in range(1, len(piece)):
            halves = (piece[:cut], piece[cut:])
            if halves[0] in joinable and halves[1] in joinable and halves not in listed:
                raise _refused("its merges are not those of sentencepiece")
    return {piece: -float(place) for piece, place in order.items()}


def _runs_join_alike(ways: Sequence[tuple[str, ...]], scattered: set[str]) -> bool:
    """Returns whether runs of one character become the same pieces by the order of the ways and by that of the pieces.

    Where the ways of a character's runs come before all others of that character (Gemma 4), or behind all others, none of
    which takes a run (Llama 2, Mistral), a run is joined by itself: trying every length up to four times the longest tells.
    """
    if any(len(set(piece)) > 1 for piece in scattered):
        return False
    for character in {piece[0] for piece in scattered}:
        of_runs = [{*left, *right} == {character} for left, right in ways]
        end = len(ways) - of_runs[::-1].index(True)
        before = [way for way, is_run in zip(ways[:end], of_runs[:end], strict=True) if not is_run]
        first = not any(character in half for way in before for half in way)
        takes = any(len(half) > 1 and {*half} == {character} for way in before for half in way)
        if not first and (takes or end < len(ways) or not all(of_runs[len(before) :])):
            return False
        sizes = [
            (len(left), len(right)) for (left, right), is_run in zip(ways, of_runs, strict=True) if is_run
        ]
        by_way = {size: place for place, size in enumerate(sizes)}
        wholes = list(dict.fromkeys(map(sum, sizes)))
        by_whole = {size: wholes.index(sum(size)) for size in sizes}
        lengths = range(2, 4 * min(max(wholes), 64) + 1)
        if any(_join(length, by_way) != _join(length, by_whole) for length in lengths):
            return False
    return True


def _join(length: int, ranks: dict[tuple[int, int], int]) -> list[int]:
    """Returns the sizes that a run falls into when its best neighbours are joined, the leftmost of equals, over and over."""
    sizes = [1] * length
    while True:
        found = [(ranks[pair], at) for at, pair in enumerate(pairwise(sizes)) if pair in ranks]
        if not found:
            return sizes
        _, at = min(found)
        sizes[at : at + 2] = [sizes[at] + sizes[at + 1]]


def _puts_space(file: _TokenizerFile, *, has_template: bool) -> bool:
    """Returns whether a text begins with a space of its own.

    llama.cpp puts one at the start and behind every special token. A tokenizer that puts it at the start alone
    (`prepend_scheme` first) is read so where it has no chat template; where it has one, texts begin with a special token,
    and there is none.

    Raises:
        InvalidInput: text is changed in a way that llama.cpp does not know.

    """
    step = file.normalizer
    changes = step.normalizers if step is not None and step.type == "Sequence" else [step] if step else []
    prepends = False
    for change in changes:
        if change.type == "Prepend" and change.prepend == _SPACE:
            prepends = True
        elif not (
            change.type == "Replace"
            and change.content == _SPACE
            and change.pattern is not None
            and change.pattern.String == " "
        ):
            raise _refused("its normalizer is " + change.type[:50])
    pre = file.pre_tokenizer
    if pre is None:
        if not any(change.type == "Replace" for change in changes):
            raise _refused("it does not mark spaces")
        return prepends
    if pre.type == "Split" and changes and pre.pattern is not None and pre.pattern.String == " ":
        return prepends  # nothing is left to split: spaces are marked before
    if pre.type != "Metaspace" or pre.split or pre.replacement != _SPACE or changes:
        raise _refused("its pre-tokenizer is " + pre.type[:50])
    return pre.prepend_scheme == "always" or (pre.prepend_scheme == "first" and not has_template)


def _strips_like_phi3(file: _TokenizerFile) -> bool:
    """Returns whether added tokens swallow spaces behind them as llama.cpp has it for Phi-3; else none may swallow any."""
    strip = {added.content for added in file.added_tokens if added.rstrip}
    others = {added.content for added in file.added_tokens if not added.rstrip}
    if any(added.lstrip for added in file.added_tokens):
        raise _refused("one of its added tokens swallows the spaces before it")
    if strip and not ("</s>" in strip and others == _PHI3_KEEP_SPACES):
        raise _refused(f"its token {min(strip)[:50]} swallows the spaces behind it")
    return bool(strip)


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
