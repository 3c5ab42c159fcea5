"""A model for given texts, from nothing: how many tokens its vocabulary has, and how large it is, each with its reason. No torch.

What decides: the size of the texts, the time, the memory. The rules are those of the field; their sources stand beside them.
"""

from __future__ import annotations

import math

from fust.core.errors import InvalidInput
from fust.core.units import show_size, show_span
from fust.tune.estimate import TOKENS_PER_PARAMETER, memory_needed
from fust.tune.recipe import FRESH_EPOCHS, Reasoned
from fust.tune.shape import ModelWish, Shape

MIN_VOCABULARY, MAX_VOCABULARY = 264, 65_536
"""All bytes, the special tokens and a few merges; beyond the most, rows of the embedding are read too rarely."""
MAX_CONTEXT = 1024
BYTES_PER_TOKEN = 4.0
"""Before there is a tokenizer that could be asked."""
_LAYER_WIDTH = 64
"""Width for each layer of depth, the proportion of the small models of the field (nanochat's)."""
_FLOPS_PER_CORE = 5e10
"""What a core of today does at least while it trains; before the machine is measured."""


def choose_vocabulary(size_bytes: int, wish: ModelWish) -> Reasoned:
    """Returns how many tokens the vocabulary is to have; texts of little variety may fill fewer."""
    if wish.vocab_size is not None:
        if not MIN_VOCABULARY <= wish.vocab_size <= 2 * MAX_VOCABULARY:
            raise InvalidInput(
                "vocab_size is {value}, and goes from {least} to {most}.",
                value=wish.vocab_size,
                least=MIN_VOCABULARY,
                most=2 * MAX_VOCABULARY,
            )
        return Reasoned("vocab_size", str(wish.vocab_size), "As asked.")
    # The words of a text grow with the root of its length (Heaps' law); a power of two suits the embedding's matrix.
    wanted = 2 ** round(math.log2(max(1.0, 2 * math.sqrt(size_bytes))))
    return Reasoned(
        "vocab_size",
        str(min(MAX_VOCABULARY, max(512, wanted))),
        "{size} of text hold about as many words that come often (twice the root of the bytes, Heaps' law).",
        {"size": show_size(size_bytes)},
    )


def choose_context(longest_tokens: int, asked: int | None) -> int:
    """Returns the context: what was asked, else the power of two that the longest text fits, 256 to 1,024."""
    if asked is not None:
        if not 16 <= asked <= 4096:
            raise InvalidInput(
                "row_tokens is {value}, and the base takes 16 to {most}.", value=asked, most=4096
            )
        return asked
    return min(MAX_CONTEXT, max(256, 2 ** math.ceil(math.log2(max(1, longest_tokens)))))


def choose_shape(
    wish: ModelWish,
    vocab_size: int,
    context: int,
    tokens: int,
    *,
    epochs: float | None,
    budget_s: float | None,
    flops_per_s: float,
    room_bytes: int,
) -> tuple[Shape, Reasoned]:
    """Returns the largest shape that text, time and memory allow, and which of them decided.

    Args:
        wish: what was decided already.
        vocab_size: tokens of the vocabulary.
        context: tokens that the model can look back.
        tokens: of the texts to train on, read once.
        epochs: how often they are read; None: ``FRESH_EPOCHS``.
        budget_s: the time there is; None: as long as it takes.
        flops_per_s: what the machine does while it trains.
        room_bytes: memory that the run has.

    Raises:
        InvalidInput: a size that cannot be.

    """
    repeated = epochs or FRESH_EPOCHS
    # Hoffmann et al. 2022 (arXiv 2203.15556): 20 tokens for each weight. In time t at rate r: r t = 6 N D = 120 N^2.
    by_text = tokens * repeated / TOKENS_PER_PARAMETER
    by_time = math.sqrt(flops_per_s * budget_s / 120) if budget_s else math.inf
    layers, width = _proportions(min(by_text, by_time), wish)
    shape = Shape.of(wish.family, vocab_size, context, layers, width)
    fixed = wish.hidden_size is not None and wish.num_hidden_layers is not None
    cut = False
    while not fixed and shape.num_hidden_layers > 1 and _memory(shape) > room_bytes:
        cut = True
        layers, width = _proportions(shape.body * 0.8, wish)
        smaller = Shape.of(wish.family, vocab_size, context, layers, width)
        if smaller.body >= shape.body:
            break
        shape = smaller
    drawn = (
        f"{shape.parameters / 1e6:.2f} M: {shape.num_hidden_layers} layers, width {shape.hidden_size}, "
        f"{shape.num_attention_heads} heads"
    )
    fields: dict[str, str | int | float] = {
        "tokens": tokens,
        "epochs": f"{repeated:g}",
        "ratio": TOKENS_PER_PARAMETER,
        "budget": show_span(budget_s) if budget_s else "",
        "speed": f"{flops_per_s / 1e9:.0f}",
        "room": show_size(room_bytes),
    }
    if fixed:
        why = "As asked."
    elif cut:
        why = "What can be trained in {room} of memory."
    elif by_time < by_text:
        why = "{budget} at about {speed} GFLOP/s, {ratio} tokens for each weight of the layers (Hoffmann et al. 2022)."
    else:
        why = "{tokens} tokens, read {epochs} times, {ratio} for each weight of the layers (Hoffmann et al. 2022)."
    return shape, Reasoned("model", drawn, why, fields)


def guess_memory(size_bytes: int, wish: ModelWish, epochs: float | None, budget_s: float | None, cores: int, room_bytes: int) -> int:  # fmt: skip
    """Returns bytes that training on so much text will take, before any of it was read."""
    vocabulary = int(choose_vocabulary(size_bytes, wish).value)
    shape, _ = choose_shape(
        wish,
        vocabulary,
        MAX_CONTEXT,
        int(size_bytes / BYTES_PER_TOKEN),
        epochs=epochs,
        budget_s=budget_s,
        flops_per_s=_FLOPS_PER_CORE * 4 * cores,
        room_bytes=room_bytes,
    )
    # The texts may turn out to hold more tokens than their bytes tell, and a model a third larger.
    return min(room_bytes, _memory(shape) * 4 // 3)


def _proportions(body: float, wish: ModelWish) -> tuple[int, int]:
    """Returns layers and width for so many weights in the layers: 11 width^2 each, the width 64 times the depth."""
    for name, value, least, most in (
        ("num_hidden_layers", wish.num_hidden_layers, 1, 200),
        ("hidden_size", wish.hidden_size, 32, 16_384),
    ):
        if value is not None and not least <= value <= most:
            raise InvalidInput(
                "{name} is {value}, and goes from {least} to {most}.",
                name=name,
                value=value,
                least=least,
                most=most,
            )
    if wish.hidden_size is not None and wish.hidden_size % 32:
        raise InvalidInput(
            "hidden_size is {value}, which is no multiple of 32.",
            hint="Heads are 32 or 64 wide.",
            value=wish.hidden_size,
        )
    width = wish.hidden_size
    layers = wish.num_hidden_layers
    if layers is None:
        by_width = body / (11 * width**2) if width else (body / (11 * _LAYER_WIDTH**2)) ** (1 / 3)
        layers = max(2, round(by_width))
    if width is None:
        exact = math.sqrt(body / (11 * layers))
        head = 64 if exact >= 256 else 32
        width = max(64, round(exact / head) * head)
    return layers, width


def _memory(shape: Shape) -> int:
    return memory_needed(shape.as_config(), shape.parameters, 0)
