"""The schema that migrations make is the one that the code declares."""

from __future__ import annotations

import runpy
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from fust.app.home import head_revision, prepare_schema, schema_revision
from fust.store.database import Base, Database
from tests.conftest import REPOSITORY


def test_migrations_make_the_declared_schema(tmp_path: Path) -> None:
    runpy.run_path(str(REPOSITORY / "scripts" / "migration.py"))["import_tables"]()
    database = Database(f"sqlite:///{tmp_path}/schema.db")
    prepare_schema(database)
    assert schema_revision(database) == head_revision()
    with database.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    assert not differences
    database.close()


def test_the_database_file_is_private(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/schema.db")
    prepare_schema(database)
    assert (tmp_path / "schema.db").stat().st_mode & 0o777 == 0o600
    database.close()
