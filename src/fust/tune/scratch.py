"""Memory that is used again and again for the one table that is far larger than all others.

Its rows are as many as tokens are learned, another number in each pass. Asked for anew each time, such blocks leave holes
that the next one does not fit: a heap whose pages are kept grew by one of them with nearly every look at held-out rows.
"""

# torch types its functions only in part.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import ctypes
import weakref

import torch


class Scratch:
    """A block that is lent to one at a time; who asks meanwhile gets one of its own."""

    def __init__(self) -> None:
        self._block = torch.empty(0)
        self._lent: weakref.ref[torch.Tensor] | None = None

    def table(self, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        """Returns memory of (``rows``, ``columns``), to be filled; it is lent until nobody holds this tensor itself.

        A view of it, or what autograd saved of it, does not hold it: keep the tensor.
        """
        if self._lent is not None and self._lent() is not None:
            return torch.empty(rows, columns, dtype=dtype)
        if self._block.dtype != dtype or self._block.numel() < rows * columns:
            # Room for twice the rows at most, of which the system gives no page before it is written to.
            self._block = torch.empty(columns << (rows - 1).bit_length(), dtype=dtype)
        lent = self._block[: rows * columns].view(rows, columns)
        self._lent = weakref.ref(lent)
        return lent


def give_holes_back() -> None:
    """Gives the system the pages that glibc holds free between blocks in use; elsewhere nothing happens."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
