"""The table of rights: every role, scope and limit crossed with every action."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fust.accounts.rights import (
    ANONYMOUS,
    LEAST_ROLE,
    ROLES,
    SCOPES,
    SYSTEM,
    Action,
    Grants,
    Identity,
    Role,
    make_grants,
    may,
    may_in,
    may_see_model,
    may_use,
)
from fust.core.errors import InvalidInput

# What each role may do, written out: the code derives it from one least role per action.
TABLE: dict[str, str] = {
    #                read write admin owner
    "repo.read": "    yes  yes   yes   yes",
    "repo.open": "    no   yes   yes   yes",
    "repo.push": "    no   yes   yes   yes",
    "repo.create": "  no   yes   yes   yes",
    "repo.delete": "  no   no    yes   yes",
    "repo.settings": "no   no    yes   yes",
    "org.settings": " no   no    yes   yes",
    "org.members": "  no   no    yes   yes",
    "org.owners": "   no   no    no    yes",
    "org.delete": "   no   no    no    yes",
}


def member(role: Role | None, scope: str = "write", grants: Grants | None = None) -> Identity:
    roles = {"lab": role} if role else {}
    return Identity("eva", False, SCOPES[scope], "t_1", "token", roles, grants)  # type: ignore[arg-type]


def test_the_table_names_every_action() -> None:
    assert set(TABLE) == set(LEAST_ROLE)


@pytest.mark.parametrize(("action", "role"), [*itertools.product(LEAST_ROLE, ROLES)])
def test_roles(action: Action, role: Role) -> None:
    expected = TABLE[action].split()[ROLES.index(role)] == "yes"
    eva = member(role)
    decide = may_in if action.startswith("org.") else may
    assert decide(eva, action, "lab" if action.startswith("org.") else "Lab/x") is expected
    # A key that may only read changes nothing, whatever the role.
    assert decide(member(role, "read"), action, "lab/x") is (
        expected and action in ("repo.read", "repo.open")
    )
    # Belonging to one organisation says nothing of another.
    assert not decide(eva, action, "other" if action.startswith("org.") else "other/x")


@pytest.mark.parametrize("action", [*LEAST_ROLE])
def test_outsiders_nobody_and_administrators(action: Action) -> None:
    decide = may_in if action.startswith("org.") else may
    name = "lab" if action.startswith("org.") else "lab/x"
    assert not decide(member(None), action, name)
    assert not decide(ANONYMOUS, action, name)
    assert decide(SYSTEM, action, name)
    own = "eva" if action.startswith("org.") else "EVA/x"
    assert decide(member(None), action, own)


def test_public_repos_are_read_by_anybody() -> None:
    only = make_grants(["lab/x"], None)
    for caller in (ANONYMOUS, member(None), member("read", "read"), member("owner", grants=only)):
        assert may(caller, "repo.read", "other/y", private=False)
        assert not may(caller, "repo.push", "other/y")


def test_a_key_for_some_repos() -> None:
    grants = make_grants(["Lab/news", "dataset:lab/corpus", "eva/*"], None)
    eva = member("owner", grants=grants)
    for repo_type in ("model", "dataset", "space"):
        assert may(eva, "repo.delete", "lab/News", repo_type)
        assert may(eva, "repo.push", "eva/anything", repo_type)
        assert may(eva, "repo.push", "lab/corpus", repo_type) is (repo_type == "dataset")
        assert not may(eva, "repo.read", "lab/news2", repo_type)
        assert not may(eva, "repo.read", "evan/x", repo_type)
    assert not any(may_in(eva, action, "lab") for action in LEAST_ROLE)
    # It narrows: the role still bounds it.
    assert not may(member("read", grants=grants), "repo.push", "lab/news")
    assert not may(member(None, grants=grants), "repo.read", "lab/news")
    # For repos only: no model is used by it.
    assert not may_use(eva, ["lab/news"], "lab/news", private=False)
    assert may_see_model(eva, ["lab/news"], "lab/news", private=True)
    assert not may_see_model(eva, ["lab/other"], "lab/other", private=False)


def test_a_key_for_some_models() -> None:
    eva = member("read", grants=make_grants(None, ["helper", "lab/*"]))
    assert may_use(eva, ["pub/m", "helper"], "pub/m", private=False)
    assert may_use(eva, ["lab/m:Q4.gguf"], "lab/m", private=True)
    assert not may_use(eva, ["pub/other"], "pub/other", private=False)
    assert not may_use(eva, ["Helper"], "pub/other", private=False)
    assert not may_see_model(eva, ["pub/other"], "pub/other", private=False)
    assert not may(eva, "repo.read", "lab/m"), "a model's name opens no files"
    # The role still bounds it: a private model of an organisation that one left is gone.
    gone = member(None, grants=make_grants(None, ["lab/*"]))
    assert not may_use(gone, ["lab/m"], "lab/m", private=True)
    assert not may_use(ANONYMOUS, ["lab/m"], "lab/m", private=False)


@pytest.mark.parametrize(
    "pattern",
    ["", "lab", "lab/", "/x", "a/b/c", "file:lab/x", "model:", "lab/**", "../x", "l*/x", "*/x", ":*"],
)
def test_bad_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidInput):
        make_grants([pattern], None)


_names = st.sampled_from(["lab/news", "lab/x", "eva/x", "other/y", "Lab/News"])
_patterns = st.lists(
    st.sampled_from(["lab/news", "lab/*", "eva/*", "*", "dataset:lab/x", "model:*"]), max_size=3
)


@given(
    action=st.sampled_from(sorted(LEAST_ROLE)),
    role=st.sampled_from([None, *ROLES]),
    scope=st.sampled_from(["read", "write"]),
    repos=_patterns,
    models=st.lists(st.sampled_from(["lab/news", "*", "helper"]), max_size=2),
    name=_names,
    repo_type=st.sampled_from(["model", "dataset", "space"]),
    private=st.booleans(),
)
def test_limits_only_narrow(
    action: Action,
    role: Role | None,
    scope: str,
    repos: list[str],
    models: list[str],
    name: str,
    repo_type: str,
    private: bool,
) -> None:
    whole, narrow = member(role, scope), member(role, scope, make_grants(repos, models))
    if may(narrow, action, name, repo_type, private=private):
        assert may(whole, action, name, repo_type, private=private)
    if may_use(narrow, [name], name, private=private):
        assert may_use(whole, [name], name, private=private)
    if may_see_model(narrow, [name], name, private=private):
        assert may_see_model(whole, [name], name, private=private)
    # Never less than nobody has, either: a public repo is read with any key.
    if may(ANONYMOUS, action, name, repo_type, private=private):
        assert may(narrow, action, name, repo_type, private=private)
