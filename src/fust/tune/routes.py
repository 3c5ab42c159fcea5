"""`/fust/v1/tune`: which models can be tuned on this machine, and how tuning runs go."""

from __future__ import annotations

from typing import Annotated, Any, cast, get_args

import msgspec
from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.params import Parameter
from litestar.types import ControllerRouterHandler

from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.errors import InvalidInput, NotFound
from fust.core.i18n import Language, accepted_language
from fust.core.settings import Settings
from fust.hub.service import Hub
from fust.jobs.models import RunRow
from fust.jobs.service import Jobs
from fust.jobs.supervisor import budget_of
from fust.tune.bases import TunableBase, list_bases
from fust.tune.job import Desk
from fust.tune.recipe import Method
from fust.tune.watch import Points, Tuning, read_points, read_tuning, write_csv

AnyRequest = Request[object, object, State]


class BaseList(msgspec.Struct):
    """Models in safetensors that the caller may read."""

    items: list[TunableBase]
    memory_bytes: int
    """What runs may take together."""


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """What a tuning would be asked."""

    params: dict[str, Any]
    """As of a run of the kind `tune`; `data` may be a data set that is yet to come."""


class Possible(msgspec.Struct):
    """Nothing speaks against it."""

    memory_bytes: int
    """What it would take at most; 0 of what begins from nothing, whose size follows from the rows."""


def _language(request: AnyRequest) -> Language:
    return accepted_language(request.headers.get("accept-language"))


@get("/fust/v1/tune/bases", sync_to_thread=True, tags=["tune"])
def list_tunable_bases(
    request: AnyRequest,
    hub: Hub,
    accounts: Accounts,
    settings: Settings,
    identity: Identity,
    method: Annotated[str, Parameter(query="method")] = "lora",
) -> BaseList:
    """Models that can be tuned, those that fit this machine first; of the others, why not."""
    accounts.require(identity, "read")
    if method not in get_args(Method):
        raise InvalidInput(
            "There is no method {method!r}.", hint="There are: {methods}.", method=method[:50], methods=", ".join(get_args(Method))
        )  # fmt: skip
    room = budget_of(settings).memory_bytes
    return BaseList(list_bases(hub, identity, cast(Method, method), room, _language(request)), room)


@post("/fust/v1/tune/check", status_code=200, sync_to_thread=True, tags=["tune"])
def check_tuning(hub: Hub, accounts: Accounts, jobs: Jobs, identity: Identity, data: Question) -> Possible:
    """Refuses what a run would refuse, rows apart, so that a client need not bring rows in vain; starts nothing."""
    return Possible(Desk(hub, accounts, jobs).check(identity, data.params))


@get("/fust/v1/tune/runs/{run_id:str}", sync_to_thread=True, tags=["tune"])
def get_tuning(request: AnyRequest, jobs: Jobs, identity: Identity, run_id: str) -> Tuning:
    """What a tuning run decided, and why."""
    row = _tuning(jobs, identity, run_id)
    return read_tuning(jobs.folder(row.id), row.result, _language(request))


@get("/fust/v1/tune/runs/{run_id:str}/points", sync_to_thread=True, tags=["tune"])
def get_points(
    jobs: Jobs, identity: Identity, run_id: str, offset: Annotated[int, Parameter(ge=0)] = 0
) -> Points:
    """How a tuning run goes, step by step, and what it wrote on the way."""
    folder = jobs.folder(_tuning(jobs, identity, run_id).id)
    return read_points(folder, min(offset, folder.events_size()))


@get("/fust/v1/tune/runs/{run_id:str}/points.csv", media_type="text/csv", sync_to_thread=True, tags=["tune"])
def get_points_csv(jobs: Jobs, identity: Identity, run_id: str) -> Response[str]:
    """Every step of a tuning run as CSV."""
    row = _tuning(jobs, identity, run_id)
    name = {"content-disposition": f'attachment; filename="{row.id}.csv"'}
    return Response(write_csv(jobs.folder(row.id)), media_type="text/csv", headers=name)


def _tuning(jobs: Jobs, identity: Identity, run_id: str) -> RunRow:
    row = jobs.get(identity, run_id)
    if row.kind != "tune":
        raise NotFound("The run {id} tunes nothing.", hint="`fust jobs` lists yours.", id=run_id[:50])
    return row


handlers: list[ControllerRouterHandler] = [
    list_tunable_bases,
    check_tuning,
    get_tuning,
    get_points,
    get_points_csv,
]
