"""Saves checkpoints while training goes on: nothing that is saved changes before the weights next move."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch

from fust.tune.checkpoints import State, Tensors, save_checkpoint


class Saver:
    """Writes one checkpoint at a time, in a thread of its own, from the tensors where they lie."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.step = 0
        """Of the checkpoint that was begun last."""
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._cpu_s = 0.0

    def begin(
        self, recipe_key: str, weights: Mapping[str, torch.Tensor], optimizer: Tensors, state: State
    ) -> None:
        """Begins to save; nobody may change a tensor before `wait` has returned. ``state`` may change."""
        kept = msgspec.structs.replace(state)
        self.step = kept.step
        self._thread = threading.Thread(
            target=self._save, args=(recipe_key, weights, optimizer, kept), name="checkpoint"
        )
        self._thread.start()

    def wait(self) -> float | None:
        """Waits until the checkpoint is on the disk; returns the seconds it has cost the training, None: none was begun.

        These are the seconds waited for here, and those of a processor that was not the training's meanwhile.

        Raises:
            StorageFull: no room; what was there before is untouched.

        """
        if self._thread is None:
            return None
        began = time.monotonic()
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        return time.monotonic() - began + self._cpu_s

    def finish(self) -> None:
        """Waits, whatever comes of it: where a run ends in an error, that one is told."""
        if self._thread is not None:
            self._thread.join()

    def _save(
        self, recipe_key: str, weights: Mapping[str, torch.Tensor], optimizer: Tensors, state: State
    ) -> None:
        began = time.thread_time()
        try:
            save_checkpoint(self._folder, recipe_key, weights, optimizer, state)
        except BaseException as error:
            self._error = error
        self._cpu_s = time.thread_time() - began
