"""click's own words in Chinese."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from fust.cli.words import _WORDS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve"], ["用法：", "缺少参数"]),
        (["ls", "--xx"], ["没有选项“--xx”", "运行“fust ls --help”查看帮助"]),
        (["pull", "a", "b", "c"], ["多余的参数（b c）"]),
        (["up", "--port", "x"], ["'--port' 的值无效"]),
        (["--help"], ["选项:", "显示本帮助并退出"]),
    ],
)
def test_wrong_use_is_explained_in_chinese(arguments: list[str], said: list[str]) -> None:
    environ = {**os.environ, "FUST_LANG": "zh"}
    command = [sys.executable, "-m", "fust.cli.main", *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30)
    for words in said:
        assert words in done.stdout + done.stderr


def test_click_still_uses_these_words() -> None:
    folder = Path(click.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    for words in _WORDS:
        text = words.replace("\n", "\\n").replace("\t", "\\t")
        assert f'"{text}"' in source or f"'{text}'" in source or text in ("File", "Directory", "Path"), words
