"""The upstream engine: an OpenAI-compatible API elsewhere as a model of this Fust, its key sealed and its bytes checked.

Whatever speaks `POST …/chat/completions` in OpenAI's form will do: vLLM, llama-server, Ollama, another Fust, hosted APIs.
Upstreams that speak Anthropic's API only are not reached.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from fust.core.errors import InvalidInput
from fust.core.settings import ServeSettings
from fust.hub.guard import is_private, resolve
from fust.serve.engines.bare import Wish, no_shape, read_options
from fust.serve.engines.base import Engine, EngineSpec, Mode
from fust.serve.engines.child_engine import ChildEngine
from fust.serve.facts import ModelFacts
from fust.serve.notes import note
from fust.serve.plan import Plan

CLAIMS: Mapping[Mode, frozenset[str]] = {
    "generate": frozenset(
        {"chat", "completions", "embeddings", "rerank", "json_schema", "logprobs", "tools", "vision"}
    ),
}
"""What one may be said to offer (`--can`); without a word all but `rerank` is asked of it, and its own refusals count."""
PROCESSES: Mapping[Mode, Mode] = {"generate": "generate", "embed": "generate"}
ASSUMED = CLAIMS["generate"] - {"rerank"}
_MEMORY_BYTES = 75_000_000  # interpreter, HTTP client and server, measured
_MOST_KEY = 8192


class UpstreamWish(msgspec.Struct, forbid_unknown_fields=True):
    """What a new deployment is told."""

    url: Annotated[str, msgspec.Meta(max_length=2000)]
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    key: Annotated[str, msgspec.Meta(max_length=_MOST_KEY)] = ""
    can: list[str] = []
    context: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0


class UpstreamOptions(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is kept of it, and shown."""

    url: str
    """Of its API, `/v1` included; no trailing slash."""
    model: str
    """What it calls the model."""
    can: list[str] = []
    """Some of `CLAIMS`; empty: what it says itself, else what is assumed."""
    context: int = 0
    """Tokens; 0: what it says itself, if it does."""
    private: bool = False
    """Whether it lives on a private address, named by an administrator."""
    has_key: bool = False


def read_wish(given: object) -> Wish:
    """Returns the options of a new deployment, checked."""
    wish = read_options("upstream", given, UpstreamWish)
    for word in wish.can:
        if word not in CLAIMS["generate"]:
            raise InvalidInput(
                "An upstream cannot be said to offer {word!r}.",
                hint="There are: {names}.",
                word=word[:100],
                names=", ".join(sorted(CLAIMS["generate"])),
                param="options.can",
            )
    if not wish.key.isascii() or not wish.key.isprintable() or " " in wish.key:
        raise InvalidInput("The key has characters that no header can carry.", param="options.key")
    url = wish.url.rstrip("/")
    host = _check_url(url)
    private = _is_within(host)
    if not private and url.startswith("http:"):
        raise InvalidInput(
            "{url} would send the key in the clear.", hint="Use https://.", url=url, param="options.url"
        )
    options = UpstreamOptions(url, wish.model, wish.can, wish.context, private, bool(wish.key))
    return Wish(msgspec.json.encode(options), wish.key, (host,) if private else ())


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, None
    if parts is None or not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise InvalidInput(
            "{url!r} is not the address of an API.",
            hint="It looks like https://api.example.org/v1.",
            url=url[:200],
            param="options.url",
        )
    if parts.username or parts.password:
        raise InvalidInput(
            "The address holds a password.",
            hint="Give the key by --key-env or --key-file.",
            param="options.url",
        )
    return host


def _is_within(host: str) -> bool:
    """Returns whether a host is on a private address as far as is known now; each connection asks again."""
    try:
        return is_private(str(ipaddress.ip_address(host)))
    except ValueError:
        pass
    try:
        return any(is_private(address) for address in resolve(host, 443))
    except (OSError, UnicodeError):
        return False  # the first request tells that it has none


def facts_of(options: bytes) -> ModelFacts:
    """Returns what stands for the shape of a model that nobody sees."""
    return no_shape("upstream", context=msgspec.json.decode(options, type=UpstreamOptions).context)


def plan_of(options: bytes, settings: ServeSettings) -> Plan:
    """Returns how it is started."""
    kept = msgspec.json.decode(options, type=UpstreamOptions)
    why = [note("Requests go to {url}, where the model is called {model}.", url=kept.url, model=kept.model)]
    if kept.private:
        why.append(note("It is on a private address that an administrator named."))
    if not kept.has_key:
        why.append(note("It is asked without a key."))
    return Plan("generate", kept.context, settings.slots, 1, "", _MEMORY_BYTES, tuple(why))


def make(spec: EngineSpec, home: Path) -> Engine:
    """Returns an engine that was not started."""
    return ChildEngine(spec, home, "fust.serve.engines.upstream_child", CLAIMS["generate"])
