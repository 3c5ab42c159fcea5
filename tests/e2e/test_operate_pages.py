"""The places of an administrator, as one meets them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import make_repo

pytestmark = pytest.mark.e2e

OpenPage = Callable[..., Any]


def test_the_audit_is_searched_exported_and_checked(open_page: OpenPage, page_server: Any) -> None:
    make_repo(page_server, "admin/audited", "dataset", "# Audited\n")
    page = open_page("audit")
    page.get_by_role("searchbox", name="Anywhere in the entry").fill("admin/audited")
    page.get_by_role("button", name="Search").click()
    rows = page.get_by_role("table").get_by_role("row")
    expect(rows).to_have_count(3)  # the head, the commit, the repo
    expect(rows.last).to_contain_text("Repo made")
    page.get_by_label("What was done").select_option("repo.create")
    expect(rows).to_have_count(2)
    with page.expect_download() as download:
        page.get_by_role("link", name="Export JSONL").click()
    lines = download.value.path().read_text().splitlines()
    assert [json.loads(line)["subject"] for line in lines] == ["dataset:admin/audited"]
    page.get_by_role("button", name="Check the chain").click()
    expect(page.get_by_text(re.compile(r"All \d+ entries are whole\."))).to_be_visible()
    page.get_by_role("link", name="dataset:admin/audited").click()
    expect(page.locator("h1")).to_have_text("audited")


def test_a_search_without_a_match_says_what_to_try(open_page: OpenPage) -> None:
    page = open_page("audit?text=nothing-of-this-kind", lang="zh-CN")
    expect(page.get_by_text("没有匹配的记录。")).to_be_visible()
    page.get_by_role("link", name="清除").click()
    expect(page.get_by_role("table")).to_be_visible()
