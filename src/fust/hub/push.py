"""git push: git-receive-pack's side of the wire (gitprotocol-pack(5)) under the hub's own policy.

The pack goes into a quarantine that only this push sees. What it brings is checked there; then, with the repo's lock
held, the pack is moved in and the refs by the same journal as every commit. A push is done as a whole or not at all,
and what was refused is gone with the quarantine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fust.accounts.rights import Identity
from fust.core.errors import FustError, InvalidInput
from fust.core.files import fsync_folder, full_disk_is_clear
from fust.core.i18n import Language
from fust.core.ids import new_id
from fust.core.locks import FileLock
from fust.core.settings import HubSettings
from fust.formats.secrets import Secret
from fust.hub.content import Content
from fust.hub.errors import BadPush
from fust.hub.git_repo import GitRepo, head_moved
from fust.hub.leaks import Leaks, warning_of
from fust.hub.pktline import FLUSH, band, packet, read_packets
from fust.hub.policy import check_ref_name
from fust.hub.push_check import PushCheck
from fust.hub.ref_writer import RefWriter
from fust.hub.types import RefUpdate, RepoInfo

_ZERO = "0" * 40
_CAPABILITIES = (
    b"report-status delete-refs side-band-64k quiet atomic ofs-delta object-format=sha1 agent=fust"
)
_MAX_UPDATES = 1000


@dataclass(frozen=True, slots=True)
class PushRequest:
    """What a client asks for, before its pack."""

    updates: list[RefUpdate]
    capabilities: frozenset[str]


def advertise(repo: GitRepo) -> bytes:
    """Returns every ref and what this server can do, as packets."""
    lines = [f"{repo.raw_ref(ref.ref) or ref.oid} {ref.ref}".encode() for ref in repo.list_refs()]
    first, *rest = lines or [f"{_ZERO} capabilities^{{}}".encode()]
    return packet(first + b"\0" + _CAPABILITIES + b"\n") + b"".join(packet(r + b"\n") for r in rest) + FLUSH


def read_request(file: BinaryIO) -> PushRequest:
    """Returns the updates that a client asks for; the file stands at its pack then.

    Raises:
        InvalidInput: malformed.

    """
    updates: list[RefUpdate] = []
    capabilities: frozenset[str] = frozenset()
    for line in read_packets(file):
        text, _, rest = line.partition(b"\0")
        if rest:
            capabilities = frozenset(rest.decode("utf-8", "replace").split())
        if text.startswith(b"shallow "):
            continue  # whether all that the commits need is here is checked below
        parts = text.decode("utf-8", "replace").rstrip("\n").split(" ", 2)
        if len(parts) != 3 or not all(_is_oid(part) for part in parts[:2]):
            raise InvalidInput("This is not what git sends: {what}.", what=repr(text[:100])[1:])
        old, new, ref = parts
        updates.append(RefUpdate(ref, None if old == _ZERO else old, None if new == _ZERO else new))
        if len(updates) > _MAX_UPDATES:
            raise InvalidInput(
                "A push may move {limit} refs.", hint="Push fewer at a time.", limit=_MAX_UPDATES
            )
    return PushRequest(updates, capabilities)


def _is_oid(text: str) -> bool:
    return len(text) == 40 and set(text) <= set("0123456789abcdef")


class Receiver:
    """Takes pushes."""

    def __init__(
        self, root: Path, content: Content, writer: RefWriter, limits: HubSettings, leaks: Leaks
    ) -> None:
        self._leaks = leaks
        self._root = root
        self._content = content
        self._writer = writer
        self._limits = limits

    def receive(
        self,
        identity: Identity,
        info: RepoInfo,
        body: Path,
        language: Language,
        *,
        check: Callable[[RefUpdate], None] | None = None,
    ) -> bytes:
        """Does a push and returns git's report; a refusal is in the report, in the person's language.

        ``check`` raises for a ref that this caller may not write to.

        Raises:
            InvalidInput: the body is not git's.

        """
        with open(body, "rb", buffering=0) as file:
            asked = read_request(file)
            if not asked.updates:
                return b""
            error: FustError | None = None
            secrets: list[Secret] = []
            try:
                for update in asked.updates:
                    check_ref_name(update.ref)
                    if check is not None:
                        check(update)
                secrets = self._take(identity, info, asked.updates, file)
            except FustError as refused:
                error = refused
        tip = next((update.new for update in asked.updates if update.new), "")
        self._leaks.note(identity, info, tip, secrets)
        return _report(asked, error, language, warning_of(secrets, language) if secrets else "")

    def _take(
        self,
        identity: Identity,
        info: RepoInfo,
        updates: Sequence[RefUpdate],
        file: BinaryIO,
    ) -> list[Secret]:
        """Takes the pack in and moves the refs; returns what in it looks like secrets."""
        repo = self._content.open_repo(info)
        tips = [update.new for update in updates if update.new]
        with FileLock(self._quarantine_of(info, new_id())) as lock:  # held: this push lives
            folder = lock.path.with_suffix("")
            (folder / "pack").mkdir(parents=True)
            try:
                large: set[str] = set()
                secrets: list[Secret] = []
                if tips:
                    environ = self._environ(repo, folder)
                    self._unpack(environ, file)
                    repo.add_objects(folder)
                    check = PushCheck(identity, info, repo, environ, self._content, self._limits)
                    large, secrets = check.check(tips), check.secrets
                with repo.lock():
                    for update in updates:
                        if repo.raw_ref(update.ref) != update.old:
                            raise head_moved(update.ref, update.old or "")
                    _move_in(folder / "pack", repo.path / "objects" / "pack")
                    self._writer.apply(identity, info, repo, updates, large=large, action="repo.push")
                return secrets
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                lock.path.unlink(missing_ok=True)

    def _quarantine_of(self, info: RepoInfo, name: str) -> Path:
        return self._root / ".incoming" / f"{info.id}-{name}.lock"

    def clean(self) -> int:
        """Removes what pushes of a server that is gone left behind; returns how many."""
        removed = 0
        for path in (self._root / ".incoming").glob("*.lock"):
            lock = FileLock(path)
            if lock.acquire():
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)
                lock.release()
                removed += 1
        return removed

    def _environ(self, repo: GitRepo, folder: Path) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(self._root),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "LC_ALL": "C",
            "GIT_DIR": str(repo.path),
            "GIT_OBJECT_DIRECTORY": str(folder),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(repo.path / "objects"),
        }

    def _unpack(self, environ: dict[str, str], file: BinaryIO) -> None:
        """Writes the pack and its index into the quarantine, every object checked (git-index-pack(1), --strict)."""
        start = file.tell()
        head = file.read(12)
        if len(head) < 12 or head[:4] != b"PACK":
            raise BadPush("The push brings no pack.", hint="Push again; update git if it stays so.")
        if not int.from_bytes(head[8:12], "big"):
            return  # a new name for commits that are here
        os.lseek(file.fileno(), start, os.SEEK_SET)
        command = ["git", "-c", "safe.directory=*", "-c", "core.fsync=pack,pack-metadata"]
        command += ["index-pack", "--stdin", "--fix-thin", "--strict", "--threads=1"]
        with full_disk_is_clear(Path(environ["GIT_OBJECT_DIRECTORY"])):
            done = subprocess.run(
                command,
                env=environ,
                stdin=file,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
            if b"No space left" in done.stderr:
                raise OSError(28, "No space left on device")
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise BadPush(
                "git refuses the objects: {why}.",
                hint="Run `git fsck` in your clone.",
                why=(lines[-1] if lines else "?")[:300],
            )


def _move_in(source: Path, target: Path) -> None:
    """Moves packs into a repo; the index last, for it is what makes git look."""
    found = sorted(source.iterdir(), key=lambda path: path.suffix == ".idx")
    for path in found:
        os.replace(path, target / path.name)
    if found:
        fsync_folder(target)


def _report(asked: PushRequest, error: FustError | None, language: Language, warning: str) -> bytes:
    lines = [b"unpack ok\n"]
    for update in asked.updates:
        if error is None:
            lines.append(f"ok {update.ref}\n".encode())
        else:
            lines.append(f"ng {update.ref} {error.code}\n".encode())
    report = (
        b"".join(packet(line) for line in lines) + FLUSH if "report-status" in asked.capabilities else b""
    )
    if "side-band-64k" not in asked.capabilities:
        return report
    told = warning if error is None else error.sentence(language)
    line = (told.replace("\n", " ") + "\n").encode() if told else b""
    return band(2, line) + band(1, report) + FLUSH
