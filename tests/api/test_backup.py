"""Backups of a home in use: consistent, incremental, checked; restored homes hold every acknowledged commit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fust.app.backup import SNAPSHOTS_KEPT, without_secrets
from tests.compat.test_hub_clients import run_client
from tests.conftest import RunningFust, start_fust

SETTINGS = '[server]\nblocking_threads = 9\n\n[pull]\ntoken = "hf_verysecret"\n\n[store]\nblobs_url = ""\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFust]:
    """A server with repos, a private one, tags, xorbs, a whole blob, a person with a key, and a finished run."""
    folder = tmp_path_factory.mktemp("fust")
    (folder / "home").mkdir(mode=0o700)
    (folder / "home" / "fust.toml").write_text(SETTINGS)
    running = start_fust(folder / "home")
    fill(running, folder)
    yield running
    running.stop()


def fill(running: RunningFust, folder: Path) -> None:
    run_client(
        running,
        folder,
        """
        import os
        from huggingface_hub import CommitOperationAdd, HfApi
        api = HfApi()
        api.create_repo("admin/one"); api.create_repo("admin/rows", repo_type="dataset", private=True)
        adds = [CommitOperationAdd("big.bin", os.urandom(700_000)), CommitOperationAdd("a.txt", b"a")]
        api.create_commit("admin/one", adds, commit_message="first")
        api.create_tag("admin/one", tag="v1", tag_message="the first")
        api.create_branch("admin/one", branch="side")
        api.upload_file(path_or_fileobj=b"x,y", path_in_repo="rows.csv", repo_id="admin/rows", repo_type="dataset")
        """,
    )
    data = b"whole blob " * 20_000
    oid = hashlib.sha256(data).hexdigest()
    batch = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
    _, _, body = running.request("POST", "/admin/one.git/info/lfs/objects/batch", batch)
    href = json.loads(body)["objects"][0]["actions"]["upload"]["href"].removeprefix(running.url)
    assert running.request("PUT", href, data, token=None)[0] == 200
    lines = [
        {"key": "header", "value": {"summary": "blob"}},
        {"key": "lfsFile", "value": {"path": "blob.bin", "algo": "sha256", "oid": oid, "size": len(data)}},
    ]
    commit = "\n".join(json.dumps(line) for line in lines).encode()
    assert running.request("POST", "/api/models/admin/one/commit/main", commit)[0] == 200


def fust(running: RunningFust, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environ = {**running.environ, **more}
    command = [sys.executable, "-m", "fust.cli.main", *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)


def backup(running: RunningFust, dest: Path) -> dict:
    done = fust(running, "backup", str(dest), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def restore(running: RunningFust, source: Path, home: Path, *words: str) -> dict:
    done = fust(running, "restore", str(source), "--home", str(home), "--json", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def fsck(home: Path, running: RunningFust) -> list[object]:
    done = fust(running, "fsck", "--deep", "--json", "--home", str(home))
    return json.loads(done.stdout)["findings"]


def answers(running: RunningFust) -> dict[str, object]:
    """What clients see: heads, refs, trees and bytes."""
    found: dict[str, object] = {}
    for path in (
        "/api/models/admin/one/refs",
        "/api/models/admin/one/tree/main?recursive=true",
        "/api/models/admin/one/commits/main",
        "/admin/one/resolve/main/big.bin",
        "/admin/one/resolve/main/blob.bin",
        "/admin/one/resolve/v1/a.txt",
        "/datasets/admin/rows/resolve/main/rows.csv",
    ):
        status, _, body = running.request("GET", path)
        assert status == 200, path
        found[path] = body
    assert running.request("GET", "/datasets/admin/rows/resolve/main/rows.csv", token=None)[0] in (401, 404)
    return found


def test_a_home_comes_back_whole(server: RunningFust, tmp_path: Path) -> None:
    dest, home = tmp_path / "dest", tmp_path / "restored"
    _, _, made = server.request("POST", "/fust/v1/tokens", {"name": "kept", "scope": "read"})
    first = backup(server, dest)
    assert first["copied_bytes"] > 700_000 and not first["manifest"]["damaged"]
    assert fust(server, "backup", str(dest), "--verify").returncode == 0
    everything = b"".join(path.read_bytes() for path in dest.rglob("*") if path.is_file())
    for secret in (server.token.encode(), (server.home / "signing-key").read_bytes(), b"hf_verysecret"):
        assert secret not in everything
    done = restore(server, dest, home)
    assert done["repos"] == 2 and not done["missing"]
    assert fsck(home, server)[0]["kind"] == "repo_behind"  # read again at the start
    other = start_fust(home)  # while the first one runs
    try:
        old_key = json.loads(made)["token"]
        assert other.request("GET", "/api/whoami-v2", token=old_key)[0] == 200
        assert answers(other) == answers(server)
        assert "blocking_threads" in other.cli("config", "show").stdout.replace("9  ", "9 ")
        assert fsck(home, other) == []
    finally:
        other.stop()


def test_the_second_backup_copies_only_what_is_new(server: RunningFust, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    backup(server, dest)
    again = backup(server, dest)
    assert again["copied_files"] == 0
    body = "\n".join(
        json.dumps(line)
        for line in (
            {"key": "header", "value": {"summary": "more"}},
            {"key": "file", "value": {"path": "more.txt", "content": "m"}},
        )
    ).encode()
    assert server.request("POST", "/api/models/admin/one/commit/main", body)[0] == 200
    third = backup(server, dest)
    assert 0 < third["copied_files"] < 6 and third["copied_bytes"] < 5000
    listed = json.loads(fust(server, "restore", str(dest), "--list", "--json").stdout)
    assert [entry["name"] for entry in listed][1:] == [again["snapshot"], third["snapshot"]]
    restore(server, dest, tmp_path / "old", "--at", again["snapshot"])
    git = tmp_path / "old/git/models/admin/one.git"
    shown = subprocess.run(
        ["git", "-C", git, "ls-tree", "main"], capture_output=True, text=True, check=True
    ).stdout
    assert "more.txt" not in shown and "big.bin" in shown


def test_snapshots_are_bounded_and_their_files_go(server: RunningFust, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    server.request("POST", "/api/repos/create", {"name": "admin/short"})
    run_client(
        server,
        tmp_path,
        "import os; from huggingface_hub import HfApi; HfApi().upload_file("
        "path_or_fileobj=os.urandom(300_000), path_in_repo='s.bin', repo_id='admin/short')",
    )
    first = backup(server, dest)
    server.cli("rm", "admin/short", "--yes")
    environ = {**server.environ, "FUST_HUB__KEEP_UNREFERENCED_S": "0"}
    subprocess.run(
        [sys.executable, "-m", "fust.cli.main", "gc"], env=environ, check=True, capture_output=True
    )
    size = sum(path.stat().st_size for path in (dest / "blobs").rglob("*") if path.is_file())
    from fust.app.backup import back_up
    from fust.core.settings import load_settings

    for _ in range(SNAPSHOTS_KEPT):
        back_up(load_settings(server.home, environ={}), dest)
    names = sorted(path.name for path in (dest / "snapshots").iterdir())
    assert len(names) == SNAPSHOTS_KEPT and first["snapshot"] not in names
    after = sum(path.stat().st_size for path in (dest / "blobs").rglob("*") if path.is_file())
    assert size - after >= 300_000
    assert fust(server, "backup", str(dest), "--verify").returncode == 0


def test_strangers_are_not_written_to(server: RunningFust, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "thesis.tex").write_text("years of work")
    for words in (("backup", stranger), ("restore", stranger, "--home", tmp_path / "x")):
        done = fust(server, *map(str, words))
        assert done.returncode == 1 and "not a folder of Fust backups" in done.stderr, done.stderr
    assert [path.name for path in stranger.iterdir()] == ["thesis.tex"] and not (tmp_path / "x").exists()
    dest = tmp_path / "dest"
    backup(server, dest)
    done = fust(server, "restore", str(dest), "--home", str(stranger))
    assert done.returncode == 1 and "not empty" in done.stderr
    assert fust(server, "restore", str(dest), "--home", str(server.home)).returncode == 1
    other = tmp_path / "other"
    (other / "sub").mkdir(parents=True)
    marker = json.loads((dest / "fust-backup.json").read_text())
    (dest / "fust-backup.json").write_text(json.dumps({**marker, "home_id": "12" * 16}))
    assert "another home" in fust(server, "backup", str(dest)).stderr
    assert "inside the home" in fust(server, "backup", str(server.home / "b")).stderr


def test_damage_is_named(server: RunningFust, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    backup(server, dest)
    blob = next(path for path in (dest / "blobs" / "xorbs").rglob("*") if path.is_file())
    data = bytearray(blob.read_bytes())
    data[100] ^= 1
    blob.write_bytes(data)
    refs = json.loads(next((dest / "snapshots").rglob("refs.json")).read_text())
    repo = next(repo for repo in refs if repo["name"] == "model:admin/one")
    oid = repo["refs"]["refs/heads/side"]
    git = dest / "git" / repo["id"] / "objects" / oid[:2] / oid[2:]
    git.chmod(0o644)
    git.write_bytes(b"junk")
    done = fust(server, "backup", str(dest), "--verify")
    assert done.returncode == 1 and blob.name in done.stdout and "git/" in done.stdout
    done = fust(server, "restore", str(dest), "--home", str(tmp_path / "h"))
    assert done.returncode == 1 and blob.name in done.stdout, done.stderr
    assert f"refs/heads/side {oid}" in done.stdout


@pytest.mark.parametrize(
    "document",
    [
        '[pull]\ntoken = "SECRET"\nsource = "https://hub"\n',
        '[pull]\n"token" = "SECRET"\n',
        'pull = {token = "SECRET"}\n',
        'pull.token = "SECRET"\n',
        '[store]\ndatabase_url = """\npostgresql://u:SECRET@h/d"""\n',
        "[store]\ndatabase_url = 'postgresql://u:SECRET@h/d'\n[server]\nport = 1\n",
    ],
)
def test_settings_go_without_their_secrets(document: str) -> None:
    assert "SECRET" not in without_secrets(document)


PUSH = """
import json, os, sys
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi()
name = f"admin/{sys.argv[1]}"
api.create_repo(name)
log = open(sys.argv[2], "a")
i = 0
while True:
    i += 1
    data = os.urandom(120_000)
    adds = [CommitOperationAdd(f"{i}.bin", data), CommitOperationAdd(f"{i}.txt", str(i).encode())]
    oid = api.create_commit(name, adds, commit_message=str(i)).oid
    log.write(json.dumps([name, i, oid]) + "\\n"); log.flush()
    if i % 3 == 0:
        api.create_repo(f"{name}-{i}"); api.delete_repo(f"{name}-{i}")
"""


def start_pushers(
    running: RunningFust, folder: Path, names: tuple[str, ...]
) -> list[subprocess.Popen[bytes]]:
    pushers = []
    for name in names:
        environ = {"HF_ENDPOINT": running.url, "HF_TOKEN": running.token, "PATH": "/usr/bin"}
        environ |= {"HF_HOME": str(folder / name), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-W", "ignore", "-c", PUSH, name, str(folder / "pushed")]
        pushers.append(subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL))
    return pushers


def pushed(folder: Path) -> list[list]:
    path = folder / "pushed"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.faults
def test_every_commit_acknowledged_before_is_in_it(server: RunningFust, tmp_path: Path) -> None:
    pushers = start_pushers(server, tmp_path, ("p1", "p2"))
    try:
        for turn in range(3):
            deadline = time.monotonic() + 60
            while len(pushed(tmp_path)) < 3 + 3 * turn and time.monotonic() < deadline:
                time.sleep(0.05)
            before = pushed(tmp_path)
            backup(server, tmp_path / "dest")
            home = tmp_path / f"restored-{turn}"
            restore(server, tmp_path / "dest", home)
            findings = fsck(home, server)
            assert {finding["kind"] for finding in findings} <= {"repo_behind"}, findings
            for name, _, oid in before:
                git = home / "git/models" / f"{name}.git"
                done = subprocess.run(
                    ["git", "-C", git, "merge-base", "--is-ancestor", oid, "main"], check=False
                )
                assert done.returncode == 0, (name, oid)
        assert all(pusher.poll() is None for pusher in pushers)
    finally:
        for pusher in pushers:
            pusher.kill()
            pusher.wait()
    other = start_fust(home)
    try:
        assert fsck(home, other) == []
    finally:
        other.stop()


@pytest.mark.faults
def test_killed_backups_and_restores_are_taken_up(server: RunningFust, tmp_path: Path) -> None:
    dest, home = tmp_path / "dest", tmp_path / "home"
    (tmp_path / "more").mkdir()
    for i in range(12):
        (tmp_path / "more" / f"{i}.bin").write_bytes(os.urandom(3_000_000))
    server.cli("push", str(tmp_path / "more"), "admin/more")
    for words in (("backup", str(dest)), ("restore", str(dest), "--home", str(home))):
        command = [sys.executable, "-m", "fust.cli.main", *words]
        for delay_s in (0.5, 0.7, 0.9, 1.1):
            child = subprocess.Popen(
                command, env=server.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            time.sleep(delay_s)
            child.send_signal(signal.SIGKILL)
            child.communicate()
            if words[0] == "restore" and (home / "restoring").exists():
                done = fust(server, "up", FUST_HOME=str(home))
                assert done.returncode == 1 and "not finished" in done.stderr
        done = fust(server, *words)
        if done.returncode and "not empty" in done.stderr:  # the last one was done before it was killed
            continue
        assert done.returncode == 0, done.stdout + done.stderr
    assert not list((dest / "snapshots").glob(".*"))
    assert fust(server, "backup", str(dest), "--verify").returncode == 0
    assert {finding["kind"] for finding in fsck(home, server)} == {"repo_behind"}


@pytest.mark.faults
def test_a_full_disk_leaves_the_backups_that_are_there(server: RunningFust, tmp_path: Path) -> None:
    dest = tmp_path / "small"
    dest.mkdir()
    used = sum(path.stat().st_size for path in server.home.rglob("*") if path.is_file())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={used + 30_000_000}", "tmpfs", str(dest)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        first = backup(server, dest)
        free = shutil.disk_usage(dest).free
        (dest / "filler").write_bytes(bytes(free - 300_000))
        done = fust(server, "backup", str(dest))
        assert (done.returncode == 1 and "full" in done.stderr.lower()) or "room" in done.stderr
        (dest / "filler").unlink()
        assert fust(server, "backup", str(dest), "--verify").returncode == 0
        assert [path.name for path in (dest / "snapshots").glob("2*")] == [first["snapshot"]]
        backup(server, dest)
    finally:
        subprocess.run(["umount", "-l", str(dest)], check=False)
