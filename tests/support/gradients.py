"""What tests of functions with a backward pass of their own compare."""

from __future__ import annotations

import torch


def gradients(result, *wanted):
    """Returns the gradients of a weighted sum, so that every part of the result counts differently."""
    weights = torch.linspace(0.5, 2.0, result.numel()).view(result.shape)
    for tensor in wanted:
        tensor.grad = None
    (result.float() * weights).sum().backward(retain_graph=True)
    found = [tensor.grad for tensor in wanted]
    for tensor in wanted:
        tensor.grad = None
    return found


def compare(found, expected, *, bf16=False, grain=0.02):
    """Fails where they differ by more than rounding; in bf16 by more than ``grain`` of the largest value."""
    for one, other in zip(found, expected, strict=True):
        bound = grain * other.abs().max().item() if bf16 else 1e-5
        torch.testing.assert_close(one, other, rtol=grain if bf16 else 1e-4, atol=bound)
