"""The forms of gates, from cards of any shape; and requests for access on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fust.accounts.rights import SCOPES, SYSTEM, Identity
from fust.accounts.service import Accounts
from fust.core.clock import utc_naive
from fust.core.errors import Denied, FustError, InvalidInput, NotFound
from fust.core.settings import load_settings
from fust.hub.access_requests import parse_until
from fust.hub.errors import GatedRepo
from fust.hub.gate_form import COUNTRIES, GateForm, check_answers, read_form
from fust.hub.service import Hub
from fust.store.database import Database

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            f"extra_gated_{key}": _json
            for key in ("heading", "description", "prompt", "fields", "button_content")
        },
    )
)
def test_any_card_makes_a_form(card: dict[str, object]) -> None:
    form = read_form(card)
    assert len(form.fields) <= 50 and len(form.prompt) <= 20_000 and len(form.hash()) == 64
    assert all(field.name and (field.options or field.type != "select") for field in form.fields)
    assert read_form(card).hash() == form.hash()
    try:
        answers = check_answers(form, {field.name: "x" for field in form.fields})
    except InvalidInput:
        return
    assert list(answers) == [field.name for field in form.fields]


def test_what_is_agreed_to_makes_the_hash_and_the_button_does_not() -> None:
    form = read_form({"extra_gated_prompt": "a", "extra_gated_fields": {"Name": "text", "Land": "country"}})
    assert [field.type for field in form.fields] == ["text", "country"]
    assert len(COUNTRIES) == len(set(COUNTRIES)) == 249
    assert read_form({"extra_gated_button_content": "Go"}).hash() == GateForm().hash()
    for other in (
        {"extra_gated_prompt": "b"},
        {"extra_gated_heading": "b"},
        {"extra_gated_fields": {"Name": "checkbox"}},
    ):
        assert read_form(other).hash() not in (form.hash(), GateForm().hash())
    # What is not known is a text; a choice of nothing is no field.
    odd = read_form({"extra_gated_fields": {"A": "colour", "B": {"type": "select"}, "C": None, " ": "text"}})
    assert [(field.name, field.type) for field in odd.fields] == [("A", "text"), ("C", "text")]


def test_what_is_not_offered_in_the_union_is_agreed_to_and_refused_to_who_names_it() -> None:
    fields = {"extra_gated_fields": {"Land": "country", "Why": "text"}}
    form, usual = read_form({**fields, "extra_gated_eu_disallowed": True}), read_form(fields)
    assert form.eu_disallowed and not usual.eu_disallowed and form.hash() != usual.hash()
    assert read_form({"extra_gated_eu_disallowed": "yes"}) == GateForm()
    for country in ("FR", "GR"):
        with pytest.raises(Denied, match=country):
            check_answers(form, {"Land": country, "Why": "x"})
        assert check_answers(usual, {"Land": country, "Why": "x"})["Land"] == country
    assert check_answers(form, {"Land": "CH", "Why": "FR"}) == {"Land": "CH", "Why": "FR"}


@pytest.mark.parametrize("text", ["soon", "2026-13-01", "31.01.2027"])
def test_an_end_is_a_day_or_a_time(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_until(text)
    end = parse_until("2027-01-31")
    assert end is not None and end.isoformat() == "2027-01-31T23:59:59"
    assert parse_until("") is None and parse_until(None) is None


@pytest.fixture
def hub(database: Database, tmp_path: Path) -> Iterator[Hub]:
    settings = load_settings(tmp_path, environ={})
    accounts = Accounts(database, settings)
    accounts.users.create("root", is_admin=True)
    for name in ("eva", "tim"):
        accounts.users.create(name)
    hub = Hub(database, accounts, settings)
    info = hub.create_repo(SYSTEM, "eva/model")
    hub.repos.update(SYSTEM, info, gated="manual")
    yield hub


def test_a_request_from_end_to_end(hub: Hub) -> None:
    eva, tim = (Identity(name, False, SCOPES["write"], None, "session") for name in ("eva", "tim"))
    info = hub.get_repo(eva, "eva/model")
    assert hub.gates.opens(eva, info) and not hub.gates.opens(tim, info)
    terms = hub.gates.form(info).hash()
    with pytest.raises(GatedRepo, match="not in the authorized list"):
        hub.get_repo_to_open(tim, "eva/model")
    assert hub.access.ask(tim, info, {}, terms).status == "pending"
    assert hub.access.ask(tim, info, {}, terms).version == 1, "sent again, it is the same request"
    assert [(repo.repo_id, count) for repo, count in hub.access.pending(eva)] == [("eva/model", 1)]
    assert hub.access.pending(tim) == [] and hub.access.count_pending(tim, info) == 0
    with pytest.raises(FustError):
        hub.access.decide(tim, info, "accepted", user="tim")
    hub.access.decide(eva, info, "accepted", user="TIM", until=utc_naive() + timedelta(hours=1))
    assert hub.gates.opens(tim, info) and hub.access.counts(info)["accepted"] == 1
    [(_, mine)] = hub.access.of_user(tim)
    assert mine.decided_by == "eva" and not mine.is_over
    hub.access.decide(eva, info, "rejected", request_id=mine.id, reason=" no \n more ")
    with pytest.raises(GatedRepo, match="no more"):
        hub.gates.check(tim, info)
    with pytest.raises(NotFound):
        hub.access.decide(eva, info, "rejected", user="tim")
    # Who is deleted and comes back under the same name has nothing of it.
    hub._accounts.users.remove("tim")
    hub._accounts.users.create("tim")
    assert hub.gates.standing(tim, info) == ("none", None)
    assert sum(hub.access.counts(info).values()) == 0
