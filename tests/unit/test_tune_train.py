"""The loop against independent truth: transformers' own loss, TRL's first step, packed against alone, killed against not."""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'fust[tune]')")
pytest.importorskip("peft", reason="peft is not installed (pip install 'fust[tune]')")

from fust.core.errors import StorageFull  # noqa: E402
from fust.tune.batches import IGNORED, Batch  # noqa: E402
from fust.tune.checkpoints import State, find_checkpoint, save_checkpoint  # noqa: E402
from fust.tune.extend import key_of  # noqa: E402
from fust.tune.health import Diverged  # noqa: E402
from fust.tune.model import Tuned  # noqa: E402
from fust.tune.saver import Saver  # noqa: E402
from fust.tune.train import Training  # noqa: E402
from tests.support.engine_probe import in_engine  # noqa: E402
from tests.support.hf_models import PROBE  # noqa: E402
from tests.support.tiny_bases import write_base, write_rows  # noqa: E402
from tests.support.tune_bench import (  # noqa: E402
    DPO_POINTS,
    POINTS,
    RECIPE,
    SAVE_POINTS,
    Quiet,
    make_bench,
    open_training,
    prepare_rows,
    recipe_with,
    sha256_of,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is deprecated:FutureWarning"
)  # peft and transformers, of one another
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "phi3", "gemma3_text"]
BENCH = Path(__file__).parents[1] / "support" / "tune_bench.py"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(autouse=True)
def nothing_stays():
    """Gives torch back its defaults."""
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def lone_batches(training, rows: int):
    """Returns the samples of the first rows, each as a batch of its own without any padding."""
    prepared = training._batches._prepared
    for row in training._batches.train[:rows]:
        for number in row:
            said, learned = prepared.sample(number)
            targets = np.where(learned[1:] == 1, said[1:].astype(np.int64), IGNORED)
            yield torch.tensor(said[:-1].astype(np.int64))[None], torch.tensor(targets)[None]


def loss_by_transformers(model, batches) -> float:
    """Returns the sum of -log p by the model's own forward pass, one sample at a time."""
    total = 0.0
    for ids, targets in batches:
        logits = model(input_ids=ids, use_cache=False).logits.float()
        total += float(
            torch.nn.functional.cross_entropy(logits[0], targets[0], ignore_index=IGNORED, reduction="sum")
        )
    return total


WINDOWED = {
    "gemma3_text": {"sliding_window": 12},
    "mistral": {"sliding_window": 12},
    "phi3": {"sliding_window": 12},
}
"""Of families that look back no further than a window in some layers or all: one that is shorter than the samples."""


@pytest.mark.parametrize("short", [512, 34, 0], ids=["by tables", "by both", "by torch's"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_samples_never_see_each_other(family, short, tmp_path, monkeypatch):
    """The loss of packed rows is that of the samples alone, by transformers' own code; and so are gradients.

    By each way in which our attention is computed: whole tables for short samples, torch's function for long ones.
    """
    monkeypatch.setattr("fust.tune.attention._SHORT", short)
    bench = make_bench(tmp_path, family=family, **WINDOWED.get(family, {}))
    training = open_training(bench, recipe_with(method="full"))
    lengths = {n for row in training._batches.train[:2] for n in training._batches.build([row]).lengths}
    assert min(lengths) < 34 < max(lengths), "both ways are gone where both are allowed"
    compare_packed_with_alone(tmp_path, training)


@pytest.mark.parametrize(
    "changes", [{"lora_rank": 4, "method": "lora"}, {"checkpointing": True}], ids=["adapter", "twice"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_before_in_a_row_changes_nothing_of_a_sample(family, changes, tmp_path):
    """All samples but the last of a row have other tokens: the losses of the last one stay as they are."""
    bench = make_bench(tmp_path, family=family, **WINDOWED.get(family, {}))
    training = open_training(bench, recipe_with(**({"method": "full"} | changes)))
    [row] = training._batches.train[:1]
    batch = training._batches.build([row])
    ids, targets, begin = batch.ids.view(-1), batch.targets.view(-1), sum(batch.lengths[: len(row) - 1])
    with torch.no_grad():
        before = training.tuned.losses(batch)[0]
        ids[:begin] = ids[:begin].flip(0)
        after = training.tuned.losses(batch)[0]
    others = int((targets[:begin] != IGNORED).sum())
    assert 0 < others < len(before)
    torch.testing.assert_close(before[others:], after[others:], rtol=1e-6, atol=1e-6)
    assert (before[:others] - after[:others]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("family", "attention", "by_positions"),
    [
        ("granite", "sdpa", True),
        ("granite", "eager", True),
        ("cohere", "sdpa", True),
        ("gemma2", "eager", True),
        ("opt", "sdpa", False),
        ("bloom", "eager", False),
        ("mamba", "", False),
    ],
)
def test_packed_samples_of_other_families_never_see_each_other(
    family, attention, by_positions, tmp_path, monkeypatch
):
    """By transformers' attention and positions; of a family that passes on more than those, each sample alone.

    Logits are the family's: Granite's and Cohere's are scaled, Gemma 2's capped.
    """
    if attention == "eager":
        monkeypatch.setattr("transformers.GraniteForCausalLM._supports_sdpa", False)
    more = {"granite": {"logits_scaling": 8.0}, "opt": {"dropout": 0.0}}.get(family, {})
    training = open_training(make_bench(tmp_path, family=family, **more), recipe_with(method="full"))
    if attention:
        assert training.tuned.model.config._attn_implementation == attention
    assert training.tuned._by_positions == by_positions
    compare_packed_with_alone(tmp_path, training)


def compare_packed_with_alone(folder, training) -> None:
    """Compares loss and gradients of packed rows with those of their samples by transformers' own code."""
    from transformers import AutoModelForCausalLM

    batch = training._batches.build(training._batches.train[:2])
    assert max(len(row) for row in training._batches.train[:2]) >= 3
    packed = training.tuned.loss(batch)
    packed.backward()
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    with torch.no_grad():
        alone = loss_by_transformers(model, lone_batches(training, 2))
    assert packed.item() == pytest.approx(alone, rel=1e-5)
    for ids, targets in lone_batches(training, 2):
        logits = model(input_ids=ids, use_cache=False).logits.float()
        torch.nn.functional.cross_entropy(
            logits[0], targets[0], ignore_index=IGNORED, reduction="sum"
        ).backward()
    for name, parameter in model.named_parameters():
        found = training.tuned.trained[name].grad
        torch.testing.assert_close(found, parameter.grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_learns_and_is_loaded_again(family, tmp_path):
    from transformers import AutoModelForCausalLM

    training = open_training(
        make_bench(tmp_path, family=family), recipe_with(method="full", learning_rate=1e-2)
    )
    done = training.run()
    assert done.finished and done.held_out_loss is not None and done.first_held_out_loss is not None
    assert done.held_out_loss < done.first_held_out_loss
    batch = training._batches.build(training._batches.train[:1])
    with torch.no_grad():
        before = training.tuned.loss(batch).item()
        training.tuned.write(tmp_path / "out")
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
        assert loss_by_transformers(model, lone_batches(training, 1)) == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_of_a_family_goes_all_the_way_to_llama_cpp(family, tmp_path):
    """It learns, peft loads it, merged it is the same model, and so is the GGUF file made of that: tokens and log-probabilities."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from fust.formats.gguf_write import write_gguf
    from fust.formats.peft_merge import merge_adapter

    more = {"initializer_range": 0.15} | ({"sliding_window": None} if family == "phi3" else {})
    base, adapter, merged = (tmp_path / name for name in ("base", "adapter", "merged"))
    training = open_training(
        make_bench(tmp_path, family=family, **more), recipe_with(lora_rank=4, learning_rate=2e-2, steps=12)
    )
    done = training.run()
    assert done.held_out_loss < 0.95 * done.first_held_out_loss
    batch = training._batches.build(training._batches.train[:1])
    with torch.no_grad():
        ours = training.tuned.loss(batch).item()
        training.tuned.write(adapter)
        theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
        assert loss_by_transformers(theirs, lone_batches(training, 1)) == pytest.approx(ours, rel=1e-5)
        merge_adapter(base, adapter, merged)
        whole = AutoModelForCausalLM.from_pretrained(merged).eval()
        assert loss_by_transformers(whole, lone_batches(training, 1)) == pytest.approx(ours, rel=1e-4)
    write_gguf(merged, tmp_path / "m.gguf", "F32", name="me/tuned")
    tokenizer = AutoTokenizer.from_pretrained(merged)
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in PROBE]
    prefixes = [ids[at][:n] for at, n in ((0, 5), (1, 20), (3, 9), (4, 16))]
    found = in_engine(
        tmp_path / "m.gguf", PROBE, prefixes, tokenizer.convert_tokens_to_ids("a"), whole.config.vocab_size
    )
    assert found["ids"] == ids
    differences = []
    for prefix, of_next in zip(prefixes, found["logprobs"], strict=True):
        with torch.no_grad():
            wanted = torch.log_softmax(whole(torch.tensor([prefix])).logits[0, -1].double(), -1)
        differences += [abs(value - wanted[int(token)].item()) for token, value in of_next.items()]
    assert len(differences) > 1000
    assert np.mean(differences) < 5e-3 and np.quantile(differences, 0.999) < 3e-2


def test_accumulation_changes_nothing_but_rounding(bench):
    losses = {}
    for passes in (1, 2, 4):
        recipe = recipe_with(rows_per_pass=4 // passes, passes_per_step=passes, lora_rank=4)
        watcher = Quiet()
        open_training(bench, recipe, f"passes{passes}", watcher).run()
        losses[passes] = [point.loss for point in watcher.points]
    assert losses[1] == pytest.approx(losses[2], rel=1e-5)
    assert losses[1] == pytest.approx(losses[4], rel=1e-5)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_bf16_is_near_fp32(bench, method):
    """At the first step, and at the last: what products take follows the weights that learn."""
    losses = {}
    for precision in ("bf16", "fp32"):
        recipe = recipe_with(precision=precision, method=method)
        open_training(bench, recipe, f"run-{precision}-{method}", watcher := Quiet()).run()
        losses[precision] = [point.loss for point in watcher.points]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=5e-3)
    assert losses["fp32"][-1] < 0.97 * losses["fp32"][0]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_near_itself_in_bf16_and_the_same_with_activations_computed_twice(family, tmp_path):
    """The first losses and gradients: bf16 within 0.5 % and 3 % of fp32, checkpointed ones within rounding."""
    make_bench(tmp_path, family=family)
    found = {}
    for name, changes in {
        "plain": {},
        "bf16": {"precision": "bf16"},
        "twice": {"checkpointing": True},
    }.items():
        recipe = recipe_with(method="full", **changes)
        open_training(tmp_path, recipe, name, watcher := Quiet(stop_after=2)).run()
        found[name] = [value for point in watcher.points for value in (point.loss, point.gradient_norm)]
    assert found["bf16"][::2] == pytest.approx(found["plain"][::2], rel=5e-3)
    assert found["bf16"][1::2] == pytest.approx(found["plain"][1::2], rel=3e-2)
    assert found["twice"] == pytest.approx(found["plain"], rel=1e-5)


def test_a_large_head_is_computed_in_parts(bench, monkeypatch):
    training = open_training(bench, recipe_with(method="full"))
    batch = training._batches.build(training._batches.train[:2])
    whole = training.tuned.loss(batch)
    whole.backward()
    [matrix] = [p for n, p in training.tuned.trained.items() if "embed" in n]  # which is the output's as well
    gradient = matrix.grad.clone()
    training._mover.forget()
    monkeypatch.setattr("fust.tune.model._HEAD_VALUES", 342 * 5)
    parts = training.tuned.loss(batch)
    parts.backward()
    assert parts.item() == pytest.approx(whole.item(), rel=1e-6)
    torch.testing.assert_close(gradient, matrix.grad, rtol=1e-4, atol=1e-5)


def test_activations_that_are_computed_twice_change_nothing(bench):
    losses = []
    for checkpointing in (False, True):
        watcher = Quiet(stop_after=3)
        open_training(
            bench, recipe_with(checkpointing=checkpointing), f"twice-{checkpointing}", watcher
        ).run()
        losses.append([point.loss for point in watcher.points])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch, of itself
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("changes", [{}, {"method": "full", "checkpointing": True}], ids=["lora", "full"])
def test_compiled_layers_learn_the_same(changes, bench, tmp_path, monkeypatch):
    """Packed rows and accumulated passes: the first step's loss and gradient are those of layers as they are."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    found = {}
    for compiled in (False, True):
        watcher = Quiet()
        training = open_training(
            bench, recipe_with(compile=compiled, **changes), f"compiled-{compiled}{len(changes)}", watcher
        )
        assert training.run().finished
        found[compiled] = training, watcher.points
    plain, quick = (found[compiled][1] for compiled in (False, True))
    assert quick[0].loss == pytest.approx(plain[0].loss, rel=1e-6)
    assert quick[0].gradient_norm == pytest.approx(plain[0].gradient_norm, rel=1e-4)
    assert quick[-1].held_out_loss == pytest.approx(plain[-1].held_out_loss, rel=1e-3)
    layer = found[True][0].tuned._backbone.layers[0]
    assert layer._compiled_call_impl and torch._dynamo.utils.counters["stats"]["unique_graphs"], (
        "code was made"
    )
    # Stopped after three steps and gone on with, it ends in the same bits.
    recipe = recipe_with(compile=True, **changes)
    open_training(bench, recipe, f"halves{len(changes)}", Quiet(stop_after=3)).run()
    halves = open_training(bench, recipe, f"halves{len(changes)}")
    assert halves.run().finished
    assert sha256_of(halves) == sha256_of(found[True][0])


ORACLE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
base, rows = sys.argv[1], [json.loads(line) for line in open(sys.argv[2], encoding="utf-8")]
config = SFTConfig(output_dir=sys.argv[3], per_device_train_batch_size=len(rows), max_steps=1, assistant_only_loss=True,
    bf16=sys.argv[4] == "bf16", fp16=False, use_cpu=True, report_to=[], gradient_checkpointing=False, max_length=None, packing=False)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
trainer = SFTTrainer(model, config, train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(base))
batch = next(iter(trainer.get_train_dataloader()))
learned = int((batch["labels"][:, 1:] != -100).sum())
with torch.no_grad():
    loss = float(trainer.compute_loss(trainer.accelerator.prepare_model(model), batch))
print(json.dumps({"loss": loss, "learned": learned}))
"""


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("bf16", 5e-3)])
def test_the_first_loss_is_that_of_trl(precision, bound, tmp_path):
    """The same rows through TRL's SFTTrainer: same learned tokens, same loss within 1e-4 in fp32 and 5e-3 in bf16 (of 6.3 nats)."""
    trl = pytest.importorskip("trl", reason="trl, the oracle, is not installed")
    template = (Path(trl.__file__).parent / "chat_templates" / "llama3_training.jinja").read_text()
    special = ["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    write_base(tmp_path / "base", template=template, extra=special, initializer_range=0.1)
    rows = write_rows(tmp_path / "rows.jsonl", 12)
    prepare_rows(tmp_path, rows, template=template, extra=special, held_out_share=0.0)
    training = open_training(tmp_path, recipe_with(method="full", rows_per_pass=99, precision=precision))
    batch = training._batches.build(training._batches.train)
    with torch.no_grad():
        ours = training.tuned.loss(batch).item() / batch.learned
    done = subprocess.run(
        [sys.executable, "-c", ORACLE, str(tmp_path / "base"), str(rows), str(tmp_path / "trl"), precision],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert theirs["learned"] == batch.learned
    assert ours == pytest.approx(theirs["loss"], abs=bound)


def test_rows_of_which_none_can_be_used_are_all_named(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": []}\nnonsense\n{"a": 1}\n' + " " * 2100)
    prepared = prepare_rows(tmp_path, rows)
    assert prepared.report.kept == 0 and len(prepared.lengths) == 0
    assert {drop.code: drop.rows for drop in prepared.report.dropped} == {
        "empty": ["rows.jsonl:1"],
        "not_json": ["rows.jsonl:2"],
        "unknown_columns": ["rows.jsonl:3"],
    }


# Nothing is lost


def test_a_run_that_stops_and_goes_on_ends_in_the_same_bits(bench):
    straight = open_training(bench, RECIPE, "straight")
    straight.run()
    stopped = open_training(bench, RECIPE, "stopped", Quiet(stop_after=2))
    assert stopped.run().finished is False
    again = open_training(bench, RECIPE, "stopped", watcher := Quiet())
    assert again.run().finished
    assert watcher.said[0] == "Going on from step 2." and watcher.points[0].step == 3
    assert sha256_of(again) == sha256_of(straight)
    assert again.state.learned_tokens == straight.state.learned_tokens


def test_a_damaged_newest_checkpoint_is_passed_over(bench):
    straight = open_training(bench, RECIPE, "straight-too")
    straight.run()
    for stop in (2, 2):
        open_training(bench, RECIPE, "damaged", Quiet(stop_after=stop)).run()
    newest = bench / "damaged" / "checkpoints" / "step-00000004" / "weights.safetensors"
    os.truncate(newest, newest.stat().st_size - 8)
    again = open_training(bench, RECIPE, "damaged", watcher := Quiet())
    again.run()
    assert watcher.said[:2] == [
        "Checkpoint step-00000004 is damaged; using the one before it.",
        "Going on from step 2.",
    ]
    assert sha256_of(again) == sha256_of(straight)


def test_a_checkpoint_of_another_recipe_is_not_taken(bench):
    open_training(bench, RECIPE, "other", Quiet(stop_after=2)).run()
    other = open_training(bench, recipe_with(seed=8), "other", watcher := Quiet(stop_after=1))
    other.run()
    assert watcher.points[0].step == 1


def test_a_loss_that_breaks_once_goes_back_once(bench, monkeypatch):
    training = open_training(bench, RECIPE, "broken", watcher := Quiet())
    real, calls = Tuned.loss, 0

    def breaks(self: Tuned, batch: Batch):
        nonlocal calls
        calls += self.model.training
        return real(self, batch) * (math.nan if calls == 7 else 1.0)

    monkeypatch.setattr(Tuned, "loss", breaks)
    assert training.run().finished
    assert "The loss broke at step 4; going on from step 0 with half the learning rate." in watcher.said
    assert training.state.rolled_back_at == 4
    assert [point.step for point in watcher.points] == [1, 2, 3, 1, 2, 3, 4, 5, 6]
    assert watcher.points[3].learning_rate == pytest.approx(watcher.points[0].learning_rate / 2)
    assert all(torch.isfinite(p).all() for p in training.tuned.trained.values())


def test_a_loss_that_breaks_again_ends_the_run(bench, monkeypatch):
    training = open_training(bench, RECIPE, "hopeless")
    monkeypatch.setattr(
        training.tuned, "loss", lambda batch: next(iter(training.tuned.trained.values())).sum() * math.nan
    )
    training.state.step = 0
    with pytest.raises(Diverged, match="again after half the learning rate"):
        training.run()


@pytest.mark.parametrize("what", ["its value is far above", "its gradient is no number"])
def test_a_step_that_breaks_moves_nothing_and_goes_back_once(bench, monkeypatch, what):
    """A loss that is a number and far too large, and one whose gradient alone is none."""
    recipe = recipe_with(steps=40, passes_per_step=1, evaluate_every=40)
    training = open_training(bench, recipe, what.replace(" ", "-"), watcher := Quiet())
    real, calls = Tuned.loss, 0

    def breaks(self: Tuned, batch: Batch):
        nonlocal calls
        calls += self.model.training
        loss = real(self, batch)
        if calls != 30:
            return loss
        if what.startswith("its value"):
            return loss * 40
        weight = next(iter(self.trained.values()))
        return loss + torch.sqrt(weight - weight.detach()).sum()  # nothing, with a slope without an end

    monkeypatch.setattr(Tuned, "loss", breaks)
    assert training.run().finished
    said = [text for text in watcher.said if "broke" in text]
    assert said == ["The loss broke at step 30; going on from step 0 with half the learning rate."]
    assert (training.state.rolled_back_at, training.state.rate_scale) == (30, 0.5)
    assert [point.step for point in watcher.points] == [*range(1, 30), *range(1, 41)]
    assert all(torch.isfinite(p).all() for p in training.tuned.trained.values())


def test_a_rate_that_is_far_too_high_goes_back_once_and_then_says_what_to_do(bench):
    recipe = recipe_with(method="full", learning_rate=10.0, steps=80, passes_per_step=1, evaluate_every=80)
    training = open_training(bench, recipe, "far-too-high", watcher := Quiet())
    with pytest.raises(Diverged, match="again after half the learning rate") as caught:
        training.run()
    assert "Lower the learning rate (--set learning_rate=" in caught.value.sentence()
    assert "The loss broke at step 21; going on from step 0 with half the learning rate." in watcher.said
    points = {point.step: point.learning_rate for point in watcher.points}
    assert max(points) == 20 and points[20] == pytest.approx(recipe.rate(19) / 2)


@pytest.mark.parametrize(
    ("rate", "begins"),
    [(1e-9, "The loss does not fall: "), (5e-3, ""), (1e3, "The loss is above where it began: ")],
)
@pytest.mark.parametrize("evaluate_every", [60, 20])
def test_a_loss_that_does_not_fall_is_spoken_of(bench, rate, begins, evaluate_every):
    """Too low a rate, one that is right, and one that broke the weights at once: which it was is told, so is what to do."""
    recipe = recipe_with(learning_rate=rate, steps=60, passes_per_step=1, evaluate_every=evaluate_every)
    open_training(bench, recipe, f"stuck{rate}{evaluate_every}", watcher := Quiet()).run()
    said = [text for text in watcher.said if "(--set learning_rate=" in text]
    assert len(said) == bool(begins)
    if begins:
        assert said[0].startswith(begins) and " after 50. " in said[0]
        assert ("Lower the" in said[0]) is (rate > 1) and ("Raise the" in said[0]) is (rate < 1)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_passes_that_were_measured_are_those_of_the_first_step(bench, method, monkeypatch):
    """A run that measured first, as a new one does, ends in the bits of one that did not, as after a kill."""
    recipe = recipe_with(method=method, passes_per_step=4)
    learned: list[tuple[int, int]] = []
    real = Training._learn

    def noted(self, begun, number, *rest):
        learned.append((begun.step, number))
        real(self, begun, number, *rest)

    monkeypatch.setattr(Training, "_learn", noted)
    plain = open_training(bench, recipe, f"plain-{method}")
    plain.run()
    learned.clear()
    measured = open_training(bench, msgspec.structs.replace(recipe, steps=50), f"measured-{method}")
    assert measured.measure() > 0
    measured.settle(recipe, key_of(recipe))
    measured.run()
    assert sha256_of(measured) == sha256_of(plain)
    assert learned[:4] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert learned.count((0, 0)) == (1 if method == "lora" else 2), "of an adapter nothing is computed twice"


@pytest.mark.parametrize("passes", [2, 4])
def test_passes_are_measured_with_the_memory_of_moments_taken(bench, passes, monkeypatch):
    """All weights have two moments from the second step on, while passes are computed: a third of what a run takes."""
    training = open_training(bench, recipe_with(method="full", passes_per_step=passes), f"moments-{passes}")
    trained = list(training.tuned.trained.values())
    known = {id(p) for p in training.tuned.model.parameters()}
    taken: list[int] = []
    real = Training._learn

    def noted(self, *given):
        tensors = (it for it in gc.get_objects() if type(it) is torch.Tensor and id(it) not in known)
        taken.append(sum(it.numel() for it in tensors))
        real(self, *given)

    monkeypatch.setattr(Training, "_learn", noted)
    before = sum(it.numel() for it in gc.get_objects() if type(it) is torch.Tensor and id(it) not in known)
    training.measure()
    assert taken[0] - before >= 2 * sum(p.numel() for p in trained)


def test_measured_passes_of_a_step_of_another_size_are_forgotten(bench):
    """A short budget makes smaller steps than those that were measured."""
    recipe = recipe_with(passes_per_step=2)
    plain = open_training(bench, recipe, "plain-smaller")
    plain.run()
    measured = open_training(bench, msgspec.structs.replace(recipe, passes_per_step=4), "measured-larger")
    assert measured.measure() > 0
    measured.settle(recipe, key_of(recipe))
    measured.run()
    assert sha256_of(measured) == sha256_of(plain)


def test_what_the_base_says_is_asked_behind_the_first_step_and_is_the_base_s(bench):
    training = open_training(bench, RECIPE, "asked-later", watcher := Quiet())
    before, _ = training._evaluate()
    done = training.run()
    assert done.first_held_out_loss == before != done.held_out_loss
    assert len(watcher.points) == RECIPE.steps


def test_checkpoints_come_once_a_minute_and_less_often_where_they_take_long(bench):
    training = open_training(bench, RECIPE, "due")
    for save_s, since_s, due in ((0.1, 59, False), (0.1, 61, True), (6.0, 190, False), (6.0, 210, True)):
        training._save_s, training._saved_at = save_s, time.monotonic() - since_s
        assert training._is_due() is due


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """For when power fails: files and folder are synced, then renamed, then the rename is synced, and then older ones go."""
    seen: list[tuple[str, str]] = []
    folder = tmp_path / "work" / "checkpoints"

    def noting(owner, name, say):
        real = getattr(owner, name)

        def noted(*arguments, **more):
            seen.append((name, say(arguments[0]).removeprefix(str(tmp_path) + "/")))
            return real(*arguments, **more)

        monkeypatch.setattr(owner, name, noted)

    noting(os, "fsync", lambda number: os.readlink(f"/proc/self/fd/{number}"))
    noting(Path, "rename", str)
    noting(shutil, "rmtree", str)
    for step in (1, 2, 3, 3):
        del seen[:]
        save_checkpoint(folder, "key", {"w": torch.ones(9)}, {"m.w": torch.ones(9)}, State(step=step))
        part = f"work/checkpoints/step-0000000{step}.tmp"
        events = [it for it in seen if it[0] != "rmtree" or (tmp_path / it[1]).suffix != ".tmp"]
        renamed = max(at for at, it in enumerate(events) if it == ("rename", part))
        before = [name for what, name in events[:renamed] if what == "fsync"]
        for name in ("weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"):
            assert f"{part}/{name}" in before
        assert before[-1] == part, "the folder's own list of files"
        assert events[renamed + 1] == ("fsync", "work/checkpoints")
        assert all(what != "rmtree" or name.endswith(".old") for what, name in events[:renamed])
        if step == 1:
            assert ("fsync", "work") in events[:renamed], "the folder of checkpoints is new"
    assert ("rename", "work/checkpoints/step-00000003") in events, "the one in the way had to go"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000002", "step-00000003"]


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(bench, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting a small file system needs root")
    try:
        weights = {"w": torch.ones(20_000)}
        save_checkpoint(small, "key", weights, {}, State(step=1))
        with pytest.raises(StorageFull):
            save_checkpoint(small, "key", {"w": torch.ones(200_000)}, {}, State(step=2))
        found, damaged = find_checkpoint(small, "key")
        assert found is not None and found.state.step == 1 and damaged == []
        assert sorted(path.name for path in small.iterdir()) == ["step-00000001"]
        training = open_training(bench, RECIPE, "full", watcher := Quiet())
        training._folder, training._saver = small, Saver(small)
        (small / "filler").write_bytes(b"x" * (380_000 - 81_000))
        assert training.run().finished
        assert "The disk is full: no checkpoint at step 0. Training goes on." in watcher.said
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)


# In two processes

TEAM = BENCH.with_name("tune_team.py")


def run_program(*arguments: object) -> Any:
    """Returns what a program of runs that it forks has found."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_two_processes_learn_as_one_does(tmp_path):
    """The same loss and gradient at the first step, and the same course, within rounding: by tokens, not by processes."""
    every = run_program(TEAM, tmp_path, "steps")
    said, steps = every.pop("broken")
    assert "The loss broke at step 3; going on from step 0 with half the learning rate." in said
    assert steps == [1, 2, 1, 2, 3, 4, 5, 6], "both processes went back"
    for method, found in every.items():
        one, two = found["1"], found["2"]
        assert one["losses"][0] == pytest.approx(two["losses"][0], rel=1e-6), method
        assert one["gradient"] == pytest.approx(two["gradient"], rel=1e-5, abs=1e-7), method
        assert max(map(abs, one["gradient"])) > 0.01
        assert one["tokens"] == two["tokens"]
        for name in ("losses", "held_out", "margins"):
            for mine, theirs in zip(one[name], two[name], strict=True):
                assert mine == (None if theirs is None else pytest.approx(theirs, rel=1e-4, abs=1e-6))
        mine, theirs = found["learned"]
        assert mine and theirs and (mine != theirs or method == "dpo"), (
            "processes with other numbers of tokens"
        )


@pytest.mark.faults
def test_two_processes_end_in_the_same_bits_whichever_is_killed(tmp_path):
    """SIGKILL to either at listed points, eight within a save; one that hangs, and one whose weights drift."""
    found = run_program(TEAM, tmp_path, "kills")
    whole = found.pop("undisturbed")
    assert found.pop("both are paused") == ["paused at step 2", whole]
    assert len(found) == 19 and len(whole) == 64
    assert {point: said for point, said in found.items() if said[1] != whole} == {}
    for point, (said, _) in found.items():
        if point.startswith("first"):
            assert said is None, "it was killed"
        elif "does not end" in point:
            assert "does not answer (Timed out" in said
        elif "other ones" in point:
            assert "are no longer the same" in said and "lora_A" in said
        else:
            assert "Process 2 of 2 was ended by signal 9" in said


@pytest.mark.faults
def test_killed_at_any_point_it_ends_in_the_same_bits(tmp_path):
    of_rows, of_pairs = run_program(BENCH, tmp_path)
    assert len(POINTS) >= 20 and len(SAVE_POINTS) >= 6 and set(POINTS) > SAVE_POINTS
    for found, points in ((of_rows, POINTS), (of_pairs, DPO_POINTS)):
        whole = found.pop("undisturbed")
        assert set(found) == set(points)
        assert {point: result for point, result in found.items() if result != [True, whole]} == {}
