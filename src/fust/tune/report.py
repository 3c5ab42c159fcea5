"""What became of the rows: how many were kept, which were not, and why, in words that can be drawn in any language."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import msgspec

_SHOWN = 20
"""Rows that are named for each reason."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a row is not used."""

    code: str
    template: str


REASONS = {
    reason.code: reason
    for reason in (
        Reason("not_utf8", "Not UTF-8: {count} ({rows})."),
        Reason("not_json", "Not JSON: {count} ({rows})."),
        Reason("not_csv", "More cells than columns, or a broken quote: {count} ({rows})."),
        Reason("not_object", "Not an object with named values: {count} ({rows})."),
        Reason("too_large", "Larger than 16 MiB: {count} ({rows})."),
        Reason("unknown_columns", "Columns that are no known format: {count} ({rows}): {detail}"),
        Reason("empty", "Empty: {count} ({rows})."),
        Reason("no_messages", "Messages that are no list of roles and texts: {count} ({rows})."),
        Reason("unknown_role", "A role that is not known: {count} ({rows}): {detail}"),
        Reason("not_text", "Something that is not text, such as an image: {count} ({rows})."),
        Reason("no_tools", "Tools that are no list of functions with names: {count} ({rows})."),
        Reason("bad_arguments", "A call whose arguments are no JSON: {count} ({rows}): {detail}"),
        Reason(
            "unknown_weight",
            "A weight that is not 0 or 1, or of a part of a message: {count} ({rows}): {detail}",
        ),
        Reason("no_answer", "No answer of the assistant: {count} ({rows})."),
        Reason("empty_answer", "An empty answer: {count} ({rows})."),
        Reason("no_prompt", "No question: {count} ({rows})."),
        Reason("same_answers", "Two answers that are the same: {count} ({rows})."),
        Reason("different_questions", "Two answers that do not follow the same question: {count} ({rows})."),
        Reason("no_pair", "Not two answers, a better and a worse one: {count} ({rows})."),
        Reason(
            "no_counterpart",
            "A judged answer with none of the other judgement to the same question; where it is good, lora learns from it: {count} ({rows}).",
        ),
        Reason("judged_bad", "Judged as bad, which only the method dpo learns from: {count} ({rows})."),
        Reason("template_refuses", "The chat template refuses them: {count} ({rows}): {detail}"),
        Reason(
            "template_rewrites", "The chat template rewrites what stood before the answer: {count} ({rows})."
        ),
        Reason(
            "tools_unwritten",
            "The chat template leaves out tools, their calls or what they answer: {count} ({rows}): {detail}",
        ),
        Reason("system_unwritten", "The chat template leaves out the system prompt: {count} ({rows})."),
        Reason("nothing_learned", "No token would be learned: {count} ({rows})."),
        Reason("all_learned", "All would be learned, the question too: {count} ({rows})."),
        Reason("too_long", "Longer than a row of tokens, and nothing is cut off: {count} ({rows})."),
        Reason("twice", "The same as an earlier row: {count} ({rows})."),
        Reason("leaked", "The same question as a held-out row: {count} ({rows})."),
    )
}


class Dropped(msgspec.Struct):
    """Rows that are not used for one reason."""

    code: str
    template: str
    """The sentence, with fields for the rest."""
    count: int
    rows: list[str]
    """`FILE:ROW`, the first of them."""
    detail: str = ""
    """What the first of them had, such as the words of a template."""

    def fields(self) -> dict[str, str | int]:
        """Returns what fills the template."""
        named = ", ".join(self.rows[:3]) + (", …" if self.count > 3 else "")
        return {"count": self.count, "rows": named, "detail": self.detail}


class Note(msgspec.Struct):
    """A sentence about the rows that names none of them; ``params`` fill the template."""

    template: str
    params: dict[str, str | int] = {}


class DataReport(msgspec.Struct):
    """What became of the rows of a data set."""

    format: str
    files: list[str]
    rows: int
    kept: int
    """For training."""
    held_out: int
    dropped: list[Dropped]
    samples: int
    """Texts that are trained on; more than rows where the template needs one for each answer."""
    tokens: int
    learned_tokens: int
    longest: int
    """Tokens of the longest sample."""
    rewritten: int
    endless: int
    end_is_padding: bool
    pairs: int
    """Of two samples each; 0 where rows are not compared."""
    key: str
    """SHA-256 of all that was read and of what was made of it."""
    teachers: list[str] = []
    """Models that wrote rows, by what the rows say of themselves (`model` or `teacher`); the most frequent first."""
    notes: list[Note] = []
    """What else is to be known, such as columns that are not used."""

    @property
    def learned_share(self) -> float:
        """Returns the share of tokens that are learned."""
        return self.learned_tokens / self.tokens if self.tokens else 0.0


@dataclass(slots=True)
class Tally:
    """Counts rows that are not used."""

    counts: Counter[str] = field(default_factory=lambda: Counter[str]())
    rows: dict[str, list[str]] = field(default_factory=lambda: dict[str, list[str]]())
    details: dict[str, str] = field(default_factory=lambda: dict[str, str]())

    def drop(self, code: str, place: str, detail: str = "") -> None:
        """Notes a row."""
        self.counts[code] += 1
        named = self.rows.setdefault(code, [])
        if len(named) < _SHOWN:
            named.append(place)
        if detail:
            self.details.setdefault(code, detail)

    def drawn(self) -> list[Dropped]:
        """Returns the reasons, most frequent first."""
        return [
            Dropped(code, REASONS[code].template, count, self.rows[code], self.details.get(code, ""))
            for code, count in self.counts.most_common()
        ]
