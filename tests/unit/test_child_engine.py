"""Processes of engines that say what no engine says."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from fust.serve.engines.base import EngineLoadFailed, EngineSpec
from fust.serve.engines.child_engine import ChildEngine
from fust.serve.engines.child_main import MOST_LOG_BYTES


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("this", "first line is none"),
        ("tests.support.gushing_child", "first line is none"),
        ("no_such_module_anywhere", "No module named"),
    ],
)
def test_a_child_that_prints_rubbish_is_ended_with_a_reason(tmp_path: Path, module: str, why: str) -> None:
    others = {it.pid for it in psutil.Process().children()}
    spec = EngineSpec("e1", tmp_path / "m.gguf", "m", "generate", 512, 1, 1)
    with pytest.raises(EngineLoadFailed, match=why):
        ChildEngine(spec, tmp_path, module, frozenset()).start(20.0, lambda _, __: None)
    left = [it for it in psutil.Process().children() if it.pid not in others]
    assert not [it for it in left if it.status() != psutil.STATUS_ZOMBIE]


def test_a_child_that_prints_without_end_fills_no_disk(tmp_path: Path) -> None:
    spec = EngineSpec("e2", tmp_path / "m.gguf", "m", "generate", 512, 1, 1)
    engine = ChildEngine(spec, tmp_path, "tests.support.rambling_child", frozenset())
    engine.start(60.0, lambda _, __: None)  # it goes on
    try:
        assert (tmp_path / "log/engine.log").stat().st_size <= MOST_LOG_BYTES
    finally:
        engine.stop()
