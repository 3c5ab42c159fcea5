"""A tuning run on a real server: its process killed, the server killed, paused and resumed, and the bits are the same."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import start_fust
from tests.support.tiny_bases import write_base, write_documents, write_rows

pytest.importorskip("peft", reason="peft is not installed (pip install 'fust[tune]')")
pytestmark = pytest.mark.faults
STEPS = 150


def run_of(server, run_id):
    return json.loads(server.request("GET", f"/fust/v1/runs/{run_id}")[2])


def wait(server, run_id, check, timeout_s=150.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        run = run_of(server, run_id)
        assert run["state"] != "failed", run["error"]
        if check(run):
            return run
        time.sleep(0.1)
    raise AssertionError(f"waited {timeout_s} s: {run_of(server, run_id)}")


def start(server, name, **more):
    params = {
        "base": "admin/base",
        "data": "admin/rows",
        "to": f"admin/{name}",
        "steps": STEPS,
        "precision": "fp32",
    } | more
    status, _, body = server.request("POST", "/fust/v1/runs", {"kind": "tune", "params": params})
    assert status == 201, body
    return json.loads(body)["id"]


def steps_done(run):
    progress = run["progress"]
    return progress["done"] if progress and progress["unit"] == "steps" else 0


def kill_worker(server, run_id):
    process = json.loads((server.home / "runs" / run_id / "process.json").read_text())
    os.killpg(process["group"], signal.SIGKILL)


def test_what_begins_from_nothing_ends_in_the_same_bits_too(tmp_path: Path) -> None:
    """Killed while the tokenizer and the first weights are made, and again between two steps."""
    server = start_fust(tmp_path / "home", jobs__cores=1)
    try:
        rows = write_documents(tmp_path / "rows.jsonl")
        server.cli("push", str(rows), "admin/rows", "--type", "dataset")
        wish = {"method": "pretrain", "base": "", "steps": 60}
        calm = wait(server, start(server, "calm", **wish), lambda run: run["state"] == "succeeded")
        rough = start(server, "rough", **wish)
        work = server.home / "runs" / rough / "work"
        wait(server, rough, lambda _: (work / "base.tmp").exists() or (work / "base").exists())
        kill_worker(server, rough)
        wait(server, rough, lambda run: steps_done(run) > 20)
        kill_worker(server, rough)
        ended = wait(server, rough, lambda run: run["state"] == "succeeded")
        for it in ("weights_sha256", "recipe"):
            assert ended["result"][it] == calm["result"][it]
    finally:
        server.stop()


def test_killed_paused_and_left_alone_it_ends_in_the_bits_of_an_undisturbed_run(tmp_path: Path) -> None:
    server = start_fust(tmp_path / "home", jobs__cores=1)
    try:
        server.cli("push", str(write_base(tmp_path / "base")), "admin/base")
        server.cli("push", str(write_rows(tmp_path / "rows.jsonl")), "admin/rows", "--type", "dataset")
        undisturbed = wait(server, start(server, "calm"), lambda run: run["state"] == "succeeded")

        disturbed = start(server, "rough")
        wait(server, disturbed, lambda run: steps_done(run) > 10)
        kill_worker(server, disturbed)  # before any but the first checkpoint
        wait(server, disturbed, lambda run: run["state"] == "running" and steps_done(run) > 30)
        server.request("POST", f"/fust/v1/runs/{disturbed}/cancel")
        wait(server, disturbed, lambda run: run["state"] == "cancelled")
        status, _, body = server.request("POST", f"/fust/v1/runs/{disturbed}/resume")
        assert status == 200, body
        wait(server, disturbed, lambda run: run["state"] == "running")
        server.kill()  # the run goes on, and the next server finds it
        server = start_fust(tmp_path / "home", jobs__cores=1)
        ended = wait(server, disturbed, lambda run: run["state"] == "succeeded")

        assert ended["result"]["weights_sha256"] == undisturbed["result"]["weights_sha256"]
        assert ended["result"]["trained"]["steps"] == STEPS
        log = server.request("GET", "/admin/rough/resolve/main/training_log.jsonl")[2].splitlines()
        calm = server.request("GET", "/admin/calm/resolve/main/training_log.jsonl")[2].splitlines()
        losses = [[json.loads(line)["loss"] for line in lines] for lines in (log, calm)]
        assert losses[0] == losses[1] and len(losses[0]) == STEPS
        assert server.request("POST", f"/fust/v1/runs/{disturbed}/resume")[0] == 409
    finally:
        server.stop()


def test_a_machine_that_stops_at_once_costs_nothing_of_it(tmp_path: Path) -> None:
    """Server and run are killed together, as without power; the next server goes on from the checkpoint, each way in finds it."""
    server = start_fust(tmp_path / "home", jobs__cores=1)
    try:
        server.cli("push", str(write_base(tmp_path / "base")), "admin/base")
        server.cli("push", str(write_rows(tmp_path / "rows.jsonl")), "admin/rows", "--type", "dataset")
        calm = wait(server, start(server, "calm"), lambda run: run["state"] == "succeeded")["result"]
        run_id = start(server, "rough")
        wait(server, run_id, lambda run: steps_done(run) > 10)
        server.request("POST", f"/fust/v1/runs/{run_id}/cancel")  # which leaves a checkpoint
        wait(server, run_id, lambda run: run["state"] == "cancelled")
        assert server.request("POST", f"/fust/v1/runs/{run_id}/resume")[0] == 200
        wait(server, run_id, lambda run: run["state"] == "running" and steps_done(run) > 40)
        server.process.kill()
        kill_worker(server, run_id)
        server.kill()
        server = start_fust(tmp_path / "home", jobs__cores=1)
        assert run_id in server.cli("jobs").stdout
        assert run_of(server, run_id)["state"] in ("queued", "running")
        assert server.request("GET", f"/fust/v1/tune/runs/{run_id}")[0] == 200, "its page is drawn of it"
        ended = wait(server, run_id, lambda run: run["state"] == "succeeded")["result"]
        assert ended["weights_sha256"] == calm["weights_sha256"]
        said = server.request("GET", f"/fust/v1/runs/{run_id}/events")[2].decode()
        assert said.count("Going on from step") == 2 and "Going on from step 0." not in said
        lines = server.request("GET", f"/fust/v1/tune/runs/{run_id}/points.csv")[2].decode().splitlines()[1:]
        assert [int(line.split(",")[0]) for line in lines] == list(range(1, STEPS + 1))
    finally:
        server.stop()


def test_paused_ended_early_and_extended_through_kills_of_run_and_server(tmp_path: Path) -> None:
    """A new server finds a paused run and ends it; what goes on from it ends in the same bits, killed or not."""
    server = start_fust(tmp_path / "home", jobs__cores=1)
    try:
        server.cli("push", str(write_base(tmp_path / "base")), "admin/base")
        server.cli("push", str(write_rows(tmp_path / "rows.jsonl")), "admin/rows", "--type", "dataset")
        first = start(server, "early", steps=20_000)
        wait(server, first, lambda run: steps_done(run) > 10)
        server.request("POST", f"/fust/v1/runs/{first}/cancel")
        wait(server, first, lambda run: run["state"] == "cancelled")
        server.kill()
        server = start_fust(tmp_path / "home", jobs__cores=1)
        assert server.request("POST", f"/fust/v1/runs/{first}/end-early")[0] == 200
        ended = wait(server, first, lambda run: run["state"] == "succeeded")
        assert 10 < ended["result"]["trained"]["steps"] < 20_000

        def extend() -> str:
            body = {"kind": "tune", "params": {"extends": first, "steps": 80}}
            return json.loads(server.request("POST", "/fust/v1/runs", body)[2])["id"]

        calm = wait(server, extend(), lambda run: run["state"] == "succeeded")["result"]
        rough = extend()
        wait(server, rough, lambda run: steps_done(run) > ended["result"]["trained"]["steps"] + 20)
        kill_worker(server, rough)
        again = wait(server, rough, lambda run: run["state"] == "succeeded")["result"]
        assert again["weights_sha256"] == calm["weights_sha256"] != ended["result"]["weights_sha256"]
        assert again["trained"]["steps"] == ended["result"]["trained"]["steps"] + 80
    finally:
        server.stop()


def test_base_and_data_that_change_during_the_run_change_nothing(tmp_path: Path) -> None:
    """Other weights and other rows are pushed once the training goes, and its process is killed: the same bits come out."""
    server = start_fust(tmp_path / "home", jobs__cores=1)
    try:
        server.cli("push", str(write_base(tmp_path / "base")), "admin/base")
        server.cli("push", str(write_rows(tmp_path / "rows.jsonl")), "admin/rows", "--type", "dataset")
        calm = wait(server, start(server, "calm"), lambda run: run["state"] == "succeeded")["result"]
        run_id = start(server, "rough")
        wait(server, run_id, lambda run: steps_done(run) > 5)
        server.cli("push", str(write_base(tmp_path / "other", seed=1)), "admin/base")
        rows = write_rows(tmp_path / "other" / "rows.jsonl", start=500)
        server.cli("push", str(rows), "admin/rows", "--type", "dataset")
        kill_worker(server, run_id)
        ended = wait(server, run_id, lambda run: run["state"] == "succeeded")["result"]
        for it in ("weights_sha256", "recipe"):
            assert ended[it] == calm[it]
        after = wait(server, start(server, "after", steps=1), lambda run: run["state"] == "succeeded")
        for it in ("base_revision", "data_revision", "data_key"):
            assert after["result"]["recipe"][it] != calm["recipe"][it], "the changes were real"
    finally:
        server.stop()


def peers_of(server, run_id):
    """Returns the run's process and the others that it started."""
    process = json.loads((server.home / "runs" / run_id / "process.json").read_text())
    return psutil.Process(process["pid"]), psutil.Process(process["pid"]).children()


def test_two_processes_end_in_the_same_bits_whichever_is_killed(tmp_path: Path) -> None:
    """The second is killed, then the first, which takes the others along; paused and resumed besides."""
    server = start_fust(tmp_path / "home", jobs__cores=2)
    try:
        server.cli("push", str(write_base(tmp_path / "base")), "admin/base")
        server.cli("push", str(write_rows(tmp_path / "rows.jsonl")), "admin/rows", "--type", "dataset")
        calm = wait(server, start(server, "calm", processes=2), lambda run: run["state"] == "succeeded")
        rough = start(server, "rough", processes=2)
        wait(server, rough, lambda run: steps_done(run) > 10)
        first, [second] = peers_of(server, rough)
        second.kill()
        wait(server, rough, lambda _: not first.is_running())
        wait(server, rough, lambda run: run["state"] == "running" and steps_done(run) > 30)
        first, [second] = peers_of(server, rough)
        first.kill()
        wait(server, rough, lambda _: not second.is_running(), timeout_s=10)
        ended = wait(server, rough, lambda run: run["state"] == "succeeded")["result"]
        for it in ("weights_sha256", "recipe"):
            assert ended[it] == calm["result"][it]
        assert (ended["recipe"]["processes"], ended["recipe"]["threads"]) == (2, 1)
        said = server.request("GET", f"/fust/v1/runs/{rough}/events")[2].decode()
        assert "Process 2 of 2 was ended by signal 9; going on from the newest checkpoint." in said
        card = server.request("GET", "/admin/rough/resolve/main/README.md")[2].decode()
        assert "2 processes with 1 threads each" in card and "2 个进程" in card
    finally:
        server.stop()


def test_base_and_data_that_go_away_during_the_run_cost_it_nothing(tmp_path: Path) -> None:
    """Both are deleted once the training goes, and its process is killed: it goes on from what it linked, and publishes."""
    server = start_fust(tmp_path / "home", jobs__cores=1)
    try:
        base = write_base(tmp_path / "base")
        (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
        server.cli("push", str(base), "admin/base")
        server.cli("push", str(write_rows(tmp_path / "rows.jsonl")), "admin/rows", "--type", "dataset")
        run_id = start(server, "kept")
        wait(server, run_id, lambda run: steps_done(run) > 5)
        for kind, name in (("model", "base"), ("dataset", "rows")):
            body = {"type": kind, "name": name, "organization": "admin"}
            assert server.request("DELETE", "/api/repos/delete", body)[0] == 200
        kill_worker(server, run_id)
        wait(server, run_id, lambda run: run["state"] == "succeeded")
        card = server.request("GET", "/admin/kept/resolve/main/README.md")[2]
        assert b"license: apache-2.0" in card
        status, _, body = server.request(
            "POST", "/fust/v1/runs", {"kind": "tune", "params": {"extends": run_id, "steps": 5}}
        )
        assert status == 404 and b"admin/base" in body, "what is gone is said before compute is spent"
    finally:
        server.stop()
