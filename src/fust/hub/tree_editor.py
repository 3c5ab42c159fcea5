"""Changes to a git tree, folder by folder: only the folders that change are read and written."""

from __future__ import annotations

from typing import cast

import pygit2

from fust.hub.errors import BadPath
from fust.hub.paths import check_path

FILE_MODE = 0o100644
TREE_MODE = 0o040000


class TreeEditor:
    """Changes to a tree, folder by folder; only the folders that change are read and written."""

    def __init__(self, git: pygit2.Repository, tree: pygit2.Tree | None) -> None:
        self._git = git
        self._tree = tree
        self._folders: dict[str, TreeEditor] = {}
        self._changed: dict[str, tuple[str, int] | None] = {}

    def put(self, path: str, oid: str, mode: int = FILE_MODE) -> None:
        """Puts a file.

        Raises:
            BadPath: the path is not allowed, runs through a file, or names a folder.

        """
        folder, name = self._folder_of(check_path(path), path)
        if folder._is_folder(name):
            raise _clash(path, path)
        folder._changed[name] = (oid, mode)

    def remove_file(self, path: str) -> bool:
        """Removes a file; returns False when there is none."""
        return self._remove(path, folder=False)

    def remove_folder(self, path: str) -> bool:
        """Removes a folder and all in it; returns False when there is none."""
        return self._remove(path, folder=True)

    def oid_at(self, path: str) -> tuple[str, int] | None:
        """Returns (oid, mode) of the file at a path, or None."""
        *parents, name = path.split("/")
        here: TreeEditor | None = self
        for part in parents:
            here = here._open(part) if here._is_folder(part) else None
            if here is None:
                return None
        if name in here._changed:
            return here._changed[name]
        item = here._original(name)
        return (str(item.id), item.filemode) if isinstance(item, pygit2.Blob) else None

    def write(self) -> str:
        """Keeps the changed trees and returns the oid of this one."""
        builder = self._git.TreeBuilder(self._tree) if self._tree is not None else self._git.TreeBuilder()
        for name, change in self._changed.items():
            if change is not None:
                builder.insert(name, change[0], change[1])
            elif _holds(builder, name):
                builder.remove(name)
        for name, folder in self._folders.items():
            if folder._is_empty():
                if _holds(builder, name) and name not in self._changed:
                    builder.remove(name)
            else:
                builder.insert(name, folder.write(), TREE_MODE)
        return str(builder.write())

    def _folder_of(self, path: str, whole: str) -> tuple[TreeEditor, str]:
        *parents, name = path.split("/")
        here = self
        seen: list[str] = []
        for part in parents:
            seen.append(part)
            if here._is_file(part):
                raise _clash(whole, "/".join(seen))
            here = here._open(part)
        return here, name

    def _remove(self, path: str, *, folder: bool) -> bool:
        *parents, name = path.split("/")
        here = self
        for part in parents:
            if not here._is_folder(part):
                return False
            here = here._open(part)
        if folder:
            if not here._is_folder(name):
                return False
            here._folders[name] = TreeEditor(here._git, None)
        else:
            if not here._is_file(name):
                return False
            here._changed[name] = None
        return True

    def _original(self, name: str) -> pygit2.Object | None:
        if self._tree is None:
            return None
        try:
            return self._tree[name]
        except KeyError:
            return None

    def _is_file(self, name: str) -> bool:
        if name in self._changed:
            return self._changed[name] is not None
        item = self._original(name)
        return item is not None and not isinstance(item, pygit2.Tree)

    def _is_folder(self, name: str) -> bool:
        if name in self._folders:
            return not self._folders[name]._is_empty()
        return isinstance(self._original(name), pygit2.Tree)

    def _open(self, name: str) -> TreeEditor:
        if name not in self._folders:
            item = self._original(name)
            self._folders[name] = TreeEditor(self._git, item if isinstance(item, pygit2.Tree) else None)
        return self._folders[name]

    def _is_empty(self) -> bool:
        if any(change is not None for change in self._changed.values()):
            return False
        if any(not folder._is_empty() for folder in self._folders.values()):
            return False
        if self._tree is None:
            return True
        gone = {name for name, change in self._changed.items() if change is None} | set(self._folders)
        return all(item.name in gone for item in self._tree)


def _holds(builder: pygit2.TreeBuilder, name: str) -> bool:
    return cast("object", builder.get(name)) is not None  # None for a name that is not there


def _clash(path: str, other: str) -> BadPath:
    return BadPath(
        "{path!r} cannot be written: {other!r} is there as the other of file and folder.",
        hint="Delete that one in the same commit first.",
        path=path,
        other=other,
    )
