"""What a webhook is told of an event: the Hub's payload, version 3 (docs/hub/webhooks, `_webhooks_payload.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from fust.accounts.service import Accounts
from fust.core.ids import RepoType, check_repo_type
from fust.hub.models import Discussion, DiscussionEvent
from fust.store.database import Database

Body = dict[str, Any]
VERSION = 3
_MAX_CONTENT = 65_536


@dataclass(frozen=True, slots=True)
class Happening:
    """An event as webhooks hear of it."""

    domain: str
    """`repo` or `discussion`."""
    scope: str
    action: str
    type: RepoType
    repo_ids: tuple[str, ...]
    """The ids under which it may be watched: of a moved repo both."""
    row_id: str
    private: bool
    payload: Body


class Payloads:
    """Makes payloads out of the outbox's events; knows no webhook."""

    def __init__(self, database: Database, accounts: Accounts, public_url: str) -> None:
        self._database = database
        self._accounts = accounts
        self._url = public_url
        self._makers: dict[str, Callable[[Body], Happening | None]] = {
            "repo_created": lambda body: self._of_repo(body, "create"),
            "repo_deleted": lambda body: self._of_repo(body, "delete"),
            "repo_moved": self._moved,
            "repo_settings": self._settings,
            "refs_changed": self._refs,
            "discussion_created": lambda body: self._of_discussion(body, "create", first_comment=True),
            "discussion_status": lambda body: self._of_discussion(body, "update"),
            "discussion_title": lambda body: self._of_discussion(body, "update"),
            "discussion_comment": self._comment,
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Of the events that make one."""
        return tuple(self._makers)

    def make(self, name: str, body: Body) -> Happening | None:
        """Returns what webhooks hear of an event; None when nothing is to be told, or nothing is left to tell."""
        if "id" not in body:
            return None  # of a server that was older
        return self._makers[name](body)

    # Repos

    def _of_repo(self, body: Body, action: str, scope: str = "repo", **more: object) -> Happening:
        domain = "discussion" if scope.startswith("discussion") else "repo"
        kind, repo_id = check_repo_type(body["type"]), str(body["repo_id"])
        payload: Body = {
            "event": {"action": action, "scope": scope},
            "repo": self._repo_json(kind, repo_id, body),
            **more,
        }
        return Happening(domain, scope, action, kind, (repo_id,), body["id"], body["private"], payload)

    def _settings(self, body: Body) -> Happening | None:
        changed: Body = body["changed"]
        if not changed:
            return None
        shown = {k: (v or False) if k == "gated" else v for k, v in changed.items()}
        return self._of_repo(body, "update", "repo.config", updatedConfig=shown)

    def _refs(self, body: Body) -> Happening:
        refs = [{"ref": u["ref"], "oldSha": u["old"], "newSha": u["new"]} for u in body["updates"]]
        return self._of_repo(body, "update", "repo.content", updatedRefs=refs)

    def _moved(self, body: Body) -> Happening:
        """The repo is told under its old name, with the new one beside it."""
        new = {"name": body["repo_id"], "owner": {"id": self._owner_id(body["repo_id"])}}
        told = self._of_repo({**body, "repo_id": body["from_id"]}, "move", movedTo=new)
        return replace(told, repo_ids=(body["from_id"], body["repo_id"]))

    def _repo_json(self, kind: RepoType, repo_id: str, body: Body) -> Body:
        return {
            "type": kind,
            "name": repo_id,
            "id": body["id"],
            "private": body["private"],
            "url": {"web": self._web(kind, repo_id), "api": self._api(kind, repo_id)},
            "headSha": body["head_oid"],
            "owner": {"id": self._owner_id(repo_id)},
        }

    def _web(self, repo_type: RepoType, repo_id: str) -> str:
        prefix = "" if repo_type == "model" else f"{repo_type}s/"
        return f"{self._url}/{prefix}{repo_id}"

    def _api(self, repo_type: RepoType, repo_id: str) -> str:
        return f"{self._url}/api/{repo_type}s/{repo_id}"

    def _owner_id(self, repo_id: str) -> str:
        owner = repo_id.partition("/")[0]
        row = self._accounts.organisations.find_name(owner)
        return (row.owner_id or row.key) if row else owner.lower()

    # Discussions

    def _of_discussion(self, body: Body, action: str, *, first_comment: bool = False) -> Happening | None:
        with self._database.read() as session:
            row = _discussion(session, body)
            if row is None:
                return None
            more: Body = {"discussion": self._discussion_json(body, row)}
            if first_comment:
                query = select(DiscussionEvent).where(
                    DiscussionEvent.discussion_id == row.id, DiscussionEvent.type == "comment"
                )
                query = query.order_by(DiscussionEvent.created_at, DiscussionEvent.id)
                first = session.scalars(query).first()
                if first is not None:
                    more["comment"] = self._comment_json(body, row.num, first)
        return self._of_repo(body, action, "discussion", **more)

    def _comment(self, body: Body) -> Happening | None:
        with self._database.read() as session:
            row, event = _discussion(session, body), session.get(DiscussionEvent, body["comment"])
            if row is None or event is None:
                return None
            more: Body = {
                "discussion": self._discussion_json(body, row),
                "comment": self._comment_json(body, row.num, event),
            }
        return self._of_repo(body, body.get("action", "create"), "discussion.comment", **more)

    def _discussion_json(self, body: Body, row: Discussion) -> Body:
        drawn: Body = {
            "id": row.id,
            "title": row.title,
            "url": {
                "web": f"{self._web(body['type'], body['repo_id'])}/discussions/{row.num}",
                "api": f"{self._api(body['type'], body['repo_id'])}/discussions/{row.num}",
            },
            "status": row.status,
            "author": {"id": self._user_id(row.author)},
            "num": row.num,
            "isPullRequest": row.is_pull_request,
        }
        if row.is_pull_request:
            drawn["changes"] = {"base": "refs/heads/main"}
            if row.merge_oid:
                drawn["changes"]["mergeCommitId"] = row.merge_oid
        return drawn

    def _comment_json(self, body: Body, num: int, event: DiscussionEvent) -> Body:
        history = cast("list[Body]", event.data.get("history", []))
        hidden = bool(event.data.get("hidden"))
        drawn: Body = {
            "id": event.id,
            "author": {"id": self._user_id(event.author)},
            "hidden": hidden,
            "url": {"web": f"{self._web(body['type'], body['repo_id'])}/discussions/{num}#{event.id}"},
        }
        if history and not hidden:
            drawn["content"] = str(history[-1].get("raw", ""))[:_MAX_CONTENT]
        return drawn

    def _user_id(self, name: str) -> str:
        user = self._accounts.users.find(name)
        return user.id if user else name


def _discussion(session: Session, body: Body) -> Discussion | None:
    query = select(Discussion).where(Discussion.repo_id == body["id"], Discussion.num == body["num"])
    return session.scalars(query).first()
