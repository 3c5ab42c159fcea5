"""The two forms of hubs that are understood, and what both offer."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from fust.core.ids import RepoType
from fust.hub.pulling.types import RepoName, UpstreamFile, UpstreamRepo
from fust.hub.pulling.web import Piece, Web


class HubForm(Protocol):
    """Questions to a hub, answered in its own protocol. Every method raises FustError after patience has not helped."""

    web: Web

    def read_repo(self, repo_id: str, repo_type: RepoType, revision: str) -> UpstreamRepo:
        """Returns what a repo holds at a revision, with sizes and hashes."""
        ...

    def list_repos(self, owner: str, types: Sequence[RepoType]) -> list[RepoName]:
        """Returns the repos of an organisation or a person."""
        ...

    def stream(
        self, repo: UpstreamRepo, repo_type: RepoType, file: UpstreamFile, start: int, end: int
    ) -> Generator[Piece]:
        """Yields (position, bytes) of a file in [start, end); raises NoRanges when the hub can only send all of it."""
        ...


def open_form(web: Web, *, use_xet: bool) -> HubForm:
    """Returns the form that the source of ``web`` speaks."""
    if web.source.form == "modelscope":
        from fust.hub.pulling.modelscope import ModelScope

        return ModelScope(web)
    from fust.hub.pulling.huggingface import HuggingFace

    return HuggingFace(web, use_xet=use_xet)
