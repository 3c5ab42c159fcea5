"""Conversations as files: JSON that a program reads again, and Markdown that a person reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from fust.core.clock import iso, now
from fust.core.i18n import Language, fill
from fust.feedback.types import Chat, ChatExport, ChatSettings, Turn

_IMAGE = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/]+=*")
_ALT = re.compile(r"[\[\]\\\s]+")


def write_json(chats: Iterable[Chat]) -> Iterator[bytes]:
    """Yields a `ChatExport`, one conversation at a time."""
    head = msgspec.json.encode(ChatExport([], iso(now()) or ""))
    before, _, after = head.partition(b"[]")
    yield before + b"[\n"
    for number, chat in enumerate(chats):
        yield (b",\n" if number else b"") + msgspec.json.encode(chat)
    yield b"\n]" + after + b"\n"


def write_markdown(chats: Iterable[Chat], language: Language) -> Iterator[bytes]:
    """Yields one document: each conversation under its title, along the branch that was shown last."""
    for number, chat in enumerate(chats):
        if number:
            yield b"\n\n---\n\n"
        yield _chat_markdown(chat, language).encode(errors="replace")


def shown_branch(chat: Chat) -> list[Turn]:
    """Returns the turns from the first to the leaf that is shown."""
    turns = {turn.id: turn for turn in chat.turns}
    path: list[Turn] = []
    at = turns.get(chat.leaf or "") or (chat.turns[-1] if chat.turns else None)
    while at is not None and len(path) <= len(turns):
        path.append(at)
        at = turns.get(at.parent or "")
    return path[::-1]


def _chat_markdown(chat: Chat, language: Language) -> str:
    title = " ".join(chat.title.split())
    parts = [f"# {title}", f"_{chat.created_at}_"]
    settings = _settings_lines(chat.settings, language)
    if settings:
        parts.append("\n".join(settings))
    if chat.settings.system:
        parts.append(f"## {fill('Instructions', {}, language)}\n\n{chat.settings.system}")
    for turn in shown_branch(chat):
        parts.append(_turn_markdown(turn, language))
    branch = len(shown_branch(chat))
    if branch < len(chat.turns):
        other = len(chat.turns) - branch
        parts.append(
            f"_{fill('{count} messages of other versions are in the JSON export.', {'count': other}, language)}_"
        )
    return "\n\n".join(parts) + "\n"


def _settings_lines(settings: ChatSettings, language: Language) -> list[str]:
    values = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_tokens": settings.max_tokens,
        "seed": settings.seed,
        "stop": ", ".join(f"`{word}`" for word in settings.stop) or None,
    }
    return [f"- {name}: {value}" for name, value in values.items() if value is not None]


def _turn_markdown(turn: Turn, language: Language) -> str:
    who = fill("You", {}, language) if turn.role == "user" else turn.model or fill("Model", {}, language)
    parts = [f"## {' '.join(who.split())}"]
    for file in turn.files:
        if _IMAGE.fullmatch(file.text):
            parts.append(f"![{_ALT.sub(' ', file.name).strip()}]({file.text})")
            continue
        fence = fence_for(file.text)
        parts.append(f"`{' '.join(file.name.split())}`\n\n{fence}\n{file.text}\n{fence}")
    if turn.text:
        parts.append(turn.text)
    if turn.state in ("stopped", "growing"):
        parts.append(f"_{fill('The answer ended before its end.', {}, language)}_")
    if turn.trouble:
        parts.append(f"_{turn.trouble.detail}_")
    return "\n\n".join(parts)


def fence_for(text: str) -> str:
    """Returns a Markdown fence longer than any run of backticks in the text."""
    longest = run = 0
    for letter in text:
        run = run + 1 if letter == "`" else 0
        longest = max(longest, run)
    return "`" * max(3, longest + 1)
