"""The process that decodes an image: `python -m fust.gateway.recode_child KIND MOST_SIDE` from standard input to output."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from typing import Any

_MEMORY_BYTES = 1 << 30
_CPU_S = 20
_LARGE = 2_000_000
"""Pixels."""


def bound() -> None:
    """Bounds memory and time of this process."""
    if sys.platform == "linux":
        import resource

        for kind, limit in ((resource.RLIMIT_DATA, _MEMORY_BYTES), (resource.RLIMIT_CPU, _CPU_S)):
            with contextlib.suppress(OSError, ValueError):  # a lower bound of the system's own stays
                resource.setrlimit(kind, (limit, limit))


def main(kind: str, most_side: int) -> None:
    """Writes the image upright, as PNG; a large one as JPEG, which takes a tenth of it."""
    bound()
    image_module: Any = importlib.import_module("PIL.Image")
    image_ops: Any = importlib.import_module("PIL.ImageOps")
    with image_module.open(io.BytesIO(sys.stdin.buffer.read()), formats=[kind]) as lying:
        opened = image_ops.exif_transpose(lying)
        image = opened.convert("RGB") if not opened.has_transparency_data else None
        if image is None:  # engines drop what is transparent and show what it hid
            ground = image_module.new("RGBA", opened.size, "white")
            image = image_module.alpha_composite(ground, opened.convert("RGBA")).convert("RGB")
    if most_side:
        image.thumbnail((most_side, most_side))
    if image.width * image.height > _LARGE:
        image.save(sys.stdout.buffer, "JPEG", quality=95)
    else:
        image.save(sys.stdout.buffer, "PNG", compress_level=1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
