"""Organisations, suspended users, tokens with limits, and the seed file, on a real database."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from fust.accounts.audit_models import AuditEntry
from fust.accounts.models import Token
from fust.accounts.rights import ANONYMOUS, Identity, may
from fust.accounts.seed import apply_seed, read_seed
from fust.accounts.service import CACHE_S, Accounts
from fust.core.clock import utc_naive
from fust.core.errors import Conflict, Denied, FustError, InvalidInput, NotFound, Unauthenticated
from fust.core.settings import load_settings
from fust.store.database import Database


@pytest.fixture
def accounts(tmp_path: Path, database: Database) -> Accounts:
    accounts = Accounts(database, load_settings(tmp_path, environ={}))
    accounts.users.create("admin", is_admin=True)
    for name in ("olga", "anna", "will", "rita"):
        accounts.users.create(name)
    accounts.organisations.create("Lab", by=who(accounts, "olga"), display_name="The Lab")
    for name, role in (("anna", "admin"), ("will", "write"), ("rita", "read")):
        accounts.organisations.set_member("lab", name, role, by=who(accounts, "olga"))
    return accounts


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def who(accounts: Accounts, name: str, scope: str = "", **limits: list[str]) -> Identity:
    scope = scope or ("admin" if name == "admin" else "write")
    return accounts.identify(bearer(accounts.tokens.create(name, "test", scope, **limits).secret))


def test_members_and_their_roles(accounts: Accounts) -> None:
    members = {m.name: m.role for m in accounts.organisations.list_members("LAB")}
    assert members == {"olga": "owner", "anna": "admin", "will": "write", "rita": "read"}
    assert accounts.organisations.get("lab").members == 4
    assert who(accounts, "anna").roles == {"lab": "admin"}
    assert may(who(accounts, "rita"), "repo.read", "Lab/secret")
    assert not may(who(accounts, "admin", "write"), "repo.read", "Lab/secret")


def test_an_admin_manages_members_up_to_write(accounts: Accounts) -> None:
    anna, organisations = who(accounts, "anna"), accounts.organisations
    accounts.users.create("nina")
    organisations.set_member("lab", "nina", "write", by=anna)
    organisations.set_member("lab", "nina", "read", by=anna)
    for name, role in (("nina", "admin"), ("nina", "owner"), ("olga", "read"), ("anna", "owner")):
        with pytest.raises(Denied):
            organisations.set_member("lab", name, role, by=anna)
    with pytest.raises(Denied):
        organisations.remove_member("lab", "olga", by=anna)
    organisations.remove_member("lab", "nina", by=anna)
    organisations.rename("lab", "Language Lab", by=anna)
    with pytest.raises(Denied):
        organisations.remove("lab", by=anna)


@pytest.mark.parametrize("name", ["will", "rita"])
def test_others_manage_nothing_but_may_leave(accounts: Accounts, name: str) -> None:
    caller, organisations = who(accounts, name), accounts.organisations
    for call in (
        lambda: organisations.set_member("lab", name, "owner", by=caller),
        lambda: organisations.set_member("lab", "admin", "read", by=caller),
        lambda: organisations.remove_member("lab", "anna", by=caller),
        lambda: organisations.rename("lab", "Mine", by=caller),
        lambda: organisations.remove("lab", by=caller),
        lambda: organisations.remove_member("lab", name, by=who(accounts, name, "read")),
        lambda: organisations.remove_member("lab", name, by=who(accounts, name, repos=["lab/*"])),
    ):
        with pytest.raises(Denied):
            call()
    with pytest.raises(Unauthenticated):
        organisations.rename("lab", "Mine", by=ANONYMOUS)
    organisations.remove_member("lab", name, by=caller)
    assert not may(accounts.fresh(caller), "repo.read", "lab/x")


def test_the_last_owner_stays(accounts: Accounts) -> None:
    olga, organisations = who(accounts, "olga"), accounts.organisations
    for call in (
        lambda: organisations.remove_member("lab", "olga", by=olga),
        lambda: organisations.set_member("lab", "olga", "admin", by=olga),
        lambda: organisations.remove_member("lab", "olga", by=who(accounts, "admin")),
        lambda: accounts.users.remove("olga", by=who(accounts, "admin")),
    ):
        with pytest.raises(Conflict) as caught:
            call()
        assert caught.value.code == "last_owner"
    organisations.set_member("lab", "anna", "owner", by=olga)
    organisations.remove_member("lab", "olga", by=olga)
    accounts.users.remove("olga")
    assert accounts.users.find("olga") is None


def test_two_owners_who_leave_at_once_leave_one(accounts: Accounts) -> None:
    accounts.organisations.set_member("lab", "anna", "owner", by=who(accounts, "olga"))
    start, refused = threading.Barrier(2), []

    def leave(caller: Identity) -> None:
        start.wait()
        try:
            accounts.organisations.remove_member("lab", caller.user or "", by=caller)
        except Conflict as error:
            refused.append(error.code)

    threads = [threading.Thread(target=leave, args=(who(accounts, name),)) for name in ("olga", "anna")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == ["last_owner"]
    roles = [m.role for m in accounts.organisations.list_members("lab")]
    assert roles.count("owner") == 1


def test_the_last_administrator_stays(accounts: Accounts) -> None:
    for change in ({"is_admin": False}, {"suspended": True}):
        with pytest.raises(Conflict) as caught:
            accounts.users.update("admin", **change)
        assert caught.value.code == "last_admin"
    with pytest.raises(Conflict):
        accounts.users.remove("admin")
    assert who(accounts, "admin").is_admin


@pytest.mark.parametrize(
    "name", ["lab", "OLGA", "api", "new", "a..b", "-x", "x-", "a/b", "a b", "x.git", "é", ""]
)
def test_names_are_one_space_by_the_hub_s_rules(accounts: Accounts, name: str) -> None:
    with pytest.raises(FustError):
        accounts.organisations.create(name, by=who(accounts, "will"))


@pytest.mark.parametrize("name", ["a", "A1", "x_y", "_x", "a.b-c", "0xlab", "x" * 96])
def test_names_that_the_hub_takes(accounts: Accounts, name: str) -> None:
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(f"{name}/x")
    assert accounts.organisations.create(name, by=who(accounts, "will")).name == name


def test_who_is_suspended_is_nobody(accounts: Accounts) -> None:
    made = accounts.tokens.create("will", "laptop", "write")
    session = {
        "cookie": f"fust_session={accounts.sessions.redeem_code(accounts.sessions.create_code('will')[0])}"
    }
    accounts.users.set_password("rita", "a sentence is good")
    code, _ = accounts.sessions.create_code("rita")
    assert accounts.identify(session).user == "will"
    accounts.users.update("will", suspended=True)
    accounts.users.update("rita", suspended=True)
    with pytest.raises(Unauthenticated):
        accounts.identify(bearer(made.secret))
    assert accounts.identify(session) == ANONYMOUS
    for sign_in in (
        lambda: accounts.sessions.redeem_code(code),
        lambda: accounts.sessions.sign_in_by_password("rita", "a sentence is good"),
    ):
        with pytest.raises(Denied):
            sign_in()
    accounts.users.update("will", suspended=False)
    assert accounts.identify(bearer(made.secret)).user == "will"
    assert accounts.identify(session) == ANONYMOUS, "browsers sign in anew"


def test_a_token_ends(accounts: Accounts) -> None:
    made = accounts.tokens.create("will", "short", "write", expires_at=utc_naive() + timedelta(hours=1))
    assert accounts.identify(bearer(made.secret)).user == "will"
    with accounts._database.write() as session:
        session.execute(update(Token).values(expires_at=utc_naive() - timedelta(seconds=1)))
    accounts.forget()
    with pytest.raises(Unauthenticated):
        accounts.identify(bearer(made.secret))
    with pytest.raises(InvalidInput):
        accounts.tokens.create("will", "past", "read", expires_at=utc_naive() - timedelta(seconds=1))


def test_tokens_with_limits(accounts: Accounts) -> None:
    will = who(accounts, "will", repos=["lab/news"])
    accounts.check(will, "repo.push", "Lab/news")
    with pytest.raises(Denied, match="not made for"):
        accounts.check(will, "repo.push", "lab/other")
    with pytest.raises(Denied) as caught:
        accounts.require_whole(will)
    assert caught.value.code == "fine_grained"
    with pytest.raises(Denied):
        accounts.sessions.sign_in_by_token(accounts.tokens.create("will", "t", "write", models=["m"]).secret)
    with pytest.raises(InvalidInput):
        accounts.tokens.create("admin", "t", "admin", repos=["lab/x"])
    assert not who(accounts, "admin", "write", repos=["*"]).is_admin
    chosen = "a-value-of-my-own-0123456789"
    accounts.tokens.create("will", "chosen", "read", secret=chosen)
    assert accounts.identify(bearer(chosen)).user == "will"
    for wrong in ("short", "with spaces in it, and more", chosen):
        with pytest.raises(FustError):
            accounts.tokens.create("rita", "chosen", "read", secret=wrong)


def test_another_process_sees_changes_within_a_second(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process is another cache: what it remembers ends by the clock alone."""
    other = Accounts(accounts._database, accounts._settings)
    made = accounts.tokens.create("will", "laptop", "write")
    other.identify(bearer(made.secret))
    key = other.identify(bearer(made.secret)).key
    accounts.tokens.revoke(who(accounts, "will"), made.id)
    moment = [0.0]
    import fust.accounts.service as service

    clock = service.time.monotonic
    monkeypatch.setattr(service.time, "monotonic", lambda: clock() + moment[0])
    moment[0] = CACHE_S
    for call in (lambda: other.identify(bearer(made.secret)), lambda: other.by_key(key)):
        with pytest.raises(Unauthenticated):
            call()
    assert other.cached_identity(bearer(made.secret)) is None


def test_a_run_works_with_the_rights_of_now(accounts: Accounts) -> None:
    from fust.accounts.rights import Asked

    asked = Asked.of(who(accounts, "admin"))
    assert accounts.of_run("admin", asked).is_admin
    accounts.users.create("second", is_admin=True)
    accounts.users.update("admin", is_admin=False)
    assert not accounts.of_run("admin", asked).is_admin
    narrow = accounts.of_run("will", Asked.of(who(accounts, "will", repos=["lab/news"])))
    assert may(narrow, "repo.push", "lab/news") and not may(narrow, "repo.read", "lab/other")
    accounts.users.update("will", suspended=True)
    with pytest.raises(Denied):
        accounts.of_run("will", Asked())


SEED = """
[[users]]
name = "maria"
full_name = "Maria Silva"
admin = true
password = "a sentence is good"

[[users.tokens]]
name = "laptop"
scope = "write"
value = "maria-laptop-0123456789abcdef"

[[users]]
name = "ci"

[[users.tokens]]
name = "push"
scope = "write"
value = "ci-push-0123456789abcdefghij"
repos = ["school/*"]
expires_at = 2999-01-01

[[organisations]]
name = "school"
display_name = "The School"
members = { maria = "owner", ci = "write" }
"""


def seeded(accounts: Accounts, tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "team.toml"
    path.write_text(text)
    return apply_seed(accounts, read_seed(path))


def test_a_seed_twice_changes_nothing(accounts: Accounts, tmp_path: Path) -> None:
    assert len(seeded(accounts, tmp_path, SEED)) == 6
    maria = accounts.identify(bearer("maria-laptop-0123456789abcdef"))
    assert maria.user == "maria" and maria.roles == {"school": "owner"}
    ci = accounts.identify(bearer("ci-push-0123456789abcdefghij"))
    assert may(ci, "repo.push", "school/x") and not may(ci, "repo.push", "ci/x")
    accounts.sessions.sign_in_by_password("maria", "a sentence is good")
    with accounts._database.read() as session:
        before = session.scalar(select(func.count()).select_from(AuditEntry))
    assert seeded(accounts, tmp_path, SEED) == []
    with accounts._database.read() as session:
        assert session.scalar(select(func.count()).select_from(AuditEntry)) == before
    assert accounts.identify(bearer("maria-laptop-0123456789abcdef")).token_id == maria.token_id


def test_a_changed_seed_changes_what_differs_and_removes_nothing(accounts: Accounts, tmp_path: Path) -> None:
    seeded(accounts, tmp_path, SEED)
    accounts.users.set_password("maria", "her own sentence now")
    changed = (
        SEED.replace("The School", "Our School")
        .replace('ci = "write"', 'ci = "admin"')
        .replace("ci-push-0123456789abcdefghij", "ci-push-second-value-0123456789")
        .replace("Maria Silva", "Maria S.")
    )
    assert len(seeded(accounts, tmp_path, changed)) == 4
    assert accounts.identify(bearer("ci-push-second-value-0123456789")).roles == {"school": "admin"}
    with pytest.raises(Unauthenticated):
        accounts.identify(bearer("ci-push-0123456789abcdefghij"))
    accounts.sessions.sign_in_by_password("maria", "her own sentence now")
    assert seeded(accounts, tmp_path, '[[users]]\nname = "maria"\n') == []
    assert {m.name for m in accounts.organisations.list_members("school")} == {"maria", "ci"}
    # The owner changes hands: in whatever order the file names them.
    handed = changed.replace('maria = "owner", ci = "admin"', 'maria = "read", ci = "owner"')
    assert len(seeded(accounts, tmp_path, handed)) == 2


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[[users]]\nnmae = 'x'\n", "nmae"),
        ("[[users]]\nname = 'a b'\n", "a b"),
        ("users = 5\n", "users"),
        ("[[users", "TOML"),
        ("[[users]]\nname='x'\n[[organisations]]\nname='X'\n", "twice"),
        ("[[organisations]]\nname='x'\nmembers={a='boss'}\n", "boss"),
        ("[[organisations]]\nname='x'\nmembers={a='read'}\n", "no owner"),
        ("[[users]]\nname='x'\n[[users.tokens]]\nname='t'\nvalue='short'\n", "24 to 200"),
        ("[[users]]\nname='x'\n[[users.tokens]]\nname='t'\n", "value"),
        (
            "[[users]]\nname='x'\n[[users.tokens]]\nname='t'\nvalue='0123456789abcdefghijklmnop'\nscope='all'\n",
            "all",
        ),
    ],
)
def test_a_wrong_seed_is_named_before_anything_is_done(
    accounts: Accounts, tmp_path: Path, text: str, match: str
) -> None:
    users = len(accounts.users.list())
    with pytest.raises(InvalidInput, match=match) as caught:
        seeded(accounts, tmp_path, text)
    assert "0123456789abcdefghijklmnop" not in str(caught.value)
    assert len(accounts.users.list()) == users


def test_the_file_s_own_example_is_whole(accounts: Accounts, tmp_path: Path) -> None:
    import fust.accounts.seed as module

    accounts.users.create("ben")
    text = (module.__doc__ or "").split("```toml\n")[1].split("```")[0]
    assert seeded(accounts, tmp_path, text)
    assert not seeded(accounts, tmp_path, text)


def test_unknown_things_are_named(accounts: Accounts) -> None:
    admin = who(accounts, "admin")
    for call in (
        lambda: accounts.organisations.list_members("nothing"),
        lambda: accounts.organisations.set_member("olga", "will", "read", by=admin),
        lambda: accounts.organisations.set_member("lab", "nobody", "read", by=admin),
        lambda: accounts.organisations.remove_member("lab", "admin", by=admin),
        lambda: accounts.users.update("nobody", suspended=True),
    ):
        with pytest.raises(NotFound):
            call()
