"""llama.cpp's own `llama-server` with the same settings as the wheel's: one built for this machine, or any other.

Options are those of tools/server/README.md at b11549; what a program does not list in its `--help` is left out where it
only saves something, so older ones start too.
"""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

from fust.serve.engines.base import EngineSpec
from fust.serve.engines.exec_child import PORT

_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z0-9-]*")
_HELP_S = 20.0


@functools.lru_cache(maxsize=8)
def _listed(path: str, changed_ns: int) -> frozenset[str]:
    """Returns the options that a program lists; empty when it lists none."""
    try:
        done = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=_HELP_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return frozenset()
    return frozenset(_OPTION.findall(done.stdout + done.stderr))


def command_of(path: str, spec: EngineSpec) -> list[str]:
    """Returns the command that serves a model; the key goes by `LLAMA_API_KEY`."""
    try:
        listed = _listed(path, Path(path).stat().st_mtime_ns)
    except OSError:
        listed = frozenset[str]()
    wanted = [
        ["--model", str(spec.path)],
        ["--alias", spec.alias],
        ["--host", "127.0.0.1"],
        ["--port", PORT],
        ["--parallel", str(spec.slots)],
        ["--ctx-size", str(spec.context * spec.slots)],  # llama.cpp divides it among the slots
        ["--threads", str(spec.threads)],
        ["--threads-batch", str(spec.threads)],
    ]
    helpful = [
        ["--fit", "off"],  # else it quietly shrinks the context
        ["--no-context-shift"],
        ["--cache-ram", "0"],  # its default keeps up to 8 GiB of prompts that no estimate knows of
        ["--no-cache-idle-slots"],
        ["--no-webui"],
        ["--metrics"],
        ["--slots"],
        ["--jinja"],
        ["--offline"],
        ["--log-verbosity", "1"],
        ["--sse-ping-interval", "15"],
        ["--threads-http", str(max(8, spec.slots * 4))],
    ]
    if spec.mode == "embed":
        wanted += [["--embedding"], ["--pooling", spec.pooling or "none"]]
        wanted += [["--batch-size", str(spec.context)], ["--ubatch-size", str(spec.context)]]
    if spec.projector:
        wanted += [["--mmproj", str(spec.projector)]]
    if spec.adapters:
        # Read and not used: each request says which it wants.
        wanted += [["--lora-scaled", f"{path}:0.0"] for _, path in spec.adapters]
    return [
        path,
        *(word for option in wanted for word in option),
        *(w for o in helpful if o[0] in listed for w in o),
    ]
