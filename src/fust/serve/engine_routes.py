"""`/fust/v1/engines`: which kinds of engines serve models here, which llama.cpp answers, and how fast it was measured."""

from __future__ import annotations

import msgspec
from litestar import Request, get
from litestar.datastructures import State
from litestar.types import ControllerRouterHandler

from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.errors import NotOffered
from fust.core.i18n import accepted_language
from fust.core.settings import Settings
from fust.serve.engines.kinds import KINDS
from fust.serve.engines.native import WHEEL, find_server, read_build, wheel_version
from fust.serve.notes import Note, note
from fust.serve.service import Serve

AnyRequest = Request[object, object, State]


class EngineKind(msgspec.Struct):
    """A kind of engine."""

    name: str
    available: bool
    detail: str
    used: str
    """Of llama.cpp: `wheel`, `build`, or the path that the setting names; else empty."""
    ratio: float | None
    """How many times faster than the wheel the build here was measured; null when there is none."""


class EngineKinds(msgspec.Struct):
    """What serves models here."""

    items: list[EngineKind]


def describe(name: str, settings: Settings) -> tuple[bool, Note, str, float | None]:
    """Returns whether a kind is here, what there is to say of it, which server it uses, and the ratio of the build."""
    try:
        KINDS[name].check(settings.serve)
    except NotOffered as error:
        return (
            False,
            note(error.template, **{key: str(value) for key, value in error.params.items()}),
            "",
            None,
        )
    if name != "llamacpp":
        return True, note(""), "", None
    setting, build = settings.serve.llama_server, read_build(settings.home)
    ratio = round(build.ratio, 2) if build else None
    version = wheel_version()
    if setting and setting != WHEEL:
        return True, note("{path}: the setting serve.llama_server.", path=setting), setting, ratio
    if not version:
        return False, note("{packages} is not installed.", packages="xllamacpp"), "", ratio
    if build is None:
        return (
            True,
            note("The wheel {version}; `fust engines build` may make a faster one.", version=version),
            WHEEL,
            None,
        )
    if find_server(setting, settings.home):
        text = note(
            "Built for this machine: {ratio} times as fast as the wheel ({prompt} tokens/s of prompts, {decode} written).",
            ratio=ratio or 0,
            prompt=round(build.native.prompt),
            decode=round(build.native.decode),
        )
        return True, text, "build", ratio
    if setting == WHEEL:
        return (
            True,
            note("The wheel {version}: the setting serve.llama_server.", version=version),
            WHEEL,
            ratio,
        )
    if build.is_better:
        return (
            True,
            note("The wheel {version}; the build is of another version or processor.", version=version),
            WHEEL,
            ratio,
        )
    text = note(
        "The wheel {version}: the build was measured at {ratio} of its speed.",
        version=version,
        ratio=ratio or 0,
    )
    return True, text, WHEEL, ratio


@get("/fust/v1/engines", sync_to_thread=True, tags=["deployments"])
def list_engines(request: AnyRequest, serve: Serve, accounts: Accounts, identity: Identity) -> EngineKinds:
    """What serves models here."""
    accounts.require(identity, "read")
    language = accepted_language(request.headers.get("accept-language"))
    items: list[EngineKind] = []
    for name in KINDS:
        available, text, used, ratio = describe(name, serve.settings)
        items.append(EngineKind(name, available, text.draw(language), used, ratio))
    return EngineKinds(items)


handlers: list[ControllerRouterHandler] = [list_engines]
"""To be served beside the deployments."""
