"""What is held out follows from hashes of questions: at least one row of ten, and the same ones when rows are added."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs fust[tune]")

from fust.tune.files import DataFile
from fust.tune.prepare import DataWish, iter_texts
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


def test_columns_that_are_not_used_are_named(tmp_path: Path):
    row = {"instruction": "Say moon", "output": "moon", "id": 7, "images": ["moon.png"], "notes": None}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    notes = prepare_rows(tmp_path, tmp_path / "rows.jsonl").report.notes
    assert [note.params["columns"] for note in notes if "Columns" in note.template] == ["id, images"]
