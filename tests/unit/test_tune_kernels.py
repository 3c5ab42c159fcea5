"""Each quick function of a step against the plain formula: values and gradients, in fp32 to rounding and in bf16 within its grain."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'fust[tune]')")
pytest.importorskip("peft", reason="peft is not installed (pip install 'fust[tune]')")

import torch.nn.functional as F  # noqa: E402

from fust.tune import attention, kernels, products  # noqa: E402
from fust.tune.attention import Lengths, parted_attention  # noqa: E402
from fust.tune.kernels import token_losses  # noqa: E402
from fust.tune.products import Matrices, projection  # noqa: E402
from tests.support.gradients import compare, gradients  # noqa: E402


@pytest.mark.parametrize("learns", [True, False], ids=["learns", "frozen"])
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_the_loss_of_tokens(learns, bf16, monkeypatch):
    monkeypatch.setattr(kernels, "_LOGITS_AT_ONCE", 32 * 300)  # several parts, the last one smaller
    monkeypatch.setattr(products, "_CACHED", 24 * 300)
    torch.manual_seed(0)
    hidden = torch.randn(100, 24, requires_grad=True)
    matrix = torch.randn(300, 24, requires_grad=learns)
    wanted = torch.randint(300, (100,))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        found = token_losses(hidden, Matrices([matrix]), wanted)
    expected = F.cross_entropy(hidden @ matrix.T, wanted, reduction="none")
    assert found.dtype == torch.float32
    compare([found], [expected], bf16=bf16)
    of = (hidden, matrix) if learns else (hidden,)
    compare(gradients(found, *of), gradients(expected, *of), bf16=bf16)


def test_two_losses_at_once_do_not_share_their_memory():
    """Both are computed before one of them is learned from; after that the memory of the first is used again."""
    torch.manual_seed(0)
    matrix = torch.randn(300, 24, requires_grad=True)
    head = Matrices([matrix])
    cases = [(torch.randn(n, 24, requires_grad=True), torch.randint(300, (n,))) for n in (40, 70, 10)]
    found = [token_losses(hidden, head, wanted) for hidden, wanted in cases[:2]]
    for (hidden, wanted), loss in zip(cases, found, strict=False):
        expected = F.cross_entropy(hidden @ matrix.T, wanted, reduction="none")
        compare(gradients(loss, hidden, matrix), gradients(expected, hidden, matrix), bf16=False)
    del found, loss
    place = head.scratch.table(40, 300, torch.float32).data_ptr()
    assert place == head.scratch.table(10, 300, torch.float32).data_ptr(), "nobody holds the first"
    held = head.scratch.table(10, 300, torch.float32)
    assert held.data_ptr() != head.scratch.table(10, 300, torch.float32).data_ptr()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(40,), (24, 8, 8)], ids=["one", "three"])
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_adapted_matrices(sizes, bias, bf16):
    """One, and three that read one input; of the latter also each alone."""
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    names = [str(number) for number in range(len(sizes))]
    config = LoraConfig(
        r=4, lora_alpha=12, target_modules=names, init_lora_weights=False, rank_pattern={"0": 6}
    )
    plain = torch.nn.Sequential(*(torch.nn.Linear(24, size, bias=bias) for size in sizes))
    layers = list(inject_adapter_in_model(config, plain))
    x = torch.randn(2, 9, 24, requires_grad=True)
    of = [x, *(parameter for layer in layers for parameter in layer.parameters() if parameter.requires_grad)]
    assert len(of) == 1 + 2 * len(sizes)
    expected = torch.cat([layer(x) for layer in layers], -1)
    slow = gradients(expected, *of)
    wide = projection(*layers)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        found, apart = wide(x), torch.cat([layer(x) for layer in layers], -1)
    for got in (found, apart):  # the side of an adapter is rounded twice, before and behind its first matrix
        compare([got.float(), *gradients(got, *of)], [expected, *slow], bf16=bf16, grain=0.04)


@pytest.mark.parametrize(("heads", "of_keys"), [(4, 4), (4, 2)])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(
    ("short", "dropout"),
    [(384, 0.0), (20, 0.0), (0, 0.0), (384, 1e-9)],
    ids=["tables", "both", "torch's", "with dropout"],
)
def test_attention_within_samples(heads, of_keys, window, short, dropout, monkeypatch):
    """Against one sample after the other by the formula; among them one token alone, and one longer than the window.

    The dropout is one that drops nothing, but goes the way of those that do.
    """
    monkeypatch.setattr(attention, "_SHORT", short)
    torch.manual_seed(0)
    lengths = [7, 1, 33, 5]
    query = torch.randn(1, heads, sum(lengths), 8, requires_grad=True)
    key, value = (torch.randn(1, of_keys, sum(lengths), 8, requires_grad=True) for _ in range(2))
    found, _ = parted_attention(
        SimpleNamespace(),
        query,
        key,
        value,
        None,
        dropout=dropout,
        scaling=0.3,
        sliding_window=window,
        sample_lengths=Lengths(lengths),
    )
    expected, first = [], 0
    for n in lengths:
        place = slice(first, first + n)
        first += n
        q, k, v = (t[0, :, place].repeat_interleave(heads // t.shape[1], 0) for t in (query, key, value))
        back = torch.arange(n)[:, None] - torch.arange(n)[None]
        hidden = (back < 0) | (back >= (window or n))
        p = (q @ k.transpose(1, 2) * 0.3).masked_fill(hidden, -torch.inf).softmax(-1)
        expected.append((p @ v).transpose(0, 1)[None])
    whole = torch.cat(expected, 1)
    compare([found], [whole])
    compare(gradients(found, query, key, value), gradients(whole, query, key, value))


PAGES = """
import psutil, torch
from fust.tune.set_up import keep_malloc_pages
def kept():
    before = psutil.Process().memory_info().rss
    table = torch.ones(2**24)
    del table
    return psutil.Process().memory_info().rss - before
given_back = kept()
keep_malloc_pages()
print(given_back, kept())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_malloc_keeps_the_pages_of_tensors():
    """Of 64 MB that were used and freed: none without it, nearly all with it, so that the next table costs no page faults."""
    done = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert given_back < 16e6 and kept > 48e6
