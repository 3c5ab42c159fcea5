"""Runs code that the page shows, as somebody would who pastes it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

NODE_MODULES = Path(__file__).parents[1] / "clients/node_modules"


def run_snippet(label: str, code: str, folder: Path) -> str | None:
    """Runs a snippet as somebody would who has its client; returns what it printed, None where the client is missing."""
    if label == "curl":
        command = ["bash", "-c", code.replace("curl ", "curl -sS ", 1)]
    elif label == "Node":
        if shutil.which("node") is None or not (NODE_MODULES / "openai").is_dir():
            return None
        if not (folder / "node_modules").exists():
            (folder / "node_modules").symlink_to(NODE_MODULES)
        (folder / "snippet.mjs").write_text(code)
        command = ["node", str(folder / "snippet.mjs")]
    else:
        command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 0, (label, code, done.stderr[-2000:])
    return done.stdout
