"""`kill -9` at listed moments of uploads, commits, pushes, bucket batches and all else that moves refs or rows.

A program does one change after the other and notes each that was acknowledged. strace kills it as it is about to sync,
rename, link or remove the N-th file: before anything that makes a change last. Each point has a home of its own.
Afterwards the home is opened as a server opens it: it is whole, what was acknowledged is there, what was not is there
whole or not at all, and the program goes on from where it was killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from fust.accounts.service import Accounts
from fust.app.fsck import check_home
from fust.core.settings import load_settings
from fust.hub.service import Hub
from fust.store.database import Database
from tests.support.kill_steps import STEPS, seed_home

pytestmark = pytest.mark.faults
Call = tuple[str, int]
"""A system call's name, and the how many-th of that name it is."""
CALLS = "fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat"
POINTS = 50


@dataclass(frozen=True)
class World:
    """A home before the changes, a push to it, and the calls that the changes make, in order."""

    home: Path
    pack: Path
    calls: tuple[Call, ...]


def run_steps(
    world: World, home: Path, acknowledged: Path, *, kill_at: Call | None = None, log: Path | None = None
) -> int:
    """Does the steps that are not acknowledged yet, killed at a call; returns how the program ended."""
    inject = [f"-einject={kill_at[0]}:signal=SIGKILL:when={kill_at[1]}"] if kill_at else []
    strace = ["strace", "-qq", "-o", str(log or os.devnull), f"-etrace={CALLS}", *inject]
    program = [
        sys.executable,
        "-m",
        "tests.support.kill_steps",
        str(home),
        str(world.pack),
        str(acknowledged),
    ]
    done = subprocess.run([*strace, *program], capture_output=True, text=True, check=False, timeout=120)
    if not kill_at:
        assert done.returncode == 0, done.stderr
    return done.returncode


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (apt-get install strace)")
    folder = tmp_path_factory.mktemp("points")
    pack = seed_home(folder / "home", folder)
    world = World(folder / "home", pack, ())
    shutil.copytree(folder / "home", folder / "tried", symlinks=True)
    probe = subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], check=False)
    if probe.returncode:
        pytest.skip("this machine lets no process be traced")
    run_steps(world, folder / "tried", folder / "tried.ack", log=folder / "calls")
    assert (folder / "tried.ack").read_text().split() == list(STEPS)
    seen: Counter[str] = Counter()
    calls: list[Call] = []
    for line in (folder / "calls").read_text().splitlines():
        name = line.partition("(")[0]
        seen[name] += 1
        calls.append((name, seen[name]))
    assert len(calls) >= POINTS, "fewer moments than points"
    return World(folder / "home", pack, tuple(calls))


def look(home: Path, acknowledged: list[str]) -> None:
    """Opens a home as a server does, and compares it with what was acknowledged."""
    settings = load_settings(home, environ={})
    database = Database(settings.database_url)
    try:
        hub = Hub(database, Accounts(database, settings), settings)
        hub.recover()
        findings = [f"{finding.kind} {finding.subject}" for finding in check_home(settings, deep=True)]
        assert findings == []
        for name, step in STEPS.items():
            state = step.state(hub)
            assert state in ("before", "after"), f"{name} is there by half: {state}"
            assert state == "after" or name not in acknowledged, f"{name} was acknowledged and is lost"
    finally:
        database.close()


def point_of(number: int, calls: tuple[Call, ...]) -> Call:
    """Spreads the points evenly over the calls, the first and the last among them."""
    return calls[round(number * (len(calls) - 1) / (POINTS - 1))]


@pytest.mark.parametrize(
    "number",
    [pytest.param(n, marks=() if n % 10 == 4 else pytest.mark.slow) for n in range(POINTS)],
)
def test_killed_at(world: World, tmp_path: Path, number: int) -> None:
    home, acknowledged = tmp_path / "home", tmp_path / "ack"
    shutil.copytree(world.home, home, symlinks=True)
    acknowledged.touch()
    assert run_steps(world, home, acknowledged, kill_at=point_of(number, world.calls)) != 0
    done = acknowledged.read_text().split()
    assert done == list(STEPS)[: len(done)]
    look(home, done)
    run_steps(world, home, acknowledged)
    assert acknowledged.read_text().split() == list(STEPS)
    look(home, list(STEPS))
