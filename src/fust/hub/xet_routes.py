"""The Xet CAS over HTTP (huggingface.co/docs/xet/api) and the hub's endpoints that hand out its tokens.

Supported: xorb upload, shard upload v1 and v2 (with progress), reconstruction v1 and v2 with `Range`, chunk dedup
queries, xorb bytes by signed URL. Answered 404, which clients take as "not here": xorb grants (uploads past the hub,
straight into a cloud's store), telemetry.

The `casUrl` names the namespace (`/xet/<tag>`): a client keeps its list of known xorbs by that URL, so it never
leaves out bytes that another namespace, or a home that was deleted since, holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from fust.core.errors import Denied, FustError, InvalidInput, NotFound, Unauthenticated
from fust.core.ids import RepoType
from fust.hub.buckets import BucketInfo
from fust.hub.content import upload_scope
from fust.hub.errors import revision_not_found
from fust.hub.http import (
    AnyReply,
    AsyncReply,
    FileReply,
    RangeError,
    Reply,
    Request,
    Surface,
    header,
    json_reply,
    parse_range,
    read_body,
    spool_body,
)
from fust.hub.routing import REPO, Route
from fust.hub.types import RepoInfo
from fust.hub.xet import hashing
from fust.hub.xet.cas import Fetch, Recipe
from fust.hub.xet.shard import MAX_SHARD_BYTES
from fust.hub.xet.tokens import Right, XetToken
from fust.hub.xet.xorb import MAX_BODY_BYTES

_NDJSON = (b"content-type", b"application/x-ndjson")
_BEAT_S = 5.0
"""How often a shard's progress is told; a client gives up after two minutes of silence."""


def read_token(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, revision: str = "main"
) -> Reply:
    """`GET /api/{type}/{id}/xet-read-token/{revision}`."""
    info = surface.hub.get_repo_to_open(request.identity, f"{owner}/{name}", type)
    surface.hub.resolve_revision(info, revision)
    return give_token(surface, request, info, "read")


def write_token(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, revision: str = "main"
) -> Reply:
    """`GET /api/{type}/{id}/xet-write-token/{revision}`."""
    info = surface.hub.get_repo_to_commit(
        request.identity, f"{owner}/{name}", type, revision, create_pr=request.flag("create_pr")
    )
    if revision != "None" and surface.hub.content.open_repo(info).find_revision(revision) is None:
        raise revision_not_found(info.repo_id, revision)
    return give_token(surface, request, info, "write")


def give_token(surface: Surface, request: Request, info: RepoInfo | BucketInfo, right: Right) -> Reply:
    """Returns a token for a repo's or a bucket's large files, for a caller whose rights were checked."""
    signer = surface.hub.signer
    namespace = upload_scope(request.identity, info.type, info.repo_id)
    token, expires = signer.make_token(request.identity.key, info.id, namespace, right)
    scope = signer.sign("cas", f"{namespace.lower()}:{surface.hub.blobs.generation()}")[:16]
    url = f"{surface.settings.url_for(request.headers)}/xet/{scope}"
    return json_reply(
        {"casUrl": url, "exp": expires, "accessToken": token},
        headers=[
            header("x-xet-cas-url", url),
            header("x-xet-access-token", token),
            header("x-xet-token-expiration", str(expires)),
            (b"cache-control", b"no-store"),
        ],
    )


def _said(surface: Surface, request: Request, right: Right) -> XetToken:
    """Returns what the request's Xet token says.

    Raises:
        Unauthenticated: no token or a bad one, or one whose maker may not do this any more.
        Denied: it gives only reading.

    """
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token:
        raise Unauthenticated(
            "This needs a Xet token.", hint="Ask the hub for one; the client does so by itself."
        )
    said = surface.hub.signer.read_token(token.strip())
    if right == "write" and said.right != "write":
        raise Denied("The Xet token gives reading only.", hint="Ask for a write token.")
    action = "repo.push" if said.right == "write" else "repo.read"
    if not surface.hub.may_still(said.key, said.repo_id, action, said.namespace):
        raise Unauthenticated(
            "The Xet token is not valid or is over its time.",
            hint="Ask the hub for a new one; the client does so by itself when it runs again.",
        )
    return said


def _hash(text: str) -> str:
    if not hashing.is_hash(text):
        raise InvalidInput("{value!r} is not a Xet hash.", hint="It has 64 hex digits.", value=text[:100])
    return text


async def post_xorb(surface: Surface, request: Request, hash: str, scope: str = "") -> Reply:
    """`POST /v1/xorbs/default/{hash}`."""
    del scope
    said = await surface.run(_said, surface, request, "write")
    name = _hash(hash)
    spool = await spool_body(surface, request, MAX_BODY_BYTES)
    inserted = await surface.run(surface.hub.cas.add_xorb, said.namespace, name, spool.path)
    return json_reply({"was_inserted": inserted})


async def post_shard(surface: Surface, request: Request, scope: str = "") -> Reply:
    """`POST /v1/shards`; also `/shards`, as the first draft had it."""
    del scope
    said = await surface.run(_said, surface, request, "write")
    body = await read_body(request, MAX_SHARD_BYTES)
    fresh = await surface.run(surface.hub.cas.add_shard, said.namespace, body)
    return json_reply({"result": 1 if fresh else 0})


async def post_shard_v2(surface: Surface, request: Request, scope: str = "") -> AnyReply:
    """`POST /v2/shards`: as v1, and says how far it is, a line of JSON at a time, until `result` or `error`."""
    del scope
    said = await surface.run(_said, surface, request, "write")
    body = await read_body(request, MAX_SHARD_BYTES)
    seen = [0, 1]

    def note(done: int, total: int) -> None:
        seen[:] = done, total

    work = asyncio.ensure_future(surface.run(surface.hub.cas.add_shard, said.namespace, body, note))
    work.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # who asked may have left
    done, _ = await asyncio.wait([work], timeout=_BEAT_S)
    if done:
        work.result()  # what is wrong within moments is said by the status
    return AsyncReply(200, [_NDJSON], _tell_shard(work, seen))


async def _tell_shard(work: asyncio.Future[bool], seen: list[int]) -> AsyncGenerator[bytes]:
    while not work.done():
        yield _line({"type": "validating", "verified": seen[0], "total": seen[1]})
        await asyncio.wait([work], timeout=_BEAT_S)
    try:
        work.result()
    except FustError as error:
        again = error.status in (429, 503)
        yield _line({"type": "error", "message": error.sentence(), "retryable": again})
    else:
        yield _line({"type": "validating", "verified": seen[1], "total": seen[1]})
        yield _line({"type": "result"})


def _line(event: object) -> bytes:
    return msgspec.json.encode(event) + b"\n"


def find_chunk(surface: Surface, request: Request, prefix: str, hash: str, scope: str = "") -> Reply:
    """`GET /v1/chunks/{prefix}/{hash}`: where the caller's namespace holds a chunk; 404 for all others' chunks."""
    del scope
    said = _said(surface, request, "read")
    found = None
    if said.right == "write" and prefix in ("default", "default-merkledb"):
        found = surface.hub.find_chunk(said.namespace, _hash(hash))
    if found is None:
        raise NotFound("No chunk {hash} is known here.", hint="Upload it.", hash=hash[:64])
    return Reply(
        200, found, [(b"content-type", b"application/octet-stream"), (b"cache-control", b"no-store")]
    )


def reconstruct(surface: Surface, request: Request, version: str, hash: str, scope: str = "") -> Reply:
    """`GET /v1/reconstructions/{hash}` and `/v2/…`, with `Range`."""
    del scope
    said = _said(surface, request, "read")
    recipe = _readable(surface, said, _hash(hash))
    info = surface.hub.repos.find_by_row_id(said.repo_id)
    if info is not None:
        caller = surface.accounts.by_key(said.key)
        surface.hub.gates.note_download(caller, info, "xet", sha256=recipe.sha256)
    try:
        window = parse_range(request.headers.get("range"), recipe.size)
    except RangeError:
        return Reply(416, b"", [header("content-range", f"bytes */{recipe.size}")])
    start, end = window or (0, recipe.size)
    terms, skip, fetches = surface.hub.cas.plan(recipe, start, end)
    drawn: dict[str, object] = {
        "offset_into_first_range": skip,
        "terms": [
            {
                "hash": term.xorb,
                "unpacked_length": term.raw_bytes,
                "range": {"start": term.start, "end": term.end},
            }
            for term in terms
        ],
    }
    by_xorb: dict[str, list[object]] = {}
    for fetch in fetches:
        by_xorb.setdefault(fetch.xorb, []).append(_draw_fetch(surface, said, fetch, version))
    drawn["xorbs" if version == "v2" else "fetch_info"] = by_xorb
    return json_reply(drawn, headers=[(b"cache-control", b"no-store")])


def _readable(surface: Surface, said: XetToken, xet_hash: str) -> Recipe:
    recipe = surface.hub.cas.get_recipe(xet_hash)
    allowed = surface.hub.content.may_read_large(
        said.repo_id, said.namespace, recipe.sha256, writer=said.right == "write"
    )
    if not allowed:
        raise NotFound("There is no file with the Xet hash {xet_hash}.", xet_hash=xet_hash)
    return recipe


def _draw_fetch(surface: Surface, said: XetToken, fetch: Fetch, version: str) -> object:
    query = surface.hub.signer.xorb_query(fetch.xorb, fetch.first, fetch.last, said)
    url = f"{surface.settings.public_url}/xet/xorbs/{fetch.xorb}?{query}"
    chunks = {"start": fetch.start, "end": fetch.end}
    bytes_ = {"start": fetch.first, "end": fetch.last}
    if version == "v2":
        return {"url": url, "ranges": [{"chunks": chunks, "bytes": bytes_}]}
    return {"range": chunks, "url": url, "url_range": bytes_}


def get_xorb(surface: Surface, request: Request, hash: str, scope: str = "") -> AnyReply:
    """`GET /xorbs/{hash}` by a signed URL: only the bytes that it was signed for."""
    del scope
    name = _hash(hash)
    opened = surface.hub.signer.xorb_window(name, request.query)
    key, repo = request.query.get("k", ""), request.query.get("p", "")
    if opened is None or not surface.hub.may_still(key, repo, "repo.read"):
        raise Denied("The URL's signature is not valid or is over its time.", hint="Ask for the file again.")
    path = surface.hub.blobs.find("xorbs", name)
    if path is None:
        raise NotFound("The bytes of xorb {name} are gone.", hint="Run `fust doctor`.", name=name)
    size = path.stat().st_size
    try:
        window = parse_range(request.headers.get("range"), size)
    except RangeError:
        return Reply(416, b"", [header("content-range", f"bytes */{size}")])
    start, end = window or (opened[0], opened[1] + 1)
    if start < opened[0] or end > opened[1] + 1:
        raise Denied("The URL was signed for other bytes of this xorb.", hint="Ask for the file again.")
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"accept-ranges", b"bytes"),
        header("content-range", f"bytes {start}-{end - 1}/{size}"),
    ]
    return FileReply(206, headers, path, start, end - start)


def nothing_here(surface: Surface, request: Request, scope: str = "", path: str = "") -> Reply:
    """Xorb grants, telemetry: 404, and the client goes on without."""
    del surface, request, scope, path
    return Reply(404)


_SCOPES = ("/xet", "/xet/{scope}")
ROUTES = (
    Route("GET", REPO + "/xet-read-token/{revision}", read_token),
    Route("GET", REPO + "/xet-write-token/{revision}", write_token),
    Route("GET", "/xet/xorbs/{hash}", get_xorb),
    *(Route("POST", scope + "/v1/xorbs/default/{hash}", post_xorb) for scope in _SCOPES),
    *(Route("POST", scope + "/v1/shards", post_shard) for scope in _SCOPES),
    *(Route("POST", scope + "/v2/shards", post_shard_v2) for scope in _SCOPES),
    *(Route("POST", scope + "/shards", post_shard) for scope in _SCOPES),
    *(Route("GET", scope + "/v1/chunks/{prefix}/{hash}", find_chunk) for scope in _SCOPES),
    *(Route("GET", scope + "/{version}/reconstructions/{hash}", reconstruct) for scope in _SCOPES),
    *(Route(method, "/xet/{path*}", nothing_here, 2**20) for method in ("GET", "POST", "HEAD")),
)
