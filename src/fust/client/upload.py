"""Uploads through huggingface_hub, imported on use: it speaks Xet, as every client of the Hub does."""

from __future__ import annotations

import glob
import os
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fust.client.http import ClientError
from fust.core.errors import InvalidInput, Unavailable
from fust.core.settings import NEAR

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_STAYS = (".gitattributes", "README.md")


def make_repo(api: HfApi, repo_id: str, repo_type: str, *, private: bool) -> None:
    """Makes a repo unless it is there. Of a space the client wants to know what runs it; its card may say otherwise."""
    sdk = "static" if repo_type == "space" else None
    api.create_repo(repo_id, repo_type=repo_type, private=private or None, exist_ok=True, space_sdk=sdk)


def upload(
    base_url: str,
    token: str,
    path: Path,
    repo_id: str,
    *,
    repo_type: str,
    message: str,
    private: bool,
    path_in_repo: str,
    instead: bool = False,
) -> None:
    """Commits ``path``, a file or the content of a folder, to a repo; ``instead`` of what the repo holds but its card.

    Raises:
        InvalidInput: there is nothing at ``path``.
        ClientError: the server refused.
        Unavailable: nobody answers.

    """
    if not path.exists():
        raise InvalidInput("There is no file or folder {path}.", hint="Check the path.", path=path)
    with speaking_clearly(base_url):
        api = hub_api(base_url, token)
        make_repo(api, repo_id, repo_type, private=private)
        others = (
            [name for name in api.list_repo_files(repo_id, repo_type=repo_type) if name not in _STAYS]
            if instead
            else []
        )
        if path.is_dir():
            api.upload_folder(
                folder_path=path,
                repo_id=repo_id,
                repo_type=repo_type,
                commit_message=message,
                path_in_repo=path_in_repo or None,
                ignore_patterns=[".git/**", ".cache/**", "**/.DS_Store"],
                delete_patterns=[glob.escape(name) for name in others],
            )
            return
        target = path_in_repo or path.name
        api.create_commit(
            repo_id,
            [_addition(target, path), *(_deletion(name) for name in others if name != target)],
            commit_message=message,
            repo_type=repo_type,
        )


def _addition(target: str, path: Path) -> Any:
    from huggingface_hub import CommitOperationAdd

    return CommitOperationAdd(target, path)


def _deletion(name: str) -> Any:
    from huggingface_hub import CommitOperationDelete

    return CommitOperationDelete(name)


def hub_api(base_url: str, token: str) -> HfApi:
    """Returns huggingface_hub's client of a server."""
    # Read by huggingface_hub when it is imported; the address goes with each call, nothing else is sent anywhere.
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_ENDPOINT"] = base_url
    if not sys.stderr.isatty():
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    from huggingface_hub import HfApi
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()  # what is to be said, we say in the language of the person
    warnings.filterwarnings("ignore", category=UserWarning, module="huggingface_hub")  # advice about cards
    return HfApi(endpoint=base_url, token=token or False, headers={NEAR: "1"})


@contextmanager
def speaking_clearly(base_url: str) -> Generator[None]:
    """Turns what huggingface_hub raises into our errors.

    Raises:
        ClientError: the server refused.
        Unavailable: nobody answers.

    """
    try:
        yield
    except Exception as error:  # its types cannot be named before it is imported
        from huggingface_hub.errors import HfHubHTTPError

        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            words = error.server_message or str(error).splitlines()[0]
            code = str(error.response.headers.get("x-error-code") or status)
            raise ClientError(status, code, words, "") from error
        import httpx2  # what huggingface_hub sends with

        if isinstance(error, (OSError, httpx2.TransportError)):
            raise Unavailable(
                "The server at {url} does not answer ({reason}).",
                hint="See `fust status`; start one with `fust up -d`.",
                url=base_url,
                reason=str(error)[:200],
            ) from error
        if isinstance(error, ValueError) and str(error).startswith("Invalid metadata in README.md"):
            raise InvalidInput(
                "README.md has front matter that a hub does not take: {fault}",
                hint="Mend it between its `---` lines, or leave the file out; PEFT writes the folder that a base was read from.",
                fault=str(error).partition("\n")[2].removeprefix("- ")[:500],
                code="bad_card",
            ) from error
        raise
