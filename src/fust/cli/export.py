"""`fust export`, `fust merge`, `fust quantize`: from a repo of the hub, or a folder here, to files for use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import example, follow, raise_if_failed
from fust.core.errors import InvalidInput
from fust.core.i18n import t

if TYPE_CHECKING:
    from fust.formats.ggml_types import FileType

_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q4_K_M")

_to = click.option(
    "--to",
    "to",
    multiple=True,
    required=True,
    type=click.Choice(_TYPES, case_sensitive=False),
    help=t("Type of GGUF file; may be given again. Q8_0 is near the original, Q4_K_M a third of its size."),
)
_base = click.option(
    "--base", metavar="BASE", help=t("Base of an adapter; the one that it names if not given.")
)
_into = click.option(
    "--into", metavar="OWNER/NAME", help=t("Repo for the result; one beside the source if not given.")
)
_out = click.option(
    "--out",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help=t("Folder for the result, when SOURCE is a file or folder here; SOURCE's own if not given."),
)
_detach = click.option(
    "-d", "--detach", is_flag=True, help=t("Do not wait; `fust jobs` shows how far it is.")
)


@click.command(
    help=t(
        "Make GGUF files of a model: SOURCE is a repo of the hub, or a folder here, with weights in safetensors or with an "
        "adapter, which is put into its base first. What llama.cpp would read otherwise is refused by name."
    ),
    epilog=example(
        "fust export me/helper --to Q4_K_M", "fust export ./model --to F16 --to Q8_0 --out ./laptop"
    ),
)
@click.argument("source", metavar="SOURCE")
@_to
@_base
@_into
@_out
@_detach
@pass_cli
def export(
    cli: CLI,
    source: str,
    to: tuple[str, ...],
    base: str | None,
    into: str | None,
    out: Path | None,
    detach: bool,
) -> None:
    """Makes GGUF files."""
    _make(cli, source, {"to": list(to), "base": base, "into": into}, out, detach=detach)


@click.command(
    help=t(
        "Put a LoRA adapter into the weights of its base, in float32 and rounded once. Tokenizer and chat template stay as "
        "they are, byte by byte."
    ),
    epilog=example(
        "fust merge me/helper --into me/helper-whole", "fust merge ./adapter --base ./base --out ./whole"
    ),
)
@click.argument("source", metavar="ADAPTER")
@_base
@_into
@_out
@_detach
@pass_cli
def merge(cli: CLI, source: str, base: str | None, into: str | None, out: Path | None, detach: bool) -> None:
    """Makes whole weights."""
    _make(cli, source, {"merge": True, "base": base, "into": into}, out, detach=detach)


@click.command(
    help=t("Make a smaller GGUF file of one in F16, BF16 or F32: a file here, or the one that a repo has."),
    epilog=example("fust quantize model-F16.gguf --to Q4_K_M", "fust quantize me/helper-GGUF --to Q6_K"),
)
@click.argument("source", metavar="SOURCE")
@_to
@_into
@_out
@_detach
@pass_cli
def quantize(
    cli: CLI, source: str, to: tuple[str, ...], into: str | None, out: Path | None, detach: bool
) -> None:
    """Makes smaller GGUF files."""
    _make(cli, source, {"to": list(to), "into": into}, out, detach=detach)


def _make(cli: CLI, source: str, asked: dict[str, Any], out: Path | None, *, detach: bool) -> None:
    """Makes it here when the source is here, else has the server make it."""
    asked = {key: value for key, value in asked.items() if value}
    path = Path(source)
    if path.exists():
        if "into" in asked:
            raise click.UsageError(t("--into is for repos of the hub; name a folder with --out."))
        _make_here(cli, path, asked, out)
        return
    if out is not None:
        raise click.UsageError(t("--out is for files and folders here; name a repo with --into."))
    client = cli.client()
    run = client.create_run("export", {"source": source, **asked})
    if detach:
        cli.result(run, t("Run {id} is queued. See it with `fust jobs {id} --follow`.", id=run.id))
        return
    run = raise_if_failed(follow(client, run.id, quiet=cli.json))
    result = run.result or {}
    lines = [
        t("{repo_id} is in the hub.", repo_id=result["repo_id"]),
        *(f"  {name}" for name in result["files"]),
    ]
    cli.result(run, "\n".join(lines))


def _make_here(cli: CLI, source: Path, asked: dict[str, Any], out: Path | None) -> None:
    import os

    from fust.formats.convert import Order, convert

    home = source.parent if source.is_file() else source
    if asked.get("merge") and out is None:
        raise click.UsageError(t("Name a folder for the whole weights with --out."))
    types: list[FileType] = asked.get("to", [])
    order = Order(
        source.resolve().name.removesuffix(".gguf"), types, bool(asked.get("merge")), "", os.cpu_count() or 1
    )
    base = Path(asked["base"]) if "base" in asked else None
    if base is not None and not base.is_dir():
        raise InvalidInput("There is no file or folder {path}.", hint="Check the path.", path=base)
    said: set[str] = set()

    def tell(what: str, done: int, total: int) -> None:
        if what not in said and not cli.json:
            said.add(what)
            click.echo(t("Writing {what}", what=what), err=True)

    files = convert(source, out or home, order, base=base, tell=tell)
    made = [str(path) for path in files] or [str(out)]
    cli.result({"files": made}, "\n".join(made))
