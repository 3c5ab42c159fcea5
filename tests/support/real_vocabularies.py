"""Tokenizers of real families, as a Hugging Face folder has them, from files that packages of the index carry.

llama-cpp-python's source (MIT) has llama.cpp's vocabularies with texts and the ids that each family's own tokenizer gives
for them; mistral-common (Apache-2.0) has Mistral's sentencepiece models. `scripts/test-system.sh` puts both into
``.vocabularies``; nothing of them is in this repository.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import tokenizers
import transformers

from fust.formats.hf_tokenizer import BYTE, CONTROL, IGNORES_MERGES, PRE_TOKENIZERS, UNKNOWN, USER_DEFINED

FOLDER = Path(__file__).resolve().parents[2] / ".vocabularies"
_SEPARATOR = "\n__ggml_vocab_test__\n"
Piece = tuple[str, float, int]
"""A token, its score and its type (llama.h's enum llama_token_type, which is sentencepiece's)."""


def texts_and_ids(name: str) -> tuple[list[str], list[list[int]]]:
    """Returns llama.cpp's texts for a vocabulary and what the family's own tokenizer makes of them."""
    path = FOLDER / f"ggml-vocab-{name}.gguf"
    texts = path.with_suffix(".gguf.inp").read_text("utf-8").split(_SEPARATOR)
    lines = path.with_suffix(".gguf.out").read_text("utf-8").split("\n")
    return texts, [[int(word) for word in line.split()] for line in lines[: len(texts)]]


def byte_level(name: str, folder: Path) -> tokenizers.Tokenizer:
    """Writes and returns the byte-level tokenizer of one of llama.cpp's vocabularies."""
    values = values_of(name)
    tokens, types = values["tokens"], values["token_type"]
    rule = next(text for text, known in PRE_TOKENIZERS.items() if known == name)
    added = [(t, k) for t, k in zip(tokens, types, strict=True) if k in (CONTROL, USER_DEFINED)]
    known = {token for token, _ in added}
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {t: i for i, (t, k) in enumerate(zip(tokens, types, strict=True)) if k == 1 and t not in known},
            [tuple(merge.split(" ", 1)) for merge in values["merges"]],
            ignore_merges=name in IGNORES_MERGES,
        )
    )
    if name != "llama-bpe":
        tokenizer.normalizer = tokenizers.normalizers.NFC()
    pre = tokenizers.pre_tokenizers
    split = pre.Split(tokenizers.Regex(rule), "isolated")
    tokenizer.pre_tokenizer = pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    _add(tokenizer, added)
    _save(tokenizer, folder, bos_token=None, eos_token=tokens[values["eos_token_id"]])
    return tokenizer


def with_byte_fallback(
    pieces: Sequence[Piece],
    folder: Path,
    *,
    merges: Sequence[str] = (),
    prepends: str = "",
    strips: Sequence[str] = (),
) -> tokenizers.Tokenizer:
    """Writes and returns the tokenizer that transformers makes of a sentencepiece model.

    Args:
        pieces: by id.
        folder: where to.
        merges: as they were published; else they follow from the pieces' scores.
        prepends: what puts a space before a text: "" (nothing), "normalizer" or "first".
        strips: added tokens that swallow the spaces behind them.

    """
    vocab = {piece: number for number, (piece, _, _) in enumerate(pieces)}
    pairs = [tuple(merge.split(" ", 1)) for merge in merges] or list(_merges(pieces, vocab))
    unknown = "<unk>"
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab, pairs, byte_fallback=True, unk_token=unknown, fuse_unk=True)
    )
    changes, pre = tokenizers.normalizers, tokenizers.pre_tokenizers
    marks = changes.Replace(" ", "▁")
    if prepends == "first":
        tokenizer.pre_tokenizer = pre.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = changes.Sequence([changes.Prepend("▁"), marks]) if prepends else marks
    added = [(piece, kind) for piece, _, kind in pieces if kind in (UNKNOWN, CONTROL, USER_DEFINED)]
    _add(tokenizer, added, strips)
    names = [piece for piece, _ in added]
    _save(
        tokenizer,
        folder,
        bos_token=next(name for name in names if name in ("<s>", "<bos>")),
        eos_token=next(name for name in names if name in ("</s>", "<eos>")),
        unk_token=unknown,
    )
    return tokenizer


def pieces_of(name: str) -> tuple[list[Piece], list[str]]:
    """Returns the pieces of one of llama.cpp's vocabularies and its merges, where it has some."""
    values = values_of(name)
    pieces = zip(values["tokens"], values["scores"], values["token_type"], strict=True)
    return [piece for piece in pieces if not piece[0].startswith("[PAD")], values.get("merges", [])


def pieces_of_sentencepiece(path: Path) -> list[Piece]:
    """Returns the pieces of a sentencepiece model: field 1 of ModelProto, of which 1 is the text, 2 the score, 3 the type.

    Source: sentencepiece_model.proto of google/sentencepiece.
    """
    found: list[Piece] = []
    for number, value in _fields(path.read_bytes()):
        if number == 1 and isinstance(value, bytes):
            fields = dict(_fields(value))
            score = struct.unpack("<f", fields.get(2, b"\0\0\0\0"))[0]  # type: ignore[arg-type]
            kind = int(fields.get(3, 1))
            found.append((bytes(fields[1]).decode("utf-8"), score, kind))  # type: ignore[arg-type]
    return found


def values_of(name: str) -> dict:
    from gguf import GGUFReader

    reader = GGUFReader(FOLDER / f"ggml-vocab-{name}.gguf")
    kept = ("tokens", "scores", "token_type", "merges", "eos_token_id")
    fields = {key: reader.get_field(f"tokenizer.ggml.{key}") for key in kept}
    return {key: field.contents() for key, field in fields.items() if field is not None}


def _merges(pieces: Sequence[Piece], vocab: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yields the ways to make each piece, best pieces first, as transformers lists them."""
    found = [
        (-score, -cut, cut - len(piece), piece[:cut], piece[cut:])
        for piece, score, kind in pieces
        if kind not in (UNKNOWN, CONTROL, USER_DEFINED, BYTE)
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    yield from (way[3:] for way in sorted(found))


def _add(
    tokenizer: tokenizers.Tokenizer, added: Sequence[tuple[str, int]], strips: Sequence[str] = ()
) -> None:
    for text, kind in added:
        token = tokenizers.AddedToken(
            text, normalized=False, rstrip=text in strips, special=kind != USER_DEFINED
        )
        (tokenizer.add_tokens if kind == USER_DEFINED else tokenizer.add_special_tokens)([token])


def _save(tokenizer: tokenizers.Tokenizer, folder: Path, **names: str | None) -> None:
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    wrapped.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    wrapped.save_pretrained(folder)


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yields the fields of a protocol buffer: numbers, and bytes of what has a length or is a float."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = number()
        if key & 7 == 0:
            yield key >> 3, number()
            continue
        size = number() if key & 7 == 2 else 4 if key & 7 == 5 else 8
        yield key >> 3, data[at : at + size]
        at += size
