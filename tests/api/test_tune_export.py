"""`fust export`, `merge` and `quantize` on a real server, alone and as options of a tuning; and in folders without one."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fust.formats import read_gguf
from tests.api.test_adapters import Traffic
from tests.conftest import RunningFust, start_fust
from tests.support.tiny_bases import write_base, write_pairs

pytest.importorskip("peft", reason="peft is not installed (pip install 'fust[tune]')")
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is deprecated:FutureWarning"
)  # peft and transformers, of one another


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFust]:
    """A server with a base, and an adapter that was tuned on preferences, with whole weights and a GGUF file beside it."""
    folder = tmp_path_factory.mktemp("export")
    running = start_fust(folder / "home", jobs__cores=1)
    base = write_base(folder / "base")
    (base / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [sw]\n---\n# Base\n")
    running.cli("push", str(base), "admin/base")
    running.cli("push", str(write_pairs(folder / "pairs.jsonl")), "admin/rows", "--type", "dataset")
    arguments = ["--method", "dpo", "--data", "admin/rows", "--to", "admin/lora", "--merge", "--gguf", "q8_0"]
    done = running.cli("tune", "admin/base", *arguments, "--set", "steps=8", "--set", "learning_rate=0.02")
    assert "Of the held-out pairs" in done.stdout
    assert "admin/lora-merged is in the hub." in done.stdout and "lora-Q8_0.gguf" in done.stdout
    yield running
    running.stop()


def fetch(house: RunningFust, repo_id: str, folder: Path) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo_id, endpoint=house.url, token=house.token, local_dir=folder / repo_id))


def result_of(house: RunningFust, *arguments: str) -> dict:
    done = house.cli("--json", *arguments, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)["result"]


def test_a_tuning_leaves_whole_weights_and_gguf_beside_its_adapter(house, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, adapter = fetch(house, "admin/base", tmp_path), fetch(house, "admin/lora", tmp_path)
    merged = fetch(house, "admin/lora-merged", tmp_path)
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    whole = AutoModelForCausalLM.from_pretrained(merged).eval()
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(whole(ids).logits, tuned(ids).logits, rtol=1e-4, atol=1e-5)
        with tuned.disable_adapter():
            assert not torch.allclose(whole(ids).logits, tuned(ids).logits, atol=1e-3)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        assert (merged / name).read_bytes() == (base / name).read_bytes()
    card = (merged / "README.md").read_text()
    for said in ("base_model: admin/lora", "base_model_relation: merge", "license: apache-2.0", "admin/base"):
        assert said in card, said
    gguf = fetch(house, "admin/lora-GGUF", tmp_path)
    header = read_gguf(gguf / "lora-Q8_0.gguf")
    assert (header.architecture, header.file_type) == ("llama", "Q8_0")
    assert header.text("general.license") == "apache-2.0"
    digest = hashlib.sha256((gguf / "lora-Q8_0.gguf").read_bytes()).hexdigest()
    assert digest in (gguf / "README.md").read_text()


def test_an_adapter_of_the_hub_is_exported_through_the_base_that_it_names(house, tmp_path):
    result = result_of(
        house, "export", "admin/lora", "--to", "F16", "--to", "Q4_K_M", "--into", "admin/laptop"
    )
    assert sorted(result["files"]) == ["lora-F16.gguf", "lora-Q4_K_M.gguf"]
    folder = fetch(house, "admin/laptop", tmp_path)
    for name, digest in result["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    # Quantised again from the F16 file that is there now, into the same repo; its card stays.
    card = (folder / "README.md").read_text()
    again = result_of(house, "quantize", "admin/laptop", "--to", "Q6_K")
    assert again["repo_id"] == "admin/laptop" and list(again["files"]) == ["laptop-Q6_K.gguf"]
    after = fetch(house, "admin/laptop", tmp_path / "again")
    assert sorted(p.name for p in after.glob("*.gguf")) == [
        "laptop-Q6_K.gguf",
        "lora-F16.gguf",
        "lora-Q4_K_M.gguf",
    ]
    assert (after / "README.md").read_text() == card


def ask(house: RunningFust, model: str) -> dict:
    body = {"model": model, "prompt": "Say moon", "max_tokens": 1, "logprobs": 5, "temperature": 0}
    status, _, answer = house.request("POST", "/v1/completions", body)
    assert status == 200, answer
    return json.loads(answer)["choices"][0]["logprobs"]


def test_the_adapter_of_a_served_base_answers_at_once(house):
    """From one deployment, which nobody starts again; one more is tuned while clients ask the base, and none is refused."""
    house.cli("export", "admin/base", "--to", "F32")
    house.cli("serve", "admin/base-GGUF")
    before = ask(house, "admin/base-GGUF")
    [deployment] = json.loads(house.request("GET", "/fust/v1/deployments")[2])["items"]
    tuned = ask(house, "admin/lora")
    assert tuned != before and ask(house, "admin/base-GGUF") == before
    with Traffic(house, ["admin/base-GGUF"] * 2, tokens=60) as traffic:
        dials = [
            "--data",
            "admin/rows",
            "--to",
            "admin/fresh",
            "--set",
            "steps=8",
            "--set",
            "learning_rate=0.02",
        ]
        house.cli("tune", "admin/base", "--method", "dpo", *dials, "--set", "seed=3")
        assert ask(house, "admin/fresh") not in (before, tuned)
    assert traffic.failures == [] and traffic.answered > 20
    [after] = json.loads(house.request("GET", "/fust/v1/deployments")[2])["items"]
    assert after["id"] == deployment["id"]
    house.cli("stop", "admin/base-GGUF")


def test_a_model_answers_from_its_exported_file(house):
    """The hub's own API answers from a file that was made here."""
    result = result_of(house, "export", "admin/lora-merged", "--to", "F32", "--into", "admin/served")
    assert list(result["files"]) == ["lora-merged-F32.gguf"]
    house.cli("serve", "admin/served")
    body = {"model": "admin/served", "messages": [{"role": "user", "content": "Say moon"}], "max_tokens": 4}
    status, _, answer = house.request("POST", "/v1/chat/completions", body)
    assert status == 200, answer
    assert json.loads(answer)["usage"]["completion_tokens"] >= 1
    house.cli("stop", "admin/served")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "admin/rowless", "--to", "F16"], "admin/rowless"),
        (["merge", "admin/base"], "is no adapter"),
        (["merge", "admin/lora", "--base", "admin/nowhere"], "admin/nowhere"),
        (["quantize", "admin/lora-GGUF", "--to", "Q4_K_M"], "quantised already"),
        (["export", "admin/lora", "--to", "Q4_K_M", "--out", "x"], "--out is for files and folders here"),
        (["export", "admin/lora", "--to", "Q3"], "Q3"),
    ],
)
def test_what_cannot_be_is_said(house, arguments, said):
    done = house.cli(*arguments, check=False)
    assert done.returncode != 0 and said in done.stderr, done.stderr


def test_a_file_that_could_not_be_written_is_refused_before_the_training(house, tmp_path):
    base = write_base(tmp_path / "odd")
    path = base / "tokenizer.json"
    path.write_text(path.read_text().replace('"ByteLevel"', '"Whitespace"', 1))
    house.cli("push", str(base), "admin/odd")
    arguments = ["--data", "admin/rows", "--to", "admin/x", "--gguf", "F16", "--set", "steps=1"]
    done = house.cli("tune", "admin/odd", *arguments, check=False)
    assert done.returncode == 1 and "cannot be written as GGUF" in done.stderr
    assert house.request("GET", "/api/models/admin/x")[0] == 404


def test_preferences_were_learned_and_the_card_says_so(house, tmp_path):
    folder = fetch(house, "admin/lora", tmp_path)
    card = (folder / "README.md").read_text()
    assert "by preferences (DPO, beta 0.1)" in card and "Held-out pairs judged right" in card
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert len(log) == 8 and log[0]["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert log[-1]["reward_margin"] > 0.01 and log[-1]["reward_accuracy"] > 0.5
    [run] = [r for r in json.loads(house.request("GET", "/fust/v1/runs")[2])["items"] if r["kind"] == "tune"][
        -1:
    ]
    assert run["result"]["trained"]["held_out_accuracy"] is not None
    shown = {view["side"]: (view["tokens"], view["learned"]) for view in run["result"]["preview"][:2]}
    said = {side: "".join(t for t, flag in zip(*view, strict=True) if flag) for side, view in shown.items()}
    assert said == {"chosen": "moon moon it is.<|im_end|>", "rejected": "moon again again<|im_end|>"}


def test_what_holds_a_private_base_is_private(house, tmp_path):
    house.cli("push", str(write_base(tmp_path / "secret")), "admin/secret", "--private")
    house.cli("merge", "admin/lora", "--base", "admin/secret", "--into", "admin/mixed")
    assert json.loads(house.request("GET", "/api/models/admin/mixed")[2])["private"] is True
    assert json.loads(house.request("GET", "/api/models/admin/lora-merged")[2])["private"] is False


def test_folders_need_no_server(house, tmp_path):
    base, adapter = write_base(tmp_path / "base"), fetch(house, "admin/lora", tmp_path)
    arguments = ["merge", str(adapter), "--base", str(base), "--out", str(tmp_path / "whole")]
    house.cli(*arguments)
    assert (tmp_path / "whole" / "model.safetensors").stat().st_size == (
        base / "model.safetensors"
    ).stat().st_size
    made = json.loads(house.cli("--json", "export", str(tmp_path / "whole"), "--to", "f16").stdout)
    [path] = made["files"]
    assert path.endswith("whole-F16.gguf") and read_gguf(Path(path)).file_type == "F16"
    small = house.cli("quantize", path, "--to", "Q8_0", "--out", str(tmp_path / "small")).stdout.strip()
    assert read_gguf(Path(small)).file_type == "Q8_0"
    done = house.cli("merge", str(adapter), "--base", str(base), check=False)
    assert done.returncode == 2 and "--out" in done.stderr


@pytest.mark.faults
def test_what_could_not_be_made_of_a_published_result_is_made_when_the_run_is_resumed(house):
    """The adapter is in the hub and its export fails: the resumed run trains nothing and publishes nothing twice."""
    params = {
        "base": "admin/base",
        "data": "admin/rows",
        "to": "admin/again",
        "method": "dpo",
        "steps": 3,
        "merge": True,
        "gguf": ["F16"],
    }
    body = {"kind": "tune", "params": params}
    run_id = json.loads(house.request("POST", "/fust/v1/runs", body)[2])["id"]
    work = house.home / "runs" / run_id / "work"
    state_of(house, run_id, lambda run: run["state"] == "running" and work.exists())
    (work / "export").write_text("in the way")
    failed = state_of(house, run_id, lambda run: run["state"] in ("failed", "succeeded"))
    assert failed["state"] == "failed"
    commits = house.request("GET", "/api/models/admin/again/commits/main")[2]
    assert json.loads(commits), "the adapter is published"
    for ending in ("merged", "GGUF"):
        assert house.request("GET", f"/api/models/admin/again-{ending}")[0] == 404
    (work / "export").unlink()
    assert house.request("POST", f"/fust/v1/runs/{run_id}/resume")[0] == 200
    run = state_of(house, run_id, lambda run: run["state"] in ("failed", "succeeded"))
    assert run["state"] == "succeeded", run["error"]
    made = [made["repo_id"] for made in run["result"]["made"]]
    assert made == ["admin/again-merged", "admin/again-GGUF"]
    assert house.request("GET", "/api/models/admin/again/commits/main")[2] == commits
    assert run["result"]["revision"] == json.loads(commits)[0]["id"]


def state_of(house: RunningFust, run_id: str, check: Callable[[dict], bool]) -> dict:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        run = json.loads(house.request("GET", f"/fust/v1/runs/{run_id}")[2])
        if check(run):
            return run
        time.sleep(0.02)
    raise AssertionError(f"waited two minutes: {run}")
