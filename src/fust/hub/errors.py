"""Errors that only the hub draws; Hugging Face's client decides by the header ``X-Error-Code``.

NotFound: RepoNotFound, RevisionNotFound, EntryNotFound. Denied: GatedRepo (401 to who has not signed in). Conflict: RepoExists, HeadMoved (412).
InvalidInput: BadHash, BadPath, BadXorb.
"""

from __future__ import annotations

from fust.core.errors import Conflict, Gated, InvalidInput, NotFound


class RepoNotFound(NotFound):
    """No such repo, or a private one that the caller may not know of."""

    code = "repo_not_found"


class RevisionNotFound(NotFound):
    """The repo has no such branch, tag or commit."""

    code = "revision_not_found"


class EntryNotFound(NotFound):
    """The revision has no such file or folder."""

    code = "entry_not_found"

    commit_oid = ""
    """The commit that was looked at: clients remember what it has not."""


def repo_not_found(repo_id: str) -> RepoNotFound:
    """Returns the error for a repo that is not there, or that the caller may not see."""
    return RepoNotFound(
        "There is no repo {repo_id!r}, or you may not see it.",
        hint="Check the name, or sign in with a key that may read it.",
        repo_id=repo_id[:200],
    )


def revision_not_found(repo_id: str, revision: str) -> RevisionNotFound:
    """Returns the error for a branch, tag or commit that is not there."""
    return RevisionNotFound(
        "{repo_id} has no revision {revision!r}.",
        hint="Name a branch, a tag or a commit.",
        repo_id=repo_id,
        revision=revision[:200],
    )


def entry_not_found(path: str, revision: str, commit_oid: str = "") -> EntryNotFound:
    """Returns the error for a file or folder that is not there."""
    error = EntryNotFound(
        "There is no {path!r} at revision {revision!r}.",
        hint="List the files of the repo first.",
        path=path[:300],
        revision=revision[:200],
    )
    error.commit_oid = commit_oid
    return error


class GatedRepo(Gated):
    """The repo may be seen; its files only by those who asked for access and got it."""


class RepoExists(Conflict):
    """The name is taken."""

    code = "repo_exists"


class HeadMoved(Conflict):
    """The branch is not where the writer thinks it is."""

    status = 412
    code = "head_moved"


class BadHash(InvalidInput):
    """Bytes are not what their name says."""

    code = "bad_hash"


class BadPath(InvalidInput):
    """A name that no file in a repo may have."""

    code = "bad_path"


class BadXorb(InvalidInput):
    """A xorb or a shard that does not follow its format."""

    code = "bad_xorb"


class BadRef(InvalidInput):
    """A ref that nobody may write to."""

    code = "bad_ref"


class BadPush(InvalidInput):
    """A push that brings what a repo here cannot hold."""

    code = "bad_push"
