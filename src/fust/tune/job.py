"""The kind of run `tune`: who may ask for it, and what its process does, from names in the hub to a new repo there."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.errors import InvalidInput, NotOffered
from fust.core.extras import install_command
from fust.core.ids import split_repo_id
from fust.core.machine import physical_cores
from fust.formats.ggml_types import check_file_type
from fust.hub.service import Hub
from fust.hub.types import RepoInfo
from fust.jobs.kinds import Kind
from fust.jobs.service import Jobs
from fust.jobs.supervisor import Budget
from fust.jobs.worker import JobContext
from fust.tune.bases import measure_base
from fust.tune.estimate import memory_needed
from fust.tune.extend import is_extension, read_extension
from fust.tune.files import is_data
from fust.tune.fresh import guess_memory
from fust.tune.recipe import Wish, longest_sample, parse_span, processes_of, rank_of
from fust.tune.shape import ModelWish

if TYPE_CHECKING:
    from fust.tune.run import TuneResult


TITLE = "Tune {base} on {data}"
EXTENDED_TITLE = "Go on with {to}"
FRESH_TITLE = "Train {to} from nothing on {data}"
SPINS = "5000"
"""Looks that a thread of OpenMP takes for more work before it sleeps: a quarter of a millisecond. Its own 300,000 keep a
processor busy that another program has work for: beside one that computes all the time, steps then took 4 to 20 times as
long, and with this 2.2 times; alone they take 8 % longer."""


def tune_kind(hub: Hub, accounts: Accounts, jobs: Jobs) -> Kind:
    """Returns the kind `tune` for ``Jobs.register``."""

    def prepare(identity: Identity, params: dict[str, Any]) -> dict[str, Any]:
        extended_bytes = 0
        if is_extension(params):
            accounts.require(identity, "write")
            wish, extended_bytes = read_extension(jobs, identity, params)
            _check_wish(wish)
        else:
            wish = read_wish(params)
        check_installed()
        processes = processes_of(wish, min(physical_cores(), jobs.budget.cores))
        accounts.require(identity, "write")
        for target in _targets(wish):
            _check_target(hub, accounts, identity, target)
        # Both are taken as they are now: what is pushed to them while the run waits or works changes nothing.
        data = hub.get_repo_to_open(identity, wish.data, "dataset")
        data_oid = hub.resolve_revision(data, wish.data_revision)
        files = [entry for entry in hub.list_tree(data, data_oid, recursive=True) if is_data(entry.path)]
        if not files:
            raise InvalidInput(
                "{repo_id} holds no file of rows.",
                hint="Push files that end in .jsonl, .json, .csv, .tsv, .parquet or .txt.",
                repo_id=wish.data,
            )
        pinned = msgspec.structs.replace(wish, data=data.repo_id, data_revision=data_oid)
        if wish.extends and wish.method == "pretrain":
            memory_bytes = extended_bytes
        elif wish.method == "pretrain":
            memory_bytes = _memory_of_fresh(
                wish, sum(entry.size or 0 for entry in files), jobs.budget, processes
            )
        else:
            base = hub.get_repo_to_open(identity, wish.base, "model")
            base_oid = hub.resolve_revision(base, wish.revision)
            memory_bytes = processes * _memory(hub, base, base_oid, wish)
            pinned = msgspec.structs.replace(pinned, base=base.repo_id, revision=base_oid)
        return msgspec.to_builtins(pinned) | {"memory_bytes": memory_bytes}

    def title_of(params: dict[str, Any]) -> str:
        if is_extension(params):
            return EXTENDED_TITLE
        return FRESH_TITLE if params.get("method") == "pretrain" else TITLE

    return Kind(
        "tune",
        TITLE,
        prepare,
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


def read_wish(params: dict[str, Any]) -> Wish:
    """Returns what was asked.

    Raises:
        InvalidInput: a field that there is not, or a value that does not fit.

    """
    try:
        wish = msgspec.convert({key: value for key, value in params.items() if key != "memory_bytes"}, Wish)
    except msgspec.ValidationError as error:
        raise InvalidInput("The params of the tuning are not valid: {reason}.", reason=error) from None
    _check_wish(wish)
    return wish


def _check_wish(wish: Wish) -> None:
    """Raises InvalidInput when values do not fit the method or each other."""
    if wish.method == "pretrain" and wish.base:
        raise InvalidInput(
            "pretrain begins from nothing and takes no base, and {base} was named.",
            hint="Leave BASE out; to go on with {base} on documents, use --method continue.",
            base=wish.base,
        )
    if wish.method != "pretrain" and not wish.base:
        raise InvalidInput(
            "{method} needs a base model.",
            hint="Name one: fust tune OWNER/NAME …; without a base only --method pretrain works.",
            method=wish.method,
        )
    if wish.method != "pretrain" and wish.model != ModelWish():
        raise InvalidInput("The table `model` belongs to pretrain; {base} has its shape.", base=wish.base)
    if wish.budget:
        parse_span(wish.budget)
    if wish.steps is not None and wish.steps < 1:
        raise InvalidInput("steps is {value}, and begins at 1.", value=wish.steps)
    if wish.epochs is not None and not 0 < wish.epochs <= 1000:
        raise InvalidInput("epochs is {value}, and goes from 0 to 1000.", value=wish.epochs)
    if wish.beta is not None and (wish.method != "dpo" or not 0 < wish.beta <= 10):
        raise InvalidInput("beta is {value}; it belongs to dpo, and goes from 0 to 10.", value=wish.beta)
    if rank_of(wish) == 0 and wish.merge:
        raise InvalidInput("All weights are trained: there is no adapter to merge.", hint="Leave merge out.")
    for file_type in wish.gguf:
        check_file_type(file_type)
    if wish.compile:
        check_compiler()


def check_compiler() -> None:
    """Raises NotOffered when there is nothing to compile layers with: torch asks for the same compiler and headers."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    missing = [] if shutil.which(compiler) else [compiler]
    missing += [] if header.exists() else [str(header)]
    if missing:
        raise NotOffered(
            "compile needs a C++ compiler and the headers of Python, and {missing} is not here.",
            hint="Install them (on Debian: apt install g++ python3-dev), or leave compile out.",
            missing=", ".join(missing),
        )


def check_installed() -> None:
    """Raises NotOffered when the packages for tuning are not here."""
    missing = [name for name in ("torch", "transformers", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        raise NotOffered(
            "Tuning needs {packages}, which is not installed.",
            hint="Install it: {command}",
            command=install_command("tune"),
            packages=", ".join(missing),
        )


def _memory(hub: Hub, base: RepoInfo, revision: str, wish: Wish) -> int:
    config, parameters = measure_base(hub, base, revision)
    longest_sample(config, wish)  # refuses a length that the base cannot take
    return memory_needed(config, parameters, rank_of(wish), checkpointing=wish.checkpointing)


def _memory_of_fresh(wish: Wish, size_bytes: int, budget: Budget, processes: int) -> int:
    cores = min(physical_cores(), budget.cores)
    room_bytes = budget.memory_bytes // processes
    return processes * guess_memory(size_bytes, wish.model, wish.epochs, wish.budget_s, cores, room_bytes)


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
