"""Sizes and spans as people write and read them."""

from __future__ import annotations

import re

from fust.core.errors import InvalidInput
from fust.core.i18n import Words

_FACTORS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_SIZE = re.compile(r"^\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([kmgt]i?)?b?\s*$", re.IGNORECASE)


def read_number(text: str) -> int | None:
    """Returns the number that decimal digits from outside write, None when there is anything else.

    One of more than 18 digits counts as 10**18: no length is longer, and Python refuses to read thousands of digits
    (docs.python.org, "Integer string conversion length limitation").
    """
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0")
    return int(digits or "0") if len(digits) <= 18 else 10**18


def parse_size(text: str) -> int:
    """Returns bytes for `512`, `20GB`, `1.5 GiB`.

    Raises:
        InvalidInput: not of that form.

    """
    match = _SIZE.match(text)
    if not match:
        raise InvalidInput("{value!r} is not a size.", hint="Write it like 512MB or 20GiB.", value=text[:50])
    return int(float(match[1]) * _FACTORS[(match[2] or "").lower()])


def show_size(size_bytes: float) -> str:
    """Returns `1.5 GB`, decimal units, three significant figures."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def show_span(seconds: float) -> str:
    """Returns `under 1 s`, `45 s`, `3 min 20 s`, `2 h 5 min`."""
    return str(span_words(seconds))


def span_words(seconds: float) -> Words:
    """Returns the same for a field of a message, which is drawn in its reader's language."""
    whole = round(seconds)
    if whole < 1:
        return Words("under 1 s")
    if whole < 60:
        return Words("{seconds} s", seconds=whole)
    if whole < 3600:
        return Words("{minutes} min {seconds} s", minutes=whole // 60, seconds=whole % 60)
    return Words("{hours} h {minutes} min", hours=whole // 3600, minutes=whole % 3600 // 60)


def show_seconds(seconds: float) -> str:
    """Returns `2.41`, and of less than a tenth its first figures, such as `0.0031`."""
    return f"{seconds:.2f}" if seconds >= 0.1 or not seconds else f"{seconds:.2g}"


def hours_words(hours: float) -> Words:
    """Returns `12.34`, and of a little work, which is not nothing, `under 0.01`; for a field of a message."""
    return Words("under 0.01") if 0 < hours < 0.005 else Words("{hours}", hours=f"{hours:.2f}")
