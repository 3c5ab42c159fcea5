"""Answers of the hub surface: what is gone is no answer that breaks off."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fust.accounts.rights import ANONYMOUS
from fust.hub.http import FileReply, Request, Surface, send_reply


def test_a_file_that_went_meanwhile_is_found_out_before_the_head(tmp_path: Path) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    surface: Surface = None  # type: ignore[assignment]  # nothing is asked of it
    request = Request("GET", [], {}, {}, {}, {"extensions": {}}, receive, "r1", identity=ANONYMOUS)
    with pytest.raises(FileNotFoundError):
        asyncio.run(send_reply(surface, request, FileReply(200, [], tmp_path / "gone", 0, 5), send))
    assert sent == []
