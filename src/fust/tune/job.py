"""The kind of run `tune`: who may ask for it, and what its process does, from names in the hub to a new repo there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.errors import InvalidInput
from fust.core.ids import split_repo_id
from fust.core.machine import physical_cores
from fust.hub.service import Hub
from fust.jobs.kinds import Kind
from fust.jobs.service import Jobs
from fust.jobs.supervisor import Budget
from fust.jobs.worker import JobContext
from fust.tune.asked import check_installed, check_wish, read_wish
from fust.tune.bases import measure_base
from fust.tune.estimate import memory_within
from fust.tune.extend import is_extension, read_extension
from fust.tune.files import is_data
from fust.tune.fresh import BYTES_PER_TOKEN, guess_memory
from fust.tune.recipe import Wish, longest_sample, processes_of, rank_of

if TYPE_CHECKING:
    from fust.tune.run import TuneResult


TITLE = "Tune {base} on {data}"
EXTENDED_TITLE = "Go on with {to}"
PLAN_TITLE = "Plan only: {to}"
FRESH_TITLE = "Train {to} from nothing on {data}"
SPINS = "5000"
"""Looks that a thread of OpenMP takes for more work before it sleeps: a quarter of a millisecond. Its own 300,000 keep a
processor busy that another program has work for: beside one that computes all the time, steps then took 4 to 20 times as
long, and with this 2.2 times; alone they take 8 % longer."""


class Desk:
    """What is looked at before a run is queued."""

    def __init__(self, hub: Hub, accounts: Accounts, jobs: Jobs) -> None:
        self._hub, self._accounts, self._jobs = hub, accounts, jobs

    def check(self, identity: Identity, params: dict[str, Any]) -> int:
        """Looks at all but the rows, which need not be in the hub yet; returns what it will take, in bytes.

        Of what begins from nothing that is 0: its size follows from the rows.

        Raises:
            FustError: it cannot be; says why.

        """
        _, memory_bytes = self._look(identity, params)
        self._jobs.check_memory("tune", memory_bytes)
        return memory_bytes

    def prepare(self, identity: Identity, params: dict[str, Any]) -> dict[str, Any]:
        """Returns the whole wish with base and data as they are now: later pushes to them change nothing.

        Raises:
            FustError: it cannot be; says why.

        """
        wish, memory_bytes = self._look(identity, params)
        data = self._hub.get_repo_to_open(identity, wish.data, "dataset")
        data_oid = self._hub.resolve_revision(data, wish.data_revision)
        files = [
            entry for entry in self._hub.list_tree(data, data_oid, recursive=True) if is_data(entry.path)
        ]
        if not files:
            raise InvalidInput(
                "{repo_id} holds no file of rows.",
                hint="Push files that end in .jsonl, .json, .csv, .tsv, .parquet or .txt.",
                repo_id=wish.data,
            )
        if not memory_bytes:
            memory_bytes = _memory_of_fresh(wish, sum(entry.size or 0 for entry in files), self._jobs.budget)
        pinned = msgspec.structs.replace(wish, data=data.repo_id, data_revision=data_oid)
        return msgspec.to_builtins(pinned) | {"memory_bytes": memory_bytes}

    def _look(self, identity: Identity, params: dict[str, Any]) -> tuple[Wish, int]:
        """Returns the wish with its base as it is now, and its memory; see ``check``."""
        memory_bytes = 0
        if is_extension(params):
            self._accounts.require(identity, "write")
            wish, memory_bytes = read_extension(self._jobs, identity, params)
            check_wish(wish)
        else:
            wish = read_wish(params)
        check_installed()
        processes = processes_of(wish, min(physical_cores(), self._jobs.budget.cores))
        self._accounts.require(identity, "write")
        for target in _targets(wish):
            _check_target(self._hub, self._accounts, identity, target)
        if wish.method == "pretrain":
            return wish, memory_bytes
        base = self._hub.get_repo_to_open(identity, wish.base, "model")
        base_oid = self._hub.resolve_revision(base, wish.revision)
        config, parameters = measure_base(self._hub, base, base_oid)
        longest_sample(config, wish)  # refuses a length that the base cannot take
        needed, twice = memory_within(
            config,
            parameters,
            rank_of(wish),
            self._jobs.budget.memory_bytes // processes,
            checkpointing=wish.checkpointing,
        )
        wish = msgspec.structs.replace(
            wish, base=base.repo_id, revision=base_oid, checkpointing=True if twice else wish.checkpointing
        )
        return wish, processes * needed


def tune_kind(desk: Desk) -> Kind:
    """Returns the kind `tune` for ``Jobs.register``."""

    def title_of(params: dict[str, Any]) -> str:
        if params.get("dry_run"):
            return PLAN_TITLE
        if is_extension(params):
            return EXTENDED_TITLE
        return FRESH_TITLE if params.get("method") == "pretrain" else TITLE

    return Kind(
        "tune",
        TITLE,
        desk.prepare,
        memory_bytes=2 * 10**9,
        cores=physical_cores(),
        resumable=True,
        max_attempts=50,
        ends_early=True,
        title_of=title_of,
        memory_of=lambda params: int(params["memory_bytes"]),
    )


def _targets(wish: Wish) -> list[str]:
    """Returns the repos that will be written."""
    return [
        wish.to,
        *([f"{wish.to}-merged"] if wish.merge else []),
        *([f"{wish.to}-GGUF"] if wish.gguf else []),
    ]


def _check_target(hub: Hub, accounts: Accounts, identity: Identity, repo_id: str) -> None:
    """Raises before compute is spent when a repo cannot be written: Denied, InvalidInput."""
    split_repo_id(repo_id)
    if hub.find_repo(identity, repo_id, "model") is None:
        accounts.check(identity, "repo.create", repo_id, "model")
    else:
        hub.get_repo_to_write(identity, repo_id, "model")


def _memory_of_fresh(wish: Wish, size_bytes: int, budget: Budget) -> int:
    cores = min(physical_cores(), budget.cores)
    processes = processes_of(wish, cores)
    epochs = wish.fresh_epochs(round(size_bytes / BYTES_PER_TOKEN))
    room_bytes = budget.memory_bytes // processes
    return processes * guess_memory(size_bytes, wish.model, epochs, wish.budget_s, cores, room_bytes)


# At work


def run_tune(context: JobContext) -> TuneResult:
    """The function of the kind `tune`."""
    # Set before torch is imported anywhere: no program of this process asks a hub for anything.
    os.environ.update(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        TOKENIZERS_PARALLELISM="true",
    )
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    # Not where torch keeps it, a name in /tmp that anybody could have taken: what lies there is run.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(context.work / "compiled")
    check_installed()
    from fust.tune.run import Run

    return Run(context, read_wish(context.params)).run()
