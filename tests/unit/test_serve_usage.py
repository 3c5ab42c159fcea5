"""Usage rows: written in batches, once each, and none lost at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, select

from fust.core.clock import utc_naive
from fust.records.models import UsageRow
from fust.records.usage import Usage, UsageWriter
from fust.store.database import Base, Database


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path / 'fust.db'}")
    Base.metadata.create_all(database.engine)
    return database


def row(id_: str, **more: object) -> Usage:
    return Usage(id=id_, created_at=utc_naive(), endpoint="chat", model="m", user_name="a", **more)  # type: ignore[arg-type]


def count(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(UsageRow)) or 0


def test_all_rows_are_there_after_stop(database: Database) -> None:
    writer = UsageWriter(database)
    writer.start()
    for number in range(1234):
        writer.add(row(str(number)))
    writer.stop()
    assert count(database) == 1234
    assert writer.has_any("a")
    assert not writer.has_any("b")
    database.close()


def test_a_row_twice_is_one_row(database: Database) -> None:
    for _ in range(2):
        writer = UsageWriter(database)
        writer.start()
        for number in range(700):
            writer.add(row(str(number)))
        writer.add(row("0"))
        writer.stop()
    assert count(database) == 700
    database.close()
