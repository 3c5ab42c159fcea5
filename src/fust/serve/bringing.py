"""Brings the files of deployments from the hub to where engines open them: as they are, or converted on the way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from fust.core.errors import Unavailable
from fust.core.settings import Settings
from fust.serve.conversion import Conversions, find_model
from fust.serve.facts import ModelFacts
from fust.serve.files import ModelFile, ModelFiles, bring
from fust.serve.hosted import Hosted
from fust.serve.notes import Note
from fust.serve.register import Register


class Bringing:
    """The files of all deployments of one home."""

    def __init__(
        self, settings: Settings, files: ModelFiles, register: Register, load_soon: Callable[[Hosted], None]
    ) -> None:
        self.conversions = Conversions(settings, files)
        self._settings = settings
        self._files = files
        self._register = register
        self._load_soon = load_soon

    def facts_of(self, hosted: Hosted) -> ModelFacts:
        """Returns the shape of the deployment's model, its file brought from the hub when needed.

        Raises:
            Unavailable: it is being converted, which no request waits for.
        """
        if hosted.kind.bare is not None:
            hosted.path, hosted.facts = Path(), hosted.kind.bare.facts_of(hosted.options)
            return hosted.facts
        with hosted.bringing:  # two requests may meet here; the folder of links is made by one of them
            if hosted.facts is None or hosted.path is None or not hosted.path.exists():
                path, model = self._converted(hosted) if hosted.form else self._brought(hosted)
                facts = hosted.kind.look(path, model)
                with self._register.lock:
                    hosted.path, hosted.facts = path, facts
            return hosted.facts

    def _brought(self, hosted: Hosted) -> tuple[Path, ModelFile]:
        """Returns the deployment's file as the repo has it."""
        tree = self._files.list_files(hosted.repo_id, hosted.revision)
        model = next(
            (m for m in hosted.kind.list_models(tree) if hosted.file in m.paths),
            ModelFile((hosted.file,), hosted.size_bytes),
        )
        folder = self._settings.home / "engines" / "files" / hosted.id
        return bring(self._files, hosted.repo_id, hosted.revision, model, folder), model

    def _converted(self, hosted: Hosted) -> tuple[Path, ModelFile]:
        """Returns what the deployment's file was converted to; begins to convert when it is not there."""
        path = self.conversions.path_of(self._key_of(hosted)[1])
        if path.exists():
            with contextlib.suppress(OSError):
                os.utime(path)  # cleaning goes by its age
            return path, ModelFile((path.name,), path.stat().st_size)
        if not hosted.starting:
            self._load_soon(hosted)
        raise Unavailable(
            "{model} is being converted for llama.cpp.",
            hint="`fust ps` shows how far it is.",
            model=hosted.name,
            code="model_loading",
            retry_after_s=5,
        )

    def _key_of(self, hosted: Hosted) -> tuple[ModelFile, str]:
        """Returns the safetensors that a deployment is made of, and the name of what is made of them."""
        assert hosted.form is not None
        return find_model(self._files, hosted.repo_id, hosted.revision, hosted.file, hosted.form)

    def convert(self, hosted: Hosted) -> None:
        """Makes the deployment's file when it is one that is converted and not there yet; its note says how far it is.

        Raises:
            FustError: it cannot be made, or the disk is full.
        """
        form = hosted.form
        if form is None:
            return

        def tell(said: Note | None) -> None:
            with self._register.lock:
                hosted.note = said

        model, key = self._key_of(hosted)
        try:
            self.conversions.make(hosted.repo_id, hosted.revision, model, form, key, tell)
        finally:
            tell(None)
