"""The table of the audit. The database itself refuses to change or remove an entry, or to add one out of turn."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import DDL, Index, event
from sqlalchemy.orm import Mapped, mapped_column

from fust.accounts.audit_chain import GENESIS
from fust.store.database import Base


class AuditEntry(Base):
    """Who did what to what, sealed by a hash over itself and the entry before it."""

    __tablename__ = "audit_entries"
    __table_args__ = (
        Index("ix_audit_entries_at", "at"),
        Index("ix_audit_entries_actor_action", "actor", "action"),
        Index("ix_audit_entries_subject", "subject"),
    )

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """1, 2, 3 … without a gap."""
    at: Mapped[datetime]
    actor: Mapped[str]
    """Name of the user; empty for nobody."""
    token_id: Mapped[str | None]
    via: Mapped[str]
    """`token`, `session`, `anonymous`, `system`; empty where it is not known."""
    address: Mapped[str]
    """Of the client; empty when no request asked for it."""
    action: Mapped[str]
    subject: Mapped[str]
    detail: Mapped[str]
    """A JSON object of strings, whole numbers and truths."""
    prev_hash: Mapped[str]
    hash: Mapped[str]


_KEEPS = "audit entries are only ever added, one after the other"
_SQLITE = [
    f"""CREATE TRIGGER audit_entries_{verb.lower()} BEFORE {verb} ON audit_entries
    BEGIN SELECT RAISE(ABORT, '{_KEEPS}'); END"""
    for verb in ("UPDATE", "DELETE")
]
# Also against INSERT OR REPLACE, which deletes without asking a trigger.
_SQLITE.append(
    f"""CREATE TRIGGER audit_entries_insert BEFORE INSERT ON audit_entries
    WHEN NEW.seq IS NOT (SELECT COALESCE(MAX(seq), 0) + 1 FROM audit_entries)
      OR NEW.prev_hash IS NOT COALESCE((SELECT hash FROM audit_entries ORDER BY seq DESC LIMIT 1), '{GENESIS}')
    BEGIN SELECT RAISE(ABORT, '{_KEEPS}'); END"""
)
_POSTGRESQL = [
    f"""CREATE FUNCTION audit_entries_guard() RETURNS trigger AS $$
    BEGIN
      IF TG_OP = 'INSERT' THEN
        IF NEW.seq = (SELECT COALESCE(MAX(seq), 0) + 1 FROM audit_entries) AND NEW.prev_hash =
           COALESCE((SELECT hash FROM audit_entries ORDER BY seq DESC LIMIT 1), '{GENESIS}') THEN
          RETURN NEW;
        END IF;
      END IF;
      RAISE EXCEPTION '{_KEEPS}';
    END $$ LANGUAGE plpgsql""",
    """CREATE TRIGGER audit_entries_rows BEFORE INSERT OR UPDATE OR DELETE ON audit_entries
    FOR EACH ROW EXECUTE FUNCTION audit_entries_guard()""",
    """CREATE TRIGGER audit_entries_truncate BEFORE TRUNCATE ON audit_entries
    FOR EACH STATEMENT EXECUTE FUNCTION audit_entries_guard()""",
]


def guards(dialect: str) -> list[str]:
    """Returns the statements that make the triggers. A migration that ever rebuilds the table must make them anew."""
    return _SQLITE if dialect == "sqlite" else _POSTGRESQL


for _dialect in ("sqlite", "postgresql"):
    for _statement in guards(_dialect):
        event.listen(
            AuditEntry.__table__,
            "after_create",
            DDL(_statement.replace("%", "%%")).execute_if(dialect=_dialect),
        )
