"""Asking for access to gated repos, and deciding who gets it. Each step is one transaction with its entry in the audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from fust.accounts.audit import note_action, parse_time
from fust.accounts.models import User
from fust.accounts.names import user_row
from fust.accounts.rights import Identity, may
from fust.accounts.service import Accounts
from fust.core.clock import iso, utc_naive
from fust.core.errors import Conflict, InvalidInput, NotFound
from fust.core.ids import new_id
from fust.hub.gate_form import GateForm, check_answers
from fust.hub.gate_models import AccessRequest, GateTerms
from fust.hub.gate_rows import Request, State, Status, in_state, select_requests
from fust.hub.gates import Gates
from fust.hub.models import Repo
from fust.hub.repos import Repos, to_info
from fust.hub.types import RepoInfo
from fust.store.database import Database
from fust.store.outbox import emit

MAX_REASON = 200
"""As huggingface_hub says of `rejection_reason`."""


class AccessRequests:
    """Requests for access to the repos of a home."""

    def __init__(self, database: Database, repos: Repos, accounts: Accounts, gates: Gates) -> None:
        self._database = database
        self._repos = repos
        self._accounts = accounts
        self._gates = gates

    # Asking

    def ask(self, identity: Identity, info: RepoInfo, answers: Mapping[str, object], terms: str) -> Request:
        """Sends the caller's request: agrees to the terms whose hash is ``terms`` and fills in the form.

        Raises:
            InvalidInput: not gated, or an answer is missing; Conflict: the terms are not those shown any more.
            GatedRepo: it was rejected, and stays so until who may write to the repo says otherwise.

        """
        self._accounts.require(identity, "write")
        self._accounts.check_made_for(identity, info.repo_id, info.type)
        _check_gated(info)
        if may(identity, "repo.open", info.repo_id, info.type):
            raise _has_access(identity.user or "", info)
        form = self._gates.form(info)
        if terms != form.hash():
            raise Conflict(
                "The terms of {repo_id} are not those that you were shown.",
                hint="Read them again; then send `terms` with their hash: {terms}.",
                repo_id=info.repo_id,
                terms=form.hash(),
                code="terms_changed",
            )
        given = check_answers(form, answers)
        try:
            with self._database.write() as session:
                self._repos.locked_row(session, info)
                self._ask(session, identity, info, form, given)
        except IntegrityError:
            raise Conflict("Your request was sent already.", hint="Look at it again.") from None
        self._repos.forget()
        _, request = self._gates.standing(identity, info)
        assert request is not None
        return request

    def _ask(
        self, session: Session, identity: Identity, info: RepoInfo, form: GateForm, answers: dict[str, object]
    ) -> None:
        user = user_row(session, identity.user or "")
        row = self._row(session, info, AccessRequest.user_id == user.id)
        version = self._keep_terms(session, info, form)
        moment = utc_naive()
        if row is None:
            status: Status = "accepted" if info.gated == "auto" else "pending"
            row = AccessRequest(id=new_id("ar"), repo_id=info.id, user_id=user.id, status=status)
            row.asked_at = moment
            session.add(row)
        elif row.status == "rejected":
            standing = select_requests(session, AccessRequest.id == row.id)
            raise self._gates.refusal(identity, info, "rejected", standing[0])
        elif row.status == "accepted" and row.expires_at is not None and row.expires_at <= moment:
            # A person set that end, so a person decides again, whatever the gate does with newcomers.
            row.status, row.expires_at, row.asked_at = "pending", None, moment
            row.decided_at, row.decided_by = None, ""
        row.answers, row.terms, row.agreed_at = answers, form.hash(), moment
        what = {"repo_id": info.repo_id, "type": info.type, "user": user.name, "status": row.status}
        emit(session, "access_requested", **what)
        subject = f"{info.type}:{info.repo_id}"
        note_action(
            session, identity, "access.ask", subject, status=row.status, version=version, terms=row.terms
        )

    def _keep_terms(self, session: Session, info: RepoInfo, form: GateForm) -> int:
        row = session.get(GateTerms, (info.id, form.hash()))
        if row is None:
            newest = select(func.max(GateTerms.version)).where(GateTerms.repo_id == info.id)
            version = (session.scalar(newest) or 0) + 1
            row = GateTerms(repo_id=info.id, hash=form.hash(), version=version)
            row.form = msgspec.to_builtins(form)
            session.add(row)
        return row.version

    # Deciding

    def check_may_decide(self, identity: Identity, info: RepoInfo) -> None:
        """Raises unless the caller may look at requests and decide them: who may write to the repo."""
        self._accounts.check(identity, "repo.push", info.repo_id, info.type)
        _check_gated(info)

    def decide(
        self,
        identity: Identity,
        info: RepoInfo,
        status: Status,
        *,
        user: str | None = None,
        request_id: str | None = None,
        reason: str = "",
        until: datetime | None = None,
    ) -> Request:
        """Accepts or rejects a request, or sets it back to pending; found by its user or by its id.

        An accepted one may be accepted again with another ``until``.

        Raises:
            NotFound: no such request, or it has that status already.

        """
        self.check_may_decide(identity, info)
        reason = _check_reason(reason, status)
        _check_until(until, status)
        with self._database.write() as session:
            one = AccessRequest.id == request_id if user is None else func.lower(User.name) == user.lower()
            row = self._row(session, info, one)
            if row is None:
                raise NotFound(
                    "{who} did not ask for access to {repo_id}.",
                    hint="`fust access list {repo_id}` shows who did; to let somebody in who did not: `fust access grant`.",
                    who=(user or request_id or "")[:100],
                    repo_id=info.repo_id,
                )
            over = row.expires_at is not None and row.expires_at <= utc_naive()
            if row.status == status and not (status == "accepted" and (over or until != row.expires_at)):
                raise NotFound(
                    "The request of {who} is {status} already.",
                    who=_name_of(session, row),
                    status=status,
                )
            action = _action(row.status, status)
            self._write_decision(session, identity, info, row, status, action, reason=reason, until=until)
            found = select_requests(session, AccessRequest.id == row.id)[0]
        self._repos.forget()
        return found

    def grant(
        self, identity: Identity, info: RepoInfo, user: str, *, until: datetime | None = None
    ) -> Request:
        """Lets a user in who need not have asked.

        Raises:
            NotFound: there is no such user; InvalidInput: access is there already.

        """
        self.check_may_decide(identity, info)
        _check_until(until, "accepted")
        with self._database.write() as session:
            known = user_row(session, user)
            roles = self._accounts.organisations.roles_of(session, known.id)
            there = Identity(known.name, False, frozenset({"read"}), None, "token", roles)
            row = self._row(session, info, AccessRequest.user_id == known.id)
            open_ = row is not None and row.status == "accepted" and not _is_past(row.expires_at)
            if may(there, "repo.open", info.repo_id, info.type) or open_:
                raise _has_access(known.name, info)
            if row is None:
                row = AccessRequest(id=new_id("ar"), repo_id=info.id, user_id=known.id, status="accepted")
                row.asked_at = utc_naive()
                session.add(row)
                session.flush()
            self._write_decision(session, identity, info, row, "accepted", "access.grant", until=until)
            found = select_requests(session, AccessRequest.id == row.id)[0]
        self._repos.forget()
        return found

    def _write_decision(
        self,
        session: Session,
        identity: Identity,
        info: RepoInfo,
        row: AccessRequest,
        status: Status,
        action: str,
        *,
        reason: str = "",
        until: datetime | None = None,
    ) -> None:
        row.status, row.reason, row.expires_at = status, reason, until
        row.decided_at = None if status == "pending" else utc_naive()
        row.decided_by = "" if status == "pending" else identity.user or ""
        user = _name_of(session, row)
        session.flush()
        what = {"repo_id": info.repo_id, "type": info.type, "user": user, "status": status}
        emit(session, "access_decided", **what)
        note_action(
            session,
            identity,
            action,
            f"{info.type}:{info.repo_id}",
            user=user,
            until=iso(until),
            reason=reason or None,
        )

    def ask_again(self, identity: Identity, info: RepoInfo) -> RepoInfo:
        """Closes the repo to everybody who was let in until they agree to its terms as they are now.

        Raises:
            Unauthenticated, Denied: the caller may not change the repo's settings.

        """
        self._accounts.check(identity, "repo.settings", info.repo_id, info.type)
        _check_gated(info)
        with self._database.write() as session:
            row = self._repos.locked_row(session, info)
            row.agree_since = utc_naive()
            terms = self._gates.form(info).hash()
            note_action(session, identity, "access.ask_again", f"{info.type}:{info.repo_id}", terms=terms)
            changed = to_info(row)
        self._repos.forget()
        return changed

    # Looking

    def list_requests(
        self, info: RepoInfo, state: State | None, *, limit: int = 100, skip: int = 0
    ) -> tuple[list[Request], int]:
        """Returns requests of a state (None: all), the newest first, and how many there are in all."""
        conditions = [AccessRequest.repo_id == info.id, *(in_state(state) if state else ())]
        with self._database.read() as session:
            total = session.scalar(select(func.count(AccessRequest.id)).where(*conditions)) or 0
            return select_requests(session, *conditions, limit=limit, skip=skip), total

    def counts(self, info: RepoInfo) -> dict[State, int]:
        """Returns how many requests there are in each state."""
        states: tuple[State, ...] = ("pending", "accepted", "rejected", "expired")
        return {state: self.list_requests(info, state, limit=0)[1] for state in states}

    def count_pending(self, identity: Identity, info: RepoInfo) -> int:
        """Returns how many requests for a repo wait for the caller's word."""
        if not info.gated or not may(identity, "repo.push", info.repo_id, info.type):
            return 0
        return self.list_requests(info, "pending", limit=0)[1]

    def pending(self, identity: Identity) -> Sequence[tuple[RepoInfo, int]]:
        """Returns the repos with requests that the caller may decide, and how many each has."""
        query = (
            select(Repo, func.count(AccessRequest.id))
            .join(AccessRequest, AccessRequest.repo_id == Repo.id)
            .where(AccessRequest.status == "pending", Repo.gated != "")
            .group_by(Repo.id)
            .order_by(func.min(AccessRequest.asked_at))
        )
        with self._database.read() as session:
            rows = [(to_info(row), count) for row, count in session.execute(query)]
        return [pair for pair in rows if may(identity, "repo.push", pair[0].repo_id, pair[0].type)]

    def of_user(self, identity: Identity) -> Sequence[tuple[RepoInfo, Request]]:
        """Returns the caller's own requests for repos that it may still see, the newest first."""
        query = (
            select(Repo, AccessRequest.id)
            .join(AccessRequest, AccessRequest.repo_id == Repo.id)
            .join(User, User.id == AccessRequest.user_id)
            .where(User.name == (identity.user or ""), Repo.gated != "")
            .order_by(AccessRequest.asked_at.desc())
        )
        with self._database.read() as session:
            rows = [(to_info(row), request_id) for row, request_id in session.execute(query)]
            seen = [
                pair
                for pair in rows
                if may(identity, "repo.read", pair[0].repo_id, pair[0].type, private=pair[0].private)
            ]
            requests = {r.id: r for r in select_requests(session, AccessRequest.id.in_([i for _, i in seen]))}
        return [(info, requests[request_id]) for info, request_id in seen if request_id in requests]

    def _row(self, session: Session, info: RepoInfo, one: ColumnElement[bool]) -> AccessRequest | None:
        query = select(AccessRequest).join(User, User.id == AccessRequest.user_id)
        return session.scalars(
            query.where(AccessRequest.repo_id == info.id, one).with_for_update(of=AccessRequest)
        ).first()


def parse_until(text: str | None) -> datetime | None:
    """Returns when access ends: a time, or the end of a day (UTC); None for no end.

    Raises:
        InvalidInput: it is neither.

    """
    if not text:
        return None
    moment = parse_time(text)
    return moment + timedelta(days=1, seconds=-1) if len(text) == len("2026-11-22") else moment


def _action(before: str, after: Status) -> str:
    if after == "rejected":
        return "access.revoke" if before == "accepted" else "access.reject"
    return "access.accept" if after == "accepted" else "access.cancel"


def _is_past(moment: datetime | None) -> bool:
    return moment is not None and moment <= utc_naive()


def _name_of(session: Session, row: AccessRequest) -> str:
    user = session.get(User, row.user_id)
    return user.name if user else ""


def _check_gated(info: RepoInfo) -> None:
    if not info.gated:
        raise InvalidInput(
            "{repo_id} is not gated.",
            hint="Nobody has to ask for access to it; its settings can change that.",
            repo_id=info.repo_id,
        )


def _has_access(user: str, info: RepoInfo) -> InvalidInput:
    return InvalidInput(
        "{user} has access to {repo_id} already.",
        hint="Nothing is left to do.",
        user=user,
        repo_id=info.repo_id,
    )


def _check_reason(reason: str, status: Status) -> str:
    reason = " ".join(reason.split())
    if reason and status != "rejected":
        raise InvalidInput("Only a rejection has a reason.", hint="Leave it out.")
    if len(reason) > MAX_REASON:
        raise InvalidInput("A reason has at most {limit} characters.", hint="Write less.", limit=MAX_REASON)
    return reason


def _check_until(until: datetime | None, status: Status) -> None:
    if until is None:
        return
    if status != "accepted":
        raise InvalidInput("Only access that is given can end at a date.", hint="Leave the date out.")
    if _is_past(until):
        raise InvalidInput(
            "{when} is over already.", hint="Choose a date that is yet to come.", when=iso(until)
        )
