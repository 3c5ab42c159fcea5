"""Upgrades of a home: a copy first, all or nothing, and no row lost; full disks, failures and kills in the middle."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fust.app import home as home_module
from fust.app.home import UpgradeFailed, head_revision, prepare_schema
from fust.core.errors import StorageFull
from fust.store.database import Database
from tests.conftest import REPOSITORY, start_fust
from tests.support.archives import unpack

OLDEST = REPOSITORY / "tests" / "fixtures" / "home-v0.1.0.tar.gz"
HALF = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "0098", "{before}", None, None
def upgrade():
    op.create_table("half_made", sa.Column("id", sa.String(), primary_key=True))
    op.execute("UPDATE users SET full_name = 'changed'")
"""
REST = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "0099", "0098", None, None
def upgrade():
    with op.batch_alter_table("users", recreate="always") as batch:
        batch.add_column(sa.Column("height_cm", sa.Integer(), nullable=True))
    {last}
"""


@pytest.fixture
def old_home(tmp_path: Path) -> Path:
    unpack(OLDEST, tmp_path)
    return tmp_path / "home"


def later_versions(folder: Path, last: str) -> Path:
    """Returns a copy of the migrations with two more, of which the second ends with ``last``."""
    target = folder / "migrations"
    before = head_revision()
    shutil.copytree(home_module.MIGRATIONS, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "versions" / "0098_half.py").write_text(HALF.format(before=before))
    (target / "versions" / "0099_rest.py").write_text(REST.format(last=last))
    return target


def everything_in(path: Path) -> list[str]:
    """Returns the whole database as SQL."""
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def count(path: Path, table: str) -> int:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    finally:
        connection.close()


def test_a_copy_is_made_before_an_upgrade_and_only_then(old_home: Path) -> None:
    before = everything_in(old_home / "fust.db")
    for _ in range(2):
        start_fust(old_home).stop()
        copies = list((old_home / "backups").iterdir())
        assert len(copies) == 1, "the second start had nothing to upgrade"
    assert copies[0].name.startswith("schema-0001-2") and copies[0].suffix == ".db"
    assert copies[0].stat().st_mode & 0o777 == 0o600
    assert everything_in(copies[0]) == before
    log = (old_home / "log" / "server.log").read_text()
    assert "schema upgraded" in log and copies[0].name in log


def test_no_backup_makes_none(old_home: Path) -> None:
    environ = {**os.environ, "FUST_HOME": str(old_home), "FUST_LANG": "en", "FUST_SERVE__STARTER": "false"}
    command = [sys.executable, "-m", "fust.cli.main", "up", "-d", "--no-backup"]
    subprocess.run(command, env=environ, check=True, capture_output=True, timeout=90)
    try:
        assert not (old_home / "backups").exists()
    finally:
        subprocess.run([*command[:3], "down"], env=environ, check=True, capture_output=True, timeout=60)


def test_copies_are_bounded(old_home: Path) -> None:
    folder = old_home / "backups"
    folder.mkdir()
    for i in range(9):
        (folder / f"schema-0001-2020010{i}T000000Z.db").write_bytes(b"")
    (folder / "mine.db").write_bytes(b"")
    database = Database(f"sqlite:///{old_home / 'fust.db'}")
    prepare_schema(database, folder)
    database.close()
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 6 and names[0] == "mine.db" and names[1].endswith("0105T000000Z.db")


def test_a_table_made_anew_keeps_the_rows_that_point_to_it(
    old_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = count(old_home / "fust.db", "tokens")
    assert tokens > 1
    monkeypatch.setattr(home_module, "MIGRATIONS", later_versions(tmp_path, "pass"))
    database = Database(f"sqlite:///{old_home / 'fust.db'}")
    prepare_schema(database, old_home / "backups")
    with database.write() as session:  # and foreign keys hold again on the same connections
        assert session.connection().exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    database.close()
    assert count(old_home / "fust.db", "tokens") == tokens


def test_a_migration_that_fails_half_way_changes_nothing(
    old_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything_in(old_home / "fust.db")
    bad = later_versions(tmp_path, 'raise RuntimeError("no such luck")')
    monkeypatch.setattr(home_module, "MIGRATIONS", bad)
    database = Database(f"sqlite:///{old_home / 'fust.db'}")
    with pytest.raises(UpgradeFailed, match="no such luck"):
        prepare_schema(database, old_home / "backups")
    database.close()
    assert everything_in(old_home / "fust.db") == before
    monkeypatch.undo()
    running = start_fust(old_home)  # the version that the home had goes on
    running.stop()


def test_rows_left_without_their_owner_stop_an_upgrade(
    old_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything_in(old_home / "fust.db")
    bad = later_versions(tmp_path, 'op.execute("DELETE FROM users")')
    monkeypatch.setattr(home_module, "MIGRATIONS", bad)
    database = Database(f"sqlite:///{old_home / 'fust.db'}")
    with pytest.raises(UpgradeFailed, match="point to rows of users"):
        prepare_schema(database)
    database.close()
    assert everything_in(old_home / "fust.db") == before


@pytest.mark.faults
def test_a_kill_in_the_middle_changes_nothing(old_home: Path, tmp_path: Path) -> None:
    before = everything_in(old_home / "fust.db")
    mark = tmp_path / "mark"
    last = f'open({str(mark)!r}, "w"); import time; time.sleep(60)'
    program = (
        "import sys; from pathlib import Path; from fust.app import home; from fust.store.database import Database\n"
        "home.MIGRATIONS = Path(sys.argv[1]); home.prepare_schema(Database(sys.argv[2]), Path(sys.argv[3]))"
    )
    url = f"sqlite:///{old_home / 'fust.db'}"
    arguments = [str(later_versions(tmp_path, last)), url, str(old_home / "backups")]
    child = subprocess.Popen([sys.executable, "-c", program, *arguments])
    deadline = time.monotonic() + 30
    while not mark.exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.02)
    assert mark.exists()
    child.kill()
    child.wait()
    assert everything_in(old_home / "fust.db") == before
    start_fust(old_home).stop()


@pytest.mark.faults
def test_no_room_for_the_copy_changes_nothing(old_home: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        before = everything_in(old_home / "fust.db")
        database = Database(f"sqlite:///{old_home / 'fust.db'}")
        with pytest.raises(StorageFull, match="no room for a copy"):
            prepare_schema(database, small / "backups")
        assert list((small / "backups").iterdir()) == []
        (small / "filler").write_bytes(bytes(990_000))
        from fust.store import copies

        with pytest.MonkeyPatch.context() as patch:  # the disk fills while the copy is written
            patch.setattr(copies, "_SPARE_BYTES", -(10**9))
            with pytest.raises(StorageFull, match="full"):
                prepare_schema(database, small / "backups")
        database.close()
        assert list((small / "backups").iterdir()) == []
        assert everything_in(old_home / "fust.db") == before
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)
