"""The kinds of runs `pull` (one repo) and `pull_owner` (all that an organisation has): who may, and what they do."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from fust.accounts.rights import Identity, may
from fust.accounts.service import Accounts
from fust.core.decode_words import words_of
from fust.core.errors import FustError, InvalidInput, NotFound, StorageFull
from fust.core.ids import RepoType, check_name, check_repo_type, split_repo_id
from fust.core.settings import Settings
from fust.core.units import show_size
from fust.hub.pulling.pace import parse_limit
from fust.hub.pulling.tokens import drop_token, keep_token, read_token
from fust.hub.pulling.types import parse_source
from fust.jobs.kinds import Kind
from fust.jobs.worker import JobContext
from fust.store.database import Database

if TYPE_CHECKING:
    from fust.hub.pulling.forms import HubForm
    from fust.hub.pulling.line import Lines
    from fust.hub.pulling.repo import PullRepo, PullResult, Wish
    from fust.hub.pulling.types import RepoName
    from fust.hub.service import Hub

_T = TypeVar("_T", bound="_Common")


class _Common(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What both kinds can be asked."""

    source: str = ""
    """The hub; empty: the setting pull.source, and its mirrors after it."""
    include: list[str] = []
    exclude: list[str] = []
    all: bool = False
    limit: str = ""
    """Bandwidth of this pull, such as `10MB/s`; the setting pull.limit holds too."""
    token: str = ""
    """For the hub; never kept with the run, which names it by ``token_ref``."""
    token_ref: str = ""


class PullParams(_Common, kw_only=True):
    """What a pull can be asked."""

    repo_id: str
    type: str = "model"
    revision: str = "main"
    files: list[str] = []
    to: str = ""
    """Name here; empty: the same, or the caller's own when the same is not the caller's to write."""


class PullOwnerParams(_Common, kw_only=True):
    """What the pull of an organisation can be asked."""

    owner: str
    types: tuple[Literal["model", "dataset"], ...] = ("model", "dataset")
    preview: bool = False
    """Only list what would be pulled."""
    to: str = ""
    """Owner here; empty: the same, or the caller when the same is not the caller's to write."""


class OwnedRepo(msgspec.Struct):
    """A repo of an organisation, and what came of it."""

    repo_id: str
    type: str
    files: int = 0
    size_bytes: int = 0
    """Of the files that are taken, whether they are here already or not."""
    missing_bytes: int = 0
    state: Literal["listed", "pulled", "failed"] = "listed"
    error: str = ""
    to: str = ""


class PullOwnerResult(msgspec.Struct):
    """What came of the pull of an organisation, or what it would bring."""

    owner: str
    source: str
    preview: bool
    repos: list[OwnedRepo]
    size_bytes: int
    missing_bytes: int
    """Of ``size_bytes``, what is not here yet."""
    fetched_bytes: int
    failed: int


def pull_kind(accounts: Accounts, settings: Settings) -> Kind:
    """Returns the kind `pull` for ``Jobs.register``."""

    def prepare(identity: Identity, params: dict[str, Any]) -> dict[str, Any]:
        wish = _read_params(params, PullParams)
        _, name = split_repo_id(wish.repo_id)
        wish.type = check_repo_type(wish.type)
        if wish.to:
            split_repo_id(wish.to)
        else:
            accounts.require(identity, "write")
            is_own = may(identity, "repo.create", wish.repo_id, wish.type)
            wish.to = wish.repo_id if is_own else f"{identity.user}/{name}"
        accounts.check(identity, "repo.create", wish.to, wish.type)
        return _finish_params(wish, identity, settings)

    return Kind("pull", "Pull {repo_id}", prepare, memory_bytes=400 * 10**6, cores=1, resumable=True)


def pull_owner_kind(accounts: Accounts, settings: Settings) -> Kind:
    """Returns the kind `pull_owner` for ``Jobs.register``."""

    def prepare(identity: Identity, params: dict[str, Any]) -> dict[str, Any]:
        wish = _read_params(params, PullOwnerParams)
        wish.owner = check_name(wish.owner, "owner")
        if wish.to:
            check_name(wish.to, "owner")
        else:
            accounts.require(identity, "write")
            is_own = all(may(identity, "repo.create", f"{wish.owner}/*", kind) for kind in wish.types)
            wish.to = wish.owner if is_own else str(identity.user)
        for kind in wish.types:
            accounts.check(identity, "repo.create", f"{wish.to}/*", kind)
        return _finish_params(wish, identity, settings)

    return Kind(
        "pull_owner", "Pull all of {owner}", prepare, memory_bytes=400 * 10**6, cores=1, resumable=True
    )


def _read_params(params: dict[str, Any], kind: type[_T]) -> _T:
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            "The params of the pull are not valid: {reason}.", reason=words_of(error)
        ) from None


def _finish_params(wish: _Common, identity: Identity, settings: Settings) -> dict[str, Any]:
    """Returns the params to keep: completed, checked, and without the token."""
    wish.source = str(parse_source(wish.source or settings.pull.source))
    parse_limit(wish.limit)
    if wish.token:
        wish.token_ref = keep_token(settings.home, str(identity.user), wish.source, wish.token)
        wish.token = ""
    built: dict[str, Any] = msgspec.to_builtins(wish)
    del built["token"]
    return built


# At work


@dataclass(slots=True)
class _Desk:
    """What a run works with."""

    context: JobContext
    hub: Hub
    accounts: Accounts
    lines: Lines

    def pull(self, wish: Wish) -> PullRepo:
        """Returns a pull of one repo, ready to run."""
        from fust.hub.pulling.repo import PullRepo

        return PullRepo(self.context, wish, self.hub, self.accounts, self.lines)


def run_pull(context: JobContext) -> PullResult:
    """The function of the kind `pull`."""
    from fust.hub.pulling.repo import Wish

    asked = msgspec.convert(context.params, PullParams)
    with _desk(context, asked) as desk:
        wish = Wish(
            asked.repo_id,
            check_repo_type(asked.type),
            asked.revision,
            asked.to,
            asked.files,
            asked.include,
            asked.exclude,
            asked.all,
        )
        return desk.pull(wish).run()


@contextmanager
def _desk(context: JobContext, asked: _Common) -> Generator[_Desk]:
    """Gives the services of a run's process; the token that was given for it is gone afterwards."""
    # Read by huggingface_hub and hf-xet when they are imported: nothing of a user's own set-up is used or written.
    os.environ.update(
        HF_HOME=str(context.work / "hf"),
        HF_XET_CHUNK_CACHE_SIZE_BYTES="0",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_HUB_DISABLE_IMPLICIT_TOKEN="1",
    )
    import logging

    from fust.hub.pulling.line import Lines
    from fust.hub.pulling.parts import sweep_parts
    from fust.hub.service import Hub

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # its lines hold signed URLs
    settings, spec = context.settings, context.spec
    sweep_parts(settings.home)
    token = read_token(settings.home, spec.owner, asked.source, asked.token_ref)
    lines = Lines(
        settings, asked.source, token=token, is_admin=spec.asked.by_admin, limit=asked.limit, say=context.say
    )
    database = Database(settings.database_url)
    try:
        accounts = Accounts(database, settings)
        yield _Desk(context, Hub(database, accounts, settings), accounts, lines)
    finally:
        drop_token(settings.home, asked.token_ref)
        lines.close()
        database.close()


def run_pull_owner(context: JobContext) -> PullOwnerResult:
    """The function of the kind `pull_owner`: lists, looks whether there is room, and pulls one repo after the other.

    A repo that fails is said, and the next one is pulled.
    """
    asked = msgspec.convert(context.params, PullOwnerParams)
    with _desk(context, asked) as desk:
        source = desk.lines.sources[0]
        context.progress(0, 0, "items", "Asking {source}", now=True, source=source)
        with desk.lines.open(source) as form:
            repos = _list(desk, form, asked)
        size, missing = (sum(r.size_bytes for r in repos), sum(r.missing_bytes for r in repos))
        result = PullOwnerResult(asked.owner, str(source), asked.preview, repos, size, missing, 0, 0)
        if not asked.preview:
            _check_room(desk, result)
            for number, repo in enumerate(repos):
                context.progress(
                    number, len(repos), "items", "Pulling {repo_id}", now=True, repo_id=repo.repo_id
                )
                if repo.state == "listed":
                    _pull_one(desk, asked, repo, result)
        result.failed = sum(repo.state == "failed" for repo in repos)
        return result


def _wish(asked: PullOwnerParams, repo_id: str, repo_type: str) -> Wish:
    from fust.hub.pulling.repo import Wish

    kind: RepoType = check_repo_type(repo_type)
    to = f"{asked.to}/{split_repo_id(repo_id)[1]}"
    return Wish(repo_id, kind, "main", to, [], asked.include, asked.exclude, asked.all)


def _list(desk: _Desk, form: HubForm, asked: PullOwnerParams) -> list[OwnedRepo]:
    """Returns what the organisation has, with sizes; a repo that cannot be read is in the list, with the reason."""
    names = form.list_repos(asked.owner, asked.types)
    if not names:
        raise NotFound(
            "{source} shows no model and no data set of {owner}.",
            hint="Check the name; for private ones give a token: `fust pull --token`, or the setting pull.token.",
            source=form.web.source,
            owner=asked.owner,
        )
    found: list[OwnedRepo] = []
    for number, name in enumerate(sorted(names, key=lambda name: (name.type, name.repo_id))):
        desk.context.progress(number, len(names), "items", "Looking at {repo_id}", repo_id=name.repo_id)
        found.append(_look(desk, form, asked, name))
    return found


def _look(desk: _Desk, form: HubForm, asked: PullOwnerParams, name: RepoName) -> OwnedRepo:
    wish = _wish(asked, name.repo_id, name.type)
    repo = OwnedRepo(name.repo_id, name.type, to=wish.to)
    try:
        pull = desk.pull(wish)
        _, selection = pull.read(form)
        repo.missing_bytes = sum(file.size for file in pull.missing(selection.files))
    except FustError as error:
        if error.code == "private_address":
            raise
        repo.state, repo.error = "failed", error.message()
        return repo
    repo.files, repo.size_bytes = len(selection.files), sum(file.size for file in selection.files)
    return repo


def _check_room(desk: _Desk, result: PullOwnerResult) -> None:
    """Raises StorageFull when what is not here yet would not fit on the disk."""
    from fust.hub.pulling.repo import RESERVE_BYTES, free_bytes

    free = free_bytes(desk.context.settings.home, desk.hub)
    if result.missing_bytes > free:
        raise StorageFull(
            "{repo_id} needs {needed}, and the disk of {home} has {free} free.",
            hint="Free some room (`fust doctor` shows where it went), or take less with --file or --include.",
            repo_id=result.owner,
            needed=show_size(result.missing_bytes + RESERVE_BYTES),
            home=desk.context.settings.home,
            free=show_size(free + RESERVE_BYTES),
        )


def _pull_one(desk: _Desk, asked: PullOwnerParams, repo: OwnedRepo, result: PullOwnerResult) -> None:
    from fust.hub.pulling.repo import say_error

    context = desk.context
    try:
        done = desk.pull(_wish(asked, repo.repo_id, repo.type)).run()
    except FustError as error:
        if error.code == "private_address":
            raise
        repo.state, repo.error = "failed", error.message()
        context.say("{repo_id} was not pulled:", repo_id=repo.repo_id)
        say_error(context, error)
    else:
        repo.state = "pulled"
        result.fetched_bytes += done.fetched_bytes
        context.say("{repo_id} is here ({size}).", repo_id=done.repo_id, size=show_size(done.size_bytes))
    finally:
        context.too_late_to_cancel = False
