"""What a gate says to those whom it does not let through, in the Hub's words: its clients print them."""

from __future__ import annotations

from typing import Any

from fust.accounts.rights import Identity
from fust.core.clock import iso
from fust.hub.errors import GatedRepo
from fust.hub.gate_rows import Request, Standing
from fust.hub.types import RepoInfo


def made_for(identity: Identity, info: RepoInfo) -> bool:
    """Returns whether the caller's key was made for the repo, or for all."""
    return identity.grants is None or identity.grants.covers_repo(info.type, info.repo_id)


def refusal(
    identity: Identity, info: RepoInfo, standing: Standing, request: Request | None, public_url: str
) -> GatedRepo:
    """Returns the error for a caller who may see a repo and not have its files; 401 when nobody has signed in."""
    url = f"{public_url}/{info.prefix}{info.repo_id}"
    names: dict[str, Any] = {"type": info.type, "repo_id": info.repo_id, "url": url}
    if identity.user is None:
        error = GatedRepo(
            "Access to {type} {repo_id} is restricted. You must have access to it and be authenticated to access it. "
            "Please log in.",
            hint="Sign in, then visit {url} to ask for access.",
            **names,
        )
        error.status = 401
        return error
    if not made_for(identity, info):
        return GatedRepo(
            "Access to {type} {repo_id} is restricted, and this key was not made for it.",
            hint="Use a key that names it, or one without limits.",
            **names,
        )
    if standing == "pending":
        return GatedRepo(
            "Your request to access {type} {repo_id} is awaiting a review from the repo authors.",
            hint="{url} says what became of it.",
            **names,
        )
    if standing == "rejected" and request is not None and request.reason:
        return GatedRepo(
            "Your request to access {type} {repo_id} has been rejected by the repo's authors: {reason}",
            reason=request.reason,
            **names,
        )
    if standing == "rejected":
        return GatedRepo(
            "Your request to access {type} {repo_id} has been rejected by the repo's authors.", **names
        )
    if standing == "expired" and request is not None:
        return GatedRepo(
            "Your access to {type} {repo_id} ended at {when}.",
            hint="Visit {url} to ask for access again.",
            when=iso(request.expires_at),
            **names,
        )
    if standing == "outdated":
        return GatedRepo(
            "Access to {type} {repo_id} is restricted until you agree to its terms again: they changed.",
            hint="Visit {url} to read and accept them.",
            **names,
        )
    return GatedRepo(
        "Access to {type} {repo_id} is restricted and you are not in the authorized list.",
        hint="Visit {url} to ask for access.",
        **names,
    )
