"""What `serve` has to know of a kind of engine that serves no file of the hub: it is told what to do by options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from fust.core.decode_words import words_of
from fust.core.errors import InvalidInput
from fust.core.settings import ServeSettings
from fust.serve.facts import ModelFacts
from fust.serve.plan import Plan

Options = TypeVar("Options")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a deployment was told, checked."""

    options: bytes
    """JSON, without secrets: it is shown to whoever may see the deployment."""
    secret: str = ""
    """Sealed in the row, opened for the engine's process only."""
    hosts: tuple[str, ...] = ()
    """Private addresses or names that it leads to, which only administrators may name."""


@dataclass(frozen=True, slots=True)
class Bare:
    """The functions of such a kind."""

    read_wish: Callable[[object], Wish]
    """Returns the options and the secret of a new deployment; raises InvalidInput for what is wrong in them."""
    facts_of: Callable[[bytes], ModelFacts]
    """Returns what stands for the shape of its model, from the options."""
    plan_of: Callable[[bytes, ServeSettings], Plan]
    """Returns how it is started, from the options."""


def read_options(engine: str, given: object, form: type[Options]) -> Options:
    """Returns what a new deployment was told, in its form.

    Raises:
        InvalidInput: it is not of that form.
    """
    try:
        return msgspec.convert(given, form)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            "The options of {engine} are wrong: {reason}.",
            engine=engine,
            reason=words_of(error),
            param="options",
        ) from None


def no_shape(engine: str, *, context: int = 0, embedding: int = 0) -> ModelFacts:
    """Returns what stands for the shape of a model that nobody sees."""
    return ModelFacts(
        architecture=engine,
        context_train=context,
        layers=0,
        kv_width=0,
        embedding=embedding,
        feed_forward=0,
        vocabulary=0,
        has_chat_template=True,
        pooling="",
        weights_bytes=0,
    )
