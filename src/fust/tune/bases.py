"""Which models of the hub can be tuned here: by their files, their shape and the memory there is."""

from __future__ import annotations

import msgspec

from fust.accounts.rights import Identity
from fust.core.errors import FustError
from fust.core.i18n import Language, fill
from fust.core.units import show_size
from fust.hub.service import Hub
from fust.hub.types import RepoInfo
from fust.tune.base import PROVEN, BaseConfig, read_config, wanted_files
from fust.tune.estimate import memory_within
from fust.tune.recipe import Method, Wish, rank_of

MAX_CONFIG_BYTES = 1_000_000
_MOST_LOOKED_AT = 300
"""Repos, the latest first."""


class TunableBase(msgspec.Struct):
    """A model and whether it can be tuned."""

    repo_id: str
    family: str
    """`model_type` of its config; empty when it could not be read."""
    parameters: int
    memory_bytes: int
    """What tuning it takes at most."""
    fits: bool
    reason: str
    """Why it fits, or why it cannot be tuned, in words."""


def list_bases(
    hub: Hub, identity: Identity, method: Method, room_bytes: int, language: Language
) -> list[TunableBase]:
    """Returns the models in safetensors that the caller may see; those that fit first, the largest of them on top."""
    found: list[TunableBase] = []
    cursor = None
    for _ in range(_MOST_LOOKED_AT // 100):
        page = hub.list_repos(identity, "model", tags=("safetensors",), limit=100, cursor=cursor)
        found += [_look(hub, identity, repo, method, room_bytes, language) for repo in page.items]
        cursor = page.next
        if not cursor:
            break
    return sorted(found, key=lambda it: (not it.fits, -it.parameters, it.repo_id))


def _look(
    hub: Hub, identity: Identity, repo: RepoInfo, method: Method, room_bytes: int, language: Language
) -> TunableBase:
    try:
        hub.get_repo_to_open(identity, repo.repo_id, "model")
        config, parameters = measure_base(hub, repo, hub.resolve_revision(repo))
    except FustError as error:
        return TunableBase(repo.repo_id, "", 0, 0, False, error.sentence(language))
    rank = rank_of(Wish(base=repo.repo_id, data="", to="", method=method))
    needed, twice = memory_within(config, parameters, rank, room_bytes, checkpointing=None)
    fields: dict[str, object] = {"need": show_size(needed), "room": show_size(room_bytes)}
    if needed > room_bytes:
        why = fill("It takes up to {need}, and runs may take {room} together.", fields, language)
    elif config.model_type not in PROVEN:
        why = fill("It takes up to {need}; no test covers tuning this family.", fields, language)
    elif twice:
        why = fill("It takes up to {need} of {room}, with activations computed twice.", fields, language)
    else:
        why = fill("It takes up to {need} of {room}.", fields, language)
    return TunableBase(repo.repo_id, config.model_type, parameters, needed, needed <= room_bytes, why)


def measure_base(hub: Hub, repo: RepoInfo, revision: str) -> tuple[BaseConfig, int]:
    """Returns a base's shape and about how many parameters it has, by the size of its weights.

    Raises:
        FustError: it is no base model that can be tuned.

    """
    entries = [entry for entry in hub.list_tree(repo, revision) if not entry.is_folder]
    wanted_files([entry.path for entry in entries], repo.repo_id)
    config = read_config(
        hub.read_file(repo, "config.json", revision, limit_bytes=MAX_CONFIG_BYTES), repo.repo_id
    )
    stored = sum(entry.size or 0 for entry in entries if entry.path.endswith(".safetensors"))
    return config, stored // (4 if (config.dtype or config.torch_dtype) == "float32" else 2)
