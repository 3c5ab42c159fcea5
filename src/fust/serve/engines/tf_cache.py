"""Keys and values of the sequences that are being written, in one place, so that one pass of the model serves them all.

All sequences end at the same column; shorter ones have unused columns on their left, which the mask hides:

    row 0   . . a b c d        rows    how many sequences there are
    row 1   . . . . x y        start   first column that any of them uses
    row 2   p q r s t u        end     column of the next token

A sequence joins by being copied to the end of its columns, and leaves by giving its row to the last one; nothing is
copied for a step but the new token's own keys and values. Any attention that transformers keeps in a `DynamicCache`
goes with this; what keeps another state (Mamba, linear attention) is served sequence by sequence.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

_LEAST_COLUMNS = 256
_PLAIN = (DynamicLayer, DynamicSlidingWindowLayer)


def can_share(model: Any) -> bool:
    """Returns whether the sequences of a model can share one cache."""
    config = model.config.get_text_config(decoder=True)
    if getattr(config, "num_kv_shared_layers", 0):
        return False
    return all(type(layer) in _PLAIN for layer in DynamicCache(config=config).layers)


def own_cache(model: Any, *, shared: bool) -> Cache:
    """Returns an empty cache for one sequence: of plain layers when it is to join others later.

    A plain layer keeps all columns also where a model looks back only so far; its mask hides the rest.
    """
    return DynamicCache() if shared else DynamicCache(config=model.config.get_text_config(decoder=True))


class _Layer(CacheLayerMixin):
    """One layer of all sequences: keys (rows, H, columns, D) and values, which may have another D."""

    is_sliding = False

    def __init__(self, window: Window, keys: torch.Tensor, values: torch.Tensor, rows: int) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.window, self.is_initialized = window, True
        self._keys = torch.zeros(rows, keys.shape[1], 0, keys.shape[3], dtype=keys.dtype)
        self._values = torch.zeros(rows, values.shape[1], 0, values.shape[3], dtype=values.dtype)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing is left to do."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Takes (rows, H, 1, D) of the new token; returns all columns that count."""
        n, start, end = self.window.rows, self.window.start, self.window.end
        self._keys[:n, :, end : end + 1] = key_states
        self._values[:n, :, end : end + 1] = value_states
        return self._keys[:n, :, start : end + 1], self._values[:n, :, start : end + 1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Returns (columns with the new ones, offset)."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Returns how many columns count."""
        return self.window.end - self.window.start

    def get_max_length(self) -> int:
        """Returns that there is no limit here."""
        return -1

    def resize(self, columns: int) -> None:
        """Gives every row so many columns; what they hold stays where it is."""
        for name in ("_keys", "_values"):
            old: torch.Tensor = getattr(self, name)
            new = torch.zeros(*old.shape[:2], columns, old.shape[3], dtype=old.dtype)
            new[:, :, : old.shape[2]] = old
            setattr(self, name, new)

    def shift(self, rows: int, start: int, end: int, to: int) -> None:
        """Moves columns `start` to `end` to `to`."""
        for held in (self._keys, self._values):
            held[:rows, :, to : to + end - start] = held[:rows, :, start:end].clone()

    def put(self, row: int, end: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Copies a sequence (1, H, T, D) into a row, its last token before column `end`."""
        self._keys[row, :, end - keys.shape[2] : end] = keys[0]
        self._values[row, :, end - values.shape[2] : end] = values[0]

    def move(self, row: int, to: int) -> None:
        """Copies a whole row over another."""
        self._keys[to], self._values[to] = self._keys[row], self._values[row]


class Window:
    """Which rows and columns count; the same in all layers."""

    def __init__(self) -> None:
        self.rows = self.start = self.end = 0


class SharedCache:
    """The cache of up to `rows` sequences of up to `context` tokens."""

    def __init__(self, rows: int, context: int) -> None:
        self._most_rows, self._most_columns = rows, context + 1
        self._window = Window()
        self._layers: list[_Layer] = []
        self._columns = 0
        self.lengths: list[int] = []
        """Tokens of each sequence, by row."""

    @property
    def cache(self) -> Cache:
        """What the model's forward pass takes."""
        return Cache(layers=list(self._layers))

    def join(self, cache: Cache, length: int) -> None:
        """Takes in a sequence of `length` tokens as the last row."""
        window = self._window
        layers: list[Any] = list(cache.layers)
        if not self._layers:
            self._layers = [_Layer(window, own.keys, own.values, self._most_rows) for own in layers]
        if not window.rows:
            window.start = window.end = 0
        end = max(length, window.end)
        self._make_room(end + 1)
        if end > window.end and window.rows:
            for layer in self._layers:
                layer.shift(window.rows, window.start, window.end, end - window.end + window.start)
        window.start, window.end = (window.start + end - window.end if window.rows else end), end
        for layer, own in zip(self._layers, layers, strict=True):
            layer.put(window.rows, end, own.keys, own.values)
        window.rows += 1
        self.lengths.append(length)
        self._narrow()

    def leave(self, row: int) -> None:
        """Drops a row; the last one takes its place."""
        last = self._window.rows - 1
        if row != last:
            for layer in self._layers:
                layer.move(last, row)
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        self._window.rows = last
        self._narrow()

    def prepare(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Makes room for one more token of every sequence; returns its mask (rows, columns) and positions (rows, 1)."""
        window = self._window
        if window.end + 1 > self._columns and window.start:
            for layer in self._layers:
                layer.shift(window.rows, window.start, window.end, 0)
            window.start, window.end = 0, window.end - window.start
        self._make_room(window.end + 1)
        lengths = torch.tensor(self.lengths)
        columns = torch.arange(window.start, window.end + 1)
        mask = (columns >= window.end - lengths[:, None]).long()
        return mask, lengths[:, None]

    def advance(self) -> None:
        """Counts the token that the pass has put there."""
        self._window.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def _narrow(self) -> None:
        self._window.start = self._window.end - max(self.lengths, default=0)

    def _make_room(self, columns: int) -> None:
        if columns > self._columns:
            self._columns = min(self._most_columns, max(_LEAST_COLUMNS, columns + columns // 2))
            for layer in self._layers:
                layer.resize(self._columns)
