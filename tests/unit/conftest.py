"""Fixtures of the unit tests: a database of either kind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fust.app.home import prepare_schema
from fust.store.database import Database
from tests.support.databases import new_postgres

__all__ = ["new_postgres"]


@pytest.fixture(scope="session")
def sqlite_schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite database with the newest schema."""
    path = tmp_path_factory.mktemp("schema") / "fust.db"
    database = Database(f"sqlite:///{path}")
    prepare_schema(database)
    database.close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, sqlite_schema: Path) -> Iterator[Database]:
    """A database with the newest schema: of each kind that a home may have."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{shutil.copy(sqlite_schema, tmp_path / 'fust.db')}")
    else:
        new: Callable[[], str] = request.getfixturevalue("new_postgres")
        database = Database(new())
    yield database
    database.close()
