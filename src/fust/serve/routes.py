"""`/fust/v1/deployments`: which models are served."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, delete, get, patch, post
from litestar.datastructures import State
from litestar.types import ControllerRouterHandler

from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.clock import iso
from fust.core.errors import InvalidInput
from fust.core.i18n import Language, accepted_language
from fust.serve.deployment import Deployment as Served
from fust.serve.engine_routes import handlers as engine_handlers
from fust.serve.engines.kinds import get_kind
from fust.serve.offer_routes import handlers as offer_handlers
from fust.serve.service import Serve

AnyRequest = Request[object, object, State]


class Adapter(msgspec.Struct):
    """An adapter beside a model: `deployment:name` at the API."""

    name: str
    repo_id: str
    file: str
    revision: str
    size_bytes: int
    state: str
    """`ready`, `loading`, `idle` (loads with its base) or `failed`."""
    error: str | None
    by_request: bool
    """Attached by a request that named it."""


class Deployment(msgspec.Struct):
    """A model at the API."""

    id: str
    name: str
    alias: str | None
    repo_id: str
    file: str
    revision: str
    state: str
    """`loading`, `ready`, `idle` (loads at the next request), `failed` or `stopped`."""
    pinned: bool
    private: bool
    engine: str
    context: int
    slots: int
    threads: int
    size_bytes: int
    memory_bytes: int
    started_at: str | None
    created_at: str | None
    last_used_at: str | None
    error: str | None
    note: str | None
    """What happened to it, in words."""
    pooling: str
    has_chat_template: bool | None
    """Null until its file was read."""
    why: list[str]
    """What was chosen for it, and why."""
    tokens_per_s: float
    busy: int
    """Requests that are on it now; those beyond `slots` wait for one."""
    options: dict[str, Any]
    """What an engine without a file was told; never its key."""
    adapters: list[Adapter]
    """Those that the caller may read."""
    capabilities: list[str]
    """What it can: `chat`, `embeddings`, `vision` and so on; empty until its file was read."""


class DeploymentList(msgspec.Struct):
    """All models at the API that the caller may see."""

    items: list[Deployment]


class NewDeployment(msgspec.Struct, forbid_unknown_fields=True):
    """What to serve."""

    repo_id: str = ""
    file: str | None = None
    """Path of a GGUF file, or the end of its name; without it the largest that fits is taken."""
    revision: str | None = None
    alias: str | None = None
    engine: str | None = None
    """Kind of engine; without it the one that fits the files."""
    pin: bool = False
    """Never unloaded to make room, and loaded at the start of the server."""
    name: str = ""
    """In the place of `repo_id`, for an engine that serves no file of the hub (`echo`, `upstream`)."""
    options: dict[str, Any] | None = None
    """What such an engine is told; a key in it is sealed and never shown again."""


class DeploymentChange(msgspec.Struct, forbid_unknown_fields=True):
    """What to change; what is left out stays."""

    pinned: bool | None = None
    alias: str | None = None
    """An empty one takes it away."""


class EngineLog(msgspec.Struct):
    """The end of what one engine of a deployment wrote."""

    mode: str
    """`generate`, `embed` or `score`."""
    text: str


class EngineLogs(msgspec.Struct):
    """The logs of a deployment's engines."""

    items: list[EngineLog]


class NewAdapter(msgspec.Struct, forbid_unknown_fields=True):
    """An adapter to put beside a model."""

    repo_id: str
    file: str | None = None
    """Path of a GGUF file; without it PEFT's adapter is taken, else the largest GGUF."""
    revision: str | None = None
    name: str | None = None
    """What stands behind the colon; without it the repo's name without its owner."""


class AdapterList(msgspec.Struct):
    """The adapters of a model that the caller may read."""

    items: list[Adapter]


def draw(served: Served, language: Language) -> Deployment:
    """Returns a deployment as the wire has it."""
    return Deployment(
        id=served.id,
        name=served.name,
        alias=served.alias,
        repo_id=served.repo_id,
        file=served.file,
        revision=served.revision,
        state=served.state,
        pinned=served.pinned,
        private=served.private,
        engine=served.engine,
        context=served.context,
        slots=served.slots,
        threads=served.threads,
        size_bytes=served.size_bytes,
        memory_bytes=served.memory_bytes,
        started_at=iso(served.started_at),
        created_at=iso(served.created_at),
        last_used_at=iso(served.last_used_at),
        error=served.error.sentence(language) if served.error else None,
        note=served.note.draw(language) if served.note else None,
        pooling=served.pooling,
        has_chat_template=served.facts.has_chat_template if served.facts else None,
        why=[item.draw(language) for item in served.why],
        tokens_per_s=served.tokens_per_s,
        busy=served.busy,
        options=msgspec.json.decode(served.options),
        adapters=_draw_adapters(served, language),
        capabilities=sorted(get_kind(served.engine).offers(served.facts)) if served.facts else [],
    )


def _draw_adapters(served: Served, language: Language) -> list[Adapter]:
    return [
        Adapter(
            adapter.name,
            adapter.repo_id,
            adapter.file,
            adapter.revision,
            adapter.size_bytes,
            adapter.state,
            adapter.error.sentence(language) if adapter.error else None,
            adapter.by_request,
        )
        for adapter in served.adapters
    ]


def _language(request: AnyRequest) -> Language:
    return accepted_language(request.headers.get("accept-language"))


@get("/fust/v1/deployments", sync_to_thread=True, tags=["deployments"])
def list_deployments(
    request: AnyRequest, serve: Serve, accounts: Accounts, identity: Identity
) -> DeploymentList:
    """Models at the API."""
    accounts.require(identity, "read")
    language = _language(request)
    return DeploymentList([draw(served, language) for served in serve.list_deployments(identity)])


@post("/fust/v1/deployments", sync_to_thread=True, tags=["deployments"])
def create_deployment(
    request: AnyRequest, serve: Serve, identity: Identity, data: NewDeployment
) -> Deployment:
    """Serves a model; it loads meanwhile. The same model again brings it to the revision of now."""
    if data.name:
        if data.repo_id or data.file or data.revision:
            raise InvalidInput("A deployment has a repo_id or a name, not both.", param="name")
        served = serve.deploy_bare(
            identity, data.name, data.engine or "", data.options or {}, alias=data.alias or None, pin=data.pin
        )
        return draw(served, _language(request))
    if data.options is not None:
        raise InvalidInput("Options go with a name, not with a model of the hub.", param="options")
    served = serve.deploy(
        identity,
        data.repo_id,
        file=data.file or None,
        revision=data.revision or None,
        alias=data.alias or None,
        engine=data.engine or None,
        pin=data.pin,
    )
    return draw(served, _language(request))


@get("/fust/v1/deployments/{deployment_id:str}", sync_to_thread=True, tags=["deployments"])
def get_deployment(
    request: AnyRequest, serve: Serve, accounts: Accounts, identity: Identity, deployment_id: str
) -> Deployment:
    """One model at the API."""
    accounts.require(identity, "read")
    return draw(serve.get_deployment(identity, deployment_id), _language(request))


@delete("/fust/v1/deployments/{deployment_id:str}", sync_to_thread=True, tags=["deployments"])
def delete_deployment(serve: Serve, identity: Identity, deployment_id: str) -> None:
    """Takes a model off the API; its files stay in the hub."""
    serve.remove(identity, deployment_id)


@patch("/fust/v1/deployments/{deployment_id:str}", sync_to_thread=True, tags=["deployments"])
def change_deployment(
    request: AnyRequest, serve: Serve, identity: Identity, deployment_id: str, data: DeploymentChange
) -> Deployment:
    """Pins a model, lets it go, or names it anew."""
    served = serve.change(identity, deployment_id, pinned=data.pinned, alias=data.alias)
    return draw(served, _language(request))


@post(
    "/fust/v1/deployments/{deployment_id:str}/load",
    status_code=200,
    sync_to_thread=True,
    tags=["deployments"],
)
def load_deployment(request: AnyRequest, serve: Serve, identity: Identity, deployment_id: str) -> Deployment:
    """Loads a model now, not at the next request."""
    return draw(serve.load(identity, deployment_id), _language(request))


@post(
    "/fust/v1/deployments/{deployment_id:str}/unload",
    status_code=200,
    sync_to_thread=True,
    tags=["deployments"],
)
def unload_deployment(
    request: AnyRequest, serve: Serve, identity: Identity, deployment_id: str
) -> Deployment:
    """Frees a model's memory, and ends its requests; the next one loads it again."""
    return draw(serve.unload(identity, deployment_id), _language(request))


@get("/fust/v1/deployments/{deployment_id:str}/logs", sync_to_thread=True, tags=["deployments"])
def get_deployment_logs(serve: Serve, identity: Identity, deployment_id: str) -> EngineLogs:
    """The end of what its engines wrote; for those who may stop it."""
    logs = serve.read_logs(identity, deployment_id)
    return EngineLogs([EngineLog(mode, text) for mode, text in logs.items()])


@get("/fust/v1/deployments/{deployment_id:str}/adapters", sync_to_thread=True, tags=["deployments"])
def list_adapters(
    request: AnyRequest, serve: Serve, accounts: Accounts, identity: Identity, deployment_id: str
) -> AdapterList:
    """Adapters beside one model."""
    accounts.require(identity, "read")
    return AdapterList(_draw_adapters(serve.get_deployment(identity, deployment_id), _language(request)))


@post("/fust/v1/deployments/{deployment_id:str}/adapters", sync_to_thread=True, tags=["deployments"])
def add_adapter(
    request: AnyRequest, serve: Serve, identity: Identity, deployment_id: str, data: NewAdapter
) -> Deployment:
    """Puts an adapter beside a model; no request fails meanwhile. The same repo again brings it to the revision of now."""
    served = serve.add_adapter(
        identity,
        deployment_id,
        data.repo_id,
        file=data.file or None,
        revision=data.revision or None,
        name=data.name or None,
    )
    return draw(served, _language(request))


@delete(
    "/fust/v1/deployments/{deployment_id:str}/adapters/{name:str}", sync_to_thread=True, tags=["deployments"]
)
def remove_adapter(serve: Serve, identity: Identity, deployment_id: str, name: str) -> None:
    """Takes an adapter off a model; its files stay in the hub."""
    serve.remove_adapter(identity, deployment_id, name)


handlers: list[ControllerRouterHandler] = [
    *engine_handlers,
    *offer_handlers,
    list_deployments,
    create_deployment,
    get_deployment,
    delete_deployment,
    change_deployment,
    load_deployment,
    unload_deployment,
    get_deployment_logs,
    list_adapters,
    add_adapter,
    remove_adapter,
]
