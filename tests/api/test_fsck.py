"""`fust fsck` finds planted damage of every kind, names the mend, mends what can be mended, and sees nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from fust.accounts.rights import SYSTEM
from fust.accounts.service import Accounts
from fust.app.fsck import SchemaDiffers, check_home, repair_home
from fust.app.home import AlreadyRunning, open_home, prepare_schema
from fust.core.clock import utc_naive
from fust.core.settings import Settings, load_settings
from fust.hub.bucket_batch import PutFile
from fust.hub.models import Bucket, LargeFile, Repo, RepoFile, XetFile, Xorb
from fust.hub.service import Hub
from fust.store.database import Database
from tests.conftest import REPOSITORY, RunningFust
from tests.support.archives import unpack

OLDEST = REPOSITORY / "tests" / "fixtures" / "home-v0.1.0.tar.gz"
BLOB = bytes(range(256)) * 300


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with xorbs (from the kept one), a whole blob, a branch and two commits."""
    folder = tmp_path_factory.mktemp("whole")
    unpack(OLDEST, folder)
    home = folder / "home"
    settings = load_settings(home, environ={})
    database = Database(settings.database_url)
    prepare_schema(database)
    hub = Hub(database, Accounts(database, settings), settings)
    hub.recover()
    (folder / "blob.bin").write_bytes(BLOB)
    for name in ("one", "two"):
        (folder / "text").write_text(name)
        files = {"blob.bin": folder / "blob.bin", f"{name}.txt": folder / "text"}
        hub.import_files(SYSTEM, "admin/blobs", "model", files, message=name)
    bucket = hub.buckets.create(SYSTEM, "admin/bucket", private=True)
    with database.read() as session:
        xet_hash = session.scalars(select(XetFile.xet_hash)).first() or ""
    hub.buckets.write(SYSTEM, bucket, [PutFile("kept.bin", xet_hash, utc_naive(), allowed=True)], [], set())
    database.close()
    return home


@pytest.fixture
def home(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "home", symlinks=True))


def settings_of(home: Path) -> Settings:
    return load_settings(home, environ={})


def kinds(home: Path, *, deep: bool = False) -> set[str]:
    return {finding.kind for finding in check_home(settings_of(home), deep=deep)}


def change(home: Path, *statements: object) -> None:
    database = Database(settings_of(home).database_url)
    with database.write() as session:
        for statement in statements:
            session.execute(statement)  # type: ignore[call-overload]
    database.close()


def old(path: Path) -> Path:
    """Makes a file look two hours old."""
    os.utime(path, (time.time() - 7200,) * 2)
    return path


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return old(path)


def blob(home: Path) -> Path:
    name = hashlib.sha256(BLOB).hexdigest()
    return home / "blobs" / "lfs" / name[:2] / name[2:4] / name


def xorb(home: Path) -> Path:
    return sorted(path for path in (home / "blobs" / "xorbs").rglob("*") if path.is_file())[0]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def repo(home: Path) -> Path:
    return home / "git" / "models" / "admin" / "blobs.git"


def head(home: Path) -> str:
    return (repo(home) / "refs/heads/main").read_text().strip()


def git(home: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", repo(home), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def loose(home: Path, oid: str) -> Path:
    return repo(home) / "objects" / oid[:2] / oid[2:]


def dangling_ref(home: Path) -> None:
    (repo(home) / "refs/heads/side").write_text("12" * 20 + "\n")


def drop_row(home: Path) -> None:
    raw = "PRAGMA foreign_keys=OFF"
    import sqlite3

    connection = sqlite3.connect(home / "fust.db")
    connection.execute(raw)
    connection.execute("DELETE FROM users WHERE name = 'eva'")
    connection.commit()
    connection.close()


def break_database(home: Path) -> None:
    for end in ("-wal", "-shm"):
        (home / f"fust.db{end}").unlink(missing_ok=True)
    path = home / "fust.db"
    data = bytearray(path.read_bytes())
    data[8192:12288] = os.urandom(4096)
    path.write_bytes(data)


Plant = Callable[[Path], object]
# Kind, how it is planted, whether only a deep look sees it, and whether it can be mended here.
DAMAGE: list[tuple[str, Plant, bool, bool]] = [
    ("blob_missing", lambda home: blob(home).unlink(), False, True),
    ("blob_corrupt", lambda home: flip(blob(home)), True, True),
    ("blob_corrupt", lambda home: os.truncate(blob(home), 10), False, True),
    ("xorb_missing", lambda home: xorb(home).unlink(), False, True),
    ("xorb_corrupt", lambda home: flip(xorb(home)), True, True),
    ("recipe_broken", lambda home: change(home, delete(Xorb)), False, True),
    (
        "file_lost",
        lambda home: change(home, update(LargeFile).values(has_blob=False, xet_hash=None)),
        False,
        False,
    ),
    ("file_lost", lambda home: change(home, delete(XetFile)), False, False),
    ("bytes_orphan", lambda home: write(home / "blobs" / "lfs" / "ab" / "cd" / ("abcd" * 16)), False, True),
    ("bytes_orphan", lambda home: write(home / "blobs" / "xorbs" / "ab" / ("abcd" * 16)), False, True),
    ("upload_half", lambda home: write(home / "blobs" / "tmp" / "1700000000-999999999-ab"), False, True),
    ("repo_missing", lambda home: shutil.rmtree(repo(home)), False, False),
    (
        "repo_orphan",
        lambda home: old(Path(shutil.copytree(repo(home), repo(home).with_name("x.git")))),
        False,
        True,
    ),
    ("repo_behind", lambda home: change(home, update(Repo).values(head_oid="12" * 20)), False, True),
    ("repo_behind", lambda home: change(home, update(Repo).values(pending=True)), False, True),
    ("ref_dangling", dangling_ref, False, False),
    ("git_damaged", lambda home: loose(home, git(home, "rev-parse", "main^{tree}")).unlink(), False, False),
    ("git_damaged", lambda home: loose(home, git(home, "rev-parse", "main:two.txt")).unlink(), False, False),
    ("git_damaged", lambda home: loose(home, git(home, "rev-parse", "main~1")).unlink(), True, False),
    ("git_damaged", lambda home: flip(loose(home, git(home, "rev-parse", "main~1^{tree}"))), True, False),
    ("pointer_dangling", lambda home: change(home, delete(LargeFile)), False, False),
    ("bucket_sums", lambda home: change(home, update(Bucket).values(files=9)), False, True),
    ("bucket_sums", lambda home: change(home, update(Bucket).values(size_bytes=1)), False, True),
    ("pointer_closed", lambda home: change(home, delete(RepoFile)), False, True),
    ("leftover", lambda home: write(repo(home) / "refs/heads/main.lock"), False, True),
    ("leftover", lambda home: write(repo(home) / "objects/12/tmp_obj_x"), False, True),
    ("leftover", lambda home: write(home / ".token.abc.tmp"), False, True),
    ("leftover", lambda home: write(home / "cache/files/.ab-12.tmp"), False, True),
    ("cache_corrupt", lambda home: write(home / "cache" / "files" / ("ab" * 32)), True, True),
    ("run_orphan", lambda home: (write(home / "runs/r1/log"), old(home / "runs/r1")), False, True),
    ("row_dangling", drop_row, False, True),
    ("database_damaged", break_database, False, False),
]


def test_a_whole_home_has_no_findings(home: Path) -> None:
    assert kinds(home) == set() and kinds(home, deep=True) == set()


@pytest.mark.parametrize(("kind", "plant", "deep", "mendable"), DAMAGE)
def test_planted_damage_is_found(home: Path, kind: str, plant: Plant, deep: bool, mendable: bool) -> None:
    plant(home)
    assert kind in kinds(home, deep=deep)
    if deep:
        assert kind not in kinds(home)
    mended = (
        {finding.kind: mended for finding, mended in repair_home(settings_of(home), deep=deep)}
        if kind != "database_damaged"
        else {}
    )
    assert mended.get(kind, False) is mendable
    if mendable:
        again = kinds(home, deep=deep)
        assert kind not in again, again
        assert again <= {"file_lost", "pointer_dangling"}, again


def test_what_is_lost_can_be_uploaded_again(home: Path, tmp_path: Path) -> None:
    flip(blob(home))
    assert {finding.kind for finding, _ in repair_home(settings_of(home), deep=True)} == {
        "blob_corrupt",
        "file_lost",
    }
    assert next(path.name for path in (home / "damaged").iterdir()).endswith(blob(home).name)
    assert kinds(home) == {"pointer_dangling"}
    settings = settings_of(home)
    database = Database(settings.database_url)
    hub = Hub(database, Accounts(database, settings), settings)
    (tmp_path / "blob").write_bytes(BLOB)
    found = hub.get_repo(SYSTEM, "admin/blobs")
    hub.put_file_from_path(found, tmp_path / "blob")
    assert hub.read_file(found, "blob.bin") == BLOB
    database.close()
    assert kinds(home, deep=True) == set()


def test_fresh_things_may_be_on_their_way(home: Path) -> None:
    (home / "blobs/lfs/ab/cd").mkdir(parents=True)
    (home / "blobs/lfs/ab/cd" / ("abcd" * 16)).write_bytes(b"x")
    shutil.copytree(repo(home), repo(home).with_name("x.git"))
    os.utime(repo(home).with_name("x.git"))
    (home / "runs" / "r2").mkdir()
    assert kinds(home) == set()


def test_an_old_home_and_none_are_refused(tmp_path: Path) -> None:
    unpack(OLDEST, tmp_path)
    with pytest.raises(SchemaDiffers):
        list(check_home(settings_of(tmp_path / "home")))
    command = [sys.executable, "-m", "fust.cli.main", "fsck", "--home", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "no Fust home" in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_home_in_use_is_not_mended(home: Path) -> None:
    lock = open_home(home)
    with pytest.raises(AlreadyRunning):
        list(repair_home(settings_of(home)))
    lock.release()


def test_a_busy_server_gives_no_false_alarm(server: RunningFust, tmp_path: Path) -> None:
    """The command itself, while a client pushes, makes and deletes repos."""
    script = """
import itertools, os, sys
from huggingface_hub import HfApi
api = HfApi()
for i in itertools.count():
    api.create_repo(f"admin/r{i}")
    api.upload_file(path_or_fileobj=os.urandom(300_000), path_in_repo="a.bin", repo_id=f"admin/r{i}")
    if i % 2: api.delete_repo(f"admin/r{i - 1}")
    print(i, flush=True)
"""
    environ = {
        "HF_ENDPOINT": server.url,
        "HF_TOKEN": server.token,
        "HF_HOME": str(tmp_path),
        "PATH": "/usr/bin",
    }
    environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    writer = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert writer.stdout is not None
    try:
        writer.stdout.readline()
        for deep in ([], ["--deep"], []):
            done = server.cli("fsck", *deep, "--json", check=False)
            assert done.returncode == 0, done.stdout
            assert json.loads(done.stdout) == {"findings": [], "left": 0}
        assert writer.poll() is None
        done = server.cli("fsck", "--repair", check=False)
        assert done.returncode == 1 and "already running" in done.stderr
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()


def test_every_kind_is_planted_here() -> None:
    import re

    source = REPOSITORY / "src/fust"
    named = set()
    for path in (source / "hub/check.py", source / "app/fsck.py"):
        named |= set(re.findall(r'Finding\(\s*"(\w+)"', path.read_text()))
    assert named | {"blob_missing", "blob_corrupt", "xorb_missing", "xorb_corrupt"} == {
        kind for kind, *_ in DAMAGE
    }
