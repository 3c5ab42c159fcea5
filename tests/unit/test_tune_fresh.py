"""What a model from nothing is made like: sizes by text, time and memory; and a tokenizer that starves no byte."""

from __future__ import annotations

import pytest

from fust.core.errors import InvalidInput
from fust.tune.fresh import choose_context, choose_shape, choose_vocabulary, guess_memory
from fust.tune.shape import ModelWish, Shape


def shape_of(tokens: int, *, wish: ModelWish | None = None, **more: object) -> tuple[Shape, str]:
    fields = {"epochs": None, "budget_s": None, "flops_per_s": 1e11, "room_bytes": 10**11} | more
    shape, why = choose_shape(wish or ModelWish(), 4096, 512, tokens, **fields)  # type: ignore[arg-type]
    return shape, why.why.format(**why.params)


def test_the_vocabulary_grows_with_the_root_of_the_text():
    sizes = [int(choose_vocabulary(10**n, ModelWish()).value) for n in (3, 6, 7, 8, 12)]
    assert sizes == [512, 2048, 8192, 16384, 65536]


@pytest.mark.parametrize("tokens", [10**6, 10**8, 10**10])
def test_twenty_tokens_for_each_weight_of_the_layers(tokens):
    shape, why = shape_of(tokens)
    assert 0.5 < shape.body / (4 * tokens / 20) < 2
    assert "read 4 times" in why
    assert shape.num_attention_heads * shape.head_dim == shape.hidden_size
    assert shape.num_attention_heads % shape.num_key_value_heads == 0


def test_time_and_memory_make_it_smaller():
    free, _ = shape_of(10**9)
    timed, why = shape_of(10**9, budget_s=3600.0)
    assert timed.body < free.body and "GFLOP/s" in why
    assert 0.4 < 6 * timed.body * 20 * timed.body / (1e11 * 3600) < 2.5, "the time is used"
    housed, why = shape_of(10**9, room_bytes=2 * 10**9)
    assert housed.body < free.body and "memory" in why
    assert guess_memory(4 * 10**9, ModelWish(), None, None, 2, 2 * 10**9) <= 2 * 10**9


def test_weights_are_counted_as_transformers_counts_them():
    import msgspec
    from transformers import AutoConfig, AutoModelForCausalLM

    for family in ("llama", "qwen3"):
        shape = Shape.of(family, 400, 128, 3, 96)
        fields = {k: v for k, v in msgspec.to_builtins(shape).items() if k != "family"}
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(family, tie_word_embeddings=True, **fields)
        )
        assert model.num_parameters() == shape.parameters


def test_what_was_decided_stays():
    shape, why = shape_of(10**9, wish=ModelWish(family="qwen3", hidden_size=96, num_hidden_layers=3))
    assert (shape.family, shape.hidden_size, shape.num_hidden_layers, why) == ("qwen3", 96, 3, "As asked.")
    assert (
        choose_context(90, None) == 256 and choose_context(700, None) == choose_context(10**6, None) == 1024
    )
    for wrong in (ModelWish(hidden_size=100), ModelWish(num_hidden_layers=0)):
        with pytest.raises(InvalidInput):
            shape_of(1000, wish=wrong)


def test_a_tokenizer_of_texts_says_every_byte():
    pytest.importorskip("tokenizers", reason="needs fust[tune]")
    from fust.tune.vocabulary import fertility, new_tokenizer

    tokenizer = new_tokenizer(["moon and river and moon"] * 5, 320)
    for text in ("moon", "Grüße 你好 🌍 خبز \x00\n", "शेर और बंदर"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    known, unknown = (fertility(tokenizer, [text]) for text in ("moon and river", "zzz qqq xxx"))
    assert known and unknown and known.tokens_per_word < unknown.tokens_per_word
    assert fertility(tokenizer, []) is None
