"""git and git-lfs, unmodified: what is pushed passes the same rules as the API, and shows everywhere at once."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.compat.test_hub_clients import run_client
from tests.conftest import RunningFust, start_fust

pytestmark = pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")

Git = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFust]:
    """A server whose larger uploads come in parts."""
    running = start_fust(tmp_path_factory.mktemp("push") / "home", hub__lfs_part_bytes=1_000_000)
    yield running
    running.stop()


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """Runs git with a home of its own; `check=False` gives what failed."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "HF_", "FUST_"))}
    environ |= {"GIT_TERMINAL_PROMPT": "0", "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1", "LANG": "C"}

    def run(*arguments: str, cwd: Path = tmp_path, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *arguments],
            cwd=cwd,
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done

    return run


def make(server: RunningFust, git: Git, folder: Path, name: str, *, private: bool = False) -> Path:
    """Makes a repo and returns a clone of it that has the right to push."""
    status, _, body = server.request("POST", "/api/repos/create", {"name": name, "private": private})
    assert status == 200, body
    url = server.url.replace("http://", f"http://me:{server.token}@")
    git("clone", f"{url}/admin/{name}", name, cwd=folder)
    git("lfs", "install", "--local", cwd=folder / name)
    return folder / name


def commit(git: Git, clone: Path, files: dict[str, bytes], message: str = "change") -> str:
    """Commits files and returns the commit."""
    for path, data in files.items():
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        (clone / path).write_bytes(data)
    git("add", "-A", cwd=clone)
    git("commit", "-m", message, cwd=clone)
    return git("rev-parse", "HEAD", cwd=clone).stdout.strip()


def info(server: RunningFust, name: str, revision: str = "main") -> dict:
    status, _, body = server.request("GET", f"/api/models/admin/{name}/revision/{revision}")
    assert status == 200, body
    return json.loads(body)


def test_a_push_shows_everywhere_at_once(server: RunningFust, git: Git, tmp_path: Path) -> None:
    clone = make(server, git, tmp_path, "pushed", private=True)
    weights = random.Random(3).randbytes(700_000)
    card = b"---\nlicense: mit\nlanguage: zh\n---\n# P\n\nPushed by git.\n"
    oid = commit(
        git, clone, {"w.safetensors": weights, "README.md": card, "a/b c/\xc3\xbc.txt": b"deep"}, "one"
    )
    git("push", cwd=clone)
    found = info(server, "pushed")
    assert found["sha"] == oid and "license:mit" in found["tags"] and "zh" in found["tags"]
    _, _, body = server.request("GET", "/fust/v1/repos?search=pushed")
    listed = json.loads(body)["items"][0]
    assert listed["revision"] == oid and listed["description"] == "Pushed by git."
    assert listed["size_bytes"] > 700_000 and listed["formats"] == ["safetensors"]
    status, headers, body = server.request("GET", "/admin/pushed/resolve/main/w.safetensors")
    assert (
        status == 200
        and body == weights
        and headers["x-linked-etag"].strip('"') == hashlib.sha256(weights).hexdigest()
    )
    run_client(
        server,
        tmp_path,
        f"""
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()
assert api.list_repo_commits("admin/pushed")[0].commit_id == "{oid}"
assert api.list_repo_commits("admin/pushed")[0].title == "one"
api.upload_file(path_or_fileobj=b"from the API", path_in_repo="api.txt", repo_id="admin/pushed")
api.upload_file(path_or_fileobj=b"\\1\\2" * 300_000, path_in_repo="api.bin", repo_id="admin/pushed")
""",
    )
    behind = commit(git, clone, {"late.txt": b"late"})
    refused = git("push", cwd=clone, check=False)
    assert refused.returncode != 0 and "fetch first" in refused.stderr
    git("pull", "--rebase", cwd=clone)
    assert (clone / "api.bin").read_bytes() == b"\1\2" * 300_000, "Xet's bytes come by git-lfs"
    git("push", cwd=clone)
    assert info(server, "pushed")["sha"] != behind
    stranger = server.url + "/admin/pushed"
    assert git("ls-remote", stranger, check=False).returncode != 0
    fsck = git("-C", str(server.home / "git/models/admin/pushed.git"), "fsck", "--full")
    assert "missing" not in fsck.stdout + fsck.stderr


def test_branches_tags_and_protection(server: RunningFust, git: Git, tmp_path: Path) -> None:
    clone = make(server, git, tmp_path, "branches")
    first = commit(git, clone, {"a.txt": b"1"}, "first")
    git("push", cwd=clone)
    git("checkout", "-q", "-b", "dev/one", cwd=clone)
    second = commit(git, clone, {"a.txt": b"2"}, "second")
    git("tag", "light", cwd=clone)
    git("tag", "-a", "v1", "-m", "a release", cwd=clone)
    git("push", "origin", "dev/one", "light", "v1", cwd=clone)
    _, _, body = server.request("GET", "/api/models/admin/branches/refs")
    refs = json.loads(body)
    assert {r["name"]: r["targetCommit"] for r in refs["branches"]} == {"main": first, "dev/one": second}
    assert {r["name"]: r["targetCommit"] for r in refs["tags"]} == {"light": second, "v1": second}
    assert info(server, "branches")["sha"] == first
    git("commit", "--amend", "-m", "rewritten", cwd=clone)
    assert git("push", "origin", "dev/one", cwd=clone, check=False).returncode != 0
    git("push", "--force", "origin", "dev/one", cwd=clone)
    refused = git("push", "--force", "origin", "dev/one^^:main", cwd=clone, check=False)
    assert "protected" in refused.stderr and info(server, "branches")["sha"] == first
    refused = git("push", "origin", ":main", cwd=clone, check=False)
    assert "main cannot be deleted" in refused.stderr
    git("push", "origin", ":dev/one", ":light", cwd=clone)
    refused = git("push", "origin", "HEAD:refs/notes/x", cwd=clone, check=False)
    assert "refs/notes/x cannot be written" in refused.stderr
    # One ref of two is refused: neither moves.
    git("push", "--force", "origin", "HEAD:refs/heads/fine", "dev/one^^:main", cwd=clone, check=False)
    _, _, body = server.request("GET", "/api/models/admin/branches/refs")
    assert [r["name"] for r in json.loads(body)["branches"]] == ["main"]
    _, _, body = server.request("PUT", "/api/models/admin/branches/settings", {"protectedBranches": []})
    git("push", "--force", "origin", "dev/one^^:main", cwd=clone)


def objects_of(server: RunningFust, name: str) -> set[str]:
    """Returns every object that a repo holds, reachable or not."""
    done = subprocess.run(
        [
            "git",
            "-C",
            str(server.home / f"git/models/admin/{name}.git"),
            "cat-file",
            "--batch-all-objects",
            "--batch-check",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return {line.split()[0] for line in done.stdout.splitlines()}


def test_what_the_api_refuses_a_push_refuses_and_nothing_stays(
    server: RunningFust, git: Git, tmp_path: Path
) -> None:
    clone = make(server, git, tmp_path, "refused")
    before = objects_of(server, "refused")

    def refuse(words: str) -> None:
        done = git("push", "--no-verify", cwd=clone, check=False)
        assert done.returncode != 0 and words in done.stderr, done.stderr
        assert objects_of(server, "refused") == before
        assert not list((server.home / "git" / ".incoming").glob("*"))
        git("reset", "-q", "--hard", "origin/main", cwd=clone)

    commit(git, clone, {"big.txt": b"x" * 11_000_000})
    commit(git, clone, {"big.txt": b"small again"})
    refuse('git lfs migrate import --include="big.txt"')
    commit(git, clone, {"w.bin": b"never uploaded" * 1000})  # --no-verify: git-lfs's hook does not run
    refuse("git lfs push --all origin")
    git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub", cwd=clone)
    git("commit", "-m", "submodule", cwd=clone)
    refuse("sub is a submodule")
    blob = git("rev-parse", "HEAD:.gitattributes", cwd=clone).stdout.strip()
    for name in ("a\\b", "tab\there"):
        done = subprocess.run(
            ["git", "mktree", "-z"],
            cwd=clone,
            input=f"100644 blob {blob}\t{name}\0".encode(),
            capture_output=True,
            check=True,
        )
        tree = done.stdout.decode().strip()
        made = git("commit-tree", tree, "-p", "HEAD", "-m", "bad", cwd=clone).stdout.strip()
        git("update-ref", "refs/heads/main", made, cwd=clone)
        refuse("cannot be a path")
    # A few trees that stand for 10^20 files.
    tree = blob
    for depth in range(20):
        kind = "100644 blob" if depth == 0 else "040000 tree"
        lines = "".join(f"{kind} {tree}\tn{i}\n" for i in range(10))
        done = subprocess.run(
            ["git", "mktree"], cwd=clone, input=lines.encode(), capture_output=True, check=True
        )
        tree = done.stdout.decode().strip()
    made = git("commit-tree", tree, "-p", "HEAD", "-m", "bomb", cwd=clone).stdout.strip()
    git("update-ref", "refs/heads/main", made, cwd=clone)
    refuse("A revision may hold")


def test_who_may_push(server: RunningFust, git: Git, tmp_path: Path) -> None:
    clone = make(server, git, tmp_path, "rights")
    commit(git, clone, {"a.txt": b"1"})
    server.request("POST", "/fust/v1/users", {"name": "eve"})
    reading = json.loads(server.cli("--json", "tokens", "new", "reading", "--scope", "read").stdout)["token"]
    for key, words in ((reading, "scope"), ("fust_wrong", "")):
        url = server.url.replace("http://", f"http://me:{key}@") + "/admin/rights"
        done = git("push", url, "main", cwd=clone, check=False)
        assert done.returncode != 0 and words in done.stderr, done.stderr
    assert git("push", server.url + "/admin/rights", "main", cwd=clone, check=False).returncode != 0
    git("push", cwd=clone)


def test_shallow_and_partial_clones_push_too(server: RunningFust, git: Git, tmp_path: Path) -> None:
    clone = make(server, git, tmp_path, "shallow")
    for i in range(5):
        commit(git, clone, {f"f{i}.txt": f"{i}".encode() * 100})
    git("push", cwd=clone)
    url = server.url.replace("http://", f"http://me:{server.token}@") + "/admin/shallow"
    for i, option in enumerate(("--depth=1", "--filter=blob:none", "--filter=tree:0")):
        git("clone", option, url, f"part{i}")
        git("lfs", "install", "--local", cwd=tmp_path / f"part{i}")
        oid = commit(git, tmp_path / f"part{i}", {f"new{i}.txt": b"n", "f0.txt": f"changed {i}".encode()})
        git("push", cwd=tmp_path / f"part{i}")
        assert info(server, "shallow")["sha"] == oid
    git("pull", cwd=clone)
    assert (clone / "new2.txt").exists() and (clone / "f0.txt").read_bytes() == b"changed 2"


def test_lfs_in_parts_and_locks(server: RunningFust, git: Git, tmp_path: Path) -> None:
    clone = make(server, git, tmp_path, "parts")
    for key, value in (("path", str(Path(sys.executable).with_name("hf"))), ("args", "lfs-multipart-upload")):
        git("config", f"lfs.customtransfer.multipart.{key}", value, cwd=clone)
    big, small = random.Random(4).randbytes(3_200_000), random.Random(5).randbytes(1000)
    oid = commit(git, clone, {"big.bin": big, "small.bin": small})
    git("push", cwd=clone)
    assert info(server, "parts")["sha"] == oid
    assert server.request("GET", "/admin/parts/resolve/main/big.bin")[2] == big
    assert not list((server.home / "blobs" / "parts").iterdir())
    git("lfs", "lock", "big.bin", cwd=clone)
    listed = json.loads(git("lfs", "locks", "--json", cwd=clone).stdout)
    assert [(lock["path"], lock["owner"]["name"]) for lock in listed] == [("big.bin", "admin")]
    assert git("lfs", "lock", "big.bin", cwd=clone, check=False).returncode != 0
    commit(git, clone, {"big.bin": big + b"more"})
    git("push", cwd=clone)
    git("lfs", "unlock", "big.bin", cwd=clone)
    assert json.loads(git("lfs", "locks", "--json", cwd=clone).stdout) == []


def test_parts_without_xet_by_the_hub_client(server: RunningFust, tmp_path: Path) -> None:
    run_client(
        server,
        tmp_path,
        """
import os
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()
api.create_repo("admin/no-xet-parts")
data = os.urandom(2_500_000)
api.upload_file(path_or_fileobj=data, path_in_repo="w.bin", repo_id="admin/no-xet-parts")
assert open(hf_hub_download("admin/no-xet-parts", "w.bin"), "rb").read() == data
""",
        HF_HUB_DISABLE_XET="1",
    )


def test_what_git_lfs_pushes_comes_by_xet(server: RunningFust, git: Git, tmp_path: Path) -> None:
    """Both ways equal, and kept once."""
    clone = make(server, git, tmp_path, "both-ways")
    weights = random.Random(6).randbytes(4_000_000)
    commit(git, clone, {"w.bin": weights})
    git("push", cwd=clone)
    sha256 = hashlib.sha256(weights).hexdigest()
    whole = server.home / "blobs/lfs" / sha256[:2] / sha256[2:4] / sha256
    deadline = time.monotonic() + 30
    while whole.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not whole.exists(), "the whole file is one of the cache now"
    (server.home / "cache/files" / sha256).unlink()
    run_client(
        server,
        tmp_path,
        """
import pathlib, random
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()
weights = random.Random(6).randbytes(4_000_000)
assert next(iter(api.get_paths_info("admin/both-ways", "w.bin"))).xet_hash
assert open(hf_hub_download("admin/both-ways", "w.bin"), "rb").read() == weights
api.upload_file(path_or_fileobj=weights[:3_000_000] + b"new" + weights[3_000_000:], path_in_repo="w.bin", repo_id="admin/both-ways")
""",
    )
    git("pull", cwd=clone)
    assert (clone / "w.bin").read_bytes() == weights[:3_000_000] + b"new" + weights[3_000_000:]
