"""`fust serve`, `ps` and `stop`: models at the API."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.serve_bare import BARE, read_options
from fust.cli.show import ago, example, table
from fust.client import Client, ClientError
from fust.client.types import Deployment
from fust.core.errors import InvalidInput, NotFound
from fust.core.i18n import t
from fust.core.units import show_size

_POLL_S = 0.2


@click.command(
    help=t(
        "Make a model answer at the API. A model of the hub is named OWNER/NAME, with :FILE behind it to pick "
        "one GGUF of several; a GGUF file on this disk is first put into the hub as local/NAME."
    ),
    epilog=example(
        "fust serve Qwen/Qwen3-0.6B-GGUF --alias small",
        "fust serve Qwen/Qwen3-0.6B-GGUF:Qwen3-0.6B-Q8_0.gguf --pin",
        "fust serve ./my-model.gguf",
        "fust serve parrot --engine echo --misbehave 429,ok",
        "fust serve Qwen/Qwen3-0.6B-GGUF --adapter me/helper",
        "fust serve big --engine upstream --url https://api.example.org/v1 --model big-2 --key-env THEIR_KEY",
    ),
)
@click.argument("model", metavar="OWNER/NAME[:FILE]|PATH|NAME")
@click.option("--alias", default="", help=t("Another name under which the API knows it."))
@click.option(
    "--engine", default="", help=t("Which engine serves it; without this the one that fits its files.")
)
@click.option(
    "--misbehave",
    default="",
    help=t("For the engine echo: how it is to fail, request by request, such as `slow:0.5,cut,ok`."),
)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="OWNER/NAME[:FILE]",
    help=t("A LoRA adapter of the hub to answer beside it, as MODEL:NAME; may be given several times."),
)
@click.option(
    "--url", default="", help=t("For the engine upstream: address of an OpenAI-compatible API, /v1 included.")
)
@click.option(
    "--model", "upstream_model", default="", help=t("For the engine upstream: what that API calls the model.")
)
@click.option(
    "--key-env", default="", help=t("For the engine upstream: variable of this shell that holds the key.")
)
@click.option("--key-file", default="", help=t("For the engine upstream: file that holds the key."))
@click.option(
    "--can",
    default="",
    help=t("For the engine upstream: what it offers, such as `chat,tools`, if it does not say itself."),
)
@click.option(
    "--context", default=0, help=t("For the engine upstream: tokens of its context, if it does not say.")
)
@click.option("--pin", is_flag=True, help=t("Never unload it to make room."))
@click.option("-d", "--detach", is_flag=True, help=t("Do not wait until it is loaded."))
@pass_cli
def serve(
    cli: CLI,
    model: str,
    alias: str,
    engine: str,
    misbehave: str,
    adapters: tuple[str, ...],
    url: str,
    upstream_model: str,
    key_env: str,
    key_file: str,
    can: str,
    context: int,
    pin: bool,
    detach: bool,
) -> None:
    """Creates a deployment and waits until it is ready."""
    options = read_options(engine, misbehave, url, upstream_model, key_env, key_file, can, context)
    client = cli.client()
    path = Path(model)
    if engine in BARE:
        deployment = client.create_bare_deployment(model, engine, options, alias, pin=pin)
    else:
        if path.is_file() or model.startswith((".", "/", "~")):
            repo_id, file = _upload(cli, client, path.expanduser())
        else:
            repo_id, _, file = model.partition(":")
        deployment = _once_there(
            lambda: client.create_deployment(repo_id, file, alias, engine=engine, pin=pin)
        )
    for adapter in adapters:
        repo, _, adapter_file = adapter.partition(":")
        base = deployment.id
        deployment = _once_there(
            lambda base=base, repo=repo, file=adapter_file: client.add_adapter(base, repo, file)
        )
    if not detach:
        deployment = _wait(client, deployment)
    cli.result(deployment, _how_to_use(deployment))


def _upload(cli: CLI, client: Client, path: Path) -> tuple[str, str]:
    """Puts a GGUF file, all parts of it, into `local/<stem>` and returns (repo id, file)."""
    if not path.is_file() or path.suffix != ".gguf":
        raise InvalidInput(
            "{path} is not a GGUF file.",
            hint="Give a .gguf file, or OWNER/NAME of a model in the hub.",
            path=path,
        )
    part = re.fullmatch(r"(.+)-\d{5}-of-(\d{5})", path.stem)
    stem = part[1] if part else path.stem
    paths = sorted(path.parent.glob(f"{_glob_escape(stem)}-?????-of-{part[2]}.gguf")) if part else [path]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)
    name = re.sub(r"([.-])\1+", r"\1", name).strip(".-")[:96].rstrip(".-")
    repo_id = f"local/{name or 'model'}"
    from fust.formats.gguf import read_gguf  # it brings numpy

    for one in paths:
        read_gguf(one)  # refuses what is none, before it is in the hub
    for one in paths:
        if not cli.json:
            click.echo(
                t(
                    "Putting {path} into {repo_id} ({size})",
                    path=one,
                    repo_id=repo_id,
                    size=show_size(one.stat().st_size),
                ),
                err=True,
            )
        client.upload(
            one, repo_id, repo_type="model", message=f"Upload {one.name}", private=False, path_in_repo=""
        )
    return repo_id, paths[0].name


def _glob_escape(text: str) -> str:
    import glob

    return glob.escape(text)


def _once_there(ask: Callable[[], Deployment]) -> Deployment:
    """Returns what is answered once an adapter's base, which may have to be converted first, is there to look at."""
    while True:
        try:
            return ask()
        except ClientError as error:
            if error.code != "model_loading":
                raise
        time.sleep(_POLL_S)


def _wait(client: Client, deployment: Deployment) -> Deployment:
    """Returns the deployment when it has loaded.

    Raises:
        ClientError: it could not be loaded; says why.

    """
    while deployment.state == "loading" or any(a.state == "loading" for a in deployment.adapters):
        time.sleep(_POLL_S)
        deployment = client.get_deployment(deployment.id)
    if deployment.state == "failed":
        raise ClientError(500, "failed", deployment.error or t("The model could not be loaded."), "")
    return deployment


def _how_to_use(deployment: Deployment) -> str:
    name = deployment.alias or deployment.name
    lines = [t("{name}: {state}", name=name, state=t(deployment.state))]
    lines += [f"  {reason}" for reason in deployment.why]
    lines += [f"  {deployment.note}"] if deployment.note else []
    lines += [
        f"  {name}:{a.name}: {t(a.state)}" + (f" ({a.error})" if a.error else "") for a in deployment.adapters
    ]
    if deployment.has_chat_template:
        lines.append(t("Talk with it: `fust chat {name}`", name=name))
    return "\n".join(lines)


@click.command(help=t("List the models that are served."), epilog=example("fust ps", "fust ps --json"))
@pass_cli
def ps(cli: CLI) -> None:
    """Lists deployments."""
    found = cli.client().list_deployments()
    rows: list[list[str]] = []
    for d in found:
        row = [
            d.name,
            d.alias or "-",
            t(d.state) + (" " + t("(pinned)") if d.pinned else ""),
            show_size(d.memory_bytes) if d.memory_bytes else "-",
            str(d.context or "-"),
            f"{d.tokens_per_s:.0f}" if d.tokens_per_s else "-",
            ago(d.last_used_at),
            d.error or d.note or "",
        ]
        rows.append(row)
        for a in d.adapters:
            beside = f"{d.alias}:{a.name}" if d.alias else "-"
            rows.append([f"{d.name}:{a.name}", beside, t(a.state), "-", "-", "-", "-", a.error or a.repo_id])
    headings = [
        t("name"),
        t("alias"),
        t("state"),
        t("memory"),
        t("context"),
        t("tokens/s"),
        t("used"),
        t("note"),
    ]
    empty = t("No model is served. Make one answer with `fust serve OWNER/NAME`.")
    cli.result({"items": found}, table(headings, rows) if rows else empty)


@click.command(
    help=t(
        "Take a model off the API, by its name, alias or id; with :ADAPTER behind it one adapter of it. Files stay in the hub."
    ),
    epilog=example("fust stop Qwen/Qwen3-0.6B-GGUF", "fust stop small", "fust stop small:helper"),
)
@click.argument("name")
@pass_cli
def stop(cli: CLI, name: str) -> None:
    """Deletes a deployment."""
    client = cli.client()
    served = client.list_deployments()
    found = [d for d in served if name in (d.id, d.name, d.alias)]
    found = found or [d for d in served if name == d.repo_id]
    base, _, adapter = name.rpartition(":")
    of_base = [
        d
        for d in served
        if base in (d.id, d.name, d.alias) and any(adapter in (a.name, a.repo_id) for a in d.adapters)
    ]
    if not found and of_base:
        client.remove_adapter(
            of_base[0].id, next(a.name for a in of_base[0].adapters if adapter in (a.name, a.repo_id))
        )
        cli.result({"stopped": [name]}, t("{names} is off the API.", names=name))
        return
    if not found:
        raise NotFound("No model {name!r} is served.", hint="`fust ps` lists those that are.", name=name)
    for deployment in found:
        client.delete_deployment(deployment.id)
    names = ", ".join(d.name for d in found)
    cli.result({"stopped": [d.name for d in found]}, t("{names} is off the API.", names=names))
