"""The run's folder: events with offsets, torn lines, locks; and the rate."""

import os
import subprocess
import sys

import msgspec
import pytest

from fust.core.errors import InvalidInput, NotFound
from fust.core.i18n import Words
from fust.core.settings import load_settings
from fust.jobs.folder import Event, Fault, Outcome, RunFolder, Spec
from fust.jobs.worker import JobContext, Rate
from fust.wire.runs import LogLine, Progress


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path, "r1")
    folder.create()
    return folder


def context(folder):
    spec = Spec("r1", "count", "ada", False, {}, 1, 1)
    return JobContext(spec, folder, load_settings(folder.path.parent.parent, environ={}))


def test_events_come_back_from_any_offset(folder):
    writer = context(folder)
    for n in range(5):
        writer.say("line {n}", n=n)
    events = list(folder.iter_events())
    assert [e.draw("en").message for _, e in events] == [f"line {n}" for n in range(5)]
    for i, (offset, _) in enumerate(events):
        assert [e for _, e in folder.iter_events(offset)] == [e for _, e in events[i + 1 :]]
    assert events[-1][0] == folder.events_size()


def test_a_torn_line_is_skipped_and_does_not_swallow_the_next(folder):
    context(folder).say("one")
    with folder.events.open("ab") as file:
        file.write(b'{"kind":"log","at":"x","templ')
    assert len(list(folder.iter_events())) == 1
    context(folder).say("two")
    assert [e.template for _, e in folder.iter_events()] == ["one", "two"]


def test_an_offset_in_the_middle_of_a_line_finds_the_next(folder):
    writer = context(folder)
    writer.say("one")
    writer.say("two")
    assert [e.template for _, e in folder.iter_events(3)] == ["two"]


def test_progress_is_the_last_one_and_is_thinned(folder):
    writer = context(folder)
    for n in range(1000):
        writer.progress(n, 1000, "bytes", "at {n}", n=n)
    assert len(list(folder.iter_events())) < 10
    writer.progress(1000, 1000, "bytes", "done")
    last = folder.find_progress()
    assert last is not None
    drawn = last.draw("en")
    assert isinstance(drawn, Progress)
    assert (drawn.done, drawn.total, drawn.unit, drawn.message) == (1000, 1000, "bytes", "done")


def test_a_run_without_files_is_silent(folder):
    assert folder.find_progress() is None
    assert folder.find_outcome() is None
    assert folder.read_log() == ""
    assert not folder.is_alive()


def test_a_broken_outcome_counts_as_none(folder):
    folder.write_outcome(Outcome("succeeded", {"a": 1}))
    assert folder.find_outcome() == Outcome("succeeded", {"a": 1})
    (folder.path / "outcome.json").write_bytes(b'{"state":"succ')
    assert folder.find_outcome() is None


def test_the_lock_shows_life_and_askers_do_not_disturb_each_other(folder):
    lock = folder.take_lock()
    assert lock is not None
    assert folder.is_alive() and folder.is_alive()
    assert folder.take_lock() is None
    os.close(lock)
    assert not folder.is_alive()


def test_words_within_a_fault_are_drawn_in_the_readers_language():
    error = InvalidInput(
        "{file} is not a GGUF file that Fust can read: {fault}.",
        file="a.gguf",
        fault=Words("it is too short"),
    )
    kept = msgspec.json.decode(msgspec.json.encode(Fault.of(error)), type=Fault)
    assert kept.draw("en").message == error.message()
    assert kept.draw("zh").message == error.message("zh") and "太短" in error.message("zh")


def test_words_within_words_are_kept_too(folder):
    inside = Words(
        "{fault} (at line {line}, column {column})", fault=Words("Invalid value"), line=1, column=5
    )
    context(folder).say("{path} is not valid TOML: {error}.", path="a.toml", error=inside)
    ((_, event),) = folder.iter_events()
    assert event.draw("en").message == "a.toml is not valid TOML: Invalid value (at line 1, column 5)."
    assert event.draw("zh").message == "a.toml 不是有效的 TOML：值无效（第 1 行第 5 列）。"


def test_a_fault_is_drawn_as_the_error_itself_would_be():
    error = NotFound("No {what!r} of {n:.1f}.", hint="Look in {path}.", what="x'y", n=1.25, path=os.curdir)
    drawn = Fault.of(error).draw("en")
    assert (drawn.code, drawn.message, drawn.hint) == ("not_found", error.message(), error.hint())


def test_log_lines_carry_data(folder):
    context(folder).say("three files", data={"files": [1, 2, 3]})
    ((_, event),) = folder.iter_events()
    line = event.draw("en")
    assert isinstance(line, LogLine)
    assert line.data == {"files": [1, 2, 3]}
    assert isinstance(event, Event)


def test_rate_is_that_of_the_last_seconds():
    rate = Rate()
    assert rate.add(0, 0.0) is None
    for i in range(1, 40):
        found = rate.add(i * 50, i * 0.5)
    assert found == pytest.approx(100)
    for i in range(40, 80):
        found = rate.add(2000 + (i - 40) * 5, i * 0.5)
    assert found == pytest.approx(10, rel=0.2)


def test_the_worker_s_generic_part_needs_neither_web_nor_database():
    code = "import fust.jobs.worker, sys; print([m for m in ('sqlalchemy', 'litestar', 'fust.accounts.service') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
