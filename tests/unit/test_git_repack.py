"""Packing grown repos: fewer files, every object still there, those of a commit that is being made too."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fust.hub import git_store
from fust.hub.git_store import GitStore


def files_of(path: Path) -> int:
    return sum(1 for file in (path / "objects").rglob("*") if file.is_file())


def test_a_grown_repo_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_store, "REPACK_LOOSE", 100)
    store = GitStore(tmp_path / "git")
    head = store.create("model", "me", "grown", {"a.txt": b"a"}, "me")
    path = store.path("model", "me", "grown")
    assert not store.repack("model", "me", "grown"), "a small one is left alone"
    repo = store.open("model", "me", "grown")
    for i in range(60):
        editor = git_store.TreeEditor(repo.git, repo.tree_of(head))
        editor.put(f"{i}.txt", repo.write_blob(b"%d" % i))
        commit = repo.write_commit(editor.write(), [head], f"commit {i}", "me")
        repo.swap_ref("refs/heads/main", head, commit)
        head = commit
    unborn = repo.write_blob(b"of a commit that is being made")
    before = files_of(path)
    assert store.repack("model", "me", "grown")
    assert files_of(path) < 20 < 180 < before
    fresh = store.open("model", "me", "grown")
    assert repo.read_blob(unborn) == fresh.read_blob(unborn) == b"of a commit that is being made"
    assert len(list(fresh.iter_commits(head))) == 61 and len(list(repo.iter_commits(head))) == 61
    subprocess.run(["git", "-C", str(path), "fsck", "--full", "--strict"], check=True, capture_output=True)
    assert not store.repack("model", "me", "grown"), "nothing is left to do"
