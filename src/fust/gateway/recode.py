"""Images decoded, in a process of its own: for what engines do not read (WebP, EXIF's turns) and for smaller copies.

A decoder is given bytes of strangers, so it works where it can break nothing: a child with little memory and time.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

from fust.core.errors import InvalidInput, Unsupported
from fust.core.extras import install_command

_PATIENCE_S = 30.0


def recode(data: bytes, kind: str, most_side: int, param: str) -> bytes:
    """Returns an image upright, as PNG or JPEG; an animation's first picture.

    Args:
        data: its size was checked by its header.
        kind: `png`, `jpeg`, `gif` or `webp`: no other decoder is tried.
        most_side: it is made smaller when one of its sides has more pixels; 0: it stays as it is.
        param: the field that holds it.

    Raises:
        Unsupported: Pillow is not installed.
        InvalidInput: it cannot be decoded.
    """
    if importlib.util.find_spec("PIL") is None:
        raise Unsupported(
            "{param} has to be decoded first, and Pillow is not installed here.",
            hint="Send PNG, GIF or an upright JPEG with detail `auto`, or let an administrator install it: {command}",
            command=install_command("images"),
            param=param,
        )
    command = [sys.executable, "-m", "fust.gateway.recode_child", kind.upper(), str(most_side)]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=_PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode or not done.stdout:
        raise InvalidInput(
            "{param} cannot be decoded: it is damaged.",
            hint="Save it anew, as PNG or JPEG.",
            param=param,
            code="invalid_image",
        )
    return done.stdout
