"""One repo of another hub becomes one of ours: listed, chosen, fetched, checked, committed at once or not at all."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fust.accounts.rights import SYSTEM
from fust.accounts.service import Accounts
from fust.core.errors import FustError, StorageFull, UpstreamFailed
from fust.core.ids import RepoType, split_repo_id
from fust.core.machine import machine_memory
from fust.core.units import show_size
from fust.hub.content import upload_scope
from fust.hub.errors import RepoNotFound
from fust.hub.paths import check_path, is_commit_oid
from fust.hub.pulling.choice import Selection, choose
from fust.hub.pulling.fetch import Fetcher
from fust.hub.pulling.forms import HubForm
from fust.hub.pulling.gone import gone_upstream, pull_message
from fust.hub.pulling.line import Lines
from fust.hub.pulling.parts import part_size
from fust.hub.pulling.types import Source, UpstreamFile, UpstreamRepo
from fust.hub.service import Hub
from fust.hub.types import AddFile, AddLargeFile, DeleteFile, Operation, RepoInfo
from fust.jobs.worker import JobContext

RESERVE_BYTES = 200 * 10**6
"""Room that a pull leaves on the disk."""
_GO_ON = frozenset({"upstream_failed", "upstream_nonsense", "rate_limited", "upstream_refused"})
_GO_ON_TOO = frozenset({"wrong_hash", "wrong_length", "redirect_downgrade", "mirror_differs"})
"""Errors after which the next mirror is asked; a repo that is not there, or gated, is that everywhere."""


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
    branch: str = "main"


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be pulled of a repo, and to where."""

    repo_id: str
    type: RepoType
    revision: str
    to: str
    files: list[str]
    include: list[str]
    exclude: list[str]
    take_all: bool

    @property
    def is_part(self) -> bool:
        """Whether somebody chose some of its files."""
        return bool(self.files or self.include or self.exclude)


class PullRepo:
    """One repo on its way, from the first hub that delivers."""

    def __init__(self, context: JobContext, wish: Wish, hub: Hub, accounts: Accounts, lines: Lines) -> None:
        self._context = context
        self._wish = wish
        self._hub = hub
        self._lines = lines
        self._accounts = accounts
        self._identity = accounts.of_run(context.spec.owner, context.spec.asked)
        owner, name = split_repo_id(wish.to)
        namespace = accounts.organisations.find_name(owner)
        self._namespace = namespace.name if namespace else owner
        self._target = f"{self._namespace}/{name}"
        self._scope = upload_scope(self._identity, wish.type, self._target)
        self._announced: dict[str, UpstreamFile] = {}
        """What the first hub that answered says of its files."""
        self._listed_by = ""
        self._commit_seen = ""
        self._fetched = 0

    def run(self) -> PullResult:
        """Does it.

        Raises:
            FustError: what the last hub had to say, or what no hub can mend.

        """
        sources = self._lines.sources
        for number, source in enumerate(sources):
            try:
                with self._lines.open(source) as form:
                    return self._run_from(form)
            except FustError as error:
                if number + 1 == len(sources) or error.code not in _GO_ON | _GO_ON_TOO:
                    raise
                say_error(self._context, error)
                self._context.say("Going on with {source}.", source=sources[number + 1])
        raise AssertionError("a list of sources is never empty")

    def _run_from(self, form: HubForm) -> PullResult:
        source = form.web.source
        self._context.progress(0, 0, "bytes", "Asking {source}", now=True, source=source)
        repo, selection = self.read(form)
        self._check_same(source, selection)
        self._say_choices(selection)
        total = sum(file.size for file in selection.files)
        missing = self.missing(selection.files)
        self.check_room(missing)
        self._fetch(form, repo, missing, total)
        oid, branch = self._commit(selection.files, self._gone(form, repo), repo, source)
        shutil.rmtree(self._context.work, ignore_errors=True)
        return PullResult(
            repo_id=self._target,
            type=self._wish.type,
            revision=oid,
            source=str(source),
            upstream_revision=repo.revision,
            files=len(selection.files),
            size_bytes=total,
            fetched_bytes=self._fetched,
            has_gguf=any(file.path.endswith(".gguf") for file in selection.files),
            choices=[msgspec.to_builtins(choice) for choice in selection.choices],
            branch=branch,
        )

    # What

    def read(self, form: HubForm) -> tuple[UpstreamRepo, Selection]:
        """Returns what the hub has of the repo, and what of it is wanted."""
        wish = self._wish
        revision = wish.revision
        if self._listed_by and form.web.source.form == "huggingface":
            revision = self._commit_seen  # the same commit, not whatever the mirror's branch is at
        repo = form.read_repo(wish.repo_id, wish.type, revision)
        for file in repo.files:
            check_path(file.path)
        if len({file.path for file in repo.files}) < len(repo.files):
            raise UpstreamFailed(
                "{source} lists a file of {repo_id} twice.",
                code="upstream_nonsense",
                source=form.web.source,
                repo_id=wish.repo_id,
            )
        selection = choose(
            repo.files,
            named=wish.files,
            patterns=wish.include,
            excluded=wish.exclude,
            take_all=wish.take_all,
            memory_bytes=self._memory(),
            repo_id=wish.repo_id,
        )
        if not self._listed_by:
            self._commit_seen = repo.revision
        return repo, selection

    def _check_same(self, source: Source, selection: Selection) -> None:
        """Refuses a mirror whose large files are others than the ones that the hub before it announced."""
        if not self._listed_by:
            self._listed_by = str(source)
            self._announced = {file.path: file for file in selection.files}
            return
        for file in selection.files:
            first = self._announced.get(file.path)
            if first and first.sha256 and file.sha256 and first.sha256 != file.sha256:
                raise UpstreamFailed(
                    "{path} at {source} is another file than at {first}.",
                    hint="Nothing was kept. To take the one of the mirror, name it with --from.",
                    code="mirror_differs",
                    path=file.path,
                    source=source,
                    first=self._listed_by,
                )

    def _say_choices(self, selection: Selection) -> None:
        for choice in selection.choices:
            self._context.say(
                "* {file} ({size}), the largest that fits this machine"
                if choice.taken
                else "  {file} ({size})"
                if choice.fits
                else "  {file} ({size}), too large for this machine",
                data=msgspec.to_builtins(choice),
                file=choice.file,
                size=show_size(choice.size_bytes),
            )

    def _memory(self) -> int:
        memory = machine_memory()
        return self._context.settings.serve.memory_bytes or memory.total_bytes - memory.reserve_bytes

    # What is here already

    def missing(self, files: list[UpstreamFile]) -> list[UpstreamFile]:
        """Returns the files to fetch, each content once: not those that the hub has and the caller may read."""
        have = self._oids_here()
        found: dict[str, UpstreamFile] = {}
        for file in files:
            if file.is_large:
                if not self._hub.may_point(self._identity, self._scope, file.sha256):
                    found.setdefault(file.key, file)
            elif file.oid not in have:
                found.setdefault(file.key, file)
        return list(found.values())

    def _oids_here(self) -> set[str]:
        """Returns the git oids of the small files that the target holds now."""
        repo = self._hub.find_repo(self._identity, self._target, self._wish.type)
        if repo is None:
            return set()
        entries = self._hub.list_tree(repo, self._branch(repo), recursive=True)
        small = [entry for entry in entries if not entry.is_folder and not entry.sha256]
        return {entry.oid for entry in small}

    def check_room(self, missing: list[UpstreamFile]) -> None:
        """Raises StorageFull when what is missing would not fit on the disk."""
        home = self._context.settings.home
        needed = sum(max(0, file.size - part_size(home, file.key)) for file in missing)
        free = free_bytes(home, self._hub)
        if needed and needed > free:
            raise StorageFull(
                "{repo_id} needs {needed}, and the disk of {home} has {free} free.",
                hint="Free some room (`fust doctor` shows where it went), or take less with --file or --include.",
                repo_id=self._wish.repo_id,
                needed=show_size(needed + RESERVE_BYTES),
                home=home,
                free=show_size(free + RESERVE_BYTES),
            )

    # Fetching

    def _fetch(self, form: HubForm, repo: UpstreamRepo, missing: list[UpstreamFile], total: int) -> None:
        context = self._context
        fetcher = Fetcher(
            form,
            repo,
            self._wish.type,
            home=context.settings.home,
            work=context.work,
            connections=context.settings.pull.connections,
            keep=self._keep,
            say=context.say,
        )
        before = total - sum(file.size for file in missing)
        found = -1

        def tick() -> None:
            nonlocal found
            if fetcher.found_bytes != found:
                found = fetcher.found_bytes
                context.restart_rate()  # what was here already is no measure of what comes
            waiting = form.web.waiting
            if waiting:
                done = before + fetcher.done_bytes
                context.progress(
                    done, total, "bytes", "{source} asks us to wait {span}.", now=False, data=None, **waiting
                )
            else:
                done = min(before + fetcher.done_bytes, total)
                context.progress(done, total, "bytes", "{path}", path=fetcher.current)

        try:
            fetcher.run(missing, tick)
        finally:
            self._fetched += fetcher.fetched_bytes

    def _keep(self, file: UpstreamFile, path: Path) -> None:
        """Gives the bytes to the hub, which hashes them. By a second link: a server that starts just now sweeps its
        own temporary files away, and ours must not go with them.
        """
        for attempt in (1, 2, 3):
            link = path.with_suffix(".link")
            link.unlink(missing_ok=True)
            try:
                os.link(path, link)
            except OSError:
                link = path  # a file system without links: then a copy
            try:
                self._hub.content.put_file(
                    self._scope, link, expected_sha256=file.sha256, move=link is not path
                )
                return
            except FileNotFoundError:
                if attempt == 3:
                    raise

    # The commit

    def _branch(self, repo: RepoInfo) -> str:
        """Returns the branch that holds this revision now: one of its name when there is one, else `main`."""
        wanted = self._wish.revision
        if not self._named_revision():
            return "main"
        refs = {ref.ref for ref in self._hub.list_refs(repo)}
        return wanted if f"refs/heads/{wanted}" in refs else "main"

    def _gone(self, form: HubForm, upstream: UpstreamRepo) -> list[str]:
        """Returns what is to be deleted here because it was deleted there; nothing when only a part was asked for."""
        repo = self._hub.find_repo(self._identity, self._target, self._wish.type)
        if repo is None or self._wish.is_part:
            return []
        gone = gone_upstream(self._hub, repo, self._branch(repo), form, upstream)
        for path in gone:
            self._context.say("{path} was deleted there and is deleted here.", path=path)
        return gone

    def _commit(
        self, files: list[UpstreamFile], gone: list[str], upstream: UpstreamRepo, source: Source
    ) -> tuple[str, str]:
        context, wish = self._context, self._wish
        total = sum(file.size for file in files)
        context.progress(total, total, "bytes", "Writing {repo_id}", now=True, repo_id=self._target)
        self._identity = self._accounts.of_run(context.spec.owner, context.spec.asked)  # as it is now
        context.too_late_to_cancel = True  # from here on all or nothing, within moments
        repo, is_new = self._open_target(private=upstream.private or upstream.gated)
        try:
            branch = self._open_branch(repo, is_new=is_new)
            have = {e.path: e for e in self._hub.list_tree(repo, branch, recursive=True) if not e.is_folder}
            operations: list[Operation] = [
                self._operation(file, repo)
                for file in files
                if file.is_large or file.path not in have or have[file.path].oid != file.oid
            ]
            operations += [DeleteFile(path) for path in gone if path in have]
            message = pull_message(source, wish.repo_id, upstream.revision, is_part=wish.is_part)
            if operations:
                oid = self._hub.commit(self._identity, repo, operations, message, branch=branch)
            else:
                oid = self._hub.resolve_revision(repo, branch)
            if is_new and self._named_revision():
                self._hub.refs.create_branch(self._identity, repo, wish.revision, oid)
        except BaseException:
            if is_new:
                self._hub.delete_repo(SYSTEM, self._target, wish.type)
            raise
        return oid, branch

    def _named_revision(self) -> bool:
        """Returns whether the revision gets a branch of its name here, so that it never mixes with another one."""
        wanted = self._wish.revision
        return not (wanted in ("", "main", "master") or is_commit_oid(wanted) or wanted.startswith("refs/"))

    def _open_branch(self, repo: RepoInfo, *, is_new: bool) -> str:
        if is_new or not self._named_revision():
            return "main"
        if self._branch(repo) == "main":
            self._hub.refs.create_branch(self._identity, repo, self._wish.revision, None)
        return self._wish.revision

    def _open_target(self, *, private: bool) -> tuple[RepoInfo, bool]:
        """Returns the repo to write to, and whether it was made for this pull."""
        try:
            return self._hub.get_repo_to_write(self._identity, self._target, self._wish.type), False
        except RepoNotFound:
            if private:
                self._context.say(
                    "{repo_id} is private or gated there, so it is made private here.", repo_id=self._target
                )
            return self._hub.create_repo(self._identity, self._target, self._wish.type, private=private), True

    def _operation(self, file: UpstreamFile, repo: RepoInfo) -> Operation:
        if file.is_large:
            self._hub.adopt(self._identity, self._scope, file.sha256)
            return AddLargeFile(file.path, file.sha256, file.size)
        small = self._context.work / f"{file.key}.small"
        if not small.exists():
            return AddFile(file.path, self._hub.content.open_repo(repo).read_blob(file.oid))
        if file.size > self._context.settings.hub.max_regular_file_bytes:
            stored = self._hub.content.put_file(self._scope, small)
            return AddLargeFile(file.path, stored.sha256, stored.size)
        return AddFile(file.path, small.read_bytes())


def free_bytes(home: Path, hub: Hub) -> int:
    """Returns the room for pulled files: on the home's disk, where they arrive, and on that of the blobs."""
    return min(shutil.disk_usage(home).free, hub.content.free_bytes()) - RESERVE_BYTES


def say_error(context: JobContext, error: FustError) -> None:
    """Says what went wrong where the run goes on all the same."""
    context.say(error.template, data=None, **error.params)
