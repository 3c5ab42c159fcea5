"""Rotary positions: x cos + (x R) sin, where R changes the halves of a head and the sign of one.

R is a product: on strips of a head's width the two halves apart are slower.
"""

# torch types its functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false

from __future__ import annotations

from typing import Any, cast

import torch

from fust.tune.products import blocks


class Rotation:
    """The positions of a pass as tables, the same for all layers."""

    def __init__(self, tables: tuple[torch.Tensor, torch.Tensor], width: int, dtype: torch.dtype) -> None:
        """Fills the tables.

        Args:
            tables: cosines and sines, each (1, N, R), where R is what of a head turns.
            width: of a head.
            dtype: of the values.

        """
        n, turning = tables[0].shape[1:]
        self._cos = torch.ones(n, width, dtype=dtype)
        self._sin = torch.zeros(n, width, dtype=dtype)
        for table, given in zip((self._cos, self._sin), tables, strict=True):
            table[:, :turning] = given[0]
        self._half = torch.zeros(width, width, dtype=dtype)
        places = torch.arange(turning // 2)
        self._half[places + turning // 2, places] = -1
        self._half[places, places + turning // 2] = 1
        self._at: dict[object, tuple[torch.Tensor, torch.Tensor]] = {}

    @classmethod
    def find(cls, tables: tuple[torch.Tensor, torch.Tensor], width: int, dtype: torch.dtype) -> Rotation:
        """Returns the rotation for heads of a width; kept with the pass's tables."""
        known: dict[object, Rotation] = vars(cast(Any, tables[0])).setdefault("_fust_rotations", {})
        if (width, dtype) not in known:
            known[width, dtype] = cls(tables, width, dtype)
        return known[width, dtype]

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """Returns ``x`` (N, H, width) turned."""
        return torch.Tensor(_Rotated.apply(x, self))

    def at(self, places: Any, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns both tables at a tensor of places, in a shape; kept as long as that tensor is the same."""
        if places not in self._at:
            cos, sin = (table.index_select(0, places).view(shape) for table in (self._cos, self._sin))
            self._at[places] = cos, sin
        return self._at[places]

    def turn(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Turns ``x`` (…, width) where it is."""
        changed = (x.view(-1, x.shape[-1]) @ self._half).view(x.shape)
        x.mul_(cos).addcmul_(changed, sin)

    def turn_back(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Makes of the gradient behind `turn`, where it is, that before it."""
        changed = ((x * sin).view(-1, x.shape[-1]) @ self._half.T).view(x.shape)
        x.mul_(cos).add_(changed)

    def rows(self, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns both tables for some rows; (n, 1, width)."""
        return self._cos[part, None], self._sin[part, None]


class _Rotated(torch.autograd.Function):
    """Rows turned, some at a time."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        ctx.rotation = rotation
        return _in_blocks(x, rotation, rotation.turn)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _in_blocks(gradients[0], ctx.rotation, ctx.rotation.turn_back), None


def _in_blocks(x: torch.Tensor, rotation: Rotation, turn: Any) -> torch.Tensor:
    result = x.clone(memory_format=torch.contiguous_format)
    for part in blocks(len(x), x.shape[1] * x.shape[2]):
        turn(result[part], *rotation.rows(part))
    return result
