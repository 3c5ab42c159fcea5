"""Turns a folder of stories into clean, licence-checked, deduplicated stories, split by hash."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from examples.starter.sources import LANGUAGES, SOURCES, Source, accepted_licence

MIN_CHARS, MAX_CHARS = 120, 25_000
HELD_OUT_PERCENT = 4
FRONT_MATTER = (
    r"(?i)introduction|preface|contents|notes|suggestions|reproduction|teaching|story-telling|illustrations"
)
SHINGLE_WORDS = 8
SCRIPTS = {"en": r"[a-zA-Z]", "sw": r"[a-zA-Z]", "ru": r"[а-яА-ЯёЁ]", "hi": r"[ऀ-ॿ]"}
"""At least 70 % of a story's letters must be of its language's script."""


@dataclass(frozen=True, slots=True)
class Story:
    """One story that may be used: text, language, and what attribution needs."""

    source: str
    story_id: str
    language: str
    title: str
    text: str
    author: str
    licence: str

    @property
    def split(self) -> Literal["train", "held_out"]:
        """Which side the story is on, a pure function of its words."""
        digest = hashlib.sha256(_normal(self.text).encode()).digest()
        return "held_out" if int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT else "train"


@dataclass(slots=True)
class Corpus:
    """Stories that were kept, and how many were refused for which reason."""

    stories: list[Story] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    def of(self, language: str, split: str) -> list[Story]:
        """Returns the stories of one language on one side of the split."""
        return [s for s in self.stories if s.language == language and s.split == split]


def read_corpus(root: Path) -> Corpus:
    """Reads every source that is present under ``root``.

    Raises:
        FileNotFoundError: none of the sources is there.
    """
    corpus = Corpus()
    present = [source for source in SOURCES if (root / source.folder).is_dir()]
    if not present:
        raise FileNotFoundError(f"{root} holds none of: {', '.join(s.folder for s in SOURCES)}")
    seen: set[str] = set()
    shingles: set[int] = set()
    for source in SOURCES:
        if source not in present:
            corpus.refused[f"{source.folder}: not present"] += 1
            continue
        for story, reason in _read_source(root / source.folder, source):
            reason = reason or (_unfit(story) if story else "empty") or _repeated(story, seen, shingles)
            if story is None or reason:
                corpus.refused[f"{source.folder}: {reason}"] += 1
            else:
                corpus.stories.append(story)
    return corpus


def _read_source(folder: Path, source: Source) -> Iterator[tuple[Story | None, str]]:
    if source.kind == "per_story":
        for language in source.languages:
            for path in sorted((folder / language).glob("*.md")):
                if path.name.lower() != "readme.md":
                    yield parse_story_file(path.read_text("utf-8"), source.folder, language, path.stem)
    elif source.kind == "jsonl":
        for path in sorted(folder.glob("*.jsonl")):
            for line in path.read_text("utf-8").splitlines():
                row = json.loads(line)
                yield (
                    Story(
                        source.folder,
                        str(row["id"]),
                        source.languages[0],
                        "",
                        clean(row["text"]),
                        str(row.get("model", "")).split(" ")[0],
                        source.licence,
                    ),
                    "",
                )
    else:
        for path in sorted(folder.glob("*.txt")):
            yield from ((story, "") for story in split_book(path.read_bytes(), source))


def parse_story_file(text: str, source: str, language: str, stem: str) -> tuple[Story | None, str]:
    """Returns the story of an African Storybook or Pratham Books file, or None and why it is refused.

    The file is Markdown: a title, pages that begin with ``##``, and a last page of ``* Key: value`` lines. The licence
    is read from that last page and nowhere else.
    """
    pages = re.split(r"^##[^\S\n]*", text.replace("\r\n", "\n"), flags=re.MULTILINE)
    facts = re.findall(r"^\*[ \t]*([A-Za-z]+):[ \t]*(.*)$", pages[-1], flags=re.MULTILINE)
    lines = [value for key, value in facts if key.lower() in ("license", "licence")]
    if not lines:
        return None, "no licence line"
    licence = accepted_licence(lines[0]) if len(lines) == 1 else None
    if licence is None:
        return None, "licence not accepted: " + " / ".join(line.strip()[:30] for line in lines)
    title = pages[0].strip().lstrip("# ").split("\n")[0].strip()
    author = next((value.strip() for key, value in facts if key.lower() == "text"), "")
    body = "\n\n".join(re.sub(r"\s*\n\s*", " ", page.strip()) for page in pages[1:-1] if page.strip())
    return Story(source, stem, language, clean(title), clean(body), author, licence), ""


def split_book(raw: bytes, source: Source) -> list[Story]:
    """Returns the tales of a plain-text book: what stands between two headings in capitals, licence pages cut off."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    text = text.replace("\r\n", "\n")
    start = re.search(r"\*\*\* ?START OF.*?\*\*\*", text)
    end = re.search(r"\*\*\* ?END OF|End of (?:the )?Project Gutenberg", text)
    text = text[start.end() if start else 0 : end.start() if end else len(text)]
    parts = re.split(r"\n{2,}[ \t]*([A-Z][A-Z ,.'’\-!?]{4,60})[ \t]*(?=\n{2,})", text)
    stories: list[Story] = []
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        body = re.sub(r"\[[^\]]*\]", "", body)
        paragraphs = [re.sub(r"\s*\n\s*", " ", p.strip()) for p in re.split(r"\n\s*\n", body)]
        name = re.sub(r"^Chapter [ivxl]+\.? ", "", title.strip().capitalize()).capitalize()
        joined = clean("\n\n".join(p for p in paragraphs if p))
        stories.append(
            Story(source.folder, name, source.languages[0], name, joined, source.holder, source.licence)
        )
    return stories


def clean(text: str) -> str:
    """Returns the text in NFC, one kind of quotes and spaces, no markup, paragraphs parted by one empty line."""
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n")
    text = re.sub(r"[\u200b\u200e\u200f\ufeff\u00ad]", "", text)
    text = re.sub(r"[“”„«»]|''|``", '"', text)
    text = re.sub(r"[‘’]", "'", text)
    text = text.replace("…", "...").replace("\u00a0", " ")
    text = re.sub(r"\.{4,}", "...", text)
    text = re.sub(r"[*_#|<>~=^\\]+", "", text)
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" ?\n ?", "\n", text)
    return re.sub(r"\n{2,}", "\n\n", text).strip()


def _unfit(story: Story) -> str:
    """Returns why a story is not worth reading, or an empty string."""
    if len(story.text) < MIN_CHARS:
        return "too short"
    if len(story.text) > MAX_CHARS:
        return "too long"
    letters = [c for c in story.text if unicodedata.category(c)[0] in "LM"]
    own = len(re.findall(SCRIPTS[story.language], story.text))
    if own < 0.7 * max(1, len(letters)):
        return "other script"
    if re.search(r"https?:|www\.|@|Project Gutenberg", story.text):
        return "links"
    if re.search(FRONT_MATTER, story.title) or re.search(
        r"(?m)^(Sources?|Parallels|Remarks)\.?--", story.text
    ):
        return "front matter or notes"
    return ""


def _normal(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def _repeated(story: Story | None, seen: set[str], shingles: set[int]) -> str:
    """Returns why a story counts as a repetition (same words, or half of its 8-word runs seen), and remembers it."""
    assert story is not None
    normal = _normal(story.text)
    digest = hashlib.sha256(normal.encode()).hexdigest()
    if digest in seen:
        return "duplicate"
    words = normal.split()
    own = {hash_words(words[i : i + SHINGLE_WORDS]) for i in range(max(1, len(words) - SHINGLE_WORDS + 1))}
    if len(own & shingles) > len(own) / 2:
        return "near duplicate"
    seen.add(digest)
    shingles |= own
    return ""


def hash_words(words: list[str]) -> int:
    """Returns a stable 64-bit number for a run of words."""
    return int.from_bytes(hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest(), "big")


def summary(corpus: Corpus) -> dict[str, dict[str, int]]:
    """Returns stories and characters per language and split, for the log and the card."""
    return {
        f"{language}/{split}": {
            "stories": len(rows := corpus.of(language, split)),
            "characters": sum(len(s.text) for s in rows),
        }
        for language in LANGUAGES
        for split in ("train", "held_out")
    }
