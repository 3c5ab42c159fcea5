"""The licence filter on the real story files, where the shared corpus is at hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="needs fust[test]")

from examples.starter.corpus import read_corpus


@pytest.fixture(scope="module")
def stories(shared_dir: Path) -> Path:
    folder = shared_dir / "data" / "stories"
    if not folder.is_dir():
        pytest.skip("the shared story corpus is not here (set FUST_SHARED)")
    return folder


def test_no_refused_licence_slips_through(stories):
    corpus = read_corpus(stories)
    by_language = {language: corpus.of(language, "train") for language in ("en", "ru", "hi", "sw")}
    assert all(len(found) > 90 for found in by_language.values())
    checked = 0
    for story in corpus.stories:
        if story.source in ("african-storybook", "pratham-books"):
            text = (stories / story.source / story.language / f"{story.story_id}.md").read_text("utf-8")
            lines = re.findall(r"^\*\s*Licen[cs]e:(.*)$", text, re.MULTILINE | re.IGNORECASE)
            assert len(lines) == 1 and re.fullmatch(r"\s*\[(CC-BY|CC-BY-SA|Public Domain)\]\s*", lines[0])
            checked += 1
    assert checked > 800
    refused = sum(n for reason, n in corpus.refused.items() if "not accepted" in reason)
    assert refused >= 60
