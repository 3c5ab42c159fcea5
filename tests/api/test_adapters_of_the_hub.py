"""Adapters in the hub: the words of the command line, gates, a new name for the repo, and its end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.compat.test_hub_clients import run_client
from tests.conftest import RunningFust
from tests.support.small_adapters import write_lora_gguf, write_peft
from tests.support.small_models import write_llama

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_adapter_is_served_guarded_followed_and_forgotten(server: RunningFust, tmp_path: Path) -> None:
    write_llama(tmp_path / "base" / "m.gguf")
    write_peft(tmp_path / "lora", base="admin/base")
    (tmp_path / "lora/README.md").write_text("---\nbase_model: admin/base\n---\n")
    write_lora_gguf(tmp_path / "more/more.gguf", seed=2)
    (tmp_path / "more/README.md").write_text("---\nbase_model: admin/other\n---\n")
    run_client(
        server,
        tmp_path,
        """
from huggingface_hub import HfApi
api = HfApi()
for name in ("base", "lora", "more"):
    api.create_repo(f"admin/{name}")
    api.upload_folder(folder_path=name, repo_id=f"admin/{name}")
api.update_repo_settings("admin/lora", gated="manual")
""",
    )
    status, _, body = server.request("POST", "/fust/v1/users", {"name": "guest"})
    assert status in (201, 409), body
    status, _, body = server.request("POST", "/fust/v1/users/guest/tokens", {"name": "k", "scope": "write"})
    guest = json.loads(body)["token"]

    def ask(model: str, token: str = "") -> tuple[int, str]:
        wish = {"model": model, "prompt": "ba be", "max_tokens": 4, "temperature": 0}
        status, _, answer = server.request("POST", "/v1/completions", wish, token=token)
        body = json.loads(answer)
        return status, body["choices"][0]["text"] if status == 200 else body["error"]["code"]

    def adapters() -> list[str]:
        items = json.loads(server.request("GET", "/fust/v1/deployments")[2])["items"]
        return [a["repo_id"] for d in items for a in d["adapters"]]

    said = server.cli("serve", "admin/base", "--alias", "helper", "--adapter", "admin/lora").stdout
    assert "helper:lora: ready" in said
    assert "admin/base:lora" in server.cli("ps").stdout
    _, voice = ask("helper:lora")
    assert voice != ask("helper")[1]
    # Guests may use the base; the adapter's gate stands for every name of it.
    assert ask("helper", guest)[0] == 200
    for name in ("helper:lora", "admin/base:lora", "helper:admin/lora", "admin/lora"):
        assert ask(name, guest) == (403, "gated")
    shown = (
        server.request("GET", "/v1/models", token=guest)[2]
        + server.request("GET", "/fust/v1/deployments", token=guest)[2]
    )
    assert b"helper" in shown and b"lora" not in shown
    requests = "/api/models/admin/lora/user-access-request"
    assert server.request("POST", requests + "/grant", {"user": "guest"})[0] == 200
    assert ask("helper:lora", guest) == (200, voice)
    # The card of the other one names another base.
    status, _, answer = server.request(
        "POST", "/v1/completions", {"model": "helper:admin/more", "prompt": "a"}
    )
    assert status == 200, answer  # that base is not here, and shapes fit: nothing speaks against it
    server.cli("stop", "helper:more")
    # A new name is followed; the old one goes on.
    move = {"fromRepo": "admin/lora", "toRepo": "admin/renamed"}
    assert server.request("POST", "/api/repos/move", move)[0] == 200
    until(lambda: adapters() == ["admin/renamed"])
    for name in ("helper:lora", "helper:admin/renamed", "helper:admin/lora", "admin/renamed", "admin/lora"):
        assert ask(name) == (200, voice), name
    # Its end is the end of its names, not of the base.
    body = {"name": "renamed", "organization": "admin", "type": "model"}
    status, _, answer = server.request("DELETE", "/api/repos/delete", body)
    assert status == 200, answer
    until(lambda: adapters() == [] and ask("helper:lora")[0] == 404)  # the news takes a moment
    for name in ("helper:lora", "helper:admin/renamed", "admin/lora"):
        assert ask(name) == (404, "model_not_found"), name
    assert ask("helper")[0] == 200
    until(lambda: not list((server.home / "engines/adapters").iterdir()))
