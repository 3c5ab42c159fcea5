"""Signed-in browsers: who may send what from where, the brake on guessing, ending one and all."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from fust.accounts.audit import iter_entries
from fust.accounts.brake import Brake
from fust.accounts.models import FailedSignIn
from fust.accounts.rights import ANONYMOUS
from fust.accounts.service import Accounts
from fust.accounts.session_routes import device_of
from fust.accounts.sessions import check_not_cross_site, check_same_origin
from fust.core.errors import Denied, InvalidInput, NotFound, RateLimited, Unauthenticated
from fust.core.settings import load_settings
from fust.store.database import Database
from fust.wire.asgi import TRUSTED_PROXIES, current_request

PUBLIC = "https://ai.school.org/fust"


@pytest.fixture
def accounts(tmp_path: Path, database: Database) -> Accounts:
    settings = load_settings(tmp_path, environ={}, flags={"server.public_url": PUBLIC})
    accounts = Accounts(database, settings)
    accounts.users.create("admin", is_admin=True)
    accounts.users.create("eva", password="a sentence is good")
    return accounts


def cookie(secret: str) -> dict[str, str]:
    return {"cookie": f"fust_session={secret}"}


CROSS_SITE = [
    ({"sec-fetch-site": "same-origin"}, True, True),
    ({"sec-fetch-site": "none"}, True, True),
    ({"sec-fetch-site": "same-site"}, False, False),
    ({"sec-fetch-site": "cross-site"}, False, False),
    ({"sec-fetch-site": ""}, False, False),
    # What the browser says of the site counts for more than the origin.
    ({"sec-fetch-site": "cross-site", "origin": "https://ai.school.org"}, False, False),
    ({"origin": "https://ai.school.org"}, True, True),
    ({"origin": "http://ai.school.org"}, False, False),
    ({"origin": "https://ai.school.org:8443"}, False, False),
    ({"origin": "https://ai.school.org.evil.example"}, False, False),
    ({"origin": "https://evil.example"}, False, False),
    ({"origin": "null"}, False, False),
    ({"origin": ""}, False, False),
    # A page reached by another name than the public one, as on the machine itself.
    ({"origin": "http://127.0.0.1:8787", "host": "127.0.0.1:8787"}, True, True),
    ({"origin": "http://evil.example", "host": "127.0.0.1:8787"}, False, False),
    ({"origin": "null", "host": ""}, False, False),
    # No browser says nothing at all when it sends a change: with a cookie it is refused, a sign-in is a program's.
    ({}, False, True),
]


@pytest.mark.parametrize(("headers", "may_change", "may_sign_in"), CROSS_SITE)
def test_another_site_cannot_act_through_a_browser(
    accounts: Accounts, headers: dict[str, str], may_change: bool, may_sign_in: bool
) -> None:
    def passes(check: object, *more: object) -> bool:
        try:
            check(accounts._settings, headers, *more)  # type: ignore[operator]
        except Denied:
            return False
        return True

    assert passes(check_not_cross_site) == may_sign_in
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert passes(check_same_origin, method) == may_change
    for method in ("GET", "HEAD", "OPTIONS"):
        assert passes(check_same_origin, method)
    secret = accounts.sessions.sign_in_by_password("eva", "a sentence is good")
    if may_change:
        assert accounts.identify({**cookie(secret), **headers}, method="POST").user == "eva"
    else:
        with pytest.raises(Denied):
            accounts.identify({**cookie(secret), **headers}, method="POST")


class Guesser:
    """Wrong passwords at given times, counted as the routes do."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.now = datetime(2026, 11, 22)
        self.brake = Brake(lambda: self.now)

    def check(self, name: str, address: str) -> None:
        with self._database.read() as session:
            self.brake.check(session, name, address)

    def fail(self, name: str, address: str) -> bool:
        with self._database.write() as session:
            return self.brake.count(session, name, address)


def test_guessing_a_name_is_slowed_and_ends(database: Database) -> None:
    guesser = Guesser(database)
    start = guesser.now
    for i in range(10):
        guesser.now = start + timedelta(seconds=i)
        guesser.check("eva", "6.6.6.6")
        assert guesser.fail("eva", "6.6.6.6") == (i == 9)
    with pytest.raises(RateLimited) as caught:
        guesser.check("EVA", "6.6.6.6")
    assert caught.value.retry_after_s == 51
    guesser.check("eva", "1.2.3.4")  # nobody else is locked out
    guesser.check("other", "6.6.6.6")
    guesser.now = start + timedelta(seconds=60.5)
    guesser.check("eva", "6.6.6.6")
    guesser.fail("eva", "6.6.6.6")
    with pytest.raises(RateLimited):
        guesser.check("eva", "6.6.6.6")


def test_guessing_many_names_from_one_place_is_slowed(database: Database) -> None:
    guesser = Guesser(database)
    for i in range(50):
        guesser.check(f"name{i}", f"2001:db8::{i:x}")  # one IPv6 network is one place
        guesser.fail(f"name{i}", f"2001:db8::{i:x}")
    with pytest.raises(RateLimited):
        guesser.check("fresh", "2001:db8::ffff")
    guesser.check("fresh", "2001:db8:0:1::1")


def test_the_brake_forgets_after_a_minute_and_when_a_clock_was_set_back(database: Database) -> None:
    guesser = Guesser(database)
    for _ in range(10):
        guesser.fail("eva", "6.6.6.6")
    guesser.now -= timedelta(hours=1)
    guesser.check("eva", "6.6.6.6")
    guesser.fail("eva", "6.6.6.6")
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(FailedSignIn)) == 1


def test_all_processes_of_a_home_hold_one_brake(accounts: Accounts, database: Database) -> None:
    second = Accounts(Database(database.url), accounts._settings)
    for _ in range(5):
        for process in (accounts, second):
            with pytest.raises(Unauthenticated):
                process.sessions.sign_in_by_password("eva", "wrong guess")
    for process in (accounts, second):
        with pytest.raises(RateLimited):
            process.sessions.sign_in_by_password("eva", "a sentence is good")
    second._database.close()


def test_a_name_with_a_nul_is_nobody_on_either_database(accounts: Accounts, database: Database) -> None:
    refused: type[Exception] = Unauthenticated if database.is_sqlite else InvalidInput
    for name in ("eva\0", "\0", "e\0va"):
        with pytest.raises(refused):
            accounts.sessions.sign_in_by_password(name, "a sentence is good")
        with pytest.raises(InvalidInput):
            accounts.users.create(name)


def test_what_was_typed_as_a_name_is_not_in_the_database(accounts: Accounts, database: Database) -> None:
    with pytest.raises(Unauthenticated):
        accounts.sessions.sign_in_by_password("correct horse battery", "eva")
    with database.read() as session:
        row = session.scalars(select(FailedSignIn)).one()
    assert len(row.name_mark) == 8 and "horse" not in str(vars(row))


def test_behind_a_proxy_the_client_is_slowed_not_the_proxy(accounts: Accounts) -> None:
    def from_(address: str) -> object:
        headers = [
            (b"x-forwarded-for", address.encode()),
            (b"user-agent", b"Mozilla/5.0 (X11; Linux) Firefox/140.0"),
        ]
        return current_request.set(
            {"client": ("10.0.0.1", 1), "headers": headers, TRUSTED_PROXIES: ("10.0.0.0/8",)}
        )

    from_("6.6.6.6")
    for _ in range(10):
        with pytest.raises(Unauthenticated):
            accounts.sessions.sign_in_by_password("eva", "wrong guess")
    with pytest.raises(RateLimited):
        accounts.sessions.sign_in_by_password("eva", "a sentence is good")
    mark = from_("1.2.3.4")
    accounts.sessions.sign_in_by_password("eva", "a sentence is good")
    current_request.reset(mark)  # type: ignore[arg-type]
    current_request.set(None)
    (row,) = accounts.sessions.list("eva")
    assert (row.address, row.how, device_of(row.agent)) == ("1.2.3.4", "password", "Firefox, Linux")
    told = [entry for entry in iter_entries(accounts._database) if entry.action.startswith("session.")]
    assert [entry.action for entry in told] == ["session.refuse"] * 10 + ["session.create"]
    assert {entry.address for entry in told} == {"6.6.6.6", "1.2.3.4"}
    assert [entry.detail.get("stopped") for entry in told[:10]] == [None] * 9 + [True]


def test_a_password_typed_as_a_name_is_not_written_down(accounts: Accounts) -> None:
    with pytest.raises(Unauthenticated):
        accounts.sessions.sign_in_by_password("correct horse battery", "eva")
    with pytest.raises(Unauthenticated):
        accounts.sessions.sign_in_by_password("EVA", "wrong guess")
    told = [entry for entry in iter_entries(accounts._database) if entry.action == "session.refuse"]
    assert [entry.subject for entry in told] == ["user:", "user:eva"]


def test_one_session_ends_and_only_ones_own(accounts: Accounts) -> None:
    first, second = (accounts.sessions.sign_in_by_password("eva", "a sentence is good") for _ in range(2))
    admin = accounts.sessions.redeem_code(accounts.sessions.create_code("admin")[0])
    eva = accounts.identify(cookie(second))
    ids = {row.secret_hash: row.id for row in accounts.sessions.list("eva")}
    (foreign,) = accounts.sessions.list("admin")
    for wrong in (foreign.id, foreign.secret_hash, "s_none"):
        with pytest.raises(NotFound):
            accounts.sessions.end(eva, wrong)
    other = next(id_ for digest, id_ in ids.items() if digest != eva.session_id)
    accounts.sessions.end(eva, other)
    assert accounts.identify(cookie(first)) == ANONYMOUS
    assert (
        accounts.identify(cookie(second)).user == "eva" and accounts.identify(cookie(admin)).user == "admin"
    )


def test_sign_out_everywhere(accounts: Accounts) -> None:
    secrets = [accounts.sessions.sign_in_by_password("eva", "a sentence is good") for _ in range(3)]
    code, _ = accounts.sessions.create_code("eva")
    here = accounts.identify(cookie(secrets[0]))
    assert accounts.sessions.end_all("eva", by=here, keep=here.session_id) == 2
    assert [accounts.identify(cookie(secret)).user for secret in secrets] == ["eva", None, None]
    with pytest.raises(Unauthenticated):
        accounts.sessions.redeem_code(code)  # an unused link is a way in as well
    assert accounts.sessions.end_all("eva", by=here) == 1
    assert accounts.identify(cookie(secrets[0])) == ANONYMOUS


def test_who_changes_the_own_password_stays_signed_in_here(accounts: Accounts) -> None:
    here, there = (accounts.sessions.sign_in_by_password("eva", "a sentence is good") for _ in range(2))
    accounts.users.set_password("eva", "another sentence", by=accounts.identify(cookie(here)))
    assert accounts.identify(cookie(here)).user == "eva" and accounts.identify(cookie(there)) == ANONYMOUS


def test_a_new_password_signs_out_everywhere_and_ends_links(accounts: Accounts) -> None:
    secret = accounts.sessions.sign_in_by_password("eva", "a sentence is good")
    code, _ = accounts.sessions.create_code("eva")
    accounts.users.set_password("eva", "another sentence")
    assert accounts.identify(cookie(secret)) == ANONYMOUS
    with pytest.raises(Unauthenticated):
        accounts.sessions.redeem_code(code)


@pytest.mark.parametrize(
    ("agent", "device"),
    [
        (
            "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0",
            "Edge, Windows",
        ),
        (
            "Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 Chrome/140.0 Mobile Safari/537.36",
            "Chrome, Android",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1",
            "Safari, iPhone",
        ),
        ("Mozilla/5.0 (X11; Linux x86_64) HeadlessChrome/140.0", "Chrome, Linux"),
        ("curl/8.5.0", "curl"),
        ("<script>", ""),
        ("", ""),
    ],
)
def test_devices_have_names(agent: str, device: str) -> None:
    assert device_of(agent) == device
