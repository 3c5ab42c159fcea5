"""Continuous batching: sequences join and leave between steps, and one pass of the model writes a token of each.

transformers' own manager (`generation/continuous_batching`, 5.23) was left: it needs paged attention, which not every
architecture has, and its requests know neither seeds nor grammars, penalties, log-probabilities of alternatives nor
cancelling. Here one thread owns the model. Each of its turns gives one slice to a piece of other work (a piece of a
prompt, a batch to score or to embed), so that none of it holds up those who read along, then takes one step of all
sequences. A client that left is noticed before the next step, and its slot is free then.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from fust.serve.engines.safetensors import CHUNK
from fust.serve.engines.scored import NO_NUMBERS
from fust.serve.engines.tf_cache import SharedCache, can_share, own_cache
from fust.serve.engines.tf_model import Loaded
from fust.serve.engines.tf_sample import Floats, Sampler, likely
from fust.wire.scoring import Likely

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Written:
    """A token that was written, or the end."""

    token: int = -1
    logprob: float = 0.0
    top: tuple[Likely, ...] = ()
    end: str = ""
    """`stop` or `length` with the last one; `error` when it broke off."""
    fault: str = ""


@dataclass(slots=True, eq=False)
class Sequence:
    """One request to write."""

    prompt: list[int]
    sampler: Sampler
    most: int
    """Tokens to write at most; at least 1."""
    eos: frozenset[int]
    top: int = -1
    """Alternatives to tell with each token; -1: no log-probabilities."""
    out: queue.SimpleQueue[Written] = field(default_factory=lambda: queue.SimpleQueue())
    left: bool = False
    """Set by its client; nothing more is written then."""
    count: int = 0
    last: int = -1

    def take(self, logits: Floats) -> bool:
        """Chooses the next token and tells it; returns whether the sequence goes on."""
        try:
            return self._take(logits)
        except Exception as error:  # of one sequence, such as a grammar's; the others go on
            log.exception("choosing a token failed")
            self.out.put(Written(end="error", fault=str(error) or type(error).__name__))
            return False

    def _take(self, logits: Floats) -> bool:
        if self.sampler.is_over:
            self.out.put(Written(end="stop"))
            return False
        if not np.isfinite(logits.max()):  # a NaN among them is their largest
            self.out.put(Written(end="error", fault=NO_NUMBERS))
            return False
        token = self.sampler.pick(logits)
        if token in self.eos:
            self.out.put(Written(end="stop"))
            return False
        self.last, self.count = token, self.count + 1
        chance, top = likely(logits, token, self.top) if self.top >= 0 else (0.0, [])
        end = "length" if self.count >= self.most else "stop" if self.sampler.is_over else ""
        self.out.put(Written(token, chance, tuple(top), end))
        return not end


class Batcher:
    """The only one that runs the model."""

    def __init__(self, loaded: Loaded, slots: int) -> None:
        self.loaded = loaded
        self.slots = slots
        self.shares = (
            loaded.task == "generate" and "past_key_values" in loaded.accepts and can_share(loaded.model)
        )
        """Whether sequences share one pass; else each has a pass of its own."""
        self._shared = SharedCache(slots, loaded.context)
        self._own: list[Any] = []
        self._rows: list[Sequence] = []
        self._waiting: deque[Sequence] = deque()
        self._jobs: deque[Iterator[None]] = deque()
        self._reading = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="fust-batch", daemon=True).start()

    @property
    def busy(self) -> int:
        """How many slots are taken."""
        return len(self._rows) + self._reading

    def write(self, sequence: Sequence) -> None:
        """Takes a request; its tokens come through its `out`."""
        with self._changed:
            self._waiting.append(sequence)
            self._changed.notify()

    def run(self, work: Callable[[], Iterator[T]], is_there: Callable[[], bool]) -> T:
        """Runs other work between the steps, slice by slice; returns what it yields last.

        Raises:
            InterruptedError: the client left.
            Exception: what the work raised.
        """
        made: list[T] = []
        over: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        gone = threading.Event()

        def job() -> Iterator[None]:
            try:
                for value in work():
                    made[:] = [value]
                    if gone.is_set():
                        break
                    yield
                over.put(None)
            except Exception as error:
                over.put(error)

        with self._changed:
            self._jobs.append(job())
            self._changed.notify()
        while True:
            try:
                error = over.get(timeout=0.2)
                break
            except queue.Empty:
                if not is_there():
                    gone.set()
        if gone.is_set():
            raise InterruptedError
        if error is not None:
            raise error
        return made[0]

    # The one thread

    def _work(self) -> None:
        with torch.inference_mode():
            while True:
                with self._changed:
                    while not (self._jobs or self._rows or self._waiting):
                        self._changed.wait()
                self._admit()
                if self._jobs:
                    job = self._jobs.popleft()
                    if next(job, "over") != "over":
                        self._jobs.append(job)
                if self._rows:
                    try:
                        self._step()
                    except Exception as error:
                        log.exception("a step failed")
                        self._fail_all(error)

    def _admit(self) -> None:
        # One prompt at a time: the first is answered sooner, and only one has a cache of its own.
        while self._waiting and not self._reading and self.busy < self.slots:
            sequence = self._waiting.popleft()
            if not sequence.left:
                self._reading += 1
                self._jobs.append(self._read(sequence))

    def _read(self, sequence: Sequence) -> Iterator[None]:
        """Passes a prompt through the model in pieces; then the sequence joins the others."""
        try:
            cache = own_cache(self.loaded.model, shared=self.shares)
            size = CHUNK if self.shares else len(sequence.prompt)  # a state cannot always go on from a piece
            logits = None
            for start in range(0, len(sequence.prompt), size):
                if sequence.left:
                    return
                ids = torch.tensor([sequence.prompt[start : start + size]])
                logits = forward(self.loaded, ids, cache)
                yield
            assert logits is not None
            if sequence.take(logits[0, -1].numpy()):
                self._join(sequence, cache)
        except Exception as error:
            log.exception("reading a prompt failed")
            sequence.out.put(Written(end="error", fault=str(error) or type(error).__name__))
        finally:
            self._reading -= 1

    def _join(self, sequence: Sequence, cache: Any) -> None:
        if self.shares:
            self._shared.join(cache, len(sequence.prompt))
        else:
            self._own.append(cache)
        self._rows.append(sequence)

    def _leave(self, row: int) -> None:
        self._rows[row] = self._rows[-1]
        self._rows.pop()
        if self.shares:
            self._shared.leave(row)
        else:
            self._own[row] = self._own[-1]
            self._own.pop()

    def _step(self) -> None:
        for row in reversed(range(len(self._rows))):
            if self._rows[row].left:
                self._leave(row)
        if not self._rows:
            return
        lines = self._pass_shared() if self.shares else self._pass_each()
        on = [sequence.take(line) for sequence, line in zip(self._rows, lines, strict=True)]
        for row in reversed(range(len(on))):
            if not on[row]:
                self._leave(row)

    def _pass_shared(self) -> Floats:
        mask, positions = self._shared.prepare()
        ids = torch.tensor([[sequence.last] for sequence in self._rows])
        more = {"attention_mask": mask, "position_ids": positions}
        logits = forward(self.loaded, ids, self._shared.cache, **more)
        self._shared.advance()
        return logits[:, -1].numpy()

    def _pass_each(self) -> Floats:
        passes = zip(self._rows, self._own, strict=True)
        return np.stack([forward(self.loaded, torch.tensor([[s.last]]), c)[0, -1].numpy() for s, c in passes])

    def _fail_all(self, error: Exception) -> None:
        for sequence in self._rows:
            sequence.out.put(Written(end="error", fault=str(error) or type(error).__name__))
        self._rows.clear()
        self._own.clear()
        self._shared = SharedCache(self.slots, self.loaded.context)


def forward(loaded: Loaded, ids: torch.Tensor, cache: Any, keep: Any = 1, **more: Any) -> torch.Tensor:
    """Returns the logits (B, kept, V) of a pass that goes on from `cache`.

    Args:
        loaded: the model.
        ids: (B, T).
        cache: as `own_cache` makes it.
        keep: how many of the last places are wanted, or a tensor of places.
        more: other arguments; those that the model does not know are left out.
    """
    arguments = {name: value for name, value in more.items() if name in loaded.accepts}
    arguments["past_key_values" if "past_key_values" in loaded.accepts else "cache_params"] = cache
    if "logits_to_keep" in loaded.accepts:
        return loaded.model(input_ids=ids, use_cache=True, logits_to_keep=keep, **arguments).logits
    logits = loaded.model(input_ids=ids, use_cache=True, **arguments).logits
    return logits[:, keep] if isinstance(keep, torch.Tensor) else logits[:, -keep:]
