"""Routes of `/v1` that ask no model: lists of models, and what clients asked to be kept. A table, and a function for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec

from fust.accounts.rights import Identity
from fust.core.clock import iso
from fust.core.errors import FustError, Gated, InvalidInput, NotFound
from fust.gateway.batches import Batches, draw_batch
from fust.gateway.files import Files, Upload, draw_anthropic_file, draw_file
from fust.gateway.models import FileRow
from fust.gateway.serving import CheckGate, gated_repos, may_use_entry, no_model
from fust.gateway.stored import Responses, no_response
from fust.wire.batches import BatchRequest
from fust.wire.body import decode_request
from fust.wire.openai import ModelObject, ModelObjects
from fust.wire.targets import ModelEntry, Targets

_BATCH = msgspec.json.Decoder(BatchRequest)


class MethodNotAllowed(FustError):
    """The path exists, with another method."""

    status = 405
    code = "method_not_allowed"


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the shelf, its caller known."""

    identity: Identity
    names: Mapping[str, str]
    """What stands in the braces of the route's pattern."""
    query: Mapping[str, str]
    body: bytes
    anthropic: bool
    """Whether the client speaks Anthropic's words."""
    upload: Upload | None = None
    """The file that the request brought."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """What the functions of this module reach into."""

    targets: Targets
    responses: Responses | None
    check_gate: CheckGate
    files: Files
    batches: Batches
    wake: Callable[[], None]
    """Tells whoever works on batches that there is something to do."""


# Models


def list_models(shelf: Shelf, call: Call) -> object:
    """The models that the caller may use, with their aliases."""
    entries = [(entry, name) for entry in _visible(shelf, call) for name in (entry.name, *entry.aliases)]
    if call.anthropic:
        listed = [_anthropic_model(entry, name) for entry, name in entries]
        ends = {"first_id": listed[0]["id"], "last_id": listed[-1]["id"]} if listed else {}
        return {"data": listed, "has_more": False, "first_id": None, "last_id": None, **ends}
    return ModelObjects([ModelObject(name, entry.created_s, entry.owned_by) for entry, name in entries])


def get_model(shelf: Shelf, call: Call) -> object:
    """One model."""
    name = call.names["id"]
    for entry in _visible(shelf, call):
        if name == entry.name or name in entry.aliases:
            if call.anthropic:
                return _anthropic_model(entry, name)
            return ModelObject(name, entry.created_s, entry.owned_by)
    raise no_model(name)


def _visible(shelf: Shelf, call: Call) -> list[ModelEntry]:
    return [
        entry
        for entry in shelf.targets.list_models()
        if may_use_entry(call.identity, entry) and _passes(shelf, call, entry)
    ]


def _passes(shelf: Shelf, call: Call, entry: ModelEntry) -> bool:
    try:
        for repo_id in gated_repos(entry):
            shelf.check_gate(call.identity, repo_id)
    except (Gated, NotFound):  # not let in; or its repo has gone or moved within the last second
        return False
    return True


def _anthropic_model(entry: ModelEntry, name: str) -> dict[str, Any]:
    created = datetime.fromtimestamp(entry.created_s, UTC)
    return {"type": "model", "id": name, "display_name": name, "created_at": iso(created)}


# Responses


def get_response(shelf: Shelf, call: Call) -> object:
    """A kept response, as it was answered."""
    return _responses(shelf, call).get(call.identity, call.names["id"]).body


def delete_response(shelf: Shelf, call: Call) -> object:
    """Forgets a kept response."""
    _responses(shelf, call).delete(call.identity, call.names["id"])
    return {"id": call.names["id"], "object": "response", "deleted": True}


def list_input_items(shelf: Shelf, call: Call) -> object:
    """What was said to the model for a kept response."""
    items = _responses(shelf, call).get(call.identity, call.names["id"]).items["input"]
    return {
        "object": "list",
        "data": items,
        "has_more": False,
        "first_id": items[0]["id"],
        "last_id": items[-1]["id"],
    }


def cancel_response(shelf: Shelf, call: Call) -> object:
    """Answers 400: nothing runs in the background here."""
    _responses(shelf, call).get(call.identity, call.names["id"])
    raise InvalidInput("Only a response that runs in the background can be cancelled.")


def _responses(shelf: Shelf, call: Call) -> Responses:
    if shelf.responses is None:
        raise no_response(call.names["id"])
    return shelf.responses


# Files


def upload_file(shelf: Shelf, call: Call) -> object:
    """Takes a file for a batch, or an image (multipart/form-data)."""
    upload = call.upload
    assert upload is not None
    purpose, kept_s = upload.purpose_and_kept_s(anthropic=call.anthropic)
    return _file(shelf, call, shelf.files.add(call.identity, upload.id, upload.filename, purpose, kept_s))


def _file(shelf: Shelf, call: Call, row: FileRow) -> dict[str, Any]:
    return draw_anthropic_file(row, shelf.files.path(row.id)) if call.anthropic else draw_file(row)


def list_files(shelf: Shelf, call: Call) -> object:
    """The caller's files."""
    limit = _limit(call, 10_000, 10_000)
    oldest_first = _choice(call, "order", ("desc", "asc")) == "asc"
    rows = shelf.files.list_files(
        call.identity,
        call.query.get("purpose"),
        limit,
        call.query.get("after_id" if call.anthropic else "after"),
        oldest_first=oldest_first,
    )
    page = _page([_file(shelf, call, row) for row in rows], limit)
    if call.anthropic:
        page.pop("object", None)
    return page


def get_file(shelf: Shelf, call: Call) -> object:
    """One file's size, name and purpose."""
    return _file(shelf, call, shelf.files.get(call.identity, call.names["id"]))


def get_content(shelf: Shelf, call: Call) -> object:
    """A file's bytes."""
    row = shelf.files.get(call.identity, call.names["id"])
    return shelf.files.path(row.id)


def delete_file(shelf: Shelf, call: Call) -> object:
    """Deletes a file."""
    shelf.files.delete(call.identity, call.names["id"])
    if call.anthropic:
        return {"id": call.names["id"], "type": "file_deleted"}
    return {"id": call.names["id"], "object": "file", "deleted": True}


# Batches


def create_batch(shelf: Shelf, call: Call) -> object:
    """Queues a batch."""
    row = shelf.batches.create(call.identity, decode_request(_BATCH, call.body))
    shelf.wake()
    return draw_batch(row)


def list_batches(shelf: Shelf, call: Call) -> object:
    """The caller's batches."""
    limit = _limit(call, 20, 100)
    rows = shelf.batches.list_batches(call.identity, limit, call.query.get("after"))
    return _page([draw_batch(row) for row in rows], limit)


def get_batch(shelf: Shelf, call: Call) -> object:
    """Where a batch stands."""
    return draw_batch(shelf.batches.get(call.identity, call.names["id"]))


def cancel_batch(shelf: Shelf, call: Call) -> object:
    """Ends a batch; what is answered by then stays."""
    row = shelf.batches.cancel(call.identity, call.names["id"])
    shelf.wake()
    return draw_batch(row)


def _limit(call: Call, default: int, most: int) -> int:
    given = call.query.get("limit", str(default))
    if not given.isdecimal() or not 1 <= int(given[:9]) <= most:
        raise InvalidInput(
            "{param} has a value that is not allowed: {reason}.",
            param="limit",
            reason=f"1 to {most} is wanted",
        )
    return int(given)


def _choice(call: Call, name: str, allowed: tuple[str, ...]) -> str:
    given = call.query.get(name, allowed[0])
    if given not in allowed:
        raise InvalidInput(
            "{param} has a value that is not allowed: {reason}.", param=name, reason=" or ".join(allowed)
        )
    return given


def _page(found: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    data = found[:limit]
    return {
        "object": "list",
        "data": data,
        "has_more": len(found) > limit,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


# The table


@dataclass(frozen=True, slots=True)
class Route:
    """A route and what answers it."""

    method: str
    pattern: str
    function: Callable[[Shelf, Call], object]

    def match(self, path: str) -> dict[str, str] | None:
        """Returns what stands in the pattern's braces; None when the path is another."""
        found = re.fullmatch(re.sub(r"\{(\w+)(\*?)\}", _group, self.pattern), path)
        return {name: unquote(value) for name, value in found.groupdict().items()} if found else None


def _group(match: re.Match[str]) -> str:
    return f"(?P<{match[1]}>{'.+' if match[2] else '[^/]+'})"


ROUTES = (
    Route("GET", "/v1/models", list_models),
    Route("GET", "/v1/models/{id*}", get_model),
    Route("GET", "/v1/responses/{id}", get_response),
    Route("DELETE", "/v1/responses/{id}", delete_response),
    Route("GET", "/v1/responses/{id}/input_items", list_input_items),
    Route("POST", "/v1/responses/{id}/cancel", cancel_response),
    Route("POST", "/v1/files", upload_file),
    Route("GET", "/v1/files", list_files),
    Route("GET", "/v1/files/{id}", get_file),
    Route("GET", "/v1/files/{id}/content", get_content),
    Route("DELETE", "/v1/files/{id}", delete_file),
    Route("POST", "/v1/batches", create_batch),
    Route("GET", "/v1/batches", list_batches),
    Route("GET", "/v1/batches/{id}", get_batch),
    Route("POST", "/v1/batches/{id}/cancel", cancel_batch),
)


def find_route(method: str, path: str) -> tuple[Route, dict[str, str]]:
    """Returns a route with the names in its path.

    Raises:
        MethodNotAllowed: the path exists, with other methods.
        NotFound: there is no such path.
    """
    wanted = "GET" if method == "HEAD" else method
    others: list[str] = []
    for route in ROUTES:
        names = route.match(path)
        if names is not None and route.method == wanted:
            return route, names
        if names is not None:
            others.append(route.method)
    if others:
        raise MethodNotAllowed("This path takes {method} only.", method=" and ".join(others))
    raise NotFound(
        "There is nothing at {path}.",
        hint="`/fust/v1/schema` and the docs list what there is.",
        path=path[:200],
    )


def query_of(raw: bytes) -> dict[str, str]:
    """Returns the fields of a query string; of a repeated one the last."""
    return dict(parse_qsl(raw.decode("latin-1"), max_num_fields=50))


def encode(made: object) -> bytes:
    """Returns the answer's bytes."""
    return made if isinstance(made, bytes) else msgspec.json.encode(made)
