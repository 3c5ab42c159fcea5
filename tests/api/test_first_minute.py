"""The first minute: prompts for the starter, and models that this machine could pull."""

from __future__ import annotations

import json

from fust.app.first_minute import known_models, needed_bytes
from fust.core.settings import ServeSettings
from tests.conftest import REPOSITORY, RunningFust

PERMISSIVE = {"Apache-2.0", "MIT"}


def test_it_names_prompts_and_models_that_fit(server: RunningFust) -> None:
    status, _, body = server.request("GET", "/fust/v1/first-minute")
    assert status == 200, body
    told = json.loads(body)
    kept = json.loads((REPOSITORY / "src/fust/app/starter/prompts.json").read_text())
    assert {it["language"]: it["prompts"] for it in told["starter"]["languages"]} == kept
    assert all(len(prompts) == 3 for prompts in kept.values())
    assert {"en", "ru"} <= set(kept)

    free = told["memory_available_bytes"]
    models = told["models"]
    assert 5 <= len(models) <= 6
    assert [it["size_bytes"] for it in models] == sorted(it["size_bytes"] for it in models)
    for model in models:
        assert model["fits"] == (model["needed_bytes"] <= free)
        assert model["needed_bytes"] > model["size_bytes"]
        assert model["licence"] in PERMISSIVE
        assert model["file"].endswith(("Q8_0.gguf", "Q4_K_M.gguf"))
        assert model["command"] == f"fust pull {model['repo_id']} --file {model['file']}"
        assert not model["is_here"]


def test_what_a_model_takes_is_servings_own_estimate() -> None:
    settings = ServeSettings(context=4096, slots=2)
    known = {it.name: it for it in known_models()}
    small = known["Qwen3 0.6B"]
    cache = (
        28 * 2 * 8 * 128 * 4096 * 2 * 2
    )  # layers, keys and values, heads, their width, tokens, 16 bits, slots
    whole = needed_bytes(small, 2**40, settings)
    assert small.size_bytes + cache < whole < 1.3 * (small.size_bytes + cache)
    # where that is too much, what the least context would take is told
    assert small.size_bytes < needed_bytes(small, small.size_bytes, settings) < whole - cache / 2
    # without a shape the file's size has to do
    assert needed_bytes(known["Gemma 4 E4B"], 2**40, settings) > known["Gemma 4 E4B"].size_bytes


def test_a_model_that_was_pulled_is_said_to_be_here(server: RunningFust) -> None:
    body = {"name": "Qwen3-0.6B-GGUF", "organization": "Qwen", "type": "model"}
    assert server.request("POST", "/api/repos/create", body)[0] in (200, 201)
    told = json.loads(server.request("GET", "/fust/v1/first-minute")[2])
    assert [it["is_here"] for it in told["models"]][:2] == [True, False]


def test_it_is_for_those_who_are_signed_in(server: RunningFust) -> None:
    assert server.request("GET", "/fust/v1/first-minute", token=None)[0] == 401
