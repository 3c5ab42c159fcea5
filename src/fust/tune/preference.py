"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): of two answers the better one is favoured.

For each pair, with r = log p(answer) - log p_reference(answer), the loss is -log sigmoid(beta (r_better - r_worse)). The
reference is the model before the first step; what it says of each answer is computed once and kept in a file of the run.
"""

# torch types its functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import torch
import torch.nn.functional as F

from fust.core.files import full_disk_is_clear
from fust.tune.batches import Batch, Batches


class Model(Protocol):
    """What is asked of the model that is trained."""

    def losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns -log p of each learned token, and its place."""
        ...


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of a batch of pairs."""

    loss: torch.Tensor
    """Sum over the pairs."""
    margins: torch.Tensor
    """beta (r_better - r_worse) of each pair; (P,)."""


def log_probabilities(model: Model, batch: Batch) -> torch.Tensor:
    """Returns log p of the learned tokens of each sample; (S,)."""
    losses, places = model.losses(batch)
    owners = batch.owners.flatten()[places]
    return -torch.zeros(len(batch.samples)).index_add(0, owners, losses)


class Preference:
    """The loss of pairs against what the reference said of them."""

    def __init__(self, beta: float, reference: torch.Tensor) -> None:
        self._beta = beta
        self._reference = reference
        """log p of each prepared sample."""

    def judge(self, model: Model, batch: Batch) -> Judged:
        """Returns loss and margins of a batch."""
        gained = log_probabilities(model, batch) - self._reference[list(batch.samples)]
        margins = self._beta * (gained[0::2] - gained[1::2])
        return Judged(-F.logsigmoid(margins).sum(), margins.detach())


class _Line(msgspec.Struct):
    samples: list[int]
    log_p: list[float]


class Reference:
    """`reference.jsonl`: a first line that names the recipe, then a line for each pass with log p of its samples.

    A line is written whole and synced, so what a killed run leaves is taken up to the last whole line.
    """

    def __init__(self, path: Path, recipe_key: str) -> None:
        self._path = path
        self._head = msgspec.json.encode({"recipe": recipe_key})

    @torch.no_grad()
    def compute(
        self, model: Model, batches: Batches, rows_per_pass: int, go_on: Callable[[int, int], bool]
    ) -> torch.Tensor | None:
        """Returns log p of all samples by the model as it is now; only what is not in the file is computed.

        ``go_on`` hears how many of the passes are done, and says whether to go on; None when it says no.
        """
        rows = [*batches.train, *batches.held_out]
        passes = [rows[first : first + rows_per_pass] for first in range(0, len(rows), rows_per_pass)]
        found = self._read()
        result = torch.full((batches.count,), torch.nan)
        with full_disk_is_clear(self._path), self._path.open("ab", buffering=0) as file:
            for done, packed in enumerate(passes):
                if done == len(found):
                    if not go_on(done, len(passes)):
                        return None
                    batch = batches.build(packed)
                    line = _Line(list(batch.samples), log_probabilities(model, batch).tolist())
                    file.write(msgspec.json.encode(line) + b"\n")
                    os.fsync(file.fileno())
                    found.append(line)
                result[found[done].samples] = torch.tensor(found[done].log_p)
        return result

    def _read(self) -> list[_Line]:
        """Returns the whole lines, and takes the file back to them; a file of another recipe is begun anew."""
        data = self._path.read_bytes() if self._path.exists() else b""
        lines = data.split(b"\n")[:-1]
        found: list[_Line] = []
        end = len(self._head) + 1
        if not lines or lines[0] != self._head:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_bytes(self._head + b"\n")
            return found
        for line in lines[1:]:
            try:
                found.append(msgspec.json.decode(line, type=_Line))
            except msgspec.MsgspecError:
                break
            end += len(line) + 1
        os.truncate(self._path, end)
        return found
