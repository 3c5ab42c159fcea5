"""The code that the page shows for a model runs as it is pasted: curl, Python, Node and LangChain, for what each model does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import commit_file, serve_model
from tests.support.small_models import write_llama
from tests.support.snippets import run_snippet

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def vectors(page_server: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model whose card says that it makes embeddings."""
    file = tmp_path_factory.mktemp("vectors") / "vectors.gguf"
    served = serve_model(page_server, write_llama(file, context=256, pooling=3))
    card = "---\npipeline_tag: feature-extraction\n---\n# Vectors\n"
    commit_file(page_server, served["repo_id"], "model", "README.md", card)
    return served


@pytest.mark.parametrize(
    ("talk", "place"),
    [
        ("model", "models/{repo_id}?tab=use"),
        ("mute_model", "deployments/{id}"),
        ("vectors", "models/{repo_id}?tab=use"),
    ],
)
def test_every_snippet_runs_as_pasted(
    open_page: Callable[..., Any], request: pytest.FixtureRequest, talk: str, place: str, tmp_path: Path
) -> None:
    page = open_page(place.format(**request.getfixturevalue(talk)))
    page.get_by_role("button", name="Make a key for this model").click()
    token = page.locator("code.token").inner_text()
    for label in ("curl", "Python", "Node", "LangChain"):
        page.get_by_role("tab", name=label, exact=True).click()
        code = page.locator("[role=tabpanel] pre:visible")
        expect(code).to_contain_text(token)
        said = run_snippet(label, code.inner_text(), tmp_path)
        if said is None:
            continue
        if label == "curl":
            answer = json.loads(said)
            assert answer["data"][0]["embedding"] if talk == "vectors" else answer["choices"], answer
        elif talk == "vectors":
            assert said.strip().startswith("[")
        else:
            assert said.strip(), code.inner_text()
