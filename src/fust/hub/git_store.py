"""All bare git repositories of a home: made whole, removed at once.

One folder a repo, ``<root>/models/owner/name.git``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pygit2

from fust.core.files import fsync_folder, full_disk_is_clear
from fust.core.ids import RepoType, new_id
from fust.core.locks import FileLock
from fust.hub.git_repo import GitRepo
from fust.hub.tree_editor import TreeEditor

log = logging.getLogger(__name__)

REPACK_LOOSE, REPACK_PACKS = 2000, 50
"""From so many loose objects, or packs, on a repo is packed; each read looks through them."""


class GitStore:
    """All repositories of a home."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._read = threading.local()

    def path(self, repo_type: RepoType, owner: str, name: str) -> Path:
        """Returns a repo's folder; owner and name must have been checked."""
        return self.root / f"{repo_type}s" / owner / f"{name}.git"

    def open(self, repo_type: RepoType, owner: str, name: str) -> GitRepo:
        """Returns a repo that exists."""
        return GitRepo(self.path(repo_type, owner, name))

    def reader(self, repo_type: RepoType, owner: str, name: str) -> GitRepo:
        """Returns a repo that exists, for reading alone: a thread keeps the one that it read last open.

        Opening costs more than most reads. A folder that was replaced or changed at its top is opened anew; objects
        that came since, loose or packed, are found because git looks again for what it misses.
        """
        path = self.path(repo_type, owner, name)
        try:
            stat = os.stat(path)
        except OSError:
            return GitRepo(path)  # says what is wrong
        key = (path, stat.st_ino, stat.st_ctime_ns)
        kept: tuple[object, GitRepo] | None = getattr(self._read, "kept", None)
        if kept is None or kept[0] != key:
            kept = self._read.kept = (key, GitRepo(path))
        return kept[1]

    def create(self, repo_type: RepoType, owner: str, name: str, files: dict[str, bytes], author: str) -> str:
        """Makes a repo with one commit on `main`; it appears whole or not at all. Returns the commit's oid."""
        path = self.path(repo_type, owner, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{new_id('new-')}.tmp"
        try:
            with full_disk_is_clear(path):
                git = pygit2.init_repository(str(temporary), bare=True, initial_head="main")
                config = git.config
                config["uploadpack.allowFilter"] = True
                config["uploadpack.allowAnySHA1InWant"] = True
                config["gc.auto"] = 0
                shutil.rmtree(temporary / "hooks", ignore_errors=True)
                del git
                repo = GitRepo(temporary)
                editor = TreeEditor(repo.git, None)
                for file_path, data in files.items():
                    editor.put(file_path, repo.write_blob(data))
                oid = repo.write_commit(editor.write(), [], "initial commit", author)
                repo.swap_ref("refs/heads/main", None, oid)
                if path.exists():  # a leftover that no row names
                    shutil.rmtree(path)
                os.rename(temporary, path)
                fsync_folder(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return oid

    def remove(self, repo_type: RepoType, owner: str, name: str) -> None:
        """Deletes a repo; it vanishes at once, its files a moment later."""
        path = self.path(repo_type, owner, name)
        if not path.exists():
            return
        trash = path.parent / f".{new_id('gone-')}.tmp"
        os.rename(path, trash)
        fsync_folder(path.parent)
        shutil.rmtree(trash, ignore_errors=True)

    def rename(self, repo_type: RepoType, old: tuple[str, str], new: tuple[str, str]) -> None:
        """Moves a folder to another (owner, name); does nothing when it is there already."""
        source, target = self.path(repo_type, *old), self.path(repo_type, *new)
        if source == target or not source.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, target)
        fsync_folder(target.parent)
        fsync_folder(source.parent)

    def copy(self, repo_type: RepoType, old: tuple[str, str], new: tuple[str, str]) -> None:
        """Makes a repo with another's branches and tags; objects never change, so they are linked, not copied."""
        source, target = self.path(repo_type, *old), self.path(repo_type, *new)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{new_id('new-')}.tmp"
        try:
            with full_disk_is_clear(target):
                shutil.copytree(
                    source,
                    temporary,
                    copy_function=_link_object,
                    ignore=_not_copied,
                )
                if target.exists():  # a leftover that no row names
                    shutil.rmtree(target)
                os.rename(temporary, target)
                fsync_folder(target.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def clean_temporaries(self) -> int:
        """Removes repos half made or half deleted by a server that is gone; returns how many."""
        removed = 0
        with FileLock(self.root / ".create.lock"):
            for pattern in ("*/*/.new-*.tmp", "*/*/.gone-*.tmp"):
                for path in self.root.glob(pattern):
                    shutil.rmtree(path, ignore_errors=True)
                    removed += 1
        return removed

    def drop_old_settings(self) -> int:
        """Takes out of repos a setting of 0.1.0 that makes git warn its users; returns how many had it."""
        mended = 0
        for config in self.root.glob("*/*/*.git/config"):
            if b"fsyncobjectfiles" in config.read_bytes().lower():
                del pygit2.Config(str(config))["core.fsyncObjectFiles"]
                mended += 1
        return mended

    def repack(self, repo_type: RepoType, owner: str, name: str) -> bool:
        """Packs a repo that has grown many loose objects or packs; returns whether it did.

        Nothing is dropped: objects that no ref reaches stay as they are, for a commit that is being made may be theirs.
        """
        path = self.path(repo_type, owner, name)
        objects = path / "objects"
        loose = sum(len(list(folder.iterdir())) for folder in objects.glob("[0-9a-f][0-9a-f]"))
        packs = len(list(objects.glob("pack/*.pack")))
        if loose < REPACK_LOOSE and packs < REPACK_PACKS:
            return False
        command = [
            "git",
            "-c",
            "safe.directory=*",
            "-c",
            "core.fsync=pack,pack-metadata",
            "-c",
            "pack.threads=1",
        ]
        command += ["-C", str(path), "repack", "-q", "-d", "-l", "--geometric=2"]
        environ = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self.root), "LC_ALL": "C"}
        environ |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
        with GitRepo(path).lock():
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            log.warning(
                "a repo was not packed", extra={"repo": f"{owner}/{name}", "reason": done.stderr[-300:]}
            )
        return done.returncode == 0

    def iter_repos(self) -> Iterator[tuple[str, str, str]]:
        """Yields (type in the plural, owner, name) of every folder."""
        for path in self.root.glob("*/*/*.git"):
            yield path.parent.parent.name, path.parent.name, path.name.removesuffix(".git")


def _link_object(source: str, target: str) -> None:
    """Links an object of git, which never changes; copies what does."""
    if "/objects/" in source:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def _not_copied(folder: object, names: list[str]) -> set[str]:
    """Names the locks and the pull requests of a repository."""
    gone = {name for name in names if name == "fust.writer" or name.endswith(".lock")}
    return gone | ({"pr"} if str(folder).endswith("/refs") else set())
