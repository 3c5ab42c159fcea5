"""`/api/{type}`: lists of repos with the Hub's filters, sorts and pages, and `/api/{type}-tags-by-type`.

Filters that need more than a row (parameters, apps, inference) are asked of each repo that the others leave.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast

from fust.core.errors import FustError, InvalidInput
from fust.core.ids import RepoType, check_repo_type
from fust.hub.api.common import expanded, next_link
from fust.hub.api.properties import draw_property
from fust.hub.draw import Json, draw_repo
from fust.hub.http import Reply, Request, Surface, json_reply, number
from fust.hub.routing import Route
from fust.hub.types import RepoInfo, Sort

_SORTS: dict[str, Sort] = {
    "lastModified": "updated",
    "last_modified": "updated",
    "updatedAt": "updated",
    "createdAt": "created",
    "created_at": "created",
    "downloads": "downloads",
    "likes": "likes",
    "trendingScore": "trending",
    "trending_score": "trending",
}
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_OF_GGUF = frozenset(
    {"llama.cpp", "ollama", "lmstudio", "jan", "koboldcpp", "llama-cpp-python", "node-llama-cpp"}
)
_OF_SAFETENSORS = frozenset({"vllm", "sglang", "tgi", "transformers", "mlx-lm", "docker-model-runner"})


def list_repos(surface: Surface, request: Request, type: RepoType) -> Reply:
    """`GET /api/{type}`: by `search`, `author`, `filter`, `gated`, `num_parameters`, `apps`, `inference` and more."""
    query = request.query
    tags = [*request.query_lists.get("filter", [])]
    tags += [tag for tag in (query.get("pipeline_tag"), query.get("library")) if tag]
    for kind in ("models", "datasets"):  # spaces that use one
        tags += [f"{kind[:-1]}:{name}" for name in request.query_lists.get(kind, [])]
    gated = query.get("gated", "").lower()
    page = surface.hub.repos.list_page(
        request.identity,
        type,
        search=" ".join(request.query_lists.get("search", [])),
        author=query.get("author", ""),
        tags=[part for tag in tags for part in tag.split(",") if part],
        sort=_sort(query.get("sort")),
        limit=number(query.get("limit"), 100, 1, 1000),
        cursor=query.get("cursor"),
        gated=None if gated not in ("true", "false") else gated == "true",
        keep=_keep(surface, request),
    )
    wanted = expanded(request)
    drawn = [_draw(surface, request, info, wanted) for info in page.items]
    return json_reply(drawn, headers=next_link(surface, request, page.next))


def _sort(asked: str | None) -> Sort:
    if not asked:
        return "trending" if asked == "" else "updated"
    if asked not in _SORTS:
        raise InvalidInput(
            "{sort!r} is not an order.",
            hint="Use lastModified, createdAt, downloads, likes or trendingScore.",
            sort=asked[:50],
        )
    return _SORTS[asked]


def _draw(surface: Surface, request: Request, info: RepoInfo, wanted: list[str]) -> Json:
    drawn = draw_repo(info)
    if wanted:
        kept: Json = {key: drawn[key] for key in ("_id", "id") if key in drawn}
        for name in wanted:
            draw_property(surface, info, info.head_oid, name, drawn, kept)
        return kept
    for flag, names in (("full", ("siblings",)), ("cardData", ("cardData",)), ("config", ("config",))):
        if request.flag(flag):
            for name in names:
                draw_property(surface, info, info.head_oid, name, drawn, drawn)
    return drawn


# Filters that look at more than a row


def _keep(surface: Surface, request: Request) -> Callable[[RepoInfo], bool] | None:
    tests: list[Callable[[RepoInfo], bool]] = []
    if request.query.get("num_parameters"):
        low, high = _range(request.query["num_parameters"])
        tests.append(lambda info: low <= _parameters(surface, info) <= high)
    apps = {app.lower() for text in request.query_lists.get("apps", []) for app in text.split(",")}
    if apps:
        tests.append(lambda info: all(_runs_in(info, app) for app in apps))
    if request.query.get("inference") or request.query_lists.get("inference_provider"):
        tests.append(lambda info: surface.hub.find_deployment(info) is not None)
    if not tests:
        return None
    return lambda info: all(test(info) for test in tests)


def _range(text: str) -> tuple[int, float]:
    """Returns the bounds of `min:6B,max:128B`; either may be left out."""
    low, high = 0, float("inf")
    for part in text.split(","):
        match = re.fullmatch(r"\s*(min|max):([0-9]{1,12}(?:\.[0-9]{1,6})?)([KMBT]?)\s*", part)
        if not match:
            raise InvalidInput(
                "{text!r} is not a range.", hint="Write it as min:6B,max:128B.", text=text[:100]
            )
        value = int(float(match[2]) * _UNITS[match[3]])
        low, high = (value, high) if match[1] == "min" else (low, value)
    return low, high


def _parameters(surface: Surface, info: RepoInfo) -> int:
    """Returns the parameters that the weights' headers tell of; -1 when none does."""
    found: Json = {}
    try:
        for name in ("safetensors", "gguf"):
            draw_property(surface, info, info.head_oid, name, {}, found)
    except FustError:
        return -1
    totals = [cast("Json", part).get("total") for part in found.values() if isinstance(part, dict)]
    return max((total for total in totals if isinstance(total, int)), default=-1)


def _runs_in(info: RepoInfo, app: str) -> bool:
    if app in _OF_GGUF:
        return "gguf" in info.formats
    return app in _OF_SAFETENSORS and "safetensors" in info.formats


# Tags


def tags_by_type(surface: Surface, request: Request, type: str) -> Reply:
    """`GET /api/models-tags-by-type`, `/api/datasets-tags-by-type`: the tags of repos that the caller sees."""
    kinds: dict[str, set[str]] = {
        "pipeline_tag": set(),
        "library": set(),
        "language": set(),
        "license": set(),
        "other": set(),
    }
    cursor: str | None = None
    while True:
        page = surface.hub.list_repos(request.identity, check_repo_type(type), limit=1000, cursor=cursor)
        for info in page.items:
            kinds["pipeline_tag"].add(info.task)
            kinds["library"].add(info.library)
            kinds["language"].update(info.languages)
            kinds["license"].add(f"license:{info.licence}" if info.licence else "")
            kinds["other"].update(info.tags)
        cursor = page.next
        if cursor is None:
            break
    drawn = {
        kind: [
            {"id": tag, "label": tag.removeprefix("license:"), "type": kind} for tag in sorted(tags - {""})
        ]
        for kind, tags in kinds.items()
    }
    return json_reply(drawn)


def _models_tags(surface: Surface, request: Request) -> Reply:
    """`GET /api/models-tags-by-type`: the tags of models that the caller sees."""
    return tags_by_type(surface, request, "models")


def _datasets_tags(surface: Surface, request: Request) -> Reply:
    """`GET /api/datasets-tags-by-type`: the tags of datasets that the caller sees."""
    return tags_by_type(surface, request, "datasets")


# What a name holds


def own_repos(surface: Surface, request: Request) -> Reply:
    """`GET /api/settings/repositories`: the caller's repos and their sizes."""
    surface.accounts.require(request.identity, "read")
    return _storage(surface, request, request.identity.user or "")


def repos_of(surface: Surface, request: Request, space: str) -> Reply:
    """`GET /api/organizations/{name}/settings/repositories`: an organisation's repos and their sizes."""
    surface.accounts.require(request.identity, "read")
    return _storage(surface, request, space)


def _storage(surface: Surface, request: Request, owner: str) -> Reply:
    page = surface.hub.list_repos(
        request.identity, None, author=owner, limit=1000, cursor=request.query.get("cursor")
    )
    total = sum(info.size_bytes for info in page.items)
    drawn = [
        {
            "id": info.repo_id,
            "type": info.type,
            "updatedAt": draw_repo(info)["lastModified"],
            "visibility": "private" if info.private else "public",
            "storage": info.size_bytes,
            "storagePercent": round(100 * info.size_bytes / total, 2) if total else 0,
        }
        for info in page.items
    ]
    return json_reply(drawn, headers=next_link(surface, request, page.next))


ROUTES = (
    Route("GET", "/api/models-tags-by-type", _models_tags),
    Route("GET", "/api/datasets-tags-by-type", _datasets_tags),
    Route("GET", "/api/settings/repositories", own_repos),
    Route("GET", "/api/organizations/{space}/settings/repositories", repos_of),
    Route("GET", "/api/{type}", list_repos),
)
