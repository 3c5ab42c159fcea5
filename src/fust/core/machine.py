"""How much memory this machine, or the container we are in, has and has left."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import psutil

_V2 = Path("/sys/fs/cgroup")
_V1 = Path("/sys/fs/cgroup/memory")


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """Bytes in all, and bytes that a new process could take now."""

    total_bytes: int
    available_bytes: int

    @property
    def reserve_bytes(self) -> int:
        """What engines leave to the rest: a twentieth, at least 256 MB and at most 2 GB."""
        return min(max(self.total_bytes // 20, 256 * 10**6), 2 * 10**9)


def machine_memory() -> MachineMemory:
    """Returns the machine's memory, or the control group's where that is less."""
    memory = psutil.virtual_memory()
    total, available = int(memory.total), int(memory.available)
    limit = _number(_V2 / "memory.max") or _number(_V1 / "memory.limit_in_bytes")
    if limit and limit < total:
        used = _number(_V2 / "memory.current") or _number(_V1 / "memory.usage_in_bytes") or 0
        cache = _inactive_file(_V2 / "memory.stat") or _inactive_file(_V1 / "memory.stat")
        total = limit
        available = min(available, max(0, limit - used + cache))
    return MachineMemory(total, available)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _inactive_file(path: Path) -> int:
    try:
        for line in path.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file"):
                return int(value)
    except (OSError, ValueError):
        pass
    return 0


def physical_cores() -> int:
    """Returns the cores that this process may use, hyper-threads not counted."""
    return max(1, min(psutil.cpu_count(logical=False) or 1, usable_cores()))


def usable_cores() -> int:
    """Returns the cores that this process may use, hyper-threads counted."""
    try:
        usable = len(psutil.Process().cpu_affinity())  # type: ignore[attr-defined]  # not on macOS
    except (AttributeError, psutil.Error):
        usable = psutil.cpu_count() or 1
    quota = _quota_cores()
    return max(1, min(usable, quota) if quota else usable)


def _quota_cores() -> int | None:
    try:
        quota, period = (_V2 / "cpu.max").read_text(encoding="ascii").split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return None


def processor_flags() -> frozenset[str]:
    """Returns what the processor can do, by the names of /proc/cpuinfo; empty where that is not told."""
    return frozenset(_cpuinfo("flags").split() or _cpuinfo("Features").split())


def processor_name() -> str:
    """Returns the processor's name as it gives it, or its architecture."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), "")
