"""Products with the matrices of a model, each with a backward pass of its own.

A matrix that learns is kept in fp32, and beside it as products take it: that copy is made once for each move and not for
each use. What a pass adds to its gradient is added where the gradient stays. Matrices that read the same input stand one
below the other and are one product.
"""

# torch and peft type their functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F

from fust.tune.scratch import Scratch

Projection = Callable[[torch.Tensor], torch.Tensor]
_CACHED = 2**19
"""Values that are worked on together."""
_OUTER = 4096
"""Rows of a gradient that are made together."""


def product_dtype(x: torch.Tensor) -> torch.dtype:
    """Returns the dtype of matrix products here: bf16 within autocast, else that of ``x``."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def blocks(n: int, width: int) -> list[slice]:
    """Returns rows that are worked on together, so that they stay in the processor's cache between two operations."""
    at_once = max(16, _CACHED // width)
    return [slice(first, first + at_once) for first in range(0, n, at_once)]


class Matrices:
    """Matrices that read one input (and what is added behind them), one below the other; they stay where they are stored."""

    def __init__(
        self,
        weights: Sequence[torch.Tensor],
        biases: Sequence[torch.Tensor] = (),
        within: tuple[Matrices, slice] | None = None,
    ) -> None:
        """Makes the weights views of one tensor, unless they are ``within`` other matrices."""
        self.weights, self.biases = list(weights), list(biases)
        self.learns = any(weight.requires_grad for weight in weights)
        self.sizes = [len(weight) for weight in weights]
        self._within = within
        self._whole = within[0]._whole[within[1]] if within else _joined(self.weights)
        self._low = self._gradient = self._whole
        self._seen: object = None
        self.scratch = Scratch()
        """For what comes behind them, when it is large."""

    def parts(self) -> list[Matrices]:
        """Returns each of them alone."""
        if len(self.weights) == 1:
            return [self]
        ends = list(itertools.accumulate(self.sizes))
        return [
            Matrices([weight], self.biases[i : i + 1], (self, slice(end - len(weight), end)))
            for i, (weight, end) in enumerate(zip(self.weights, ends, strict=True))
        ]

    def low(self, dtype: torch.dtype) -> torch.Tensor:
        """Returns them in the dtype of products; (sum of O, D)."""
        if self._within:
            return self._within[0].low(dtype)[self._within[1]]
        seen = dtype, [weight._version for weight in self.weights]
        if seen != self._seen:
            if dtype == self._whole.dtype:
                self._low = self._whole
            elif self._low.dtype == dtype:
                self._low.copy_(self._whole)
            else:
                self._low = self._whole.to(dtype)
            self._seen = seen
        return self._low

    def bias(self, dtype: torch.dtype) -> torch.Tensor | None:
        """Returns what is added behind them; (sum of O,)."""
        return torch.cat([bias.detach() for bias in self.biases]).to(dtype) if self.biases else None

    def learn(self, came: torch.Tensor, given: torch.Tensor) -> None:
        """Adds to the gradients what comes of ``came`` (N, sum of O) behind the matrices and ``given`` (N, D) before them."""
        if not self.learns:
            return
        is_first = self.weights[0].grad is None
        if is_first:
            self._gradient = torch.empty_like(self._whole)
            for weight, part in zip(self.weights, self._gradient.split(self.sizes), strict=True):
                weight.grad = part
        whole = self._gradient if len(self.weights) > 1 else cast("torch.Tensor", self.weights[0].grad)
        for to, part in zip(whole.split(_OUTER), came.split(_OUTER, 1), strict=True):
            to.copy_(part.T @ given) if is_first else to.add_(part.T @ given)
        for bias, part in zip(self.biases, came.split(self.sizes, 1), strict=False):
            add_gradient(bias, part.sum(0, dtype=torch.float32))


def add_gradient(learned: torch.Tensor, part: torch.Tensor) -> None:
    """Adds to the gradient of what learns; the first one of a step makes it."""
    if not learned.requires_grad:
        return
    if learned.grad is None:
        learned.grad = part.to(learned.dtype)
    else:
        learned.grad.add_(part)


def _joined(weights: list[torch.Tensor]) -> torch.Tensor:
    """Makes matrices views of one, which is returned; (sum of O, D)."""
    if len(weights) == 1:
        return weights[0].detach()
    with torch.no_grad():
        whole = torch.cat(weights)
    for weight, view in zip(weights, whole.split([len(weight) for weight in weights]), strict=True):
        weight.data = view
    return whole


def _flat(x: torch.Tensor) -> torch.Tensor:
    """Returns rows as products take them."""
    return _cast_once(x, product_dtype(x)).view(-1, x.shape[-1])


def _cast_once(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns ``x`` in a dtype, the same tensor each time: several matrices read one input, and each keeps it."""
    if x.dtype == dtype:
        return x.contiguous()
    found, version = getattr(x, "_fust_cast", (None, None))
    if found is None or version != x._version:
        found = x.to(dtype, memory_format=torch.contiguous_format)
        x._fust_cast = found, x._version  # type: ignore[attr-defined]
    return found


class _Product(torch.autograd.Function):
    """x W + b; gradients of W and b are added where they stay, and are not returned."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, matrices: Matrices, *_: torch.Tensor) -> torch.Tensor:
        given = _flat(x)
        matrix = matrices.low(given.dtype)
        result = F.linear(given, matrix, matrices.bias(given.dtype))
        ctx.save_for_backward(matrix, *([given] if matrices.learns else []))
        ctx.matrices, ctx.shape, ctx.dtype = matrices, x.shape, x.dtype
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        matrix, *given = ctx.saved_tensors
        matrices = ctx.matrices
        came = gradients[0].reshape(-1, gradients[0].shape[-1]).to(matrix.dtype)
        if given:
            matrices.learn(came, given[0])
        of_x = (came @ matrix).view(ctx.shape).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return of_x, None, *(None for _ in ctx.needs_input_grad[2:])


def product(x: torch.Tensor, matrices: Matrices) -> torch.Tensor:
    """Returns ``x`` (…, D) times the matrices, each transposed, side by side; (…, sum of O)."""
    return torch.Tensor(_Product.apply(x, matrices, *matrices.weights, *matrices.biases))


class _Adapted(torch.autograd.Function):
    """x W + b + s (x A) B of frozen W that read one input: one cast of x, which is all that is kept of it."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, matrices: Matrices, scales: Sequence[float], *adapters: torch.Tensor
    ) -> torch.Tensor:
        given = _flat(x)
        low, parts = given.dtype, len(scales)
        frozen = matrices.low(low)
        down = torch.cat(adapters[:parts]).to(low)
        # The sides of all adapters in one matrix: what of it is nothing costs less than a product for each.
        ups = [up * scale for up, scale in zip(adapters[parts:], scales, strict=True)]
        up = torch.block_diag(*ups).to(low)
        inner = given @ down.T
        result = F.linear(given, frozen, matrices.bias(low)).addmm_(inner, up.T)
        ctx.save_for_backward(given, frozen, down, up, inner)
        ctx.sides = [(len(side), side.shape[1], scale) for side, scale in zip(ups, scales, strict=True)]
        ctx.shape, ctx.dtype, ctx.of_adapters = x.shape, x.dtype, adapters[0].dtype
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        given, frozen, down, up, inner = ctx.saved_tensors
        came = gradients[0].reshape(-1, gradients[0].shape[-1]).to(given.dtype)
        back = came @ up
        of_down, of_up = (
            (left.T @ right).to(ctx.of_adapters) for left, right in ((back, given), (inner, came))
        )
        outers, ranks, scales = zip(*ctx.sides, strict=True)
        rows = zip(of_up.split(ranks), range(len(ranks)), scales, strict=True)
        of_ups = [part.split(outers, 1)[i].T * scale for part, i, scale in rows]
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (came @ frozen).addmm_(back, down).view(ctx.shape).to(ctx.dtype)
        return of_x, None, None, *of_down.split(ranks), *of_ups


# Of modules


def _is_plain(module: Any) -> bool:
    return type(module) is torch.nn.Linear


def is_adapted(module: Any) -> bool:
    """Returns whether it is a matrix with plain LoRA (no dropout), of which all is known."""
    from peft.tuners.lora import Linear

    return (
        isinstance(module, Linear)
        and _is_plain(module.base_layer)
        and not module.lora_variant
        and len(module.active_adapters) == 1
        and all(isinstance(it, torch.nn.Identity) for it in module.lora_dropout.values())
    )


def projection(*modules: Any) -> Projection | None:
    """Returns one function for modules that read one input; each of them is then its part of it. None: they stay as they are."""
    make = _product_of if all(map(_is_plain, modules)) else _adapted_of
    if make is _adapted_of and not all(map(is_adapted, modules)):
        return None
    plain = [module if make is _product_of else module.base_layer for module in modules]
    biases = [module.bias for module in plain if module.bias is not None]
    if len(biases) not in (0, len(plain)):
        return None
    joined = Matrices([module.weight for module in plain], biases)
    for module, part in zip(modules, joined.parts(), strict=True):
        module.forward = make(part, module)
    return make(joined, *modules)


def _product_of(matrices: Matrices, *_: Any) -> Projection:
    return lambda x: product(x, matrices)


def _adapted_of(matrices: Matrices, *modules: Any) -> Projection:
    names = [module.active_adapters[0] for module in modules]
    named = list(zip(modules, names, strict=True))

    def forward(x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        downs = (module.lora_A[name].weight for module, name in named)
        ups = (module.lora_B[name].weight for module, name in named)
        scales = [module.scaling[name] for module, name in named]
        return torch.Tensor(_Adapted.apply(x, matrices, scales, *itertools.chain(downs, ups)))

    return forward
