"""The deployments that there are, by id, name and alias; all of it is guarded by `Register.lock`."""

from __future__ import annotations

import threading
import time

from fust.accounts.rights import Identity, may_see_model
from fust.core.errors import Conflict, InvalidInput, NotFound
from fust.serve.files import ModelFiles
from fust.serve.hosted import Hosted
from fust.serve.unfiled import ALIAS


class Register:
    """Finds deployments by what people and clients call them."""

    def __init__(self, files: ModelFiles) -> None:
        self.lock = threading.RLock()
        self._files = files
        self._by_id: dict[str, Hosted] = {}
        self._by_name: dict[str, Hosted] = {}

    def all(self) -> tuple[Hosted, ...]:
        """Returns every deployment, the newest last."""
        with self.lock:
            return tuple(self._by_id.values())

    def by_id(self, id_: str) -> Hosted | None:
        """Returns the deployment with an id."""
        return self._by_id.get(id_)

    def by_name(self, name: str) -> Hosted | None:
        """Returns the deployment that has a name or alias."""
        return self._by_name.get(name)

    def put(self, hosted: Hosted) -> None:
        """Takes a deployment in, under its id and names."""
        with self.lock:
            self._by_id[hosted.id] = hosted
            self._by_name[hosted.name] = hosted
            if hosted.alias:
                self._by_name[hosted.alias] = hosted

    def replace(self, known: Hosted, fresh: Hosted) -> None:
        """Puts a deployment in the place of one with the same id."""
        with self.lock:
            self._forget_names(known)
            self.put(fresh)

    def drop(self, hosted: Hosted) -> None:
        """Takes a deployment out."""
        with self.lock:
            self._by_id.pop(hosted.id, None)
            self._forget_names(hosted)

    def _forget_names(self, hosted: Hosted) -> None:
        hosted.deleted = True
        self._by_name = {key: value for key, value in self._by_name.items() if value is not hosted}

    def change(self, hosted: Hosted, pinned: bool, alias: str | None) -> None:
        """Pins a deployment or lets it go, and gives it its alias of now."""
        with self.lock:
            if hosted.alias and hosted.alias != alias:
                self._by_name.pop(hosted.alias, None)
            hosted.pinned, hosted.alias = pinned, alias
            self.put(hosted)

    def move(self, old: str, new: str) -> None:
        """Lets the deployments of a repo follow it to its new name."""
        with self.lock:
            for hosted in self._by_id.values():
                if hosted.repo_id == old and hosted.kind.bare is None:
                    self._by_name.pop(hosted.name, None)
                    hosted.repo_id, hosted.name = new, new + hosted.name.removeprefix(old)
                    hosted.visibility_s = -1e9
                    self._by_name[hosted.name] = hosted

    # Names that clients use

    def lookup(self, model: str) -> Hosted | None:
        """Finds a deployment by name or alias, else by its repo when that has just one."""
        hosted = self._by_name.get(model)
        if hosted is None and ":" not in model:
            of_repo = [known for known in tuple(self._by_id.values()) if known.repo_id == model]
            hosted = of_repo[0] if len(of_repo) == 1 else None
        return hosted

    def lookup_moved(self, model: str) -> Hosted | None:
        """Finds a deployment by a name that its repo had before; asks the database, so only when nothing else helps."""
        repo_id, colon, file = model.partition(":")
        now = self._files.find_new_name(repo_id) if repo_id.count("/") == 1 else None
        return self.lookup(now + colon + file) if now else None

    def check_alias(self, alias: str | None, name: str) -> None:
        """Raises InvalidInput or Conflict unless a deployment of this name may have the alias."""
        if alias is None:
            return
        if not ALIAS.match(alias):
            raise InvalidInput(
                "{alias!r} cannot be an alias.",
                hint="Use 1 to 128 letters, digits, '.', '_' or '-'.",
                alias=alias[:150],
            )
        other = self.by_name(alias)
        if other is not None and other.name != name:
            raise Conflict(
                "The alias {alias!r} is taken by another model.",
                hint="Choose another, or stop that one first: `fust stop {alias}`.",
                alias=alias,
            )

    # Who may see them

    def may_read(self, identity: Identity, hosted: Hosted) -> bool:
        """Returns whether a caller may know of a deployment; of one whose repo is gone only administrators do."""
        if not self.refresh_visibility(hosted):
            return identity.is_admin  # someone has to be able to stop it
        names = [hosted.name, *([hosted.alias] if hosted.alias else [])]
        return may_see_model(identity, names, hosted.repo_id, private=hosted.private)

    def refresh_visibility(self, hosted: Hosted) -> bool:
        """Looks up whether the repo is private or gated; returns False when the repo is gone."""
        if hosted.has_fresh_visibility():
            return True
        try:
            private, gated = (
                (bool(hosted.repo_id), False)
                if hosted.kind.bare is not None
                else (self._files.is_private(hosted.repo_id), self._files.is_gated(hosted.repo_id))
            )
        except NotFound:
            return False
        with self.lock:
            hosted.private, hosted.gated, hosted.visibility_s = private, gated, time.monotonic()
        return True
