"""Runs outlive the server, are adopted again, end when asked, and say why when they die."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select

from fust.accounts.rights import Asked
from fust.core.errors import Conflict, InvalidInput, NotFound, Unauthenticated
from fust.jobs import supervisor
from fust.jobs.folder import RunFolder, Spec
from fust.store.outbox import OutboxRow

SUPPORT = Path(__file__).parent.parent / "support"
sys.path.insert(0, str(SUPPORT))

from jobs_home import ADMIN, BOB, NOBODY, open_jobs, wait_for  # noqa: E402

pytestmark = pytest.mark.faults


@pytest.fixture
def home(tmp_path):
    yield tmp_path
    for process in psutil.process_iter():
        try:
            if process.environ().get("FUST_HOME") == str(tmp_path):
                process.kill()
        except psutil.Error:
            continue


@pytest.fixture
def jobs(home):
    jobs, database = open_jobs(home)
    jobs.start()
    yield jobs
    jobs.stop()
    database.close()


def ended(jobs, run_id):
    run = jobs.draw(jobs.get(ADMIN, run_id))
    return run if run.state in ("succeeded", "failed", "cancelled") else None


def running(jobs, run_id):
    run = jobs.draw(jobs.get(ADMIN, run_id))
    return run if run.state == "running" and run.progress else None


def pid_of(home, run_id):
    process = RunFolder(home, run_id).find_process()
    assert process is not None
    return process.pid


def test_a_run_succeeds_with_result_progress_and_event(jobs, home):
    row = jobs.create(BOB, "count", {"to": 3, "what": "sheep"})
    assert row.state == "queued"
    run = wait_for(lambda: ended(jobs, row.id))
    assert (run.state, run.title, run.owner) == ("succeeded", "Do sheep", "bob")
    assert run.result == {"counted": ["0", "1", "2"], "attempt": 1}
    assert run.progress and (run.progress.done, run.progress.message) == (3, "counting sheep")
    assert run.started_at and run.ended_at and run.error is None
    with jobs._database.read() as session:
        (event,) = session.scalars(select(OutboxRow).where(OutboxRow.name == "run_finished"))
    assert event.body == {"run_id": row.id, "kind": "count", "state": "succeeded"}
    assert (home / "runs" / row.id).stat().st_mode & 0o077 == 0


def test_a_person_sees_own_runs_and_an_administrator_all(jobs):
    row = jobs.create(ADMIN, "count", {"to": 1})
    with pytest.raises(NotFound):
        jobs.get(BOB, row.id)
    with pytest.raises(NotFound):
        jobs.cancel(BOB, row.id)
    with pytest.raises(Unauthenticated):
        jobs.list_runs(NOBODY)
    with pytest.raises(Unauthenticated):
        jobs.create(NOBODY, "count", {})
    assert jobs.list_runs(BOB) == []
    mine = jobs.create(BOB, "count", {"to": 1})
    assert [r.id for r in jobs.list_runs(BOB)] == [mine.id]
    assert [r.id for r in jobs.list_runs(ADMIN)] == [mine.id, row.id]


def test_unknown_kinds_and_impossible_sizes_are_refused(jobs):
    with pytest.raises(InvalidInput, match="no kind of run 'x'"):
        jobs.create(BOB, "x", {})
    with pytest.raises(InvalidInput, match="1e\\+03 TB"):
        jobs.create(BOB, "huge", {})


def test_failures_say_what_and_what_next(jobs):
    one = jobs.create(BOB, "fail", {})
    run = wait_for(lambda: ended(jobs, one.id))
    assert run.state == "failed" and run.error
    assert (run.error.code, run.error.message) == ("not_found", "There is no 'sheep'.")
    assert run.error.hint == "Make one: 1.2."
    two = jobs.create(BOB, "explode", {})
    run = wait_for(lambda: ended(jobs, two.id))
    assert run.error and run.error.code == "internal" and "ZeroDivisionError" in run.error.message
    assert "Traceback" in jobs.folder(two.id).read_log()


def test_the_worker_is_nice_bounded_and_apart(jobs, home, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_never")
    row = jobs.create(BOB, "environment", {})
    run = wait_for(lambda: ended(jobs, row.id))
    assert run.result == {
        "OMP_NUM_THREADS": "2",
        "FUST_HOME": str(home),
        "FUST_JOBS__CORES": "2",
        "nice": 10,
        "hf": [],
        "session": True,
    }


def test_runs_queue_by_cores_in_order_and_say_what_they_wait_for(jobs):
    first = jobs.create(BOB, "count", {"to": 100, "every_s": 0.02})
    second = jobs.create(BOB, "count", {"to": 1})
    third = jobs.create(BOB, "count_again", {"to": 1})
    wait_for(lambda: running(jobs, first.id))
    wait_for(lambda: jobs.draw(jobs.get(BOB, third.id)).waits_for)
    assert jobs.draw(jobs.get(BOB, second.id)).waits_for == "Cores: it needs 2, 0 are free."
    assert jobs.draw(jobs.get(BOB, third.id)).waits_for == "Runs before it in the queue."
    runs = [wait_for(lambda i=i: ended(jobs, i)) for i in (first.id, second.id, third.id)]
    assert [r.state for r in runs] == ["succeeded"] * 3
    assert runs[0].ended_at <= runs[1].started_at <= runs[2].started_at


def test_a_cancelled_queued_run_never_starts(jobs, home):
    first = jobs.create(BOB, "count", {"to": 200, "every_s": 0.02})
    second = jobs.create(BOB, "count", {"to": 1})
    wait_for(lambda: running(jobs, first.id))
    jobs.cancel(BOB, second.id)
    assert wait_for(lambda: ended(jobs, second.id)).state == "cancelled"
    assert not (home / "runs" / second.id / "spec.json").exists()
    jobs.cancel(BOB, first.id)
    assert wait_for(lambda: ended(jobs, first.id)).state == "cancelled"
    with pytest.raises(Conflict):
        jobs.cancel(BOB, first.id)


def test_a_run_that_ignores_the_wish_is_killed_after_the_grace(jobs, home, monkeypatch):
    monkeypatch.setattr(supervisor, "CANCEL_GRACE_S", 0.5)
    row = jobs.create(BOB, "stubborn", {})
    wait_for(lambda: "I stay" in jobs.folder(row.id).read_log())
    jobs.cancel(BOB, row.id)
    assert wait_for(lambda: ended(jobs, row.id)).state == "cancelled"
    assert not psutil.pid_exists(pid_of(home, row.id))


def test_a_killed_run_says_so(jobs, home):
    row = jobs.create(BOB, "count", {"to": 1000, "every_s": 0.05})
    wait_for(lambda: running(jobs, row.id))
    os.kill(pid_of(home, row.id), signal.SIGKILL)
    run = wait_for(lambda: ended(jobs, row.id))
    assert run.state == "failed" and run.error and run.error.code == "killed"
    assert run.progress and run.progress.done >= 1


def test_a_killed_run_that_can_resume_continues(jobs, home):
    row = jobs.create(BOB, "count_again", {"to": 60, "every_s": 0.02})
    wait_for(lambda: running(jobs, row.id))
    os.kill(pid_of(home, row.id), signal.SIGKILL)
    run = wait_for(lambda: ended(jobs, row.id))
    assert run.state == "succeeded"
    assert run.result == {"counted": [str(i) for i in range(60)], "attempt": 2}


def test_a_stopped_server_leaves_runs_alone_and_the_next_adopts_them(home):
    jobs, database = open_jobs(home)
    jobs.start()
    row = jobs.create(BOB, "count", {"to": 40, "every_s": 0.05})
    wait_for(lambda: running(jobs, row.id))
    pid = pid_of(home, row.id)
    jobs.stop()
    database.close()
    assert psutil.pid_exists(pid)
    jobs, database = open_jobs(home)
    jobs.start()
    assert jobs.get(BOB, row.id).state == "running"
    run = wait_for(lambda: ended(jobs, row.id))
    assert run.state == "succeeded" and run.result and run.result["attempt"] == 1
    jobs.stop()
    database.close()


@pytest.mark.parametrize("finishes_while_away", [True, False])
def test_kill_9_of_the_server_changes_nothing_for_a_run(home, finishes_while_away):
    server = subprocess.Popen(
        [sys.executable, str(SUPPORT / "jobs_home.py"), str(home)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout and server.stdout.readline() == "up\n"
    jobs, database = open_jobs(home)  # asks, but does not supervise: the other process does
    row = jobs.create(BOB, "count", {"to": 20 if finishes_while_away else 80, "every_s": 0.05})
    wait_for(lambda: running(jobs, row.id))
    server.kill()
    server.wait()
    server.stdout.close()
    if finishes_while_away:
        wait_for(lambda: RunFolder(home, row.id).find_outcome())
        assert jobs.get(BOB, row.id).state == "running"
    jobs.start()
    run = wait_for(lambda: ended(jobs, row.id))
    assert run.state == "succeeded" and run.result and run.result["attempt"] == 1
    jobs.stop()
    database.close()


def test_cancel_works_on_an_adopted_run(home):
    jobs, database = open_jobs(home)
    jobs.start()
    row = jobs.create(BOB, "count", {"to": 1000, "every_s": 0.05})
    wait_for(lambda: running(jobs, row.id))
    jobs.stop()
    database.close()
    jobs, database = open_jobs(home)
    jobs.cancel(BOB, row.id)  # asked while nobody supervises
    jobs.start()
    assert wait_for(lambda: ended(jobs, row.id)).state == "cancelled"
    jobs.stop()
    database.close()


def test_a_stranger_with_the_old_pid_is_not_touched(home):
    """The recorded group is believed only while the lock is held: pids are used again."""
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    jobs, database = open_jobs(home)
    row = jobs.create(BOB, "count", {"to": 1})
    folder = RunFolder(home, row.id)
    folder.create()
    from fust.jobs.folder import Process

    folder.write_process(Process(stranger.pid, stranger.pid))
    with database.write() as session:
        stored = session.get(type(row), row.id)
        assert stored is not None
        stored.state = "running"
    jobs.cancel(BOB, row.id)
    jobs.start()
    assert wait_for(lambda: ended(jobs, row.id)).state == "cancelled"
    time.sleep(0.2)
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
    jobs.stop()
    database.close()


@pytest.mark.parametrize("kind", ["count", "stubborn"])
def test_a_worker_whose_home_was_deleted_ends(tmp_path, kind):
    """One that ends when it is asked, and one that has to be made to."""
    home = tmp_path / "home"
    folder = RunFolder(home, "r1")
    folder.create()
    params = {"to": 10**6, "every_s": 0.05}
    folder.write_spec(Spec("r1", kind, "ada", Asked(by_admin=True), params, 1, 10**6))
    environ = {
        **os.environ,
        "FUST_HOME": str(home),
        "PYTHONPATH": f"{SUPPORT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    with (tmp_path / "said").open("wb") as said:
        worker = subprocess.Popen(
            [sys.executable, "-m", "jobs_worker", "r1"], env=environ, stderr=said, start_new_session=True
        )
    try:
        wait_for(lambda: folder.events_size() > 0)
        shutil.rmtree(home)
        assert worker.wait(timeout=40) != 0
    finally:
        worker.kill()
        worker.wait()
    assert f"{folder.path} was deleted while its run went on" in (tmp_path / "said").read_text()
