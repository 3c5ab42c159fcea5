"""Ways into the page: a link, a token, a password; and out again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

OpenPage = Callable[..., Any]


def test_a_link_signs_in_once(open_page: OpenPage, page_server: Any) -> None:
    link = page_server.open_link()
    page = open_page(None, signed_in=False)
    page.goto(link)
    page.get_by_role("navigation", name="Sections").wait_for()
    assert "code" not in page.url
    cookie = next(it for it in page.context.cookies() if it["name"] == "fust_session")
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"

    again = open_page(None, signed_in=False)
    again.goto(link)
    again.get_by_text("That link has been used or has expired.").wait_for()
    assert again.get_by_text("fust open").count() > 0


def test_a_token_signs_in_where_one_wanted_to_go(open_page: OpenPage, page_server: Any) -> None:
    page = open_page("keys", signed_in=False)
    page.get_by_label("Access token").fill("fust_wrong")
    page.get_by_role("button", name="Sign in with the token").click()
    page.get_by_role("alert").wait_for()
    page.get_by_label("Access token").fill(page_server.token)
    page.get_by_label("Access token").press("Enter")
    page.get_by_role("heading", name="Keys", exact=True).wait_for()
    assert page.url.endswith("/keys")


def test_signing_out_asks_again(open_page: OpenPage) -> None:
    page = open_page("models")
    page.get_by_role("button", name="Signed in as").click()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Sign in to Fust").wait_for()
    page.reload()
    page.get_by_role("heading", name="Sign in to Fust").wait_for()
