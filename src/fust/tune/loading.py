"""A base's weights into memory: all of them, or a clear word about what does not fit; nothing is made up in silence."""

# transformers types its functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from pathlib import Path
from typing import Any

from fust.core.errors import InvalidInput


def check_known(family: str, repo_id: str) -> None:
    """Raises InvalidInput when transformers has no model of this family that writes text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InvalidInput(
            "{repo_id} is of the family {family}, of which the installed transformers has no model that goes on with text.",
            hint="Tune a base that does, such as a Llama or a Qwen. Code that comes with a model is not run.",
            repo_id=repo_id,
            family=family[:50],
        )


def load_model(folder: Path, repo_id: str, **options: object) -> Any:
    """Returns the model with all its weights.

    Raises:
        InvalidInput: config.json makes no model, or asks for other weights than there are; names the first.

    """
    from transformers import AutoModelForCausalLM

    name = repo_id or "the base"
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            # Told below, by name; else it is a RuntimeError without one.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, ZeroDivisionError) as error:
        raise InvalidInput(
            "{repo_id} cannot be loaded ({reason}).",
            hint="Its config.json and its weights do not fit together: push it again as it was saved.",
            repo_id=name,
            reason=f"{type(error).__name__}: {error}"[:300],
        ) from None
    model, found = loaded
    wrong = sorted(found["mismatched_keys"])
    if wrong:
        tensor, stored, asked = wrong[0]
        raise InvalidInput(
            "The tensor {tensor} of {repo_id} has the shape {stored}, and its config.json asks for {asked}.",
            hint="Weights and config.json belong to different models, or the embedding was not enlarged for added tokens.",
            repo_id=name,
            tensor=tensor,
            stored="×".join(map(str, stored)),
            asked="×".join(map(str, asked)),
        )
    missing = sorted(found["missing_keys"])
    if missing:
        raise InvalidInput(
            "{repo_id} lacks {count} of the tensors that its config.json asks for, such as {tensor}.",
            hint="Push it again with all its weights; without them it would begin with random ones.",
            repo_id=name,
            count=len(missing),
            tensor=missing[0],
        )
    return model
