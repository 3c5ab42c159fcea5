"""What serving would take, told before it is done: the very choice that a deployment then makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from huggingface_hub import HfApi

from fust.formats.gguf_quantise import quantise_gguf
from tests.conftest import REPOSITORY, RunningFust
from tests.support.small_models import write_llama


def plan(server: RunningFust, repo_id: str, status: int = 200, **more: Any) -> dict[str, Any]:
    got, _, body = server.request("GET", f"/fust/v1/deployments/plan?repo_id={quote(repo_id)}", **more)
    assert got == status, body
    return json.loads(body)


@pytest.fixture(scope="module")
def api(server: RunningFust) -> HfApi:
    return HfApi(server.url, token=server.token)


def ask(server: RunningFust, method: str, path: str, body: object = None) -> Any:
    status, _, answer = server.request(method, path, body)
    assert status < 300, answer
    return json.loads(answer) if answer else None


def push(api: HfApi, repo_id: str, files: dict[str, bytes | Path], **more: Any) -> None:
    api.create_repo(repo_id, **more)
    for name, content in files.items():
        api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id=repo_id)


def test_the_plan_is_what_a_deployment_then_does(server: RunningFust, api: HfApi, tmp_path: Path) -> None:
    half, eighth = tmp_path / "m-F16.gguf", tmp_path / "m-Q8_0.gguf"
    write_llama(half, layers=2, width=256, feed_forward=512, vocabulary=4000, half=True)
    quantise_gguf(half, eighth, "Q8_0")
    push(api, "admin/plan-two", {"m-F16.gguf": half, "m-Q8_0.gguf": eighth})
    told = plan(server, "admin/plan-two")
    assert [(it["file"], it["engine"], it["chosen"]) for it in told["items"]] == [
        ("m-F16.gguf", "llamacpp", True),
        ("m-Q8_0.gguf", "llamacpp", False),
    ]
    assert all(it["fits"] == "yes" and it["memory_bytes"] > it["size_bytes"] for it in told["items"])
    assert told["items"][0]["memory_bytes"] > told["items"][1]["memory_bytes"]
    assert told["error"] is None and told["room_bytes"] > 0
    assert not any("plan-two" in it["name"] for it in ask(server, "GET", "/fust/v1/deployments")["items"])

    made = ask(server, "POST", "/fust/v1/deployments", {"repo_id": "admin/plan-two"})
    loaded = ask(server, "POST", f"/fust/v1/deployments/{made['id']}/load")
    while loaded["state"] == "loading":
        loaded = ask(server, "GET", f"/fust/v1/deployments/{made['id']}")
    assert loaded["state"] == "ready"
    chosen = told["items"][0]
    assert (loaded["file"], loaded["engine"]) == (chosen["file"], chosen["engine"])
    assert (loaded["context"], loaded["slots"]) == (chosen["context"], chosen["slots"])
    assert loaded["why"] == told["why"]
    ask(server, "DELETE", f"/fust/v1/deployments/{made['id']}")


def test_safetensors_and_gguf_are_both_told(server: RunningFust, api: HfApi) -> None:
    starter = REPOSITORY / "src/fust/app/starter"
    api.create_repo("admin/plan-both")
    api.upload_folder(
        folder_path=starter,
        repo_id="admin/plan-both",
        allow_patterns=["*.safetensors", "*.gguf", "*.json", "*.jinja"],
    )
    told = plan(server, "admin/plan-both")
    engines = {it["engine"]: it for it in told["items"]}
    assert engines["llamacpp"]["chosen"] and engines["llamacpp"]["context"] > 0
    assert engines["transformers"]["error"] is None and engines["transformers"]["memory_bytes"] > 0
    zh = plan(server, "admin/plan-both", headers={"accept-language": "zh-CN"})
    assert zh["why"] != told["why"]


def test_what_cannot_be_served_says_why(server: RunningFust, api: HfApi) -> None:
    push(api, "admin/plan-pickle", {"pytorch_model.bin": b"x"})
    assert "never loaded" in plan(server, "admin/plan-pickle")["error"]
    push(api, "admin/plan-rubbish", {"a.gguf": b"GGUF" + b"\xff" * 60})
    (item,) = plan(server, "admin/plan-rubbish")["items"]
    assert item["error"] and not item["chosen"]
    config = json.dumps({"base_model_name_or_path": "some/base", "peft_type": "LORA"}).encode()
    push(api, "admin/plan-adapter", {"adapter_config.json": config, "adapter_model.safetensors": b"x"})
    told = plan(server, "admin/plan-adapter")
    assert (told["items"], told["bases"], told["error"]) == ([], ["some/base"], None)
    assert plan(server, "no/such", status=404)["type"].endswith("repo_not_found")


def test_what_is_too_large_is_told_with_what_it_needs(fust_factory: Any, tmp_path: Path) -> None:
    small = fust_factory(serve__memory_bytes=60_000_000, serve__starter=False)
    file = tmp_path / "large.gguf"
    write_llama(file, layers=2, width=512, feed_forward=2048, vocabulary=16_000, half=True)
    push(HfApi(small.url, token=small.token), "admin/large", {"large.gguf": file})
    told = plan(small, "admin/large")
    (item,) = told["items"]
    assert item["fits"] == "no" and item["memory_bytes"] > told["room_bytes"] and not item["chosen"]
    for lang, said in (("en", "even for one request of 1024 tokens"), ("zh", "即使")):
        small.environ["FUST_LANG"] = lang
        refused = small.cli("serve", "admin/large", check=False)
        assert refused.returncode == 1 and said in refused.stderr and "serve.memory_bytes" in refused.stderr
        assert "fust quantize admin/large --to q4_k_m" in refused.stderr
        shown = small.request("GET", "/fust/v1/deployments", headers={"accept-language": lang})[2]
        (deployment,) = json.loads(shown)["items"]
        assert deployment["state"] == "failed" and said in deployment["error"]
