"""What the echo engine answers, and in what tokens: all of it follows from the request alone, so tests can foretell it.

A token is up to three bytes of UTF-8, mostly whole characters, and its number says which: `<count><b2><b1><b0>`.
"""

from __future__ import annotations

import codecs
import hashlib
import math
import re
import struct

_TOKEN_BYTES = 3
_WORD = re.compile(r"\w+")
EMBEDDING = 64
"""How many numbers an embedding has."""


def tokens_of(text: str) -> list[int]:
    """Returns the tokens of a text; a character of four bytes takes two."""
    pieces: list[bytes] = []
    held = b""
    for char in text:
        raw = char.encode("utf-8", "replace")
        if len(held) + len(raw) > _TOKEN_BYTES and held:
            pieces.append(held)
            held = b""
        if len(raw) > _TOKEN_BYTES:
            pieces += [raw[:2], raw[2:]]
        else:
            held += raw
    if held:
        pieces.append(held)
    return [len(piece) << 24 | int.from_bytes(piece, "big") for piece in pieces]


def bytes_of(token: int) -> bytes:
    """Returns the bytes of a token; of a number that is none, its last ones."""
    return (token & 0xFFFFFF).to_bytes(3, "big")[3 - min(max(token >> 24, 1), 3) :]


def text_of(tokens: list[int]) -> str:
    """Returns the text of tokens."""
    return b"".join(bytes_of(token) for token in tokens).decode("utf-8", "replace")


def pieces_of(tokens: list[int]) -> list[str]:
    """Returns what each token adds to the text: nothing where it ends inside a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(bytes_of(token)) for token in tokens]


def embedding_of(text: str) -> list[float]:
    """Returns a vector of length 1 that follows from the text (SHA-512 of it, stretched)."""
    raw = b"".join(hashlib.sha512(bytes([i]) + text.encode("utf-8", "replace")).digest() for i in range(2))
    numbers = [value / 32768 for value in struct.unpack(f"<{EMBEDDING}h", raw[: 2 * EMBEDDING])]
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return [number / length for number in numbers]


def relevance_of(query: str, document: str) -> float:
    """Returns which share of the query's words the document holds."""
    wanted = set(_WORD.findall(query.lower()))
    return len(wanted & set(_WORD.findall(document.lower()))) / len(wanted) if wanted else 0.0
