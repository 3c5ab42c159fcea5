"""What the processes of a run say to each other while they train: a few sums, in a fixed order.

Each process has a copy of all that learns and takes its share of a step's passes. Their gradients are added, and each
moves its copy by the same sum, so the copies stay the same bit by bit. gloo adds in a ring: which summand comes when
follows from the number of processes and the size of the buffer alone, so the same number of processes gives the same
bits again; another number adds in another order.

They meet by a file and talk over the loopback: nothing listens on the network.
"""

# torch types its functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import psutil
import torch
import torch.distributed as dist
from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage]

from fust.core.errors import NotOffered

_AT_ONCE = 2**24
"""Gradients that are added together, in values."""
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_T = TypeVar("_T")


class TeamLost(Exception):
    """Another process of the team has ended, or does not answer: nothing can be done together any more."""


class Parted(TeamLost):
    """The copies are no longer the same."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(", ".join(names)[:200])


class Team:
    """The processes that train together; this one is number ``rank``. One alone has nobody to wait for."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @classmethod
    def meet(cls, place: Path, rank: int, size: int, patience_s: float) -> Team:
        """Returns the team once all have come to ``place``, a file that nobody else uses.

        Args:
            place: it need not exist.
            rank: 0 is the one that leads.
            size: how many there are.
            patience_s: how long one waits for the others, here and later.

        Raises:
            TeamLost: they did not come.

        """
        if size == 1:
            return cls()
        os.environ["GLOO_SOCKET_IFNAME"] = _loopback()
        with _lost_if_broken():
            dist.init_process_group(
                "gloo",
                store=FileStore(str(place), size),
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=patience_s),
            )
        return cls(rank, size)

    @property
    def leads(self) -> bool:
        """Returns whether this process is the one that writes, looks and decides."""
        return self.rank == 0

    def share_of(self, items: Sequence[_T]) -> list[tuple[int, _T]]:
        """Returns what of ``items`` this process takes, with their numbers: each one's turn comes round."""
        return list(enumerate(items))[self.rank :: self.size]

    def agree(self, decision: bool) -> bool:
        """Returns what the leading process decided."""
        return self.tell(int(decision)) == 1

    def tell(self, number: int) -> int:
        """Returns the leading process's number."""
        if self.size == 1:
            return number
        told = torch.tensor([number])
        with _lost_if_broken():
            dist.broadcast(told, 0)
        return int(told.item())

    def add(self, values: list[float]) -> list[float]:
        """Returns the sums over all processes, in double precision."""
        if self.size == 1:
            return values
        sums = torch.tensor(values, dtype=torch.float64)
        with _lost_if_broken():
            dist.all_reduce(sums)
        return sums.tolist()

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Puts the sums over all processes in the place of gradients; what no process has one of keeps none."""
        if self.size == 1:
            return
        listed = list(parameters)
        with _lost_if_broken():
            touched = torch.tensor([parameter.grad is not None for parameter in listed], dtype=torch.int32)
            dist.all_reduce(touched)
            used = [p for p, count in zip(listed, touched.tolist(), strict=True) if count]
            for some in _buckets(used):
                flat = torch.cat([_gradient(parameter).flatten() for parameter in some])
                dist.all_reduce(flat)
                sums = flat.split([parameter.numel() for parameter in some])
                for parameter, added in zip(some, sums, strict=True):
                    parameter.grad = added.view_as(parameter)

    def check_same(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Raises Parted when one of these tensors has other bits in another process.

        What is compared is the sum of each tensor's bits, as whole numbers: it costs one reading, and copies that have
        drifted apart do not agree in it.
        """
        if self.size == 1 or not tensors:
            return
        names = sorted(tensors)
        least = torch.stack([_sum_of_bits(tensors[name]) for name in names])
        most = least.clone()
        with _lost_if_broken():
            dist.all_reduce(least, dist.ReduceOp.MIN)
            dist.all_reduce(most, dist.ReduceOp.MAX)
        apart = [name for name, same in zip(names, (least == most).tolist(), strict=True) if not same]
        if apart:
            raise Parted(apart)

    def leave(self) -> None:
        """Waits for nobody any more; the others hear of it when they next wait for this one."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def check_gloo() -> None:
    """Raises NotOffered where torch was built without gloo."""
    if not (dist.is_available() and dist.is_gloo_available()):
        raise NotOffered(
            "This build of torch has no gloo, by which several processes train together.",
            hint="Leave `processes` out, or install torch from its own wheels.",
        )


@contextlib.contextmanager
def _lost_if_broken() -> Generator[None]:
    try:
        yield
    except RuntimeError as error:  # what gloo raises: a connection that was closed, a wait that was too long
        raise TeamLost(
            re.sub(r"^\[[^]]*\]\s*", "", str(error))
        ) from error  # without the place in gloo's source


def _loopback() -> str:
    """Returns the name of the network interface that nobody outside reaches."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == "127.0.0.1" for address in addresses):
            return name
    return "lo"


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _buckets(parameters: Sequence[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """Yields them in their order, so many together that no sum is too large to be held beside them."""
    some: list[torch.nn.Parameter] = []
    values = 0
    for parameter in parameters:
        if some and values + parameter.numel() > _AT_ONCE:
            yield some
            some, values = [], 0
        some.append(parameter)
        values += parameter.numel()
    if some:
        yield some


def _sum_of_bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(_WORDS[tensor.element_size()]).sum(dtype=torch.int64)
