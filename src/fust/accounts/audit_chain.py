"""Entries of the audit as a chain of hashes, and how to check it. Needs no database: an export can be checked anywhere.

Each entry holds the SHA-256 of its own canonical JSON, which names the hash of the entry before it. Whoever changes,
removes or slips in an entry breaks the chain from there on, and ``verify_chain`` says where. What the chain cannot
show is that its end was cut off, or that all of it was written anew: for that, compare with an earlier export.

The canonical JSON is RFC 8785 of the exported entry without `hash`: keys sorted, no spaces, UTF-8.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from fust.core.i18n import Language, fill

GENESIS = "0" * 64
"""What the first entry names as the hash of the one before it."""

Value = str | int | bool | None


class Entry(msgspec.Struct, frozen=True):
    """An entry as it is shown and exported; ``hash`` seals the rest."""

    seq: int
    at: str
    """RFC 3339, UTC, microseconds."""
    actor: str
    token_id: str | None
    via: str
    address: str
    action: str
    subject: str
    detail: dict[str, Value]
    prev_hash: str
    hash: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What walking the chain found."""

    entries: int
    head: Entry | None
    broken_seq: int | None = None
    reason: Literal["", "missing", "changed", "relinked"] = ""

    @property
    def ok(self) -> bool:
        """Whether every entry is what was written."""
        return self.broken_seq is None


def hash_of(entry: Entry) -> str:
    """Returns the SHA-256 (hex) over the canonical JSON of all fields but `hash`."""
    fields = msgspec.structs.asdict(entry)
    del fields["hash"]
    return hashlib.sha256(canonical(fields)).hexdigest()


def canonical(value: object) -> bytes:
    """Returns a value as JSON with sorted keys and no spaces."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def verify_chain(entries: Iterable[Entry], *, start: int = 1) -> Verdict:
    """Walks entries, oldest first, and names the first that is not what was written.

    `missing`: an entry before this one is gone. `relinked`: it does not name the hash of the one before it.
    `changed`: its own hash is not that of what it says. ``start`` is the number that the first is to have; an export
    that begins later is checked from its own first entry on.
    """
    count, head = 0, None
    for entry in entries:
        expected = head.seq + 1 if head else start
        previous = head.hash if head else GENESIS if start == 1 else entry.prev_hash
        reason: Literal["missing", "changed", "relinked"] | None = None
        if entry.seq != expected:
            reason = "missing"
        elif entry.prev_hash != previous:
            reason = "relinked"
        elif hash_of(entry) != entry.hash:
            reason = "changed"
        if reason:
            return Verdict(count, head, entry.seq, reason)
        count, head = count + 1, entry
    return Verdict(count, head)


def reason_text(reason: str, language: Language) -> str:
    """Returns in words what is wrong with an entry."""
    if reason == "missing":
        return fill("An entry before this one is gone.", {}, language)
    if reason == "relinked":
        return fill("It does not follow the entry before it.", {}, language)
    return fill("It was changed after it was written.", {}, language)
