"""Engines that die, hang and crash again and again; servers that are killed; clients by the dozen that leave."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.model_house import House, running_house
from tests.support.small_models import write_repos

pytestmark = pytest.mark.faults
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repos(tmp_path_factory.mktemp("serve") / "models")


@pytest.fixture
def house(models: Path, tmp_path: Path) -> Iterator[House]:
    with running_house(tmp_path / "home", models, "serve.threads=1") as house:
        house.serve("acme/chat", alias="tiny")
        yield house


def long_stream(house: House, **more: Any) -> urllib.request.Request:
    body = {
        "model": "tiny",
        "messages": HELLO,
        "stream": True,
        "max_tokens": 1900,
        "ignore_eos": True,
        **more,
    }
    return urllib.request.Request(
        house.url + "/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {house.token}", "content-type": "application/json"},
    )


def ask(house: House) -> tuple[int, dict[str, Any]]:
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 2}
    status, _, answer = house.request("POST", "/v1/chat/completions", body)
    return status, json.loads(answer)


def state(house: House) -> dict[str, Any]:
    return house.json("GET", "/fust/v1/deployments")["items"][0]


def test_an_engine_killed_in_a_stream_ends_it_with_an_error(house: House) -> None:
    (pid,) = house.engine_pids()
    with urllib.request.urlopen(long_stream(house)) as answer:
        assert answer.readline().startswith(b"data: ")
        os.kill(pid, signal.SIGSTOP)  # else so small a model might be done before the kill
        os.kill(pid, signal.SIGKILL)
        lines = answer.read().strip().split(b"\n\n")
    error = json.loads(lines[-1].removeprefix(b"data: "))["error"]
    assert error["code"] == "engine_unavailable"
    assert error["type"] == "server_error"
    assert "started again" in error["message"]
    status, answer_json = ask(house)  # waits for the new engine
    assert status == 200, answer_json
    assert house.engine_pids() != [pid]


def test_an_engine_that_aborts_is_started_again(house: House) -> None:
    """As ggml does when an assertion fails; a debugger that it would call on itself first is not called."""
    (pid,) = house.engine_pids()
    assert psutil.Process(pid).environ()["GGML_NO_BACKTRACE"] == "1"
    with urllib.request.urlopen(long_stream(house)) as answer:
        assert answer.readline().startswith(b"data: ")
        os.kill(pid, signal.SIGABRT)
        last = answer.read().strip().split(b"\n\n")[-1]
    assert b"engine_unavailable" in last or last == b"data: [DONE]"
    assert ask(house)[0] == 200
    assert house.engine_pids() != [pid]
    log = next((house.home / "log").glob("*.log")).read_text(errors="replace")
    assert "gdb" not in log


def test_an_engine_killed_under_whole_answers_gives_502_or_an_answer(house: House) -> None:
    (pid,) = house.engine_pids()
    found: list[tuple[int, dict[str, Any]]] = []
    threads = [threading.Thread(target=lambda: found.append(ask(house))) for _ in range(8)]
    os.kill(pid, signal.SIGSTOP)
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.join(timeout=30)
    assert len(found) == 8
    for status, answer in found:
        assert status in (200, 502, 503)
        if status != 200:
            assert answer["error"]["code"] in ("engine_unavailable", "engine_died")
    assert ask(house)[0] == 200


def test_a_crash_loop_ends_in_failed_with_its_reason(house: House) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and state(house)["state"] != "failed":
        for pid in house.engine_pids():
            if psutil.pid_exists(pid) and state(house)["state"] == "ready":
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    found = state(house)
    assert found["state"] == "failed"
    assert "signal 9" in found["error"]
    status, answer = ask(house)
    assert (status, answer["error"]["code"]) == (503, "model_failed")
    assert "signal 9" in answer["error"]["message"]
    assert house.serve("acme/chat")["state"] == "ready"
    assert ask(house)[0] == 200


def test_a_hanging_engine_is_ended_and_replaced(house: House) -> None:
    (pid,) = house.engine_pids()
    os.kill(pid, signal.SIGSTOP)
    found: list[tuple[int, dict[str, Any]]] = []
    thread = threading.Thread(target=lambda: found.append(ask(house)))
    thread.start()
    thread.join(timeout=60)
    assert found
    assert found[0][0] in (200, 502)  # 200 when the request could go to the next engine
    assert ask(house)[0] == 200
    assert not psutil.pid_exists(pid)


def test_an_engine_that_is_stopped_while_it_is_idle_is_replaced_before_anybody_asks(house: House) -> None:
    (pid,) = house.engine_pids()
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid) or state(house)["state"] != "ready":
        assert time.monotonic() < deadline, state(house)
        time.sleep(0.1)
    assert ask(house)[0] == 200
    log = state(house)
    assert log["error"] is None


def test_a_scorer_that_is_stopped_is_replaced(house: House) -> None:
    body = {"model": "tiny", "prompt": "ba be", "max_tokens": 0, "echo": True, "logprobs": 1}
    before = set(house.engine_pids())
    scored = house.json("POST", "/v1/completions", body)["choices"]
    (pid,) = set(house.engine_pids()) - before
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert house.json("POST", "/v1/completions", body)["choices"] == scored
    assert before <= set(house.engine_pids())


def test_an_engine_that_is_stopped_in_a_stream_ends_it_with_an_error(house: House) -> None:
    (pid,) = house.engine_pids()
    with urllib.request.urlopen(long_stream(house), timeout=60) as answer:
        assert answer.readline().startswith(b"data: ")
        os.kill(pid, signal.SIGSTOP)
        error = json.loads(answer.read().strip().split(b"\n\n")[-1].removeprefix(b"data: "))["error"]
    assert error["code"] == "engine_unavailable" and "started again" in error["message"] + str(error)
    assert ask(house)[0] == 200
    assert not psutil.pid_exists(pid)


def test_engines_end_with_a_killed_server(models: Path, tmp_path: Path) -> None:
    house = House(tmp_path / "home", models, "serve.threads=1")
    house.serve("acme/chat", pin=True)
    (pid,) = house.engine_pids()
    house.kill()
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)
    with running_house(tmp_path / "home", models) as again:
        assert again.settled(state(again)["id"])["state"] == "ready"


def test_an_orphan_is_ended_at_the_next_start(models: Path, tmp_path: Path) -> None:
    """An engine that hangs hears of nothing: stopped, and with the kernel's help switched off, it outlives its server."""
    house = House(tmp_path / "home", models, "serve.threads=1", "serve.load_timeout_s=30")
    house.serve("acme/chat")
    (pid,) = house.engine_pids()
    record = next((house.home / "engines").glob("*.json"))
    kept = record.read_bytes()
    house.kill()
    assert json.loads(kept)["pid"] == pid
    # What the kernel ended already is put back as a process that holds the same lock.
    import subprocess
    import sys

    code = "import sys,time;from pathlib import Path;from fust.core.locks import FileLock;FileLock(Path(sys.argv[1])).acquire();print(1,flush=True);time.sleep(60)"
    orphan = subprocess.Popen(
        [sys.executable, "-c", code, str(record.with_suffix(".lock"))],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert orphan.stdout is not None
    orphan.stdout.readline()
    created = psutil.Process(orphan.pid).create_time()
    record.write_text(json.dumps({"engine_id": "x", "pid": orphan.pid, "created_s": created}))
    bystander = subprocess.Popen([sys.executable, "-c", "import time;time.sleep(60)"], start_new_session=True)
    (record.parent / "other.json").write_text(
        json.dumps(
            {"engine_id": "y", "pid": bystander.pid, "created_s": psutil.Process(bystander.pid).create_time()}
        )
    )
    with running_house(tmp_path / "home", models):
        assert orphan.wait(timeout=5) == -signal.SIGKILL
        assert bystander.poll() is None  # it holds no lock, so it is not an engine
    bystander.kill()
    bystander.wait()
    orphan.stdout.close()


def test_sixty_four_clients_that_leave_keep_no_slot_busy(house: House) -> None:
    request = long_stream(house)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(request.data or b'')}\r\n\r\n"  # type: ignore[arg-type]
    ).encode()
    clients = []
    for _ in range(64):
        client = socket.create_connection(("127.0.0.1", int(house.url.rsplit(":", 1)[1])))
        client.sendall(head + request.data)  # type: ignore[operator]
        clients.append(client)
    time.sleep(0.3)
    for client in clients:
        client.close()
    started = time.monotonic()
    assert ask(house)[0] == 200
    assert time.monotonic() - started < 10
    (pid,) = house.engine_pids()
    time.sleep(0.5)
    spent = psutil.Process(pid).cpu_times().user
    time.sleep(0.5)
    assert psutil.Process(pid).cpu_times().user - spent < 0.2


def test_garbage_for_a_model_takes_down_nothing(models: Path, tmp_path: Path) -> None:
    whole = (models / "acme/chat/chat.gguf").read_bytes()
    own = tmp_path / "models"
    for number, at in enumerate((8, 16, 24, 60, 200, 4000, 20_000)):
        path = own / f"acme/bad{number}/bad.gguf"
        path.parent.mkdir(parents=True)
        path.write_bytes(whole[:at] + os.urandom(64) + whole[at + 64 :])
    (own / "acme/chat").mkdir(parents=True)
    (own / "acme/chat/chat.gguf").write_bytes(whole)
    with running_house(tmp_path / "home", own, "serve.threads=1") as house:
        for number in range(7):
            status, _, answer = house.request(
                "POST", "/fust/v1/deployments", {"repo_id": f"acme/bad{number}"}
            )
            assert status in (201, 400), answer
            if status == 201:
                assert house.settled(json.loads(answer)["id"])["state"] in ("failed", "ready")
        assert house.serve("acme/chat", alias="tiny")["state"] == "ready"
        assert ask(house)[0] == 200
