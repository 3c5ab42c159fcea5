"""What engines say of themselves in English is told in Chinese, and nothing they say is lost."""

from __future__ import annotations

import re

import pytest

from fust.core.errors import Unavailable
from fust.core.i18n import Clause, Words
from fust.serve.engines.base import EngineLoadFailed
from fust.serve.engines.llama_c import LayoutUnknown, open_library
from fust.serve.engines.reasons import SAID, reason_words
from fust.serve.notes import note


@pytest.mark.parametrize("template", SAID)
def test_each_sentence_is_told_in_both_languages(template: str) -> None:
    said = re.sub(r"{\w+}", "7", template)
    words = reason_words(said + ".")
    assert isinstance(words, Words) and words.template == template and str(words) == said
    chinese = EngineLoadFailed(said).message("zh")
    assert chinese.startswith("无法加载模型：") and not re.search("[a-z]{3,} [a-z]{2,}", chinese), chinese


def test_what_nobody_knows_stays_as_it_was_said() -> None:
    assert reason_words("wires crossed (7)") == "wires crossed (7)"


def test_a_layout_that_is_not_known_is_told_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fust.serve.engines.llama_c.VERSION", "1999.1.1")
    with pytest.raises(LayoutUnknown) as caught:
        open_library()
    assert "计算对数似然适用于 xllamacpp 1999.1.1" in note(
        "{reason}", reason=reason_words(str(caught.value))
    ).draw("zh")


def test_an_error_within_another_keeps_its_language_and_loses_its_full_stop() -> None:
    inner = EngineLoadFailed("the engine ended with signal 9 (out of memory)")
    outer = Unavailable(
        "{model} cannot be served: {reason}.", model="m", reason=Clause(inner.template, **inner.params)
    )
    assert outer.message() == (
        "m cannot be served: The model could not be loaded: the engine ended with signal 9 (out of memory)."
    )
    assert "引擎因信号 9 退出（out of memory）。" in outer.message("zh") and "。。" not in outer.message("zh")
