"""Names and identifiers, and the checks that make a string one of them."""

from __future__ import annotations

import re
import secrets
import time
from typing import Literal, NewType

from fust.core.errors import InvalidInput

UserId = NewType("UserId", str)
RunId = NewType("RunId", str)
DeploymentId = NewType("DeploymentId", str)
RequestId = NewType("RequestId", str)
Sha1Hex = NewType("Sha1Hex", str)
Sha256Hex = NewType("Sha256Hex", str)

RepoType = Literal["model", "dataset", "space"]
REPO_TYPES: tuple[RepoType, ...] = ("model", "dataset", "space")

# As the Hugging Face Hub: letters, digits, '.', '_' and '-'; no leading or trailing '.' or '-', no '..' or '--'.
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def check_name(value: str, what: str = "name") -> str:
    """Returns ``value`` when it can be an owner's or a repo's name.

    Raises:
        InvalidInput: it holds other characters, is too long, or ends in `.git`.

    """
    if (
        not _NAME.fullmatch(value)
        or ".." in value
        or "--" in value
        or value.lower().endswith((".git", ".ipynb"))
    ):
        raise InvalidInput(
            "{value!r} cannot be a {what}.",
            hint="Use 1 to 96 letters, digits, '.', '_' or '-'; no '..' or '--', no '-' or '.' at either end, no '.git'.",
            value=value[:100],
            what=what,
        )
    return value


def split_repo_id(repo_id: str) -> tuple[str, str]:
    """Returns (owner, name) of ``owner/name``.

    Raises:
        InvalidInput: it has not that form.

    """
    owner, slash, name = repo_id.partition("/")
    if not slash:
        raise InvalidInput("{value!r} is not a repo id.", hint="Write it as owner/name.", value=repo_id[:200])
    return check_name(owner, "owner"), check_name(name, "repo name")


def check_repo_type(value: str) -> RepoType:
    """Returns the repo type for `model`, `models`, `dataset`, `datasets`, `space` or `spaces`."""
    singular = value[:-1] if value.endswith("s") else value
    if singular not in REPO_TYPES:
        raise InvalidInput(
            "{value!r} is not a repo type.", hint="Use model, dataset or space.", value=value[:50]
        )
    return singular


def new_id(prefix: str = "") -> str:
    """Returns a new identifier: 9 characters of time, then 10 of chance; sorts by time, safe in URLs and paths."""
    stamp = int(time.time() * 1000) << 50 | secrets.randbits(50)
    digits = ""
    for _ in range(19):
        stamp, rest = divmod(stamp, 32)
        digits = _ALPHABET[rest] + digits
    return prefix + digits
