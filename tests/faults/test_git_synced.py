"""An acknowledged commit is on the disk: its objects and its ref were synced before the answer, by what the kernel saw."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fust.hub.git_store import GitStore

pytestmark = pytest.mark.faults

PROGRAM = """
import sys
from pathlib import Path
from fust.hub.git_store import GitStore
from fust.hub.tree_editor import TreeEditor
store = GitStore(Path(sys.argv[1]))
store.create("model", "admin", "m", {"a.txt": b"a"}, "admin")
repo = store.open("model", "admin", "m")
print("COMMIT", flush=True)
head = repo.find_ref("refs/heads/main")
editor = TreeEditor(repo.git, repo.tree_of(head))
editor.put("b.txt", repo.write_blob(b"bytes of b"))
repo.swap_ref("refs/heads/main", head, repo.write_commit(editor.write(), [head], "b", "admin"))
"""


def test_objects_and_refs_are_synced(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace (apt-get install strace)")
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-o", str(trace), "-e", "trace=fsync,fdatasync,write"]
    done = subprocess.run(
        [*command, sys.executable, "-c", PROGRAM, str(tmp_path / "git")],
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in done.stderr:
        pytest.skip("this machine does not let strace trace")
    assert done.returncode == 0, done.stderr
    commit = trace.read_text().partition("COMMIT")[2]
    synced = re.findall(r"f(?:data)?sync\(\d+<([^>]+)>\)", commit)
    assert sum("/objects/" in path for path in synced) >= 3, synced  # blob, tree, commit
    assert any("/refs/heads/main" in path for path in synced), synced


def test_git_does_not_warn(tmp_path: Path) -> None:
    store = GitStore(tmp_path)
    store.create("model", "admin", "m", {"a.txt": b"a"}, "admin")
    path = store.path("model", "admin", "m")
    subprocess.run(["git", "-C", path, "config", "core.fsyncObjectFiles", "true"], check=True)
    assert "deprecated" in git_says(path)  # a repo of 0.1.0
    assert store.drop_old_settings() == 1
    assert git_says(path) == ""
    assert store.drop_old_settings() == 0


def git_says(path: Path) -> str:
    done = subprocess.run(["git", "-C", path, "status", "-sb"], capture_output=True, text=True, check=False)
    written = subprocess.run(
        ["git", "-C", path, "hash-object", "-w", "--stdin"],
        input="x",
        capture_output=True,
        text=True,
        check=False,
    )
    return written.stderr + done.stderr.replace("fatal: this operation must be run in a work tree\n", "")
