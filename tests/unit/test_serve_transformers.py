"""The transformers engine without its process: log-likelihoods, batches, sampling, text, what a folder says."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the transformers engine is an extra")

from fust.core.errors import InvalidInput, NotOffered  # noqa: E402
from fust.core.settings import ServeSettings  # noqa: E402
from fust.serve.engines import tf_model  # noqa: E402
from fust.serve.engines.kinds import choose_kind, get_kind  # noqa: E402
from fust.serve.engines.safetensors import list_safetensors, read_safetensors_facts  # noqa: E402
from fust.serve.engines.scored import BadRow, TooLong, Wanted  # noqa: E402
from fust.serve.engines.tf_batch import Batcher, Sequence, Written  # noqa: E402
from fust.serve.engines.tf_sample import Sampler, Sampling, ThoughtLimit  # noqa: E402
from fust.serve.engines.tf_score import score  # noqa: E402
from fust.serve.engines.tf_text import Decoder, Stops, Thoughts  # noqa: E402
from fust.serve.files import TreeFile, nothing_to_serve  # noqa: E402
from tests.support.hf_models import PROBE, bert_model, causal_model  # noqa: E402

SHAPE = {"intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256}
KINDS: dict[str, dict[str, object]] = {
    "Llama": SHAPE,
    "Qwen2": SHAPE,
    "Qwen3": SHAPE,
    "Gemma3Text": {**SHAPE, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    "Mistral": {**SHAPE, "sliding_window": 16},
    "GPT2": {"n_positions": 256},
    "Bloom": {},
    "Mamba": {"state_size": 8},
    "Jamba": {**SHAPE, "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
}
"""Rotary, learned and no positions; attention that looks back only so far; states instead of keys and values, and both."""


@pytest.fixture(scope="module")
def batcher_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Batcher]:
    made: dict[str, Batcher] = {}

    def find(kind: str) -> Batcher:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            causal_model(folder, kind, **KINDS[kind])
            made[kind] = Batcher(tf_model.load(folder, 256), 3)
        return made[kind]

    return find


def begin(batcher: Batcher, prompt: list[int], most: int = 30, **wanted: Any) -> Sequence:
    sampling = Sampling(**{"temperature": 0.0, **wanted})
    eos = batcher.loaded.eos
    sequence = Sequence(prompt, Sampler(sampling, prompt, eos), most, eos, top=0)
    batcher.write(sequence)
    return sequence


def read(sequence: Sequence) -> tuple[list[int], list[float], str]:
    found: list[Written] = []
    while not (found and found[-1].end):
        found.append(sequence.out.get(timeout=60))
    told = [written for written in found if written.token >= 0]
    return [w.token for w in told], [w.logprob for w in told], found[-1].end


def log_likelihoods(batcher: Batcher, tokens: list[int]) -> list[float]:
    """A plain pass of transformers over the whole row."""
    with torch.inference_mode():
        lines = batcher.loaded.model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    return [float(lines[i - 1, tokens[i]]) for i in range(1, len(tokens))]


@pytest.mark.parametrize("kind", KINDS)
def test_log_likelihoods_are_those_of_a_plain_pass(batcher_of: Callable[[str], Batcher], kind: str) -> None:
    batcher = batcher_of(kind)
    texts = [batcher.loaded.tokenize(text) for text in PROBE]
    shared = [texts[1] + texts[3] + end for end in (texts[0], texts[2][:3], texts[4])]
    rows = [Wanted(row, 1) for row in (*texts, *shared, shared[0][:1])]
    found = batcher.run(lambda: score(batcher.loaded, rows, 3, shares=batcher.shares), lambda: True)
    assert len(found) == len(rows)
    for row, scored in zip(rows, found, strict=True):
        assert scored.logprobs[0] is None
        assert scored.logprobs[1:] == pytest.approx(log_likelihoods(batcher, row.tokens), abs=1e-4)
        for value, place, greedy in zip(scored.logprobs[1:], scored.top[1:], scored.greedy[1:], strict=True):
            assert place is not None and len(place) == 3 and value is not None
            assert greedy == (value >= place[0].logprob) and place[0].logprob >= place[2].logprob
    late = Wanted(shared[0], len(shared[0]) - 2)
    (only,) = batcher.run(lambda: score(batcher.loaded, [late], 0, shares=batcher.shares), lambda: True)
    assert only.logprobs[-2:] == pytest.approx(found[len(texts)].logprobs[-2:], abs=1e-4)
    assert only.logprobs[:-2] == [None] * (len(shared[0]) - 2)


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_that_are_written_together_say_what_each_says_alone(
    batcher_of: Callable[[str], Batcher], kind: str
) -> None:
    batcher = batcher_of(kind)
    assert batcher.shares == (kind not in ("Mamba", "Jamba"))
    prompts = [batcher.loaded.tokenize(text) for text in PROBE]
    lengths = [30, 5, 17, 30, 1, 24]  # they join and leave between one another's steps
    alone = [read(begin(batcher, p, n)) for p, n in zip(prompts, lengths, strict=True)]
    together = [begin(batcher, p, n) for p, n in zip(prompts, lengths, strict=True)]
    for one, sequence in zip(alone, together, strict=True):
        tokens, chances, end = read(sequence)
        assert (tokens, end) == (one[0], one[2])
        assert chances == pytest.approx(one[1], abs=1e-4)
    for prompt, (tokens, chances, _) in zip(prompts, alone, strict=True):
        assert chances == pytest.approx(
            log_likelihoods(batcher, prompt + tokens)[len(prompt) - 1 :], abs=1e-4
        )


def test_sequences_that_fill_the_context_keep_their_places(batcher_of: Callable[[str], Batcher]) -> None:
    """Long ones leave and short ones stay, so that the columns in use wander to the end and back."""
    batcher = batcher_of("Llama")
    tokens = [token for text in PROBE for token in batcher.loaded.tokenize(text)][:100] * 3
    shapes = [(200, 56), (10, 246), (100, 20), (3, 240), (250, 6), (40, 216), (1, 255)]
    alone = [read(begin(batcher, tokens[:n], most, ignore_eos=True)) for n, most in shapes]
    together = [begin(batcher, tokens[:n], most, ignore_eos=True) for n, most in shapes]
    assert [read(sequence)[0] for sequence in together] == [found[0] for found in alone]
    assert [len(found[0]) for found in alone] == [most for _, most in shapes]


def test_a_client_that_leaves_gives_its_slot_back(batcher_of: Callable[[str], Batcher]) -> None:
    batcher = batcher_of("Llama")
    prompt = batcher.loaded.tokenize(PROBE[0])
    crowd = [begin(batcher, prompt, 200, ignore_eos=True) for _ in range(64)]
    crowd[0].out.get(timeout=30)
    for sequence in crowd:
        sequence.left = True
    tokens, _, end = read(begin(batcher, prompt, 4))
    assert len(tokens) == 4 and end == "length"
    assert batcher.busy == 0


def test_other_work_does_not_hold_up_who_reads_along(batcher_of: Callable[[str], Batcher]) -> None:
    batcher = batcher_of("Llama")
    prompt = batcher.loaded.tokenize(PROBE[0])
    sequence = begin(batcher, prompt, 40)
    seen: list[int] = []

    def slow() -> Iterator[int]:
        for turn in range(12):
            seen.append(sequence.out.qsize())
            yield turn

    assert batcher.run(slow, lambda: True) == 11
    assert seen[-1] > seen[0]
    read(sequence)


def test_work_for_a_client_that_left_ends(batcher_of: Callable[[str], Batcher]) -> None:
    batcher = batcher_of("Llama")
    turned = threading.Event()

    def endless() -> Iterator[int]:
        while True:
            turned.set()
            yield 1

    with pytest.raises(InterruptedError):
        batcher.run(endless, lambda: not turned.is_set())


def test_a_row_that_cannot_be_scored_is_named(batcher_of: Callable[[str], Batcher]) -> None:
    loaded = batcher_of("Llama").loaded
    with pytest.raises(TooLong, match="300 tokens"):
        list(score(loaded, [Wanted([1] * 300, 1)], 0, shares=True))
    with pytest.raises(BadRow, match="no token 512"):
        list(score(loaded, [Wanted([1, 512], 1)], 0, shares=True))


# Choosing tokens


def chosen(logits: list[float], times: int = 300, **wanted: Any) -> list[int]:
    sampler = Sampler(Sampling(**{"seed": 7, **wanted}), [], frozenset({3}))
    return [sampler.pick(np.array(logits, np.float32)) for _ in range(times)]


def test_sampling_follows_the_chances() -> None:
    logits = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]
    counts = np.bincount(chosen(logits, 4000), minlength=4) / 4000
    assert counts == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    assert chosen(logits) == chosen(logits) != chosen(logits, seed=8)
    assert set(chosen(logits, top_k=2)) == {0, 1}
    assert set(chosen(logits, top_p=0.81)) == {0, 1, 2}
    assert set(chosen(logits, min_p=0.5)) == {0, 1}
    assert set(chosen(logits, temperature=0)) == {0}
    assert set(chosen(logits, temperature=0, bias={2: 100})) == {2}
    assert 0 not in chosen(logits, bias={0: -100})
    assert 3 not in chosen(logits, ignore_eos=True)
    assert set(chosen(logits, typical_p=0.25)) == {1}


def test_penalties_bring_other_tokens() -> None:
    logits = [1.0, 0.9, 0.8, -9.0]
    assert chosen(logits, 4, temperature=0) == [0, 0, 0, 0]
    assert chosen(logits, 4, temperature=0, presence=0.15) == [0, 1, 0, 0]
    assert chosen(logits, 6, temperature=0, frequency=0.15) == [0, 1, 0, 2, 1, 0]
    assert chosen(logits, 3, temperature=0, repeat=2.0) == [0, 1, 2]
    assert chosen(logits, 3, temperature=0, repeat=2.0, repeat_last=1) == [0, 1, 0]


# Text


def test_no_half_characters_are_told(batcher_of: Callable[[str], Batcher]) -> None:
    loaded = batcher_of("Llama").loaded
    for text in PROBE:
        tokens = loaded.tokenize(text)
        for cut in (0, 1, 4):
            decoder = Decoder(loaded.tokenizer, tokens[:cut])
            parts = [decoder.put(token) for token in tokens[cut:]]
            assert not any("\ufffd" in part for part in parts)
            whole = "".join(parts) + decoder.end()
            assert whole == loaded.tokenizer.decode(tokens, skip_special_tokens=True)[-len(whole) :]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_stop_word_is_found_however_the_text_comes(size: int) -> None:
    text = "one END two EN three"

    def run(*words: str) -> str:
        stops, told = Stops(words), ""
        for at in range(0, len(text), size):
            told += stops.put(text[at : at + size])
            if stops.found:
                return told + "|"
        return told + stops.end()

    assert run("END") == "one |"
    assert run("two", "END") == "one |"
    assert run("ENX", "thrice") == text
    assert run("three") == "one END two EN |"


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("text", "inside", "parts"),
    [
        ("<think>a < b</think>\n\nyes", False, ("a < b", "yes")),
        ("\n<think>a", False, ("a", "")),
        ("a</think> b", True, ("a", "b")),
        ("no <think> here", False, ("", "no <think> here")),
        ("<thinking", False, ("", "<thinking")),
    ],
)
def test_thoughts_stand_apart(size: int, text: str, inside: bool, parts: tuple[str, str]) -> None:
    thoughts = Thoughts(inside=inside)
    found = [thoughts.put(text[at : at + size]) for at in range(0, len(text), size)] + [thoughts.end()]
    assert ("".join(p.thought for p in found), "".join(p.content for p in found)) == parts


# What a folder says


def tree(folder: Path) -> list[TreeFile]:
    paths = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return [TreeFile(str(p.relative_to(folder)), p.stat().st_size) for p in paths]


def test_a_model_of_safetensors_is_found_with_its_files(tmp_path: Path) -> None:
    bert_model(tmp_path, pooling="cls_token")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    (tmp_path / "modeling_evil.py").write_text("1/0")
    (model,) = list_safetensors(tree(tmp_path))
    assert (
        model.path == "model.safetensors"
        and model.size_bytes == (tmp_path / "model.safetensors").stat().st_size
    )
    assert set(model.paths) == {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "modules.json", "1_Pooling/config.json", "chat_template.jinja"}  # fmt: skip
    kind, models = choose_kind(tree(tmp_path), None, ServeSettings())
    assert (kind.name, models) == ("transformers", [model])
    both = [*tree(tmp_path), TreeFile("m.gguf", 5)]
    assert choose_kind(both, None, ServeSettings())[0].name == "llamacpp"
    assert choose_kind(both, "transformers", ServeSettings())[0].name == "transformers"


def test_parts_have_to_be_complete() -> None:
    names = ["config.json", *(f"model-0000{i}-of-00002.safetensors" for i in (1, 2))]
    files = [TreeFile(name, 10) for name in names]
    (model,) = list_safetensors(files)
    assert (model.path, model.size_bytes) == (names[1], 20)
    assert list_safetensors(files[:2]) == list_safetensors(files[1:]) == []
    assert "neither a GGUF file nor" in nothing_to_serve("a/b", files[1:]).message()


def test_facts_of_a_folder(tmp_path: Path, batcher_of: Callable[[str], Batcher]) -> None:
    causal_model(tmp_path, "Llama", **SHAPE)
    path = tmp_path / "model.safetensors"
    facts = read_safetensors_facts(path, path.stat().st_size)
    assert (facts.task, facts.layers, facts.context_train, facts.vocabulary) == ("generate", 2, 256, 512)
    assert facts.kv_width == 2 * 2 * 2 * 16 and facts.has_chat_template and not facts.is_encoder
    assert facts.parameters == sum(p.numel() for p in batcher_of("Llama").loaded.model.parameters())
    assert get_kind("transformers").offers(facts) >= {"chat", "scoring", "embeddings", "json_schema"}
    more = facts.memory_bytes("generate", 2048, 4) - facts.memory_bytes("generate", 1024, 4)
    assert more >= 1024 * 5 * facts.kv_width * 4
    bert_model(tmp_path / "bert")
    bert = read_safetensors_facts(tmp_path / "bert/model.safetensors", 1)
    # It keeps nothing of a text, and its batches are filled whatever the context is.
    assert bert.memory_bytes("embed", 64, 4) == bert.memory_bytes("embed", 32, 1) > 4 * bert.parameters + 3e8


def test_the_largest_batch_of_texts_is_what_the_estimate_counts(tmp_path: Path) -> None:
    """An estimate that forgot the cache or the batches of this engine would be off by more than half of them."""
    causal_model(tmp_path, "Llama", **SHAPE)
    facts = read_safetensors_facts(tmp_path / "model.safetensors", 1)
    place = 6 * facts.embedding + 3 * facts.feed_forward
    cache = 256 * 5 * facts.kv_width
    fixed = facts.memory_bytes("generate", 0, 0)
    assert facts.memory_bytes("generate", 256, 4) - fixed == 4 * cache
    assert facts.memory_bytes("generate", 4096, 1) - fixed >= 4 * (4096 * 2 * facts.kv_width + 2048 * place)


def test_nothing_is_kept_of_what_is_embedded(batcher_of: Callable[[str], Batcher]) -> None:
    loaded = batcher_of("Llama").loaded
    with torch.inference_mode():
        assert loaded.model.base_model(torch.tensor([[5, 6, 7]])).past_key_values is None


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "T5ForConditionalGeneration"),
        ({"architectures": ["ViTForImageClassification"]}, "ViTForImageClassification"),
        ({}, "names no architecture"),
        ("[1]", "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_not_served_is_named(tmp_path: Path, config: Any, why: str) -> None:
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises((NotOffered, InvalidInput), match=why):
        read_safetensors_facts(tmp_path / "model.safetensors", 0)


def test_an_unknown_pooling_is_refused(tmp_path: Path) -> None:
    bert_model(tmp_path, pooling="max_tokens")
    with pytest.raises(NotOffered, match="pooling by max_tokens"):
        read_safetensors_facts(tmp_path / "model.safetensors", 0)


def test_weights_that_lack_tensors_are_refused(tmp_path: Path) -> None:
    bert_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(tf_model.CannotLoad, match="lack 2 tensors, such as classifier"):
        tf_model.load(tmp_path, 64)


def test_no_code_of_a_stranger_runs(tmp_path: Path) -> None:
    causal_model(tmp_path, "Llama", **SHAPE)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(Exception, match=r"evil|remote code|custom code"):
        tf_model.load(tmp_path, 64)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("pooling", ["cls_token", "mean_tokens", "lasttoken"])
def test_embeddings_are_pooled_as_the_files_say(tmp_path: Path, pooling: str) -> None:
    bert_model(tmp_path, pooling=pooling)
    loaded = tf_model.load(tmp_path, 64)
    rows = [loaded.tokenize(text)[:40] for text in (PROBE[0], PROBE[4])]
    with torch.inference_mode():
        found = tf_model.embed(loaded, rows)
        for row, vector in zip(rows, found, strict=True):
            states = loaded.model(torch.tensor([row])).last_hidden_state[0]
            wanted = {"cls_token": states[0], "mean_tokens": states.mean(0), "lasttoken": states[-1]}[pooling]
            assert vector == pytest.approx((wanted / wanted.norm()).numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("classes", "offered"), [(1, {"classify", "rerank"}), (3, {"classify"}), (0, {"embeddings"})]
)
def test_what_a_folder_can_is_known_before_it_is_loaded(
    tmp_path: Path, classes: int, offered: set[str]
) -> None:
    bert_model(tmp_path, classes=classes)
    facts = read_safetensors_facts(tmp_path / "model.safetensors", 1)
    assert get_kind("transformers").offers(facts) == offered


OPEN, CLOSE, LINE = 4, 5, 6


def thought(choices: list[int], budget: int, *, inside: bool = False) -> list[int]:
    """Returns what is written by a model that would choose these tokens."""
    limit = ThoughtLimit(budget, (OPEN, CLOSE), [LINE, CLOSE, LINE], inside=inside)
    sampler = Sampler(Sampling(temperature=0), [], frozenset(), limit=limit)
    return [sampler.pick(np.eye(9, dtype=np.float32)[token]) for token in choices]


def test_a_thought_ends_when_its_tokens_are_used_up() -> None:
    assert thought([OPEN, 7, 7, 7, 7, 7, 8, 8], 2) == [OPEN, 7, 7, LINE, CLOSE, LINE, 8, 8]
    assert thought([7, 7, 7, 7, 7, 8], 2, inside=True) == [7, 7, LINE, CLOSE, LINE, 8]
    assert thought([OPEN, 7, CLOSE, 8, 8, 8, 8], 2) == [OPEN, 7, CLOSE, 8, 8, 8, 8], "it ended by itself"
    assert thought([8, OPEN, 7, 7, 7, 7], 2) == [8, OPEN, 7, 7, 7, 7], "an answer without a thought"
