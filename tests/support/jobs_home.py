"""A home with its own Jobs, whose worker is ``jobs_worker``; also a server process to be killed."""

import os
import sys
import time
from pathlib import Path

from fust.accounts.rights import Identity
from fust.core.settings import load_settings
from fust.jobs.kinds import Kind
from fust.jobs.service import Jobs
from fust.store import outbox  # noqa: F401 - its table
from fust.store.database import Base, Database

HERE = Path(__file__).parent
ADMIN = Identity("ada", True, frozenset({"read", "write", "admin"}), None, "session")
BOB = Identity("bob", False, frozenset({"read", "write"}), None, "session")
NOBODY = Identity(None, False, frozenset(), None, "anonymous")


def keep(_identity, params):
    return params


def open_jobs(home: Path, **flags):
    """Returns (jobs, database) of a home; the schema is made when it is not there."""
    os.environ["PYTHONPATH"] = str(HERE)  # for `python -m jobs_worker`
    settings = load_settings(home, flags={"jobs.cores": 2, "jobs.memory_bytes": 10**9, **flags}, environ={})
    home.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database_url)
    Base.metadata.create_all(database.engine)
    jobs = Jobs(database, settings, worker="jobs_worker")
    for name in ("count", "fail", "explode", "stubborn", "environment"):
        jobs.register(Kind(name, "Do {what}", keep, memory_bytes=1_000_000, cores=2))
    jobs.register(Kind("count_again", "Count", keep, memory_bytes=1_000_000, resumable=True))
    jobs.register(Kind("huge", "Huge", keep, memory_bytes=10**15))
    return jobs, database


def wait_for(check, timeout_s=20.0):
    """Returns the first true thing that ``check`` returns."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.03)
    raise AssertionError(f"waited {timeout_s} s for {check}")


def main():
    """A server process: supervises the home until it is killed."""
    jobs, _ = open_jobs(Path(sys.argv[1]))
    jobs.start()
    print("up", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
