"""The kinds of engines in one table: what each takes from a repo, reads of a model, claims, and how one is made.

A kind is one entry of `KINDS`; its name stays in the deployment's row. Whatever starts, lends or describes engines asks
the table, so a new kind needs no change there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fust.core.errors import InvalidInput
from fust.core.settings import ServeSettings
from fust.serve.engines import echo, llamacpp, transformers, upstream, vllm
from fust.serve.engines.bare import Bare
from fust.serve.engines.base import MODES, Engine, EngineSpec, Mode
from fust.serve.engines.safetensors import list_safetensors, read_safetensors_facts
from fust.serve.facts import ModelFacts, read_facts
from fust.serve.files import PROJECTOR, ModelFile, TreeFile, list_models
from fust.serve.notes import Note, note
from fust.serve.plan import Plan, plan_engine
from fust.serve.projector import read_vision


@dataclass(frozen=True, slots=True)
class Kind:
    """What `serve` has to know of a kind of engine."""

    name: str
    claims: Mapping[Mode, frozenset[str]]
    """What an engine of this kind can in each mode, whatever its model; loaded models may add to it."""
    processes: Mapping[Mode, Mode]
    """Which engine answers what is asked for: the same one for several modes where one process can do them all."""
    list_models: Callable[[Sequence[TreeFile]], list[ModelFile]]
    """Returns the models that it can open among a repo's files, largest first."""
    read_facts: Callable[[Path, int], ModelFacts]
    """Returns the shape of a model from its file and size in bytes; refuses what it cannot serve."""
    make: Callable[[EngineSpec, Path], Engine]
    """Returns an engine that was not started; gets the home too."""
    bare: Bare | None = None
    """Of a kind that serves no file of the hub: what it needs instead."""
    takes_adapters: bool = False
    """Whether LoRA adapters go beside its models."""
    live_adapters: bool = False
    """Whether its engines are `LiveAdapters`; others are told by `EngineSpec.adapters` when they start."""
    why: Note | None = None
    """Why a model of the hub is served by it."""
    adds: frozenset[str] = frozenset()
    """What a loaded model may add to the claims."""
    check: Callable[[ServeSettings], None] = lambda _: None
    """Raises NotOffered when a package, a program or a device that it needs is not here."""
    is_wanted: Callable[[ServeSettings], bool] = lambda _: True
    """Whether it is taken where nobody asked for it."""
    plan: Callable[[ModelFacts, Mode, ServeSettings, int, int], Plan] = plan_engine
    """Returns how it is started; gets the room and what adapters take, in bytes."""
    text_modes: tuple[Mode, ...] = MODES
    """What a model that writes text can be asked for."""

    def look(self, path: Path, model: ModelFile) -> ModelFacts:
        """Returns the shape of a model that was brought to ``path``, what it sees by beside it.

        Raises:
            FustError: it cannot be served; says why.
        """
        facts = self.read_facts(path, model.size_bytes)
        if model.projector is None:
            return facts
        return replace(
            facts,
            vision=read_vision(path.parent / PROJECTOR, model.projector.path, model.projector.size_bytes),
        )

    def offers(self, facts: ModelFacts) -> frozenset[str]:
        """Returns what a model list says of a model that may not be loaded."""
        if facts.known:
            return facts.known
        modes: tuple[Mode, ...] = ("embed",) if facts.is_encoder else self.text_modes
        offered = frozenset[str]().union(*(self.claims.get(mode, ()) for mode in modes))
        if facts.vision is not None:
            offered |= self.adds & {"vision"}
        return offered if facts.has_chat_template else offered - {"chat", "vision"}


def _without_files(
    name: str,
    claims: Mapping[Mode, frozenset[str]],
    processes: Mapping[Mode, Mode],
    bare: Bare,
    make: Callable[[EngineSpec, Path], Engine],
) -> Kind:
    return Kind(name, claims, processes, lambda _: [], _no_file, make, bare)


def _no_file(path: Path, size_bytes: int) -> ModelFacts:
    raise AssertionError(f"{path}: this kind of engine reads no file")


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            name="vllm",
            claims=vllm.CLAIMS,
            processes=vllm.PROCESSES,
            list_models=list_safetensors,
            read_facts=vllm.read_vllm_facts,
            make=vllm.VllmEngine,
            why=note("Engine vllm: a GPU is here, and vLLM serves safetensors on it."),
            adds=vllm.ADDS,
            check=vllm.check,
            is_wanted=vllm.is_here,
            plan=vllm.plan,
            text_modes=("generate", "score"),
            takes_adapters=True,
            live_adapters=True,
        ),
        Kind(
            name="llamacpp",
            claims=llamacpp.CLAIMS,
            processes={"generate": "generate", "embed": "embed", "score": "score"},
            list_models=list_models,
            read_facts=read_facts,
            make=llamacpp.LlamaCppEngine,
            takes_adapters=True,
            why=note("Engine llamacpp: it serves GGUF files, the fastest form on a processor."),
            adds=llamacpp.ADDS,
        ),
        Kind(
            name="transformers",
            claims=transformers.CLAIMS,
            processes={"generate": "generate", "embed": "generate", "score": "generate"},
            list_models=list_safetensors,
            read_facts=read_safetensors_facts,
            make=transformers.make,
            why=note("Engine transformers: it serves safetensors of any architecture, in 32 bits."),
            adds=transformers.ADDS,
            check=transformers.check_installed,
        ),
        _without_files(
            "echo", echo.CLAIMS, echo.PROCESSES, Bare(echo.read_wish, echo.facts_of, echo.plan_of), echo.make
        ),
        _without_files(
            "upstream",
            upstream.CLAIMS,
            upstream.PROCESSES,
            Bare(upstream.read_wish, upstream.facts_of, upstream.plan_of),
            upstream.make,
        ),
    )
}
"""In the order of preference: of kinds that can serve a repo the first is taken."""


def get_kind(name: str) -> Kind:
    """Returns a kind.

    Raises:
        InvalidInput: there is none of this name.
    """
    if name not in KINDS:
        raise InvalidInput(
            "There is no engine {name!r}.",
            hint="There are: {names}.",
            name=name[:100],
            names=", ".join(KINDS),
            param="engine",
        )
    return KINDS[name]


def choose_kind(
    files: Sequence[TreeFile], wanted: str | None, settings: ServeSettings
) -> tuple[Kind, list[ModelFile]]:
    """Returns the kind that is to serve a repo, and the models that it finds there: none when no kind finds any.

    Raises:
        InvalidInput: there is no kind of the wanted name.
    """
    kinds = [get_kind(wanted)] if wanted else KINDS.values()
    found = [(kind, kind.list_models(files)) for kind in kinds if wanted or kind.is_wanted(settings)]
    return next(((kind, models) for kind, models in found if models), found[0])
