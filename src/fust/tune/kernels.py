"""The three places where a step's time goes, each as one function with a backward pass of its own.

What autograd makes of the plain formulas is right and slow on a CPU: casts of the same values again and again, whole
tables of logits in three copies, attention between samples that only share a row. Here is the same arithmetic with what
is needed and no more; the tests compare every function with the plain formula.
"""

# torch and transformers type their functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

PARTED = "fust_parted"
"""Name of the attention in transformers' table: see `parted_attention`."""
_LOGITS_AT_ONCE = 2**22
"""Logits that are looked at together: a few megabytes, which stay in the processor's cache."""

_SHORT = 384
"""Tokens up to which attention is quicker by whole tables."""

_STEP = 32
"""Lengths are filled up to a multiple of it: oneDNN keeps code and work space for each shape of a product that it has seen,
and samples of every length cost 70 MB more with each step of a model of 16 million."""


def _filled(n: int) -> int:
    return -(-n // _STEP) * _STEP


def product_dtype(x: torch.Tensor) -> torch.dtype:
    """Returns the dtype of matrix products here: bf16 within autocast, else that of ``x``."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


# The output matrix and the loss


class _TokenLosses(torch.autograd.Function):
    """-log p of wanted tokens from hidden states and the output matrix; gradients are ready when it has been computed."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        low = product_dtype(hidden)
        n, vocabulary = len(wanted), weight.shape[0]
        spare = _filled(n) - n
        given, matrix = F.pad(hidden.to(low), (0, 0, 0, spare)), weight.to(low)
        wanted = F.pad(wanted, (0, spare))
        losses = torch.empty(n + spare)
        ctx.learns = weight.requires_grad
        # Of what does not learn only the product with the matrix is kept, which is small.
        kept = torch.empty(n + spare, vocabulary if ctx.learns else hidden.shape[1], dtype=low)
        at_once = _filled(max(1, _LOGITS_AT_ONCE // vocabulary))
        for first in range(0, n, at_once):
            place = slice(first, first + at_once)
            asked = wanted[place, None]
            logits = F.log_softmax(given[place] @ matrix.T, 1, dtype=torch.float32)
            losses[place] = -logits.gather(1, asked).squeeze(1)
            logits.exp_().scatter_add_(1, asked, torch.full(asked.shape, -1.0))
            kept[place] = logits if ctx.learns else logits.to(low) @ matrix
        ctx.save_for_backward(kept, given, matrix) if ctx.learns else ctx.save_for_backward(kept)
        ctx.dtypes = hidden.dtype, weight.dtype
        return losses[:n]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept, *more = ctx.saved_tensors
        n = len(gradients[0])
        scaled = kept * F.pad(gradients[0], (0, len(kept) - n))[:, None].to(kept.dtype)
        if not ctx.learns:
            return scaled[:n].to(ctx.dtypes[0]), None, None
        given, matrix = more
        return (scaled @ matrix)[:n].to(ctx.dtypes[0]), (scaled.T @ given).to(ctx.dtypes[1]), None


def token_losses(hidden: torch.Tensor, weight: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Returns -log p of ``wanted`` (N,) by softmax(``hidden`` (N, D) times ``weight`` (V, D) transposed), in fp32; (N,).

    The table of logits exists a few megabytes at a time; where the matrix learns, its derivative is kept in the dtype of
    matrix products.
    """
    return torch.Tensor(_TokenLosses.apply(hidden, weight, wanted))


# Adapted matrices


class _Adapted(torch.autograd.Function):
    """x W + b + s (x A) B of a frozen W: one cast of x, which is all that is kept of it."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        low = product_dtype(x)
        given = x.reshape(-1, x.shape[-1]).to(low)
        frozen, a, b = weight.to(low), down.to(low), up.to(low)
        inner = given @ a.T
        result = F.linear(given, frozen, None if bias is None else bias.to(low))
        result.addmm_(inner, b.T, alpha=scale)
        ctx.save_for_backward(given, frozen, a, b, inner)
        ctx.scale, ctx.shape, ctx.dtypes = scale, x.shape, (x.dtype, down.dtype)
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        given, frozen, a, b, inner = ctx.saved_tensors
        of_x, of_adapter = ctx.dtypes
        came = gradients[0].reshape(-1, gradients[0].shape[-1]).to(given.dtype)
        back = (came @ b).mul_(ctx.scale)
        of_down = (back.T @ given).to(of_adapter)
        of_up = (came.T @ inner).to(of_adapter).mul_(ctx.scale)
        if not ctx.needs_input_grad[0]:
            return None, None, None, of_down, of_up, None
        passed = (came @ frozen).addmm_(back, a)
        return passed.view(ctx.shape).to(of_x), None, None, of_down, of_up, None


def quicken_adapters(model: Any) -> None:
    """Has the adapted matrices of a peft model computed by one function each; only plain LoRA (no dropout) is touched."""
    from peft.tuners.lora import Linear

    for module in model.modules():
        if (
            isinstance(module, Linear)
            and type(module.base_layer) is torch.nn.Linear
            and not module.lora_variant
            and all(isinstance(it, torch.nn.Identity) for it in module.lora_dropout.values())
        ):
            module.forward = _forward_of(module)


def _forward_of(module: Any) -> Any:
    base, [name] = module.base_layer, module.active_adapters

    def forward(x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        down, up = module.lora_A[name].weight, module.lora_B[name].weight
        return torch.Tensor(_Adapted.apply(x, base.weight, base.bias, down, up, module.scaling[name]))

    return forward


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
    sample_lengths: Sequence[int] | None = None,
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
    parts = (tensor.to(low).split(list(sample_lengths), dim=2) for tensor in (query, key, value))
    found = [_attend(q, k, v, dropout, scaling, sliding_window) for q, k, v in zip(*parts, strict=True)]
    return torch.cat(found, dim=1), None


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Returns the attention of one sample; (1, n, H, D)."""
    n = q.shape[2]
    if n <= _SHORT and not dropout:
        scale = scaling or q.shape[3] ** -0.5
        # What is filled in comes last, where no token of the sample looks.
        q, k, v = (F.pad(tensor[0], (0, 0, 0, _filled(n) - n)) for tensor in (q, k, v))
        said = torch.Tensor(_ShortAttention.apply(q, k, v, scale, window))
        return said[:, :n].transpose(0, 1)[None]
    mask = _window(n, window) if window and n > window else None
    shared = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=shared
    ).transpose(1, 2)


def _window(n: int, window: int) -> torch.Tensor:
    """Returns which tokens each token sees, itself and those before it, ``window`` in all; (n, n)."""
    back = torch.arange(n)[:, None] - torch.arange(n)[None, :]
    return (back >= 0) & (back < window)


class _ShortAttention(torch.autograd.Function):
    """Softmax attention of one sample by whole tables: torch's own backward pass takes four times longer where n is small."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        heads, n, width = query.shape
        # Heads that share keys stand one below the other: (H_kv, groups n, D).
        q = query.reshape(key.shape[0], -1, width)
        table = torch.bmm(q, key.transpose(1, 2)).float().view(heads, n, n)
        table.mul_(scale).masked_fill_(~_window(n, window or n), -torch.inf)
        p = torch.softmax(table, -1).to(q.dtype).view(key.shape[0], -1, n)
        said = torch.bmm(p, value)
        ctx.save_for_backward(q, key, value, p, said)
        ctx.scale, ctx.shape = scale, query.shape
        return said.view(query.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, key, value, p, said = ctx.saved_tensors
        came = gradients[0].reshape(said.shape)
        of_value = torch.bmm(p.transpose(1, 2), came)
        of_p = torch.bmm(came, value.transpose(1, 2)).float()
        mean = (came.float() * said).sum(-1, keepdim=True)
        of_table = of_p.sub_(mean).mul_(p).mul_(ctx.scale).to(q.dtype)
        of_query = torch.bmm(of_table, key).view(ctx.shape)
        return of_query, torch.bmm(of_table.transpose(1, 2), q), of_value, None, None


def _mask(*, attention_mask: torch.Tensor | None = None, **more: Any) -> torch.Tensor | None:
    from transformers.masking_utils import sdpa_mask

    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **more)


def register_parted_attention() -> str:
    """Makes it known to transformers; returns its name for ``attn_implementation``."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(PARTED, parted_attention)
    AttentionMaskInterface.register(PARTED, _mask)
    return PARTED
