"""The process of a tuning run: files out of the hub, rows to samples, a plan, the training, and a new repo.

Each stage leaves its result in the run's folder and is skipped when it is there already, so a run that was killed goes
on where it was.

work/base/  work/rows/      the files, linked from the hub
work/data/                  samples (`fust.tune.prepare`)
work/recipe.json            what was decided, with reasons, before the first step
work/checkpoints/           see `fust.tune.checkpoints`
work/log.jsonl              a line for each step
work/out/                   what goes into the hub
"""

# torch, transformers and peft type their functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import os
import platform
import shutil
import signal
import time
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import msgspec
import psutil

from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.errors import InvalidInput
from fust.core.files import write_atomic
from fust.core.i18n import Words
from fust.core.ids import RepoType
from fust.core.machine import processor_flags
from fust.core.units import show_seconds, show_size, span_words
from fust.formats.gguf_write import check_gguf
from fust.hub.service import Hub
from fust.hub.types import RepoInfo
from fust.jobs.folder import RunFolder
from fust.jobs.worker import AttemptLost, JobContext, RunCancelled
from fust.store.database import Database
from fust.tune.base import PROVEN, Base, check_vocabulary, read_base, wanted_files
from fust.tune.estimate import (
    flops_from_scratch,
    memory_needed,
    memory_taken,
    patience_s,
    run_seconds,
    training_flops,
)
from fust.tune.extend import Before, key_of, plan_extension, take_over
from fust.tune.files import DataFile, is_data
from fust.tune.health import say_when_worse
from fust.tune.hub_files import link_files, list_names
from fust.tune.loading import check_known
from fust.tune.masks import Masker, Tokenizer
from fust.tune.prepare import DataWish, Prepared, SampleView, iter_texts, prepare, view_samples
from fust.tune.progress import Point, Trained
from fust.tune.publish import Origin, publish
from fust.tune.recipe import (
    Planned,
    Reasoned,
    Recipe,
    Wish,
    derive,
    longest_sample,
    processes_of,
    rank_of,
    with_smaller_steps,
    within_budget,
)
from fust.tune.report import DataReport
from fust.tune.result import Decided, Forecast, TuneResult

if TYPE_CHECKING:
    from fust.tune.batches import Batches
    from fust.tune.fresh_base import Fresh
    from fust.tune.model import Tuned
    from fust.tune.peers import Peers
    from fust.tune.samples import Sampler
    from fust.tune.team import Team
    from fust.tune.train import Training

_HELD_OUT_SHARE = 0.05
_HELD_OUT_BYTES = 1_000_000
"""Of larger data a smaller share is held out."""
_POINTS_SHOWN = 1000


@dataclass(frozen=True, slots=True)
class _Ready:
    """What a run works on."""

    base: Base
    prepared: Prepared
    preview: list[SampleView]
    batches: Batches


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What learns, and who does it."""

    tuned: Tuned
    sampler: Sampler
    team: Team


class Run:
    """One run, as its process does it."""

    def __init__(self, context: JobContext, wish: Wish) -> None:
        self._context = context
        self._wish = wish
        self._work = context.work
        self._began = time.monotonic()
        self._stopping = False
        self._has_stepped = False
        self._fresh: Fresh | None = None
        self._peers: Peers
        self._log = (self._work / "log.jsonl").open("ab", buffering=0)

    def run(self) -> TuneResult:
        """Does it.

        Raises:
            FustError: the base, the data or the machine do not allow it.

        """
        database = Database(self._context.settings.database_url)
        try:
            accounts = Accounts(database, self._context.settings)
            self._hub = Hub(database, accounts, self._context.settings)
            self._accounts = accounts
            return self._run()
        finally:
            self._log.close()
            database.close()

    def _run(self) -> TuneResult:
        context, wish = self._context, self._wish
        gc.disable()  # what is imported stays, and looking for garbage in it takes half a second
        from fust.tune.batches import Batches
        from fust.tune.model import Tuned
        from fust.tune.samples import Sampler, choose_prompts
        from fust.tune.set_up import keep_malloc_pages, set_up_torch
        from fust.tune.train import Training

        keep_malloc_pages()
        base = self._make_base() if wish.method == "pretrain" else self._fetch_base(wish.base)
        for file_type in wish.gguf:  # before compute is spent on what cannot be written
            check_gguf(base.folder, file_type)
        name = wish.base or wish.to
        check_known(base.config.model_type, name)
        if wish.compile and not base.is_proven:
            raise InvalidInput(
                "compile knows the families {families}, and {repo_id} is {family}.",
                hint="Leave compile out: everything else works.",
                families=", ".join(sorted(PROVEN)),
                repo_id=name,
                family=base.config.model_type,
            )
        tokenizer = _load_tokenizer(base.folder, name)
        gc.freeze()
        gc.enable()
        prepared = self._prepare(base, tokenizer)
        self._check_rows(prepared.report)
        check_vocabulary(base, name, _highest(prepared))
        preview = view_samples(
            prepared, partial(cast(Any, tokenizer).decode, clean_up_tokenization_spaces=False)
        )
        decided = self._decided()
        before = Before.read(self._folder_of(wish.extends)) if wish.extends and decided is None else None
        known = decided.recipe if decided else before.decided.recipe if before else None
        batches = Batches(prepared, known.row_tokens if known else _row_tokens(prepared, wish))
        ready = _Ready(base, prepared, preview, batches)
        planned = self._plan(base, prepared, len(batches.train), before)
        recipe = decided.recipe if decided else planned.recipe
        set_up_torch(recipe)
        context.progress(0, 0, "", "Loading {repo_id}", now=True, repo_id=name)
        with self._with_peers(recipe, ready):
            tuned = Tuned(recipe, base.folder)
            sampler = Sampler(tuned, tokenizer, choose_prompts(prepared))
            loaded = _Loaded(tuned, sampler, self._peers.meet())
            training = Training(
                tuned, recipe, "", batches, self._work / "checkpoints", self, sampler, loaded.team
            )
            if decided is None:
                decided = self._decide(planned, before, ready, loaded, training)
            recipe = decided.recipe
            result = TuneResult("", "", recipe, decided.reasons, prepared.report, preview, decided.forecast)
            if not wish.dry_run:
                result.trained = self._train(recipe, training)
        if wish.dry_run:
            shutil.rmtree(self._work, ignore_errors=True)
        else:
            self._publish(tuned, base, result)
        return result

    @contextlib.contextmanager
    def _with_peers(self, recipe: Recipe, ready: _Ready) -> Generator[None]:
        """Has the run's other processes; raises AttemptLost when one of them is lost."""
        from fust.tune.peers import Peers
        from fust.tune.team import TeamLost

        held_out_tokens = len(ready.batches.held_out) * recipe.row_tokens
        longest_wait_s = patience_s(ready.base.parameters, held_out_tokens)
        with Peers(recipe, ready.base.folder, self._work, longest_wait_s) as self._peers:
            try:
                yield
            except TeamLost as lost:
                why = self._peers.explain(lost)
                self.say(why.template, **why.params)
                raise AttemptLost from lost

    def _decide(
        self, planned: Planned, before: Before | None, ready: _Ready, loaded: _Loaded, training: Training
    ) -> Decided:
        """Measures what a step takes, and writes down what is decided by it."""
        from fust.tune.peers import Measure

        self._context.progress(0, 0, "", "Measuring the speed", now=True)
        batches, report = ready.batches, ready.prepared.report
        self._peers.order(Measure())
        step_s, samples_s = training.measure(), loaded.sampler.measure()
        memory_bytes = int(loaded.team.add([float(memory_taken())])[0])
        spent_s, turns = time.monotonic() - self._began, planned.recipe.turns_per_step
        planned = with_smaller_steps(planned, self._wish, step_s, spent_s)
        step_s *= planned.recipe.turns_per_step / turns
        rows = len(batches.train), len(batches.held_out)
        planned = within_budget(
            planned, self._wish, step_s, spent_s, lambda recipe: run_seconds(recipe, step_s, *rows, samples_s)
        )
        if before:
            take_over(before, self._work, planned.recipe)
        forecast = _forecast(planned.recipe, ready.base, report, *rows, step_s, samples_s, memory_bytes)
        decided = Decided(planned.recipe, planned.reasons, forecast)
        write_atomic(self._work / "recipe.json", msgspec.json.encode(decided))
        self._say_plan(decided, report, ready.preview)
        return decided

    def _train(self, recipe: Recipe, training: Training) -> Trained:
        """Trains from where it stands to the end; raises RunCancelled when it is paused."""
        from fust.tune.peers import Follow

        self._context.too_late_to_cancel = True  # from here on an end is heard between two steps
        signal.signal(signal.SIGTERM, self._hear_stop)
        key = key_of(recipe)
        training.settle(recipe, key)
        self._trim_log()
        trained = training.run(lambda checkpoint: self._peers.order(Follow(recipe, key, checkpoint)))
        trained = trained if trained.finished else self._end_early(training)
        say_when_worse(trained, self.say)
        return trained

    # Stages

    def _folder_of(self, run_id: str) -> Path:
        return RunFolder(self._context.settings.home, run_id).work

    def _identity(self) -> Identity:
        return self._accounts.of_run(self._context.spec.owner, self._context.spec.asked)

    def _fetch_base(self, repo_id: str) -> Base:
        """Returns the base; once its files are here, its repo may change or go."""
        wish, folder = self._wish, self._work / "base"
        if not (self._work / "base.whole").exists():
            repo = self._open(repo_id, "model")
            self._context.progress(0, 0, "", "Fetching {repo_id}", now=True, repo_id=repo_id)
            names = wanted_files(list_names(self._hub, repo, wish.revision), repo_id)
            link_files(self._hub, repo, wish.revision, names, folder)
            self._keep_origin(repo, wish.revision)
            (self._work / "base.whole").touch()
        return read_base(folder, repo_id)

    def _keep_origin(self, repo: RepoInfo, revision: str) -> None:
        data = self._hub.get_repo_to_open(self._identity(), self._wish.data, "dataset")
        origin = Origin.of(self._hub, repo, revision, data)
        write_atomic(self._work / "origin.json", msgspec.json.encode(origin))

    def _make_base(self) -> Base:
        """Makes a base that has learned nothing, of the texts that are trained on; what goes on has been its own."""
        from fust.tune.fresh_base import Texts, find_fresh, make_base

        wish, folder, spec = self._wish, self._work / "base", self._context.spec
        if wish.extends:
            return self._fetch_base(wish.to)
        self._fresh = find_fresh(folder)
        if self._fresh is None:
            files = self._rows()
            self._keep_origin(self._open(wish.data, "dataset"), wish.data_revision)
            texts = Texts.read(
                iter_texts(files, self._data_wish(files, 1), self._tell_rows), sum(_sizes(files))
            )
            self._context.progress(0, 0, "", "Making the tokenizer", now=True)
            self._fresh = make_base(
                folder,
                texts,
                wish,
                threads=spec.cores,
                precision=choose_precision(wish).value,
                room_bytes=spec.memory_bytes // processes_of(wish, spec.cores),
            )
        return read_base(folder, wish.to)

    def _open(self, repo_id: str, repo_type: RepoType) -> RepoInfo:
        """Returns a repo that the run may read, and notes that it does."""
        repo = self._hub.get_repo_to_open(self._identity(), repo_id, repo_type)
        self._hub.gates.note_download(self._identity(), repo, "tune")
        return repo

    def _rows(self) -> list[DataFile]:
        """Returns the files of rows, linked from the hub."""
        folder = self._work / "rows"
        repo = self._open(self._wish.data, "dataset")
        names = [name for name in list_names(self._hub, repo, self._wish.data_revision) if is_data(name)]
        link_files(self._hub, repo, self._wish.data_revision, names, folder)
        return [DataFile(name, folder / name) for name in names]

    def _data_wish(self, files: list[DataFile], max_tokens: int) -> DataWish:
        return DataWish(
            max_tokens,
            _HELD_OUT_SHARE * min(1.0, _HELD_OUT_BYTES / max(1, sum(_sizes(files)))),
            documents=self._wish.method in ("continue", "pretrain"),
            pairs=self._wish.method == "dpo",
        )

    def _prepare(self, base: Base, tokenizer: Tokenizer) -> Prepared:
        folder = self._work / "data"
        if (folder / "manifest.json").exists():
            return Prepared.open(folder)
        files = self._rows()
        wish = self._data_wish(files, longest_sample(base.config, self._wish))
        return prepare(files, Masker(tokenizer), wish, folder, self._tell_rows)

    def _tell_rows(self, rows: int) -> None:
        self._context.progress(rows, 0, "items", "Reading rows: {rows}", rows=rows)

    def _check_rows(self, report: DataReport) -> None:
        """Says which rows are left out and why; raises InvalidInput when none are left."""
        for drop in report.dropped:
            self._context.say(
                drop.template, data={"code": drop.code, "rows": list(drop.rows)}, **drop.fields()
            )
        if not report.kept:
            why = max(report.dropped, key=lambda drop: drop.count, default=None)
            raise InvalidInput(
                "None of the {rows} rows can be trained on.",
                hint="dpo compares a good and a bad answer to one question, and no question has both: add the other ones, or "
                "learn from the good ones with --method lora."
                if why and why.code == "no_counterpart"
                else "The lines above say why, row by row.",
                code="nothing_to_train_on",
                rows=report.rows,
            )

    def _decided(self) -> Decided | None:
        try:
            return msgspec.json.decode((self._work / "recipe.json").read_bytes(), type=Decided)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def _plan(self, base: Base, prepared: Prepared, packed_rows: int, before: Before | None) -> Planned:
        """Returns the recipe for what was asked, or for more of the run before."""
        wish, fresh = self._wish, self._fresh
        if before:
            return plan_extension(before, wish, prepared.report, packed_rows, _versions())
        planned = derive(
            wish,
            base,
            prepared.report,
            packed_rows,
            _row_tokens(prepared, wish),
            base_revision=wish.revision,
            data_revision=wish.data_revision,
            precision=choose_precision(wish),
            cores=self._context.spec.cores,
            versions=_versions(),
            shape=fresh.shape if fresh else None,
        )
        planned.reasons.append(_why_checkpointing(wish, base))
        planned.reasons[:0] = fresh.reasons if fresh else []
        return planned

    def _say_plan(self, decided: Decided, report: DataReport, preview: list[SampleView]) -> None:
        say = self._context.say
        say(
            "{kept} rows to train on, {held_out} held out, {dropped} left out; {tokens} tokens, {share} learned.",
            kept=report.kept,
            held_out=report.held_out,
            dropped=sum(drop.count for drop in report.dropped),
            tokens=report.tokens,
            share=f"{report.learned_share:.0%}",
        )
        for note in report.notes:
            say(note.template, data=None, **note.params)
        forecast = decided.forecast
        say(
            "{steps} steps of {step_s}: {span}, {memory}.",
            data={
                name: msgspec.to_builtins(value)
                for name, value in (("plan", decided), ("report", report), ("preview", preview))
            },
            steps=decided.recipe.steps - decided.recipe.first_step,
            step_s=Words("{seconds} s", seconds=show_seconds(forecast.step_s)),
            span=span_words(forecast.time_s),
            memory=show_size(forecast.memory_bytes),
        )

    # As the watcher of the training

    def point(self, point: Point, steps: int) -> None:
        """Writes a step to the log and to those who follow."""
        self._has_stepped = True
        self._log.write(msgspec.json.encode(point) + b"\n")
        is_shown = point.step % max(1, steps // _POINTS_SHOWN) == 0 or point.held_out_loss is not None
        self._context.progress(
            point.step,
            steps,
            "steps",
            "Loss {loss}, {speed} tokens/s",
            now=is_shown,
            data=msgspec.to_builtins(point) | {"memory_bytes": self._memory_bytes()},
            loss=f"{point.loss:.4f}",
            speed=f"{point.tokens_per_s:.0f}",
        )

    def _memory_bytes(self) -> int:
        return int(psutil.Process().memory_info().rss) + self._peers.memory_bytes()

    def tell(self, done: int, total: int, template: str, /, **params: object) -> None:
        """Hands on how far a stage beside the steps is."""
        self._context.progress(done, total, "items", template, data=None, now=False, **params)

    def say(self, template: str, /, **params: object) -> None:
        """Hands a sentence on."""
        self._context.say(template, data=None, **params)

    def sampled(self, step: int, items: list[dict[str, str]]) -> None:
        """Hands on what the model writes at a step."""
        self._context.say(
            "Samples at step {step}.", data={"samples": {"step": step, "items": items}}, step=step
        )

    def wants_to_stop(self) -> bool:
        """Returns whether somebody asked for the end: for a pause, or for what has been learned by the next step."""
        return self._stopping or self._ends_early()

    def _ends_early(self) -> bool:
        # Asked while nothing has been learned yet, it does a step first. What was ended stays so when it is published again.
        asked = self._has_stepped and self._context.folder.is_to_end_early()
        return asked or (self._work / "ended-early").exists()

    def _end_early(self, training: Training) -> Trained:
        """Returns what a run that stopped before its end has learned; raises RunCancelled when it is only paused."""
        if self._stopping or not self._ends_early():
            raise RunCancelled
        (self._work / "ended-early").touch()
        trained = training.conclude()
        self._context.say(
            "Ended early at step {step}, as asked: the newest weights are published.", step=trained.steps
        )
        return trained

    def _hear_stop(self, _: int, __: FrameType | None) -> None:
        self._stopping = True

    def _trim_log(self) -> None:
        """Takes the log back to whole lines: a killed attempt may have left half of one."""
        path = self._work / "log.jsonl"
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)

    def _points(self) -> list[Point]:
        """Returns every step once: what an attempt did again counts as it was done last."""
        found: dict[int, Point] = {}
        for line in (self._work / "log.jsonl").read_bytes().splitlines():
            point = msgspec.json.decode(line, type=Point)
            found[point.step] = point
        return [found[step] for step in sorted(found)]

    def _publish(self, tuned: Any, base: Base, result: TuneResult) -> None:
        context, done = self._context, result.trained.steps if result.trained else 0
        context.progress(done, done, "steps", "Writing {repo_id}", now=True, repo_id=self._wish.to)
        kept = self._work / "origin.json"
        if not kept.exists():  # the run began before this was kept
            self._keep_origin(self._open(self._wish.base, "model"), self._wish.revision)
        origin = msgspec.json.decode(kept.read_bytes(), type=Origin)
        identity = self._identity()
        publish(context, self._hub, identity, self._wish, tuned, base, origin, self._points(), result)
        for name in ("base", "rows", "out", "data", "compiled"):
            shutil.rmtree(self._work / name, ignore_errors=True)
        (self._work / "base.whole").unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "fust")}
    return found | {"python": platform.python_version()}


def _why_checkpointing(wish: Wish, base: Base) -> Reasoned:
    if not wish.checkpointing:
        said = "The activations of a pass fit the memory." if wish.checkpointing is None else "As asked."
        return Reasoned("checkpointing", "false", said)
    need = memory_needed(base.config, base.parameters, rank_of(wish)) * (wish.processes or 1)
    return Reasoned(
        "checkpointing",
        "true",
        "Activations are computed twice, which takes a third longer: without it the run could take {need}.",
        {"need": show_size(need)},
    )


def choose_precision(wish: Wish) -> Reasoned:
    """Returns the precision of matrix products, and why."""
    if wish.precision:
        return Reasoned("precision", wish.precision, "As asked.")
    if processor_flags() & {"avx512_bf16", "amx_bf16"}:
        return Reasoned(
            "precision",
            "bf16",
            "This processor multiplies bf16 in hardware; the sums and the weights that learn stay fp32.",
        )
    return Reasoned("precision", "fp32", "This processor has no instructions for bf16.")


def _load_tokenizer(folder: Path, repo_id: str) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # files of strangers: every kind of error comes out of them
        raise InvalidInput(
            "The tokenizer of {repo_id} cannot be read ({reason}).",
            repo_id=repo_id,
            reason=f"{type(error).__name__}: {error}"[:200],
        ) from None
    if not tokenizer.is_fast:
        raise InvalidInput(
            "The tokenizer of {repo_id} does not tell where in the text its tokens are.",
            hint="One with a tokenizer.json does.",
            repo_id=repo_id,
        )
    return cast("Tokenizer", tokenizer)


def _row_tokens(prepared: Prepared, wish: Wish) -> int:
    """Returns the length of a row: that of the longest sample (or pair), rounded up, and at least 256."""
    if wish.row_tokens is not None:
        return wish.row_tokens
    together = prepared.lengths.reshape(-1, 2 if prepared.report.pairs else 1) - 1
    longest = int(together.sum(axis=1).max())
    return max(256, (longest + 63) // 64 * 64)


def _sizes(files: list[DataFile]) -> list[int]:
    return [file.path.stat().st_size for file in files]


def _highest(prepared: Prepared) -> int:
    return max(int(prepared.sample(i)[0].max()) for i in range(len(prepared.lengths)))


def _forecast(
    recipe: Recipe,
    base: Base,
    report: DataReport,
    packed_rows: int,
    held_out_rows: int,
    step_s: float,
    samples_s: float,
    memory_bytes: int,
) -> Forecast:
    steps = recipe.steps - recipe.first_step
    tokens = report.tokens * steps * recipe.rows_per_step // packed_rows
    flops = training_flops(base.parameters, tokens, is_adapter=recipe.is_adapter)
    scratch = flops_from_scratch(base.parameters)
    time_s = run_seconds(recipe, step_s, packed_rows, held_out_rows, samples_s)
    return Forecast(
        step_s,
        time_s,
        memory_bytes,
        time_s * recipe.threads * recipe.processes / 3600,
        flops,
        scratch,
        1 - flops / scratch,
    )
