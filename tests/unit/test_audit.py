"""The audit: a chain that shows every change, kept append-only by the database itself."""

from __future__ import annotations

import ast
import csv
import json
import threading
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from fust.accounts.audit import Filters, did_ever, iter_entries, note_action, search
from fust.accounts.audit_actions import ACTIONS, action_title
from fust.accounts.audit_chain import Entry, hash_of, verify_chain
from fust.accounts.audit_routes import _csv_lines
from fust.accounts.rights import SCOPES, SYSTEM, Identity
from fust.app.home import migrate, prepare_schema
from fust.core.errors import InvalidInput
from fust.store.database import Database
from fust.wire.asgi import TRUSTED_PROXIES, RequestPool, current_request
from tests.conftest import REPOSITORY

MARIA = Identity("maria", False, SCOPES["write"], "t_1", "token")


def add(
    database: Database, action: str = "repo.create", subject: str = "model:lab/tiny", **detail: object
) -> None:
    with database.write() as session:
        note_action(session, MARIA, action, subject, **detail)  # type: ignore[arg-type]


def test_entries_follow_each_other_and_hold_who_did_what(database: Database) -> None:
    add(database, private=True)
    add(database, "repo.delete")
    first, second = iter_entries(database)
    assert (first.seq, second.seq, second.prev_hash) == (1, 2, first.hash)
    assert (first.actor, first.token_id, first.via, first.detail) == (
        "maria",
        "t_1",
        "token",
        {"private": True},
    )
    assert first.prev_hash == "0" * 64 and verify_chain([first, second]).ok
    assert did_ever(database, "maria", "repo.delete") and not did_ever(database, "eva", "repo.delete")


def test_an_entry_is_kept_with_its_change_or_not_at_all(database: Database) -> None:
    with pytest.raises(RuntimeError), database.write() as session:
        note_action(session, MARIA, "repo.create", "model:lab/tiny")
        raise RuntimeError
    assert not list(iter_entries(database))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entries SET actor = 'eva'",
        "DELETE FROM audit_entries WHERE seq = 2",
        "INSERT INTO audit_entries SELECT 9, at, actor, token_id, via, address, action, subject, detail, prev_hash, hash "
        "FROM audit_entries WHERE seq = 2",
        "INSERT INTO audit_entries SELECT 3, at, actor, token_id, via, address, action, subject, detail, prev_hash, hash "
        "FROM audit_entries WHERE seq = 2",
    ],
)
def test_the_database_refuses_to_change_an_entry(database: Database, statement: str) -> None:
    add(database)
    add(database)
    with pytest.raises(DBAPIError, match="only ever added"), database.write() as session:
        session.execute(text(statement))
    assert verify_chain(iter_entries(database)).entries == 2


def test_no_back_door_of_either_database(database: Database) -> None:
    add(database)
    back_door = (
        "INSERT OR REPLACE INTO audit_entries SELECT seq, at, 'eva', token_id, via, address, action, subject, detail, "
        "prev_hash, hash FROM audit_entries"
        if database.is_sqlite
        else "TRUNCATE audit_entries"
    )
    with pytest.raises(DBAPIError, match="only ever added"), database.write() as session:
        session.execute(text(back_door))
    assert [entry.actor for entry in iter_entries(database)] == ["maria"]


def unguarded(database: Database, statement: str) -> None:
    """What somebody does who owns the database: takes the triggers away, and writes."""
    with database.engine.begin() as connection:
        if database.is_sqlite:
            for name in ("update", "delete", "insert"):
                connection.execute(text(f"DROP TRIGGER audit_entries_{name}"))
        else:
            connection.execute(text("ALTER TABLE audit_entries DISABLE TRIGGER ALL"))
        connection.execute(text(statement))


@pytest.mark.parametrize(
    ("statement", "seq", "reason"),
    [
        ("UPDATE audit_entries SET actor = 'eva' WHERE seq = 2", 2, "changed"),
        ('UPDATE audit_entries SET detail = \'{"oid":"other"}\' WHERE seq = 3', 3, "changed"),
        ("UPDATE audit_entries SET detail = 'rubbish' WHERE seq = 3", 3, "changed"),
        ("UPDATE audit_entries SET at = '2001-01-01 00:00:00' WHERE seq = 1", 1, "changed"),
        ("DELETE FROM audit_entries WHERE seq = 2", 3, "missing"),
        ("DELETE FROM audit_entries WHERE seq = 1", 2, "missing"),
        (f"UPDATE audit_entries SET hash = '{'a' * 64}' WHERE seq = 4", 4, "changed"),
        (f"UPDATE audit_entries SET prev_hash = '{'a' * 64}' WHERE seq = 4", 4, "relinked"),
    ],
)
def test_the_first_broken_entry_is_named(database: Database, statement: str, seq: int, reason: str) -> None:
    for _ in range(5):
        add(database, oid="abc")
    unguarded(database, statement)
    verdict = verify_chain(iter_entries(database))
    assert (verdict.ok, verdict.broken_seq, verdict.reason) == (False, seq, reason)


def test_many_writers_make_one_chain(database: Database) -> None:
    def write() -> None:
        for _ in range(10):
            add(database)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verdict = verify_chain(iter_entries(database))
    assert (verdict.ok, verdict.entries) == (True, 60)


def test_secrets_and_what_cannot_be_kept_are_taken_out(database: Database) -> None:
    key = "fust_" + "A1b2" * 8
    add(database, subject=f"model:lab/{key}", note=f"Bearer {'x' * 30} \0 \ud800 {'y' * 900}")
    (entry,) = iter_entries(database)
    assert key not in entry.subject and "xxxx" not in str(entry.detail) and "\0" not in str(entry.detail)
    assert len(str(entry.detail["note"])) == 500 and verify_chain([entry]).ok


def test_search(database: Database) -> None:
    add(database, oid="0a1b2c")
    add(database, "repo.delete", subject="model:lab/100%_sure")
    with database.write() as session:
        note_action(session, SYSTEM, "run.create", "run:r_1", kind="pull")

    def found(**wanted: str) -> list[int]:
        return [entry.seq for entry in search(database, Filters(**wanted), before=None, limit=10)]

    assert found() == [3, 2, 1]
    assert found(actor="MARIA") == [2, 1]
    assert found(action="repo") == found(action="repo.") == [2, 1]
    assert found(action="repo.delete") == [2] and found(action="rep") == []
    assert found(subject="MODEL:lab/tiny") == [1]
    assert found(text="0A1B") == [1] and found(text="%") == [2] and found(text="_s") == [2]
    assert found(since="2001-01-01") == [3, 2, 1] and found(until="2001-01-01T00:00:00Z") == []
    assert [entry.seq for entry in search(database, Filters(), before=3, limit=1)] == [2]
    with pytest.raises(InvalidInput):
        found(since="yesterday")


def test_the_address_is_that_of_the_request(database: Database) -> None:
    scope = {
        "client": ("10.0.0.1", 1),
        "headers": [(b"x-forwarded-for", b"203.0.113.7")],
        TRUSTED_PROXIES: ("10.0.0.0/8",),
    }
    pool = RequestPool(1)
    mark = current_request.set(scope)
    pool.submit(add, database).result()
    current_request.reset(mark)
    pool.submit(add, database).result()
    assert [entry.address for entry in iter_entries(database)] == ["203.0.113.7", ""]
    pool.shutdown()


def test_what_the_first_version_wrote_is_carried_over(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/fust.db")
    migrate(database, to="0001")
    with database.engine.begin() as connection:
        rows = "(1, '2026-01-01 10:00:00.000000', 'eva', 'repo.push', 'model:eva/a', '0f')"
        connection.execute(text(f"INSERT INTO audit (id, at, actor, action, subject, detail) VALUES {rows}"))
    prepare_schema(database)
    (entry,) = iter_entries(database)
    assert (entry.actor, entry.at, entry.detail) == ("eva", "2026-01-01T10:00:00.000000Z", {"oid": "0f"})
    add(database)
    assert verify_chain(iter_entries(database)).entries == 2
    database.close()


def test_anyone_can_check_an_export_with_little(database: Database) -> None:
    import hashlib

    add(database, note="数据")
    line = msgspec.json.encode(next(iter_entries(database)))
    fields = json.loads(line)
    claimed = fields.pop("hash")
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert hashlib.sha256(canonical).hexdigest() == claimed == hash_of(msgspec.json.decode(line, type=Entry))


def test_csv_runs_no_formula(database: Database) -> None:
    add(database, subject="=cmd|'/c calc'!A1", note='a "quoted", word')
    lines = b"".join(_csv_lines(iter_entries(database))).decode().splitlines()
    head, row = csv.reader(lines)
    assert row[head.index("subject")] == "'=cmd|'/c calc'!A1"
    assert json.loads(row[head.index("detail")]) == {"note": 'a "quoted", word'}


def test_every_action_has_a_title_in_both_languages() -> None:
    for action, title in ACTIONS.items():
        assert action_title(action, "zh") != title
    assert action_title("of.another.version") == "of.another.version"


def test_every_action_of_the_source_is_known() -> None:
    found: set[str] = set()
    for path in (REPOSITORY / "src" / "fust").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            told = [keyword.value for keyword in node.keywords if keyword.arg == "action"]
            if getattr(node.func, "id", "") == "note_action":
                told.append(node.args[2])
            found |= {
                value.value for value in told if isinstance(value, ast.Constant) and "." in str(value.value)
            }
    assert found > {"repo.create", "run.create"}
    assert not found - set(ACTIONS)
