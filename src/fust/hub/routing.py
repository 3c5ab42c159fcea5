"""Which handler answers a method and a path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Handler = Callable[..., Any]
Reader = Literal["hub", "git", "lfs", "page"]

BODY = 4_000_000
"""Bytes of a usual JSON body."""
REPO = "/api/{type}/{owner}/{name}"
GIT_BASES = tuple(
    f"{prefix}/{{owner}}/{{name}}{suffix}"
    for prefix in ("", "/datasets", "/spaces")
    for suffix in (".git", "")  # git itself leaves out `.git` when the URL that it was given has none
)
_PLURALS = frozenset({"models", "datasets", "spaces"})


@dataclass(frozen=True, slots=True)
class Route:
    """A method, a path and who answers. `{type}` is models, datasets or spaces; `{x*}` takes the rest."""

    method: str
    pattern: str
    handler: Handler
    body_bytes: int = 0
    """Body read into memory before the handler is called; 0: none, or the handler streams it itself."""
    errors: Reader = "hub"
    """Whose client reads a refusal."""


class RouteTable:
    """Routes by method and number of parts, each pattern split once; of several that fit the first counts."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._routes = [(route, route.pattern.lstrip("/").split("/")) for route in routes]
        self._fitting: dict[tuple[str, int], list[tuple[Route, list[str]]]] = {}

    def find(self, method: str, segments: list[str]) -> tuple[Route, dict[str, str]] | None:
        """Returns the first route that fits, and its parameters."""
        key = (method, min(len(segments), 30))
        if key not in self._fitting:
            if len(self._fitting) > 500:  # methods are made up by strangers
                self._fitting.clear()
            self._fitting[key] = [
                (route, parts)
                for route, parts in self._routes
                if route.method == method
                and (len(parts) == key[1] or (len(parts) <= key[1] and parts[-1].endswith("*}")))
            ]
        for route, pattern in self._fitting[key]:
            params = _match(pattern, segments)
            if params is not None:
                return route, params
        return None


def _match(pattern: list[str], segments: list[str]) -> dict[str, str] | None:
    params: dict[str, str] = {}
    for i, part in enumerate(pattern):
        if not part.startswith("{"):
            if part != segments[i]:
                return None
        elif part == "{type}":
            if segments[i] not in _PLURALS:
                return None
            params["type"] = segments[i][:-1]
        elif part.endswith("*}"):
            params[part[1:-2]] = "/".join(segments[i:])
        elif part.endswith(".git"):
            if not segments[i].endswith(".git"):
                return None
            params[part[1:-5]] = segments[i][:-4]
        elif not segments[i]:
            return None
        else:
            params[part[1:-1]] = segments[i]
    if "owner" in params and "type" not in params:
        params["type"] = segments[0][:-1] if pattern[0] in _PLURALS else "model"
    return params
