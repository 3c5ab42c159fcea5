"""Brings a running engine to the adapters that are wanted, without one failed request.

vLLM takes adapters while it runs, and gives one back when the last request that names it is over.

llama.cpp takes adapters when it starts and none later. So another engine of the same file is started with the new set;
when it is ready it takes over behind the deployment's name, and the old one ends with its last request. Both map the
same weights: what the swap costs is the second's cache and work space. Where that does not fit, new requests wait until
the old engine has answered its last one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from fust.core.clock import utc_naive
from fust.core.errors import FustError, InvalidInput, Unavailable, UpstreamFailed
from fust.core.i18n import Clause
from fust.core.settings import Settings
from fust.serve.adapters import Attached, discard_adapters, preparing
from fust.serve.engines.base import EngineInfo, EngineLoadFailed, EngineSpec, HeldAdapters, LiveAdapters, Mode
from fust.serve.facts import ModelFacts
from fust.serve.files import ModelFiles
from fust.serve.hosted import Hosted, Running
from fust.serve.plan import Plan

log = logging.getLogger(__name__)

_GENERATE: Mode = "generate"
_LOOK_S = 5.0


class Launcher(Protocol):
    """What a swap needs of the keeper."""

    lock: threading.RLock
    changed: threading.Condition

    def facts_of(self, hosted: Hosted) -> ModelFacts:
        """Returns the shape of the deployment's model, its file brought from the hub when needed."""
        ...

    def launch(
        self, hosted: Hosted, running: Running, plan: Plan, adapters: HeldAdapters, deadline: float
    ) -> EngineInfo:
        """Starts an engine. Raises EngineLoadFailed."""
        ...

    def admit_beside(self, fresh: Running, need_bytes: int, hosted: Hosted) -> bool:
        """Reserves memory for a second engine of a deployment; returns False when there is none."""
        ...

    def load_soon(self, hosted: Hosted, mode: Mode | None = None) -> None:
        """Begins to load a deployment's engine."""
        ...


class Swaps:
    """The adapters of all deployments, as their engines hold them."""

    def __init__(self, settings: Settings, files: ModelFiles, launcher: Launcher) -> None:
        self._settings = settings
        self._files = files
        self._launcher = launcher
        self._lock = launcher.lock

    def bring(self, hosted: Hosted) -> HeldAdapters:
        """Returns the adapters that an engine is to hold, their files made and checked.

        One that cannot be used keeps the reason and is left out: the base answers without it.
        """
        with hosted.preparing:
            with self._lock:
                new = [a for a in hosted.adapters.values() if a.error is None and a.path is None]
            if new:
                self._launcher.facts_of(hosted)
                assert hosted.path is not None
                prepare = preparing(
                    self._settings, self._files, hosted.path, hosted.name, live=hosted.kind.live_adapters
                )
                for adapter in new:
                    try:
                        path = prepare(adapter)
                    except FustError as error:
                        self._blame({adapter.id}, hosted, error)
                    except OSError as error:
                        self._blame({adapter.id}, hosted, UpstreamFailed("{reason}", reason=error.strerror))
                    else:
                        with self._lock:
                            adapter.path = path
        return hosted.wanted_adapters()

    def settle(self, hosted: Hosted) -> None:
        """Begins to bring the engine to the adapters that are wanted now; returns at once."""
        with self._lock:
            if hosted.settling or hosted.deleted:
                return
            hosted.settling = True
        threading.Thread(
            target=self._settle, args=(hosted,), name=f"fust-swap-{hosted.id}", daemon=True
        ).start()

    def _settle(self, hosted: Hosted) -> None:
        try:
            while True:
                held = self.bring(hosted)
                with self._lock:
                    old = hosted.engines.get(_GENERATE)
                    # One that is loading is looked at again when it has loaded; what is not loaded loads rightly.
                    if old is None or not old.is_ready or _is_settled(hosted, old, held):
                        hosted.settling = False
                        return
                if hosted.kind.live_adapters:
                    self._change(hosted, old, held)
                else:
                    self._swap(hosted, old, held)
        except Exception:
            log.exception("adapters were not brought up to date", extra={"deployment": hosted.name})
        finally:
            with self._lock:
                hosted.settling = False
                self._launcher.changed.notify_all()

    # Engines that take adapters while they run

    def _change(self, hosted: Hosted, running: Running, held: HeldAdapters) -> None:
        """Gives a running engine what it lacks, and takes away what no request names any more."""
        engine = running.engine
        assert isinstance(engine, LiveAdapters)
        with self._lock:
            new = [pair for pair in held if pair not in running.spec.adapters]
            gone = _unused(running, held)
            kept = tuple(pair for pair in running.spec.adapters if pair not in gone)
            running.spec = replace(running.spec, adapters=kept)
        for id_, path in new:
            try:
                engine.add_adapter(id_, path)
            except FustError as error:
                if not engine.is_healthy():  # it died: no fault of the adapter's; the next engine gets it
                    with self._lock:
                        self._launcher.changed.wait(_LOOK_S)
                    return
                extra = {"deployment": hosted.name, "reason": str(error)}
                log.warning("an adapter was refused", extra=extra)
                self._blame({id_}, hosted, error)
            else:
                with self._lock:
                    running.spec = replace(running.spec, adapters=(*running.spec.adapters, (id_, path)))
                    self._launcher.changed.notify_all()
        for id_, _ in gone:
            engine.remove_adapter(id_)
        discard_adapters(self._settings, [id_ for id_, _ in gone])

    def settle_after(self, hosted: Hosted, running: Running, adapter_id: str) -> None:
        """Takes an adapter away that is no longer wanted, when the last request that named it is over; holds the lock."""
        if not running.using[adapter_id]:
            del running.using[adapter_id]
            if all(adapter.id != adapter_id for adapter in hosted.adapters.values()):
                self.settle(hosted)

    def discard(self, hosted: Hosted, adapter: Attached) -> None:
        """Removes the file of an adapter that was taken off, unless an engine reads it while it runs: later then."""
        if not (hosted.kind.live_adapters and any(running.holds(adapter) for running in hosted.all_engines)):
            discard_adapters(self._settings, [adapter.id])

    # Engines that are told when they start

    def _swap(self, hosted: Hosted, old: Running, held: HeldAdapters) -> None:
        facts = self._launcher.facts_of(hosted)
        spec = old.spec
        weights = facts.weights_bytes
        whole = facts.memory_bytes(_GENERATE, spec.context, spec.slots) + size_of(held)
        fresh = Running(EngineSpec("", Path(), hosted.id, _GENERATE, 0, 0, 0), 0)
        with self._lock:
            hosted.beside.append(fresh)
        try:
            if not self._launcher.admit_beside(fresh, max(0, whole - weights), hosted):
                self._drain(hosted, old)
                return
            plan = Plan(_GENERATE, spec.context, spec.slots, spec.threads, spec.pooling, whole, ())
            began = time.monotonic()
            info = self._launcher.launch(
                hosted, fresh, plan, held, began + self._settings.serve.load_timeout_s
            )
            if not self._take_over(hosted, old, fresh, info, weights):
                raise EngineLoadFailed("it ended as soon as it had loaded")
            log.info(
                "adapters of a model changed",
                extra={"deployment": hosted.name, "adapters": len(held), "seconds": round(time.monotonic() - began, 3)},
            )  # fmt: skip
        except EngineLoadFailed as error:
            with self._lock:
                if hosted.engines.get(_GENERATE) is not old or hosted.deleted:
                    return  # unloaded meanwhile: no fault of theirs
            log.warning("adapters were refused", extra={"deployment": hosted.name, "reason": error.reason})
            new = {id_ for id_, _ in held} - {id_ for id_, _ in spec.adapters}
            self._blame(new or {id_ for id_, _ in held}, hosted, error)
        finally:
            with self._lock:
                if fresh in hosted.beside:
                    hosted.beside.remove(fresh)

    def _take_over(
        self, hosted: Hosted, old: Running, fresh: Running, info: EngineInfo, weights_bytes: int
    ) -> bool:
        """Lets an engine that is ready answer from now on; returns False, and ends it, when there is no place for it."""
        with self._lock:
            now = hosted.engines.get(_GENERATE)
            if fresh.doomed or hosted.deleted or now not in (old, None):
                stop = fresh
            else:
                fresh.info, fresh.started_at = info, utc_naive()
                fresh.estimate_bytes += weights_bytes
                hosted.engines[_GENERATE] = fresh
                hosted.beside.remove(fresh)
                stop = old if now is old and not old.busy else None
                if now is old:
                    old.retired = True
                    # The weights are the new one's; mapped twice they are in memory once.
                    old.estimate_bytes = max(0, old.estimate_bytes - weights_bytes)
                    old.memory_bytes = max(0, old.memory_bytes - weights_bytes)
                    if old.busy:
                        hosted.beside.append(old)
            if stop is not None:
                stop.doomed = True
            self._launcher.changed.notify_all()
        if stop is not None and stop.engine is not None:
            stop.engine.stop()
        return stop is not fresh

    def _drain(self, hosted: Hosted, old: Running) -> None:
        """Lets the engine answer its last requests while new ones wait, ends it and loads it anew."""
        changed = self._launcher.changed
        with self._lock:
            old.retired = True
            while old.busy and not old.doomed:
                changed.wait(_LOOK_S)
            gone, old.doomed = old.doomed, True
            if hosted.engines.get(_GENERATE) is old:
                del hosted.engines[_GENERATE]
        if old.engine is not None and not gone:
            old.engine.stop()
        with self._lock:
            changed.notify_all()
        if not gone:
            self._launcher.load_soon(hosted, _GENERATE)

    def launch(
        self, hosted: Hosted, running: Running, plan: Callable[[int], Plan], deadline: float
    ) -> EngineInfo:
        """Starts an engine with its adapters, or without when it does not start with them.

        Args:
            hosted: the deployment.
            running: what is to run.
            plan: reserves memory; gets the bytes that the adapters take.
            deadline: monotonic time by which it has to answer.

        Raises:
            EngineLoadFailed: the base itself does not start.
        """
        held = (
            () if hosted.kind.live_adapters else self.bring(hosted)
        )  # those are given what they lack when they run
        held, planned = self._fitting(hosted, held, plan)
        while True:
            try:
                return self._launcher.launch(hosted, running, planned, held, deadline)
            except EngineLoadFailed as error:
                if not held or running.doomed:
                    raise
                if (now := self.bring(hosted)) != held:  # one was taken away, and its file with it
                    held = now
                    continue
                info = self._launcher.launch(hosted, running, planned, (), deadline)
                self._blame({id_ for id_, _ in held}, hosted, error)
                return info

    def _fitting(
        self, hosted: Hosted, held: HeldAdapters, plan: Callable[[int], Plan]
    ) -> tuple[HeldAdapters, Plan]:
        """Returns the adapters that fit beside the base, and the plan with them; the newest are left out first."""
        while True:
            try:
                return held, plan(size_of(held))
            except InvalidInput as error:
                if error.code != "does_not_fit" or not held:
                    raise
                log.warning(
                    "an adapter does not fit", extra={"deployment": hosted.name, "reason": str(error)}
                )
                self._blame({held[-1][0]}, hosted, error)
                held = held[:-1]

    def _blame(self, ids: set[str], hosted: Hosted, error: FustError) -> None:
        with self._lock:
            for adapter in hosted.adapters.values():
                if adapter.id in ids:
                    adapter.error, adapter.path = error, None
            self._launcher.changed.notify_all()


def _unused(running: Running, held: HeldAdapters) -> HeldAdapters:
    """Returns the adapters of an engine that are neither wanted nor named by a request."""
    return tuple(
        pair for pair in running.spec.adapters if pair not in held and not running.using.get(pair[0])
    )


def _is_settled(hosted: Hosted, running: Running, held: HeldAdapters) -> bool:
    """Returns whether an engine has the adapters that are wanted."""
    if hosted.kind.live_adapters:
        return set(held) <= set(running.spec.adapters) and not _unused(running, held)
    return running.spec.adapters == held


def size_of(held: HeldAdapters) -> int:
    """Returns what adapters take in memory: they are read whole."""
    return sum(path.stat().st_size for _, path in held if path.exists())


def largest_of(held: HeldAdapters) -> int:
    """Returns what the largest of them takes in memory."""
    return max((size_of((one,)) for one in held), default=0)


def failure_of_adapter(adapter: Attached) -> FustError:
    """Returns the error for requests to an adapter that cannot be used."""
    error = adapter.error
    reason = Clause(error.template, **error.params) if error else "unknown"
    return Unavailable(
        "The adapter {name} cannot be used: {reason}.",
        hint="Mend the cause, then add it again: `fust serve BASE --adapter {repo_id}`.",
        name=adapter.name,
        repo_id=adapter.repo_id,
        reason=reason,
        code="adapter_failed",
    )
