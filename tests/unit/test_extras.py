"""What an administrator is told to type for a part that is not installed."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from fust.core import extras
from tests.conftest import REPOSITORY


def test_the_command_is_that_of_this_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert extras.install_command("tune") == "pip install 'fust[tune]'"
    monkeypatch.setattr(sys, "prefix", str(REPOSITORY / ".venv"))
    monkeypatch.setattr(extras, "_CHECKOUT", (REPOSITORY / ".venv").resolve().parent)
    assert extras.install_command("tune") == "make install WITH=tune"


def test_what_is_named_can_be_installed() -> None:
    known = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    source = "".join(path.read_text() for path in (REPOSITORY / "src" / "fust").rglob("*.py"))
    named = {part.split('"')[0] for part in source.split('install_command("')[1:]}
    assert named and named <= set(known)
