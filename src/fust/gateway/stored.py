"""Responses that clients asked to keep: each user's own, bounded in number, size and time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from fust.accounts.rights import Identity
from fust.core.clock import utc_naive
from fust.core.errors import InvalidInput, NotFound
from fust.core.ids import new_id
from fust.gateway.models import ResponseRow
from fust.gateway.owned import find_own, user_id_of
from fust.store.database import Database
from fust.wire.responses import InputItem

KEPT = timedelta(days=30)
MOST = 1000
"""Responses of one user; the oldest go first."""
MOST_BYTES = 256 * 2**20
"""Of one user's responses together."""
_MOST_LINKS = 200


class Responses:
    """The kept responses of one home."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, identity: Identity, response: dict[str, Any], items: list[InputItem]) -> None:
        """Keeps a response; what is too old, or more than one user may have, goes."""
        body, inputs = msgspec.to_builtins(response), msgspec.to_builtins(items)
        for item in inputs:
            item.setdefault("id", new_id("item_"))
            item.setdefault("type", "message")
        size = len(msgspec.json.encode(body)) + len(msgspec.json.encode(inputs))
        with self._database.write() as session:
            user_id = user_id_of(session, identity)
            session.execute(delete(ResponseRow).where(ResponseRow.created_at < utc_naive() - KEPT))
            session.add(
                ResponseRow(
                    id=response["id"],
                    user_id=user_id,
                    token_id=identity.token_id,
                    previous=response["previous_response_id"],
                    body=body,
                    items={"input": inputs},
                    size_bytes=size,
                )
            )
            session.flush()
            _drop_oldest(session, user_id)

    def get(self, identity: Identity, response_id: str) -> ResponseRow:
        """Returns a response of the caller's.

        Raises:
            NotFound: the caller has none of that id.
        """
        with self._database.read() as session:
            return _row(session, identity, response_id)

    def delete(self, identity: Identity, response_id: str) -> None:
        """Forgets a response.

        Raises:
            NotFound: the caller has none of that id.
        """
        with self._database.write() as session:
            session.delete(_row(session, identity, response_id))

    def conversation(self, identity: Identity, response_id: str) -> list[InputItem]:
        """Returns all that was said up to a response and in it, oldest first.

        Raises:
            InvalidInput: a response of the chain is not kept, or the chain is too long.
        """
        turns: list[list[InputItem]] = []
        next_id: str | None = response_id
        with self._database.read() as session:
            while next_id:
                row = find_own(ResponseRow, session, identity, next_id)
                if row is None:
                    raise InvalidInput(
                        "There is no response {id!r} to go on from.",
                        hint="Responses are kept for 30 days, unless they were asked for with `store: false`.",
                        id=next_id[:100],
                        param="previous_response_id",
                        code="previous_response_not_found",
                    )
                if len(turns) == _MOST_LINKS:
                    raise InvalidInput(
                        "A conversation goes on over at most {limit} kept responses.",
                        hint="Send its items as input.",
                        limit=_MOST_LINKS,
                        param="previous_response_id",
                    )
                said = [*row.items["input"], *row.body["output"]]
                turns.append(msgspec.convert(said, list[InputItem]))
                next_id = row.previous
        return [item for turn in reversed(turns) for item in turn]


def _row(session: Session, identity: Identity, response_id: str) -> ResponseRow:
    row = find_own(ResponseRow, session, identity, response_id)
    if row is None:
        raise no_response(response_id)
    return row


def no_response(response_id: str) -> NotFound:
    """Returns the error for a response that is not kept, or is another's."""
    return NotFound(
        "There is no response {id!r}.",
        hint="Responses are kept for 30 days, unless they were asked for with `store: false`.",
        id=response_id[:100],
    )


def _drop_oldest(session: Session, user_id: str) -> None:
    mine = ResponseRow.user_id == user_id
    count, size = session.execute(
        select(func.count(), func.coalesce(func.sum(ResponseRow.size_bytes), 0)).where(mine)
    ).one()
    if count <= MOST and size <= MOST_BYTES:
        return
    query = select(ResponseRow.id, ResponseRow.size_bytes).where(mine).order_by(ResponseRow.created_at)
    for row_id, row_size in session.execute(query).all():
        if count <= MOST and size <= MOST_BYTES:
            return
        session.execute(delete(ResponseRow).where(ResponseRow.id == row_id))
        count, size = count - 1, size - row_size
