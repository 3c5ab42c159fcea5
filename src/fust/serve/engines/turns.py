"""Conversations whose last message the caller began for the model."""

from __future__ import annotations

from typing import Any


def is_begun(messages: list[dict[str, Any]]) -> bool:
    """Returns whether the answer goes on from the last message: it is the assistant's own text."""
    last = messages[-1] if messages else {}
    content = last.get("content")
    return (
        last.get("role") == "assistant"
        and isinstance(content, str)
        and content != ""
        and not last.get("tool_calls")
    )
