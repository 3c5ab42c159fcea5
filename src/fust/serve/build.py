"""The job that builds llama.cpp for this machine: source from the package index, compiled here, measured, kept when better."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.archives import unpack
from fust.core.clock import iso, now
from fust.core.decode_words import words_of
from fust.core.errors import FustError, InvalidInput, NotOffered, UpstreamFailed
from fust.core.machine import physical_cores
from fust.jobs.kinds import Kind
from fust.jobs.worker import JobContext
from fust.serve.engines.native import (
    PACKAGE,
    Build,
    binary_of,
    folder_of,
    library_of,
    processor,
    wheel_version,
    write_build,
)
from fust.serve.measure import measure

_STEP = re.compile(r"^\[(\d+)/(\d+)\]")
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DCMAKE_POSITION_INDEPENDENT_CODE=ON", "-DGGML_NATIVE=ON", "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_APP=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_ALL_WARNINGS=OFF",
    "-DGGML_OPENMP=OFF",  # its threads wait by spinning, and lose three times as much to whatever else runs
)  # fmt: skip
_LEFT_OUT = (("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16"), ("-mno-avx512fp16",))
"""Sets of instructions that a build does without; see `processor_options`."""
_MEMORY_BYTES = 2 * 10**9
"""Of one compiler at a time; the largest file of llama.cpp took 1.4 GB."""
_PART = "thirdparty/llama.cpp/"


class BuildWish(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be built."""

    jobs: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Compilers at a time."""
    source: str = ""
    """A source distribution on the server's disk; empty: the one of the wheel's version, from the package index."""


class BuildOutcome(msgspec.Struct):
    """What came of it."""

    ratio: float
    is_used: bool
    native: dict[str, float]
    wheel: dict[str, float]
    seconds: int


def build_kind(accounts: Accounts) -> Kind:
    """Returns the kind of run that builds an engine; for administrators."""

    def prepare(identity: Identity, params: dict[str, Any]) -> dict[str, Any]:
        accounts.check_admin(identity)
        try:
            wish = msgspec.convert(params, BuildWish)
        except msgspec.ValidationError as error:
            raise InvalidInput(
                "The params of the build are not valid: {reason}.", reason=words_of(error)
            ) from None
        check_compiler()
        return msgspec.to_builtins(wish)

    return Kind(
        "build_engine",
        "Build llama.cpp for this machine",
        prepare,
        memory_bytes=_MEMORY_BYTES,
        cores=physical_cores(),
        memory_of=lambda params: _MEMORY_BYTES * int(params["jobs"]),
    )


def check_compiler() -> None:
    """Raises NotOffered when nothing here compiles C++, or the wheel to compare with is not installed."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX") or "c++", "g++", "clang++")):
        raise NotOffered(
            "There is no C++ compiler on this machine.",
            hint="Install one (Debian, Ubuntu: sudo apt install g++; macOS: xcode-select --install).",
            code="no_compiler",
        )
    if not wheel_version():
        raise NotOffered("{package} is not installed.", hint="pip install {package}", package=PACKAGE)


def run_build(context: JobContext, model: Path) -> BuildOutcome:
    """Builds, measures with a small model, and keeps."""
    wish = msgspec.convert(context.params, BuildWish)
    home, work = context.settings.home, context.work
    began = time.monotonic()
    source = Path(wish.source) if wish.source else _download(context, work)
    tree = _unpack(source, work)
    cmake, ninja = _tools(context, work)
    context.say("Compiling {name} for {processor}.", name=source.name, processor=processor())
    build = work / "build"
    _run(
        [
            cmake,
            "-S",
            str(tree),
            "-B",
            str(build),
            "-G",
            "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            *_OPTIONS,
            *processor_options(),
        ]
    )
    for line in _lines([ninja, "-C", str(build), "-j", str(wish.jobs), "llama-server"]):
        step = _STEP.match(line)
        if step:
            context.progress(int(step[1]), int(step[2]), "files", "Compiling")
    seconds = round(time.monotonic() - began)
    made = build / "bin" / "llama-server"
    context.say("Measuring it against the wheel.")
    threads = context.settings.serve.threads or physical_cores()
    native, wheel = measure(model, [str(made), ""], threads)
    found = Build(wheel_version(), processor(), native, wheel, model.name, threads, iso(now()) or "", seconds)
    library = _link(context, build)
    context.too_late_to_cancel = True
    folder_of(home).mkdir(parents=True, exist_ok=True)
    library_of(home).unlink(missing_ok=True)  # of another build it must not stay beside this one
    for one, place in ((made, binary_of(home)), (library, library_of(home))):
        if one is not None:
            fresh = place.with_suffix(".new")
            shutil.copy2(one, fresh)
            os.replace(fresh, place)  # engines that run keep the file that they have
    write_build(home, found)
    shutil.rmtree(work, ignore_errors=True)  # 300 MB of source and objects; a build that failed keeps them
    if found.is_better:
        context.say("It answers {ratio} times as fast, and is used from now on.", ratio=round(found.ratio, 2))
    else:
        context.say(
            "It answers {ratio} times as fast, so the wheel stays in use.", ratio=round(found.ratio, 2)
        )
    return BuildOutcome(
        round(found.ratio, 3),
        found.is_better,
        msgspec.to_builtins(native),
        msgspec.to_builtins(wheel),
        seconds,
    )


def _link(context: JobContext, build: Path) -> Path | None:
    """Returns the library that the scorer opens, linked of what the server is made of; None where that cannot be."""
    parts = [build / "src" / "libllama.a", *sorted((build / "ggml" / "src").glob("libggml*.a"))]
    if sys.platform != "linux" or not all(part.is_file() for part in parts):
        return None
    library = build / "libllama.so"
    whole = ["-Wl,--whole-archive", *map(str, parts), "-Wl,--no-whole-archive"]
    try:
        _run([_compiler(), "-shared", "-o", str(library), *whole, "-lpthread", "-ldl", "-lm"])
    except FustError as error:
        context.say("Scores stay with the wheel: {reason}", reason=error.sentence("en"))
        return None
    return library


def _compiler() -> str:
    return os.environ.get("CXX") or next((n for n in ("c++", "g++", "clang++") if shutil.which(n)), "c++")


def processor_options() -> list[str]:
    """Returns what is left out of all that the processor says it has.

    * Virtual machines list Intel's AMX and do not allow it: the server then dies of an illegal instruction with quantised
      models (seen on a Xeon with GCC 12 and b11549), so no build here uses it.
    * With AVX512-FP16 ggml takes 128 numbers a step where an attention head has 64 or 96; these it then takes one by one,
      through a table: answers were written at 0.6 to 0.85 of the pace that they have without (b11549, `ggml_vec_mad_f16`).
    """
    known = [flag for flags in _LEFT_OUT if _is_known(flags) for flag in flags]
    joined = " ".join(known)
    return [f"-DCMAKE_C_FLAGS={joined}", f"-DCMAKE_CXX_FLAGS={joined}"] if known else []


def _is_known(flags: tuple[str, ...]) -> bool:
    """Returns whether the compiler takes flags; one for another kind of processor does not."""
    tried = [_compiler(), *flags, "-x", "c++", "-E", os.devnull]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


def _download(context: JobContext, work: Path) -> Path:
    version = wheel_version()
    context.say("Fetching the source of {package} {version}.", package=PACKAGE, version=version)
    folder = work / "source"
    _run([sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "-q", "--no-deps", "--no-binary", PACKAGE, "-d", str(folder), f"{PACKAGE}=={version}"])  # fmt: skip
    found = sorted(folder.glob("*.tar.gz"))
    if not found:
        raise UpstreamFailed(
            "The package index has no source of {package} {version}.", package=PACKAGE, version=version
        )
    return found[0]


def _unpack(source: Path, work: Path) -> Path:
    """Returns the folder of llama.cpp's source inside a source distribution.

    Raises:
        InvalidInput: it is none, or holds no llama.cpp.
    """
    folder = work / "tree"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with tarfile.open(source) as archive:
            unpack(archive, folder)
    except (OSError, tarfile.TarError) as error:
        raise InvalidInput("{path} cannot be unpacked: {reason}.", path=source, reason=error) from None
    found = [path.parent.parent.parent for path in folder.glob("**/tools/server/CMakeLists.txt")]
    if not found:
        raise InvalidInput("{path} holds no source of llama.cpp.", path=source)
    return min(found, key=lambda path: len(path.parts))


def _tools(context: JobContext, work: Path) -> tuple[str, str]:
    """Returns the paths of cmake and ninja: the system's, or wheels put beside the build."""
    found = [shutil.which("cmake"), shutil.which("ninja")]
    if None not in found:
        return str(found[0]), str(found[1])
    context.say("Fetching cmake and ninja.")
    folder = work / "tools"
    _run([sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "-q", "--target", str(folder), "cmake", "ninja"])  # fmt: skip
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return str(folder / "bin" / "cmake"), str(folder / "bin" / "ninja")


def _run(command: list[str]) -> None:
    for _ in _lines(command):
        pass


def _lines(command: list[str]) -> Iterator[str]:
    """Yields what a command says, which goes to the run's log too.

    Raises:
        UpstreamFailed: it failed; its last lines are told.
    """
    last: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="", file=sys.stderr)
                last = [*last[-4:], line.strip()]
                yield line
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise UpstreamFailed(
            "{program} failed: {reason}.",
            hint="The run's log has all that it said.",
            program=Path(command[0]).name,
            reason=" / ".join(last)[-600:].rstrip("."),
            code="build_failed",
        )
