"""Ways in that others open: the institution's own sign-in, and an invitation's link."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.api.test_oidc import House, house  # noqa: F401  (a fixture)

pytestmark = pytest.mark.e2e


@pytest.fixture
def fresh(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages in browsers that know nothing yet."""
    contexts: list[Any] = []

    def open_(url: str, **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()


def test_the_institution_signs_in(fresh: Callable[..., Any], house: House) -> None:  # noqa: F811
    house.person(sub="e-1", preferred_username="emma", name="Emma Stone")
    page = fresh(house.fust.url)
    page.get_by_role("link", name="Sign in with Example School").click()
    page.get_by_role("button", name="Signed in as emma").wait_for()
    assert page.url == house.fust.url + "/"
    # The cookie is strict; the page that came by the redirect is signed in all the same, and stays so.
    page.reload()
    page.get_by_role("button", name="Signed in as emma").wait_for()


def test_what_went_wrong_is_said(fresh: Callable[..., Any], house: House) -> None:  # noqa: F811
    house.person(sub="z-1", preferred_username="admin")
    page = fresh(house.fust.url, locale="zh-CN")
    page.get_by_role("link", name="用 Example School 登录").click()
    page.get_by_role("alert").get_by_text("您的用户名在这里已被占用").wait_for()


def test_an_invitation_makes_an_account(fresh: Callable[..., Any], house: House) -> None:  # noqa: F811
    link = house.fust.cli("invite").stdout.strip()
    page = fresh(link)
    page.get_by_text("admin invites you to this Fust.").wait_for()
    page.get_by_label("Name").fill("newcomer")
    page.get_by_label("Password").fill("a sentence is good")
    page.get_by_role("button", name="Make the account and join").click()
    page.get_by_role("button", name="Signed in as newcomer").wait_for()
    again = fresh(link)
    again.get_by_role("heading", name="This invitation does not work any more").wait_for()
