"""A Fust server as an object with typed methods."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from fust.client.access import Access, RepoAccess
from fust.client.http import ClientError, Event, Transport
from fust.client.types import (
    AuditPage,
    AuditVerdict,
    ChatDelta,
    Deployment,
    DeploymentList,
    EngineList,
    Invitation,
    InvitationList,
    Member,
    MemberList,
    OpenLink,
    Organisation,
    OrganisationList,
    Repo,
    RepoList,
    Session,
    Status,
    Token,
    TokenList,
    User,
    UserList,
)
from fust.core.errors import Unavailable
from fust.wire.runs import FINAL_STATES, LogLine, Progress, Run, RunList

if TYPE_CHECKING:
    from fust.client.stores.types import LocalRevision
    from fust.client.take_over import TakenOver

_T = TypeVar("_T")
RunNews = Run | Progress | LogLine


def _reached(status: Status) -> str:
    """Returns the address to give to huggingface_hub: the server names repos and the place of large files by it, and
    huggingface_hub takes only names of the server that it was told of.
    """
    return (status.reached_url or status.base_url).rstrip("/")


class Client:
    """Talks with the server at ``base_url`` with the key ``token``; every method raises ClientError or Unavailable."""

    def __init__(self, base_url: str, token: str = "", *, timeout_s: float = 60.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._token = token
        self._http = Transport(base_url, token, timeout_s=timeout_s)

    def _get(self, path: str, kind: type[_T]) -> _T:
        return msgspec.json.decode(self._http.request("GET", path), type=kind)

    def _post(self, path: str, kind: type[_T], body: object = None) -> _T:
        return self._send("POST", path, kind, {} if body is None else body)

    def _send(self, method: str, path: str, kind: type[_T], body: object) -> _T:
        return msgspec.json.decode(self._http.request(method, path, body), type=kind)

    # System and session

    def session(self) -> Session:
        """Returns who the server takes us for."""
        return self._get("/fust/v1/session", Session)

    def status(self) -> Status:
        """Returns what runs and what needs somebody."""
        return self._get("/fust/v1/status", Status)

    def open_link(self) -> OpenLink:
        """Returns a new link that signs one browser in."""
        return self._post("/fust/v1/open", OpenLink)

    # Keys

    def list_tokens(self, user: str = "") -> list[Token]:
        """Returns our keys, or a user's (administrators only), without their secrets."""
        return self._get(_tokens_path(user), TokenList).items

    def create_token(
        self,
        name: str,
        scope: str,
        *,
        user: str = "",
        repos: Sequence[str] | None = None,
        models: Sequence[str] | None = None,
        expires_at: str | None = None,
    ) -> Token:
        """Makes a key, ours or a user's (administrators only); the answer holds its secret, once."""
        body = {"name": name, "scope": scope, "repos": repos, "models": models, "expires_at": expires_at}
        return self._post(_tokens_path(user), Token, {k: v for k, v in body.items() if v is not None})

    def revoke_token(self, token_id: str) -> None:
        """Ends a key."""
        self._http.request("DELETE", f"/fust/v1/tokens/{_part(token_id)}")

    # People

    def list_users(self) -> list[User]:
        """Returns all people (administrators only)."""
        return self._get("/fust/v1/users", UserList).items

    def create_user(
        self, name: str, *, password: str | None = None, is_admin: bool = False, full_name: str = ""
    ) -> User:
        """Adds a person (administrators only)."""
        body = {"name": name, "password": password, "is_admin": is_admin, "full_name": full_name}
        return self._post("/fust/v1/users", User, {k: v for k, v in body.items() if v is not None})

    def update_user(
        self,
        name: str,
        *,
        full_name: str | None = None,
        is_admin: bool | None = None,
        suspended: bool | None = None,
    ) -> User:
        """Changes a person; what is none stays."""
        body = {"full_name": full_name, "is_admin": is_admin, "suspended": suspended}
        return self._send(
            "PATCH",
            f"/fust/v1/users/{_part(name)}",
            User,
            {key: value for key, value in body.items() if value is not None},
        )

    def delete_user(self, name: str) -> None:
        """Removes a person that keeps no repos (administrators only)."""
        self._http.request("DELETE", f"/fust/v1/users/{_part(name)}")

    def set_password(self, name: str, password: str) -> None:
        """Sets a person's password."""
        self._http.request("PUT", f"/fust/v1/users/{_part(name)}/password", {"password": password})

    # Organisations

    def list_organisations(self, *, mine: bool = False) -> list[Organisation]:
        """Returns all organisations, or ours."""
        return self._get(f"/fust/v1/organisations?mine={str(mine).lower()}", OrganisationList).items

    def create_organisation(self, name: str, display_name: str = "") -> Organisation:
        """Makes an organisation that we own."""
        return self._post(
            "/fust/v1/organisations", Organisation, {"name": name, "display_name": display_name}
        )

    def get_organisation(self, name: str) -> Organisation:
        """Returns an organisation."""
        return self._get(f"/fust/v1/organisations/{_part(name)}", Organisation)

    def rename_organisation(self, name: str, display_name: str) -> Organisation:
        """Changes the name that is shown."""
        body = {"display_name": display_name}
        return self._send("PATCH", f"/fust/v1/organisations/{_part(name)}", Organisation, body)

    def delete_organisation(self, name: str) -> None:
        """Removes an organisation that keeps no repos."""
        self._http.request("DELETE", f"/fust/v1/organisations/{_part(name)}")

    def list_members(self, organisation: str) -> list[Member]:
        """Returns who belongs to an organisation."""
        return self._get(f"/fust/v1/organisations/{_part(organisation)}/members", MemberList).items

    def set_member(self, organisation: str, user: str, role: str) -> Member:
        """Adds a member or changes its role."""
        path = f"/fust/v1/organisations/{_part(organisation)}/members/{_part(user)}"
        return self._send("PUT", path, Member, {"role": role})

    def remove_member(self, organisation: str, user: str) -> None:
        """Ends a membership."""
        path = f"/fust/v1/organisations/{_part(organisation)}/members/{_part(user)}"
        self._http.request("DELETE", path)

    # Invitations

    def create_invitation(
        self, *, organisation: str | None = None, role: str = "read", expires_s: int, note: str = ""
    ) -> Invitation:
        """Makes a link that lets one person in, once."""
        body = {"organisation": organisation, "role": role, "expires_s": expires_s, "note": note}
        return self._post("/fust/v1/invitations", Invitation, body)

    def list_invitations(self) -> list[Invitation]:
        """Returns the invitations that we may look after."""
        return self._get("/fust/v1/invitations", InvitationList).items

    def withdraw_invitation(self, invitation_id: str) -> None:
        """Ends an invitation that nobody used."""
        self._http.request("DELETE", f"/fust/v1/invitations/{quote(invitation_id, safe='')}")

    # Audit

    def list_audit(self, **query: str | int) -> AuditPage:
        """Returns a page of the audit, newest first; ``query``: actor, action, subject, text, since, until, limit, cursor."""
        return self._get("/fust/v1/audit?" + urlencode(query), AuditPage)

    def verify_audit(self) -> AuditVerdict:
        """Returns what walking the chain of the audit found."""
        return self._get("/fust/v1/audit/verify", AuditVerdict)

    def export_audit(self, **query: str) -> Generator[bytes]:
        """Yields the lines of an export (``format``: jsonl or csv) with what ``list_audit`` filters by."""
        return self._http.lines("GET", "/fust/v1/audit/export?" + urlencode(query))

    # Repos

    def list_repos(self, **query: str | int) -> RepoList:
        """Returns a page of repos; ``query`` as the contract has it (type, search, author, sort, limit, cursor)."""
        return self._get("/fust/v1/repos?" + urlencode(query), RepoList)

    def get_repo(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> Repo:
        """Returns a repo with its files."""
        path = f"/fust/v1/repos/{repo_type}/{quote(repo_id)}?revision={quote(revision, safe='')}"
        return self._get(path, Repo)

    def access(self, repo_id: str, repo_type: str = "model") -> RepoAccess:
        """Returns the gate of a repo: asking for access, and deciding."""
        return RepoAccess(self._http, repo_id, repo_type)

    def my_access(self) -> Access:
        """Returns what the caller asked for, and what waits for the caller."""
        return self._get("/fust/v1/access", Access)

    def delete_repo(self, repo_id: str, repo_type: str = "model") -> None:
        """Deletes a repo."""
        owner, _, name = repo_id.partition("/")
        body = {"name": name, "organization": owner, "type": repo_type}
        self._http.request("DELETE", "/api/repos/delete", body)

    def upload(
        self,
        path: Path,
        repo_id: str,
        *,
        repo_type: str,
        message: str,
        private: bool,
        path_in_repo: str,
        instead: bool = False,
    ) -> str:
        """Puts a file or the content of a folder into a repo, which is made when it is not there; returns its page.

        ``instead`` of what the repo holds, but for its card: what was there stays in its history alone.

        Large files go through Xet, as with any client of the Hugging Face Hub.
        """
        from fust.client.upload import upload

        status = self.status()
        upload(
            _reached(status),
            self._token,
            path,
            repo_id,
            repo_type=repo_type,
            message=message,
            private=private,
            path_in_repo=path_in_repo,
            instead=instead,
        )
        prefix = {"dataset": "datasets/", "space": "spaces/"}.get(repo_type, "")
        return f"{status.base_url.rstrip('/')}/{prefix}{repo_id}"

    def take_over(self, revision: LocalRevision, repo_id: str, *, private: bool = False) -> TakenOver:
        """Takes a revision out of another program's store on this machine; see ``fust.client.stores``."""
        from fust.client.take_over import take_over

        return take_over(_reached(self.status()), self._token, revision, repo_id, private=private)

    # Models at the API

    def list_deployments(self) -> list[Deployment]:
        """Returns all models at the API."""
        return self._get("/fust/v1/deployments", DeploymentList).items

    def create_deployment(
        self, repo_id: str, file: str = "", alias: str = "", *, engine: str = "", pin: bool = False
    ) -> Deployment:
        """Makes a model answer at the API; returns at once, mostly while it loads."""
        body: dict[str, Any] = {"repo_id": repo_id, "pin": pin}
        if file:
            body["file"] = file
        if alias:
            body["alias"] = alias
        if engine:
            body["engine"] = engine
        return self._post("/fust/v1/deployments", Deployment, body)

    def list_engines(self) -> EngineList:
        """Returns what serves models here."""
        return self._get("/fust/v1/engines", EngineList)

    def create_bare_deployment(
        self, name: str, engine: str, options: dict[str, Any], alias: str = "", *, pin: bool = False
    ) -> Deployment:
        """Makes an engine answer that serves no file of the hub; returns at once, mostly while it loads."""
        body: dict[str, Any] = {"name": name, "engine": engine, "options": options, "pin": pin}
        if alias:
            body["alias"] = alias
        return self._post("/fust/v1/deployments", Deployment, body)

    def get_deployment(self, deployment_id: str) -> Deployment:
        """Returns a model at the API."""
        return self._get(f"/fust/v1/deployments/{quote(deployment_id, safe='')}", Deployment)

    def add_adapter(self, deployment_id: str, repo_id: str, file: str = "", name: str = "") -> Deployment:
        """Puts an adapter beside a model; returns when it was checked, mostly while the engine takes it in."""
        body = {"repo_id": repo_id, "file": file or None, "name": name or None}
        return self._post(f"/fust/v1/deployments/{quote(deployment_id, safe='')}/adapters", Deployment, body)

    def remove_adapter(self, deployment_id: str, name: str) -> None:
        """Takes an adapter off a model."""
        path = f"/fust/v1/deployments/{quote(deployment_id, safe='')}/adapters/{quote(name, safe='')}"
        self._http.request("DELETE", path)

    def delete_deployment(self, deployment_id: str) -> None:
        """Takes a model off the API."""
        self._http.request("DELETE", f"/fust/v1/deployments/{quote(deployment_id, safe='')}")

    def list_models(self) -> list[str]:
        """Returns the names that `/v1` knows."""
        document = self._get("/v1/models", dict[str, Any])
        return [str(entry["id"]) for entry in document["data"]]

    def chat(self, model: str, messages: Sequence[dict[str, str]], **options: object) -> Generator[ChatDelta]:
        """Yields the answer as it is made; closing the generator stops it."""
        body = {
            "model": model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            **{key: value for key, value in options.items() if value is not None},
        }
        for event in self._http.stream("POST", "/v1/chat/completions", body):
            if event.data == b"[DONE]":
                return
            yield _chat_delta(event)

    # Runs

    def create_run(self, kind: str, params: dict[str, Any]) -> Run:
        """Queues a run."""
        return self._post("/fust/v1/runs", Run, {"kind": kind, "params": params})

    def check_tuning(self, params: dict[str, Any]) -> None:
        """Raises ClientError when a tuning of these params would be refused, whatever its rows."""
        self._http.request("POST", "/fust/v1/tune/check", {"params": params})

    def list_runs(self, *, state: str = "", limit: int = 50) -> list[Run]:
        """Returns our runs, newest first; ``state`` may be `active`."""
        query = {"limit": str(limit), **({"state": state} if state else {})}
        return self._get("/fust/v1/runs?" + urlencode(query), RunList).items

    def get_run(self, run_id: str) -> Run:
        """Returns a run."""
        return self._get(f"/fust/v1/runs/{quote(run_id, safe='')}", Run)

    def cancel_run(self, run_id: str) -> Run:
        """Asks for the end of a run."""
        return self._post(f"/fust/v1/runs/{quote(run_id, safe='')}/cancel", Run)

    def resume_run(self, run_id: str) -> Run:
        """Queues a run again that was cancelled or failed."""
        return self._post(f"/fust/v1/runs/{quote(run_id, safe='')}/resume", Run)

    def end_run_early(self, run_id: str) -> Run:
        """Asks a tuning to end at its next step with what it has learned."""
        return self._post(f"/fust/v1/runs/{quote(run_id, safe='')}/end-early", Run)

    def run_log(self, run_id: str) -> str:
        """Returns the end of what the run's process printed."""
        return self._http.request("GET", f"/fust/v1/runs/{quote(run_id, safe='')}/log").decode(
            "utf-8", "replace"
        )

    def follow_run(self, run_id: str, *, patience_s: float = 60.0) -> Generator[RunNews]:
        """Yields what a run says until its end; the last thing is the Run in its final state.

        A server that goes away is waited for: runs outlive it, and the stream continues where it broke off.

        Raises:
            Unavailable: no server came back within ``patience_s``.

        """
        path = f"/fust/v1/runs/{quote(run_id, safe='')}/events"
        last_id = ""
        lost_at: float | None = None
        while True:
            try:
                for event in self._http.stream("GET", path, last_event_id=last_id):
                    lost_at = None
                    last_id = event.id or last_id
                    news = _run_news(event)
                    if news is not None:
                        yield news
                        if isinstance(news, Run) and news.state in FINAL_STATES:
                            return
            except Unavailable:
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > patience_s:
                    raise
            except ClientError as error:
                if error.status < 500:
                    raise
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > patience_s:
                    raise
            time.sleep(0.5)


def _part(text: str) -> str:
    return quote(text, safe="")


def _tokens_path(user: str) -> str:
    return f"/fust/v1/users/{_part(user)}/tokens" if user else "/fust/v1/tokens"


def _run_news(event: Event) -> RunNews | None:
    kinds: dict[str, type[RunNews]] = {"state": Run, "progress": Progress, "log": LogLine}
    kind = kinds.get(event.name)
    return msgspec.json.decode(event.data, type=kind) if kind else None


def _chat_delta(event: Event) -> ChatDelta:
    document: dict[str, Any] = json.loads(event.data)
    if "error" in document:
        error: dict[str, Any] = document["error"]
        raise ClientError(502, str(error.get("code")), str(error.get("message")), "")
    delta = ChatDelta()
    with suppress(KeyError, IndexError, TypeError):
        choice: dict[str, Any] = document["choices"][0]
        delta.finish_reason = choice.get("finish_reason")
        delta.text = choice["delta"].get("content") or ""
    with suppress(KeyError, TypeError):
        delta.completion_tokens = int(document["usage"]["completion_tokens"])
    return delta
