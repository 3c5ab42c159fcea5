"""Preferences: which answers are compared, TRL's DPOTrainer as the oracle, the reference computed once and kept."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'fust[tune]')")
pytest.importorskip("peft", reason="peft is not installed (pip install 'fust[tune]')")

from fust.core.errors import FustError  # noqa: E402
from fust.tune.model import Tuned  # noqa: E402
from fust.tune.preference import Preference, Reference, log_probabilities  # noqa: E402
from fust.tune.prepare import view_samples  # noqa: E402
from tests.support.tiny_bases import make_tokenizer, write_base, write_pairs  # noqa: E402
from tests.support.tune_bench import Quiet, open_training, prepare_rows, recipe_with, sha256_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is deprecated:FutureWarning"
)  # peft and transformers, of one another
DPO = recipe_with(method="dpo", beta=0.1, rows_per_pass=2, passes_per_step=1, steps=6)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    write_base(folder / "base")
    prepare_rows(folder, write_pairs(folder / "rows.jsonl"), pairs=True, held_out_share=0.2)
    return folder


@pytest.fixture(autouse=True)
def nothing_stays():
    """Gives torch back its defaults."""
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def prepared_of(tmp_path: Path, *rows: dict, **more: object):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return prepare_rows(tmp_path, path, pairs=True, held_out_share=0.0, **more)


def marked_texts(prepared) -> list[tuple[str, str, str]]:
    """Returns side, text and what is learned of each sample of the preview."""
    tokenizer = make_tokenizer()
    found = []
    for number, view in enumerate(view_samples(prepared, lambda ids: "".join(map(str, ids)))):
        ids, learned = prepared.sample(number)
        said = [int(i) for i, flag in zip(ids, learned, strict=True) if flag]
        found.append((view.side, tokenizer.decode([int(i) for i in ids]), tokenizer.decode(said)))
    return found


ASKED, GOOD, BAD = "Say moon", "moon it is.", "again"
USER = {"role": "user", "content": ASKED}


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": ASKED, "chosen": GOOD, "rejected": BAD}],
        [
            {
                "chosen": [USER, {"role": "assistant", "content": GOOD}],
                "rejected": [USER, {"role": "assistant", "content": BAD}],
            }
        ],
        [{"prompt": [USER], "chosen": {"role": "assistant", "content": GOOD}, "rejected": BAD}],
        [
            {
                "conversations": [{"from": "human", "value": ASKED}],
                "chosen": {"from": "gpt", "value": GOOD},
                "rejected": {"from": "gpt", "value": BAD},
            }
        ],
        [
            {"prompt": ASKED, "completion": BAD, "label": False},
            {"prompt": ASKED, "completion": GOOD, "label": True},
        ],
        [
            {"messages": [USER, {"role": "assistant", "content": BAD}], "label": False},
            {"messages": [USER, {"role": "assistant", "content": GOOD}], "label": True},
        ],
    ],
    ids=["texts", "openai", "mixed", "sharegpt", "judged", "judged conversations"],
)
def test_pairs_of_every_format_are_the_same_two_samples(rows, tmp_path):
    question = "<|im_start|>user\nSay moon<|im_end|>\n<|im_start|>assistant\n"
    assert marked_texts(prepared_of(tmp_path, *rows)) == [
        ("chosen", f"{question}{GOOD}<|im_end|>\n", f"{GOOD}<|im_end|>"),
        ("rejected", f"{question}{BAD}<|im_end|>\n", f"{BAD}<|im_end|>"),
    ]


def test_only_answers_behind_the_shared_beginning_are_compared(tmp_path):
    before = [USER, {"role": "assistant", "content": GOOD}, {"role": "user", "content": "Again"}]
    sides = {
        name: [*before, {"role": "assistant", "content": text}]
        for name, text in (("chosen", "moon!"), ("rejected", "no"))
    }
    said = [learned for _, _, learned in marked_texts(prepared_of(tmp_path, sides))]
    assert said == ["moon!<|im_end|>", "no<|im_end|>"]


def test_rows_that_are_no_pair_are_named_with_the_reason(tmp_path):
    other = {"role": "user", "content": "Another question"}
    answer = {"role": "assistant", "content": GOOD}
    prepared = prepared_of(
        tmp_path,
        {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
        {"messages": [USER, answer]},
        {"chosen": [USER, answer], "rejected": [other, answer]},
        {"prompt": ASKED, "chosen": GOOD, "rejected": GOOD},
        {"prompt": "Lonely", "completion": GOOD, "label": True},
        {"prompt": "Long " * 90, "chosen": GOOD, "rejected": BAD},
    )
    assert {drop.code: drop.rows for drop in prepared.report.dropped} == {
        "no_pair": ["rows.jsonl:2"],
        "different_questions": ["rows.jsonl:3"],
        "same_answers": ["rows.jsonl:4"],
        "no_counterpart": ["rows.jsonl:5"],
        "too_long": ["rows.jsonl:6"],
    }
    assert prepared.report.pairs == prepared.report.kept == 1


def test_judged_answers_find_one_counterpart_each(tmp_path):
    def row(answer: str, good: bool) -> dict:
        return {"prompt": ASKED, "completion": answer, "label": good}

    prepared = prepared_of(
        tmp_path, row("a", True), row("b", True), row("c", False), row("d", False), row("e", True)
    )
    said = [learned.removesuffix("<|im_end|>") for _, _, learned in marked_texts(prepared)]
    assert said == ["a", "c", "b", "d"]
    assert [drop.rows for drop in prepared.report.dropped] == [["rows.jsonl:5"]]


ORACLE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
policy, reference, rows = sys.argv[1], sys.argv[2], [json.loads(line) for line in open(sys.argv[3], encoding="utf-8")]
config = DPOConfig(output_dir=sys.argv[4], per_device_train_batch_size=len(rows), max_steps=1, beta=0.1, bf16=sys.argv[5] == "bf16",
    fp16=False, use_cpu=True, report_to=[], gradient_checkpointing=False, max_length=None, disable_dropout=True, precompute_ref_log_probs=True)
load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
trainer = DPOTrainer(load(policy), load(reference), config, train_dataset=Dataset.from_list(rows),
    processing_class=AutoTokenizer.from_pretrained(policy))
batch = next(iter(trainer.get_train_dataloader()))
with torch.no_grad():
    loss = float(trainer.compute_loss(trainer.accelerator.prepare_model(trainer.model), batch))
found = {name: float(values[-1]) for kept in trainer._metrics.values() for name, values in kept.items() if values}
print(json.dumps({"loss": loss, "learned": int(batch["completion_mask"].sum()), **found}))
"""


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_the_first_loss_is_that_of_trl(precision, bound, tmp_path):
    """The same pairs through TRL's DPOTrainer, against the reference of another model: loss, margin and accuracy.

    Within 1e-4 in fp32, and 2e-2 in bf16.
    """
    trl = pytest.importorskip("trl", reason="trl, the oracle, is not installed")
    template = (Path(trl.__file__).parent / "chat_templates" / "llama3_training.jinja").read_text()
    special = ["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    for name, seed in (("base", 0), ("reference", 5)):
        write_base(tmp_path / name, template=template, extra=special, seed=seed, initializer_range=0.2)
    rows = write_pairs(tmp_path / "rows.jsonl", 12)
    prepare_rows(tmp_path, rows, template=template, extra=special, held_out_share=0.0, pairs=True)
    recipe = recipe_with(method="dpo", beta=0.1, lora_rank=0, rows_per_pass=99, precision=precision)
    training = open_training(tmp_path, recipe)
    reference = Reference(tmp_path / "reference.jsonl", "").compute(
        Tuned(recipe, tmp_path / "reference"), training._batches, 3, lambda *_: True
    )
    batch = training._batches.build(training._batches.train)
    with torch.no_grad():
        judged = Preference(0.1, reference).judge(training.tuned, batch)
    done = subprocess.run(
        [
            *(sys.executable, "-c", ORACLE),
            *(str(tmp_path / name) for name in ("base", "reference", "rows.jsonl", "trl")),
            precision,
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    margins = judged.margins
    assert theirs["learned"] == batch.learned and len(margins) == 12
    assert (
        abs(theirs["loss"] - math.log(2)) > 1e-3
    )  # the reference is another model: not the loss of any beginning
    assert judged.loss.item() / 12 == pytest.approx(theirs["loss"], abs=bound)
    assert margins.mean().item() == pytest.approx(theirs["rewards/margins"], abs=bound)
    assert (margins > 0).float().mean().item() == pytest.approx(theirs["rewards/accuracies"])


@pytest.mark.parametrize("rank", [4, 0], ids=["adapter", "all weights"])
def test_the_better_answers_are_favoured(bench, rank):
    watcher = Quiet()
    recipe = recipe_with(
        method="dpo",
        beta=0.1,
        lora_rank=rank,
        rows_per_pass=2,
        passes_per_step=2,
        steps=40,
        learning_rate=3e-2 if rank else 1e-2,
    )
    done = open_training(bench, recipe, f"favoured{rank}", watcher).run()
    first, last = watcher.points[0], watcher.points[-1]
    assert first.loss == pytest.approx(math.log(2), abs=1e-5) and first.reward_margin == pytest.approx(
        0, abs=1e-5
    )
    assert last.loss < 0.5 and last.reward_accuracy == 1.0 and last.reward_margin > 0.5
    assert done.held_out_accuracy == 1.0 and done.held_out_loss < done.first_held_out_loss - 0.2


def test_packed_pairs_are_judged_as_each_alone(bench):
    training = open_training(bench, DPO, "packed")
    rows = training._batches.train[:2]
    assert max(len(row) for row in rows) >= 4
    with torch.no_grad():
        packed = log_probabilities(training.tuned, training._batches.build(rows))
        alone = [
            log_probabilities(training.tuned, training._batches.build([[number]])).item()
            for row in rows
            for number in row
        ]
    assert packed.tolist() == pytest.approx(alone, rel=1e-5)


def test_stopped_anywhere_it_ends_in_the_same_bits(bench):
    """In the reference, between steps, and with a line of the reference half written."""
    straight = open_training(bench, DPO, "straight")
    assert straight.run().finished

    class StopsEarly(Quiet):
        def wants_to_stop(self) -> bool:
            return len(self.told) >= 3 or super().wants_to_stop()

    stopped = open_training(bench, DPO, "stopped", StopsEarly())
    assert stopped.run().finished is False and stopped.state.step == 0
    kept = bench / "stopped" / "reference.jsonl"
    whole = kept.read_bytes()
    assert whole.count(b"\n") == 3  # the recipe's key, and two passes
    kept.write_bytes(whole[:-9])
    again = open_training(bench, DPO, "stopped", Quiet(stop_after=2))
    assert again.run().finished is False
    last = open_training(bench, DPO, "stopped", watcher := Quiet())
    assert last.run().finished and watcher.told == []  # the reference is not computed again
    assert sha256_of(last) == sha256_of(straight)
    assert kept.read_bytes() == (bench / "straight" / "reference.jsonl").read_bytes()


def test_a_reference_of_another_recipe_is_not_taken(bench, tmp_path):
    training = open_training(bench, DPO, "other")
    path = tmp_path / "reference.jsonl"
    path.write_bytes(b'{"recipe":"another"}\n{"samples":[0,1],"log_p":[1.0,2.0]}\n')
    found = Reference(path, "mine").compute(training.tuned, training._batches, 2, lambda *_: True)
    assert found is not None and (found[[0, 1]] < 0).all()
    assert b"another" not in path.read_bytes()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"method": "lora", "lora_rank": 0}, "lora_rank is 0, and goes from 1"),
        ({"method": "lora", "beta": 0.1}, "beta is 0.1; it belongs to dpo"),
        ({"method": "dpo", "beta": 0.0}, "beta is 0.0"),
    ],
)
def test_dials_that_do_not_fit_are_refused(params, said):
    from fust.tune.asked import read_wish

    with pytest.raises(FustError) as error:
        read_wish({"base": "me/base", "data": "me/rows", "to": "me/x", **params})
    assert said in error.value.sentence()
