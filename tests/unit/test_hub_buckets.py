"""Buckets as rows: listings by prefix are the same in both databases, and their sums stay true."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from fust.accounts.rights import SYSTEM
from fust.accounts.service import Accounts
from fust.app.home import prepare_schema
from fust.core.clock import utc_naive
from fust.core.ids import new_id
from fust.core.settings import load_settings
from fust.hub.bucket_batch import EMPTY_XET_HASH, PutFile
from fust.hub.buckets import BucketInfo, Buckets
from fust.hub.models import BucketFile, LargeFile, LargeFileOwner, XetFile
from fust.store.database import Database
from tests.support.postgres import running_postgres


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with running_postgres() as url:
        yield url


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    folder = tmp_path_factory.mktemp("buckets")
    url = f"sqlite:///{folder / 'x.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres")
    opened = Database(url)
    prepare_schema(opened)
    with opened.write() as session:
        for size, name in ((10, "a"), (25, "b")):
            session.add(XetFile(xet_hash=name * 64, sha256=name * 40, size=size, segments=b""))
            session.add(LargeFile(sha256=name * 40, size=size, xet_hash=name * 64))
        session.add(LargeFileOwner(namespace="team", sha256="a" * 40))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def buckets(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Buckets:
    known = load_settings(tmp_path_factory.mktemp("home"), environ={})
    accounts = Accounts(database, known)
    accounts.users.create("team")
    return Buckets(database, accounts, known.hub)


def put(path: str, xet_hash: str = EMPTY_XET_HASH) -> PutFile:
    return PutFile(path, xet_hash, utc_naive())


PATHS = st.lists(
    st.lists(st.sampled_from(["a", "A", "ab", "b", "a.b", "ä", "~", "0", "-"]), min_size=1, max_size=3).map(
        "/".join
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    paths=PATHS, prefix=st.sampled_from(["", "a", "a/", "ab", "a/b", "ä", "none"]), limit=st.integers(1, 5)
)
def test_listings_are_those_of_sorted_names(
    buckets: Buckets, paths: list[str], prefix: str, limit: int
) -> None:
    info = buckets.create(SYSTEM, f"team/{new_id()}", private=True)
    buckets.write(SYSTEM, info, [put(path) for path in paths], [], set())
    expected = sorted({p for p in paths if p.startswith(prefix)}, key=str.encode)
    shallow: list[tuple[str, bool]] = []
    for path in expected:
        rest = path[len(prefix) :]
        head, slash, _ = rest.removeprefix("/").partition("/")
        whole = path[: len(path) - len(rest)] + ("/" if rest.startswith("/") else "") + head
        if (entry := (whole, not slash)) not in shallow:
            shallow.append(entry)
    assert list_all(buckets, info, prefix, True, limit) == [(p, True) for p in expected]
    assert sorted(list_all(buckets, info, prefix, False, limit)) == sorted(shallow)


def list_all(
    buckets: Buckets, info: BucketInfo, prefix: str, recursive: bool, limit: int
) -> list[tuple[str, bool]]:
    found: list[tuple[str, bool]] = []
    cursor: str | None = ""
    while cursor is not None:
        page, cursor = buckets.list_tree(info, prefix, recursive=recursive, limit=limit, cursor=cursor)
        assert len(page) <= limit
        found += [(entry.path, entry.file is not None) for entry in page]
    return found


def test_sums_follow_and_only_brought_bytes_are_put(buckets: Buckets, database: Database) -> None:
    info = buckets.create(SYSTEM, "team/sums", private=True)
    both = [put("x", "a" * 64), put("y", "b" * 64), put("x", "a" * 64), put("z")]
    failed = buckets.write(SYSTEM, info, both, ["never"], {"team"})
    assert [failure.path for failure in failed] == ["y", "never"], "b was brought by nobody of the team"
    again = buckets.get(SYSTEM, "team/sums")
    assert (again.files, again.size_bytes) == (2, 10)
    buckets.write(SYSTEM, info, [PutFile("x", "b" * 64, utc_naive(), allowed=True)], ["z"], {"team"})
    buckets.write(SYSTEM, info, [put("copy", "b" * 64)], [], set())  # the bucket holds it already
    again = buckets.get(SYSTEM, "team/sums")
    assert (again.files, again.size_bytes) == (2, 50)
    with database.read() as session:
        query = select(func.count(), func.sum(BucketFile.size)).where(BucketFile.bucket_id == info.id)
        assert tuple(session.execute(query).one()) == (2, 50)
