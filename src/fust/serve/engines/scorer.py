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

from fust.serve.engines.base import SCORE_LOGITS
from fust.serve.engines.llama_c import FLASH_ATTENTION_OFF, TYPE_F32, Batch, keep_warnings, open_library
from fust.serve.engines.scored import (
    BRANCHES,
    BadRow,
    Place,
    Read,
    Wanted,
    check_row,
    common,
    drawn,
    groups,
    is_noted,
    note_places,
)
from fust.wire.scoring import ScoredRow

BATCH = 512
_KEPT = 0  # the sequence that the last row stays in


@dataclass(slots=True)
class _Row:
    tokens: list[int] = field(default_factory=lambda: [])
    places: dict[int, Place] = field(default_factory=lambda: {})
    """By position of the token before."""
    top: int = 0


class BadAdapter(Exception):
    """An adapter cannot be used."""


class Scorer:
    """One model, one thread at a time."""

    def __init__(self, path: Path, context: int, threads: int, library: Any = None) -> None:
        """Loads the model by a library of `open_library`; None opens the wheel's.

        Raises:
            LayoutUnknown: the wheel is not the one that the binding knows.
            RuntimeError: the model cannot be loaded, or is none that writes text.
        """
        self._library = lib = library or open_library()
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
        self._last = _Row()
        self._forget(_KEPT, 0)
        # Two are never in memory at once. Only what no context uses may be freed: the next one could get the same
        # address, and be taken for it.
        self._apply(None)
        _, before = self._adapter
        self._adapter = ("", None)
        if before:
            lib.llama_adapter_lora_free(before)
        if not adapter:
            return
        made = lib.llama_adapter_lora_init(self._model, os.fsencode(adapter))
        if not made:
            raise BadAdapter("the adapter does not load")
        self._apply(made)
        self._adapter = (adapter, made)

    def _apply(self, made: Any) -> None:
        held, scales = (ctypes.c_void_p * 1)(made), (ctypes.c_float * 1)(1.0)
        self._library.llama_set_adapters_lora(self._context, held, 1 if made else 0, scales)

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
            check_row(row, self.context, self.vocabulary)
        scored: list[ScoredRow] = []
        for group, shared in groups(rows, self._size if self._keeps else 0):
            if len(group) == 1:
                scored.append(self._score_one(group[0], top, is_wanted))
            else:
                scored += self._score_ends(group, shared, top, is_wanted)
        return scored

    def _score_one(self, row: Wanted, top: int, is_wanted: Callable[[], bool]) -> ScoredRow:
        self._advance(row.tokens, len(row.tokens), row.start, top, is_wanted)
        return drawn(row, self._last.places, top)

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
            self._decode([Read(_KEPT, i, tokens, places, is_noted(i, tokens, start)) for i in part], top)
            at = part.stop
        self._last = _Row(tokens[:end], places, top)

    def _reusable(self, last: _Row, tokens: list[int], start: int, top: int) -> int:
        """Returns how many tokens of the kept row need no second reading.

        The last common one always does: what follows it is not what followed it before.
        """
        if not self._keeps or last.top < top:
            return 0
        end = common(last.tokens, tokens) - 1
        missing = (at for at in range(max(0, start - 1), end) if at not in last.places)
        return max(0, next(missing, end))

    def _score_ends(
        self, group: list[Wanted], shared: int, top: int, is_wanted: Callable[[], bool]
    ) -> list[ScoredRow]:
        """Scores rows that have their first `shared` tokens in common: these once, the rest of all in one batch."""
        begin = shared - 1  # the last common token is read once more by each: what follows it differs
        self._advance(group[0].tokens, begin, min(row.start for row in group), top, is_wanted)
        places = [dict(self._last.places) for _ in group]
        reads: list[Read] = []
        for sequence, (row, known) in enumerate(zip(group, places, strict=True), 1):
            self._library.llama_memory_seq_cp(self._memory, _KEPT, sequence, 0, begin)
            reads += [
                Read(sequence, i, row.tokens, known, is_noted(i, row.tokens, row.start))
                for i in range(begin, len(row.tokens))
            ]
        try:
            self._decode(reads, top)
        finally:
            for sequence in range(1, len(group) + 1):
                self._forget(sequence, 0)
        return [drawn(row, known, top) for row, known in zip(group, places, strict=True)]

    def _forget(self, sequence: int, keep: int) -> None:
        """Drops a sequence's tokens from `keep` on."""
        if keep == 0 and not self._keeps:
            self._library.llama_memory_clear(self._memory, False)
        elif not self._library.llama_memory_seq_rm(self._memory, sequence, keep, -1):
            raise RuntimeError("the cache does not forget")

    def _decode(self, reads: Sequence[Read], top: int) -> None:
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
            note_places(np.ctypeslib.as_array(pointer, (len(wanted), self.vocabulary)), wanted, top)
