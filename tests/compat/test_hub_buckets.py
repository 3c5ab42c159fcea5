"""Buckets, by huggingface_hub and `hf buckets` unmodified: made, written, listed, read, copied, moved, removed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.compat.test_hub_clients import client_environ, run_client
from tests.compat.test_hub_contract import START
from tests.conftest import RunningFust

START_BUCKETS = (
    START
    + """
from huggingface_hub.errors import BucketNotFoundError, BucketBatchError
def lists(bucket, prefix=None, recursive=True):
    return [(e.type[0], e.path) for e in api.list_bucket_tree(bucket, prefix, recursive=recursive)]
"""
)


def test_a_bucket_is_written_listed_and_read(server: RunningFust, tmp_path: Path) -> None:
    run_client(
        server,
        tmp_path,
        START_BUCKETS
        + """
url = api.create_bucket("first", private=True)
assert url.bucket_id == "admin/first", url
fails(409, lambda: api.create_bucket("admin/first"))
assert api.create_bucket("admin/FIRST", exist_ok=True).bucket_id == "admin/first"
big = os.urandom(3_000_000)
pathlib.Path("big.bin").write_bytes(big)
api.batch_bucket_files("admin/first", add=[
    ("big.bin", "models/big.bin"), (b"hello", "notes.txt"), (b"", "empty"),
    (b"deep", "models/deep/er/x"), (b"other", "models_backup/y"),
])
info = api.bucket_info("admin/first")
assert (info.private, info.total_files, info.size) == (True, 5, 3_000_014), info
assert [b.id for b in api.list_buckets()] == [b.id for b in api.list_buckets("admin", search="FIR")] == ["admin/first"]
assert list(api.list_buckets(search="nothing")) == []
everything = [("f", p) for p in ("empty", "models/big.bin", "models/deep/er/x", "models_backup/y", "notes.txt")]
assert lists("admin/first") == everything
assert lists("admin/first", recursive=False) == [("f", "empty"), ("d", "models"), ("d", "models_backup"), ("f", "notes.txt")]
assert lists("admin/first", "models", recursive=False) == [("f", "models/big.bin"), ("d", "models/deep"), ("d", "models_backup")]
assert lists("admin/first", "models/") == everything[1:3]
assert lists("admin/first", "notes.txt") == [("f", "notes.txt")] and lists("admin/first", "nothing") == []
[found] = api.get_bucket_paths_info("admin/first", ["models/big.bin", "none"])
assert found.size == len(big) and found.mtime and abs(found.mtime.timestamp() - os.path.getmtime("big.bin")) < 0.002
assert api.get_bucket_file_metadata("admin/first", "models/big.bin").size == len(big)
api.download_bucket_files("admin/first", [("models/big.bin", "got/big"), ("empty", "got/empty"), ("notes.txt", "got/n")])
assert pathlib.Path("got/big").read_bytes() == big and pathlib.Path("got/n").read_bytes() == b"hello"
assert pathlib.Path("got/empty").read_bytes() == b""
# put again, then deleted; what is not there is named
api.batch_bucket_files("admin/first", add=[(b"hello again", "notes.txt")], delete=["empty"])
assert api.bucket_info("admin/first").size == 3_000_020 and api.bucket_info("admin/first").total_files == 4
try:
    api.batch_bucket_files("admin/first", add=[(b"x", "../up"), (b"fine", "fine")], delete=["gone"])
    raise SystemExit("not refused")
except BucketBatchError as error:
    assert {f["path"] for f in error.failures} == {"../up", "gone"}, error.failures
assert ("f", "fine") in lists("admin/first")
from huggingface_hub import HfFileSystem
fs = HfFileSystem()
assert fs.cat_file("buckets/admin/first/notes.txt") == b"hello again"
assert fs.cat_file("buckets/admin/first/models/big.bin", start=1000, end=2000) == big[1000:2000]
with fs.open("buckets/admin/first/by fs/ä.txt", "wb") as file:
    file.write(b"written through fsspec")
assert fs.ls("buckets/admin/first/by fs", detail=False) == ["buckets/admin/first/by fs/ä.txt"]
fs.rm("buckets/admin/first/by fs/ä.txt")
assert not fs.exists("buckets/admin/first/by fs/ä.txt")
""",
    )
    # Plain HTTP: whole and in ranges, and the ETag is the bytes' own.
    status, headers, body = server.request("GET", "/buckets/admin/first/resolve/notes.txt")
    assert (status, body) == (200, b"hello again")
    assert headers["etag"] == f'"{hashlib.sha256(body).hexdigest()}"'
    status, headers, body = server.request(
        "GET", "/buckets/admin/first/resolve/notes.txt", headers={"range": "bytes=6-"}
    )
    assert (status, body, headers["content-range"]) == (206, b"again", "bytes 6-10/11")
    assert server.request("GET", "/buckets/admin/first/resolve/notes.txt", token=None)[0] == 401
    assert server.request("GET", "/api/buckets/admin/first/events")[0] == 501


def test_copies_moves_settings_and_removal(server: RunningFust, tmp_path: Path) -> None:
    run_client(
        server,
        tmp_path,
        START_BUCKETS
        + """
api.create_repo("admin/source")
weights = os.urandom(400_000)
api.create_commit("admin/source", [add("w.bin", weights), add("small.json", b"{}")], commit_message="x")
api.create_bucket("admin/from"); api.create_bucket("team/to")
api.batch_bucket_files("admin/from", add=[(b"one", "d/1"), (b"two", "d/2")])
api.copy_files("hf://buckets/admin/from/d/", "hf://buckets/team/to/copy/")
api.copy_files("hf://admin/source", "hf://buckets/team/to/model/")
assert lists("team/to") == [("f", p) for p in ("copy/1", "copy/2", "model/small.json", "model/w.bin")], lists("team/to")
api.download_bucket_files("team/to", [("model/w.bin", "w"), ("copy/2", "2")])
assert pathlib.Path("w").read_bytes() == weights and pathlib.Path("2").read_bytes() == b"two"
api.move_bucket("team/to", "team/renamed")
fails(409, lambda: api.move_bucket("team/renamed", "admin/from"))
assert api.bucket_info("team/renamed").total_files == 4
nobody = HfApi(token=False)
assert nobody.bucket_info("team/renamed").private is False
# The old name: everything that asks for it is sent on.
assert api.bucket_info("team/to").id == nobody.bucket_info("team/to").id == "team/renamed"
api.batch_bucket_files("team/to", add=[(b"late", "late.txt")])
assert ("f", "late.txt") in lists("team/to")
api.download_bucket_files("team/to", [("late.txt", "late"), ("model/w.bin", "w2")])
assert pathlib.Path("late").read_bytes() == b"late" and pathlib.Path("w2").read_bytes() == weights
api.update_bucket_settings("team/renamed", private=True)
for name in ("team/renamed", "team/to"):
    fails(401, lambda: nobody.bucket_info(name))
api.move_bucket("team/renamed", "admin/third")
assert api.bucket_info("team/to").id == api.bucket_info("team/renamed").id == "admin/third"
api.create_bucket("team/to")  # the name is free: what is made under it answers from now on
assert api.bucket_info("team/to").total_files == 0
api.move_bucket("admin/third", "team/renamed")
assert api.bucket_info("admin/third").id == "team/renamed"
assert [b.id for b in nobody.list_buckets("team")] == ["team/to"]
fails(401, lambda: nobody.batch_bucket_files("admin/from", delete=["d/1"]))
api.delete_bucket("team/renamed")
try:
    api.bucket_info("admin/third"); raise SystemExit("still there")
except BucketNotFoundError:
    pass
api.delete_bucket("team/renamed", missing_ok=True)
try:
    api.delete_bucket("team/renamed"); raise SystemExit("deleted twice")
except BucketNotFoundError:
    pass
""",
    )
    actions = [
        entry["action"]
        for entry in json.loads(server.cli("--json", "audit").stdout)["items"]
        if entry["action"].startswith("bucket.")
    ]
    assert {"bucket.create", "bucket.write", "bucket.move", "bucket.settings", "bucket.delete"} <= {*actions}


def test_the_command_line_syncs_a_folder(server: RunningFust, tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    (here / "a.txt").write_text("a")
    (here / "sub" / "b.bin").write_bytes(b"b" * 100_000)
    environ = client_environ(server, tmp_path)

    def hf(*arguments: str) -> str:
        program = [str(Path(sys.executable).with_name("hf")), *arguments]
        done = subprocess.run(program, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    hf("buckets", "create", "synced", "--private")
    hf("buckets", "sync", "here", "hf://buckets/admin/synced")
    assert "b.bin" in hf("buckets", "list", "admin/synced", "--recursive")
    assert "sub" in hf("buckets", "list", "admin/synced")
    (here / "a.txt").unlink()
    (here / "c.txt").write_text("c")
    hf("buckets", "sync", "here", "hf://buckets/admin/synced", "--delete")
    hf("buckets", "sync", "hf://buckets/admin/synced", "there")
    assert {p.relative_to(tmp_path / "there").as_posix() for p in (tmp_path / "there").rglob("*")} == {
        "c.txt",
        "sub",
        "sub/b.bin",
    }
    hf("buckets", "cp", "hf://buckets/admin/synced/c.txt", "hf://buckets/admin/synced/d.txt")
    hf("buckets", "cp", "hf://buckets/admin/synced/d.txt", "one.txt")
    assert (tmp_path / "one.txt").read_text() == "c"
    hf("buckets", "rm", "admin/synced/d.txt", "--yes")
    assert json.loads(hf("buckets", "info", "admin/synced", "--format", "json"))["total_files"] == 2
    hf("buckets", "delete", "admin/synced", "--yes")


def test_what_lies_in_a_bucket_alone_is_kept(
    fust_factory: Callable[..., RunningFust], tmp_path: Path
) -> None:
    """Cleaning, checking, a backup and the end of a name know buckets."""
    server = fust_factory("home", hub__keep_unreferenced_s=0, hub__max_bucket_bytes=1_000_000)
    run_client(
        server,
        tmp_path,
        START_BUCKETS
        + """
kept, gone = os.urandom(300_000), os.urandom(200_000)
pathlib.Path("bytes").write_bytes(kept)
api.create_bucket("team/only", private=True)
api.batch_bucket_files("team/only", add=[(kept, "kept.bin"), (gone, "gone.bin")])
api.batch_bucket_files("team/only", delete=["gone.bin"])
try:
    api.batch_bucket_files("team/only", add=[(os.urandom(800_000), "too-much")]); raise SystemExit("over the limit")
except BucketBatchError as error:
    assert "1 MB" in str(error), error
""",
    )
    done = json.loads(server.cli("--json", "gc").stdout)
    assert done["files"] == 2, "what was deleted and what was refused go"
    assert json.loads(server.cli("--json", "fsck", "--deep").stdout)["findings"] == []
    kept = (tmp_path / "bytes").read_bytes()
    assert server.request("GET", "/buckets/team/only/resolve/kept.bin")[2] == kept
    status, _, body = server.request("DELETE", "/fust/v1/organisations/team")
    assert status == 409, body
    server.cli("backup", str(tmp_path / "backup"))
    home = tmp_path / "restored"
    environ = {**server.environ, "FUST_HOME": str(home)}
    command = [sys.executable, "-m", "fust.cli.main", "restore", str(tmp_path / "backup")]
    subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=120)
    again = fust_factory("restored")
    assert again.home == home
    assert again.request("GET", "/buckets/team/only/resolve/kept.bin")[2] == kept
    assert again.request("DELETE", "/api/buckets/team/only")[0] == 200
    assert again.request("DELETE", "/fust/v1/organisations/team")[0] == 204
