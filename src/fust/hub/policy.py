"""What may be done to refs, asked by the API and by a push alike."""

from __future__ import annotations

import fnmatch
import re

from fust.core.errors import Denied
from fust.hub.errors import BadRef
from fust.hub.paths import check_ref_part
from fust.hub.types import RefUpdate, RepoInfo

PULL_REQUEST = re.compile(r"refs/pr/([1-9]\d{0,8})")


def check_ref_name(ref: str) -> str:
    """Returns a full ref name when people may write to such refs: branches, tags, and pull requests.

    Raises:
        BadRef: another kind of name.
        InvalidInput: no ref may have such a name.

    """
    for prefix, what in (("refs/heads/", "branch"), ("refs/tags/", "tag")):
        if ref.startswith(prefix):
            check_ref_part(ref.removeprefix(prefix), what)
            return ref
    if not PULL_REQUEST.fullmatch(ref):
        raise BadRef(
            "{ref} cannot be written.", hint="Push to refs/heads/…, refs/tags/… or refs/pr/N.", ref=ref[:200]
        )
    return ref


def is_protected(info: RepoInfo, ref: str) -> bool:
    """Returns whether a ref is a branch whose history nobody rewrites."""
    branch = ref.removeprefix("refs/heads/")
    return branch != ref and any(fnmatch.fnmatchcase(branch, pattern) for pattern in info.protected)


def check_update(info: RepoInfo, update: RefUpdate, *, rewrites: bool) -> None:
    """Refuses an update of a ref that the repo's rules do not allow.

    ``rewrites``: the new commit does not descend from the old one.

    Raises:
        Denied: `main` would go, or a protected branch would lose commits.

    """
    branch = update.ref.removeprefix("refs/heads/")
    if update.ref == "refs/heads/main" and update.new is None:
        raise Denied("The branch main cannot be deleted.", hint="Delete the repo instead.")
    if not is_protected(info, update.ref) or update.old is None:
        return
    if update.new is None:
        raise Denied(
            "The branch {branch} is protected and cannot be deleted.",
            hint="Take it out of the repo's protected branches first (its settings).",
            branch=branch,
        )
    if rewrites:
        raise Denied(
            "The branch {branch} is protected: its history cannot be rewritten.",
            hint="Pull, then push again; or take it out of the repo's protected branches (its settings).",
            branch=branch,
        )
