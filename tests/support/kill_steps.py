"""Changes of every kind, done one after the other by a program that may be killed at any moment, and how each looks.

Each step notes itself as acknowledged when it returned; begun again, the program goes on with the first that is not.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support import xet_bytes

from fust.accounts.rights import SYSTEM
from fust.accounts.service import Accounts
from fust.app.home import prepare_schema
from fust.core.clock import utc_naive
from fust.core.settings import load_settings
from fust.hub.bucket_batch import PutFile
from fust.hub.content import upload_scopes
from fust.hub.models import LargeFile
from fust.hub.service import Hub
from fust.hub.sweep import sweep
from fust.hub.types import AddFile, AddLargeFile, DeleteFile, RepoInfo
from fust.store.database import Database

_DICE = random.Random(11)
CHUNKS = [_DICE.randbytes(30_000) for _ in range(3)]
LARGE = b"".join(CHUNKS)
LARGE_SHA = hashlib.sha256(LARGE).hexdigest()
WHOLE = _DICE.randbytes(200_000)
WHOLE_SHA = hashlib.sha256(WHOLE).hexdigest()
REPO = "admin/kept"


@dataclass(frozen=True)
class Step:
    """A change, and whether a home has it: `before`, `after`, or what is wrong."""

    do: Callable[[Hub, Path], object]
    state: Callable[[Hub], str]


def open_hub(home: Path) -> tuple[Hub, Database]:
    """Opens a home as a server does that starts."""
    settings = load_settings(home, environ={})
    database = Database(settings.database_url)
    hub = Hub(database, Accounts(database, settings), settings)
    hub.recover()
    return hub, database


def seed_home(home: Path, folder: Path) -> Path:
    """Makes a home with a repo, and the body of a push to it; returns where that lies."""
    home.mkdir(mode=0o700)
    settings = load_settings(home, environ={})
    (home / "git").mkdir()
    database = Database(settings.database_url)
    prepare_schema(database)
    accounts = Accounts(database, settings)
    accounts.users.create("admin")
    hub = Hub(database, accounts, settings)
    info = hub.create_repo(SYSTEM, REPO)
    hub.commit(SYSTEM, info, [AddFile("old.txt", b"old"), AddFile("kept.txt", b"kept")], "first")
    clone = folder / "clone"
    environ = {**os.environ, "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*words: str, stdin: bytes = b"") -> bytes:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ["git", *who, *words]
        return subprocess.run(
            command, cwd=clone, env=environ, input=stdin, capture_output=True, check=True
        ).stdout

    source = home / "git" / "models" / f"{REPO}.git"
    subprocess.run(["git", "clone", "-q", str(source), str(clone)], env=environ, check=True)
    (clone / "pushed.txt").write_text("pushed")
    git("add", "-A")
    git("commit", "-qm", "pushed")
    new = git("rev-parse", "HEAD").decode().strip()
    pack = git("pack-objects", "--revs", "--stdout", "-q", stdin=f"{new}\n^origin/main\n".encode())
    line = f"{'0' * 40} {new} refs/heads/pushed\0report-status\n".encode()
    body = folder / "push"
    body.write_bytes(b"%04x%s0000" % (len(line) + 4, line) + pack)
    database.close()
    return body


def _repo(hub: Hub, name: str = REPO) -> RepoInfo:
    return hub.get_repo(SYSTEM, name)


def _paths(hub: Hub) -> set[str]:
    return {entry.path for entry in hub.list_tree(_repo(hub), recursive=True)}


def _all(hub: Hub, there: set[str], gone: set[str] = frozenset()) -> str:  # type: ignore[assignment]
    paths = _paths(hub)
    if there <= paths and not gone & paths:
        return "after"
    return "before" if not there & paths and gone <= paths else f"{sorted(paths)}"


def _ref(hub: Hub, ref: str) -> str:
    return "after" if any(found.ref == ref for found in hub.list_refs(_repo(hub))) else "before"


def _large(hub: Hub, sha256: str) -> LargeFile | None:
    with hub.repos._database.read() as session:
        return session.get(LargeFile, sha256)


def _upload(hub: Hub, _: Path) -> None:
    name, data = xet_bytes.xorb(CHUNKS)
    temporary = hub.blobs.new_temporary()
    temporary.write_bytes(data)
    hub.cas.add_xorb("admin", name, temporary)
    whole = [(name, len(LARGE), 0, len(CHUNKS))]
    hub.cas.add_shard("admin", xet_bytes.shard(xet_bytes.file_hash(CHUNKS), whole, sha256=LARGE_SHA))


def _commit_large(hub: Hub, _: Path) -> None:
    adds = [AddLargeFile("w.bin", LARGE_SHA, len(LARGE)), AddFile("a.txt", b"a"), AddFile("deep/b.txt", b"b")]
    hub.commit(SYSTEM, _repo(hub), adds, "large")


def _put_whole(hub: Hub, _: Path) -> None:
    source = hub.blobs.root.parent / "whole.bin"
    source.write_bytes(WHOLE)
    hub.put_file_from_path(_repo(hub), source)
    source.unlink()


def _bucket(hub: Hub, _: Path) -> None:
    info = hub.buckets.find(SYSTEM, "admin/b") or hub.buckets.create(SYSTEM, "admin/b", private=True)
    puts = [PutFile(f"{n}.bin", xet_bytes.file_hash(CHUNKS), utc_naive()) for n in range(3)]
    failed = hub.buckets.write(SYSTEM, info, puts, [], upload_scopes(SYSTEM, "bucket", info.repo_id))
    assert not failed, failed


def _bucket_state(hub: Hub) -> str:
    info = hub.buckets.find(SYSTEM, "admin/b")
    files = len(hub.buckets.list_tree(info, "", recursive=True)[0]) if info else 0
    return {0: "before", 3: "after"}.get(files, f"{files} files")


def _push(hub: Hub, body: Path) -> None:
    report = hub.push(SYSTEM, _repo(hub), body, "en")
    assert b"ok refs/heads/pushed" in report, report


def _squash(hub: Hub, _: Path) -> None:
    hub.refs.super_squash(SYSTEM, _repo(hub), "pushed", "squashed")


def _squashed(hub: Hub) -> str:
    if _ref(hub, "refs/heads/pushed") == "before":
        return "before"
    return "after" if len(hub.list_commits(_repo(hub), "pushed")) == 1 else "before"


def _is(hub: Hub, name: str) -> bool:
    info = hub.find_repo(SYSTEM, name)
    return info is not None and bool(hub.list_commits(info))


STEPS: dict[str, Step] = {
    "upload": Step(_upload, lambda hub: "after" if _large(hub, LARGE_SHA) else "before"),
    "commit-large": Step(_commit_large, lambda hub: _all(hub, {"w.bin", "a.txt", "deep/b.txt"})),
    "commit": Step(
        lambda hub, _: hub.commit(
            SYSTEM, _repo(hub), [AddFile("new.txt", b"new"), DeleteFile("old.txt")], "new for old"
        ),
        lambda hub: _all(hub, {"new.txt"}, {"old.txt"}),
    ),
    "whole": Step(_put_whole, lambda hub: "after" if _large(hub, WHOLE_SHA) else "before"),
    "commit-whole": Step(
        lambda hub, _: hub.commit(
            SYSTEM, _repo(hub), [AddLargeFile("whole.bin", WHOLE_SHA, len(WHOLE))], "whole"
        ),
        lambda hub: _all(hub, {"whole.bin"}),
    ),
    "chunk": Step(
        lambda hub, _: hub.chunker.convert("admin", WHOLE_SHA),
        lambda hub: "after" if (row := _large(hub, WHOLE_SHA)) and row.xet_hash else "before",
    ),
    "push": Step(_push, lambda hub: _ref(hub, "refs/heads/pushed")),
    "tag": Step(
        lambda hub, _: hub.refs.create_tag(
            SYSTEM, _repo(hub), "v1", hub.resolve_revision(_repo(hub)), "the first"
        ),
        lambda hub: _ref(hub, "refs/tags/v1"),
    ),
    "bucket": Step(_bucket, _bucket_state),
    "squash": Step(_squash, _squashed),
    "create": Step(
        lambda hub, _: hub.create_repo(SYSTEM, "admin/new"),
        lambda hub: "after" if _is(hub, "admin/new") or _is(hub, "admin/moved") else "before",
    ),
    "move": Step(
        lambda hub, _: hub.relocation.move(SYSTEM, "model", "admin/new", "admin/moved"),
        lambda hub: "after" if _is(hub, "admin/moved") and not _is(hub, "admin/new") else "before",
    ),
    "sweep": Step(
        lambda hub, _: sweep(hub.repos._database, hub.blobs, 0),
        lambda hub: "after" if _large(hub, WHOLE_SHA) else "before",
    ),
}


def main() -> None:
    """Does what is not acknowledged yet: HOME PUSH ACKNOWLEDGED."""
    home, body, acknowledged = map(Path, sys.argv[1:4])
    hub, database = open_hub(home)
    done = acknowledged.read_text().split() if acknowledged.exists() else []
    with open(acknowledged, "a") as log:
        for name, step in STEPS.items():
            if name in done:
                continue
            if step.state(hub) != "after" or name == "sweep":  # else it was done, and nobody was told
                step.do(hub, body)
            assert step.state(hub) == "after", name
            log.write(f"{name}\n")
            log.flush()
    database.close()


if __name__ == "__main__":
    main()
