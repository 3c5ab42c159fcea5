"""The one dial for effort, `--budget`: time, such as `30m`, or tokens, such as `2Mtok`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fust.core.errors import InvalidInput

_BUDGET = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(?:(s|m|min|h)|([kKMBG]?)\s*tok(?:ens?)?)\s*$")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_TIMES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9}


@dataclass(frozen=True, slots=True)
class Budget:
    """How much is to be spent on a run at most; None: not said in this unit."""

    seconds: float | None = None
    tokens: int | None = None
    """That are trained on, counted again whenever they are read again; padding is none."""


def parse_budget(text: str) -> Budget:
    """Returns the budget for `45s`, `30m`, `2h`, `500ktok` or `2M tokens`; of nothing, none.

    Raises:
        InvalidInput: not of that form, or nothing at all.

    """
    if not text:
        return Budget()
    match = _BUDGET.match(text)
    amount = float(match[1]) if match else 0.0
    if match and match[2] and amount:
        return Budget(seconds=amount * _SECONDS[match[2]])
    tokens = int(amount * _TIMES[match[3] or ""]) if match else 0
    if not 1 <= tokens <= 10**15:
        raise InvalidInput(
            "{value!r} is neither a time nor a number of tokens.",
            hint="Write it like 45s, 30m or 2h, or like 500ktok or 2Mtok.",
            value=text[:50],
        )
    return Budget(tokens=tokens)
