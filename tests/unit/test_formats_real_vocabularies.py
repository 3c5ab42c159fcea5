"""Our GGUF files with the vocabularies that families really have: the ids are those of the family's own tokenizer."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from fust.formats.gguf_write import write_gguf

pytest.importorskip("torch", reason="needs fust[tune]")
pytest.importorskip("transformers", reason="needs fust[tune]")
pytest.importorskip("gguf", reason="needs fust[tune]")
from tests.support import real_vocabularies as real
from tests.support.engine_probe import in_engine
from tests.support.hf_models import PROBE, model_in

BYTE_LEVEL = {"llama-bpe": "Llama", "qwen2": "Qwen2", "qwen35": "Qwen3"}
PHI3_STRIPS = (
    "</s>",
    "<|assistant|>",
    "<|placeholder1|>",
    "<|placeholder2|>",
    "<|placeholder3|>",
    "<|placeholder4|>",
    "<|system|>",
    "<|end|>",
    "<|placeholder5|>",
    "<|placeholder6|>",
    "<|user|>",
)
MISTRALS = {
    "tokenizer.model.v1": "Mistral 7B",
    "mistral_instruct_tokenizer_240323.model.v3": "Mistral 7B v0.3",
    "mistral_instruct_tokenizer_241114.model.v7": "Mistral Small",
}


def needs(name: str) -> Path:
    path = real.FOLDER / name
    if not path.exists():
        pytest.skip(f"needs {name} in .vocabularies (scripts/test-system.sh puts it there)")
    return path


def exported(folder: Path, kind: str, size: int, texts: list[str], **more: object) -> list[list[int]]:
    """Returns what llama.cpp makes of texts with a small model of random weights that has the folder's tokenizer."""
    model_in(folder, kind, True, vocab_size=size, hidden_size=32, intermediate_size=32, head_dim=8, **more)
    target = folder / "m.gguf"
    write_gguf(folder, target, "F16" if size > 100_000 else "F32", name=kind)
    return in_engine(target, texts)["ids"]


def ids(tokenizer, texts: list[str]) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_byte_level_families(tmp_path, name):
    """The texts are composed (NFC), as Qwen's tokenizer makes them: llama.cpp takes a text as it is."""
    needs(f"ggml-vocab-{name}.gguf")
    tokenizer = real.byte_level(name, tmp_path)
    pairs = zip(*real.texts_and_ids(name), strict=True)
    composed = [(text, wanted) for text, wanted in pairs if unicodedata.is_normalized("NFC", text)]
    texts, wanted = [text for text, _ in composed], [wanted for _, wanted in composed]
    assert len(texts) > 40
    assert ids(tokenizer, texts) == wanted
    found = exported(tmp_path, BYTE_LEVEL[name], len(real.values_of(name)["tokens"]), [*texts, *PROBE])
    assert found == wanted + ids(tokenizer, PROBE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-spm", "phi-3", "gemma-4"])
def test_families_with_byte_fallback(tmp_path, name):
    needs(f"ggml-vocab-{name}.gguf")
    pieces, merges = real.pieces_of(name)
    tokenizer = real.with_byte_fallback(
        pieces, tmp_path, merges=merges,
        prepends="" if name == "gemma-4" else "normalizer",
        strips=PHI3_STRIPS if name == "phi-3" else (),
    )  # fmt: skip
    texts, wanted = real.texts_and_ids(name)
    assert ids(tokenizer, texts) == wanted
    kind = {"llama-spm": "Llama", "phi-3": "Phi3", "gemma-4": "Gemma3Text"}[name]
    found = exported(tmp_path, kind, len(pieces) + 53, [*texts, *PROBE], query_pre_attn_scalar=8)
    assert found == wanted + ids(tokenizer, PROBE)


@pytest.mark.parametrize("file", MISTRALS)
def test_mistral(tmp_path, file):
    path = needs(file)
    pieces = real.pieces_of_sentencepiece(path)
    tokenizer = real.with_byte_fallback(pieces, tmp_path, prepends="first")
    texts = [*PROBE[:5], "مرحبا بالعالم", "ஒரு காலத்தில்", "  two  spaces ", "\n\n", "x" * 300]
    found = exported(tmp_path, "Mistral", len(pieces), [f"<s>{text}" for text in texts], sliding_window=None)
    assert found == ids(tokenizer, [f"<s>{text}" for text in texts])
