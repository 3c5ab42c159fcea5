"""Discussions and pull requests of a repo. A pull request N is the branch `refs/pr/N`, merged as one commit.

Whoever reads a repo and has a key with the scope `write` may open one, comment, and commit to a pull request of its
own; who may write to the repo may do the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pygit2
from sqlalchemy import ColumnElement, String, func, or_, select, type_coerce
from sqlalchemy.orm import Session

from fust.accounts.audit import note_action
from fust.accounts.rights import Identity, may
from fust.accounts.service import Accounts
from fust.core.clock import iso, utc_naive
from fust.core.errors import Conflict, Denied, InvalidInput, NotFound
from fust.core.ids import new_id
from fust.hub.content import Content
from fust.hub.gates import Gates
from fust.hub.git_repo import GitRepo
from fust.hub.models import Discussion, DiscussionEvent
from fust.hub.policy import PULL_REQUEST
from fust.hub.ref_writer import MAIN, RefWriter
from fust.hub.repos import MAX_WORDS, Repos
from fust.hub.types import RefUpdate, RepoInfo
from fust.store.database import Database
from fust.store.outbox import emit

MAX_COMMENT = 65_536
_OPEN = ("open", "draft")


@dataclass(frozen=True, slots=True)
class Event:
    """What happened in a discussion."""

    id: str
    type: str
    author: str
    created_at: datetime
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Talk:
    """A discussion or a pull request, with its events when they were asked for."""

    num: int
    title: str
    status: str
    author: str
    is_pull_request: bool
    merge_oid: str
    created_at: datetime
    comments: int
    events: list[Event]


class Discussions:
    """Discussions of all repos."""

    def __init__(
        self,
        database: Database,
        repos: Repos,
        content: Content,
        writer: RefWriter,
        accounts: Accounts,
        gates: Gates,
    ) -> None:
        self._database = database
        self._repos = repos
        self._content = content
        self._writer = writer
        self._accounts = accounts
        self._gates = gates
        writer.on_pull_request = self._note_commits

    # Rights

    def is_writer(self, identity: Identity, info: RepoInfo) -> bool:
        """Returns whether the caller may write to the repo itself."""
        return may(identity, "repo.push", info.repo_id, info.type)

    def may_take_part(self, identity: Identity, info: RepoInfo) -> bool:
        """Returns what ``check_may_take_part`` decides, for a repo that the caller may not even read too."""
        reads = may(identity, "repo.read", info.repo_id, info.type, private=info.private)
        reads = reads and self._gates.opens(identity, info)
        covered = identity.grants is None or identity.grants.covers_repo(info.type, info.repo_id)
        return reads and covered and identity.user is not None and "write" in identity.scopes

    def check_may_take_part(self, identity: Identity, info: RepoInfo) -> None:
        """Raises unless the caller may open discussions and pull requests: it reads the repo, and may write at all.

        Raises:
            Unauthenticated, Denied: nobody, a key that only reads, or one made for other repos.
            GatedRepo: its files, and so what is said of them, are not open to the caller.

        """
        self._accounts.require(identity, "write")
        self._accounts.check_made_for(identity, info.repo_id, info.type)
        self._gates.check(identity, info)

    def check_may_commit_to(self, identity: Identity, info: RepoInfo, ref: str) -> None:
        """Raises unless the caller may write to a ref: a writer to any, others to pull requests of their own.

        Raises:
            Denied: not theirs; InvalidInput: no such pull request, or it is closed.

        """
        match = PULL_REQUEST.fullmatch(ref)
        if match:
            with self._database.read() as session:
                row = self._find(session, info, int(match[1]))
            if not row.is_pull_request or row.status not in _OPEN:
                raise InvalidInput(
                    "Pull request {num} is {status}.", hint="Open a new one.", num=row.num, status=row.status
                )
            if row.author == identity.user:
                self.check_may_take_part(identity, info)
                return
        self._accounts.check(identity, "repo.push", info.repo_id, info.type)

    def has_open_request(self, identity: Identity, info: RepoInfo) -> bool:
        """Returns whether the caller has a pull request in the repo that it may commit to."""
        query = select(Discussion.id).where(
            Discussion.repo_id == info.id,
            Discussion.author == (identity.user or ""),
            Discussion.is_pull_request,
            Discussion.status.in_(_OPEN),
        )
        with self._database.read() as session:
            return session.scalars(query.limit(1)).first() is not None

    # Reading

    def list(
        self,
        info: RepoInfo,
        *,
        pull_requests: bool | None = None,
        statuses: Sequence[str] = (),
        author: str = "",
        search: str = "",
        limit: int = 30,
        skip: int = 0,
    ) -> tuple[list[Talk], int]:
        """Returns discussions, the newest first, and how many there are in all.

        ``search``: words that all stand in the title or in comments, as those read now.
        """
        query = select(Discussion).where(Discussion.repo_id == info.id)
        if pull_requests is not None:
            query = query.where(Discussion.is_pull_request.is_(pull_requests))
        if statuses:
            query = query.where(Discussion.status.in_(statuses))
        if author:
            query = query.where(func.lower(Discussion.author) == author.lower())
        for word in search.lower().split()[:MAX_WORDS]:
            query = query.where(
                or_(
                    func.lower(Discussion.title).contains(word, autoescape=True),
                    self._comments_with(word),
                )
            )
        with self._database.read() as session:
            total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
            rows = session.scalars(query.order_by(Discussion.num.desc()).offset(skip).limit(limit)).all()
            return [self._talk(session, row, events=False) for row in rows], total

    def _comments_with(self, word: str) -> ColumnElement[bool]:
        """Returns whether a comment of a discussion, as its last version reads, holds a word (lower case)."""
        if self._database.engine.dialect.name == "postgresql":
            text = func.json_extract_path_text(DiscussionEvent.data, "history", "-1", "raw")
        else:
            text = func.json_extract(DiscussionEvent.data, "$.history[#-1].raw")
        return (
            select(DiscussionEvent.id)
            .where(DiscussionEvent.discussion_id == Discussion.id, DiscussionEvent.type == "comment")
            .where(func.lower(type_coerce(text, String)).contains(word, autoescape=True))
            .exists()
        )

    def count_open(self, info: RepoInfo) -> int:
        """Returns how many discussions and pull requests of a repo are open."""
        query = select(func.count()).where(Discussion.repo_id == info.id, Discussion.status.in_(_OPEN))
        with self._database.read() as session:
            return session.scalar(query) or 0

    def get(self, info: RepoInfo, num: int) -> Talk:
        """Returns a discussion with its events.

        Raises:
            NotFound: there is none of that number.

        """
        with self._database.read() as session:
            return self._talk(session, self._find(session, info, num), events=True)

    def _find(self, session: Session, info: RepoInfo, num: int) -> Discussion:
        query = select(Discussion).where(Discussion.repo_id == info.id, Discussion.num == num)
        row = session.scalars(query).first()
        if row is None:
            raise NotFound(
                "{repo_id} has no discussion {num}.", hint="Look at its list.", repo_id=info.repo_id, num=num
            )
        return row

    def _talk(self, session: Session, row: Discussion, *, events: bool) -> Talk:
        query = select(DiscussionEvent).where(DiscussionEvent.discussion_id == row.id)
        rows = session.scalars(query.order_by(DiscussionEvent.created_at, DiscussionEvent.id)).all()
        return Talk(
            row.num,
            row.title,
            row.status,
            row.author,
            row.is_pull_request,
            row.merge_oid,
            row.created_at,
            sum(event.type == "comment" for event in rows),
            [_event(event) for event in rows] if events else [],
        )

    def diff(self, info: RepoInfo, num: int) -> str:
        """Returns what a pull request changes, as text, cut at a limit; empty once its commits are gone."""
        repo = self._content.open_repo(info)
        head, base = repo.find_ref(f"refs/pr/{num}"), repo.find_ref(MAIN)
        if head is None or base is None:
            return ""
        return repo.diff_text(base, head, since_parted=True)

    def conflicts(self, info: RepoInfo, num: int) -> list[str]:
        """Returns the files in which a pull request and `main` exclude each other."""
        repo = self._content.open_repo(info)
        head, base = repo.find_ref(f"refs/pr/{num}"), repo.find_ref(MAIN)
        if head is None or base is None:
            return []
        return _conflicts(_merged(repo, base, head))

    # Opening

    def open(
        self,
        identity: Identity,
        info: RepoInfo,
        title: str,
        description: str,
        *,
        pull_request: bool,
        status: str = "open",
        oid: str | None = None,
        large: Iterable[str] = (),
    ) -> int:
        """Opens a discussion, or a pull request at a commit (None: that of `main`); returns its number."""
        self.check_may_take_part(identity, info)
        title = _title(title)
        description = _comment(description)
        if not pull_request:
            with self._database.write() as session:
                num = self._repos.locked_row(session, info).discussions + 1
                self._begin(session, identity, info, num, title, description, status, pull_request=False)
            return num
        repo = self._content.open_repo(info)
        with repo.lock():
            with self._database.read() as session:
                num = self._repos.locked_row(session, info).discussions + 1
            ref = f"refs/pr/{num}"
            # A ref without a discussion is of a server that was killed between the two.
            update = RefUpdate(ref, repo.raw_ref(ref), oid or repo.find_ref(MAIN))
            self._writer.apply(
                identity,
                info,
                repo,
                [update],
                large=large,
                action="repo.push",
                checked=True,
                also=lambda session: self._begin(
                    session, identity, info, num, title, description, status, pull_request=True
                ),
            )
        return num

    def _begin(
        self,
        session: Session,
        identity: Identity,
        info: RepoInfo,
        num: int,
        title: str,
        description: str,
        status: str,
        *,
        pull_request: bool,
    ) -> None:
        self._repos.locked_row(session, info).discussions = num
        row = Discussion(
            id=new_id("d"),
            repo_id=info.id,
            num=num,
            title=title,
            status=status,
            author=identity.user or "",
            is_pull_request=pull_request,
        )
        session.add(row)
        session.flush()
        self._add_comment(session, row, identity, description)
        emit(session, "discussion_created", **info.told, num=num, pull_request=pull_request)
        note_action(session, identity, "discussion.create", f"{info.type}:{info.repo_id}", num=num)

    def _note_commits(
        self, session: Session, info: RepoInfo, repo: GitRepo, update: RefUpdate, identity: Identity
    ) -> None:
        """Adds the commits that came to a pull request to its events; called when its ref moves."""
        match = PULL_REQUEST.fullmatch(update.ref)
        query = select(Discussion).where(
            Discussion.repo_id == info.id, Discussion.num == int(match[1] if match else 0)
        )
        row = session.scalars(query).first()
        if row is None or update.new is None:
            return
        walker = repo.git.walk(update.new, pygit2.enums.SortMode.TOPOLOGICAL | pygit2.enums.SortMode.REVERSE)
        for known in (update.old, repo.find_ref(MAIN)):
            if known:
                walker.hide(known)
        for commit in list(walker)[:200]:
            data = {"subject": commit.message.partition("\n")[0][:500], "oid": str(commit.id)}
            self._add_event(session, row, identity.user or "", "commit", data)

    # Talking

    def comment(self, identity: Identity, info: RepoInfo, num: int, text: str) -> Event:
        """Adds a comment."""
        self.check_may_take_part(identity, info)
        text = _comment(text)
        with self._database.write() as session:
            row = self._find(session, info, num)
            event = self._add_comment(session, row, identity, text)
            _emit_comment(session, info, num, event, "create")
            return _event(event)

    def _add_comment(
        self, session: Session, row: Discussion, identity: Identity, text: str
    ) -> DiscussionEvent:
        version = {"raw": text, "html": "", "updatedAt": iso(utc_naive()), "author": identity.user or ""}
        data = {"edited": False, "hidden": False, "history": [version]}
        return self._add_event(session, row, identity.user or "", "comment", data)

    def _add_event(
        self, session: Session, row: Discussion, author: str, kind: str, data: dict[str, Any]
    ) -> DiscussionEvent:
        event = DiscussionEvent(id=new_id("e"), discussion_id=row.id, type=kind, author=author, data=data)
        row.updated_at = utc_naive()
        session.add(event)
        session.flush()
        return event

    def edit(self, identity: Identity, info: RepoInfo, num: int, event_id: str, text: str) -> Event:
        """Changes a comment of the caller's own; what it said before stays in its history."""
        text = _comment(text)
        with self._database.write() as session:
            event = self._own_comment(session, identity, info, num, event_id, by_writer=False)
            version = {"raw": text, "html": "", "updatedAt": iso(utc_naive()), "author": identity.user or ""}
            event.data = {**event.data, "edited": True, "history": [*event.data["history"], version][-50:]}
            _emit_comment(session, info, num, event)
            return _event(event)

    def hide(self, identity: Identity, info: RepoInfo, num: int, event_id: str) -> Event:
        """Hides a comment for good: its text and its history go. Its author may, and who may write to the repo."""
        with self._database.write() as session:
            event = self._own_comment(session, identity, info, num, event_id, by_writer=True)
            version = {"raw": "This comment has been hidden", "html": "", "updatedAt": iso(utc_naive())}
            version["author"] = identity.user or ""
            event.data = {**event.data, "hidden": True, "history": [version]}
            _emit_comment(session, info, num, event)
            return _event(event)

    def _own_comment(
        self,
        session: Session,
        identity: Identity,
        info: RepoInfo,
        num: int,
        event_id: str,
        *,
        by_writer: bool,
    ) -> DiscussionEvent:
        self.check_may_take_part(identity, info)
        row = self._find(session, info, num)
        event = session.get(DiscussionEvent, event_id)
        if event is None or event.discussion_id != row.id or event.type != "comment":
            raise NotFound(
                "The discussion has no comment {id!r}.", hint="Look at it again.", id=event_id[:50]
            )
        if event.author != identity.user and not (by_writer and self.is_writer(identity, info)):
            raise _not_yours()
        if event.data["hidden"]:
            raise InvalidInput("The comment is hidden.", hint="Write a new one.")
        return event

    def rename(self, identity: Identity, info: RepoInfo, num: int, title: str) -> Event:
        """Changes the title; its author may, and who may write to the repo."""
        title = _title(title)
        with self._database.write() as session:
            row = self._changeable(session, identity, info, num)
            data = {"from": row.title, "to": title}
            row.title = title
            emit(session, "discussion_title", **info.told, num=num)
            return _event(self._add_event(session, row, identity.user or "", "title-change", data))

    def set_status(
        self, identity: Identity, info: RepoInfo, num: int, status: str, comment: str = ""
    ) -> Event:
        """Opens or closes a discussion; a draft becomes a pull request that can be merged when it is opened.

        Raises:
            InvalidInput: neither `open` nor `closed`, or it was merged.

        """
        with self._database.write() as session:
            row = self._changeable(session, identity, info, num)
            if status not in ("open", "closed") or row.status == "merged":
                raise InvalidInput(
                    "{status!r} cannot follow {old!r}.",
                    hint="Use open or closed.",
                    status=status[:50],
                    old=row.status,
                )
            if comment.strip():
                said = self._add_comment(session, row, identity, _comment(comment))
                _emit_comment(session, info, num, said, "create")
            row.status = status
            emit(session, "discussion_status", **info.told, num=num, status=status)
            return _event(
                self._add_event(session, row, identity.user or "", "status-change", {"status": status})
            )

    def _changeable(self, session: Session, identity: Identity, info: RepoInfo, num: int) -> Discussion:
        self.check_may_take_part(identity, info)
        row = self._find(session, info, num)
        if row.author != identity.user and not self.is_writer(identity, info):
            raise _not_yours()
        return row

    # Merging

    def merge(self, identity: Identity, info: RepoInfo, num: int, comment: str = "") -> str:
        """Puts what a pull request changes onto `main` as one commit, and returns it.

        Raises:
            Denied: the caller may not write to the repo.
            InvalidInput: not an open pull request.
            Conflict: the same lines changed on `main`; names the files.

        """
        self._accounts.check(identity, "repo.push", info.repo_id, info.type)
        repo = self._content.open_repo(info)
        with repo.lock():
            talk = self.get(info, num)
            head, base = repo.find_ref(f"refs/pr/{num}"), repo.find_ref(MAIN)
            if not talk.is_pull_request or talk.status not in _OPEN or head is None or base is None:
                raise InvalidInput(
                    "Pull request {num} is {status}.", hint="Open a new one.", num=num, status=talk.status
                )
            index = _merged(repo, base, head)
            files = _conflicts(index)
            if files:
                raise Conflict(
                    "Pull request {num} and main changed the same: {files}.",
                    hint="Commit to refs/pr/{num} what resolves it, then merge again.",
                    num=num,
                    files=", ".join(files[:20]),
                )
            tree = str(index.write_tree(repo.git))
            if tree == str(
                repo.tree_of(base).id
            ):  # nothing is left to do, as after a kill in the middle of this
                oid = base
            else:
                oid = repo.write_commit(tree, [base], f"{talk.title} (#{num})", talk.author or "fust")

            def close(session: Session) -> None:
                row = self._find(session, info, num)
                row.status, row.merge_oid = "merged", oid
                if comment.strip():
                    said = self._add_comment(session, row, identity, _comment(comment))
                    _emit_comment(session, info, num, said, "create")
                self._add_event(session, row, identity.user or "", "status-change", {"status": "merged"})
                emit(session, "discussion_status", **info.told, num=num, status="merged")

            update = RefUpdate(MAIN, base, oid)
            self._writer.apply(identity, info, repo, [update], action="repo.push", checked=True, also=close)
        return oid


def _merged(repo: GitRepo, base: str, head: str) -> pygit2.Index:
    """Returns the files of `main` with what a pull request changed since they parted."""
    start = repo.git.merge_base(base, head)
    ancestor = repo.tree_of(str(start)) if start else repo.git[repo.write_empty_tree()]
    assert isinstance(ancestor, pygit2.Tree)
    return repo.git.merge_trees(ancestor, repo.tree_of(base), repo.tree_of(head))


def _conflicts(index: pygit2.Index) -> list[str]:
    found: set[str] = set()
    for sides in index.conflicts or ():
        found.update(str(side.path) for side in sides if side is not None)
    return sorted(found)


def _emit_comment(
    session: Session, info: RepoInfo, num: int, event: DiscussionEvent, action: str = "update"
) -> None:
    emit(session, "discussion_comment", **info.told, num=num, comment=event.id, action=action)


def _event(row: DiscussionEvent) -> Event:
    return Event(row.id, row.type, row.author, row.created_at, row.data)


def _title(title: str) -> str:
    title = " ".join(title.split())
    if not 3 <= len(title) <= 200:
        raise InvalidInput("A title has 3 to 200 characters.", hint="Say what it is about.")
    return title


def _comment(text: str) -> str:
    text = text.strip()
    if not 0 < len(text) <= MAX_COMMENT:
        raise InvalidInput(
            "A comment has 1 to {limit} characters.", hint="Say something, and less.", limit=MAX_COMMENT
        )
    return text


def _not_yours() -> Denied:
    return Denied("Only its author and who may write to the repo may do this.", hint="Ask one of them.")
