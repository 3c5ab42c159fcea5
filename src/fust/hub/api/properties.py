"""The properties that `expand` can ask for (hf_api.py: ExpandModelProperty_T and its like), each read when wanted."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from fust.core.errors import FustError
from fust.hub.draw import Json
from fust.hub.http import Surface
from fust.hub.summary import read_card
from fust.hub.types import RepoInfo

_MAX_CONFIG_BYTES = 2_000_000
_EMPTY: dict[str, object] = {
    "downloadsAllTime": None,
    "spaces": [],
    "resourceGroup": None,
    "inferenceProviderMapping": [],
    "evalResults": [],
    "childrenModelCount": {},
    "models": [],
    "datasets": [],
}
"""What a hub without these things says of them."""


def draw_property(surface: Surface, info: RepoInfo, oid: str, name: str, known: Json, into: Json) -> None:
    """Puts one property of a repo at a commit into ``into``; what there is nothing of is left out."""
    if name in known:
        into[name] = known[name]
    elif name == "siblings":
        entries = surface.hub.content.open_repo(info).iter_tree(oid, recursive=True)
        into[name] = [{"rfilename": entry.path} for entry in entries if not entry.is_folder]
    elif name in ("safetensors", "gguf"):
        git = surface.hub.content.open_repo(info)
        entries = [entry for entry in git.iter_tree(oid, recursive=True) if not entry.is_folder]
        into |= {k: v for k, v in surface.formats.read(info, oid, entries).items() if k == name}
    elif name in ("cardData", "model-index", "widgetData", "citation", "paperswithcode_id", "baseModels"):
        _from_card(surface, info, oid, name, into)
    elif name in ("config", "transformersInfo", "mask_token"):
        _from_config(surface, info, oid, name, into)
    elif name == "usedStorage":
        into[name] = info.size_bytes
    elif name == "trendingScore":
        into[name] = info.likes * 10 + info.downloads
    elif name == "downloadsAllTime":
        into[name] = info.downloads
    elif name == "inference" and surface.hub.find_deployment(info) is not None:
        into[name] = "warm"
    elif name in _EMPTY:
        into[name] = _EMPTY[name]


def _from_card(surface: Surface, info: RepoInfo, oid: str, name: str, into: Json) -> None:
    data = read_card(surface.hub.content.open_repo(info), oid).data
    if name == "cardData":
        into[name] = data or None
        return
    key = {"widgetData": "widget", "baseModels": "base_model"}.get(name, name)
    value: object = data.get(key)
    if value is None:
        return
    if name == "baseModels":
        names = cast("list[object]", value) if isinstance(value, list) else [value]
        value = {
            "relation": str(data.get("base_model_relation", "finetune")),
            "models": [{"id": str(n)} for n in names],
        }
    into[name] = value


def _from_config(surface: Surface, info: RepoInfo, oid: str, name: str, into: Json) -> None:
    """Draws config.json as the Hub shows it: what it takes to know a model's class and its special tokens."""
    config = _json_at(surface, info, oid, "config.json")
    tokens = _json_at(surface, info, oid, "tokenizer_config.json")
    if name == "mask_token":
        token = tokens.get("mask_token")
        if isinstance(token, str):
            into[name] = token
        return
    if not config:
        return
    if name == "transformersInfo":
        architecture = next(iter(config.get("architectures") or []), None)
        if architecture:
            into[name] = {"auto_model": architecture, "pipeline_tag": info.task or None}
        return
    kept = {
        k: config[k]
        for k in ("architectures", "model_type", "quantization_config", "auto_map")
        if k in config
    }
    special = {k: v for k, v in tokens.items() if k.endswith("_token") or k == "chat_template"}
    into[name] = kept | ({"tokenizer_config": special} if special else {})


def _json_at(surface: Surface, info: RepoInfo, oid: str, path: str) -> dict[str, Any]:
    try:
        raw = surface.hub.read_file(info, path, oid, limit_bytes=_MAX_CONFIG_BYTES)
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (FustError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
