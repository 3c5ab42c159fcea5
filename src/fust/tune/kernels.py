"""The loss of tokens as one function with a backward pass of its own.

What autograd makes of the plain formula is right and slow on a CPU: whole tables of logits in three copies. Here is the same
arithmetic with what is needed and no more; the tests compare it with the plain formula.
"""

# torch types its functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from fust.tune.products import Matrices, blocks, product_dtype

_LOGITS_AT_ONCE = 2**24
"""Logits that are made together of an output matrix that does not learn: the matrix is laid out anew for each product."""

_STEP = 32
"""Lengths are filled up to a multiple of it: oneDNN keeps code and work space for each shape of a product that it has seen,
and samples of every length cost 70 MB more with each step of a model of 16 million."""


def _filled(n: int) -> int:
    return -(-n // _STEP) * _STEP


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
        if head.learns:
            kept = head.scratch.table(n + spare, vocabulary, low)
        else:
            kept = torch.empty(n + spare, hidden.shape[1], dtype=low)
        at_once = n + spare if head.learns else _filled(max(1, _LOGITS_AT_ONCE // vocabulary))
        for first in range(0, n, at_once):
            place = slice(first, first + at_once)
            logits = torch.mm(given[place], matrix.T, out=kept) if head.learns else given[place] @ matrix.T
            for part in blocks(len(logits), vocabulary):
                losses[place][part] = _derive(logits[part], wanted[place][part, None])
            if not head.learns:
                kept[place] = logits @ matrix
        ctx.save_for_backward(*([given, matrix] if head.learns else []))
        ctx.kept, ctx.head, ctx.dtype = kept, head, hidden.dtype
        return losses[:n]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept, learned = ctx.kept, ctx.saved_tensors
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
