"""A new user's first chat page: the starter's prompts in its languages, what it is, and how to pull a strong model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.conftest import start_fust
from tests.e2e.conftest import Axe, pages_of

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A new home with its starter model, and no hub to pull from."""
    running = start_fust(
        tmp_path_factory.mktemp("fresh") / "home", starter=True, pull__source="http://127.0.0.1:9"
    )
    deadline = time.monotonic() + 60
    while b'"starter"' not in running.request("GET", "/fust/v1/deployments")[2]:
        assert time.monotonic() < deadline, "the starter was not served within a minute"
        time.sleep(0.1)
    yield running
    running.stop()


@pytest.fixture
def visit(browser: Any, fresh: Any) -> Iterator[Callable[..., Any]]:
    with pages_of(browser, fresh) as start:
        yield lambda lang, **more: start("chat", lang=lang, **more)


def test_the_starters_prompts_work_in_its_languages(visit: Callable[..., Any]) -> None:
    page = visit("en-GB")
    expect(page.get_by_text("This is a demonstration model")).to_be_visible()
    assert page.get_by_role("tab").all_inner_texts()[:2] == ["English", "Русский"]
    expect(page.locator("[role=tabpanel]:visible button")).to_have_count(3)
    page.get_by_role("tab", name="Kiswahili").click()
    expect(page.locator("[role=tabpanel]:visible")).to_have_attribute("lang", "sw")
    page.get_by_role("tab", name="English").click()
    page.get_by_role("button", name="Who are you?").click()
    expect(page.locator(".turn")).to_have_count(2)
    expect(page.locator(".turn .meter").last).to_contain_text("tokens", timeout=60_000)
    assert page.locator(".turn .prose").inner_text().strip()


def test_the_readers_own_language_comes_first(visit: Callable[..., Any]) -> None:
    page = visit("ru-RU")
    expect(page.get_by_role("tab", name="Русский")).to_have_attribute("aria-selected", "true")


def test_a_chinese_page_says_that_chinese_is_missing(visit: Callable[..., Any], axe: Axe) -> None:
    page = visit("zh-CN", width=360, scheme="dark")
    expect(page.get_by_text("这个模型不会中文")).to_be_visible()
    expect(page.get_by_text("这是一个演示模型")).to_be_visible()
    page.locator(".pullable").wait_for()
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_strong_model_is_one_press_away(visit: Callable[..., Any]) -> None:
    page = visit("en-GB")
    row = page.get_by_role("row", name="Qwen3 0.6B")
    expect(row).to_contain_text("fust pull Qwen/Qwen3-0.6B-GGUF --file Qwen3-0.6B-Q8_0.gguf")
    expect(row).to_contain_text("Apache-2.0")
    expect(row).to_contain_text("639 MB")
    with page.expect_request(lambda it: it.url.endswith("/fust/v1/runs") and it.method == "POST") as asked:
        page.get_by_role("button", name="Pull Qwen3 0.6B").click()
    assert asked.value.post_data_json == {
        "kind": "pull",
        "params": {"repo_id": "Qwen/Qwen3-0.6B-GGUF", "type": "model", "files": ["Qwen3-0.6B-Q8_0.gguf"]},
    }
    page.wait_for_url("**/jobs/*")
    expect(page.locator("h1")).to_contain_text("Qwen/Qwen3-0.6B-GGUF")
