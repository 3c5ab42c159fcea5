"""Where log-likelihoods come from when llama.cpp cannot give them: the safetensors of the same repo, by transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fust.core.errors import FustError
from fust.core.settings import ServeSettings
from fust.serve.engines.base import EngineLoadFailed
from fust.serve.engines.kinds import Kind, get_kind
from fust.serve.engines.reasons import reason_words
from fust.serve.facts import ModelFacts
from fust.serve.files import ModelFiles, bring
from fust.serve.notes import Note, note

_OTHER = "transformers"


@dataclass(frozen=True, slots=True)
class Scorer:
    """Another engine for the scores of a deployment, with the files that it opens."""

    kind: Kind
    path: Path
    facts: ModelFacts
    why: Note


def find_scorer(
    files: ModelFiles,
    settings: ServeSettings,
    repo_id: str,
    revision: str,
    folder: Path,
    failed: EngineLoadFailed,
) -> Scorer | None:
    """Returns what scores a repo's model in the place of llama.cpp, its files brought to `folder`; None when nothing can.

    Args:
        files: the hub.
        settings: of engines.
        repo_id: whose model it is.
        revision: the commit that is served.
        folder: is emptied first.
        failed: what llama.cpp said.
    """
    kind = get_kind(_OTHER)
    try:
        models = kind.list_models(files.list_files(repo_id, revision))
        if not models:
            return None
        kind.check(settings)
        path = bring(files, repo_id, revision, models[0], folder)
        facts = kind.read_facts(path, models[0].size_bytes)
    except FustError:
        return None
    if facts.is_encoder:
        return None
    why = note(
        "llama.cpp cannot score this file ({reason}); transformers scores {file} of the same repo.",
        reason=reason_words(failed.reason),
        file=models[0].label,
    )
    return Scorer(kind, path, facts, why)
