"""The kind of run `export`: from a repo of the hub to files for use, in a repo of their own, with a card that says whence.

What is made of what: `fust.formats.convert`.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import msgspec
import yaml

from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.decode_words import words_of
from fust.core.errors import InvalidInput
from fust.core.ids import split_repo_id
from fust.core.machine import physical_cores
from fust.formats.convert import Kind as What
from fust.formats.convert import Order, convert, is_needed, kind_of, pick_gguf
from fust.formats.ggml_types import FileType, check_file_type
from fust.formats.peft_merge import AdapterConfig, read_adapter_config
from fust.hub.cards import parse_card
from fust.hub.service import Hub
from fust.hub.types import RepoInfo
from fust.jobs.kinds import Kind
from fust.jobs.worker import JobContext
from fust.store.database import Database
from fust.tune.hub_files import link_files, list_names

_MAX_CONFIG_BYTES = 1_000_000


class ExportWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What a person asks."""

    source: str
    """A repo with an adapter, with weights in safetensors, or with a GGUF file."""
    revision: str = "main"
    base: str = ""
    """Of an adapter; empty: the one that it names."""
    base_revision: str = ""
    to: list[FileType] = []
    """GGUF files to make."""
    merge: bool = False
    """Whether the whole weights of an adapter and its base are wanted."""
    into: str = ""
    """Repo for what is made; empty: one beside the source, named after what is in it."""
    private: bool | None = None


class ExportResult(msgspec.Struct):
    """What was made."""

    repo_id: str
    revision: str
    source: str
    source_revision: str
    files: dict[str, str]
    """Of weights: path and SHA-256."""


def export_kind(hub: Hub, accounts: Accounts) -> Kind:
    """Returns the kind `export` for ``Jobs.register``."""

    def prepare(identity: Identity, params: dict[str, Any]) -> dict[str, Any]:
        wish = read_export_wish(params)
        accounts.require(identity, "write")
        source = hub.get_repo_to_open(identity, wish.source, "model")
        oid = hub.resolve_revision(source, wish.revision)
        what = kind_of(list_names(hub, source, oid), wish.source)
        if wish.merge and what != "adapter":
            raise InvalidInput(
                "{what} is no adapter: its weights are whole.", hint="Use it as it is.", what=wish.source
            )
        base, base_oid = _base_of(hub, identity, source, oid, wish) if what == "adapter" else ("", "")
        into = wish.into or _beside(source.repo_id, wish, what)
        split_repo_id(into)
        if hub.find_repo(identity, into, "model") is None:
            accounts.check(identity, "repo.create", into, "model")
        else:
            hub.get_repo_to_write(identity, into, "model")
        pinned = msgspec.structs.replace(
            wish, source=source.repo_id, revision=oid, base=base, base_revision=base_oid, into=into
        )
        return msgspec.to_builtins(pinned)

    return Kind(
        "export",
        "Export {source} to {into}",
        prepare,
        memory_bytes=2 * 10**9,
        cores=physical_cores(),
        resumable=True,
        max_attempts=5,
    )


def read_export_wish(params: dict[str, Any]) -> ExportWish:
    """Returns what was asked.

    Raises:
        InvalidInput: a field that there is not, a value that does not fit, or nothing that is wanted.
        NotOffered: a type that cannot be written here.

    """
    try:
        wish = msgspec.convert(params, ExportWish)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            "The params of the export are not valid: {reason}.", reason=words_of(error)
        ) from None
    if not wish.to and not wish.merge:
        raise InvalidInput("Nothing is asked for.", hint="Name a type with --to, such as Q4_K_M.")
    for file_type in wish.to:
        check_file_type(file_type)
    return wish


def _base_of(hub: Hub, identity: Identity, source: RepoInfo, oid: str, wish: ExportWish) -> tuple[str, str]:
    """Returns base and commit of an adapter: what was asked, else what it names itself."""
    data = hub.read_file(source, "adapter_config.json", oid, limit_bytes=_MAX_CONFIG_BYTES)
    try:
        config = msgspec.json.decode(data, type=AdapterConfig)
    except msgspec.MsgspecError:
        config = AdapterConfig()
    name = wish.base or config.base_model_name_or_path or ""
    if not name:
        raise InvalidInput(
            "{repo_id} names no base.", hint="Name the base with --base OWNER/NAME.", repo_id=wish.source
        )
    base = hub.get_repo_to_open(identity, name, "model")
    named = "" if wish.base else config.revision or ""
    return base.repo_id, hub.resolve_revision(base, wish.base_revision or named or "main")


def _beside(repo_id: str, wish: ExportWish, what: What) -> str:
    if what == "gguf":
        return repo_id
    return f"{repo_id}-merged" if wish.merge else f"{repo_id}-GGUF"


# At work


def run_export(context: JobContext) -> ExportResult:
    """The function of the kind `export`."""
    database = Database(context.settings.database_url)
    try:
        accounts = Accounts(database, context.settings)
        hub = Hub(database, accounts, context.settings)
        identity = accounts.of_run(context.spec.owner, context.spec.asked)
        return export(context, hub, identity, read_export_wish(context.params))
    finally:
        database.close()


def export(context: JobContext, hub: Hub, identity: Identity, wish: ExportWish) -> ExportResult:
    """Makes what is asked, whose names and revisions are whole, and puts it into the hub.

    Raises:
        InvalidInput: it cannot be made faithfully; says why.

    """
    work = context.work / "export"
    source = hub.get_repo_to_open(identity, wish.source, "model")
    folder = _fetch(context, hub, identity, source, wish.revision, work / "source")
    base = None
    is_closed = source.private or bool(source.gated)
    if wish.base:
        base_repo = hub.get_repo_to_open(identity, wish.base, "model")
        base = _fetch(context, hub, identity, base_repo, wish.base_revision, work / "base")
        named = read_adapter_config(folder).base_model_name_or_path
        if named and named != wish.base:
            context.say("The adapter names {named} as its base, and goes into {base}, as asked.", named=named[:200], base=wish.base)  # fmt: skip
        # The base's weights are in what is made: who may not read them there is not to read them here.
        is_closed = is_closed or base_repo.private or bool(base_repo.gated)
    card = parse_card(front) if (front := hub.read_card(source, wish.revision)) else None
    order = Order(wish.source, wish.to, wish.merge, card.licence or "" if card else "", context.spec.cores)

    def tell(what: str, done: int, total: int) -> None:
        context.progress(done, total, "", "Writing {what}", what=what)

    out = work / "out"
    convert(folder, out, order, base=base, tell=tell)
    files = {path.name: path for path in sorted(out.iterdir()) if path.is_file()}
    hashes = {name: _sha256(path) for name, path in files.items() if path.suffix in (".gguf", ".safetensors")}
    target = hub.find_repo(identity, wish.into, "model")
    if target is None or hub.read_card(target) is None:
        (out / "README.md").write_text(
            draw_card(wish, hashes, licence=order.licence, languages=card.languages if card else []), "utf-8"
        )
        files["README.md"] = out / "README.md"
    private = is_closed if wish.private is None else wish.private
    hub.create_repo(identity, wish.into, "model", private=private, exist_ok=True)
    message = f"Made of {wish.source} at {wish.revision[:12]}"
    revision = hub.import_files(identity, wish.into, "model", files, message=message)
    shutil.rmtree(work)
    return ExportResult(wish.into, revision, wish.source, wish.revision, hashes)


def _fetch(context: JobContext, hub: Hub, identity: Identity, repo: RepoInfo, oid: str, folder: Path) -> Path:
    hub.gates.note_download(identity, repo, "tune")
    context.progress(0, 0, "", "Fetching {repo_id}", now=True, repo_id=repo.repo_id)
    names = list_names(hub, repo, oid)
    what = kind_of(names, repo.repo_id)
    wanted = (
        [pick_gguf(names, repo.repo_id)]
        if what == "gguf"
        else [name for name in names if is_needed(name, what)]
    )
    link_files(hub, repo, oid, wanted, folder)
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def draw_card(wish: ExportWish, hashes: dict[str, str], *, licence: str, languages: list[str]) -> str:
    """Returns README.md of what was made: whence, and what each file is."""
    front: dict[str, Any] = {
        "base_model": wish.source,
        "base_model_relation": "merge" if wish.merge else "quantized",
        "pipeline_tag": "text-generation",
        "tags": ["fust", *(["gguf"] if wish.to else [])],
    }
    if wish.merge:
        front["library_name"] = "transformers"
    if licence:
        front["license"] = licence
    if languages:
        front["language"] = languages
    rows = [("Made of", f"`{wish.source}` at `{wish.revision}`")]
    if wish.base:
        rows.append(("With the base", f"`{wish.base}` at `{wish.base_revision}`"))
    rows += [("Licence", licence or "the source's card names none")]
    rows += [(f"SHA-256 of `{name}`", f"`{digest}`") for name, digest in hashes.items()]
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows)
    what = "The whole weights of an adapter and its base" if wish.merge else "GGUF files"
    limits = (
        "Tokenizer and chat template are the source's. Values in fewer bits answer a little worse: compare before people "
        "rely on it."
        if wish.to
        else "The sum was made in float32 and rounded once; tokenizer and chat template are unchanged."
    )
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n# {wish.into}\n\n"
        f"{what}, made of [{wish.source}](../{wish.source}) with Fust.\n\n"
        f"## Record\n\n| | |\n|---|---|\n{lines}\n\n## Limits\n\n{limits}\n"
    )
