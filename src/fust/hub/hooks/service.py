"""Webhooks: making and changing them, who hears of an event, and what was sent to them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

from cryptography.fernet import InvalidToken
from sqlalchemy import CursorResult, delete, func, select, update
from sqlalchemy.orm import Session

from fust.accounts.audit import note_action
from fust.accounts.models import User
from fust.accounts.names import user_row
from fust.accounts.rights import Asked, Identity, may
from fust.accounts.seal import seal_for
from fust.accounts.service import Accounts
from fust.core.clock import utc_naive
from fust.core.errors import Denied, FustError, InvalidInput, NotFound, NotOffered
from fust.core.ids import REPO_TYPES, check_repo_type, new_id
from fust.core.settings import WebhooksSettings
from fust.hub.gates import Gates
from fust.hub.guard import is_private
from fust.hub.hooks.models import Webhook, WebhookDelivery
from fust.hub.hooks.payload import VERSION, Happening, Payloads
from fust.hub.reach import Internal
from fust.hub.repos import Repos
from fust.hub.types import RepoInfo
from fust.store.database import Database
from fust.store.outbox import Outbox

log = logging.getLogger(__name__)

DOMAINS = ("repo", "discussion")
MAX_WEBHOOKS, MAX_WATCHED, MAX_URL, MAX_SECRET = 50, 100, 2000, 500
MAX_WAITING = 1000
"""Messages that one webhook may have waiting; with more it is switched off."""
KEEP = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Watched:
    """A user, an organisation or a repo."""

    type: str
    name: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What a webhook should be; None: as it is."""

    url: str | None = None
    watched: Sequence[Watched] | None = None
    domains: Sequence[str] | None = None
    secret: str | None = None


@dataclass(frozen=True, slots=True)
class Hook:
    """A webhook."""

    id: str
    url: str
    watched: list[Watched]
    domains: list[str]
    secret: str | None
    disabled: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it is sent."""

    id: str
    webhook_id: str
    url: str
    secret: str | None
    payload: dict[str, Any]
    attempts: int
    until: datetime


class Webhooks:
    """All webhooks of a home."""

    def __init__(
        self,
        database: Database,
        accounts: Accounts,
        repos: Repos,
        gates: Gates,
        settings: WebhooksSettings,
        public_url: str,
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._repos = repos
        self._gates = gates
        self._settings = settings
        self.internal = Internal(settings.internal_hosts)
        self.payloads = Payloads(database, accounts, public_url)
        self._seal = seal_for(accounts.signing_key(), b"fust webhook secrets")
        self.wake: Callable[[], None] = lambda: None
        """Set by the deliverer: there is something to send."""

    # Making and changing

    def list(self, identity: Identity) -> list[Hook]:
        """Returns the caller's webhooks, the oldest first."""
        self._accounts.require_whole(identity, "write")
        with self._database.read() as session:
            query = select(Webhook).join(User, User.id == Webhook.user_id).where(User.name == identity.user)
            return [self._hook(row) for row in session.scalars(query.order_by(Webhook.id))]

    def get(self, identity: Identity, webhook_id: str) -> Hook:
        """Returns one of the caller's webhooks, or raises NotFound."""
        self._accounts.require_whole(identity, "write")
        with self._database.read() as session:
            return self._hook(self._own(session, identity, webhook_id))

    def create(self, identity: Identity, wish: Wish) -> Hook:
        """Makes a webhook of the caller's.

        Raises:
            InvalidInput: an address, a secret, a domain that cannot be; names it.
            NotFound: something that is to be watched is not there, or the caller may not see it.
            Denied: the address is a private one.

        """
        self._accounts.require_whole(identity, "write")
        if not wish.url or not wish.watched:
            raise InvalidInput(
                "A webhook needs an address and something to watch.", hint="Send url and watched."
            )
        row = Webhook(id=new_id("w"), url="", watched=[], domains=list(DOMAINS), by_admin=identity.is_admin)
        self._apply(identity, row, wish)
        with self._database.write() as session:
            row.user_id = user_row(session, identity.user or "").id
            count = session.scalar(
                select(func.count()).select_from(Webhook).where(Webhook.user_id == row.user_id)
            )
            if (count or 0) >= MAX_WEBHOOKS:
                raise InvalidInput(
                    "You have {limit} webhooks already.",
                    hint="Delete one first; a webhook can watch several repos.",
                    limit=MAX_WEBHOOKS,
                )
            session.add(row)
            note_action(session, identity, "webhook.create", f"webhook:{row.id}", host=_host(row.url))
        return self._hook(row)

    def change(self, identity: Identity, webhook_id: str, wish: Wish) -> Hook:
        """Changes a webhook of the caller's; raises as ``create``."""
        self._accounts.require_whole(identity, "write")
        with self._database.write() as session:
            row = self._own(session, identity, webhook_id)
            self._apply(identity, row, wish)
            row.by_admin = identity.is_admin
            note_action(session, identity, "webhook.change", f"webhook:{row.id}", host=_host(row.url))
            return self._hook(row)

    def switch(self, identity: Identity, webhook_id: str, *, disabled: bool) -> Hook:
        """Switches a webhook off or on; what waits for one that is off is put aside as dead."""
        self._accounts.require_whole(identity, "write")
        with self._database.write() as session:
            row = self._own(session, identity, webhook_id)
            row.disabled = disabled
            if disabled:
                _put_aside(session, row.id)
            action = "webhook.disable" if disabled else "webhook.enable"
            note_action(session, identity, action, f"webhook:{row.id}", host=_host(row.url))
            return self._hook(row)

    def remove(self, identity: Identity, webhook_id: str) -> None:
        """Deletes a webhook and what was sent to it."""
        self._accounts.require_whole(identity, "write")
        with self._database.write() as session:
            row = self._own(session, identity, webhook_id)
            note_action(session, identity, "webhook.delete", f"webhook:{row.id}", host=_host(row.url))
            session.delete(row)

    def _own(self, session: Session, identity: Identity, webhook_id: str) -> Webhook:
        query = select(Webhook).join(User, User.id == Webhook.user_id)
        row = session.scalars(query.where(Webhook.id == webhook_id, User.name == identity.user)).first()
        if row is None:
            raise NotFound(
                "You have no webhook {id!r}.", hint="The settings page lists yours.", id=webhook_id[:50]
            )
        return row

    def _apply(self, identity: Identity, row: Webhook, wish: Wish) -> None:
        if wish.url:
            row.url = self._check_url(wish.url)
        if wish.watched:
            if len(wish.watched) > MAX_WATCHED:
                raise InvalidInput(
                    "A webhook can watch {limit} things.", hint="Make another one.", limit=MAX_WATCHED
                )
            row.watched = [self._check_watched(identity, it) for it in wish.watched]
        if wish.domains is not None:
            for domain in wish.domains:
                if domain not in DOMAINS:
                    raise InvalidInput(
                        "{value!r} is not a domain of webhooks.",
                        hint="Use repo or discussion.",
                        value=domain[:50],
                    )
            row.domains = list(dict.fromkeys(wish.domains)) or list(DOMAINS)
        if wish.secret is not None:
            row.secret = (
                self._seal.encrypt(_check_secret(wish.secret).encode()).decode() if wish.secret else None
            )

    def _check_url(self, url: str) -> str:
        try:
            parts = urlsplit(url)
            good = (
                parts.scheme in ("http", "https")
                and bool(parts.hostname)
                and parts.username is None
                and parts.port != 0
                and len(url) <= MAX_URL
                and url.isascii()
                and url.isprintable()
                and " " not in url
            )
        except ValueError:
            good, parts = False, urlsplit("")
        if not good:
            raise InvalidInput(
                "{url!r} is not an address that webhooks can go to.",
                hint="Use https://host/path, without a user name in it.",
                url=url[:200],
            )
        host = parts.hostname or ""
        is_address = host.replace(".", "").isdigit() or ":" in host
        if (host == "localhost" or (is_address and is_private(host))) and not self.internal.allows(
            host, host
        ):
            raise Denied(
                "{host} is a private address; webhooks do not go there.",
                hint="If that is meant, let an administrator set webhooks.internal_hosts.",
                code="private_address",
                host=host,
            )
        return url

    def _check_watched(self, identity: Identity, item: Watched) -> dict[str, Any]:
        if item.type == "bucket":
            raise NotOffered(
                "Buckets cannot be watched by webhooks here.", hint="Watch a user, an organisation or a repo."
            )
        if item.type in REPO_TYPES:
            info = self._repos.get(identity, check_repo_type(item.type), item.name)
            return {"type": info.type, "name": info.repo_id}
        if item.type not in ("user", "org"):
            raise InvalidInput(
                "{value!r} cannot be watched.",
                hint="Use user, org, model, dataset or space.",
                value=item.type[:50],
            )
        found = self._accounts.organisations.find_name(item.name)
        if found is None or found.kind != item.type:
            raise NotFound(
                "There is no user or organisation {name!r}.", hint="Check the spelling.", name=item.name[:100]
            )
        return {"type": found.kind, "name": found.name}

    def _hook(self, row: Webhook) -> Hook:
        watched = [Watched(it["type"], it["name"]) for it in row.watched]
        secret = self._open(row.secret)
        return Hook(row.id, row.url, watched, list(row.domains), secret, row.disabled, row.created_at)

    def _open(self, sealed: str | None) -> str | None:
        """Returns a secret; empty when the home's key is another one than when it was sealed."""
        if sealed is None:
            return None
        try:
            return self._seal.decrypt(sealed.encode()).decode()
        except InvalidToken:
            return ""

    # Hearing

    def subscribe(self, outbox: Outbox) -> None:
        """Hears of every event that makes a message."""
        for name in self.payloads.names:
            outbox.subscribe(name, partial(self.hear, name))

    def hear(self, name: str, body: dict[str, Any]) -> None:
        """Makes a message for every webhook that watches what an event is about.

        An event that comes twice makes one. Nothing is sent here.
        """
        if name == "repo_moved":
            self._follow(body)
        # One that was made since hears nothing of what was before.
        listening = select(Webhook).where(Webhook.disabled.is_(False), Webhook.created_at <= body["event_at"])
        with self._database.read() as session:
            if session.scalars(listening.limit(1)).first() is None:
                return
        happening = self.payloads.make(name, body)
        if happening is None:
            return
        made = 0
        with self._database.write() as session:
            for row in session.scalars(listening).all():
                if happening.domain in row.domains and _watches(row, happening):
                    made += self._enqueue(session, row, happening, int(body["event_id"]))
        if made:
            self.wake()

    def _enqueue(self, session: Session, row: Webhook, happening: Happening, event_id: int) -> int:
        known = select(WebhookDelivery.id).where(
            WebhookDelivery.webhook_id == row.id, WebhookDelivery.event_id == event_id
        )
        if session.scalars(known).first() is not None or not self._may_hear(
            session,
            row,
            happening.type,
            happening.repo_ids[0],
            self._repos.find_by_row_id(happening.row_id),
            private=happening.private,
            scope=happening.scope,
        ):
            return 0
        waiting = select(func.count()).select_from(WebhookDelivery)
        waiting = waiting.where(WebhookDelivery.webhook_id == row.id, WebhookDelivery.state == "waiting")
        if (session.scalar(waiting) or 0) >= MAX_WAITING:
            row.disabled = True
            _put_aside(session, row.id)
            note_action(
                session,
                None,
                "webhook.disable",
                f"webhook:{row.id}",
                host=_host(row.url),
                why="too many waiting",
            )
            return 0
        moment = utc_naive()
        session.add(
            WebhookDelivery(
                id=new_id("m"),
                webhook_id=row.id,
                event_id=event_id,
                scope=happening.scope,
                action=happening.action,
                type=happening.type,
                repo_id=happening.repo_ids[0],
                repo_row=happening.row_id,
                private=happening.private,
                payload={**happening.payload, "webhook": {"id": row.id, "version": VERSION}},
                next_at=moment,
                until=moment + timedelta(seconds=self._settings.patience_s),
            )
        )
        return 1

    def _follow(self, body: dict[str, Any]) -> None:
        """Lets webhooks that watch a repo by name watch it under its new one."""
        old = {"type": body["type"], "name": body["from_id"]}
        new = {"type": body["type"], "name": body["repo_id"]}
        with self._database.write() as session:
            for row in session.scalars(select(Webhook)).all():
                if old in row.watched:
                    row.watched = [new if it == old else it for it in row.watched]

    def _may_hear(
        self,
        session: Session,
        row: Webhook,
        repo_type: str,
        repo_id: str,
        info: RepoInfo | None,
        *,
        private: bool,
        scope: str,
    ) -> bool:
        """Returns whether a webhook's owner may know of an event in a repo as it is now: before a gate, of no discussion.

        ``info`` is None for a repo that is gone.
        """
        user = session.get(User, row.user_id)
        if user is None or user.suspended:
            return False
        try:
            identity = self._accounts.of_run(user.name, Asked(by_admin=row.by_admin))
        except FustError:
            return False
        if scope.startswith("discussion") and info is not None and not self._gates.opens(identity, info):
            return False
        return may(identity, "repo.read", repo_id, repo_type, private=private)

    # Sending

    def claim(self, limit: int, busy: Sequence[str]) -> list[Message]:
        """Takes messages whose time has come, one a webhook and none of ``busy``, for as long as an attempt can last.

        A process that dies with a message gives it back by that time running out.
        """
        moment = utc_naive()
        lease = moment + timedelta(seconds=2 * self._settings.timeout_s + 5)
        query = (
            select(WebhookDelivery)
            .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
            .where(WebhookDelivery.state == "waiting", WebhookDelivery.next_at <= moment)
            .order_by(WebhookDelivery.next_at, WebhookDelivery.id)
        )
        if busy:
            query = query.where(WebhookDelivery.webhook_id.not_in(busy))
        with self._database.read() as session:
            if session.scalars(query.limit(1)).first() is None:
                return []
        taken: dict[str, Message] = {}
        with self._database.write() as session:
            for row in session.scalars(query.limit(200)).all():
                if row.webhook_id in taken or len(taken) >= limit:
                    continue
                taking = (
                    update(WebhookDelivery)
                    .where(WebhookDelivery.id == row.id, WebhookDelivery.next_at == row.next_at)
                    .values(next_at=lease, attempts=row.attempts + 1, tried_at=moment)
                    .execution_options(synchronize_session=False)
                )
                mine = cast("CursorResult[Any]", session.execute(taking)).rowcount
                hook = session.get(Webhook, row.webhook_id)
                if mine and hook is not None:
                    message = self._message(session, row, hook)
                    if message is not None:
                        taken[row.webhook_id] = message
        return list(taken.values())

    def _message(self, session: Session, row: WebhookDelivery, hook: Webhook) -> Message | None:
        """Returns what is to be sent; None, and nothing is kept of it, when its owner may no longer see the repo."""
        info = self._repos.find_by_row_id(row.repo_row)
        repo_id, private = (info.repo_id, info.private) if info else (row.repo_id, row.private)
        if row.payload is None or not self._may_hear(
            session, hook, row.type, repo_id, info, private=private, scope=row.scope
        ):
            session.execute(
                update(WebhookDelivery)
                .where(WebhookDelivery.id == row.id)
                .values(state="withheld", payload=None, outcome="withheld")
                .execution_options(synchronize_session=False)
            )
            return None
        secret = self._open(hook.secret)
        return Message(row.id, hook.id, hook.url, secret, row.payload, row.attempts + 1, row.until)

    def settle(
        self,
        message: Message,
        *,
        outcome: str,
        status: int | None,
        took_ms: int,
        again_at: datetime | None,
    ) -> None:
        """Notes what came of an attempt; ``again_at`` None: it was taken, or (``outcome`` is not `ok`) is given up."""
        with self._database.write() as session:
            row = session.get(WebhookDelivery, message.id)
            if row is None or row.state != "waiting":
                return  # the webhook was deleted or switched off meanwhile
            row.outcome, row.status, row.took_ms = outcome, status, took_ms
            if outcome == "ok":
                row.state = "delivered"
            elif again_at is None:
                row.state = "dead"
            else:
                row.next_at = again_at

    # Looking

    def deliveries(
        self, identity: Identity, webhook_id: str, *, state: str = "", limit: int = 50, skip: int = 0
    ) -> tuple[list[WebhookDelivery], int]:
        """Returns messages to a webhook of the caller's, the newest first, and how many there are."""
        self._accounts.require_whole(identity, "write")
        with self._database.read() as session:
            self._own(session, identity, webhook_id)
            query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
            if state:
                query = query.where(WebhookDelivery.state == state)
            total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
            rows = session.scalars(query.order_by(WebhookDelivery.id.desc()).offset(skip).limit(limit)).all()
            return list(rows), total

    def counts(self, webhook_ids: Sequence[str]) -> dict[str, dict[str, int]]:
        """Returns how many messages of each state webhooks have."""
        query = (
            select(WebhookDelivery.webhook_id, WebhookDelivery.state, func.count())
            .where(WebhookDelivery.webhook_id.in_(webhook_ids))
            .group_by(WebhookDelivery.webhook_id, WebhookDelivery.state)
        )
        found: dict[str, dict[str, int]] = {webhook_id: {} for webhook_id in webhook_ids}
        with self._database.read() as session:
            for webhook_id, state, count in session.execute(query).tuples():
                found[webhook_id][state] = count
        return found

    def redeliver(self, identity: Identity, webhook_id: str, delivery_id: str) -> WebhookDelivery:
        """Sends a message again, under its old id; with a fresh time to be tried.

        Raises:
            NotFound: no such webhook of the caller's, or no such message to it.
            InvalidInput: the webhook is off, or the message was withheld.

        """
        self._accounts.require_whole(identity, "write")
        with self._database.write() as session:
            hook = self._own(session, identity, webhook_id)
            row = session.get(WebhookDelivery, delivery_id)
            if row is None or row.webhook_id != hook.id:
                raise NotFound(
                    "The webhook has no message {id!r}.", hint="Look at its list again.", id=delivery_id[:50]
                )
            if hook.disabled or row.payload is None:
                raise InvalidInput(
                    "This message cannot be sent again: the webhook is off, or its owner may no longer see the repo.",
                    hint="Switch the webhook on first.",
                )
            moment = utc_naive()
            row.state, row.attempts, row.next_at = "waiting", 0, moment
            row.until = moment + timedelta(seconds=self._settings.patience_s)
            session.flush()
        self.wake()
        return row


def prune_deliveries(session: Session) -> None:
    """Removes messages that were settled long ago."""
    session.execute(
        delete(WebhookDelivery).where(
            WebhookDelivery.state != "waiting", WebhookDelivery.created_at < utc_naive() - KEEP
        )
    )


def _watches(row: Webhook, happening: Happening) -> bool:
    ids = {repo_id.lower() for repo_id in happening.repo_ids}
    owners = {repo_id.partition("/")[0] for repo_id in ids}
    for item in row.watched:
        name = str(item["name"]).lower()
        if item["type"] in ("user", "org"):
            if name in owners:
                return True
        elif item["type"] == happening.type and name in ids:
            return True
    return False


def _put_aside(session: Session, webhook_id: str) -> None:
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook_id, WebhookDelivery.state == "waiting")
        .values(state="dead", outcome="disabled")
        .execution_options(synchronize_session=False)
    )


def _check_secret(secret: str) -> str:
    if (
        len(secret) > MAX_SECRET
        or not secret.isascii()
        or not secret.isprintable()
        or secret != secret.strip()
    ):
        raise InvalidInput(
            "A webhook's secret has at most {limit} printable ASCII characters, and no space at either end.",
            hint='`python -c "import secrets; print(secrets.token_urlsafe(32))"` makes one.',
            limit=MAX_SECRET,
        )
    return secret


def _host(url: str) -> str:
    """Returns what of an address may stand in the audit: its path may hold a secret."""
    return urlsplit(url).netloc
