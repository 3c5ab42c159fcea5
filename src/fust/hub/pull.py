"""Pull: a repo of another hub becomes one of ours, every byte checked, in one commit or not at all."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from fust.accounts.rights import SYSTEM, Identity, may
from fust.accounts.service import Accounts
from fust.core.errors import Denied, FustError, InvalidInput, StorageFull, UpstreamFailed
from fust.core.files import full_disk_is_clear
from fust.core.ids import RepoType, check_repo_type, split_repo_id
from fust.core.machine import machine_memory
from fust.core.settings import Settings
from fust.core.units import show_size
from fust.hub.errors import RepoNotFound
from fust.hub.guard import is_private, public_addresses_only, resolve
from fust.hub.parts import claim_part, part_size, sweep_parts
from fust.hub.paths import check_path
from fust.hub.service import Hub
from fust.hub.types import AddFile, AddLargeFile, Operation, RepoInfo
from fust.jobs.kinds import Kind
from fust.jobs.worker import JobContext
from fust.store.database import Database

if TYPE_CHECKING:
    from fust.hub.upstream import UpstreamFile

_RESERVE_BYTES = 200 * 10**6
"""Room that a pull leaves on the disk."""


_WORTHLESS = frozenset({"storage_full", "wrong_length", "wrong_hash"})
"""Errors after which a half-fetched file is of no use; after any other a later pull continues it."""


class PullParams(msgspec.Struct, forbid_unknown_fields=True):
    """What a pull can be asked."""

    repo_id: str
    type: str = "model"
    source: str = ""
    """Base URL of the hub; empty: the setting pull.source."""
    revision: str = "main"
    files: list[str] = []
    include: list[str] = []
    all: bool = False
    to: str = ""
    """Name here; empty: the same, or the caller's own when the same is not the caller's to write."""


class PullResult(msgspec.Struct):
    """What came of a pull."""

    repo_id: str
    type: str
    revision: str
    source: str
    upstream_revision: str
    files: int
    size_bytes: int
    fetched_bytes: int
    has_gguf: bool
    choices: list[dict[str, Any]]


def pull_kind(accounts: Accounts, settings: Settings) -> Kind:
    """Returns the kind `pull` for ``Jobs.register``."""

    def prepare(identity: Identity, params: dict[str, Any]) -> dict[str, Any]:
        try:
            wish = msgspec.convert(params, PullParams)
        except msgspec.ValidationError as error:
            raise InvalidInput("The params of the pull are not valid: {reason}.", reason=error) from None
        _, name = split_repo_id(wish.repo_id)
        wish.type = check_repo_type(wish.type)
        wish.source = check_source(wish.source or settings.pull.source)
        if wish.to:
            split_repo_id(wish.to)
            accounts.check(identity, "repo.create", wish.to, wish.type)
        else:
            accounts.require(identity, "write")
            wish.to = f"{identity.user}/{name}"
            if may(identity, "repo.create", wish.repo_id, wish.type):
                wish.to = wish.repo_id
            accounts.check(identity, "repo.create", wish.to, wish.type)
        return msgspec.to_builtins(wish)

    return Kind("pull", "Pull {repo_id}", prepare, memory_bytes=400 * 10**6, cores=1, resumable=True)


def check_source(url: str) -> str:
    """Returns the base URL of a hub without a trailing slash.

    Raises:
        InvalidInput: not http or https, no host, or a user name in it.

    """
    parts = urlsplit(url)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username
        or parts.query
        or parts.fragment
    ):
        raise InvalidInput(
            "{url!r} is not the address of a hub.",
            hint="Write it like https://huggingface.co.",
            url=url[:200],
        )
    return url.rstrip("/")


def run_pull(context: JobContext) -> PullResult:
    """The run's function: lists, chooses, fetches, checks, commits."""
    settings = context.settings
    wish = msgspec.convert(context.params, PullParams)
    # Read by huggingface_hub and hf-xet when they are imported: nothing of a user's own set-up is used or written.
    os.environ.update(
        HF_HOME=str(context.work / "hf"),
        HF_XET_CHUNK_CACHE_SIZE_BYTES="0",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_HUB_DISABLE_IMPLICIT_TOKEN="1",
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # its lines hold signed URLs
    is_ours = wish.source == check_source(settings.pull.source)
    is_trusted = is_ours or context.spec.asked.by_admin or settings.pull.allow_private_addresses
    database = Database(settings.database_url)
    try:
        with _guard(wish.source, is_trusted=is_trusted):
            accounts = Accounts(database, settings)
            hub = Hub(database, accounts, settings)
            return Pull(
                context, wish, hub, accounts, use_xet=is_trusted, token=settings.pull.token if is_ours else ""
            ).run()
    finally:
        database.close()


def _guard(source: str, *, is_trusted: bool) -> AbstractContextManager[None]:
    """Returns what keeps the process off private addresses: nothing when the source itself lives on one, and may.

    Raises:
        UpstreamFailed: the source's name has no address.
        Denied: it lives on a private address, and the caller may not ask for that.

    """
    parts = urlsplit(source)
    try:
        addresses = resolve(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    except OSError as error:
        raise UpstreamFailed(
            "{source} cannot be reached ({reason}).",
            hint="Check the network, or name another hub with --from.",
            source=source,
            reason=str(error),
        ) from error
    if not any(is_private(address) for address in addresses):
        return public_addresses_only()
    if not is_trusted:
        raise Denied(
            "{source} lives on a private address.",
            hint="Let an administrator pull from it, or set pull.allow_private_addresses.",
            code="private_address",
            source=source,
        )
    return nullcontext()


class Pull:
    """One pull at work."""

    def __init__(
        self,
        context: JobContext,
        wish: PullParams,
        hub: Hub,
        accounts: Accounts,
        *,
        use_xet: bool,
        token: str,
    ) -> None:
        from fust.hub.upstream import Upstream

        self._context = context
        self._wish = wish
        self._hub = hub
        self._type: RepoType = check_repo_type(wish.type)
        self._accounts = accounts
        self._identity = accounts.of_run(context.spec.owner, context.spec.asked)
        self._upstream = Upstream(
            wish.source, token, wish.repo_id, self._type, use_xet=use_xet, say=context.say
        )
        owner, name = split_repo_id(wish.to)
        namespace = accounts.organisations.find_name(owner)
        self._namespace = namespace.name if namespace else owner
        self._target = f"{self._namespace}/{name}"
        self._done = 0
        self._total = 0
        self._fetched = 0
        self._file: UpstreamFile | None = None

    def run(self) -> PullResult:
        """Does it."""
        from fust.hub.pull_choice import choose

        wish, context = self._wish, self._context
        context.progress(0, 0, "bytes", "Asking {source}", now=True, source=wish.source)
        sweep_parts(context.settings.home)
        repo = self._upstream.read_repo(wish.revision)
        for file in repo.files:
            check_path(file.path)
        selection = choose(
            repo.files,
            named=wish.files,
            patterns=wish.include,
            take_all=wish.all,
            memory_bytes=self._memory(),
            repo_id=wish.repo_id,
        )
        for choice in selection.choices:
            context.say(
                "* {file} ({size}), the largest that fits this machine"
                if choice.taken
                else "  {file} ({size})"
                if choice.fits
                else "  {file} ({size}), too large for this machine",
                data=msgspec.to_builtins(choice),
                file=choice.file,
                size=show_size(choice.size_bytes),
            )
        files = selection.files
        self._total = sum(file.size for file in files)
        self._check_room([file for file in files if not self._is_here(file)])
        for file in sorted(files, key=lambda file: (bool(file.sha256), file.size)):
            self._bring(file, repo.revision)
        oid = self._commit(files, repo.revision, private=repo.private or repo.gated)
        shutil.rmtree(context.work, ignore_errors=True)
        return PullResult(
            repo_id=self._target,
            type=self._type,
            revision=oid,
            source=wish.source,
            upstream_revision=repo.revision,
            files=len(files),
            size_bytes=self._total,
            fetched_bytes=self._fetched,
            has_gguf=any(file.path.endswith(".gguf") for file in files),
            choices=[msgspec.to_builtins(choice) for choice in selection.choices],
        )

    def _memory(self) -> int:
        memory = machine_memory()
        return self._context.settings.serve.memory_bytes or memory.total_bytes - memory.reserve_bytes

    def _check_room(self, missing: list[UpstreamFile]) -> None:
        """Raises StorageFull when what is missing would not fit on the disk."""
        home = self._context.settings.home
        needed = sum(max(0, file.size - part_size(home, file.sha256)) for file in missing)
        free = min(shutil.disk_usage(home).free, self._hub.content.free_bytes())
        if needed and needed + _RESERVE_BYTES > free:
            raise StorageFull(
                "{repo_id} needs {needed}, and the disk of {home} has {free} free.",
                hint="Free some room (`fust doctor` shows where it went), or take less with --file or --include.",
                repo_id=self._wish.repo_id,
                needed=show_size(needed + _RESERVE_BYTES),
                home=home,
                free=show_size(free),
            )

    # One file

    def _is_here(self, file: UpstreamFile) -> bool:
        """Returns whether a file's bytes were checked and taken in before: by this run, or by any other."""
        if file.sha256:
            return self._hub.content.may_read_large("", self._namespace, file.sha256, writer=True)
        return self._small(file).exists()

    def _bring(self, file: UpstreamFile, revision: str) -> None:
        """Fetches and checks a file; its bytes are then in the hub's store, or in our folder when it is small."""
        self._file = file
        before = self._done
        if not self._is_here(file):
            with self._claim(file) as part:
                try:
                    self._fetch(file, revision, part)
                except FustError as error:
                    if error.code in _WORTHLESS:
                        part.unlink(missing_ok=True)
                    raise
                if file.sha256:
                    self._take_in(file, part)
                else:
                    part.replace(self._small(file))
        else:
            self._context.restart_rate()  # what was here already is no measure of what comes
        self._done = before + file.size
        self._show()

    def _claim(self, file: UpstreamFile) -> AbstractContextManager[Path]:
        """Returns where a file is fetched to: a large one where any later pull finds it."""
        if file.sha256:
            return claim_part(self._context.settings.home, self._context.work, file.sha256)
        return nullcontext(self._context.work / f"{file.oid}.part")

    def _fetch(self, file: UpstreamFile, revision: str, part: Path) -> None:
        """Fetches into the part, from where it ends; a file that fails its check is fetched anew, once."""
        found = ""
        for attempt in (1, 2):
            self._fetch_once(file, revision, part)
            found = self._hash(file, part)
            if found == (file.sha256 or file.oid):
                return
            os.truncate(part, 0)
            if attempt == 1:
                self._context.say("{path} arrived damaged; fetching it again.", path=file.path)
        raise UpstreamFailed(
            "What {source} sends for {path} is not what it announced: hash {found}, announced {wanted}.",
            hint="Nothing was kept. Tell the owner of that hub, or name another with --from.",
            code="wrong_hash",
            source=self._wish.source,
            path=file.path,
            found=found[:16],
            wanted=(file.sha256 or file.oid)[:16],
        )

    def _fetch_once(self, file: UpstreamFile, revision: str, part: Path) -> None:
        base = self._done
        with full_disk_is_clear(part), part.open("ab", buffering=0) as target:
            if target.tell() > file.size:
                target.truncate(0)
            if target.tell():
                self._context.restart_rate()

            def write(position: int, piece: bytes) -> None:
                if position != target.tell():
                    target.truncate(position)
                    target.seek(position)
                view = memoryview(piece)
                while view:
                    view = view[target.write(view) :]
                self._fetched += len(piece)
                self._done = base + position + len(piece)
                self._show()

            def offset() -> int:
                return target.seek(0, os.SEEK_END)

            self._upstream.fetch(file, revision, offset, write)
            os.fsync(target.fileno())
        self._done = base

    def _hash(self, file: UpstreamFile, part: Path) -> str:
        """Returns SHA-256 of a large file, git's SHA-1 of a small one."""
        digest = hashlib.sha256()
        if not file.sha256:
            digest = hashlib.sha1(b"blob %d\0" % part.stat().st_size, usedforsecurity=False)
        with part.open("rb", buffering=0) as source:
            while piece := source.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()

    def _take_in(self, file: UpstreamFile, part: Path) -> None:
        """Gives the checked bytes to the hub. By a second link: a server that starts just now sweeps its own
        temporary files away, and ours must not go with them.
        """
        for attempt in (1, 2, 3):
            link = part.with_suffix(".link")
            link.unlink(missing_ok=True)
            try:
                os.link(part, link)
            except OSError:
                link = part  # a file system without links: then a copy
            try:
                self._hub.content.put_file(
                    self._namespace, link, expected_sha256=file.sha256, move=link is not part
                )
                break
            except FileNotFoundError:
                if attempt == 3:
                    raise
        part.unlink()

    def _show(self) -> None:
        path = self._file.path if self._file else ""
        self._context.progress(self._done, self._total, "bytes", "{path}", path=path)

    def _small(self, file: UpstreamFile) -> Path:
        return self._context.work / f"{file.oid}.small"

    # The commit

    def _commit(self, files: list[UpstreamFile], revision: str, *, private: bool) -> str:
        self._context.progress(
            self._total, self._total, "bytes", "Writing {repo_id}", now=True, repo_id=self._target
        )
        self._identity = self._accounts.of_run(self._context.spec.owner, self._context.spec.asked)
        self._context.too_late_to_cancel = True  # from here on all or nothing, within moments
        repo, is_new = self._open_target(private=private)
        try:
            operations = [self._operation(file, repo) for file in files]
            message = f"Pulled from {self._wish.source}/{self._wish.repo_id} at {revision}"
            return self._hub.commit(self._identity, repo, operations, message)
        except BaseException:
            if is_new:
                self._hub.delete_repo(SYSTEM, self._target, self._type)
            raise

    def _open_target(self, *, private: bool) -> tuple[RepoInfo, bool]:
        """Returns the repo to write to, and whether it was made for this pull."""
        try:
            return self._hub.get_repo_to_write(self._identity, self._target, self._type), False
        except RepoNotFound:
            if private:
                self._context.say(
                    "{repo_id} is private or gated there, so it is made private here.", repo_id=self._target
                )
            return self._hub.create_repo(self._identity, self._target, self._type, private=private), True

    def _operation(self, file: UpstreamFile, repo: RepoInfo) -> Operation:
        if file.sha256:
            return AddLargeFile(file.path, file.sha256, file.size)
        small = self._small(file)
        if file.size > self._context.settings.hub.max_regular_file_bytes:
            stored = self._hub.put_file_from_path(repo, small)
            return AddLargeFile(file.path, stored.sha256, stored.size)
        return AddFile(file.path, small.read_bytes())
