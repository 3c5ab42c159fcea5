"""Chooses context, slots and threads of an engine for a model and the memory there is, and says why."""

from __future__ import annotations

from dataclasses import dataclass

from fust.core.machine import physical_cores
from fust.core.settings import ServeSettings
from fust.core.units import show_size
from fust.serve.engines.base import Mode
from fust.serve.facts import ModelFacts
from fust.serve.files import Need
from fust.serve.notes import Note, note

_EMBED_CONTEXT = 2048
_LEAST_CONTEXT = 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """How an engine is to be started."""

    mode: Mode
    context: int
    slots: int
    threads: int
    pooling: str
    memory_bytes: int
    why: tuple[Note, ...]


def plan_engine(
    facts: ModelFacts, mode: Mode, settings: ServeSettings, room_bytes: int, adapters_bytes: int = 0
) -> Plan:
    """Returns the plan with the most slots, then the longest context, that fits into `room_bytes` with its adapters.

    When nothing fits the smallest plan is returned; the caller compares its `memory_bytes` with what there is.
    """
    threads = settings.threads or physical_cores()
    why = [
        note("{threads} threads: the setting serve.threads.", threads=threads)
        if settings.threads
        else note("{threads} threads: the physical cores.", threads=threads)
    ]
    context = settings.context
    if facts.context_train and facts.context_train < context:
        context = facts.context_train
        why.append(note("{context} tokens of context: the model's own limit.", context=context))
    else:
        why.append(note("{context} tokens of context: the setting serve.context.", context=context))
    slots, pooling = settings.slots, ""
    if mode == "embed":
        context, pooling = min(context, _EMBED_CONTEXT), facts.embed_pooling()
        # With more slots llama.cpp pools inputs of unequal length wrongly: it cuts their batch into pieces of equal
        # length, and only the last piece's mean remains (seen in xllamacpp 2026.10.11549).
        slots = 1
        why.append(
            note("Embeddings are pooled by {pooling}: the file says so.", pooling=pooling)
            if facts.pooling == pooling
            else note("Embeddings are pooled by {pooling}: the file does not say how.", pooling=pooling)
        )
    if mode == "generate" and facts.vision is not None:
        why.append(
            note(
                "It sees: {file} takes about {size}.",
                file=facts.vision.name,
                size=show_size(facts.vision.memory_bytes),
            )
        )
    if mode == "score":
        slots = 1
        why.append(
            note(
                "Scoring keeps 32-bit numbers and no flash attention: its log-likelihoods are the model's own."
            )
        )
    wanted = (slots, context)
    room = room_bytes - adapters_bytes
    while facts.memory_bytes(mode, context, slots) > room and (slots > 1 or context > _LEAST_CONTEXT):
        if slots > 1:
            slots -= 1
        else:
            context = max(_LEAST_CONTEXT, context // 2)
    if (slots, context) != wanted:
        why.append(
            note(
                "{slots} slots of {context} tokens: more would not fit into {room}.",
                slots=slots,
                context=context,
                room=show_size(room_bytes),
            )
        )
    else:
        why.append(note("{slots} requests at a time.", slots=slots))
    memory = facts.memory_bytes(mode, context, slots) + adapters_bytes
    return Plan(mode, context, slots, threads, pooling, memory, tuple(why))


def need_of(facts: ModelFacts, settings: ServeSettings) -> Need:
    """Returns what a model takes with the context and slots of the settings, and with the least of both."""
    mode: Mode = "embed" if facts.is_encoder else "generate"
    limit = facts.context_train or settings.context
    context = min(settings.context, limit, _EMBED_CONTEXT if mode == "embed" else limit)
    whole = facts.memory_bytes(mode, context, 1 if mode == "embed" else settings.slots)
    return Need(whole, facts.memory_bytes(mode, min(context, _LEAST_CONTEXT), 1))
