"""Fixtures of the API tests: a server on a database of either kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import RunningFust, start_fust
from tests.support.databases import new_postgres

__all__ = ["new_postgres"]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server_of_each(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningFust]:
    """A server for all tests of a module, without the starter model: on SQLite, then on PostgreSQL."""
    settings: dict[str, str] = {}
    if request.param == "postgresql":
        new: Callable[[], str] = request.getfixturevalue("new_postgres")
        settings["store__database_url"] = new()
    running = start_fust(tmp_path_factory.mktemp("fust") / "home", **settings)  # type: ignore[arg-type]
    yield running
    running.stop()
