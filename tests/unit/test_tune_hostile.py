"""Rows and bases that strangers hand in: what is odd is learned right, what is broken is named, nothing is silent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fust.core.errors import InvalidInput, NotOffered
from tests.support.tiny_bases import write_base

torch = pytest.importorskip("torch", reason="needs fust[tune]")
pytest.importorskip("peft", reason="needs fust[tune]")

from fust.tune.asked import read_wish  # noqa: E402
from fust.tune.base import check_vocabulary, read_base  # noqa: E402
from fust.tune.prepare import Prepared, view_samples  # noqa: E402
from tests.support.tiny_bases import make_tokenizer  # noqa: E402
from tests.support.tune_bench import open_training, prepare_rows, recipe_with  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")  # transformers, of itself


def prepared_of(folder: Path, *lines: bytes) -> Prepared:
    rows = folder / "rows.jsonl"
    rows.write_bytes(b"\n".join(lines) + b"\n")
    return prepare_rows(folder, rows, held_out_share=0.0)


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


def test_compile_without_a_compiler_is_refused_before_anything_is_computed(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NotOffered, match="no-such-compiler is not here"):
        read_wish({"base": "me/base", "data": "me/rows", "to": "me/tuned", "compile": True})


def test_a_vocabulary_larger_than_the_embedding_is_refused_before_it_is_looked_up(tmp_path):
    base = read_base(write_base(tmp_path / "base", vocab_size=300), "me/base")
    check_vocabulary(base, "me/base", 299)
    with pytest.raises(InvalidInput, match="goes up to token 300, and its embedding has 300 rows"):
        check_vocabulary(base, "me/base", 300)
