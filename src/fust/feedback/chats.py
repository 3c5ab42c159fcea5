"""The history of conversations: each user's own, seen by nobody else, administrators included."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from datetime import datetime

import msgspec
from sqlalchemy import ColumnElement, delete, exists, func, or_, select
from sqlalchemy.orm import Session

from fust.accounts.models import User
from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.clock import iso, utc_naive
from fust.core.errors import Conflict, InvalidInput, NotFound
from fust.core.ids import new_id
from fust.feedback.models import ChatChoice, ChatRow, TurnRow
from fust.feedback.types import (
    MAX_TURNS,
    Chat,
    ChatChange,
    ChatLine,
    ChatList,
    ChatSettings,
    NewChat,
    NewTurn,
    Turn,
    TurnDetails,
)
from fust.store.database import Database

_WORDS = 8
_BEFORE, _AFTER = 30, 90


class HistoryOff(Conflict):
    """The caller keeps no history; nothing was written."""

    code = "history_off"


class Chats:
    """Conversations of the users of one home.

    Every method takes the caller and looks at their rows only; another user's conversation is as absent as one that
    never was. A key needs the scope `write` and must
    not be fine-grained: one that was made for a model or a repo opens no history.
    """

    def __init__(self, database: Database, accounts: Accounts) -> None:
        self._database = database
        self._accounts = accounts

    # The switch

    def keeps(self, identity: Identity) -> bool:
        """Returns whether the caller's conversations are kept."""
        with self._database.read() as session:
            return _keeps(session, self._user_id(session, identity))

    def set_keep(self, identity: Identity, keep: bool) -> None:
        """Turns the history on or off; what was kept before stays until it is deleted."""
        with self._database.write() as session:
            user_id = self._user_id(session, identity)
            row = session.get(ChatChoice, user_id)
            if row is None:
                session.add(ChatChoice(user_id=user_id, keep=keep))
            else:
                row.keep = keep

    # Looking

    def list_chats(
        self, identity: Identity, *, search: str = "", limit: int = 50, cursor: str | None = None
    ) -> ChatList:
        """Returns a page of conversations in which every word of the search occurs, the newest first."""
        words = _fold(search).split()[:_WORDS]
        with self._database.read() as session:
            mine = ChatRow.user_id == self._user_id(session, identity)
            query = select(ChatRow.updated_at, ChatRow.id).where(mine, *map(_has_word, words))
            # The search reads every message of the caller: once, for the count and the page.
            found = [(at, id_) for at, id_ in session.execute(query)]
            found.sort(reverse=True)
            since = _read_cursor(cursor) if cursor is not None else None
            page = [key for key in found if since is None or key < since][: limit + 1]
            ids = [id_ for _, id_ in page[:limit]]
            rows = {row.id: row for row in session.scalars(select(ChatRow).where(ChatRow.id.in_(ids)))}
            items = [_line(rows[id_], _found(session, rows[id_], words)) for id_ in ids]
        more = f"{page[limit - 1][0].isoformat()}_{ids[-1]}" if len(page) > limit else None
        return ChatList(items, more, len(found))

    def get(self, identity: Identity, chat_id: str) -> Chat:
        """Returns a conversation with its turns.

        Raises:
            NotFound: the caller has none of that id.

        """
        with self._database.read() as session:
            return _draw(session, self._row(session, identity, chat_id))

    def iter_chats(self, identity: Identity) -> Iterator[Chat]:
        """Yields all conversations of the caller, the newest first, one in memory at a time."""
        with self._database.read() as session:
            query = select(ChatRow.id).where(ChatRow.user_id == self._user_id(session, identity))
            ids = list(session.scalars(query.order_by(ChatRow.updated_at.desc(), ChatRow.id.desc())))
        for chat_id in ids:
            try:
                yield self.get(identity, chat_id)
            except NotFound:
                continue  # deleted meanwhile

    # Changing

    def create(self, identity: Identity, new: NewChat) -> Chat:
        """Begins a conversation.

        Raises:
            HistoryOff: the caller keeps none.

        """
        with self._database.write() as session:
            user_id = self._user_id(session, identity)
            _check_kept(session, user_id)
            title = _clean(new.title)
            row = ChatRow(
                id=new_id("c"),
                user_id=user_id,
                title=title,
                folded=_fold(title),
                settings=msgspec.to_builtins(new.settings),
            )
            session.add(row)
            session.flush()
            return _draw(session, row)

    def change(self, identity: Identity, chat_id: str, change: ChatChange) -> ChatLine:
        """Renames a conversation, keeps other settings, or shows another branch."""
        with self._database.write() as session:
            row = self._row(session, identity, chat_id)
            if change.title is not None:
                row.title = _clean(change.title)
                row.folded = _fold(row.title)
            if change.settings is not None:
                row.settings = msgspec.to_builtins(change.settings)
            if change.leaf is not None:
                _check_turn(session, chat_id, change.leaf)
                row.leaf = change.leaf
            return _line(row)

    def put_turn(self, identity: Identity, chat_id: str, turn_id: str, new: NewTurn) -> ChatLine:
        """Keeps a turn, or the newer state of an answer that grows; the same request twice is once.

        An answer that stands is never put back to an earlier state by a request that was overtaken.

        Raises:
            NotFound: no such conversation of the caller.
            HistoryOff: the caller keeps none.
            InvalidInput: the parent is not in the conversation, or the turn was another before.
            Conflict: the conversation is full.

        """
        with self._database.write() as session:
            chat = self._row(session, identity, chat_id)
            _check_kept(session, chat.user_id)
            row = session.get(TurnRow, (chat_id, turn_id))
            if row is None:
                row = _add_turn(session, chat, turn_id, new)
            elif (row.role, row.parent) != (new.role, new.parent):
                raise InvalidInput(
                    "The message {turn} is there already, at another place of the conversation.",
                    hint="Give a new message an id of its own.",
                    turn=turn_id,
                )
            elif new.state == "growing" and row.state != "growing":
                return _line(chat)
            _fill(row, new)
            chat.updated_at = row.updated_at
            return _line(chat)

    def remove(self, identity: Identity, chat_id: str) -> None:
        """Deletes a conversation."""
        with self._database.write() as session:
            session.delete(self._row(session, identity, chat_id))

    def remove_all(self, identity: Identity) -> int:
        """Deletes all conversations of the caller; returns how many there were."""
        with self._database.write() as session:
            mine = ChatRow.user_id == self._user_id(session, identity)
            count = session.scalar(select(func.count()).select_from(ChatRow).where(mine)) or 0
            session.execute(delete(ChatRow).where(mine))
            return count

    def _user_id(self, session: Session, identity: Identity) -> str:
        self._accounts.require_whole(identity, "write")
        user_id = session.scalar(select(User.id).where(User.name == identity.user))
        if user_id is None:
            raise NotFound(
                "There is no user {name!r}.", hint="`fust users` lists them.", name=identity.user or ""
            )
        return user_id

    def _row(self, session: Session, identity: Identity, chat_id: str) -> ChatRow:
        mine = ChatRow.user_id == self._user_id(session, identity)
        row = session.scalars(select(ChatRow).where(ChatRow.id == chat_id, mine)).first()
        if row is None:
            raise NotFound(
                "There is no such conversation.",
                hint="It may have been deleted in another window; the list shows those that are kept.",
            )
        return row


def _keeps(session: Session, user_id: str) -> bool:
    choice = session.get(ChatChoice, user_id)
    return choice is None or choice.keep


def _check_kept(session: Session, user_id: str) -> None:
    if not _keeps(session, user_id):
        raise HistoryOff(
            "Your history is off, so nothing was kept.",
            hint="Turn it on under Conversations on the chat page.",
        )


def _check_turn(session: Session, chat_id: str, turn_id: str) -> None:
    if session.get(TurnRow, (chat_id, turn_id)) is None:
        raise InvalidInput(
            "The conversation has no message {turn}.", hint="Keep that message first.", turn=turn_id
        )


def _add_turn(session: Session, chat: ChatRow, turn_id: str, new: NewTurn) -> TurnRow:
    if new.parent is not None:
        _check_turn(session, chat.id, new.parent)
    count = session.scalar(select(func.count()).select_from(TurnRow).where(TurnRow.chat_id == chat.id)) or 0
    if count >= MAX_TURNS:
        raise Conflict(
            "This conversation has {count} messages and takes no more.",
            hint="Begin a new conversation.",
            count=count,
        )
    row = TurnRow(chat_id=chat.id, id=turn_id, parent=new.parent, role=new.role)
    session.add(row)
    chat.leaf = turn_id
    return row


def _fill(row: TurnRow, new: NewTurn) -> None:
    row.text = _clean(new.text)
    row.model = _clean(new.model)
    row.state = new.state
    for file in new.files:
        file.name, file.text = _clean(file.name), _clean(file.text)
    row.folded = _fold("\n".join([row.text, *(file.name for file in new.files)]))
    details = TurnDetails(_clean(new.thinking), new.files, new.stats, new.trouble)
    row.details = msgspec.to_builtins(details)
    row.updated_at = utc_naive()


def _clean(text: str) -> str:
    """Returns the text without NUL, which PostgreSQL cannot hold."""
    return text.replace("\x00", "\ufffd")


def _fold(text: str) -> str:
    """Returns the text as search compares it: case, width and composition do not count. Any part of it can be found,
    so two Chinese characters in a row of them are found as well.
    """
    return unicodedata.normalize("NFKC", _clean(text)).casefold()


def _has_word(word: str) -> ColumnElement[bool]:
    # By conversation, so that nobody's search reads the messages of others.
    said = exists().where(TurnRow.chat_id == ChatRow.id, TurnRow.folded.contains(word, autoescape=True))
    return or_(ChatRow.folded.contains(word, autoescape=True), said)


def _found(session: Session, row: ChatRow, words: list[str]) -> str:
    """Returns a piece of the first message that holds the first word; empty when the title already shows it."""
    if not words or words[0] in row.folded:
        return ""
    match = (TurnRow.chat_id == row.id) & TurnRow.folded.contains(words[0], autoescape=True)
    text = session.scalar(select(TurnRow.text).where(match).order_by(TurnRow.created_at).limit(1)) or ""
    at = max(0, text.casefold().find(words[0]) - _BEFORE)
    piece = " ".join(text[at : at + _BEFORE + _AFTER].split())
    return f"{'…' if at else ''}{piece}{'…' if at + _BEFORE + _AFTER < len(text) else ''}"


def _read_cursor(cursor: str) -> tuple[datetime, str]:
    moment, _, chat_id = cursor.partition("_")
    try:
        return datetime.fromisoformat(moment).replace(tzinfo=None), chat_id
    except ValueError as error:
        raise InvalidInput(
            "The cursor {cursor!r} is not one of ours.",
            hint="Leave it out for the first page, then send `next` of the page before.",
            cursor=cursor[:100],
        ) from error


def _line(row: ChatRow, found: str = "") -> ChatLine:
    return ChatLine(row.id, row.title, iso(row.created_at) or "", iso(row.updated_at) or "", found)


def _draw(session: Session, row: ChatRow) -> Chat:
    turns = session.scalars(
        select(TurnRow).where(TurnRow.chat_id == row.id).order_by(TurnRow.created_at, TurnRow.id)
    )
    return Chat(
        id=row.id,
        title=row.title,
        settings=msgspec.convert(row.settings, ChatSettings),
        leaf=row.leaf,
        created_at=iso(row.created_at) or "",
        updated_at=iso(row.updated_at) or "",
        turns=[_draw_turn(turn) for turn in turns],
    )


def _draw_turn(row: TurnRow) -> Turn:
    details = msgspec.convert(row.details, TurnDetails)
    return Turn(
        id=row.id,
        parent=row.parent,
        role=row.role,
        text=row.text,
        model=row.model,
        state=row.state,
        created_at=iso(row.created_at) or "",
        updated_at=iso(row.updated_at) or "",
        thinking=details.thinking,
        files=details.files,
        stats=details.stats,
        trouble=details.trouble,
    )
