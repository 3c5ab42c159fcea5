"""`make up` on machines that lack something: one line that says what, and the command that mends it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

TOOLS = [
    "sh",
    "cat",
    "cksum",
    "dirname",
    "grep",
    "tail",
    "awk",
    "tr",
    "uname",
    "command",
    "printf",
    "env",
    "sed",
    "head",
    "rm",
    "mkdir",
]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout with what the script reads, and a PATH without any Python."""
    folder = tmp_path / "clone"
    (folder / "requirements").mkdir(parents=True)
    shutil.copytree(REPOSITORY / "scripts", folder / "scripts")
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    shutil.copy(REPOSITORY / "requirements" / "constraints.txt", folder / "requirements")
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        if found:
            (tmp_path / "bin" / tool).symlink_to(found)
    return folder


def bootstrap(clone: Path, *extras: str, **environ: str) -> subprocess.CompletedProcess[str]:
    path = str(clone.parent / "bin")
    return subprocess.run(
        ["sh", "scripts/bootstrap.sh", *extras],
        cwd=clone,
        env={"PATH": path, "HOME": str(clone), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def fake(clone: Path, name: str, script: str) -> None:
    path = clone.parent / "bin" / name
    path.unlink(missing_ok=True)
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)


def test_no_python(clone: Path) -> None:
    done = bootstrap(clone)
    assert done.returncode == 1
    assert "no Python 3.11 or newer" in done.stderr and "apt install python3" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_old_python_is_passed_over(clone: Path) -> None:
    fake(clone, "python3", "exit 1\n")
    done = bootstrap(clone)
    assert done.returncode == 1 and "no Python 3.11 or newer" in done.stderr


def test_no_ensurepip(clone: Path) -> None:
    fake(clone, "python3.11", 'case "$2" in *ensurepip*) exit 1;; *print*) echo 3.11;; esac\nexit 0\n')
    done = bootstrap(clone)
    assert done.returncode == 1
    assert "ensurepip" in done.stderr and "apt install python3-venv" in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_avx2(clone: Path) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("AVX2 is of x86-64")
    fake(clone, "grep", "exit 1\n")
    done = bootstrap(clone)
    assert done.returncode == 1 and "AVX2" in done.stderr and done.stderr.count("\n") == 1


def test_another_system(clone: Path) -> None:
    fake(clone, "uname", "echo MINGW64_NT\n")
    done = bootstrap(clone)
    assert done.returncode == 1 and "WSL" in done.stderr and done.stderr.count("\n") == 1


def test_a_missing_wheel_is_named(clone: Path) -> None:
    """pip's own words for a platform without a wheel become one line that names the package."""
    pip = 'case "$*" in *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;;\n'
    pip += '*"pip install"*) echo "ERROR: No matching distribution found for xllamacpp==1"; exit 1;; *print*) echo 3.11;; esac\nexit 0\n'
    fake(clone, "python3.11", pip)
    for tool in ("cp", "chmod"):
        (clone.parent / "bin" / tool).symlink_to(str(shutil.which(tool)))
    done = bootstrap(clone)
    assert done.returncode == 1
    assert "no wheel of xllamacpp==1" in done.stderr, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("fust:")


def test_parts_are_added_by_name(clone: Path) -> None:
    """torch comes first and by itself, then Fust with what was named."""
    script = 'echo "$*" >> calls\ncase "$*" in *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;; *"import torch"*) exit 1;; esac\n'
    fake(clone, "python3.11", script + "exit 0\n")
    for tool in ("cp", "chmod"):
        (clone.parent / "bin" / tool).symlink_to(str(shutil.which(tool)))
    done = bootstrap(clone, "tune,data")
    assert done.returncode == 0, done.stderr
    installs = [line for line in (clone / "calls").read_text().splitlines() if "pip install" in line]
    assert [line.split()[-1] for line in installs] == ["torch==2.13.0", ".[tune,data]"]


def test_an_unknown_part_is_named(clone: Path) -> None:
    done = bootstrap(clone, "tune,tuen")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "no part tuen; there are: tune transformers data images postgres test" in done.stderr
