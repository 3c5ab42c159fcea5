"""`/fust/v1/deployments/plan`: what serving a model would take here, before it is done."""

from __future__ import annotations

import msgspec
from litestar import Request, get
from litestar.datastructures import State
from litestar.types import ControllerRouterHandler

from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.i18n import accepted_language
from fust.serve.offering import Fits
from fust.serve.service import Serve


class ServeOption(msgspec.Struct):
    """One model of a repo, as it could be served."""

    file: str
    """What to name in `POST /fust/v1/deployments`, with `engine`."""
    engine: str
    size_bytes: int
    memory_bytes: int
    """Estimate with the context and slots below; of a file whose header was not read a guess by its size."""
    context: int
    """Tokens of one request; 0 when unknown."""
    slots: int
    """Requests at a time; 0 when unknown."""
    fits: Fits
    """`smaller`: with fewer slots or a shorter context than the settings want."""
    error: str | None
    """Why it cannot be served."""
    chosen: bool
    """Taken when no file is named."""


class ServePlan(msgspec.Struct):
    """What serving a repo would mean now."""

    repo_id: str
    revision: str
    room_bytes: int
    """What an engine may take when all that is not pinned makes room."""
    items: list[ServeOption]
    why: list[str]
    """Why the chosen one, in words."""
    bases: list[str]
    """Of an adapter: what it calls its base, beside which it would be put."""
    error: str | None
    """Why nothing would be served; null when something would."""


@get("/fust/v1/deployments/plan", sync_to_thread=True, tags=["deployments"])
def plan_deployment(
    request: Request[object, object, State],
    serve: Serve,
    accounts: Accounts,
    identity: Identity,
    repo_id: str,
    revision: str = "",
) -> ServePlan:
    """What each model file of a repo would take here, which one would be served, and why; starts nothing."""
    accounts.require(identity, "read")
    found = serve.offers(identity, repo_id, revision or None)
    language = accepted_language(request.headers.get("accept-language"))
    items = [
        ServeOption(
            it.model.label,
            it.engine,
            it.model.size_bytes,
            it.plan.memory_bytes if it.plan else it.need.whole_bytes,
            it.plan.context if it.plan else 0,
            it.plan.slots if it.plan else 0,
            it.fits(found.room_bytes),
            it.refusal.sentence(language) if it.refusal else None,
            it is found.chosen,
        )
        for it in found.items
    ]
    return ServePlan(
        repo_id,
        found.revision,
        found.room_bytes,
        items,
        [note.draw(language) for note in found.why],
        list(found.bases),
        found.refusal.sentence(language) if found.refusal else None,
    )


handlers: list[ControllerRouterHandler] = [plan_deployment]
