"""What several nouns of the Hub's API share: ids, links to further pages, numbers in queries."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from fust.hub.buckets import BucketInfo
from fust.hub.http import Headers, Request, Surface, header
from fust.hub.types import RepoInfo


def full_repo_id(surface: Surface, request: Request, name: str, organization: str | None) -> str:
    """Returns `owner/name` of a request that names them apart; the caller's own name when no owner is named."""
    surface.accounts.require(request.identity, "read")
    if organization is None and "/" in name:
        return name
    return f"{organization or request.identity.user}/{name}"


def page_url(surface: Surface, request: Request, info: RepoInfo) -> str:
    """Returns the address of a repo's page."""
    return f"{surface.settings.url_for(request.headers)}/{info.prefix}{info.repo_id}"


def bucket_url(surface: Surface, info: BucketInfo) -> str:
    """Returns the address by which clients know a bucket."""
    return f"{surface.settings.public_url}/buckets/{info.repo_id}"


def expanded(request: Request) -> list[str]:
    """Returns the properties that `expand` asks for; all are meant when there are none."""
    return [*request.query_lists.get("expand", []), *request.query_lists.get("expand[]", [])]


def next_link(surface: Surface, request: Request, cursor: str | None) -> Headers:
    """Returns the `Link` to the next page, as the client follows it (utils/_pagination.py); none at the end."""
    if cursor is None:
        return []
    pairs = [(k, v) for k, values in request.query_lists.items() if k != "cursor" for v in values]
    path = "/".join(quote(segment, safe="") for segment in request.segments)
    query = urlencode([*pairs, ("cursor", cursor)])
    return [header("link", f'<{surface.settings.url_for(request.headers)}/{path}?{query}>; rel="next"')]
