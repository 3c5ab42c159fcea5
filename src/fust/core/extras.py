"""Parts of Fust that are installed when somebody wants them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[3]


def list_missing(packages: Sequence[str]) -> str:
    """Returns those that are not installed, with commas between them; empty when all are. Imports none."""
    return ", ".join(name for name in packages if importlib.util.find_spec(name) is None)


def install_command(extra: str) -> str:
    """Returns what an administrator types to add ``extra``, a name of ``[project.optional-dependencies]``.

    In a checkout that `make up` installed, pip of another environment would bring a second Fust and leave this one as it is.
    """
    if Path(sys.prefix).resolve() == _CHECKOUT / ".venv":
        return f"make install WITH={extra}"
    return f"pip install 'fust[{extra}]'"
