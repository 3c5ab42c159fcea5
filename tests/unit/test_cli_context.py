"""The running server, the key that goes to it, and how errors are drawn."""

import json

import pytest

from fust.cli.context import CLI, find_running_server
from fust.cli.main import run
from fust.cli.show import ago, show_progress, table
from fust.core.errors import Unavailable
from fust.core.locks import FileLock
from fust.wire.runs import Progress


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FUST_HOME", str(tmp_path))
    monkeypatch.delenv("FUST_URL", raising=False)
    monkeypatch.delenv("FUST_TOKEN", raising=False)
    monkeypatch.setenv("FUST_LANG", "en")
    return tmp_path


@pytest.fixture
def running(home):
    """A home whose server lock is held, at a port where nobody listens."""
    (home / "server.json").write_text(json.dumps({"url": "http://127.0.0.1:9/", "pid": 1}))
    (home / "token").write_text("fust_secret\n")
    lock = FileLock(home / "server.lock")
    assert lock.acquire()
    yield home
    lock.release()


def test_a_server_file_is_believed_only_while_its_lock_is_held(running):
    assert find_running_server(running) == "http://127.0.0.1:9"


def test_a_killed_server_leaves_a_file_that_is_not_believed(home):
    (home / "server.json").write_text(json.dumps({"url": "http://127.0.0.1:9"}))
    (home / "server.lock").touch()
    assert find_running_server(home) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"url"', "\xff"])
def test_a_broken_server_file_counts_as_none(running, text):
    (running / "server.json").write_text(text)
    assert find_running_server(running) is None


def test_without_a_server_it_says_how_to_start_one(home, capsys):
    assert run(["ls"]) == 1
    assert capsys.readouterr().err == (
        f"Error: No Fust server runs on {home}. "
        "Start one with `fust up -d`, or name another with --url or FUST_URL.\n"
    )


def test_errors_are_json_when_asked_for(home, capsys):
    assert run(["--json", "ls"]) == 1
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == "unavailable" and "fust up -d" in error["hint"]


def test_options_may_stand_before_or_after_the_verb(home, capsys, tmp_path):
    other = tmp_path / "other"
    for arguments in (["--home", str(other), "ps"], ["ps", "--home", str(other)]):
        assert run(arguments) == 1
        assert str(other) in capsys.readouterr().err


def test_wrong_use_is_2(home, capsys):
    assert run(["pul", "x/y"]) == 2
    assert "Did you mean `fust pull`?" in capsys.readouterr().err
    assert run(["pull"]) == 2
    assert run(["ps", "--nonsense"]) == 2
    assert run(["jobs", "--cancel"]) == 2


def test_errors_are_in_the_terminal_s_language(home, capsys, monkeypatch):
    monkeypatch.setenv("FUST_LANG", "zh")
    assert run(["ps"]) == 1
    assert capsys.readouterr().err.startswith("错误： ".strip() + " ")


def test_the_home_s_key_goes_to_the_home_s_server_only(running):
    assert CLI()._home_token() == "fust_secret"
    assert CLI(url="http://127.0.0.1:9")._home_token() == "fust_secret"
    assert CLI(url="http://evil.example")._home_token() == ""


def test_a_server_that_does_not_answer_is_one_clear_line(running):
    with pytest.raises(Unavailable, match=r"http://127.0.0.1:9 does not answer \(.*refused.*\)"):
        CLI().client().status()


def test_tables_align_wide_characters():
    assert table(["name", "x"], [["模型", "1"], ["a", "22"]]) == "NAME  X\n模型  1\na     22"


def test_progress_in_words():
    assert show_progress(None) == ""
    assert show_progress(Progress(5, 10, "items")) == "50% (5 of 10)"
    assert show_progress(Progress(10**9, 2 * 10**9, "bytes", rate=1e8, eta_s=10)) == (
        "50% (1 GB of 2 GB, 100 MB/s, 10 s left)"
    )
    assert show_progress(Progress(1_234_567, 2_000_000, "items", rate=0.171343)) == (
        "62% (1,234,567 of 2,000,000, 0.171/s)"
    )
    assert ago(None) == "-" and ago("2020-01-02T03:04:05.000Z") == "2020-01-02"
