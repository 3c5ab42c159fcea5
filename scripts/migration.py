"""Writes the next migration from the difference between the newest schema and the tables in the code.

Usage: .venv/bin/python scripts/migration.py "what it does". Read and mend the result before you commit it.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.config import Config

from fust.app.home import MIGRATIONS, migrate
from fust.store.database import Base, Database

ROOT = Path(__file__).resolve().parent.parent


def import_tables() -> None:
    """Imports every module that declares tables."""
    for path in sorted((ROOT / "src" / "fust").rglob("*.py")):
        if "DeclarativeBase" in path.read_text() or "(Base)" in path.read_text():
            importlib.import_module(".".join(path.relative_to(ROOT / "src").with_suffix("").parts))


def write(message: str) -> None:
    """Writes versions/NNNN_message.py."""
    import_tables()
    versions = MIGRATIONS / "versions"
    number = f"{len(list(versions.glob('[0-9]*.py'))) + 1:04d}"
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/schema.db")
        if number != "0001":
            migrate(database)
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with database.engine.connect() as connection:
            config.attributes["connection"] = connection
            config.attributes["metadata"] = Base.metadata
            command.revision(config, message=message, autogenerate=True, rev_id=number)
        database.close()


if __name__ == "__main__":
    write(sys.argv[1])
