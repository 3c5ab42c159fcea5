"""llama.cpp built for this machine: where it lies, what it was measured at, and whether it is used.

The wheel's code runs on any machine since 2013; one built here may use all that this processor has. It is used when it was
measured to be faster, on this processor and at the wheel's own version.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from pathlib import Path

import msgspec

from fust.core.files import atomic_file

WHEEL = "wheel"
"""The value of the setting `serve.llama_server` that asks for the wheel's own server always."""
PACKAGE = "xllamacpp"
_BETTER = 1.05


class Speed(msgspec.Struct, frozen=True):
    """Tokens a second, of one request at a time."""

    prompt: float
    decode: float

    @property
    def seconds(self) -> float:
        """How long a request of 256 tokens with an answer of 64 takes."""
        return 256 / self.prompt + 64 / self.decode


class Build(msgspec.Struct, frozen=True):
    """What is known of the server that was built here."""

    version: str
    """Of the package whose source it was built from."""
    processor: str
    native: Speed
    wheel: Speed
    model: str
    threads: int
    built_at: str
    seconds: int
    """How long compiling took."""

    @property
    def ratio(self) -> float:
        """How many times faster than the wheel it answers a request."""
        return self.wheel.seconds / self.native.seconds

    @property
    def is_better(self) -> bool:
        """Whether it is worth using."""
        return self.ratio >= _BETTER


def folder_of(home: Path) -> Path:
    """Returns where the build lies."""
    return home / "engines" / "native"


def binary_of(home: Path) -> Path:
    """Returns the path of the server that was built, whether or not it is there."""
    return folder_of(home) / "llama-server"


def library_of(home: Path) -> Path:
    """Returns the path of the library that was built beside it, whether or not it is there."""
    return folder_of(home) / "libllama.so"


def read_build(home: Path) -> Build | None:
    """Returns what is known of the build, or None when there is none."""
    try:
        found = msgspec.json.decode((folder_of(home) / "build.json").read_bytes(), type=Build)
    except (OSError, msgspec.DecodeError):
        return None
    return found if binary_of(home).is_file() else None


def write_build(home: Path, build: Build) -> None:
    """Keeps what is known of the build."""
    with atomic_file(folder_of(home) / "build.json") as file:
        file.write(msgspec.json.encode(build))


def find_server(setting: str, home: Path) -> str:
    """Returns the `llama-server` to use: the one that the setting names, else the build when it is better; empty: the wheel."""
    if setting:
        return "" if setting == WHEEL else str(Path(setting).expanduser())
    build = read_build(home)
    if (
        build is None
        or not build.is_better
        or build.version != wheel_version()
        or build.processor != processor()
    ):
        return ""
    return str(binary_of(home))


def find_library(setting: str, home: Path) -> str:
    """Returns llama.cpp's library to score with: the build's where its server is used; empty: the wheel's."""
    library = library_of(home)
    return str(library) if find_server(setting, home) == str(binary_of(home)) and library.is_file() else ""


def wheel_version() -> str:
    """Returns the version of the wheel; empty when it is not installed."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return ""


def processor() -> str:
    """Returns what tells this processor from another kind: code built for one may not run on the next."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    kept = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    named = next(
        (line.split(":", 1)[1].strip() for line in kept if line.startswith("model name")), platform.machine()
    )
    return f"{named} {hashlib.sha256(''.join(kept[:2]).encode()).hexdigest()[:8]}"
