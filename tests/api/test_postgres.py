"""The core on a real PostgreSQL: start, accounts, commits, large files, jobs, upgrades from the first schema, backups."""

from __future__ import annotations

import json
import os
import pwd
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from fust.app import home as home_module
from fust.app.home import MIGRATIONS, UpgradeFailed, head_revision, prepare_schema, schema_revision
from fust.store.database import Base, Database
from tests.compat.test_hub_clients import run_client
from tests.conftest import REPOSITORY, RunningFust, free_port, start_fust


def programs() -> Path | None:
    """Returns the folder of PostgreSQL's server programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    here = shutil.which("initdb")
    return found[-1].parent if found else Path(here).parent if here else None


def as_somebody(user: str | None, *words: str) -> list[str]:
    """Returns a command line that runs as a user; PostgreSQL refuses to run as root."""
    return ["runuser", "-u", user, "--", *words] if user else list(words)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """A server of our own; gives a function that makes an empty database and returns its URL."""
    folder = programs()
    if folder is None:
        pytest.skip("needs PostgreSQL (apt-get install postgresql)")
    pytest.importorskip("psycopg")
    user = None
    if os.geteuid() == 0:
        user = next((name for name in ("postgres", "nobody") if _is_user(name)), None)
        if user is None or shutil.which("runuser") is None:
            pytest.skip("PostgreSQL does not run as root, and there is no other user to run it as")
    data = Path(f"/tmp/fust-postgres-{os.getpid()}")
    data.mkdir(mode=0o700)
    if user:
        shutil.chown(data, user)
    port = free_port()
    log = tmp_path_factory.mktemp("postgres") / "log"
    subprocess.run(
        as_somebody(
            user, str(folder / "initdb"), "-D", f"{data}/db", "-U", "fust", "-A", "trust", "-E", "UTF8"
        ),
        check=True,
        capture_output=True,
        cwd="/",
    )
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={data} -c fsync=off"
    with log.open("wb") as output:
        server = subprocess.Popen(
            as_somebody(user, str(folder / "postgres"), "-D", f"{data}/db", *options.split()),
            stdout=output,
            stderr=output,
            cwd="/",
        )
    admin = Database(f"postgresql+psycopg://fust@127.0.0.1:{port}/postgres")
    deadline = time.monotonic() + 60
    while True:
        try:
            with admin.engine.connect():
                break
        except Exception:
            assert time.monotonic() < deadline and server.poll() is None, log.read_text()
            time.sleep(0.1)
    made = iter(range(1000))

    def new() -> str:
        name = f"fust_{next(made)}"
        with admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        return f"postgresql+psycopg://fust@127.0.0.1:{port}/{name}"

    yield new
    admin.close()
    server.terminate()
    server.wait(timeout=30)
    shutil.rmtree(data, ignore_errors=True)


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def at_first_schema(url: str) -> Database:
    """Returns a database as 0.1.0 made it."""
    database = Database(url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    return database


def test_migrations_make_the_declared_schema(postgres: Callable[[], str]) -> None:
    runpy.run_path(str(REPOSITORY / "scripts" / "migration.py"))["import_tables"]()
    database = at_first_schema(postgres())
    assert schema_revision(database) == "0001"
    with database.write() as session:
        session.execute(
            text(
                "INSERT INTO users (id, name, full_name, is_admin, created_at) VALUES ('u1', 'eva', '', true, now())"
            )
        )
    prepare_schema(database)
    assert schema_revision(database) == head_revision()
    with database.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
        assert connection.execute(text("SELECT name FROM users")).scalar() == "eva"
    assert not differences
    database.close()


def test_an_upgrade_copies_first_and_is_all_or_nothing(
    postgres: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = at_first_schema(postgres())
    target = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "versions" / "0099_bad.py").write_text(
        "from alembic import op\n"
        f"revision, down_revision, branch_labels, depends_on = '0099', '{head_revision()}', None, None\n"
        "def upgrade():\n    op.execute('CREATE TABLE half (id int)')\n    op.execute('SELECT 1/0')\n"
    )
    monkeypatch.setattr(home_module, "MIGRATIONS", target)
    with pytest.raises(UpgradeFailed, match="division by zero"):
        prepare_schema(database, tmp_path / "backups")
    assert schema_revision(database) == "0001"
    monkeypatch.undo()
    prepare_schema(database, tmp_path / "backups")
    assert schema_revision(database) == head_revision()
    copies = [path.name for path in (tmp_path / "backups").iterdir()]
    assert copies and all(name.startswith("schema-0001-") and name.endswith(".pgdump") for name in copies)
    database.close()


def test_without_pg_dump_nothing_is_upgraded(
    postgres: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = at_first_schema(postgres())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UpgradeFailed, match="pg_dump is not installed") as raised:
        prepare_schema(database, tmp_path / "backups")
    assert "--no-backup" in raised.value.hint() and schema_revision(database) == "0001"
    prepare_schema(database)
    assert schema_revision(database) == head_revision()
    database.close()


def test_a_home_on_postgresql(postgres: Callable[[], str], tmp_path: Path) -> None:
    """Start, people, keys, private repos, commits through Xet, lists, chat history, a run, fsck, gc, backup, restore."""
    url = postgres()
    server = start_fust(tmp_path / "home", store__database_url=url)
    try:
        assert not (tmp_path / "home" / "fust.db").exists()
        server.cli("users", "new", "eva")
        out = run_client(
            server,
            tmp_path,
            """
            import os
            from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
            api = HfApi()
            data = os.urandom(700_000)
            api.create_repo("admin/one"); api.create_repo("eva/hidden", private=True)
            card = b"---\\nlicense: mit\\nlanguage: [en, zh]\\ntags: [a, b]\\n---\\nhello"
            adds = [CommitOperationAdd("big.bin", data), CommitOperationAdd("README.md", card)]
            oid = api.create_commit("admin/one", adds, commit_message="first").oid
            api.create_tag("admin/one", tag="v1"); api.create_branch("admin/one", branch="side")
            out["sha"] = api.model_info("admin/one").sha == oid
            out["list"] = sorted(m.id for m in api.list_models())
            out["tagged"] = [m.id for m in api.list_models(filter="a")]
            talk = api.create_discussion("admin/one", "A question", description="不是 100 %")
            said = api.comment_discussion("admin/one", talk.num, "On two cores.")
            api.edit_discussion_comment("admin/one", talk.num, said.id, "On four cores.")
            api.create_bucket("admin/from"); api.move_bucket("admin/from", "admin/to")
            out["moved"] = api.bucket_info("admin/from").id
            out["same"] = open(hf_hub_download("admin/one", "big.bin", revision="v1"), "rb").read() == data
            """,
        )
        assert out == {
            "sha": True,
            "list": ["admin/one", "eva/hidden"],
            "tagged": ["admin/one"],
            "moved": "admin/to",
            "same": True,
        }
        assert server.request("GET", "/api/models/eva/hidden", token=None)[0] in (401, 404)
        for words, count in (("FOUR%20cores", 1), ("two", 0), ("%E4%B8%8D%E6%98%AF%20100%20%25", 1)):
            path = f"/api/models/admin/one/discussions?search={words}"
            assert json.loads(server.request("GET", path)[2])["count"] == count, words
        for _ in range(2):
            assert json.loads(server.request("POST", "/api/users/eva/follow")[2])["numFollowers"] == 1
        asked = {"kind": "pull", "params": {"repo_id": "nobody/nothing", "source": "http://127.0.0.1:9"}}
        run = json.loads(server.request("POST", "/fust/v1/runs", asked)[2])["id"]
        deadline = time.monotonic() + 60
        while json.loads(server.request("GET", f"/fust/v1/runs/{run}")[2])["state"] != "failed":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for path in ("status", "repos?search=one", "users", "tokens", "audit", "deployments", "chats"):
            assert server.request("GET", f"/fust/v1/{path}")[0] == 200, path
        assert json.loads(server.cli("fsck", "--deep", "--json").stdout)["findings"] == []
        server.cli("gc")
        server.cli("backup", str(tmp_path / "dest"))
        server.cli("backup", str(tmp_path / "dest"), "--verify")
    finally:
        server.stop()
    restored_at(tmp_path / "restored", tmp_path / "dest", postgres(), server)


def restored_at(home: Path, dest: Path, url: str, server: RunningFust) -> None:
    """Restores into another home and database, and looks at it."""
    environ = {**server.environ, "FUST_HOME": str(home), "FUST_STORE__DATABASE_URL": url}
    words = [sys.executable, "-m", "fust.cli.main", "restore", str(dest)]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    other = start_fust(home, store__database_url=url)
    try:
        status, _, body = other.request("GET", "/admin/one/resolve/v1/big.bin")
        assert status == 200 and len(body) == 700_000
        assert json.loads(other.cli("fsck", "--deep", "--json").stdout)["findings"] == []
    finally:
        other.stop()
    again = subprocess.run(
        words, env={**environ, "FUST_HOME": str(home) + "2"}, capture_output=True, text=True, check=False
    )
    assert again.returncode == 1 and "not empty" in again.stderr
