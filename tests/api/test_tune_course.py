"""A tuning that ends early and goes on later: what it has learned is published, says so, and is the start of more."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from fust.core.i18n import fill
from tests.conftest import RunningFust, start_fust
from tests.support.tiny_bases import write_base, write_rows

pytest.importorskip("peft", reason="peft is not installed (pip install 'fust[tune]')")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFust]:
    folder = tmp_path_factory.mktemp("course")
    running = start_fust(folder / "home", jobs__cores=1)
    running.cli("push", str(write_base(folder / "base")), "admin/base")
    running.cli("push", str(write_rows(folder / "rows.jsonl")), "admin/rows", "--type", "dataset")
    yield running
    running.stop()


def run_of(house: RunningFust, run_id: str) -> dict:
    return json.loads(house.request("GET", f"/fust/v1/runs/{run_id}")[2])


def wait(house: RunningFust, run_id: str, check: Callable[[dict], object], timeout_s: float = 90) -> dict:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        run = run_of(house, run_id)
        assert run["state"] != "failed", run["error"]
        if check(run):
            return run
        time.sleep(0.1)
    raise AssertionError(f"waited {timeout_s} s: {run_of(house, run_id)}")


def steps_done(run: dict) -> float:
    progress = run["progress"]
    return progress["done"] if progress and progress["unit"] == "steps" else 0


@pytest.fixture(scope="module")
def ended(house: RunningFust) -> dict:
    """A run of 1000 steps that was asked to end after a few."""
    params = {
        "base": "admin/base",
        "data": "admin/rows",
        "to": "admin/early",
        "steps": 1000,
        "learning_rate": 0.01,
    }
    status, _, body = house.request("POST", "/fust/v1/runs", {"kind": "tune", "params": params})
    assert status == 201, body
    run_id = json.loads(body)["id"]
    wait(house, run_id, lambda run: steps_done(run) >= 60)
    said = house.cli("jobs", run_id, "--end-early").stdout
    assert "publishes what it has learned" in said
    return wait(house, run_id, lambda run: run["state"] == "succeeded")


def test_it_ends_at_the_next_step_and_its_card_says_so(house, ended):
    result = ended["result"]
    steps = result["trained"]["steps"]
    assert 60 <= steps < 900 and result["recipe"]["steps"] == 1000
    assert result["trained"]["held_out_loss"] < result["trained"]["first_held_out_loss"]
    card = house.request("GET", "/admin/early/resolve/main/README.md")[2].decode()
    assert f"stopped at step {steps} of 1000" in card and f"第 {steps} 步（共 1000 步）提前结束" in card
    log = house.request("GET", "/admin/early/resolve/main/training_log.jsonl")[2].splitlines()
    assert len(log) == steps
    assert house.request("POST", f"/fust/v1/runs/{ended['id']}/end-early")[0] == 409


def test_more_processes_than_cores_are_refused_and_an_extension_keeps_their_number(house, ended):
    wish = {"base": "admin/base", "data": "admin/rows", "to": "admin/many", "processes": 2}
    status, _, body = house.request("POST", "/fust/v1/runs", {"kind": "tune", "params": wish})
    assert status == 400 and b"processes is 2, and goes from 1 to 1" in body
    more = {"extends": ended["id"], "steps": 5, "processes": 2}
    status, _, body = house.request("POST", "/fust/v1/runs", {"kind": "tune", "params": more})
    assert status == 400 and b"processes cannot change" in body
    [reason] = [it for it in ended["result"]["reasons"] if it["name"] == "processes"]
    assert reason["value"] == "1" and "hold the model twice" in reason["why"]


def test_it_goes_on_to_a_new_revision_of_the_same_repo(house, ended):
    first = ended["result"]
    done = house.cli("--json", "tune", "--extend", ended["id"], "--set", "steps=15").stdout
    result = json.loads(done)["result"]
    begun = first["trained"]["steps"]
    assert result["recipe"]["extends"]["run"] == ended["id"]
    assert (result["recipe"]["extends"]["step"], result["trained"]["steps"]) == (begun, begun + 15)
    assert result["repo_id"] == "admin/early" and result["revision"] != first["revision"]
    assert result["trained"]["first_held_out_loss"] == first["trained"]["first_held_out_loss"]
    assert result["trained"]["held_out_loss"] < first["trained"]["held_out_loss"]
    [reason] = [it for it in result["reasons"] if it["name"] == "learning_rate"]
    assert f"was at step {begun}" in fill(reason["why"], reason["params"])
    points = [
        json.loads(line)
        for line in house.request("GET", "/admin/early/resolve/main/training_log.jsonl")[2].splitlines()
    ]
    assert [point["step"] for point in points] == list(range(1, begun + 16))
    rates = [point["learning_rate"] for point in points[begun - 1 :]]
    assert rates[0] == pytest.approx(rates[1], rel=0.01), (
        "it was stopped while the rate was high, and goes on there"
    )
    assert rates[1:] == sorted(rates[1:], reverse=True) and rates[-1] < rates[1] / 5
    card = house.request("GET", "/admin/early/resolve/main/README.md")[2].decode()
    assert f"goes on from step {begun}" in card and "stopped at step" not in card
    commits = json.loads(house.request("GET", "/api/models/admin/early/commits/main")[2])
    assert [result["revision"], first["revision"]] == [it["id"] for it in commits[:2]]
    run = json.loads(house.request("GET", "/fust/v1/runs?limit=1", headers={"accept-language": "zh"})[2])[
        "items"
    ][0]
    assert run["title"] == "继续训练 admin/early"


def test_what_cannot_be_is_said(house, ended):
    for arguments, said in (
        (["--extend", ended["id"]], "How much more is not said"),
        (
            ["--extend", ended["id"], "--set", "learning_rate=1", "--budget", "1m"],
            "learning_rate cannot change",
        ),
        (["--extend", "r000", "--budget", "1m"], "There is no run 'r000'"),
        (["--extend", ended["id"], "--budget", "soon"], "'soon' is neither a time nor a number"),
        (["--extend", ended["id"], "--set", "steps=-3"], "steps is -3"),
        (["admin/base", "--extend", ended["id"], "--budget", "1m"], "name none of them"),
        (["admin/base", "--to", "admin/x"], "Say what to learn from with --data"),
    ):
        done = house.cli("tune", *arguments, check=False)
        assert done.returncode != 0 and said in done.stderr, done.stderr


def test_activations_are_computed_twice_where_memory_asks_for_it(tmp_path):
    """With room for a run of the base only so, it is on and says why; and by a word against it there is no run."""
    from fust.tune.base import BaseConfig
    from fust.tune.estimate import memory_needed

    base = write_base(tmp_path / "base", num_hidden_layers=8)
    config = msgspec.json.decode((base / "config.json").read_bytes(), type=BaseConfig)
    parameters = (base / "model.safetensors").stat().st_size // 4
    plain, twice = (memory_needed(config, parameters, 0, checkpointing=it) for it in (False, True))
    house = start_fust(tmp_path / "home", jobs__cores=1, jobs__memory_bytes=(plain + twice) // 2)
    try:
        house.cli("push", str(base), "admin/base")
        house.cli("push", str(write_rows(tmp_path / "rows.jsonl")), "admin/rows", "--type", "dataset")
        wish = ("tune", "admin/base", "--data", "admin/rows", "--to", "admin/x", "--method", "full")
        found = json.loads(house.request("GET", "/fust/v1/tune/bases?method=full")[2])["items"][0]
        assert found["fits"] and found["memory_bytes"] == pytest.approx(twice, rel=0.01)
        assert "activations computed twice" in found["reason"]
        result = json.loads(house.cli("--json", *wish, "--set", "steps=2").stdout)["result"]
        assert result["recipe"]["checkpointing"] is True and result["trained"]["steps"] == 2
        [why] = [it for it in result["reasons"] if it["name"] == "checkpointing"]
        assert why["value"] == "true" and "without it the run could take" in why["why"]
        refused = house.cli(*wish, "--set", "checkpointing=false", "--dry-run", check=False)
        assert refused.returncode == 1 and "runs may take" in refused.stderr
    finally:
        house.stop()


def test_a_result_that_is_worse_than_its_base_is_told(house):
    """A run too short for its loss to be followed, at a rate that breaks the weights."""
    dials = ("--set", "steps=3", "--set", "learning_rate=500")
    for rate, is_worse in ((dials, True), ((*dials[:3], "learning_rate=0.001"), False)):
        done = house.cli("tune", "admin/base", "--data", "admin/rows", "--to", "admin/broken", *rate)
        assert ("worse than its base" in done.stderr) is is_worse
        card = house.request("GET", "/admin/broken/resolve/main/README.md")[2].decode()
        assert ("it is worse than its base" in card) is ("不如基座模型" in card) is is_worse
