"""Datasets, their rows and files, versions of a repository, health and notifications, as a person meets them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import commit_file, make_repo

pytestmark = pytest.mark.e2e

OpenPage = Callable[..., Any]


def test_a_dataset_is_found_and_its_rows_are_read(open_page: OpenPage, dataset: str) -> None:
    page = open_page("datasets")
    page.get_by_role("searchbox", name="Search in names and cards").fill("questions")
    page.get_by_role("link", name=dataset).click()
    expect(page.locator("h1")).to_have_text("questions")
    page.get_by_role("tab", name="Rows").click()
    table = page.get_by_role("group", name="Rows of data/train.jsonl")
    expect(table.get_by_role("columnheader", name="messages list")).to_be_visible()
    expect(page.get_by_text("The first 100 rows.")).to_be_visible()
    page.get_by_role("button", name="Row 1, whole").click()
    expect(table.locator(".turns li").first).to_contain_text("冰为什么会浮?")
    assert page.evaluate("window.pwned") is None
    assert table.locator("img, script").count() == 0
    page.get_by_role("combobox", name="File").select_option("data/words.csv")
    expect(page.get_by_role("cell", name="solid water")).to_be_visible()
    assert "file=data%2Fwords.csv" in page.url


def test_a_commit_shows_its_lines_and_an_old_version_is_looked_at(open_page: OpenPage, dataset: str) -> None:
    page = open_page(f"datasets/{dataset}?tab=versions")
    page.get_by_role("link", name="Add README.md").first.click()
    diff = page.get_by_role("group", name="Changed lines of README.md")
    expect(diff.locator("del")).to_have_text("-Of pupils.")
    expect(diff.locator("ins")).to_have_text("+Of pupils of grade 7.")
    before = page.locator("aside").get_by_role("link").last
    before.click()  # the commit before
    page.get_by_role("link", name="Files of this version").click()
    expect(page.get_by_text(re.compile("You are looking at version [0-9a-f]{8}"))).to_be_visible()
    page.get_by_role("tab", name="Card").click()
    expect(page.locator(".prose")).to_contain_text("Of pupils.")
    expect(page.locator(".prose")).not_to_contain_text("grade 7")
    page.get_by_role("link", name="See the newest").click()
    expect(page.locator(".prose")).to_contain_text("grade 7")


def test_a_file_is_read_in_the_page_as_text(open_page: OpenPage, page_server: Any) -> None:
    make_repo(page_server, "admin/scripts", "model", "# Scripts\n")
    text = "<script>window.pwned = 1</script>\nprint('hello')\n"
    commit_file(page_server, "admin/scripts", "model", "odd name/ä #1.html", text)
    page = open_page("models/admin/scripts?tab=files")
    page.get_by_role("link", name="odd name/ä #1.html", exact=True).click()
    expect(page.locator("pre.text")).to_have_text(text)
    assert page.evaluate("window.pwned") is None
    page.reload()
    expect(page.locator("h1")).to_have_text("odd name/ä #1.html")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download odd name").click()
    assert download.value.suggested_filename.endswith("1.html")


def test_versions_come_page_by_page(open_page: OpenPage, page_server: Any) -> None:
    make_repo(page_server, "admin/many", "dataset", "# Many\n")
    for turn in range(34):
        commit_file(page_server, "admin/many", "dataset", "n.txt", str(turn))
    page = open_page("datasets/admin/many?tab=versions")
    rows = page.locator("[role=tabpanel] tbody tr")
    expect(rows).to_have_count(30)
    page.get_by_role("button", name="Show older ones").click()
    expect(rows).to_have_count(36)
    expect(page.get_by_role("button", name="Show older ones")).to_have_count(0)


def test_health_tells_the_checks_and_the_storage(open_page: OpenPage) -> None:
    page = open_page("health")
    expect(page.get_by_role("row", name=re.compile("^disk "))).to_contain_text("free of")
    expect(page.get_by_text("Saved by keeping equal files once")).to_be_visible()
    chinese = open_page("health", lang="zh-CN")
    expect(chinese.get_by_role("heading", name="检查项")).to_be_visible()


def test_the_bell_tells_of_a_failed_run_until_it_is_read(
    open_page: OpenPage, page_server: Any, failed_run: str
) -> None:
    page = open_page("models")
    bell = page.get_by_role("button", name=re.compile("^Notifications: .* new"))
    bell.click()
    panel = page.locator(".pop")
    expect(panel.get_by_role("link", name="nobody/nothing failed").first).to_have_attribute(
        "href", re.compile("/jobs/")
    )
    panel.get_by_role("button", name="Mark as read").click()
    expect(page.get_by_role("button", name="Notifications", exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(panel).to_have_count(0)
    expect(page.get_by_role("button", name="Notifications", exact=True)).to_be_focused()
    page.goto("/")
    page.get_by_role("heading", name="Running now").wait_for()
    expect(page.get_by_role("heading", name="Needs you", exact=True)).to_have_count(0)
    other = open_page("models")  # another browser of the same person
    expect(other.get_by_role("button", name="Notifications", exact=True)).to_be_visible()
