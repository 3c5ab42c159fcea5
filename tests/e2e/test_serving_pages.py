"""Deployments as one meets them on the page."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from fust.formats.gguf_quantise import quantise_gguf
from fust.serve.engines.child import log_name
from tests.e2e.conftest import Axe, serve_model
from tests.support.small_adapters import write_peft
from tests.support.small_models import write_llama

pytestmark = pytest.mark.e2e

OpenPage = Callable[..., Any]


@pytest.fixture(scope="module")
def deployed(page_server: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return serve_model(
        page_server, write_llama(tmp_path_factory.mktemp("served") / "served.gguf", context=256)
    )


def test_a_deployment_is_freed_loaded_pinned_named_and_stopped(
    open_page: OpenPage, page_server: Any, deployed: dict[str, Any]
) -> None:
    page = open_page("deployments")
    row = page.get_by_role("row", name=deployed["name"])
    expect(row).to_contain_text("0 of 4")
    row.get_by_role("link").click()
    expect(page.locator("h1")).to_have_text(deployed["name"])
    expect(page.get_by_role("region", name="Why so")).to_contain_text("was asked for")
    said = page.get_by_role("region", name="What the engine says")
    with (page_server.home / "log" / f"{log_name(deployed['id'], 'generate')}.log").open("a") as log:
        log.write("a word of the engine\n")  # one of a small model has nothing to say
    expect(said).to_contain_text("a word of the engine", timeout=10_000)
    page.get_by_role("button", name="Free its memory").click()
    page.get_by_role("button", name="Load it now").click()
    expect(page.get_by_role("button", name="Free its memory")).to_be_visible()
    page.get_by_role("button", name="Pin it").click()
    expect(page.get_by_text("never unloaded to make room")).to_be_visible()
    page.get_by_role("textbox", name="Another name in the API").fill("served-here")
    page.get_by_role("button", name="Save the name").click()
    expect(page.locator("h1")).to_have_text("served-here")
    names = json.loads(page_server.request("GET", "/fust/v1/deployments")[2])["items"]
    assert [(it["pinned"], it["alias"]) for it in names if it["id"] == deployed["id"]] == [
        (True, "served-here")
    ]
    page.get_by_role("button", name="Stop serving").click()
    page.get_by_role("button", name="Take served-here off the API").click()
    expect(page.locator("h1")).not_to_have_text("served-here")
    expect(page.get_by_role("link", name=deployed["name"])).to_have_count(0)
    page.goto(f"/deployments/{deployed['id']}")
    expect(page.locator("h1")).to_have_text("There is no such deployment.")


def test_who_is_on_it_is_seen_while_it_lasts(open_page: OpenPage, page_server: Any) -> None:
    """An echo that waits before the first word of its second answer."""
    wish = {"name": "slow-echo", "engine": "echo", "options": {"misbehave": ["ok", "slow:6"]}}
    made = json.loads(page_server.request("POST", "/fust/v1/deployments", wish)[2])
    body = {"model": "slow-echo", "messages": [{"role": "user", "content": "a"}]}
    assert page_server.request("POST", "/v1/chat/completions", body)[0] == 200
    page = open_page("deployments")
    row = page.get_by_role("row", name="slow-echo")
    expect(row).to_contain_text("0 of")
    asked = threading.Thread(target=page_server.request, args=("POST", "/v1/chat/completions", body))
    asked.start()
    expect(row).to_contain_text("1 of", timeout=8000)
    asked.join()
    expect(row).to_contain_text("0 of", timeout=10_000)
    page_server.request("DELETE", f"/fust/v1/deployments/{made['id']}")


def test_an_adapter_is_put_beside_a_model_and_taken_away(
    open_page: OpenPage, page_server: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("adapters")
    base = serve_model(page_server, write_llama(folder / "base.gguf", context=256))
    page_server.cli("push", str(write_peft(folder / "tone", base=base["repo_id"])), "admin/tone")
    page = open_page(f"deployments/{base['id']}")
    section = page.get_by_role("region", name="Adapters")
    section.get_by_label("Repo of the adapter").fill("admin/nothing")
    section.get_by_role("button", name="Add it").click()
    expect(section.get_by_role("alert")).to_contain_text("admin/nothing")
    section.get_by_label("Repo of the adapter").fill("admin/tone")
    section.get_by_role("button", name="Add it").click()
    row = section.get_by_role("row", name=f"{base['name']}:tone")
    expect(row).to_contain_text("Serving")
    body = {"model": f"{base['name']}:tone", "prompt": "ba", "max_tokens": 2}
    assert page_server.request("POST", "/v1/completions", body)[0] == 200
    row.get_by_role("button", name="Remove").click()
    row.get_by_role("button", name="Remove tone now").click()
    expect(section.get_by_role("row")).to_have_count(0)


def test_a_model_is_deployed_from_what_it_would_take(
    open_page: OpenPage, page_server: Any, axe: Axe, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("files")
    half = write_llama(folder / "two-F16.gguf", width=256, context=256, half=True)
    quantise_gguf(half, folder / "two-Q8_0.gguf", "Q8_0")
    page_server.cli("push", str(folder), "admin/two-files")
    page = open_page("models/admin/two-files?tab=deploy", width=360)
    rows = page.get_by_role("tabpanel").get_by_role("row")
    expect(rows.filter(has_text="two-F16.gguf")).to_contain_text("chosen when none is named")
    expect(rows.filter(has_text="two-Q8_0.gguf")).to_contain_text("4 × 256")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert axe(page) == []
    page.get_by_role("button", name="Deploy two-Q8_0.gguf").click()
    expect(rows.filter(has_text="two-Q8_0.gguf")).to_contain_text("Serving")
    served = json.loads(page_server.request("GET", "/fust/v1/deployments")[2])["items"]
    assert [it["file"] for it in served if it["repo_id"] == "admin/two-files"] == ["two-Q8_0.gguf"]
    page.get_by_role("button", name="Stop serving two-Q8_0.gguf").click()
    expect(page.get_by_role("button", name="Deploy two-Q8_0.gguf")).to_be_visible()
