"""Lends engines to the gateway: finds what a model's name means, and counts the requests on each engine.

`Lender` implements `fust.wire.targets.Targets`, by which the gateway reaches engines without knowing this package.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from fust.core.clock import utc_naive
from fust.core.errors import NotFound, NotOffered, Unsupported
from fust.serve.adapters import Attached
from fust.serve.attaching import Attaching, Found, without_doubles
from fust.serve.engines.base import Mode
from fust.serve.hosted import Hosted, Running
from fust.serve.keeper import Keeper, failure_of
from fust.serve.register import Register
from fust.wire.targets import ModelEntry, Target


class Lender:
    """The models of one home, as the gateway sees them."""

    def __init__(self, register: Register, keeper: Keeper, attaching: Attaching) -> None:
        self._register = register
        self._keeper = keeper
        self._attaching = attaching
        self._lock = register.lock
        self._suspects: list[tuple[Hosted, Running]] = []
        self._by_engine: dict[str, tuple[Hosted, Running]] = {}

    def take_suspects(self) -> list[tuple[Hosted, Running]]:
        """Returns the engines that failed a request since the last call."""
        with self._lock:
            suspects, self._suspects = self._suspects, []
        return suspects

    # Names

    def _find(self, model: str) -> Found | None:
        """Finds what a name means: a deployment, or one with an adapter; never blocks."""
        hosted = self._register.lookup(model)
        return Found(hosted) if hosted is not None else self._attaching.find(model, self._register.lookup)

    def _find_anyhow(self, model: str) -> Found | None:
        """As `_find`, but asks the database and the hub when nothing else helps."""
        found = self._find(model)
        if found is not None and not found.wanted:
            return found
        lookup, lookup_moved = self._register.lookup, self._register.lookup_moved
        hosted = lookup_moved(model)
        if hosted is not None:
            return Found(hosted)
        return self._attaching.find_slowly(model, lambda name: lookup(name) or lookup_moved(name))

    def peek(self, model: str) -> ModelEntry | None:
        """See `Targets.peek`."""
        found = self._find(model)
        if found is None or found.wanted or not found.hosted.has_fresh_visibility():
            return None
        if found.adapter is None:
            return found.hosted.entry()
        return found.hosted.attached_entry(found.adapter) if found.adapter.has_fresh_visibility() else None

    def find(self, model: str) -> ModelEntry | None:
        """See `Targets.find`."""
        found = self._find_anyhow(model)
        if found is None or not self._register.refresh_visibility(found.hosted):
            return None
        return found.hosted.entry() if found.is_plain else self._attaching.entry(found, model)

    def list_models(self) -> Sequence[ModelEntry]:
        """See `Targets.list_models`."""
        listed: list[ModelEntry] = []
        for hosted in self._register.all():
            if self._register.refresh_visibility(hosted):
                listed += [hosted.entry(), *self._attaching.entries(hosted)]
        return without_doubles(listed)

    # Engines

    def acquire_now(self, model: str, mode: Mode = "generate") -> Target | None:
        """See `Targets.acquire_now`."""
        found = self._find(model)
        if found is None or not (found.is_plain or (found.adapter and mode == "generate")):
            return None
        facts = found.hosted.facts
        if mode != "embed" and facts is not None and facts.is_encoder:
            return None  # `acquire` says why
        running = self._keeper.take_ready(found.hosted, mode, found.adapter)
        return self._lend(found.hosted, running, model, found.adapter) if running is not None else None

    def acquire(self, model: str, mode: Mode = "generate") -> Target:
        """See `Targets.acquire`."""
        found = self._find_anyhow(model)
        if found is None:
            raise NotFound(
                "There is no model {model!r} here.",
                hint="GET /v1/models lists those that are served; `fust serve OWNER/NAME` serves another, and BASE:OWNER/NAME is an adapter on one.",
                model=model[:200],
                param="model",
                code="model_not_found",
            )
        hosted = found.hosted
        if hosted.failed:
            raise failure_of(hosted)
        if mode != "embed" and self._keeper.facts_of(hosted).is_encoder:
            raise Unsupported(
                "{model} only makes embeddings; it cannot write text.",
                hint="Use it with /v1/embeddings, or choose another model.",
                model=model,
                param="model",
                code="model_not_supported",
            )
        if mode not in hosted.kind.processes:  # of the modes there is one that not every kind has: `score`
            raise NotOffered(
                "{model} is served by {engine}, which gives no log-likelihoods of prompts (`echo` with `logprobs`).",
                hint="Models of the hub have them: `fust serve OWNER/NAME` with llamacpp, transformers or vllm.",
                model=model,
                engine=hosted.kind.name,
                code="not_offered_by_engine",
            )
        adapter = self._attaching.ready(found, model, mode)
        return self._lend(hosted, self._keeper.ensure(hosted, mode, adapter), model, adapter)

    def _lend(self, hosted: Hosted, running: Running, model: str, adapter: Attached | None) -> Target:
        with self._lock:
            hosted.last_used_at, hosted.dirty = utc_naive(), True
            if adapter is not None:
                adapter.used_s = time.monotonic()
            self._by_engine[running.spec.engine_id] = (hosted, running)
            return hosted.target(running, model, adapter)

    def release(self, target: Target, *, failed: bool = False, tokens: int = 0, seconds: float = 0.0) -> None:
        """See `Targets.release`."""
        with self._lock:
            known = self._by_engine.get(target.engine_id)
            if known is None:
                return
            hosted, running = known
            if running.using.get(target.adapter):
                running.using[target.adapter] -= 1
                self._keeper.swaps.settle_after(hosted, running, target.adapter)
            self._keeper.give_back(hosted, running)
            if running.doomed and not running.busy:
                del self._by_engine[target.engine_id]
            if failed:
                self._suspects.append(known)
            if tokens > 1 and seconds > 0:
                rate = tokens / seconds
                hosted.tokens_per_s = 0.7 * hosted.tokens_per_s + 0.3 * rate if hosted.tokens_per_s else rate

    def end(self, target: Target) -> None:
        """See `Targets.end`."""
        with self._lock:
            known = self._by_engine.get(target.engine_id)
        if known is not None:
            self._keeper.end(*known, "its chat template did not come to an end")
