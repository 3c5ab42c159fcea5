"""Databases of both kinds, each test's own: SQLite files and databases of one PostgreSQL server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text
from tests.support.postgres import running_postgres

from fust.app.home import prepare_schema
from fust.store.database import Database

_TEMPLATE = "fust_template"


@pytest.fixture(scope="session")
def new_postgres() -> Iterator[Callable[[], str]]:
    """Makes a database with the newest schema on a PostgreSQL server and returns its URL; skips where there is none."""
    with running_postgres() as url:
        base = url.rpartition("/")[0]
        admin = Database(url)
        numbers = itertools.count()

        def execute(statement: str) -> None:
            with admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text(statement))

        execute(f"CREATE DATABASE {_TEMPLATE}")
        template = Database(f"{base}/{_TEMPLATE}")
        prepare_schema(template)
        template.close()

        def new() -> str:
            name = f"fust_test_{next(numbers)}"
            execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
            return f"{base}/{name}"

        yield new
        admin.close()
