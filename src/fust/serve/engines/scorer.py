"""Log-likelihoods of given tokens through llama.cpp's C API: exact (32-bit cache, no flash attention), each beginning once.

llama.cpp's server gives log-probabilities of what it writes, never of what it reads. Here logits are asked for exactly
where a row wants them. The last row stays in the cache: the next row goes on from where it differs, and rows of one
request that differ only at their ends (the choices of a question) share their beginning and end in one batch.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fust.serve.engines.base import SCORE_LOGITS
from fust.serve.engines.llama_c import FLASH_ATTENTION_OFF, TYPE_F32, Batch, keep_warnings, open_library
from fust.wire.scoring import Likely, ScoredRow

BRANCHES = 8
"""Ends of one beginning that go into one batch."""
BATCH = 512
_KEPT = 0  # the sequence that the last row stays in


class BadRow(Exception):
    """A row cannot be scored: empty, a token that the model does not have, or longer than the context."""


class TooLong(BadRow):
    """A row has more tokens than the context."""

    def __init__(self, tokens: int, context: int) -> None:
        self.tokens, self.context = tokens, context
        super().__init__(f"the request has {tokens} tokens, and the context size is {context}")


class BadAdapter(Exception):
    """An adapter cannot be used."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A row to score: its tokens, and the first of them whose log-probability is wanted."""

    tokens: list[int]
    start: int


@dataclass(slots=True)
class _Place:
    """What the model says after some token: of the token that really follows, and which are likeliest."""

    logprob: float
    greedy: bool
    top: list[Likely]


@dataclass(slots=True)
class _Row:
    tokens: list[int] = field(default_factory=lambda: [])
    places: dict[int, _Place] = field(default_factory=lambda: {})
    """By position of the token before."""
    top: int = 0


@dataclass(frozen=True, slots=True)
class _Read:
    """One token of a batch, and where to note what the model says after it."""

    sequence: int
    at: int
    row: list[int]
    places: dict[int, _Place]
    is_wanted: bool


class Scorer:
    """One model, one thread at a time."""

    def __init__(self, path: Path, context: int, threads: int) -> None:
        """Loads the model.

        Raises:
            LayoutUnknown: the wheel is not the one that the binding knows.
            RuntimeError: the model cannot be loaded, or is none that writes text.
        """
        self._library = lib = open_library()
        said: list[str] = []
        self._log = keep_warnings(lambda line: (said.append(line), os.write(2, line.encode()))[0])
        lib.llama_log_set(self._log, None)
        lib.llama_backend_init()
        self._model = lib.llama_model_load_from_file(os.fsencode(path), lib.llama_model_default_params())
        if not self._model:
            raise RuntimeError(next((line.strip() for line in said if "error" in line), "it is not readable"))
        if lib.llama_model_has_encoder(self._model):
            raise RuntimeError("only models that write text from left to right can be scored")
        vocab = self._vocab = lib.llama_model_get_vocab(self._model)
        self.vocabulary = int(lib.llama_vocab_n_tokens(vocab))
        self.context = context
        self._keeps = not (
            lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model)
        )
        self._size = max(16, min(BATCH, SCORE_LOGITS // self.vocabulary, context))
        self._context = self._open_context(threads)
        self._memory = lib.llama_get_memory(self._context)
        self._size = min(self._size, int(lib.llama_n_batch(self._context)))  # more would abort the process
        self._last = _Row()
        self._adapter: tuple[str, Any] = ("", None)
        """The file in use, and what llama.cpp made of it."""
        self._make_batch()

    def _open_context(self, threads: int) -> Any:
        params = self._library.llama_context_default_params()
        params.n_ctx = self.context + (BATCH if self._keeps else 0)  # room for the ends of several rows
        params.n_batch = params.n_ubatch = self._size
        params.n_outputs_max = params.n_outputs_max_per_seq = self._size
        params.n_seq_max = 1 + BRANCHES if self._keeps else 1
        params.kv_unified = True  # a beginning is shared, not copied
        params.type_k = params.type_v = TYPE_F32
        params.flash_attn_type = FLASH_ATTENTION_OFF
        params.n_threads = params.n_threads_batch = threads
        made = self._library.llama_init_from_model(self._model, params)
        if not made:
            raise RuntimeError("there is no memory for its context")
        return made

    def _make_batch(self) -> None:
        size = self._size
        self._tokens, self._positions = np.zeros(size, np.int32), np.zeros(size, np.int32)
        self._counts, self._wanted = np.ones(size, np.int32), np.zeros(size, np.int8)
        self._sequences = np.zeros(size, np.int32)
        i32, first = ctypes.POINTER(ctypes.c_int32), self._sequences.ctypes.data
        pointers = (i32 * size)(*(ctypes.cast(first + 4 * i, i32) for i in range(size)))
        self._batch = Batch(
            0,
            self._tokens.ctypes.data_as(i32),
            None,
            self._positions.ctypes.data_as(i32),
            self._counts.ctypes.data_as(i32),
            ctypes.cast(pointers, ctypes.POINTER(i32)),
            self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )
        self._kept_pointers = pointers

    # Words

    def tokenize(self, text: str) -> list[int]:
        """Returns a text's token ids as llama.cpp's server would: special tokens read, a first token added where it is due."""
        raw = text.encode()
        room = len(raw) + 8
        ids = (ctypes.c_int32 * room)()
        count = self._library.llama_tokenize(self._vocab, raw, len(raw), ids, room, True, True)
        if count < 0:
            raise BadRow("a text has more tokens than bytes")
        return list(ids[:count])

    def piece(self, token: int) -> bytes:
        """Returns a token's text, which may be a piece of a character."""
        room = 256
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = self._library.llama_token_to_piece(self._vocab, token, buffer, room, 0, True)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    # Scoring

    def use(self, adapter: str) -> None:
        """Scores with an adapter (the path of its file) from now on; with an empty one, without any.

        What was read with another adapter is forgotten: its cache would speak with the other's voice.

        Raises:
            BadAdapter: llama.cpp does not take the file.
        """
        if adapter == self._adapter[0]:
            return
        lib = self._library
        made = lib.llama_adapter_lora_init(self._model, os.fsencode(adapter)) if adapter else None
        if adapter and not made:
            raise BadAdapter("the adapter does not load")
        self._last = _Row()
        self._forget(_KEPT, 0)
        held = (ctypes.c_void_p * 1)(made)
        lib.llama_set_adapters_lora(self._context, held, 1 if made else 0, (ctypes.c_float * 1)(1.0))
        # Only what no context uses may be freed: another one could get the same address, and be taken for it.
        _, before = self._adapter
        if before:
            lib.llama_adapter_lora_free(before)
        self._adapter = (adapter, made)

    def score(self, rows: Sequence[Wanted], top: int, is_wanted: Callable[[], bool]) -> list[ScoredRow]:
        """Scores rows in order; those next to one another that begin alike share their beginning.

        Args:
            rows: what to score.
            top: how many of the likeliest tokens to tell at each place.
            is_wanted: asked between batches; when it says no, the work ends with InterruptedError.

        Raises:
            BadRow, TooLong: a row cannot be scored; none was.
        """
        for row in rows:
            self._check(row)
        scored: list[ScoredRow] = []
        for group, shared in _groups(rows, self._size if self._keeps else 0):
            if len(group) == 1:
                scored.append(self._score_one(group[0], top, is_wanted))
            else:
                scored += self._score_ends(group, shared, top, is_wanted)
        return scored

    def _check(self, row: Wanted) -> None:
        if not row.tokens:
            raise BadRow("a row has no tokens")
        if len(row.tokens) > self.context:
            raise TooLong(len(row.tokens), self.context)
        odd = next((token for token in row.tokens if not 0 <= token < self.vocabulary), None)
        if odd is not None:
            raise BadRow(f"there is no token {odd}; the model has 0 to {self.vocabulary - 1}")

    def _score_one(self, row: Wanted, top: int, is_wanted: Callable[[], bool]) -> ScoredRow:
        self._advance(row.tokens, len(row.tokens), row.start, top, is_wanted)
        return _drawn(row, self._last.places, top)

    def _advance(
        self, tokens: list[int], end: int, start: int, top: int, is_wanted: Callable[[], bool]
    ) -> None:
        """Brings the kept sequence to `tokens[:end]`, its places known from `start - 1` on; reads only what is new."""
        last, self._last = self._last, _Row()  # what breaks off leaves nothing half known behind
        keep = self._reusable(last, tokens[:end], start, top)
        self._forget(_KEPT, keep)
        places = {at: place for at, place in last.places.items() if at < keep}
        at = keep
        while at < end:
            if not is_wanted():
                raise InterruptedError
            part = range(at, min(end, at + self._size))
            self._decode([_Read(_KEPT, i, tokens, places, _is_wanted(i, tokens, start)) for i in part], top)
            at = part.stop
        self._last = _Row(tokens[:end], places, top)

    def _reusable(self, last: _Row, tokens: list[int], start: int, top: int) -> int:
        """Returns how many tokens of the kept row need no second reading.

        The last common one always does: what follows it is not what followed it before.
        """
        if not self._keeps or last.top < top:
            return 0
        end = _common(last.tokens, tokens) - 1
        missing = (at for at in range(max(0, start - 1), end) if at not in last.places)
        return max(0, next(missing, end))

    def _score_ends(
        self, group: list[Wanted], shared: int, top: int, is_wanted: Callable[[], bool]
    ) -> list[ScoredRow]:
        """Scores rows that have their first `shared` tokens in common: these once, the rest of all in one batch."""
        begin = shared - 1  # the last common token is read once more by each: what follows it differs
        self._advance(group[0].tokens, begin, min(row.start for row in group), top, is_wanted)
        places = [dict(self._last.places) for _ in group]
        reads: list[_Read] = []
        for sequence, (row, known) in enumerate(zip(group, places, strict=True), 1):
            self._library.llama_memory_seq_cp(self._memory, _KEPT, sequence, 0, begin)
            reads += [
                _Read(sequence, i, row.tokens, known, _is_wanted(i, row.tokens, row.start))
                for i in range(begin, len(row.tokens))
            ]
        try:
            self._decode(reads, top)
        finally:
            for sequence in range(1, len(group) + 1):
                self._forget(sequence, 0)
        return [_drawn(row, known, top) for row, known in zip(group, places, strict=True)]

    def _forget(self, sequence: int, keep: int) -> None:
        """Drops a sequence's tokens from `keep` on."""
        if keep == 0 and not self._keeps:
            self._library.llama_memory_clear(self._memory, False)
        elif not self._library.llama_memory_seq_rm(self._memory, sequence, keep, -1):
            raise RuntimeError("the cache does not forget")

    def _decode(self, reads: Sequence[_Read], top: int) -> None:
        """Reads one batch of tokens and notes the places that are wanted."""
        assert len(reads) <= self._size
        for i, read in enumerate(reads):
            self._sequences[i], self._positions[i] = read.sequence, read.at
            self._tokens[i], self._wanted[i] = read.row[read.at], read.is_wanted
        self._batch.n_tokens = len(reads)
        status = self._library.llama_decode(self._context, self._batch)
        if status:
            raise RuntimeError(f"llama_decode gave {status}")
        wanted = [read for read in reads if read.is_wanted]
        if wanted:
            pointer = self._library.llama_get_logits(self._context)
            _note(np.ctypeslib.as_array(pointer, (len(wanted), self.vocabulary)), wanted, top)


def _is_wanted(at: int, tokens: list[int], start: int) -> bool:
    return at + 1 >= start or at + 1 == len(tokens)


def _note(logits: npt.NDArray[np.float32], reads: Sequence[_Read], top: int) -> None:
    """Turns logits (reads, vocabulary) into places; the sum of the softmax is taken in 64 bits."""
    best = logits.argmax(axis=1)
    high = np.take_along_axis(logits, best[:, None], axis=1)
    norms = high[:, 0] + np.log(np.exp(logits - high).sum(axis=1, dtype=np.float64))
    for line, norm, first, read in zip(logits, norms, best, reads, strict=True):
        if top > 1:
            likeliest = np.argpartition(line, -top)[-top:]
            likeliest = likeliest[np.lexsort((likeliest, -line[likeliest]))]
        else:
            likeliest = [first]
        listed = [Likely(int(i), float(line[i] - norm)) for i in likeliest]
        follows = read.row[read.at + 1] if read.at + 1 < len(read.row) else int(first)
        read.places[read.at] = _Place(float(line[follows] - norm), bool(line[follows] >= line[first]), listed)


def _drawn(row: Wanted, places: dict[int, _Place], top: int) -> ScoredRow:
    found = [places[at - 1] if at >= row.start and at else None for at in range(len(row.tokens))]
    return ScoredRow(
        row.tokens,
        [place.logprob if place else None for place in found],
        [place.greedy if place else None for place in found],
        places[len(row.tokens) - 1].top[: max(1, top)],
        [place.top[:top] if place else None for place in found] if top else [],
    )


def _common(one: list[int], other: list[int]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _groups(rows: Sequence[Wanted], room: int) -> list[tuple[list[Wanted], int]]:
    """Puts neighbours together whose ends after a long common beginning fit one batch of `room` tokens.

    Returns:
        (rows, tokens that they have in common) of each group.
    """
    groups: list[tuple[list[Wanted], int]] = []
    for row in rows:
        if groups and room:
            members, shared = groups[-1]
            both = min(
                shared, _common(members[0].tokens, row.tokens), len(row.tokens), len(members[0].tokens)
            )
            ends = sum(len(m.tokens) - both + 1 for m in [*members, row])
            if len(members) < BRANCHES and both > len(row.tokens) // 2 and ends <= room:
                groups[-1] = ([*members, row], both)
                continue
        groups.append(([row], len(row.tokens)))
    return groups
