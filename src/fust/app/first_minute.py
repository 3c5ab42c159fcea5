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
from fust.core.settings import ServeSettings
from fust.hub.service import Hub
from fust.serve.facts import ModelFacts
from fust.serve.files import ModelFile, guess_need
from fust.serve.plan import need_of
from fust.serve.service import Serve

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


class Shape(msgspec.Struct, forbid_unknown_fields=True):
    """What a known model's header will say; from the config.json of its publisher."""

    architecture: str
    """As GGUF files name it."""
    context: int
    """Tokens that it was trained for."""
    layers: int
    kv_heads: int
    head_width: int
    embedding: int
    feed_forward: int
    vocabulary: int
    repacked: float
    """Share of the file that llama.cpp lays out anew, see `ModelFacts`."""


class KnownModel(msgspec.Struct, forbid_unknown_fields=True):
    """A line of models_to_pull.json."""

    name: str
    repo_id: str
    file: str
    size_bytes: int
    licence: str
    shape: Shape | None = None
    """None where it is not known; the size of the file then has to do."""


class ModelToPull(msgspec.Struct):
    """A model, and what pulling it would mean here."""

    name: str
    repo_id: str
    file: str
    size_bytes: int
    licence: str
    needed_bytes: int
    """Memory that it would take, with the context and requests at a time of the settings, or as few as make it fit."""
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


def needed_bytes(known: KnownModel, free_bytes: int, settings: ServeSettings) -> int:
    """Returns the memory that a model would take: as the settings want it, or, when that is too much, at the least."""
    shape = known.shape
    if shape is None:
        need = guess_need(ModelFile((known.file,), known.size_bytes))
    else:
        facts = ModelFacts(
            architecture=shape.architecture,
            context_train=shape.context,
            layers=shape.layers,
            kv_width=2 * shape.layers * shape.kv_heads * shape.head_width,
            embedding=shape.embedding,
            feed_forward=shape.feed_forward,
            vocabulary=shape.vocabulary,
            has_chat_template=True,
            pooling="",
            weights_bytes=known.size_bytes,
            repacked=shape.repacked,
        )
        need = need_of(facts, settings)
    return need.whole_bytes if need.whole_bytes <= free_bytes else need.least_bytes


@get("/fust/v1/first-minute", sync_to_thread=True)
def get_first_minute(accounts: Accounts, hub: Hub, serve: Serve, identity: Identity) -> FirstMinute:
    """Prompts that the starter model answers well, and strong models to pull: size, licence, whether they fit here."""
    accounts.require(identity)
    prompts = starter_prompts()
    free = machine_memory().available_bytes
    models: list[ModelToPull] = []
    for known in known_models():
        needed = needed_bytes(known, free, serve.settings.serve)
        models.append(
            ModelToPull(
                known.name,
                known.repo_id,
                known.file,
                known.size_bytes,
                known.licence,
                needed_bytes=needed,
                fits=needed <= free,
                command=f"fust pull {known.repo_id} --file {known.file}",
                is_here=hub.find_repo(identity, known.repo_id) is not None,
            )
        )
    return FirstMinute(StarterHelp(STARTER_REPO, list(prompts)) if prompts else None, free, models)


handlers: list[ControllerRouterHandler] = [get_first_minute]
