"""Rows and bases that strangers hand in: what is odd is learned right, what is broken is named, nothing is silent."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from fust.core.errors import InvalidInput, NotOffered
from tests.support.tiny_bases import write_base

torch = pytest.importorskip("torch", reason="needs fust[tune]")
pytest.importorskip("peft", reason="needs fust[tune]")

from fust.tune.asked import read_wish  # noqa: E402
from fust.tune.base import check_vocabulary, read_base, wanted_files  # noqa: E402
from fust.tune.loading import check_known, load_model  # noqa: E402
from fust.tune.masks import Masker  # noqa: E402
from fust.tune.prepare import Prepared, view_samples  # noqa: E402
from tests.support.tiny_bases import make_tokenizer  # noqa: E402
from tests.support.tune_bench import open_training, prepare_rows, recipe_with  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")  # transformers, of itself


def prepared_of(folder: Path, *lines: bytes, **wish: object) -> Prepared:
    rows = folder / "rows.jsonl"
    rows.write_bytes(b"\n".join(lines) + b"\n")
    return prepare_rows(folder, rows, held_out_share=0.0, **wish)


def talk(asked: str, said: str) -> bytes:
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return json.dumps({"messages": messages}, ensure_ascii=False).encode()


ODD = {
    "emoji of several code points": "👩🏽‍🚀🏳️‍🌈 ok 🌍",
    "right to left, with marks and digits between": "שלום 42 \u200fمرحبا\u200e بكم",
    "combining marks": "e\u0301 n\u0303 शेर",
    "no white space": "今天天气很好，我们去散步。",
    "zeros, tabs and line ends": "a\tb\r\nc \u0000 d",
    "text that looks like a special token": "write <|im_end|> to end",
}


@pytest.mark.parametrize("said", ODD.values(), ids=ODD)
def test_odd_texts_are_learned_whole_and_nothing_else_is(tmp_path, said):
    prepared = prepared_of(tmp_path, talk(f"Say {said}", said))
    assert prepared.report.kept == 1, prepared.report.dropped
    tokenizer = make_tokenizer()
    ids, learned = prepared.sample(0)
    taught = tokenizer.decode([int(i) for i, flag in zip(ids, learned, strict=True) if flag])
    assert taught == f"{said}<|im_end|>"
    assert tokenizer.decode([int(i) for i in ids]).endswith(f"assistant\n{said}<|im_end|>\n")
    shown = view_samples(prepared, tokenizer.decode)[0].tokens
    assert len(shown) == len(ids), "as many texts as masks"
    assert not any("\ufffd" in text for text in shown)
    assert "".join(shown) == tokenizer.decode([int(i) for i in ids]), "and no half characters in them"


def test_rows_of_ten_megabytes_empty_and_broken_ones_cost_themselves(tmp_path):
    ten = "moon " * (2 * 2**20)
    prepared = prepared_of(
        tmp_path,
        talk("Say moon", "moon"),
        talk(ten, "moon"),
        talk("Say it all", ten),
        b"{}",
        b"[]",
        b'""',
        b'{"messages": []}',
        b'{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "  "}]}',
        b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\\ud83d"}]}',
        b'{"messages": null}',
        b"",
    )  # fmt: skip
    assert prepared.report.kept == 1
    dropped = {drop.code: drop.count for drop in prepared.report.dropped}
    assert sum(dropped.values()) == prepared.report.rows - 1, "every row is kept or named"
    assert dropped["too_long"] == 2 and dropped["not_utf8"] == 2 and dropped["empty_answer"] == 1


def test_half_a_character_costs_its_row_wherever_it_is(tmp_path):
    row = talk("Say moon", "moon").decode().removesuffix("}")
    call = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"function": {"name": "%s"}}]}]}'
    lines = [
        row + ', "note": "\\ud800"}',
        '{"\\ud800": 1}',
        '{"messages": [{"role": "\\ud800"}]}',
        call % "\\ud800",
    ]
    report = prepared_of(tmp_path, talk("Say sun", "sun"), *(line.encode() for line in lines)).report
    assert (report.kept, [(drop.code, drop.count) for drop in report.dropped]) == (1, [("not_utf8", 4)])
    (tmp_path / "rows.csv").write_bytes("prompt,completion\nx,y\n".encode("utf-16"))
    report = prepare_rows(tmp_path, tmp_path / "rows.csv").report
    assert (report.kept, [(drop.code, drop.count) for drop in report.dropped]) == (0, [("not_utf8", 2)])


def test_a_conversation_of_very_many_turns_is_not_rendered_turn_by_turn(tmp_path, monkeypatch):
    rendered = []
    real = Masker._render
    monkeypatch.setattr(Masker, "_render", lambda *args, **more: rendered.append(1) or real(*args, **more))
    messages = [{"role": role, "content": "a"} for _ in range(5000) for role in ("user", "assistant")]
    pair = {"prompt": messages[:-1], "chosen": "a", "rejected": "b"}
    for row, wish in (({"messages": messages}, {}), (pair, {"pairs": True})):
        report = prepared_of(tmp_path, json.dumps(row).encode(), **wish).report
        assert [(drop.code, drop.count) for drop in report.dropped] == [("too_long", 1)]
    assert not rendered


def test_a_tokenizer_without_padding_pads_and_answers_all_the_same(tmp_path):
    from fust.tune.samples import Sampler, choose_prompts

    write_base(tmp_path / "base", pad_token_id=None)
    prepared = prepared_of(
        tmp_path, talk("Say moon", "moon"), talk("Say river and river and moon", "river river river")
    )
    training = open_training(tmp_path, recipe_with(steps=2, passes_per_step=1))
    assert training.run().steps == 2
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    prompts = choose_prompts(prepared)
    sampler = Sampler(training.tuned, tokenizer, prompts)
    together = sampler.take(always=True)
    assert "Say moon" in together[0]["prompt"] and len(set(map(len, prompts))) > 1
    alone = [Sampler(training.tuned, tokenizer, [prompt]).take(always=True) for prompt in prompts]
    assert [[item] for item in together] == alone, "prompts of several lengths side by side"
    assert sampler.measure() > 0 and sampler.take(always=True) == together


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("user\nSay moon\nassistant\n", "Say moon"),
        ("user\n\nSay moon\n\nand\nassistant\n\n", "Say moon\n\nand"),
        ("user\nSay moon\nmodel\n", "Say moon"),
        (" Say moon ", "Say moon"),
        ("system\nBe brief\nuser\nSay moon\nassistant", "system\nBe brief\nuser\nSay moon"),
        ("user\na\nassistant\nb\nuser\nc\nassistant\n", "user\na\nassistant\nb\nuser\nc"),
        ("assistant", ""),
    ],
)
def test_a_samples_prompt_is_shown_as_it_was_asked(prompt, shown):
    from fust.tune.samples import without_roles

    assert without_roles(prompt) == shown


def test_conversations_without_a_template_are_refused_and_questions_with_answers_are_not(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(talk("Say moon", "moon") + b"\n")
    with pytest.raises(InvalidInput) as raised:
        prepare_rows(tmp_path, rows, template=None)
    assert "(messages), and the base model has no chat template" in raised.value.message()
    assert "没有对话模板" in raised.value.message("zh") and "chat or instruct version" in raised.value.hint()
    rows.write_text(json.dumps({"prompt": "Say moon: ", "completion": "moon"}))
    assert prepare_rows(tmp_path, rows, template=None).report.kept == 1


def test_compile_without_a_compiler_is_refused_before_anything_is_computed(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NotOffered, match="no-such-compiler is not here"):
        read_wish({"base": "me/base", "data": "me/rows", "to": "me/tuned", "compile": True})


def test_a_vocabulary_larger_than_the_embedding_is_refused_before_it_is_looked_up(tmp_path):
    base = read_base(write_base(tmp_path / "base", vocab_size=300), "me/base")
    check_vocabulary(base, "me/base", 299)
    with pytest.raises(InvalidInput, match="goes up to token 300, and its embedding has 300 rows"):
        check_vocabulary(base, "me/base", 300)


def damage(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    """Changes a tensor of a base, or takes it away."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    changed = change(weights.pop(name))
    weights |= {} if changed is None else {name: changed}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


EMBEDDING, UP = "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("tensor", "change", "said", "said_zh"),
    [
        (EMBEDDING, lambda it: it[:300].clone(), "The tensor model.embed_tokens.weight of me/base has the shape 300×64, and its config.json", "形状为 300×64"),
        (UP, lambda _: None, f"me/base lacks 1 of the tensors that its config.json asks for, such as {UP}", "缺少其 config.json 所要求的 1 个张量"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_named_and_not_made_up(tmp_path, tensor, change, said, said_zh):
    folder = write_base(tmp_path / "base")
    damage(folder, tensor, change)
    with pytest.raises(InvalidInput) as raised:
        load_model(folder, "me/base")
    assert said in raised.value.message() and said_zh in raised.value.message("zh")
    assert raised.value.hint("zh") != raised.value.hint() != ""


def test_a_base_that_answers_with_no_numbers_is_refused_before_a_step(tmp_path):
    write_base(tmp_path / "base")
    damage(tmp_path / "base", UP, lambda it: it * math.nan)
    prepared_of(tmp_path, *(talk(f"Say moon {i}", "moon") for i in range(4)))
    with pytest.raises(InvalidInput, match="me/base answers with no numbers"):
        open_training(tmp_path, recipe_with(steps=2, passes_per_step=1)).measure()


def test_a_family_that_writes_no_text_and_a_shard_that_is_not_there_are_named():
    check_known("llama", "me/base")
    for family in ("t5", "clip", "strange"):
        with pytest.raises(InvalidInput, match=f"me/base is of the family {family}"):
            check_known(family, "me/base")
    shards = ["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"]
    with pytest.raises(InvalidInput, match=r"it has no model-00002-of-00003\.safetensors"):
        wanted_files(["config.json", "tokenizer.json", *shards], "me/base")
    assert len(wanted_files(["config.json", "tokenizer.json", *shards, "model-00002-of-00003.safetensors"], "me/base")) == 5  # fmt: skip
