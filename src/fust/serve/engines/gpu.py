"""The graphics processors of this machine, as NVIDIA's own tool lists them."""

from __future__ import annotations

import functools
import shutil
import subprocess
from dataclasses import dataclass

_LOOK_S = 15.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One of them."""

    name: str
    memory_bytes: int


def find_gpus() -> tuple[Gpu, ...]:
    """Returns those that are visible; none where `nvidia-smi` is missing or finds none."""
    tool = shutil.which("nvidia-smi")
    return _listed(tool) if tool else ()


@functools.lru_cache(maxsize=4)
def _listed(tool: str) -> tuple[Gpu, ...]:
    """Asks once: a driver does not come or go while a server runs."""
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_LOOK_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    found: list[Gpu] = []
    for line in done.stdout.splitlines():
        name, _, mebibytes = line.rpartition(",")
        if name and mebibytes.strip().isdigit():
            found.append(Gpu(name.strip(), int(mebibytes) << 20))
    return tuple(found)
