"""The loss of tokens and attention within samples, each as one function with a backward pass of its own.

What autograd makes of the plain formulas is right and slow on a CPU: casts of the same values again and again, whole
tables of logits in three copies, attention between samples that only share a row. Here is the same arithmetic with what
is needed and no more; the tests compare every function with the plain formula.
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

from fust.tune.products import Matrices, blocks, product_dtype


class Lengths:
    """Lengths of samples as one closed value: of every list of them torch.compile would make code of its own."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.each = lengths


PARTED = "fust_parted"
"""Name of the attention in transformers' table: see `parted_attention`."""
_LOGITS_AT_ONCE = 2**24
"""Logits that are made together of an output matrix that does not learn: the matrix is laid out anew for each product."""

_SHORT = 512
"""Tokens up to which attention is quicker by whole tables."""
_SIDE = 64
"""Lengths of samples are filled up to a multiple of it, so that many make one table."""

_STEP = 32
"""Lengths are filled up to a multiple of it: oneDNN keeps code and work space for each shape of a product that it has seen,
and samples of every length cost 70 MB more with each step of a model of 16 million."""


def _filled(n: int) -> int:
    return -(-n // _STEP) * _STEP


# The output matrix and the loss


class _TokenLosses(torch.autograd.Function):
    """-log p of wanted tokens from hidden states and the output matrix; gradients are ready when it has been computed."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: Matrices, wanted: torch.Tensor, *_: torch.Tensor
    ) -> torch.Tensor:
        low = product_dtype(hidden)
        matrix = head.low(low)
        n, vocabulary = len(wanted), len(matrix)
        spare = _filled(n) - n
        given = F.pad(hidden.to(low), (0, 0, 0, spare))
        wanted = F.pad(wanted, (0, spare))
        losses = torch.empty(n + spare)
        # Of what does not learn only the product with the matrix is kept, which is small.
        kept = torch.empty(n + spare, vocabulary if head.learns else hidden.shape[1], dtype=low)
        at_once = n + spare if head.learns else _filled(max(1, _LOGITS_AT_ONCE // vocabulary))
        for first in range(0, n, at_once):
            place = slice(first, first + at_once)
            logits = torch.mm(given[place], matrix.T, out=kept) if head.learns else given[place] @ matrix.T
            for part in blocks(len(logits), vocabulary):
                losses[place][part] = _derive(logits[part], wanted[place][part, None])
            if not head.learns:
                kept[place] = logits @ matrix
        ctx.save_for_backward(kept, *([given, matrix] if head.learns else []))
        ctx.head, ctx.dtype = head, hidden.dtype
        return losses[:n]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept, *learned = ctx.saved_tensors
        n = len(gradients[0])
        scale = F.pad(gradients[0], (0, len(kept) - n))[:, None].to(kept.dtype)
        if learned:
            given, matrix = learned
            ctx.head.learn(kept, given * scale)
            kept = kept @ matrix
        return (kept * scale)[:n].to(ctx.dtype), *(None for _ in ctx.needs_input_grad[1:])


def _derive(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Puts the derivative of -log p of ``wanted`` (N, 1) in the place of ``logits`` (N, V); returns -log p (N,), in fp32.

    What fp32 cannot tell from nothing has the least p that it can: a loss of 87.
    """
    p = torch.softmax(logits, 1, dtype=torch.float32)
    losses = -p.gather(1, wanted).clamp_min_(torch.finfo(p.dtype).tiny).log_()
    logits.copy_(p.scatter_add_(1, wanted, torch.full(wanted.shape, -1.0)))
    return losses.squeeze(1)


def token_losses(hidden: torch.Tensor, head: Matrices, wanted: torch.Tensor) -> torch.Tensor:
    """Returns -log p of ``wanted`` (N,) by softmax(``hidden`` (N, D) times ``head`` (V, D) transposed), in fp32; (N,).

    Where the matrix learns, the table of logits becomes its derivative and is kept, in the dtype of matrix products; else
    a part of it exists at a time.
    """
    return torch.Tensor(_TokenLosses.apply(hidden, head, wanted, *head.weights))


# Attention


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
    """Causal attention within samples that stand one behind the other in one row: the work of n tokens is that of the samples.

    Args:
        module: the attention layer, as transformers calls such a function.
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
    runs = [tuple(run) for run in _runs(sample_lengths.each, dropout)]
    parts = (tensor.to(low).split([sum(run) for run in runs], dim=2) for tensor in (query, key, value))
    found = [
        _attend(q, k, v, run, dropout, scaling, sliding_window)
        for q, k, v, run in zip(*parts, runs, strict=True)
    ]
    return torch.cat(found, dim=1) if len(found) > 1 else found[0], None


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


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    run: tuple[int, ...],
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Returns the attention of a run; (1, N, H, D)."""
    if max(run) <= _SHORT and not dropout:
        scale = scaling or q.shape[3] ** -0.5
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (q, k, v))
        return torch.Tensor(_ShortAttention.apply(q, k, v, run, scale, window))[None]
    [n] = run
    mask = _window(n, window) if window and n > window else None
    shared = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=shared
    ).transpose(1, 2)


def _window(n: int, window: int) -> torch.Tensor:
    """Returns which tokens each token sees, itself and those before it, ``window`` in all; (n, n)."""
    back = torch.arange(n)[:, None] - torch.arange(n)[None, :]
    return (back >= 0) & (back < window)


@functools.lru_cache(maxsize=32)
def _bias(n: int, window: int) -> torch.Tensor:
    """Returns what is added to a table: nothing where a token looks, and minus infinity elsewhere; (n, n)."""
    return torch.zeros(n, n).masked_fill_(~_window(n, window), -torch.inf)


@dataclass(frozen=True)
class _Sides:
    """Short samples side by side: those that fill up to the same length make one table.

    What is filled in is a row of zeros behind all others, and comes last, where no token of the sample looks.
    """

    groups: list[tuple[int, int, int]]
    """First row, samples, and rows of each."""
    taken: torch.Tensor
    """The place of each row among all tokens; (M,)."""
    given: torch.Tensor
    """The row of each token; (N,)."""


@functools.lru_cache(maxsize=8)
def _side_by_side(lengths: tuple[int, ...]) -> _Sides:
    starts = list(itertools.accumulate(lengths, initial=0))
    taken: list[torch.Tensor] = []
    given = torch.empty(starts[-1], dtype=torch.long)
    groups: list[tuple[int, int, int]] = []
    rows = 0
    by_side: dict[int, list[int]] = {}
    for sample, n in enumerate(lengths):
        by_side.setdefault(-(-n // _SIDE) * _SIDE, []).append(sample)
    for side, samples in sorted(by_side.items()):
        groups.append((rows, len(samples), side))
        for sample in samples:
            first, n = starts[sample], lengths[sample]
            given[first : first + n] = torch.arange(rows, rows + n)
            taken += [torch.arange(first, first + n), torch.full((side - n,), starts[-1])]
            rows += side
    return _Sides(groups, torch.cat(taken), given)


class _ShortAttention(torch.autograd.Function):
    """Softmax attention of short samples by whole tables: torch's own backward pass takes four times longer where n is small."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        lengths: tuple[int, ...],
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        sides, heads, of_keys = _side_by_side(lengths), query.shape[1], key.shape[1]
        rows = [_rows(tensor, sides) for tensor in (query, key, value)]
        said = query.new_empty(len(sides.taken), *query.shape[1:])
        kept: list[torch.Tensor] = []
        for group in sides.groups:
            side = group[2]
            q, k, v = (_stack(tensor, group, of_keys) for tensor in rows)
            hidden = _bias(side, window or side).to(q.dtype).repeat(heads // of_keys, 1)
            p = torch.softmax(torch.baddbmm(hidden, q, k.transpose(1, 2), alpha=scale), -1)
            _lay(torch.bmm(p, v), said, group, heads)
            kept += [q, k, v, p]
        result = said.index_select(0, sides.given)
        ctx.save_for_backward(result, *kept)
        ctx.sides, ctx.scale, ctx.heads = sides, scale, (heads, of_keys)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        result, *kept = ctx.saved_tensors
        sides, (heads, of_keys) = ctx.sides, ctx.heads
        came = _rows(gradients[0], sides)
        means = _rows(
            (gradients[0] * result).sum(-1, keepdim=True, dtype=torch.float32).to(came.dtype), sides
        )
        of_query = torch.empty_like(came)
        of_key, of_value = (came.new_empty(len(came), of_keys, came.shape[2]) for _ in range(2))
        for group, at in zip(sides.groups, range(0, len(kept), 4), strict=True):
            q, k, v, p = kept[at : at + 4]
            back, mean = (_stack(tensor, group, of_keys) for tensor in (came, means))
            of_table = torch.baddbmm(mean, back, v.transpose(1, 2), beta=-ctx.scale, alpha=ctx.scale).mul_(p)
            _lay(torch.bmm(of_table, k), of_query, group, heads)
            _lay(torch.bmm(of_table.transpose(1, 2), q), of_key, group, of_keys)
            _lay(torch.bmm(p.transpose(1, 2), back), of_value, group, of_keys)
        return (
            *(tensor.index_select(0, sides.given) for tensor in (of_query, of_key, of_value)),
            None,
            None,
            None,
        )


def _rows(tensor: torch.Tensor, sides: _Sides) -> torch.Tensor:
    """Returns tokens (N, H, D) as rows of samples side by side; (M, H, D)."""
    return torch.cat([tensor, tensor.new_zeros(1, *tensor.shape[1:])]).index_select(0, sides.taken)


def _stack(rows: torch.Tensor, group: tuple[int, int, int], of_keys: int) -> torch.Tensor:
    """Returns a group's rows by sample and head of keys; heads that share keys stand one below the other: (S H_kv, g n, D)."""
    first, samples, side = group
    part = rows[first : first + samples * side].view(samples, side, *rows.shape[1:])
    return part.transpose(1, 2).reshape(samples * of_keys, -1, rows.shape[2])


def _lay(stacked: torch.Tensor, rows: torch.Tensor, group: tuple[int, int, int], heads: int) -> None:
    """Writes what `_stack` would make into rows."""
    first, samples, side = group
    part = rows[first : first + samples * side].view(samples, side, *rows.shape[1:])
    part.copy_(stacked.view(samples, heads, side, -1).transpose(1, 2))


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
