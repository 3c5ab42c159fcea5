"""Settings: what a person decides for themselves, in this browser and in every other of theirs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.test_operate_pages import PASSWORD, signed_in_as

pytestmark = pytest.mark.e2e

OpenPage = Callable[..., Any]


@pytest.fixture
def somebody(page_server: Any) -> Iterator[str]:
    """A user of the test's own."""
    page_server.request("POST", "/fust/v1/users", {"name": "noor", "password": PASSWORD})
    yield "noor"
    assert page_server.request("DELETE", "/fust/v1/users/noor")[0] == 204


def test_the_name_in_full_is_kept(open_page: OpenPage, page_server: Any, somebody: str) -> None:
    page = signed_in_as(open_page, page_server, somebody)
    page.goto("/settings")
    page.get_by_label("Name in full").fill("Noor نور <i>")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Name in full")).to_have_value("Noor نور <i>")
    users = json.loads(page_server.request("GET", "/fust/v1/users")[2])["items"]
    assert "Noor نور <i>" in [user["full_name"] for user in users]


def test_a_new_password_signs_the_other_browsers_out(
    open_page: OpenPage, page_server: Any, somebody: str
) -> None:
    other = signed_in_as(open_page, page_server, somebody)
    other.goto("/models")
    page = signed_in_as(open_page, page_server, somebody)
    page.goto("/settings")
    page.get_by_label("New password").fill("another sentence 2")
    page.get_by_label("The same again").fill("another sentence 3")
    expect(page.get_by_text("The two differ.")).to_be_visible()
    expect(page.get_by_role("button", name="Change the password")).to_be_disabled()
    page.get_by_label("The same again").fill("another sentence 2")
    page.get_by_role("button", name="Change the password").click()
    expect(page.get_by_text("The new password is set.")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Settings")).to_be_visible()
    other.reload()
    expect(other.get_by_role("heading", name="Sign in to Fust")).to_be_visible()
    for password, status in ((PASSWORD, 401), ("another sentence 2", 200)):
        body = {"name": somebody, "password": password}
        assert page_server.request("POST", "/fust/v1/session", body, token=None)[0] == status


def test_other_browsers_are_signed_out(open_page: OpenPage, page_server: Any, somebody: str) -> None:
    other = signed_in_as(open_page, page_server, somebody)
    other.goto("/models")
    page = signed_in_as(open_page, page_server, somebody)
    page.goto("/settings")
    expect(page.get_by_text("this one")).to_be_visible()
    page.get_by_role("button", name="Sign out the others").click()
    page.get_by_role("button", name="Sign out all but this one").click()
    expect(page.get_by_role("button", name="Sign out the others")).to_have_count(0)
    other.reload()
    expect(other.get_by_role("heading", name="Sign in to Fust")).to_be_visible()
    page.reload()
    expect(page.get_by_text("this one")).to_be_visible()


def test_the_history_is_switched_off_here_too(open_page: OpenPage, page_server: Any, somebody: str) -> None:
    page = signed_in_as(open_page, page_server, somebody)
    page.goto("/settings")
    switch = page.get_by_label("Keep my conversations on this server")
    expect(switch).to_be_checked()
    with page.expect_response("**/fust/v1/chats/history"):
        switch.uncheck()
    expect(page.get_by_text("Nothing that you say is written on the server.")).to_be_visible()
    page.reload()
    expect(switch).to_be_enabled()
    expect(switch).not_to_be_checked()
    page.get_by_role("link", name="Open them").click()
    expect(page.get_by_text("History is off")).to_be_visible()


def test_language_and_theme_follow_their_user(open_page: OpenPage, page_server: Any, somebody: str) -> None:
    page = signed_in_as(open_page, page_server, somebody)
    page.goto("/settings")
    with page.expect_response(f"**/fust/v1/users/{somebody}"):
        page.get_by_label("Dark", exact=True).check()
    with page.expect_response(f"**/fust/v1/users/{somebody}"):
        page.get_by_label("简体中文").check()
    expect(page.get_by_text("随账户保存")).to_be_visible()

    second = signed_in_as(open_page, page_server, somebody)  # a browser in English, on a light system
    # What the page looks like before any of its own scripts could ask the server.
    second.route("**/assets/*.js", lambda route: route.abort())
    second.goto("/settings")
    root = second.locator("html")
    expect(root).to_have_attribute("lang", "zh-CN")
    expect(root).to_have_attribute("data-theme", "dark")
    second.unroute("**/assets/*.js")
    second.goto("/settings")
    expect(second.get_by_role("heading", name="设置", exact=True)).to_be_visible()
    expect(second.get_by_label("深色", exact=True)).to_be_checked()
    second.get_by_role("button", name="English").click()  # the line at the top keeps it as well
    with second.expect_response(f"**/fust/v1/users/{somebody}"):
        second.get_by_role("radio", name="As the system").check()

    third = open_page("", signed_in=False, lang="zh-CN", scheme="dark")  # one who signs in by the form
    third.get_by_label("用户名").fill(somebody)
    third.get_by_label("密码", exact=True).fill(PASSWORD)
    third.get_by_role("button", name="用密码登录").click()
    expect(third.get_by_role("navigation", name="Sections")).to_be_visible()
    expect(third.locator("html")).to_have_attribute("lang", "en")
    page.reload()
    expect(page.locator("html")).not_to_have_attribute("data-theme", "dark")
    expect(page.get_by_role("heading", name="Settings")).to_be_visible()
