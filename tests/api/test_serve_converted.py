"""Safetensors that llama.cpp serves: converted once on the way, kept, and never half."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.model_house import House, running_house
from tests.support.tiny_bases import write_base

torch = pytest.importorskip("torch", reason="the bases are made with torch")
from tests.support.hf_models import adapter_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is deprecated:FutureWarning"
)  # peft and transformers, of one another
FLAGS = ("serve.threads=1", "serve.context=512", "serve.slots=2")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("converted")
    write_base(root / "models/acme/llama")
    write_base(root / "models/acme/qwen", family="qwen3")
    folder = write_base(root / "models/acme/strange")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}  # a rule that llama.cpp has not
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return root


@pytest.fixture(scope="module")
def house(root: Path) -> Iterator[House]:
    with running_house(root / "home", root / "models", *FLAGS) as house:
        yield house


def made(house: House) -> list[Path]:
    return sorted((house.home / "engines" / "converted").iterdir())


def scores(house: House, model: str) -> list[float]:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 0, "echo": True, "logprobs": 0}
    found = house.json("POST", "/v1/completions", body)["choices"][0]["logprobs"]["token_logprobs"]
    return [value for value in found if value is not None]


PROMPT = "Say moon river 你好 bread 7 ocean"


def exact_scores(folder: Path, adapter: Path | None = None) -> list[float]:
    """Returns the same by transformers alone, in float32."""
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if adapter is not None:
        model = peft.PeftModel.from_pretrained(model, adapter).eval()
    ids = AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        found = torch.log_softmax(model(ids).logits[0, :-1], -1)
    return found.gather(1, ids[0, 1:, None])[:, 0].tolist()


@pytest.mark.parametrize("name", ["llama", "qwen"])
def test_it_writes_and_scores_as_its_safetensors(house: House, name: str) -> None:
    served = house.serve(f"acme/{name}")
    assert (served["state"], served["engine"]) == ("ready", "llamacpp"), served
    assert served["options"] == {"file_type": "F16"} and served["note"] is None
    assert served["why"][0].startswith("model.safetensors is converted to F16 (")
    chat = {"model": f"acme/{name}", "messages": [{"role": "user", "content": "Say moon"}], "max_tokens": 4}
    assert house.json("POST", "/v1/chat/completions", chat)["usage"]["completion_tokens"] > 0
    ours, exact = scores(house, f"acme/{name}"), exact_scores(house.models / "acme" / name)
    assert len(ours) == len(exact) > 6
    assert max(abs(a - b) for a, b in zip(ours, exact, strict=True)) < 3e-2


def test_adapters_go_beside_what_was_converted(house: House) -> None:
    """None, one, none, two, one: each scores as PEFT does and writes the same every time, on one slot's cache."""
    folder = house.models / "acme/llama"
    for name, seed in (("one", 4), ("two", 5)):
        adapter_of(folder, house.models / "acme" / name, seed=seed, std=0.5)
    served = house.serve("acme/llama")
    for name in ("one", "two"):
        house.json("POST", f"/fust/v1/deployments/{served['id']}/adapters", {"repo_id": f"acme/{name}"})
    said: dict[str, str] = {}
    for name in ("", ":one", "", ":two", ":one"):
        model = f"acme/llama{name}"
        exact = exact_scores(folder, house.models / "acme" / name[1:] if name else None)
        ours = scores(house, model)
        assert max(abs(a - b) for a, b in zip(ours, exact, strict=True)) < 5e-2
        body = {"model": model, "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
        text = house.json("POST", "/v1/completions", body)["choices"][0]["text"]
        assert said.setdefault(name, text) == text
    assert len(set(said.values())) == 3
    foreign = house.models / "acme/foreign"
    adapter_of(house.models / "acme/qwen", foreign)
    config = json.loads((foreign / "adapter_config.json").read_text())
    (foreign / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "acme/qwen"})
    )
    path = f"/fust/v1/deployments/{served['id']}/adapters"
    status, _, answer = house.request("POST", path, {"repo_id": "acme/foreign"})
    assert (status, json.loads(answer)["code"]) == (400, "other_base"), answer


@pytest.mark.slow
def test_the_other_engine_takes_it_over_when_asked(house: House) -> None:
    first = house.serve("acme/llama")
    ours = scores(house, "acme/llama")
    other = house.settled(house.serve("acme/llama", engine="transformers")["id"], 120)
    assert (other["id"], other["state"], other["engine"]) == (first["id"], "ready", "transformers")
    assert other["options"] == {}
    exact = scores(house, "acme/llama")
    assert max(abs(a - b) for a, b in zip(ours, exact, strict=True)) < 3e-2
    house.json("DELETE", f"/fust/v1/deployments/{other['id']}")


def test_what_llamacpp_reads_otherwise_stays_with_transformers(house: House) -> None:
    found = house.json("POST", "/fust/v1/deployments", {"repo_id": "acme/strange"})
    assert found["engine"] == "transformers"
    assert found["why"][0].startswith("model.safetensors is not converted for llama.cpp: "), found["why"]
    house.json("DELETE", f"/fust/v1/deployments/{found['id']}")
    status, _, answer = house.request(
        "POST", "/fust/v1/deployments", {"repo_id": "acme/strange", "engine": "llamacpp"}
    )
    assert (status, json.loads(answer)["code"]) == (400, "cannot_export")


def test_it_is_made_once(house: House) -> None:
    served = house.serve("acme/llama")
    inodes = {path.name: path.stat().st_ino for path in made(house)}
    house.json("DELETE", f"/fust/v1/deployments/{served['id']}")
    again = house.serve("acme/llama")
    assert again["state"] == "ready" and inodes
    assert {path.name: path.stat().st_ino for path in made(house)} == inodes
    house.json("DELETE", f"/fust/v1/deployments/{again['id']}")


def test_what_no_deployment_is_made_of_is_told_from_what_one_is(house: House) -> None:
    from fust.core.settings import load_settings
    from fust.serve.conversion import list_unused
    from fust.store.database import Database
    from tests.support.model_house import FolderFiles

    served = house.serve("acme/qwen")
    settings = load_settings(house.home, flags={"hub.keep_unreferenced_s": 0}, environ={})
    database, files = Database(settings.database_url), FolderFiles(house.models)
    try:
        others = set(list_unused(settings, database, files))
        house.json("DELETE", f"/fust/v1/deployments/{served['id']}")
        (unused,) = set(list_unused(settings, database, files)) - others
        assert unused in made(house)
        settings = load_settings(house.home, flags={}, environ={})
        assert list_unused(settings, database, files) == []  # a week has not gone by
    finally:
        database.close()


def wait_for(what: Any, within_s: float = 30.0) -> Any:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.002)
    raise AssertionError("it did not happen")


def writer_at_work(house: House) -> psutil.Process | None:
    """Returns the process that converts, once it has begun to write."""
    if not list(house.home.glob("engines/converted/*.part")):
        return None
    found = psutil.Process(house.process.pid).children(recursive=True)
    return next((it for it in found if "fust.serve.convert_child" in it.cmdline()), None)


@pytest.mark.faults
def test_a_kill_half_way_leaves_nothing_half(tmp_path: Path) -> None:
    write_base(
        tmp_path / "models/acme/big",
        hidden_size=512,
        intermediate_size=4096,
        num_hidden_layers=8,
        head_dim=64,
    )
    home, models = tmp_path / "home", tmp_path / "models"
    house = House(home, models, *FLAGS)
    try:
        deployment = house.json("POST", "/fust/v1/deployments", {"repo_id": "acme/big"})
        child = wait_for(lambda: writer_at_work(house))
        child.send_signal(signal.SIGSTOP)
        shown = house.json("GET", f"/fust/v1/deployments/{deployment['id']}")
        assert shown["state"] == "loading" and re.fullmatch(r"Converted to F16: \d{1,2} %\.", shown["note"])
        chat = {"model": "acme/big", "messages": [{"role": "user", "content": "x"}]}
        status, headers, answer = house.request("POST", "/v1/chat/completions", chat)
        assert (status, json.loads(answer)["error"]["code"]) == (503, "model_loading"), answer
        assert headers.get("retry-after") == "5"
        house.kill()
        wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    finally:
        house.kill()
    assert not [path for path in made(house) if path.suffix == ".gguf"]
    with running_house(home, models, *FLAGS) as house:
        house.request("POST", f"/fust/v1/deployments/{deployment['id']}/load")
        child = wait_for(lambda: writer_at_work(house))
        os.kill(child.pid, signal.SIGKILL)
        found = house.settled(deployment["id"])
        assert found["state"] == "failed" and "-9" in found["error"], found
        assert made(house) == []
        assert house.serve("acme/big")["state"] == "ready"
        assert [path.suffix for path in made(house)] == [".gguf"]


@pytest.mark.faults
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    from fust.core.errors import StorageFull
    from fust.core.settings import load_settings
    from fust.serve import conversion
    from fust.serve.engines.safetensors import list_safetensors
    from tests.support.model_house import FolderFiles

    write_base(tmp_path / "models/acme/m", hidden_size=256, intermediate_size=1024)
    files = FolderFiles(tmp_path / "models")
    tree = files.list_files("acme/m", "")
    (model,) = list_safetensors(tree)
    kept = conversion.Conversions(load_settings(tmp_path / "home", flags={}, environ={}), files)
    key = conversion.key_of(model, tree, "F16")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # EFBIG, as of a quota
    try:
        with pytest.raises(StorageFull) as full:
            kept.make("acme/m", "", model, "F16", key, lambda _: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert full.value.message("zh") != full.value.message("en")
    assert list(kept.folder.iterdir()) == []
    kept.make("acme/m", "", model, "F16", key, lambda _: None)
    assert [path.name for path in kept.folder.iterdir()] == [f"{key}.gguf"]
