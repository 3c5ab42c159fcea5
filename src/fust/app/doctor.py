"""What this machine lacks, each finding with the line that mends it."""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from fust.core.extras import install_command
from fust.core.i18n import Language, fill
from fust.core.settings import Settings
from fust.core.units import show_size
from fust.serve.conversion import folder_of

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``value`` and ``mend`` are templates, filled at the edge in the reader's language."""

    name: str
    state: State
    value: str
    mend: str = ""
    params: dict[str, object] | None = None

    def drawn(self, language: Language) -> dict[str, str]:
        """Returns the finding as the page and the CLI show it."""
        params = self.params or {}
        return {
            "name": fill(self.name, params, language),
            "state": self.state,
            "value": fill(self.value, params, language),
            "mend": fill(self.mend, params, language) if self.mend else "",
        }


def run_checks(settings: Settings, *, serving: bool) -> list[Check]:
    """Returns all findings; ``serving`` tells that the port is ours."""
    return [
        _home(settings.home),
        _disk(settings.home),
        _converted(settings),
        _memory(),
        _cpu(),
        _port(settings, serving),
        _git(),
        *_parts(),
    ]


def _home(home: Path) -> Check:
    there = home if home.exists() else home.parent
    params: dict[str, object] = {"home": home}
    if os.access(there, os.W_OK):
        return Check("home", "ok", "{home}", params=params)
    return Check(
        "home",
        "fail",
        "{home} cannot be written",
        "Choose another home with FUST_HOME=/path, or mend its rights.",
        params,
    )


def _disk(home: Path) -> Check:
    folder = next(path for path in (home, *home.parents) if path.exists())
    usage = shutil.disk_usage(folder)
    params: dict[str, object] = {"free": show_size(usage.free), "total": show_size(usage.total)}
    state: State = "fail" if usage.free < 200e6 else "warn" if usage.free < 5e9 else "ok"
    mend = "" if state == "ok" else "Free some room, or move the home to a larger disk with FUST_HOME."
    return Check("disk", state, "{free} free of {total}", mend, params)


def _converted(settings: Settings) -> Check:
    """Counts what was made of safetensors for llama.cpp."""
    sizes = [path.stat().st_size for path in folder_of(settings).glob("*.gguf")]
    params: dict[str, object] = {"count": len(sizes), "size": show_size(sum(sizes))}
    return Check("converted models", "ok", "{count}, {size}" if sizes else "none", params=params)


def _memory() -> Check:
    memory = psutil.virtual_memory()
    params: dict[str, object] = {"free": show_size(memory.available), "total": show_size(memory.total)}
    state: State = "warn" if memory.available < 1e9 else "ok"
    mend = "Close other programs, or serve smaller models." if state == "warn" else ""
    return Check("memory", state, "{free} free of {total}", mend, params)


def cpu_flags() -> frozenset[str]:
    """Returns the CPU's feature flags as Linux names them; empty where they cannot be read."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def _cpu() -> Check:
    flags = cpu_flags()
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    params: dict[str, object] = {"cores": cores, "machine": platform.machine()}
    if platform.machine() in ("x86_64", "AMD64") and flags and "avx2" not in flags:
        return Check(
            "CPU",
            "fail",
            "{cores} cores, {machine}, without AVX2",
            "The CPU engine of the wheel needs AVX2 (Haswell or newer): use a newer machine.",
            params,
        )
    params["flags"] = (
        ", ".join(name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags) or "–"
    )
    return Check("CPU", "ok", "{cores} cores, {machine}, {flags}", params=params)


def port_is_free(host: str, port: int) -> bool:
    """Returns whether no other program listens on the address; what else is wrong with it, binding it will tell."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def _port(settings: Settings, serving: bool) -> Check:
    params: dict[str, object] = {"host": settings.server.host, "port": settings.server.port}
    if serving:
        return Check("port", "ok", "{host}:{port}, Fust's own", params=params)
    if port_is_free(settings.server.host, settings.server.port):
        return Check("port", "ok", "{host}:{port} is free", params=params)
    return Check(
        "port",
        "warn",
        "{host}:{port} is taken by another program",
        "`fust up` takes the next free one; `fust up --port N` chooses.",
        params,
    )


def _git() -> Check:
    if shutil.which("git"):
        return Check("git", "ok", "found")
    return Check(
        "git", "warn", "not found: repos cannot be cloned", "Install git with your system's package manager."
    )


def _parts() -> list[Check]:
    found: list[Check] = []
    for module, name, extra in (
        ("xllamacpp", "CPU engine", ""),
        ("peft", "tuning", "tune"),
        ("llguidance", "safetensors engine", "transformers"),
        ("pyarrow", "Parquet", "data"),
        ("PIL", "images", "images"),
        ("psycopg", "PostgreSQL", "postgres"),
    ):
        if importlib.util.find_spec(module) is not None:
            found.append(Check(name, "ok", "installed"))
        elif not extra:
            found.append(
                Check(
                    name,
                    "fail",
                    "not installed",
                    "pip install {module} (x86-64 or Arm, Linux or macOS)",
                    {"module": module},
                )
            )
        else:
            found.append(
                Check(
                    name, "ok", "not installed (optional)", "{command}", {"command": install_command(extra)}
                )
            )
    return found
