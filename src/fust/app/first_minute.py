"""`/fust/v1/first-minute`: what works well with the starter model, and which strong models this machine could pull."""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec
from litestar import get
from litestar.types import ControllerRouterHandler

from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.app.start import STARTER, STARTER_REPO
from fust.core.machine import machine_memory
from fust.hub.service import Hub
from fust.serve.files import needed_bytes

_MODELS = Path(__file__).parent / "models_to_pull.json"
"""Well-known instruct models under free licences, smallest first. Sizes are those of the named file, in bytes."""


class Prompts(msgspec.Struct):
    """What to ask in one language."""

    language: str
    """ISO 639-1."""
    prompts: list[str]


class StarterHelp(msgspec.Struct):
    """The starter model and what it answers well."""

    repo_id: str
    languages: list[Prompts]


class KnownModel(msgspec.Struct, forbid_unknown_fields=True):
    """A line of models_to_pull.json."""

    name: str
    repo_id: str
    file: str
    size_bytes: int
    licence: str


class ModelToPull(KnownModel, kw_only=True):
    """A model, and what pulling it would mean here."""

    needed_bytes: int
    """Memory that it would take: file, cache and engine."""
    fits: bool
    command: str
    is_here: bool


class FirstMinute(msgspec.Struct):
    """Help for somebody whose first model is the starter."""

    starter: StarterHelp | None
    memory_available_bytes: int
    models: list[ModelToPull]


@functools.cache
def known_models() -> tuple[KnownModel, ...]:
    """Returns the list of models, smallest first."""
    return msgspec.json.decode(_MODELS.read_bytes(), type=tuple[KnownModel, ...])


@functools.cache
def starter_prompts() -> tuple[Prompts, ...]:
    """Returns the starter's prompts by language; empty when this build has no starter."""
    file = STARTER / "prompts.json"
    if not file.exists():
        return ()
    found = msgspec.json.decode(file.read_bytes(), type=dict[str, list[str]])
    return tuple(Prompts(language, prompts) for language, prompts in found.items())


@get("/fust/v1/first-minute", sync_to_thread=True)
def get_first_minute(accounts: Accounts, hub: Hub, identity: Identity) -> FirstMinute:
    """Prompts that the starter model answers well, and strong models to pull: size, licence, whether they fit here."""
    accounts.require(identity)
    prompts = starter_prompts()
    free = machine_memory().available_bytes
    models: list[ModelToPull] = []
    for known in known_models():
        needed = needed_bytes(known.size_bytes)
        models.append(
            ModelToPull(
                **msgspec.structs.asdict(known),
                needed_bytes=needed,
                fits=needed <= free,
                command=f"fust pull {known.repo_id} --file {known.file}",
                is_here=hub.find_repo(identity, known.repo_id) is not None,
            )
        )
    return FirstMinute(StarterHelp(STARTER_REPO, list(prompts)) if prompts else None, free, models)


handlers: list[ControllerRouterHandler] = [get_first_minute]
