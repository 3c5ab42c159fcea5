"""A PostgreSQL server of the test's own, where the machine has its programs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import free_port


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """Yields the SQLAlchemy URL of an empty database; skips with the reason where there is no PostgreSQL."""
    psycopg = pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    found = shutil.which("initdb") or next(
        iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None
    )
    if found is None:
        pytest.skip("PostgreSQL's programs are not on this machine")
    binaries = Path(found).parent
    # PostgreSQL refuses to run as root, so it gets a folder that its own user can reach.
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="fust-pg-"))
    folder.chmod(0o777)
    port = free_port()
    make = [*user, binaries / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8"]
    subprocess.run([*make, "--locale=C", "--no-sync"], check=True, capture_output=True, cwd="/")
    serve = [*user, binaries / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port), "-F"]
    server = subprocess.Popen(
        [*serve, "-k", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
    )
    try:
        address = f"postgres@127.0.0.1:{port}/postgres"
        for attempt in range(200):
            try:
                psycopg.connect(f"postgresql://{address}").close()
                break
            except psycopg.OperationalError:
                assert attempt < 199 and server.poll() is None, "PostgreSQL did not start"
                time.sleep(0.05)
        yield f"postgresql+psycopg://{address}"
    finally:
        # Not by a signal: SIGTERM waits for every connection of the pools, and runuser passes no SIGINT on.
        stop = [*user, binaries / "pg_ctl", "-D", folder / "data", "-m", "fast", "stop"]
        subprocess.run(stop, check=True, capture_output=True, cwd="/")
        server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)
