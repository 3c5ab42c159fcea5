"""Why an engine did not load, or died: what its process said in English, as words in either language.

A process says it in one line, so it arrives as text. What Fust's own engines and llama.cpp are known to say is found again
here; anything else stays as it was said.
"""

from __future__ import annotations

from fust.core.decode_words import read_as
from fust.core.i18n import Words

NO_NUMBERS = "what it says are no numbers (NaN): its weights are damaged"
SAID = (
    NO_NUMBERS,
    "it was stopped (SIGSTOP)",
    "its weights lack {count} tensors, such as {names}",
    "its tensors have other sizes than its config.json says",
    "{kind} keeps its state in a way that is not served",
    "the dense layer {path} has the activation {activation}",
    "only models that write text from left to right can be scored",
    "there is no memory for its context",
    "it is not readable",
    "scoring knows xllamacpp {known}, and {found} is installed",
    "the wheel xllamacpp holds no library that can be opened",
    "the library has no {name}",
    "{name} writes {written} bytes where {wanted} were expected",
    "the default of {field} is {got} where {wanted} was expected",
    "{host} is a private address",
    "{program} is not a program that can be run",
    "its first line is none of Fust's engines",
    "the engine ended or did not answer within {seconds} s ({last})",
    "the engine ended or did not answer within {seconds} s",
    "no answer",
    "the engine ended with signal {number} ({last})",
    "the engine ended with signal {number}",
    "the engine ended with status {number} ({last})",
    "the engine ended with status {number}",
    "it ended as soon as it had loaded",
    "it went on working after its last request was over",
    "it did not answer any more and was ended",
    "its chat template did not come to an end",
    "missing tensor '{name}'",
    "unknown model architecture: '{name}'",
    "unknown pre-tokenizer type: '{name}'",
    "tensor '{name}' data is not within the file bounds, model is corrupted or incomplete",
    "key not found in model: {key}",
    "unable to allocate {what} buffer",
    "done_getting_tensors: wrong number of tensors; expected {wanted}, got {found}",
)
"""The longer of two that begin alike comes first."""


def reason_words(said: str) -> Words | str:
    """Returns why it was, as a part of a sentence."""
    said = said.rstrip(".")
    return read_as(SAID, said) or said
