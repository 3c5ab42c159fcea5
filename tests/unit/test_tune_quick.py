"""Each quick part of a layer against the plain formula: values and gradients, in fp32 to rounding and in bf16 within its grain."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'fust[tune]')")
pytest.importorskip("peft", reason="peft is not installed (pip install 'fust[tune]')")

import torch.nn.functional as F  # noqa: E402

from fust.tune import attention, products  # noqa: E402
from fust.tune.attention import Asked, attend  # noqa: E402
from fust.tune.mover import Mover  # noqa: E402
from fust.tune.products import Matrices, product, projection  # noqa: E402
from fust.tune.quick import gated, norm, quicken  # noqa: E402
from fust.tune.rotation import Rotation  # noqa: E402
from tests.support.gradients import compare, gradients  # noqa: E402
from tests.support.tune_bench import RECIPE  # noqa: E402

BOTH = pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
    monkeypatch.setattr(products, "_CACHED", 16 * 24)
    monkeypatch.setattr(products, "_OUTER", 7)


def precision(bf16: bool):
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16)


@BOTH
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(40,), (24, 8, 8)], ids=["one", "three"])
def test_matrices_that_read_one_input(sizes, bias, bf16):
    """Also a second pass, whose gradients are added to those of the first."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(24, size, bias=bias) for size in sizes]
    x = torch.randn(2, 19, 24, requires_grad=True)
    of = [x, *(parameter for layer in layers for parameter in layer.parameters())]
    expected = torch.cat([layer(x) for layer in layers], -1)
    slow = gradients(expected, *of)
    wide = projection(*layers)
    with precision(bf16):
        found = wide(x)
        apart = torch.cat([layer(x) for layer in layers], -1)
    compare([found.float(), *gradients(found, *of)], [expected, *slow], bf16=bf16)
    compare([apart.float(), *gradients(apart, *of)], [expected, *slow], bf16=bf16)
    with precision(bf16):
        first, second = wide(x), wide(x)
    twice = gradients(torch.cat([first, second]), *of)
    compare(twice, gradients(torch.cat([expected, expected]), *of), bf16=bf16)


@BOTH
def test_matrices_follow_their_weights(bf16):
    """What a product takes is what the optimizer left, and what a checkpoint brought."""
    layers = [torch.nn.Linear(24, 8, bias=False) for _ in range(2)]
    wide = projection(*layers)
    weights = [layer.weight for layer in layers]
    mover = Mover(dict(zip("ab", weights, strict=True)), RECIPE)
    x = torch.randn(5, 24)
    for _ in range(3):
        with precision(bf16):
            found = wide(x)
        compare([found.float()], [F.linear(x, torch.cat([w.detach() for w in weights]))], bf16=bf16)
        found.float().sum().backward()
        before = weights[0].detach().clone()
        mover.move(0.1)
        assert (weights[0] - before).abs().min() > 0.01
    with torch.no_grad():
        weights[1].copy_(torch.ones(8, 24))
    with precision(bf16):
        compare([wide(x)[:, 8:].float()], [x.sum(1, keepdim=True).expand(5, 8)], bf16=bf16)


def test_what_does_not_learn_gets_no_gradient():
    frozen = torch.randn(8, 24)
    x = torch.randn(5, 24, requires_grad=True)
    matrices = Matrices([frozen])
    compare(gradients(product(x, matrices), x), gradients(x @ frozen.T, x))
    assert frozen.grad is None


@BOTH
@pytest.mark.parametrize("beyond", [0.0, 1.0])
@pytest.mark.parametrize("learns", [True, False], ids=["learns", "frozen"])
def test_a_norm(beyond, learns, bf16):
    torch.manual_seed(0)
    x = torch.randn(2, 19, 24, requires_grad=True)
    weight = torch.randn(24, requires_grad=learns)
    of = (x, weight) if learns else (x,)
    with precision(bf16):
        found = norm(x, weight, 1e-3, beyond)
    assert found.dtype == (torch.bfloat16 if bf16 else torch.float32)
    expected = x * (x.square().mean(-1, keepdim=True) + 1e-3).rsqrt() * (beyond + weight)
    compare([found.float(), *gradients(found, *of)], [expected, *gradients(expected, *of)], bf16=bf16)
    strided = torch.randn(19, 6, 24, requires_grad=True)  # some heads of rows
    found, expected = (
        norm(strided[:, 1:4], weight, 1e-3, beyond),
        F.rms_norm(strided[:, 1:4], (24,), beyond + weight, 1e-3),
    )
    compare([found, *gradients(found, strided)], [expected, *gradients(expected, strided)])


@BOTH
@pytest.mark.parametrize("gelu", [True, False], ids=["gelu", "silu"])
def test_gates(gelu, bf16):
    torch.manual_seed(0)
    both = torch.randn(2, 19, 48, requires_grad=True)
    gate, up = both.chunk(2, -1)
    expected = (F.gelu(gate, approximate="tanh") if gelu else F.silu(gate)) * up
    slow = gradients(expected, both)
    low = both.detach().to(torch.bfloat16 if bf16 else torch.float32).requires_grad_()
    found = gated(low, gelu=gelu)
    compare([found.float(), *(it.float() for it in gradients(found, low))], [expected, *slow], bf16=bf16)


@BOTH
@pytest.mark.parametrize("turning", [8, 4], ids=["whole heads", "half of each"])
def test_rotary_positions(turning, bf16):
    """Against the formula of transformers; what of a head does not turn stays."""
    from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

    torch.manual_seed(0)
    x = torch.randn(19, 5, 8, requires_grad=True)
    tables = angles_of(19, turning)
    heads = x[None].transpose(1, 2)
    expected = apply_rotary_pos_emb(heads, heads, *tables)[0][0].transpose(0, 1)
    slow = gradients(expected, x)
    low = x.detach().to(torch.bfloat16 if bf16 else torch.float32).requires_grad_()
    rotation = Rotation.find(tables, 8, low.dtype)
    assert Rotation.find(tables, 8, low.dtype) is rotation, "tables are made once for all layers"
    found = rotation.of(low)
    compare([found.float(), *(it.float() for it in gradients(found, low))], [expected, *slow], bf16=bf16)


def angles_of(n: int, turning: int):
    """Returns cosines and sines of ``n`` places."""
    angles = torch.rand(1, n, turning // 2).repeat(1, 1, 2) * 6
    return angles.cos(), angles.sin()


@BOTH
@pytest.mark.parametrize("of_keys", [4, 2])
@pytest.mark.parametrize("short", [64, 8], ids=["tables", "both"])
def test_attention_that_turns_its_heads(of_keys, short, bf16, monkeypatch):
    """Against turning and then attending; queries, keys and values side by side and apart."""
    monkeypatch.setattr(attention, "_SHORT", short)
    torch.manual_seed(0)
    lengths, asked = [7, 1, 33, 5, 6], Asked((4, of_keys), window=9)
    rows = torch.randn(sum(lengths), 4 + 2 * of_keys, 8, requires_grad=True)
    tables = angles_of(len(rows), 8)
    rotation = Rotation.find(tables, 8, torch.float32)
    query, key, value = asked.apart([rows])
    expected = attend([rotation.of(query), rotation.of(key), value], asked, lengths)
    slow = gradients(expected, rows)
    low = rows.detach().to(torch.bfloat16 if bf16 else torch.float32).requires_grad_()
    rotation = Rotation.find(tables, 8, low.dtype)
    for parts in ([low], asked.apart([low])):
        found = attend(parts, asked, lengths, rotation)
        compare([found.float(), *(it.float() for it in gradients(found, low))], [expected, *slow], bf16=bf16)


class Small(torch.nn.Module):
    """An embedding that is the output matrix as well."""

    def __init__(self, padding: int | None) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(30, 24, padding_idx=padding)
        self.head = torch.nn.Linear(24, 30, bias=False)
        self.head.weight = self.words.weight
        self.get_input_embeddings = lambda: self.words
        self.get_output_embeddings = lambda: self.head


@BOTH
@pytest.mark.parametrize("padding", [None, 3])
def test_words(padding, bf16):
    torch.manual_seed(0)
    model = Small(padding)
    ids = torch.tensor([[1, 2, 3, 2], [2, 29, 0, 3]])
    expected = model.words(ids)
    slow = gradients(expected, model.words.weight)
    assert quicken(model).weights == [model.words.weight]
    with precision(bf16):
        found = model.words(ids)
    compare([found.float(), *gradients(found, model.words.weight)], [expected, *slow], bf16=bf16)


def test_modules_of_unknown_make_stay_as_they_are():
    model = Small(None)
    model.LlamaMLP = type("Other", (torch.nn.Module,), {})()
    model.gate = torch.nn.Linear(3, 4)
    quicken(model)
    assert [name for name, module in model.named_modules() if "forward" in vars(module)] == ["words"]
    odd = SimpleNamespace(
        gate_proj=torch.nn.Linear(3, 4), up_proj=torch.nn.Identity(), down_proj=torch.nn.Linear(4, 3)
    )
    assert projection(odd.gate_proj, odd.up_proj) is None
    assert projection(odd.gate_proj, torch.nn.Linear(3, 4, bias=False)) is None, "with and without a bias"
