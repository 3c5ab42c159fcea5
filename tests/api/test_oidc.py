"""Sign-in through a provider: a real one in its own process, and one that lies."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from tests.conftest import REPOSITORY, RunningFust, free_port, start_fust
from tests.support.oidc_provider import CLIENT_ID, CLIENT_SECRET


@dataclass
class House:
    """A provider, and a Fust under a sub-path that trusts it."""

    fust: RunningFust
    provider: str

    def person(self, **claims: object) -> None:
        post(self.provider + "/person", claims)

    def trick(self, name: str) -> None:
        post(self.provider + "/trick", name)


def post(url: str, body: object) -> None:
    data = json.dumps(body).encode()
    urllib.request.urlopen(urllib.request.Request(url, data, {"content-type": "application/json"})).close()


@dataclass
class Browser:
    """As much of a browser as redirects and cookies are."""

    cookies: dict[str, str] = field(default_factory=dict)
    set_cookies: list[str] = field(default_factory=list)

    def get(self, url: str) -> tuple[int, str, bytes]:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection.request("GET", f"{parts.path}?{parts.query}", headers={"cookie": cookie})
        answer = connection.getresponse()
        body = answer.read()
        for name, value in answer.getheaders():
            if name.lower() == "set-cookie":
                self.set_cookies.append(value)
                key, _, rest = value.partition("=")
                self.cookies[key] = rest.partition(";")[0].strip('"')
        connection.close()
        return answer.status, answer.getheader("location", ""), body

    def to_provider(self, house: House, query: str = "") -> str:
        """Goes to the provider, and returns the address that it sends back to."""
        status, there, _ = self.get(f"{house.fust.url}/fust/v1/oidc/start{query}")
        assert status == 303 and there.startswith(f"{house.provider}/authorize?"), there
        status, back, body = self.get(there)
        assert status == 302, body
        return back

    def sign_in(self, house: House, query: str = "") -> str:
        """Goes there and back; returns where the page is."""
        status, place, _ = self.get(self.to_provider(house, query))
        assert status == 303
        return place

    def who(self, house: House) -> dict[str, object] | None:
        return json.loads(self.get(f"{house.fust.url}/fust/v1/session")[2])["user"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("oidc")
    port, fust_port = free_port(), free_port()
    public = f"http://127.0.0.1:{fust_port}/press"
    script = [sys.executable, "-m", "tests.support.oidc_provider", str(port)]
    provider = subprocess.Popen(
        [*script, f"{public}/fust/v1/oidc/callback"], cwd=REPOSITORY, stderr=subprocess.DEVNULL
    )
    (folder / "secret").write_text(CLIENT_SECRET + "\n")
    running = start_fust(
        folder / "home",
        port=fust_port,
        server__public_url=public,
        oidc__issuer=f"http://127.0.0.1:{port}",
        oidc__client_id=CLIENT_ID,
        oidc__client_secret_file=folder / "secret",
        oidc__name="Example School",
        oidc__admin_claim="groups",
    )
    running.url = public
    for _ in range(100):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/jwks").close()
            break
        except urllib.error.URLError:
            time.sleep(0.1)
    yield House(running, f"http://127.0.0.1:{port}")
    running.stop()
    provider.terminate()
    provider.wait(10)


def test_somebody_new_signs_in_and_comes_again(house: House) -> None:
    house.person(sub="m-1", preferred_username="maria", name="María López", email="maria@school.org")
    browser = Browser()
    assert browser.sign_in(house, "?next=models") == "/press/models"
    assert (browser.who(house) or {})["name"] == "maria"
    state, session = (
        next(c for c in browser.set_cookies if c.startswith(n)) for n in ("fust_oidc", "fust_session")
    )
    assert "HttpOnly" in state and "samesite=lax" in state.lower() and "/press/fust/v1/oidc" in state
    assert "HttpOnly" in session and "SameSite=Strict" in session
    # The provider's name for somebody may change; who it is does not.
    house.person(sub="m-1", preferred_username="lopez")
    again = Browser()
    again.sign_in(house)
    assert (again.who(house) or {})["name"] == "maria"
    told = json.loads(house.fust.request("GET", "/fust/v1/audit?text=maria")[2])["items"]
    assert [entry["action"] for entry in reversed(told)][:3] == ["user.create", "user.link", "session.create"]
    ways = json.loads(house.fust.request("GET", "/fust/v1/sign-in", token=None)[2])
    assert ways == {"oidc": {"label": "Example School", "linked": False}}


def test_a_name_that_is_the_same_opens_nobody_elses_account(house: House) -> None:
    house.fust.request("POST", "/fust/v1/users", {"name": "eva", "password": "a sentence is good"})
    for claims in (
        {"preferred_username": "eva"},
        {"preferred_username": "admin"},
        {"preferred_username": "fust"},
    ):
        house.person(sub="x-1", email="eva@school.org", email_verified=True, **claims)
        browser = Browser()
        assert browser.sign_in(house) == "/press/?oidc_error=name" and browser.who(house) is None


def test_an_account_is_linked_while_signed_in(house: House) -> None:
    body = {"name": "paul", "password": "a sentence is good"}
    house.fust.request("POST", "/fust/v1/users", body)
    fields = house.fust.request("POST", "/fust/v1/session", body, token=None)[1]
    session = fields["set-cookie"].partition(";")[0].partition("=")[2]
    house.person(sub="p-1", preferred_username="other")
    assert Browser({"fust_session": session}).sign_in(house, "?link=true&next=settings") == "/press/settings"
    fresh = Browser()
    fresh.sign_in(house)
    assert json.loads(fresh.get(f"{house.fust.url}/fust/v1/sign-in")[2])["oidc"]["linked"] is True
    assert (fresh.who(house) or {})["name"] == "paul"
    # Another account here cannot take it over.
    house.person(sub="m-1", preferred_username="maria")
    Browser().sign_in(house)
    assert Browser({"fust_session": session}).sign_in(house, "?link=true") == "/press/?oidc_error=linked"


def test_the_providers_groups_make_administrators_and_end_it(house: House) -> None:
    for groups, is_admin in (([], False), (["fust-admins", "x"], True), (["x"], False)):
        house.person(sub="a-1", preferred_username="anna", groups=groups)
        browser = Browser()
        browser.sign_in(house)
        assert (browser.who(house) or {})["is_admin"] is is_admin


@pytest.mark.parametrize(
    "trick",
    [
        "nonce",
        "no_nonce",
        "audience",
        "two_audiences",
        "issuer",
        "expired",
        "subject",
        "no_subject",
        "at_hash",
        "forged",
        "none",
        "hmac",
        "userinfo",
    ],
)
@pytest.mark.faults
def test_a_lie_signs_nobody_in(house: House, trick: str) -> None:
    house.person(sub="m-1", preferred_username="maria")
    house.trick(trick)
    browser = Browser()
    assert browser.sign_in(house) == "/press/?oidc_error=token"
    assert browser.who(house) is None and "fust_session" not in browser.cookies


@pytest.mark.faults
def test_another_browsers_answer_is_refused(house: House) -> None:
    """Somebody is lured to an answer that was made for another: no cookie, another's cookie, a changed state."""
    house.person(sub="m-1", preferred_username="maria")
    theirs, mine = Browser(), Browser()
    back = theirs.to_provider(house)
    mine.to_provider(house)
    changed = urlsplit(back)
    query = {**parse_qs(changed.query), "state": ["x"]}
    for browser, url in (
        (Browser(), back),
        (mine, back),
        (Browser({"fust_oidc": "rubbish"}), back),
        (theirs, changed._replace(query=urlencode(query, doseq=True)).geturl()),
        (theirs, back.partition("?")[0]),
    ):
        status, place, _ = browser.get(url)
        assert (status, place) == (303, "/press/?oidc_error=state") and browser.who(house) is None


@pytest.mark.faults
def test_an_answer_is_good_once(house: House) -> None:
    house.person(sub="m-1", preferred_username="maria")
    house.trick("codes_stay")  # even where the provider takes a code twice
    browser = Browser()
    back = browser.to_provider(house)
    copy = Browser(dict(browser.cookies))
    assert browser.get(back)[1] == "/press/"
    assert copy.get(back)[1] == "/press/?oidc_error=state" and copy.who(house) is None


@pytest.mark.faults
def test_a_code_that_was_spent_elsewhere_signs_nobody_in(house: House) -> None:
    house.person(sub="m-1", preferred_username="maria")
    first, second = Browser(), Browser()
    used = parse_qs(urlsplit(first.to_provider(house)).query)["code"][0]
    back = urlsplit(second.to_provider(house))
    query = {**parse_qs(back.query), "code": [used]}
    # The code was made for another browser's PKCE challenge.
    assert (
        second.get(back._replace(query=urlencode(query, doseq=True)).geturl())[1]
        == "/press/?oidc_error=token"
    )


@pytest.mark.faults
@pytest.mark.parametrize(
    "to", ["//evil.example", "https://evil.example", "\\evil.example", "/%5cevil.example", "a\r\nb: c"]
)
def test_nobody_is_sent_elsewhere(house: House, to: str) -> None:
    house.person(sub="m-1", preferred_username="maria")
    assert Browser().sign_in(house, "?" + urlencode({"next": to})) == "/press/"


def test_who_says_no_is_not_signed_in(house: House) -> None:
    house.person(sub="m-1", preferred_username="maria")
    house.trick("refuse")
    assert Browser().sign_in(house) == "/press/?oidc_error=denied"


def test_a_suspended_user_stays_out(house: House) -> None:
    house.person(sub="s-1", preferred_username="sam")
    Browser().sign_in(house)
    from sqlalchemy import create_engine, text

    engine = create_engine(f"sqlite:///{house.fust.home}/fust.db")
    with engine.begin() as connection:
        connection.execute(text("UPDATE users SET suspended = 1 WHERE name = 'sam'"))
    engine.dispose()
    assert Browser().sign_in(house) == "/press/?oidc_error=suspended"


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("maria", "maria"),
        ("Maria López", "Maria-L-pez"),
        ("a.b@school.org", "a.b"),
        ("--x..y--", "x.y"),
        ("数据", ""),
    ],
)
def test_names(told: str, name: str) -> None:
    from fust.accounts.oidc import name_from

    assert name_from(told) == name


def test_limits_of_who_comes_and_a_provider_that_is_gone(house: House, tmp_path: Path) -> None:
    port = free_port()
    issuer = house.provider
    running = start_fust(
        tmp_path / "home", port=port, oidc__issuer=issuer, oidc__client_id="fust", oidc__auto_create="false"
    )
    try:
        gone = running.request("GET", "/fust/v1/sign-in", token=None)
        assert json.loads(gone[2])["oidc"]["label"] == issuer
    finally:
        running.stop()
    running = start_fust(
        tmp_path / "home", port=port, oidc__issuer="http://127.0.0.1:9", oidc__client_id="fust"
    )
    try:
        browser = Browser()
        status, place, _ = browser.get(f"{running.url}/fust/v1/oidc/start")
        assert (status, place) == (303, "/?oidc_error=provider")
    finally:
        running.stop()
