"""Secrets that commits brought: told to who brought them, kept for the repo's writers until one says that it is dealt with.

A push is not refused for them: the secret left its machine already, and only its owner can end it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ForeignKey, delete, select
from sqlalchemy.orm import Mapped, mapped_column

from fust.accounts.audit import note_action
from fust.accounts.rights import Identity
from fust.core.clock import utc_naive
from fust.core.errors import FustError, NotFound
from fust.core.i18n import Language, fill
from fust.core.ids import new_id
from fust.formats.secrets import Secret
from fust.hub.types import RepoInfo
from fust.store.database import Base, Database

log = logging.getLogger(__name__)

_TOLD = 10
_KEPT = 200
"""Findings kept of one push."""


class Leak(Base):
    """Where a secret seems to lie; never the secret."""

    __tablename__ = "leaks"

    id: Mapped[str] = mapped_column(primary_key=True)
    repo_id: Mapped[str] = mapped_column(ForeignKey("repos.id", ondelete="CASCADE"), index=True)
    commit_oid: Mapped[str]
    path: Mapped[str]
    kind: Mapped[str]
    line: Mapped[int]
    by: Mapped[str]
    found_at: Mapped[datetime] = mapped_column(default=utc_naive)


class Leaks:
    """Secrets in a home's repos."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, identity: Identity, info: RepoInfo, oid: str, secrets: Sequence[Secret]) -> None:
        """Keeps what a commit brought, and tells the audit."""
        if not secrets:
            return
        try:
            self._note(identity, info, oid, secrets)
        except FustError as error:  # the commit stands, and who brought it is told all the same
            log.warning("secrets in a commit were not noted", extra={"reason": error.message()})

    def _note(self, identity: Identity, info: RepoInfo, oid: str, secrets: Sequence[Secret]) -> None:
        with self._database.write() as session:
            for secret in secrets[:_KEPT]:
                session.add(
                    Leak(
                        id=new_id("k"),
                        repo_id=info.id,
                        commit_oid=oid,
                        path=secret.path,
                        kind=secret.kind,
                        line=secret.line,
                        by=identity.user or "",
                    )
                )
            kinds = ", ".join(sorted({secret.kind for secret in secrets}))
            places = ", ".join(f"{secret.path}:{secret.line}" for secret in secrets[:_TOLD])
            subject = f"{info.type}:{info.repo_id}"
            note_action(session, identity, "repo.secret", subject, oid=oid, kinds=kinds, places=places)

    def list(self, info: RepoInfo) -> list[Leak]:
        """Returns what nobody dealt with yet, the newest first."""
        query = select(Leak).where(Leak.repo_id == info.id).order_by(Leak.id.desc()).limit(_KEPT)
        with self._database.read() as session:
            return list(session.scalars(query))

    def settle(self, identity: Identity, info: RepoInfo, leak_id: str) -> None:
        """Takes one off the list: its secret was ended, or it was none.

        Raises:
            NotFound: it is not on the list.

        """
        with self._database.write() as session:
            leak = session.get(Leak, leak_id)
            if leak is None or leak.repo_id != info.id:
                raise NotFound("This warning is gone already.", hint="Load the page again.")
            session.execute(delete(Leak).where(Leak.id == leak_id))
            note_action(
                session,
                identity,
                "repo.secret_settled",
                f"{info.type}:{info.repo_id}",
                place=f"{leak.path}:{leak.line}",
            )


def warning_of(secrets: Sequence[Secret], language: Language) -> str:
    """Returns one line about what a push brought."""
    places = ", ".join(f"{secret.path}:{secret.line} ({secret.kind})" for secret in secrets[:_TOLD])
    if len(secrets) > _TOLD:
        places += ", …"
    template = (
        "This seems to hold secrets: {places}. Revoke them: taking them out again does not take them back."
    )
    return fill(template, {"places": places}, language)
