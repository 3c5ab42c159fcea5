"""The worker's entry that the tests of jobs use: `python -m jobs_worker RUN_ID`."""

import os
import signal
import sys
import time

from fust.core.errors import NotFound
from fust.core.settings import load_settings
from fust.jobs.worker import JobContext, run_job


def count(context: JobContext):
    """Counts to `to`, a step every `every_s`; writes each number into its folder."""
    start = 0
    notes = context.work / "notes"
    if notes.exists():
        start = len(notes.read_text().split())
        context.say("going on at {n}", n=start)
    total = int(context.params["to"])
    with notes.open("a") as file:
        for i in range(start, total):
            file.write(f"{i} ")
            file.flush()
            context.progress(i + 1, total, "items", "counting {name}", name="sheep", now=True)
            time.sleep(float(context.params.get("every_s", 0.01)))
    return {"counted": notes.read_text().split(), "attempt": context.spec.attempt}


def fail(context: JobContext):
    raise NotFound("There is no {what!r}.", hint="Make one: {n:.1f}.", what="sheep", n=1.25)


def explode(context: JobContext):
    raise ZeroDivisionError("secret of the sheep")


def stubborn(context: JobContext):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    context.say("I stay")
    time.sleep(120)


def environment(context: JobContext):
    keys = ("OMP_NUM_THREADS", "FUST_HOME", "FUST_JOBS__CORES")
    return {
        **{key: os.environ.get(key) for key in keys},
        "nice": os.nice(0),
        "hf": [key for key in os.environ if key.startswith("HF_")],
        "session": os.getsid(0) == os.getpid(),
    }


KINDS = {
    "count": count,
    "count_again": count,
    "fail": fail,
    "explode": explode,
    "stubborn": stubborn,
    "environment": environment,
}

if __name__ == "__main__":
    raise SystemExit(run_job(load_settings(), sys.argv[1], KINDS))
