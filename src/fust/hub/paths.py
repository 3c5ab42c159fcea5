"""Names inside a repo: which paths and revisions are allowed."""

from __future__ import annotations

import re

from fust.core.errors import InvalidInput
from fust.hub.errors import BadPath

MAX_PART_BYTES = 255
MAX_PATH_BYTES = 1024
_HEX40 = re.compile(r"^[0-9a-f]{40}$")
_BAD_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(?:/|$)|(?:^|/)\.|/$|^/|\.$|^-")
# Names that some file system takes for `.git` (git's own is_ntfs_dotgit and is_hfs_dotgit).
_DOT_GIT = re.compile(r"^(?:\.git|git~\d+)[ .]*(?::.*)?$", re.IGNORECASE)
_IGNORED_BY_HFS = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")


def check_path(path: str) -> str:
    """Returns ``path`` when a file in a repo may have it.

    Raises:
        BadPath: absolute, `..`, `.git`, a control character, a backslash, over-long, not UTF-8.

    """
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise BadPath(
            "{path!r} cannot be a path in a repo: it is not UTF-8.",
            hint="Use a relative path such as data/train.csv.",
            path=_shown(path),
        ) from None
    if not encoded or len(encoded) > MAX_PATH_BYTES:
        raise BadPath(
            "{path!r} cannot be a path in a repo: 1 to {limit} bytes are allowed.",
            hint="Use a relative path such as data/train.csv.",
            path=_shown(path),
            limit=MAX_PATH_BYTES,
        )
    if "\\" in path or any(ord(c) < 32 or ord(c) == 127 for c in path):
        raise BadPath(
            "{path!r} cannot be a path in a repo: it holds a backslash or a control character.",
            hint="Use a relative path such as data/train.csv.",
            path=_shown(path),
        )
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise BadPath(
                "{path!r} cannot be a path in a repo: it is absolute or has an empty, '.' or '..' part.",
                hint="Use a relative path such as data/train.csv.",
                path=_shown(path),
            )
        if len(part.encode()) > MAX_PART_BYTES:
            raise BadPath(
                "{path!r} cannot be a path in a repo: a part is longer than {limit} bytes.",
                hint="Use a relative path such as data/train.csv.",
                path=_shown(path),
                limit=MAX_PART_BYTES,
            )
        if _DOT_GIT.match(_IGNORED_BY_HFS.sub("", part)):
            raise BadPath(
                "{path!r} cannot be a path in a repo: '.git' belongs to git.",
                hint="Use a relative path such as data/train.csv.",
                path=_shown(path),
            )
    return path


def _shown(path: str) -> str:
    return path[:200].encode("utf-8", "backslashreplace").decode()


def check_ref_part(name: str, what: str) -> str:
    """Returns ``name`` when it can be a branch's or a tag's (git-check-ref-format(1)).

    Raises:
        InvalidInput: it cannot; ``what`` is named.

    """
    try:
        long = len(name.encode()) > 200
    except UnicodeEncodeError:
        long = True
    if not name or long or _BAD_REF.search(name) or name in ("@", "HEAD") or _HEX40.match(name):
        raise InvalidInput(
            "{name!r} cannot be the name of a {what}.",
            hint="Use letters, digits, '-', '_', '.' and '/'.",
            name=name[:200].encode("utf-8", "backslashreplace").decode(),
            what=what,
        )
    return name


def is_commit_oid(text: str) -> bool:
    """Returns whether ``text`` is 40 hex digits."""
    return _HEX40.match(text) is not None
