"""`python -m fust.app.worker RUN_ID`: the process of one run. Maps its kind to the function that does it."""

from __future__ import annotations

import sys

from fust.core.settings import load_settings
from fust.jobs.worker import JobContext, JobFunction, run_job


def _pull(context: JobContext) -> object:
    from fust.hub.pull import run_pull

    return run_pull(context)


def _pull_owner(context: JobContext) -> object:
    from fust.hub.pull import run_pull_owner

    return run_pull_owner(context)


def _tune(context: JobContext) -> object:
    from fust.tune.job import run_tune

    return run_tune(context)


def _export(context: JobContext) -> object:
    from fust.tune.export import run_export

    return run_export(context)


def _build_engine(context: JobContext) -> object:
    from fust.app.start import STARTER
    from fust.serve.build import run_build

    return run_build(context, STARTER / "starter-q8_0.gguf")


KINDS: dict[str, JobFunction] = {
    "pull": _pull,
    "pull_owner": _pull_owner,
    "tune": _tune,
    "export": _export,
    "build_engine": _build_engine,
}


def main() -> int:
    """Runs the run whose id is the first argument; the home comes from `FUST_HOME`."""
    return run_job(load_settings(), sys.argv[1], KINDS)


if __name__ == "__main__":
    raise SystemExit(main())
