"""Clients that live in environments of their own (Node's of both vendors, LlamaIndex), over each engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.model_house import House, running_house
from tests.support.small_models import write_repos

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "tests" / "clients"
LLAMA_INDEX = ROOT / ".venv-llamaindex" / "bin" / "python"
ENGINES = {"llamacpp": "handy", "echo": "parrot"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("clients")
    with running_house(folder / "home", write_repos(folder / "models"), "serve.threads=1") as house:
        house.serve("acme/tools", alias="handy")
        house.settled(house.json("POST", "/fust/v1/deployments", {"name": "parrot", "engine": "echo"})["id"])
        yield house


def run(house: House, model: str, *command: str) -> dict[str, Any]:
    environ = {**os.environ, "FUST_URL": house.url, "FUST_KEY": house.token, "FUST_MODEL": model}
    environ |= {"FUST_TOOLS": "1", "FUST_EMBEDS": "1"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_clients_of_node(house: House, engine: str) -> None:
    node = shutil.which("node")
    if node is None or not (CLIENTS / "node_modules" / "openai").is_dir():
        pytest.skip("the Node clients are not installed (scripts/test-system.sh)")
    found = run(house, ENGINES[engine], node, str(CLIENTS / "client.mjs"))
    assert found["chat"] == found["stream"]
    assert found["chat"][1] >= 1
    assert found["responses"][0] == "response.created"
    assert found["responses"][1] in ("response.completed", "response.incomplete")
    assert found["embedding"] == 64
    assert found["tool"]["d"] in (1, 2)
    assert found["error"] == ["NotFoundError", 404, "model_not_found", True]
    assert found["anthropic"] == found["chat"]
    if engine == "echo":
        assert found["chat"] == ["hello", 2]


@pytest.mark.parametrize("engine", ENGINES)
def test_llama_index(house: House, engine: str) -> None:
    if not LLAMA_INDEX.exists():
        pytest.skip("LlamaIndex is not installed (scripts/test-system.sh)")
    found = run(house, ENGINES[engine], str(LLAMA_INDEX), str(CLIENTS / "llama_index_client.py"))
    assert found["chat"].strip() == found["stream"].strip()
    assert found["embedding"] == 64
    if engine == "echo":
        assert found["chat"] == "hello"
