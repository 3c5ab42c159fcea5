"""Licence changes between revisions: what a card said before a commit, and after."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import pygit2

from fust.hub.cards import MAX_CARD_BYTES, parse_card
from fust.hub.git_repo import GitRepo

CARD = "README.md"


@dataclass(frozen=True, slots=True)
class LicenceChange:
    """The licence before and after a commit, as the card names it; empty: none."""

    before: str
    after: str


def licence_changes(repo: GitRepo, oids: Iterable[str]) -> dict[str, LicenceChange]:
    """Returns the commits, of those given, that changed the licence against their first parent."""
    known: dict[str, str] = {"": ""}
    found: dict[str, LicenceChange] = {}
    for oid in oids:
        commit = cast("pygit2.Commit", repo.git[oid])
        after = _card_oid(commit)
        before = _card_oid(commit.parents[0]) if commit.parents else ""
        if before == after:
            continue
        for card in (before, after):
            if card not in known:
                known[card] = parse_card(_read(repo, card)).licence
        # To name one for the first time is no change.
        if known[before] and known[before] != known[after]:
            found[oid] = LicenceChange(known[before], known[after])
    return found


def _card_oid(commit: pygit2.Commit) -> str:
    try:
        found = commit.tree[CARD]
    except KeyError:
        return ""
    return str(found.id) if isinstance(found, pygit2.Blob) else ""


def _read(repo: GitRepo, oid: str) -> str:
    return repo.read_blob(oid)[:MAX_CARD_BYTES].decode("utf-8", "replace")
