"""What a pull knows of another hub: where it is, what form it speaks, and what a repo there holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from fust.core.errors import InvalidInput

Form = Literal["huggingface", "modelscope"]
_MODELSCOPE = "modelscope+"


@dataclass(frozen=True, slots=True)
class Source:
    """A hub to pull from."""

    url: str
    """Base URL without a trailing slash."""
    form: Form = "huggingface"

    def __str__(self) -> str:
        """Returns it as the settings write it."""
        return self.url if self.form == "huggingface" else _MODELSCOPE + self.url

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: where a token for this hub may go."""
        return origin(self.url)


def origin(url: str) -> tuple[str, str, int]:
    """Returns scheme, host and port of a URL."""
    parts = urlsplit(url)
    return (
        parts.scheme,
        (parts.hostname or "").lower(),
        parts.port or (443 if parts.scheme == "https" else 80),
    )


def parse_source(text: str) -> Source:
    """Returns the hub that `https://…`, or `modelscope+https://…`, names.

    Raises:
        InvalidInput: not http or https, no host, or a user name in it.

    """
    url = text.strip()
    form: Form = "huggingface"
    if url.startswith(_MODELSCOPE):
        url, form = url.removeprefix(_MODELSCOPE), "modelscope"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise _no_hub(text) from None
    if not good or parts.username or parts.query or parts.fragment:
        raise _no_hub(text)
    return Source(url.rstrip("/"), form)


def _no_hub(text: str) -> InvalidInput:
    return InvalidInput(
        "{url!r} is not the address of a hub.",
        hint="Write it like https://huggingface.co, or modelscope+https://www.modelscope.cn.",
        url=text[:200],
    )


@dataclass(frozen=True, slots=True)
class UpstreamFile:
    """A file of the other hub."""

    path: str
    size: int
    oid: str
    """Git's SHA-1 of a small file; empty when the hub does not say it."""
    sha256: str
    """SHA-256 of the bytes; empty when the hub says only the git oid."""
    is_large: bool
    """Whether the hub keeps it as a large file (LFS)."""
    xet_hash: str = ""
    """Its hash in the hub's Xet store, when there is one."""

    @property
    def key(self) -> str:
        """What the bytes are named by: SHA-256, else the git oid."""
        return self.sha256 or self.oid


@dataclass(frozen=True, slots=True)
class UpstreamRepo:
    """A repo of the other hub at one commit."""

    repo_id: str
    revision: str
    private: bool
    gated: bool
    files: list[UpstreamFile]


@dataclass(frozen=True, slots=True)
class RepoName:
    """A repo in an organisation's list."""

    repo_id: str
    type: Literal["model", "dataset"]
    private: bool
