"""The parts of a decoder's layer that are no products, each as one function with a backward pass of its own.

`quicken` puts them, and the products of `fust.tune.products`, into the modules of the families that are proven. In between
values are in the dtype of products; sums are fp32. A model that answers (with a cache) goes through transformers' own code.
"""

# torch and transformers type their functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F

from fust.tune.attention import Asked, attend
from fust.tune.products import Matrices, add_gradient, blocks, is_adapted, product_dtype, projection
from fust.tune.rotation import Rotation

_FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3Moe", "Qwen3", "Gemma3", "Phi3")


# Norms


class _Norm(torch.autograd.Function):
    """x over its root mean square, times w (or 1 + w, by ``beyond``)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, beyond: float) -> torch.Tensor:
        width = x.shape[-1]
        rows, scale = x.reshape(-1, width), weight.detach().float() + beyond
        inverse = torch.empty(len(rows), 1)
        result = torch.empty(x.shape, dtype=product_dtype(x))
        into = result.view(-1, width)
        for part in blocks(len(rows), width):
            some = rows[part].to(torch.float32, copy=True)
            squares = torch.linalg.vector_norm(some, dim=1, keepdim=True).square_()
            inverse[part] = squares.div_(width).add_(eps).rsqrt_()
            torch.mul(some.mul_(inverse[part]), scale, out=some)
            into[part] = some
        ctx.save_for_backward(rows, inverse, scale)
        ctx.weight, ctx.shape = weight, x.shape
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, inverse, scale = ctx.saved_tensors
        width = rows.shape[1]
        came, result = gradients[0].reshape(-1, width), torch.empty_like(rows)
        of_weight = torch.zeros_like(scale)
        for part in blocks(len(rows), width):
            normed = rows[part].to(torch.float32, copy=True).mul_(inverse[part])
            some = came[part].to(torch.float32, copy=True)
            along = some * normed
            of_weight += along.sum(0)
            mean = torch.mv(along, scale).div_(width)[:, None]
            result[part] = some.mul_(scale).addcmul_(normed, mean, value=-1).mul_(inverse[part])
        add_gradient(ctx.weight, of_weight)
        return result.view(ctx.shape), None, None, None


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float, beyond: float = 0.0) -> torch.Tensor:
    """Returns ``x`` (…, D) over its root mean square, times (``beyond`` + ``weight``) (D,)."""
    return torch.Tensor(_Norm.apply(x, weight, eps, beyond))


# Gates


class _Gated(torch.autograd.Function):
    """silu(a) b, or gelu by tanh, of a and b side by side; only they are kept."""

    @staticmethod
    def forward(ctx: Any, both: torch.Tensor, gelu: bool) -> torch.Tensor:
        ctx.save_for_backward(both)
        ctx.gelu = gelu
        rows, width = both.view(-1, both.shape[-1]), both.shape[-1] // 2
        result = torch.empty(*both.shape[:-1], width, dtype=both.dtype)
        for part in blocks(len(rows), width):
            gate, up = rows[part].chunk(2, 1)
            torch.mul(_activated(gate, gelu), up, out=result.view(-1, width)[part])
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        both = ctx.saved_tensors[0]
        rows, width = both.view(-1, both.shape[-1]), both.shape[-1] // 2
        came, result = gradients[0].reshape(-1, width), torch.empty_like(rows)
        for part in blocks(len(rows), width):
            gate, up = rows[part].chunk(2, 1)
            of_gate, of_up = result[part].chunk(2, 1)
            torch.mul(came[part], _activated(gate, ctx.gelu), out=of_up)
            passed = came[part] * up
            if ctx.gelu:
                torch.ops.aten.gelu_backward.grad_input(passed, gate, approximate="tanh", grad_input=of_gate)
            else:
                torch.ops.aten.silu_backward.grad_input(passed, gate, grad_input=of_gate)
        return result.view(both.shape), None


def _activated(gate: torch.Tensor, gelu: bool) -> torch.Tensor:
    return F.gelu(gate, approximate="tanh") if gelu else F.silu(gate)


def gated(both: torch.Tensor, *, gelu: bool = False) -> torch.Tensor:
    """Returns silu (or gelu by tanh) of the left half times the right one; (…, 2 I) to (…, I)."""
    return torch.Tensor(_Gated.apply(both, gelu))


# Words


class _Looked(torch.autograd.Function):
    """Rows of the embedding, whose gradients are added where they stay."""

    @staticmethod
    def forward(
        ctx: Any, ids: torch.Tensor, matrices: Matrices, padding: int | None, weight: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(ids)
        ctx.weight, ctx.padding = weight, padding
        return F.embedding(ids, matrices.low(product_dtype(weight)))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, ids = ctx.weight, ctx.saved_tensors[0].flatten()
        came = gradients[0].flatten(0, -2).to(weight.dtype)
        if ctx.padding is not None:
            came = came.masked_fill((ids == ctx.padding)[:, None], 0.0)
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.index_add_(0, ids, came)
        return None, None, None, None


# Modules


def quicken(model: Any) -> Matrices:
    """Has the modules of a proven family computed by the functions here; what is of another make stays as it is.

    Returns the output matrix, which may be the embedding as well.
    """
    for module in list(model.modules()):
        kind = type(module).__name__
        family = next((name for name in _FAMILIES if kind.startswith(name)), "none")
        make = {
            f"{family}RMSNorm": _norm_of,
            f"{family}MLP": _gates_of,
            f"{family}Attention": _attention_of,
        }.get(kind)
        forward = make(module) if make else None
        if forward:
            module.forward = forward
    quicken_adapters(model)
    words: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    matrices = Matrices([words.weight])
    if type(words) is torch.nn.Embedding:
        cast(Any, words).forward = _words_of(words, matrices)
    return matrices if head.weight is words.weight else Matrices([head.weight])


def quicken_adapters(model: Any) -> None:
    """Has every adapted matrix that is not yet computed by a function of its own computed by one."""
    for module in model.modules():
        if is_adapted(module) and "forward" not in vars(module):
            projection(module)


def _words_of(module: Any, matrices: Matrices) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(ids: torch.Tensor) -> torch.Tensor:
        return torch.Tensor(_Looked.apply(ids, matrices, module.padding_idx, module.weight))

    return forward


def _norm_of(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    of_gemma = hasattr(module, "eps")
    eps = module.eps if of_gemma else module.variance_epsilon
    return lambda x: norm(x, module.weight, eps, 1.0 if of_gemma else 0.0)


def _gates_of(module: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    config = module.config
    kind = getattr(config, "hidden_activation", None) or config.hidden_act
    inner = [module.gate_up_proj] if hasattr(module, "gate_up_proj") else [module.gate_proj, module.up_proj]
    into, out = projection(*inner), projection(module.down_proj)
    if into is None or out is None or kind not in ("silu", "gelu_pytorch_tanh"):
        return None
    return lambda x: out(gated(into(x), gelu=kind != "silu"))


def _attention_of(module: Any) -> Callable[..., Any] | None:
    config, width = module.config, module.head_dim
    heads, of_keys = config.num_attention_heads, config.num_key_value_heads
    inner = (
        [module.qkv_proj] if hasattr(module, "qkv_proj") else [module.q_proj, module.k_proj, module.v_proj]
    )
    into, out = projection(*inner), projection(module.o_proj)
    if into is None or out is None:
        return None
    plain = module.forward
    norms = (module.q_norm, module.k_norm) if hasattr(module, "q_norm") else None
    window = (
        module.sliding_window
        if hasattr(module, "sliding_window")
        else getattr(config, "sliding_window", None)
    )

    def forward(hidden_states: torch.Tensor, position_embeddings: Any = None, **more: Any) -> Any:
        if more.get("sample_lengths") is None:
            return plain(hidden_states=hidden_states, position_embeddings=position_embeddings, **more)
        rows = into(hidden_states).view(-1, heads + 2 * of_keys, width)
        parts: list[torch.Tensor] = [rows]
        if norms is not None:
            query, key, value = rows.split([heads, of_keys, of_keys], 1)
            parts = [norms[0](query), norms[1](key), value]
        asked = Asked(
            (heads, of_keys), module.attention_dropout if module.training else 0.0, module.scaling, window
        )
        rotation = Rotation.find(position_embeddings, width, rows.dtype)
        found = attend(parts, asked, more["sample_lengths"].each, rotation)
        return out(found.view(1, len(rows), -1)), None

    return forward
