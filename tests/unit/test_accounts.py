"""Accounts: tokens, sessions, links, rights."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from fust.accounts.models import SignInCode, Token, User
from fust.accounts.proxies import client_address
from fust.accounts.rights import ANONYMOUS, may
from fust.accounts.service import Accounts
from fust.accounts.tokens import token_in
from fust.core.clock import utc_naive
from fust.core.errors import Conflict, Denied, InvalidInput, NotFound, Unauthenticated
from fust.core.settings import load_settings
from fust.store.database import Database


@pytest.fixture
def accounts(tmp_path: Path, database: Database) -> Accounts:
    accounts = Accounts(database, load_settings(tmp_path, environ={}))
    accounts.users.create("admin", is_admin=True)
    accounts.users.create("eva")
    return accounts


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def test_a_token_is_its_user_and_only_its_hash_is_kept(accounts: Accounts) -> None:
    made = accounts.tokens.create("eva", "laptop", "write")
    identity = accounts.identify(bearer(made.secret))
    assert (identity.user, identity.is_admin, identity.via) == ("eva", False, "token")
    with accounts._database.read() as session:
        row = session.scalars(select(Token).where(Token.id == made.id)).one()
        assert made.secret not in str(vars(row))
        assert row.last_used_at is not None


def test_a_wrong_token_is_refused_and_none_is_nobody(accounts: Accounts) -> None:
    assert accounts.identify({}) == ANONYMOUS
    for headers in (bearer("fust_wrong"), {"x-api-key": "rubbish"}, bearer("x" * 100_000)):
        with pytest.raises(Unauthenticated):
            accounts.identify(headers)


def test_a_revoked_token_ends_at_once(accounts: Accounts) -> None:
    made = accounts.tokens.create("eva", "laptop", "read")
    accounts.identify(bearer(made.secret))
    accounts.tokens.revoke(accounts.identify(bearer(made.secret)), made.id)
    with pytest.raises(Unauthenticated):
        accounts.identify(bearer(made.secret))


def test_nobody_revokes_anothers_token(accounts: Accounts) -> None:
    made = accounts.tokens.create("admin", "server", "admin")
    eva = accounts.identify(bearer(accounts.tokens.create("eva", "x", "write").secret))
    with pytest.raises(NotFound):
        accounts.tokens.revoke(eva, made.id)


def test_scopes_bound_an_administrators_rights(accounts: Accounts) -> None:
    read = accounts.identify(bearer(accounts.tokens.create("admin", "r", "read").secret))
    assert not read.is_admin
    with pytest.raises(Denied):
        accounts.check(read, "repo.push", "admin/x")
    with pytest.raises(Denied):
        accounts.check_admin(read)
    with pytest.raises(Denied):
        accounts.tokens.create("eva", "too much", "admin")
    with pytest.raises(InvalidInput):
        accounts.tokens.create("eva", "x", "everything")


def test_write_needs_ownership(accounts: Accounts) -> None:
    eva = accounts.identify(bearer(accounts.tokens.create("eva", "w", "write").secret))
    accounts.check(eva, "repo.push", "EVA/x")
    with pytest.raises(Denied):
        accounts.check(eva, "repo.push", "admin/x")
    with pytest.raises(Unauthenticated):
        accounts.check(ANONYMOUS, "repo.push", "eva/x")
    assert may(ANONYMOUS, "repo.read", "eva/x", private=False)
    assert not may(ANONYMOUS, "repo.read", "eva/x")
    assert may(eva, "repo.read", "eva/x")


def test_only_administrators_make_organisations_by_the_way(accounts: Accounts) -> None:
    admin = accounts.identify(bearer(accounts.tokens.create("admin", "a", "admin").secret))
    eva = accounts.identify(bearer(accounts.tokens.create("eva", "w", "write").secret))
    with pytest.raises(NotFound):
        accounts.organisations.ensure("school", by=eva)
    assert accounts.organisations.ensure("School", by=admin) == "School"
    assert accounts.organisations.ensure("school", by=eva) == "School"
    with pytest.raises(Conflict):
        accounts.users.create("SCHOOL")


@pytest.mark.parametrize("name", ["api", "V1", "datasets", "new", "a/b", "", "x" * 97])
def test_reserved_and_bad_user_names(accounts: Accounts, name: str) -> None:
    with pytest.raises(InvalidInput):
        accounts.users.create(name)


def test_a_link_works_once(accounts: Accounts) -> None:
    code, life_s = accounts.sessions.create_code("eva")
    assert life_s == 600
    secret = accounts.sessions.redeem_code(code)
    identity = accounts.identify({"cookie": f"a=b; fust_session={secret}"})
    assert (identity.user, identity.via) == ("eva", "session")
    with pytest.raises(Unauthenticated):
        accounts.sessions.redeem_code(code)


def test_an_old_link_is_refused(accounts: Accounts) -> None:
    code, _ = accounts.sessions.create_code("eva")
    with accounts._database.write() as session:
        session.execute(update(SignInCode).values(expires_at=utc_naive() - timedelta(seconds=1)))
    with pytest.raises(Unauthenticated):
        accounts.sessions.redeem_code(code)


def test_a_session_used_from_another_site_changes_nothing(accounts: Accounts) -> None:
    secret = accounts.sessions.redeem_code(accounts.sessions.create_code("eva")[0])
    cookie = {"cookie": f"fust_session={secret}"}
    accounts.identify(cookie, method="GET")
    for extra in (
        {},
        {"sec-fetch-site": "cross-site"},
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "same-site"},
    ):
        with pytest.raises(Denied):
            accounts.identify({**cookie, **extra}, method="POST")
    assert accounts.identify({**cookie, "sec-fetch-site": "same-origin"}, method="POST").user == "eva"
    assert accounts.identify({**cookie, "origin": "http://127.0.0.1:8787"}, method="POST").user == "eva"


def test_passwords(accounts: Accounts) -> None:
    with pytest.raises(InvalidInput):
        accounts.users.set_password("eva", "short")
    accounts.users.set_password("eva", "a sentence is good")
    with accounts._database.read() as session:
        hashed = session.scalars(select(User.password_hash).where(User.name == "eva")).one()
    assert hashed is not None and hashed.startswith("$argon2id$")
    old = accounts.sessions.sign_in_by_password("eva", "a sentence is good")
    for name, password in (("eva", "wrong"), ("nobody", "a sentence is good"), ("admin", "")):
        with pytest.raises(Unauthenticated):
            accounts.sessions.sign_in_by_password(name, password)
    accounts.users.set_password("eva", "another sentence")
    assert accounts.identify({"cookie": f"fust_session={old}"}) == ANONYMOUS


def test_weak_tokens_do_not_become_strong_sessions(accounts: Accounts) -> None:
    for user, scope in (("eva", "read"), ("admin", "read"), ("admin", "write")):
        with pytest.raises(Denied):
            accounts.sessions.sign_in_by_token(accounts.tokens.create(user, "t", scope).secret)
    assert accounts.sessions.sign_in_by_token(accounts.tokens.create("eva", "t", "write").secret)


def test_tokens_in_headers() -> None:
    assert token_in({"authorization": "bearer x "}) == "x"
    assert token_in({"authorization": "Basic YTpi"}) == "b"
    assert token_in({"authorization": "Basic ***"}) is None
    assert token_in({"x-api-key": "k"}) == "k"
    assert token_in({"authorization": "Digest x"}) is None


def test_the_signing_key_is_private_and_stays(accounts: Accounts) -> None:
    key = accounts.signing_key()
    path = accounts._settings.home / "signing-key"
    assert len(key) == 32 and path.stat().st_mode & 0o777 == 0o600
    assert Accounts(accounts._database, accounts._settings).signing_key() == key


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("1.2.3.4", "9.9.9.9", "1.2.3.4"),
        ("10.0.0.1", "9.9.9.9", "9.9.9.9"),
        ("10.0.0.1", "6.6.6.6, 9.9.9.9, 10.0.0.2", "9.9.9.9"),
        ("10.0.0.1", "rubbish", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("", "9.9.9.9", ""),
    ],
)
def test_only_trusted_proxies_speak_for_a_client(peer: str, forwarded: str, client: str) -> None:
    assert client_address(peer, forwarded, ("10.0.0.0/24",)) == client


def test_a_wrong_proxy_setting_is_named() -> None:
    with pytest.raises(InvalidInput, match="trusted_proxies"):
        client_address("1.2.3.4", "", ("the proxy",))


def test_a_key_works_when_its_use_cannot_be_noted(accounts: Accounts) -> None:
    """A database that cannot be written (full disk) still lets its users read."""
    if not accounts._database.is_sqlite:
        pytest.skip("SQLite's way to open a database that cannot be written")
    made = accounts.tokens.create("eva", "laptop", "read")
    path = accounts._settings.home / "fust.db"
    with accounts._database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    accounts._database.close()
    read_only = Accounts(Database(f"sqlite:///file:{path}?mode=ro&uri=true"), accounts._settings)
    assert read_only.identify(bearer(made.secret)).user == "eva"
    read_only._database.close()
