"""Attention within samples that stand one behind the other: the work of n tokens is that of their samples.

Short samples are laid side by side and computed by whole tables, with the turning of their heads, in one function that has a
backward pass of its own; long ones, and those with dropout, go to torch's.
"""

# torch and transformers type their functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from fust.tune.products import product_dtype
from fust.tune.rotation import Rotation

PARTED = "fust_parted"
"""Name of the attention in transformers' table: see `parted_attention`."""
_SHORT = 512
"""Tokens up to which attention is quicker by whole tables."""
_SIDE = 64
"""Lengths of samples are filled up to a multiple of it, so that many make one table."""


class Lengths:
    """Lengths of samples as one closed value: of every list of them torch.compile would make code of its own."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.each = lengths


def parted_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    sample_lengths: Lengths | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """`attend` as transformers calls such a function.

    Args:
        module: the attention layer.
        query: (1, H, N, D); key and value may have fewer heads.
        key: (1, H_kv, N, D).
        value: (1, H_kv, N, D).
        attention_mask: of a model that answers; None in training.
        dropout: of attention weights.
        scaling: of the products; None: one over the root of D.
        sliding_window: how many tokens back are seen, itself included; None: all.
        sample_lengths: sums to N; None: somebody else asks (a model that answers), for whom it is transformers' own.
        **more: what else transformers hands on.

    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if sample_lengths is None:
        return sdpa_attention_forward(  # pyright: ignore[reportReturnType]
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            sliding_window=sliding_window,
            **more,
        )
    low = product_dtype(query)
    parts = [tensor[0].transpose(0, 1).to(low) for tensor in (query, key, value)]
    asked = Asked((query.shape[1], key.shape[1]), dropout, scaling, sliding_window)
    return attend(parts, asked, sample_lengths.each)[None], None


@dataclass(frozen=True, slots=True)
class Asked:
    """What attention of a layer is."""

    heads: tuple[int, int]
    """Of queries, and of keys (and values), which may be fewer."""
    dropout: float = 0.0
    """Of attention weights."""
    scaling: float | None = None
    """Of the products; None: one over the root of the width."""
    window: int | None = None
    """How many tokens back are seen, itself included; None: all."""

    def apart(self, parts: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Returns queries, keys and values, which may be one tensor (N, H + 2 H_kv, D)."""
        heads, of_keys = self.heads
        return parts if len(parts) == 3 else parts[0].split([heads, of_keys, of_keys], 1)


def attend(
    parts: Sequence[torch.Tensor], asked: Asked, lengths: Sequence[int], rotation: Rotation | None = None
) -> torch.Tensor:
    """Returns causal attention within samples; (N, H, D).

    Args:
        parts: queries (N, H, D), keys and values (N, H_kv, D), or all three side by side.
        asked: what attention it is.
        lengths: of the samples; sums to N.
        rotation: turns queries and keys before; None: they are as they shall be.

    """
    if not asked.dropout and max(lengths) <= _SHORT:
        return torch.Tensor(_ShortAttention.apply(tuple(lengths), asked, rotation, *parts))
    query, key, value = asked.apart(parts)
    if rotation:
        query, key = rotation.of(query), rotation.of(key)
    runs = list(_runs(lengths, asked.dropout))
    split = (tensor.split([sum(run) for run in runs]) for tensor in (query, key, value))
    found = [
        _attend_long(three, asked)
        if len(run) == 1 and (run[0] > _SHORT or asked.dropout)
        else torch.Tensor(_ShortAttention.apply(tuple(run), asked, None, *three))
        for run, three in zip(runs, zip(*split, strict=True), strict=True)
    ]
    return torch.cat(found)


def _runs(lengths: Sequence[int], dropout: float) -> Iterator[list[int]]:
    """Yields short samples that stand one behind the other together, and every long one alone."""
    short: list[int] = []
    for n in lengths:
        if n <= _SHORT and not dropout:
            short.append(n)
            continue
        if short:
            yield short
        short = []
        yield [n]
    if short:
        yield short


def _attend_long(parts: Sequence[torch.Tensor], asked: Asked) -> torch.Tensor:
    """Returns the attention of one sample by torch's function; (N, H, D)."""
    n, window = len(parts[0]), asked.window
    mask = _window(n, window) if window and n > window else None
    query, key, value = (part.transpose(0, 1)[None] for part in parts)
    shared = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(
        query, key, value, mask, asked.dropout, is_causal=mask is None, scale=asked.scaling, enable_gqa=shared
    )[0].transpose(0, 1)


def _window(n: int, window: int) -> torch.Tensor:
    """Returns which tokens each token sees, itself and those before it, ``window`` in all; (n, n)."""
    back = torch.arange(n)[:, None] - torch.arange(n)[None, :]
    return (back >= 0) & (back < window)


@functools.lru_cache(maxsize=32)
def _bias(n: int, window: int, dtype: torch.dtype) -> torch.Tensor:
    """Returns what is added to a table: nothing where a token looks, and minus infinity elsewhere; (n, n)."""
    return torch.zeros(n, n, dtype=dtype).masked_fill_(~_window(n, window), -torch.inf)


# Short samples


@dataclass(frozen=True, slots=True)
class _Group:
    """Samples that fill up to the same length and make one table.

    What is filled in comes last, where no token of the sample looks.
    """

    first: int
    """Row, of all that stand side by side."""
    samples: int
    side: int
    """Rows of each sample."""
    taken: torch.Tensor
    """The token of each row; of what is filled in, the number of all tokens; (samples x side,)."""
    there: torch.Tensor
    """The same; of what is filled in, some token."""

    @property
    def rows(self) -> slice:
        """Returns where its rows are."""
        return slice(self.first, self.first + self.samples * self.side)


@dataclass(frozen=True, slots=True)
class _Sides:
    """Short samples side by side."""

    groups: list[_Group]
    given: torch.Tensor
    """The row of each token; (N,)."""

    @property
    def rows(self) -> int:
        """Returns how many there are."""
        return self.groups[-1].rows.stop


@functools.lru_cache(maxsize=8)
def _side_by_side(lengths: tuple[int, ...]) -> _Sides:
    starts = list(itertools.accumulate(lengths, initial=0))
    given = torch.empty(starts[-1], dtype=torch.long)
    by_side: dict[int, list[int]] = {}
    for sample, n in enumerate(lengths):
        by_side.setdefault(-(-n // _SIDE) * _SIDE, []).append(sample)
    groups: list[_Group] = []
    row = 0
    for side, samples in sorted(by_side.items()):
        taken = torch.full((len(samples), side), starts[-1])
        for place, sample in enumerate(samples):
            first, n = starts[sample], lengths[sample]
            taken[place, :n] = torch.arange(first, first + n)
            given[first : first + n] = torch.arange(n) + row + place * side
        taken = taken.flatten()
        groups.append(_Group(row, len(samples), side, taken, taken.clamp(max=starts[-1] - 1)))
        row += len(taken)
    return _Sides(groups, given)


class _ShortAttention(torch.autograd.Function):
    """Softmax attention of short samples by whole tables: torch's own backward pass takes four times longer where n is small."""

    @staticmethod
    def forward(
        ctx: Any, lengths: tuple[int, ...], asked: Asked, rotation: Rotation | None, *parts: torch.Tensor
    ) -> torch.Tensor:
        sides, (heads, of_keys), width = _side_by_side(lengths), asked.heads, parts[0].shape[2]
        scale = asked.scaling or width**-0.5
        said = parts[0].new_empty(sides.rows, heads, width)
        kept: list[torch.Tensor] = []
        for group in sides.groups:
            rows = asked.apart([part.index_select(0, group.there) for part in parts])
            q, k, v = (_stack(part, group, of_keys) for part in rows)
            _turn(rotation, group, q, k)
            q, k, v = (_tables(it) for it in (q, k, v))
            hidden = _bias(group.side, asked.window or group.side, q.dtype).repeat(heads // of_keys, 1)
            p = torch.softmax(torch.baddbmm(hidden, q, k.transpose(1, 2), alpha=scale), -1)
            _lay(torch.bmm(p, v), said[group.rows], group)
            kept += q, k, v, p
        result = said.index_select(0, sides.given)
        ctx.save_for_backward(result, *kept)
        ctx.sides, ctx.scale, ctx.asked, ctx.rotation = sides, scale, asked, rotation
        ctx.shapes = [part.shape[1] for part in parts]
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        result, *kept = ctx.saved_tensors
        sides, of_keys, scale = ctx.sides, ctx.asked.heads[1], ctx.scale
        # What is filled in has no gradient: its row is one of zeros behind all tokens.
        came = torch.cat([gradients[0], gradients[0].new_zeros(1, *result.shape[1:])])
        found = [came.new_empty(sides.rows, heads, came.shape[2]) for heads in ctx.shapes]
        for group, at in zip(sides.groups, range(0, len(kept), 4), strict=True):
            q, k, v, p = kept[at : at + 4]
            back = _stack(came.index_select(0, group.taken), group, of_keys)
            said = _stack(result.index_select(0, group.there), group, of_keys)
            mean = said.mul_(back).sum(-1, keepdim=True, dtype=torch.float32).to(came.dtype)
            back, mean = _tables(back), _tables(mean)
            of_table = torch.baddbmm(mean, back, v.transpose(1, 2), beta=-scale, alpha=scale).mul_(p)
            of_query = torch.bmm(of_table, k).view(group.samples, of_keys, -1, group.side, k.shape[2])
            of_key = torch.bmm(of_table.transpose(1, 2), q).view(
                group.samples, of_keys, 1, group.side, q.shape[2]
            )
            _turn(ctx.rotation, group, of_query, of_key, back=True)
            of_value = torch.bmm(p.transpose(1, 2), back)
            into = ctx.asked.apart([rows[group.rows] for rows in found])
            for one, rows in zip((of_query, of_key, of_value), into, strict=True):
                _lay(one, rows, group)
        return None, None, None, *(rows.index_select(0, sides.given) for rows in found)


def _stack(rows: torch.Tensor, group: _Group, of_keys: int) -> torch.Tensor:
    """Returns a group's rows (S n, H, D) by sample and head; (S, H_kv, heads that share one, n, D)."""
    shape = group.samples, group.side, of_keys, -1, rows.shape[2]
    return rows.view(shape).permute(0, 2, 3, 1, 4).contiguous()


def _tables(stacked: torch.Tensor) -> torch.Tensor:
    """Returns what `_stack` makes for products: heads that share keys one below the other; (S H_kv, g n, D)."""
    samples, of_keys, shared, side, width = stacked.shape
    return stacked.view(samples * of_keys, shared * side, width)


def _lay(stacked: torch.Tensor, rows: torch.Tensor, group: _Group) -> None:
    """Writes what `_stack` would make, in any shape, into rows (S n, H, D)."""
    heads, width = rows.shape[1:]
    part = rows.unflatten(0, (group.samples, group.side))
    part.copy_(stacked.view(group.samples, heads, group.side, width).transpose(1, 2))


def _turn(rotation: Rotation | None, group: _Group, *stacked: torch.Tensor, back: bool = False) -> None:
    """Turns what `_stack` makes where it is, or its gradients back."""
    if rotation is None:
        return
    tables = rotation.at(group.there, (group.samples, 1, 1, group.side, -1))
    for one in stacked:
        (rotation.turn_back if back else rotation.turn)(one, *tables)


# Known to transformers


def _mask(*, attention_mask: torch.Tensor | None = None, **more: Any) -> torch.Tensor | None:
    from transformers.masking_utils import sdpa_mask

    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **more)


def register_parted_attention(*, compiled: bool = False) -> str:
    """Makes it known to transformers; returns its name for ``attn_implementation``. Compiled layers leave it as it is."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    known: Any = torch.compiler.disable(parted_attention) if compiled else parted_attention
    AttentionInterface.register(PARTED, known)
    AttentionMaskInterface.register(PARTED, _mask)
    return PARTED
