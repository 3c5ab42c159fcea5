"""Keeps engines: starts them when they are wanted and fit, ends them when idle or in the way, mends them when they die.

All state of `Hosted` changes under `Register.lock`; whatever takes long (loading, killing, reading files) happens outside
of it. One load at a time passes through admission, so that two models cannot both take the last free memory.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from fust.core.clock import utc_naive
from fust.core.errors import FustError, InvalidInput, NotOffered, Unavailable, UpstreamFailed
from fust.core.i18n import Clause
from fust.core.ids import new_id
from fust.core.machine import MachineMemory, machine_memory
from fust.core.settings import Settings
from fust.core.units import show_size, span_words
from fust.serve.adapters import Attached
from fust.serve.bringing import Bringing
from fust.serve.engines.base import Engine, EngineInfo, EngineLoadFailed, EngineSpec, HeldAdapters, Mode
from fust.serve.engines.child import log_name
from fust.serve.engines.reasons import reason_words
from fust.serve.facts import ModelFacts
from fust.serve.files import ModelFiles
from fust.serve.hosted import Hosted, Running
from fust.serve.notes import note
from fust.serve.plan import Plan, need_of
from fust.serve.register import Register
from fust.serve.scoring import find_scorer
from fust.serve.swap import Swaps, failure_of_adapter, largest_of

log = logging.getLogger(__name__)

_LEAST_LOOK_S = 3.0
_IDLE_LOAD = 0.2
"""Of a core; less than a whole one, for a busy machine."""


class Keeper:
    """Starts and ends the engines of all deployments."""

    def __init__(
        self,
        settings: Settings,
        files: ModelFiles,
        register: Register,
        unseal: Callable[[Hosted], str],
    ) -> None:
        self.lock = register.lock
        self.changed = threading.Condition(self.lock)
        self._settings = settings
        self._files = files
        self._hosted = register.all
        self._unseal = unseal
        self._admission = threading.Lock()
        self._stopping = False
        self.swaps = Swaps(settings, files, self)
        self.bringing = Bringing(settings, files, register, self.load_soon)

    # Wanting an engine

    def ensure(self, hosted: Hosted, mode: Mode, adapter: Attached | None = None) -> Running:
        """Returns the deployment's ready engine for the mode with one request counted on it; loads it when needed.

        With an adapter it waits until the engine holds it; one that scores opens adapters by itself.

        Raises:
            Unavailable: it does not fit, did not load in time, or failed too often.
            UpstreamFailed: the engine refused the model.
        """
        deadline = time.monotonic() + self._settings.serve.load_timeout_s
        mode = hosted.kind.processes[mode]
        while True:
            with self.lock:
                running = self._wait_turn(hosted, mode, deadline)
                if running.info is not None:
                    if mode == "generate" and not running.holds(adapter):
                        self._wait_for_adapter(hosted, adapter, deadline)
                        continue
                    running.take(adapter, live=hosted.kind.live_adapters)
                    hosted.used_s = time.monotonic()
                    return running
            self._load(hosted, running, deadline)

    def _wait_for_adapter(self, hosted: Hosted, adapter: Attached | None, deadline: float) -> None:
        """Waits for a change while another engine is made that holds the adapter."""
        if adapter is not None and adapter.error is not None:
            raise failure_of_adapter(adapter)
        if adapter not in hosted.adapters.values():
            raise Unavailable("{model} is not served any more.", hint="Serve it again.", model=hosted.name)
        left = deadline - time.monotonic()
        if left <= 0:
            raise _too_slow(hosted, self._settings.serve.load_timeout_s)
        self.swaps.settle(hosted)
        self.changed.wait(min(left, 5.0))

    def take_ready(self, hosted: Hosted, mode: Mode, adapter: Attached | None = None) -> Running | None:
        """Returns a ready engine with one request counted on it, or None; never blocks for long."""
        with self.lock:
            running = hosted.engines.get(hosted.kind.processes.get(mode, mode))
            if running is None or not running.is_ready or (mode == "generate" and not running.holds(adapter)):
                return None
            running.take(adapter, live=hosted.kind.live_adapters)
            hosted.used_s = time.monotonic()
            return running

    def load_soon(self, hosted: Hosted, mode: Mode | None = None) -> None:
        """Begins to load on a thread of its own; what goes wrong is kept on the deployment."""

        def run() -> None:
            try:
                self.bringing.convert(hosted)
                wanted = mode or ("embed" if self.facts_of(hosted).is_encoder else "generate")
                self.give_back(hosted, self.ensure(hosted, wanted))
            except FustError as error:
                log.warning("a model was not loaded", extra={"deployment": hosted.name, "reason": str(error)})
                if not isinstance(error, Unavailable):
                    with self.lock:
                        hosted.failed, hosted.error = True, error
            except Exception as error:
                log.exception("a model was not loaded", extra={"deployment": hosted.name})
                with self.lock:
                    hosted.failed, hosted.error = True, UpstreamFailed("{reason}", reason=error)
            finally:
                with self.lock:
                    hosted.starting -= 1

        with self.lock:
            hosted.starting += 1
        threading.Thread(target=run, name=f"fust-load-{hosted.id}", daemon=True).start()

    def give_back(self, hosted: Hosted, running: Running) -> None:
        """Ends one request."""
        with self.lock:
            running.busy = max(0, running.busy - 1)
            hosted.used_s = time.monotonic()
            if not running.busy:
                if running.retired and running in hosted.beside:
                    hosted.beside.remove(running)
                    self._end_later(running)
                self.changed.notify_all()

    def _end_later(self, running: Running) -> None:
        running.doomed = True
        if running.engine is not None:
            threading.Thread(target=running.engine.stop, name="fust-engine-end", daemon=True).start()

    def _wait_turn(self, hosted: Hosted, mode: Mode, deadline: float) -> Running:
        """Waits while another thread loads the engine; returns it ready, or a new one that the caller is to load."""
        while True:
            if hosted.deleted or self._stopping:
                raise Unavailable(
                    "{model} is not served any more.", hint="Serve it again.", model=hosted.name
                )
            if hosted.failed:
                raise failure_of(hosted)
            running = hosted.engines.get(mode)
            if running is not None and running.is_ready:
                return running
            left = deadline - time.monotonic()
            if left <= 0:
                raise _too_slow(hosted, self._settings.serve.load_timeout_s)
            pause = hosted.retry_at - time.monotonic()
            if running is None and pause <= 0:
                placeholder = EngineSpec("", Path(), hosted.id, mode, 0, 0, 0)
                hosted.engines[mode] = running = Running(placeholder, 0)
                return running
            self.changed.wait(min(left, pause if running is None else left, 5.0))

    # Loading

    def facts_of(self, hosted: Hosted) -> ModelFacts:
        """See `Bringing.facts_of`."""
        return self.bringing.facts_of(hosted)

    def _load(self, hosted: Hosted, running: Running, deadline: float) -> None:
        try:
            self._start(hosted, running, deadline)
        except EngineLoadFailed as error:
            if running.spec.mode != "score":
                self._give_up(hosted, running, error, permanent=True)
                raise
            if hosted.scorer is None and self._score_otherwise(hosted, error):
                return self._load(hosted, running, deadline)
            self._give_up(hosted, running, None, permanent=False)  # what else the model does goes on
            raise _no_scores(hosted, error) from error
        except FustError as error:
            self._give_up(hosted, running, error, permanent=not isinstance(error, Unavailable))
            raise
        except BaseException as error:
            self._give_up(hosted, running, UpstreamFailed("{reason}", reason=error), permanent=False)
            raise

    def _score_otherwise(self, hosted: Hosted, error: EngineLoadFailed) -> bool:
        """Lets another engine score the deployment's model; returns False when none can."""
        folder = self._settings.home / "engines" / "files" / hosted.id / "scorer"
        found = find_scorer(self._files, self._settings.serve, hosted.repo_id, hosted.revision, folder, error)
        with self.lock:
            hosted.scorer = found
        if found is not None:
            log.warning(
                "another engine scores a model", extra={"deployment": hosted.name, "reason": error.reason}
            )
        return found is not None

    def _give_up(self, hosted: Hosted, running: Running, error: FustError | None, *, permanent: bool) -> None:
        with self.lock:
            running.doomed = True
            for mode, known in list(hosted.engines.items()):
                if known is running:
                    del hosted.engines[mode]
            if error is not None:
                hosted.error, hosted.failed = error, permanent
            self.changed.notify_all()

    def _start(self, hosted: Hosted, running: Running, deadline: float) -> None:
        mode = running.spec.mode
        facts = self.facts_of(hosted)
        if mode == "score" and hosted.scorer is not None:
            facts = hosted.scorer.facts
        began = time.monotonic()
        if mode == "generate":
            info = self.swaps.launch(
                hosted, running, lambda more: self._admit(hosted, running, facts, mode, more), deadline
            )
        else:
            # Who scores reads one adapter at a time.
            more = largest_of(hosted.wanted_adapters()) if mode == "score" else 0
            plan = self._admit(hosted, running, facts, mode, more)
            info = self.launch(hosted, running, plan, (), deadline)
        engine = running.engine
        assert engine is not None
        memory = engine.memory_bytes()
        with self.lock:
            stillborn = hosted.deleted or self._stopping or running.doomed
            if not stillborn:
                running.info, running.started_at, running.memory_bytes = info, utc_naive(), memory
                hosted.error, hosted.note, hosted.used_s = None, None, time.monotonic()
            self.changed.notify_all()
        if stillborn:
            engine.stop()
            raise Unavailable("{model} is not served any more.", hint="Serve it again.", model=hosted.name)
        log.info(
            "a model was loaded",
            extra={"deployment": hosted.name, "mode": mode, "engine_pid": info.pid, "seconds": round(time.monotonic() - began, 3)},
        )  # fmt: skip
        if mode == "generate" and hosted.adapters:
            self.swaps.settle(hosted)  # one may have come meanwhile

    def launch(
        self, hosted: Hosted, running: Running, plan: Plan, adapters: HeldAdapters, deadline: float
    ) -> EngineInfo:
        """Starts one engine; it does not answer for the deployment yet.

        Raises:
            EngineLoadFailed: the engine refused the model or an adapter.
        """
        mode = plan.mode
        other = hosted.scorer if mode == "score" else None
        kind, path = (other.kind, other.path) if other else (hosted.kind, hosted.path)
        assert path is not None
        vision = hosted.facts.vision if hosted.facts else None
        spec = EngineSpec(
            engine_id=new_id("e"),
            path=path,
            log_name=log_name(hosted.id, mode),
            alias=f"fust-{hosted.id}",
            mode=mode,
            context=plan.context,
            slots=plan.slots,
            threads=plan.threads,
            most_bytes=self._settings.serve.memory_bytes,
            pooling=plan.pooling,
            settings=self._settings.serve,
            options=hosted.options,
            secret=self._unseal(hosted),
            adapters=adapters,
            projector=vision.path if vision and mode == "generate" else None,
        )
        engine = kind.make(spec, self._settings.home)
        with self.lock:
            running.spec, running.engine = spec, engine
            if plan.why:
                hosted.chosen[mode] = (other.why, *plan.why) if other else plan.why
        left = max(1.0, deadline - time.monotonic())
        return engine.start(left, lambda _, why: self._on_exit(hosted, running, why))

    # Memory

    def room_bytes(self, *, besides: Hosted | None = None) -> int:
        """Returns what a new engine could take if all others (but pinned ones) made room."""
        memory = machine_memory()
        with self.lock:
            pinned = sum(h.memory_bytes for h in self._hosted() if h.pinned and h is not besides)
        return max(
            0, (self._settings.serve.memory_bytes or memory.total_bytes - memory.reserve_bytes) - pinned
        )

    def _free_bytes(self, memory: MachineMemory, without: Running) -> int:
        with self.lock:
            engines = [r for h in self._hosted() for r in h.all_engines if r is not without]
            taken = sum(max(r.estimate_bytes, r.memory_bytes) for r in engines)
            loading = sum(r.estimate_bytes for r in engines if r.info is None)
        limit = self._settings.serve.memory_bytes
        if limit:
            return limit - taken
        # Mapped files count as available to the system although engines use them, so both sums must hold.
        reserve = memory.reserve_bytes
        return min(memory.available_bytes - reserve - loading, memory.total_bytes - reserve - taken)

    def admit_beside(self, fresh: Running, need_bytes: int, hosted: Hosted) -> bool:
        """Reserves memory for a second engine of a deployment; returns False when there is none."""
        with self._admission:
            while self._free_bytes(machine_memory(), fresh) < need_bytes:
                if not self._make_room(hosted, need_bytes):
                    return False
            with self.lock:
                fresh.estimate_bytes = need_bytes
        return True

    def _admit(
        self, hosted: Hosted, running: Running, facts: ModelFacts, mode: Mode, adapters_bytes: int = 0
    ) -> Plan:
        """Reserves memory for the engine, unloading others when it must; returns how to start it.

        Raises:
            Unavailable: it does not fit now, or not at all.
        """
        with self._admission:
            room = self.room_bytes(besides=hosted)
            bare = hosted.kind.bare
            plan = (
                bare.plan_of(hosted.options, self._settings.serve)
                if bare
                else hosted.kind.plan(facts, mode, self._settings.serve, room, adapters_bytes)
            )
            if plan.memory_bytes > room:
                raise self._does_not_fit(hosted, facts, plan, room, adapters_bytes)
            while (free := self._free_bytes(machine_memory(), running)) < plan.memory_bytes:
                if not self._make_room(hosted, plan.memory_bytes):
                    raise Unavailable(
                        "{model} needs about {need} and {free} is free now; what runs is busy or pinned.",
                        hint="Try again in a moment, or stop a model: `fust ps`, `fust stop NAME`.",
                        model=hosted.name,
                        need=show_size(plan.memory_bytes),
                        free=show_size(max(0, free)),
                        code="no_memory",
                        retry_after_s=5,
                    )
            with self.lock:
                running.estimate_bytes = plan.memory_bytes
            return plan

    def _does_not_fit(
        self, hosted: Hosted, facts: ModelFacts, plan: Plan, room_bytes: int, adapters_bytes: int
    ) -> FustError:
        """Returns the error for what does not fit even in its smallest form; names a file of the repo that would."""
        if adapters_bytes > 0 and plan.memory_bytes - adapters_bytes <= room_bytes:
            return InvalidInput(
                "{model} needs about {need} with its adapters, and {room} can be used for it.",
                hint="Without adapters it needs {less}. Take one off it, unpin another model, or raise the setting serve.memory_bytes.",
                model=hosted.name,
                need=show_size(plan.memory_bytes),
                room=show_size(room_bytes),
                less=show_size(plan.memory_bytes - adapters_bytes),
                code="does_not_fit",
            )
        tree = () if hosted.kind.bare else self._files.list_files(hosted.repo_id, hosted.revision)
        needs = {
            other.label: need_of(
                replace(facts, weights_bytes=other.size_bytes), self._settings.serve
            ).least_bytes
            + adapters_bytes
            for other in hosted.kind.list_models(tree)
            if other.size_bytes < facts.weights_bytes
        }
        file = next((label for label, least in needs.items() if least <= room_bytes), None)
        return InvalidInput(
            "{model} needs about {need} even for one request of {context} tokens, and {room} can be used for it.",
            hint="{file} of the same repo needs {less}: `fust serve {repo_id}:{file}`."
            if file
            else "Make a smaller file of it with `fust quantize {repo_id} --to q4_k_m`, unpin another model, or raise the "
            "setting serve.memory_bytes."
            if hosted.file.endswith(".gguf")
            else "Serve a smaller quantisation, unpin another model, or raise the setting serve.memory_bytes.",
            model=hosted.name,
            need=show_size(plan.memory_bytes),
            context=plan.context,
            room=show_size(room_bytes),
            file=file,
            less=show_size(needs[file]) if file else "",
            repo_id=hosted.repo_id,
            code="does_not_fit",
        )

    def _make_room(self, wanting: Hosted, need_bytes: int) -> bool:
        with self.lock:
            idle = [
                h for h in self._hosted() if h is not wanting and h.engines and not h.pinned and not h.is_busy
            ]
            victim = min(idle, key=lambda h: h.used_s, default=None)
            if victim is None:
                return False
            victim.note = note(
                "Unloaded to make room for {model} ({need}); the next request loads it again.",
                model=wanting.name,
                need=show_size(need_bytes),
            )
            engines = self._doom(victim)
        log.info("a model was unloaded", extra={"deployment": victim.name, "for": wanting.name})
        _stop_all(engines)
        return True

    # Ending

    def _doom(self, hosted: Hosted) -> list[Engine]:
        """Takes all engines off a deployment; the caller stops them, outside of the lock."""
        engines: list[Engine] = []
        for running in hosted.all_engines:
            running.doomed = True
            if running.engine is not None:
                engines.append(running.engine)
        hosted.engines.clear()
        hosted.beside.clear()
        self.changed.notify_all()
        return engines

    def unload(self, hosted: Hosted) -> None:
        """Ends the deployment's engines; returns when they are gone."""
        with self.lock:
            engines = self._doom(hosted)
        _stop_all(engines)

    def stop(self) -> None:
        """Ends every engine; nothing is started any more."""
        with self.lock:
            self._stopping = True
            engines = [engine for hosted in self._hosted() for engine in self._doom(hosted)]
        self.bringing.conversions.stop()
        _stop_all(engines)

    def _on_exit(self, hosted: Hosted, running: Running, reason: str) -> None:
        why = reason_words(reason)
        error = UpstreamFailed(
            "The engine of {model} died: {reason}.",
            hint="It is started again; send the request once more.",
            model=hosted.name,
            reason=why,
            code="engine_died",
        )
        with self.lock:
            if running.doomed or self._stopping or hosted.deleted:
                return
            running.doomed = True
            if running in hosted.beside:
                hosted.beside.remove(running)
                self.changed.notify_all()
                return
            hosted.engines.pop(running.spec.mode, None)
            if running.spec.mode == "score":  # made anew by the next request; chat never waits for it
                hosted.note = note(
                    "What gives its log-likelihoods died; the next request starts it again: {reason}.",
                    reason=why,
                )
                self.changed.notify_all()
                log.error("a scoring engine died", extra={"deployment": hosted.name, "reason": reason})
                return
            wait_s = hosted.note_crash(error)
            if wait_s is None:
                hosted.note = note(
                    "Crashed {count} times in a row; not started again.", count=len(hosted.crashes)
                )
            else:
                hosted.note = note("Its engine died and is started again: {reason}.", reason=why)
            self.changed.notify_all()
        log.error("an engine died", extra={"deployment": hosted.name, "reason": reason, "retry_s": wait_s})
        if wait_s is not None:
            self.load_soon(hosted, running.spec.mode)

    # Looking after them, every few seconds

    def sweep(self, suspects: Iterable[tuple[Hosted, Running]], *, thorough: bool) -> None:
        """Unloads what is idle; ends engines that do not answer any more.

        Args:
            suspects: engines that failed a request lately.
            thorough: measures memory too, and looks at every engine that is busy.
        """
        limit_s = self._settings.serve.idle_unload_s
        moment = time.monotonic()
        for hosted in list(self._hosted()):
            with self.lock:
                idle = (
                    limit_s and not hosted.pinned and not hosted.is_busy and moment - hosted.used_s > limit_s
                )
                engines: list[Engine] = []
                if idle and hosted.engines:
                    hosted.note = note(
                        "Unloaded after {span} without a request; the next one loads it again.",
                        span=span_words(limit_s),
                    )
                    engines = self._doom(hosted)
                live = [r for r in hosted.all_engines if r.engine and r.info] if thorough else []
            _stop_all(engines)
            for running in live:
                assert running.engine is not None
                if running.engine.is_stopped():
                    self.end(hosted, running, "it was stopped (SIGSTOP)")
                    continue
                running.memory_bytes = running.engine.memory_bytes() or running.memory_bytes
                if running.busy:
                    self._examine(hosted, running)
                if self._works_for_nobody(hosted, running):
                    self.end(hosted, running, "it went on working after its last request was over")
        for hosted, running in suspects:
            self._examine(hosted, running)

    def _examine(self, hosted: Hosted, running: Running) -> None:
        engine = running.engine
        if engine is None or running.doomed or engine.is_healthy(5.0) or engine.is_healthy(5.0):
            return
        self.end(hosted, running, "it did not answer any more and was ended")

    def _works_for_nobody(self, hosted: Hosted, running: Running) -> bool:
        """Returns whether an engine kept a core busy since the last look, although nobody asked it for anything.

        A chat template without an end goes on like that when its client has left: the engine cannot stop it.
        """
        assert running.engine is not None
        now, spent_s = time.monotonic(), running.engine.cpu_s()
        (then, before_s), running.looked = running.looked, (now, spent_s)
        if running.busy or hosted.used_s > then or now - then < _LEAST_LOOK_S:
            return False
        return spent_s - before_s > _IDLE_LOAD * (now - then)

    def end(self, hosted: Hosted, running: Running, reason: str) -> None:
        """Ends an engine that nothing else helps; it is started again as after a crash."""
        with self.lock:
            if running.doomed or running.engine is None:
                return
        running.engine.stop()
        self._on_exit(hosted, running, reason)


def _stop_all(engines: Iterable[Engine]) -> None:
    for engine in engines:
        engine.stop()


def failure_of(hosted: Hosted) -> FustError:
    """Returns the error for requests to a deployment that failed."""
    error = hosted.error
    reason = Clause(error.template, **error.params) if error else "unknown"
    return Unavailable(
        "{model} cannot be served: {reason}.",
        hint="Mend the cause, then serve it again: `fust serve {model}`.",
        model=hosted.name,
        reason=reason,
        code="model_failed",
    )


def _no_scores(hosted: Hosted, error: EngineLoadFailed) -> FustError:
    return NotOffered(
        "{model} cannot give log-likelihoods here: {reason}.",
        hint="Chat and completions go on; another file of the model, or another version of Fust, may give them.",
        model=hosted.name,
        reason=reason_words(error.reason),
        code="scoring_not_offered",
    )


def _too_slow(hosted: Hosted, limit_s: float) -> FustError:
    return Unavailable(
        "{model} was not loaded within {span}.",
        hint="Try again; raise the setting serve.load_timeout_s for very large models.",
        model=hosted.name,
        span=span_words(limit_s),
        code="model_loading",
        retry_after_s=10,
    )
