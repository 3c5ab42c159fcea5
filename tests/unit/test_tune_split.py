"""What is held out follows from hashes of questions: at least one row of ten, and the same ones when rows are added."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs fust[tune]")

from fust.tune.files import DataFile
from fust.tune.masks import Masker
from fust.tune.prepare import DataWish, iter_texts, prepare
from fust.tune.split import held_out_questions
from tests.support.tiny_bases import make_tokenizer, write_rows
from tests.support.tune_bench import prepare_rows

HASHES = [int.from_bytes(sha256(b"%d" % i).digest()[:8], "big") for i in range(400)]
SMALLEST = (
    "By the share of {share} no row would be held out: {count} with the smallest hash of its question is."
)
NONE = "No row is held out, so nothing will tell what is only learned by heart"


def test_at_least_one_of_ten_and_none_of_fewer():
    for rows in range(30):
        held_out = held_out_questions(HASHES[:rows], 0.05)
        assert bool(held_out) is (rows >= 10), rows
        assert len(held_out) <= max(1, rows // 5)
    assert not held_out_questions(HASHES, 0.0)
    assert held_out_questions(HASHES[:10], 1e-9) == {min(HASHES[:10])}


def test_what_is_held_out_stays_so_when_rows_are_added():
    before: frozenset[int] = frozenset()
    for rows in range(10, 400):
        held_out = held_out_questions(HASHES[:rows], 0.05)
        is_by_share = any(question / 2**64 < 0.05 for question in before)
        assert (
            held_out >= before
            if is_by_share
            else held_out == before or min(held_out) < min(before or {2**64})
        )
        before = held_out
    assert 10 < len(before) < 30


def test_a_question_that_many_rows_ask_takes_them_not_away():
    assert not held_out_questions([5] * 100, 0.05), "all would go"
    assert held_out_questions([5] * 50 + HASHES[:50], 0.05) >= {min(HASHES[:50])}
    assert 5 not in held_out_questions([5] * 50 + HASHES[:50], 0.05)
    assert 5 in held_out_questions([5] * 10 + HASHES[:50], 0.05)


@pytest.mark.parametrize(("rows", "held_out"), [(9, 0), (10, 1), (16, 1)])
def test_of_few_rows_one_is_held_out_and_it_is_said(tmp_path: Path, rows: int, held_out: int):
    prepared = prepare_rows(tmp_path, write_rows(tmp_path / "rows.jsonl", rows), held_out_share=0.001)
    report = prepared.report
    assert (report.kept, report.held_out, int(prepared.held_out.sum())) == (
        rows - held_out,
        held_out,
        held_out,
    )
    assert report.tokens == int(prepared.lengths[~prepared.held_out].sum())
    assert [note.template for note in report.notes if note.template == SMALLEST or NONE in note.template] == [
        SMALLEST if held_out else report.notes[0].template
    ]
    again = prepare_rows(tmp_path / "again", tmp_path / "rows.jsonl", held_out_share=0.001)
    assert (again.held_out == prepared.held_out).all()


def test_a_tokenizer_is_made_of_the_texts_that_are_trained_on(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"Tale {i} of the moon."}) + "\n" for i in range(12)))
    prepared = prepare_rows(tmp_path, path, held_out_share=0.001, documents=True)
    wish = DataWish(128, 0.001, documents=True)
    texts = [text for text in iter_texts([DataFile(path.name, path)], wish) if text.held_out]
    assert len(texts) == prepared.report.held_out == 1
    ids = prepared.sample(int(prepared.held_out.argmax()))[0]
    assert make_tokenizer().decode([int(i) for i in ids], skip_special_tokens=True) == texts[0].text


def ask(question: str, answer: str = "moon") -> str:
    return json.dumps({"prompt": question, "completion": answer}) + "\n"


def test_a_held_out_file_is_kept_apart_and_what_leaks_from_it_is_named(tmp_path: Path):
    """The same question in other letters and spaces is the same; rows that stand twice count once."""
    files = {
        "train.jsonl": ask("Say moon") + ask("Say  MOON ", "sun") + ask("Say sun") + ask("Say sun") + ask("Say sun", "light"),
        "test.jsonl": ask("say moon", "river") + ask("say moon", "river"),
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    data = [DataFile(name, tmp_path / name) for name in files]
    report = prepare(data, Masker(make_tokenizer()), DataWish(128, 0.5), tmp_path / "data").report  # type: ignore[arg-type]
    assert (report.kept, report.held_out) == (2, 1)
    dropped = {drop.code: drop.rows for drop in report.dropped}
    assert dropped == {
        "leaked": ["train.jsonl:1", "train.jsonl:2"],
        "twice": ["test.jsonl:2", "train.jsonl:4"],
    }


def test_rows_with_one_question_are_on_one_side(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(ask(f"Say {i // 2}", str(i)) for i in range(200)))
    prepared = prepare_rows(tmp_path, path, held_out_share=0.3)
    sides = prepared.held_out.reshape(-1, 2)
    assert (sides[:, 0] == sides[:, 1]).all() and 30 < prepared.report.held_out < 90


def test_an_end_that_is_also_padding_is_learned_and_told(tmp_path: Path):
    write_rows(tmp_path / "rows.jsonl", 4)
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    data = [DataFile("rows.jsonl", tmp_path / "rows.jsonl")]
    prepared = prepare(data, Masker(tokenizer), DataWish(128), tmp_path / "data")  # type: ignore[arg-type]
    assert any(
        note.template.startswith("The end token is also the padding") for note in prepared.report.notes
    )
    ids, learned = prepared.sample(1)
    ends = [i for i, it in enumerate(ids) if it == tokenizer.eos_token_id]
    assert [bool(learned[i]) for i in ends] == [False, True], (
        "that of the question is not learned, that of the answer is"
    )


def test_rows_that_would_be_learned_whole_are_named(tmp_path: Path):
    template = "{% for m in messages if m.role == 'assistant' %}{{ m.content }}<|im_end|>{% endfor %}"
    report = prepare_rows(tmp_path, write_rows(tmp_path / "rows.jsonl", 4), template=template).report
    assert [(drop.code, drop.count) for drop in report.dropped] == [("all_learned", 4)]


def test_documents_are_cut_and_every_token_is_learned_once(tmp_path: Path):
    text = "the moon and the river " * 100
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": text}) + "\n")
    prepared = prepare_rows(tmp_path, tmp_path / "rows.jsonl", documents=True, max_tokens=64)
    samples = [prepared.sample(i) for i in range(len(prepared.lengths))]
    assert len(samples) > 5 and prepared.report.kept == 1
    whole = [int(samples[0][0][0]), *(int(token) for ids, _ in samples for token in ids[1:])]
    assert make_tokenizer().decode(whole) == text + "<|im_end|>"
    assert all(learned[1:].all() for _, learned in samples)


def test_columns_that_are_not_used_are_named(tmp_path: Path):
    row = {"instruction": "Say moon", "output": "moon", "id": 7, "images": ["moon.png"], "notes": None}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    notes = prepare_rows(tmp_path, tmp_path / "rows.jsonl").report.notes
    assert [note.params["columns"] for note in notes if "Columns" in note.template] == ["id, images"]
