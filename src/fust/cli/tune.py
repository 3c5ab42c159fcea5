"""`fust tune`: make an open model yours, with rows of your own."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import example, follow, raise_if_failed, table
from fust.client import Client, ClientError
from fust.core.decode_words import words_of
from fust.core.errors import InvalidInput
from fust.core.i18n import t
from fust.core.units import hours_words, show_seconds, show_size, span_words
from fust.wire.runs import Run

_REPO = re.compile(r"[\w.-]+/[\w.-]+")


@click.command(
    help=t(
        "Tune a model of the hub on rows of your own. What you do not say follows from model, data and machine, and is "
        "shown with its reason. The result goes into the hub, with a card written from the record."
    ),
    epilog=example(
        "fust tune Qwen/Qwen3-0.6B --data rows.jsonl --to me/helper --dry-run",
        "fust tune Qwen/Qwen3-0.6B --data rows.jsonl --to me/helper --budget 30m",
        "fust tune --method pretrain --data books.jsonl --to me/small --budget 2h",
        "fust tune --extend r1m81dnd2970v3q7vqy2 --budget 30m",
    ),
)
@click.argument("base", metavar="[BASE]", default="")
@click.option(
    "--data",
    metavar="DATASET",
    help=t("A data set of the hub, or a file or folder here, which is pushed."),
)
@click.option("--to", metavar="OWNER/NAME", help=t("Repo for the result."))
@click.option(
    "--method",
    type=click.Choice(["lora", "full", "dpo", "continue", "pretrain"]),
    help=t(
        "lora (a small adapter), full (all weights), dpo (pairs of a better and a worse answer), continue (documents "
        "instead of questions and answers), or pretrain (from nothing on documents, without BASE)."
    ),
)
@click.option(
    "--extend",
    metavar="RUN",
    help=t("Go on with a tuning that has ended, for --budget, --set steps=… or --set epochs=… more."),
)
@click.option(
    "--budget",
    metavar="TIME|TOKENS",
    help=t("What to spend at most: time, such as 30m, or tokens to train on, such as 2Mtok."),
)
@click.option(
    "--recipe", metavar="FILE", type=click.Path(path_type=Path), help=t("TOML file with the fields of --set.")
)
@click.option(
    "--set",
    "fields",
    multiple=True,
    metavar="NAME=VALUE",
    help=t("Decide something yourself, such as epochs=2, learning_rate=1e-4, lora_rank=8, steps, seed."),
)
@click.option(
    "--merge", is_flag=True, help=t("Put the whole weights into a repo of their own too (NAME-merged).")
)
@click.option(
    "--gguf",
    "gguf",
    multiple=True,
    type=click.Choice(["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q4_K_M"], case_sensitive=False),
    help=t("Make a GGUF file of the result too (NAME-GGUF); may be given again."),
)
@click.option("--dry-run", is_flag=True, help=t("Say what would be done, and what it takes; train nothing."))
@click.option("-d", "--detach", is_flag=True, help=t("Do not wait; `fust jobs` shows how far it is."))
@pass_cli
def tune(
    cli: CLI,
    base: str,
    data: str | None,
    to: str | None,
    method: str | None,
    extend: str | None,
    budget: str | None,
    recipe: Path | None,
    fields: tuple[str, ...],
    merge: bool,
    gguf: tuple[str, ...],
    dry_run: bool,
    detach: bool,
) -> None:
    """Queues a tuning and shows it until its end."""
    if extend and (base or data or to or method):
        raise click.UsageError(
            t("--extend goes on with base, data, method and repo as they were: name none of them.")
        )
    if not extend and not (data and to):
        raise click.UsageError(t("Say what to learn from with --data, and where the result goes with --to."))
    client = cli.client()
    params = _set_fields(_read_recipe(recipe) if recipe else {}, fields)
    params |= {key: value for key, value in (("method", method), ("budget", budget)) if value}
    params |= {"merge": True} if merge else {}
    params |= {"gguf": list(gguf)} if gguf else {}
    params |= {"base": base} if base else {}
    if data and to:
        path = _find_data(data)
        place = _place_of_rows(client, to) if path else data
        params |= {"to": to, "data": place}
        client.check_tuning(params)  # before rows are brought in vain
        if path:
            _push_data(cli, client, path, place, to)
    params |= {"extends": extend} if extend else {}
    params |= {"dry_run": True} if dry_run else {}
    run = client.create_run("tune", params)
    if detach:
        cli.result(run, t("Run {id} is queued. See it with `fust jobs {id} --follow`.", id=run.id))
        return
    run = raise_if_failed(follow(client, run.id, quiet=cli.json))
    cli.result(run, _plan(run) if dry_run else _outcome(run))


def _find_data(data: str) -> Path | None:
    """Returns the file or folder here; None: a data set of the hub is meant."""
    path = Path(data)
    if path.exists():
        return path
    if _REPO.fullmatch(data):
        return None
    raise InvalidInput("There is no file or folder {path}.", hint="Check the path.", path=data)


def _place_of_rows(client: Client, to: str) -> str:
    """Returns the data set for rows from here: the caller's, also where the result goes to somebody else."""
    owner, _, name = to.partition("/")
    user = client.session().user
    return f"{user.name if user else owner}/{name}-data"


def _push_data(cli: CLI, client: Client, path: Path, repo_id: str, to: str) -> None:
    """Makes a private data set of a file or folder here, which holds these rows and no earlier ones."""
    try:
        is_public = not client.get_repo(repo_id, "dataset").private
    except ClientError as error:
        if error.status != 404:
            raise
        is_public = False
    if is_public:
        raise InvalidInput(
            "{path} would go into {repo_id}, which everybody can read.",
            hint="Make it private, or push the rows where you want them and name that data set: --data OWNER/NAME.",
            path=path,
            repo_id=repo_id,
        )
    if not cli.json:
        click.echo(t("{path} goes into {repo_id}, a private data set of yours.", path=path, repo_id=repo_id), err=True)  # fmt: skip
    client.upload(
        path,
        repo_id,
        repo_type="dataset",
        message=f"Rows to tune {to}",
        private=True,
        path_in_repo="",
        instead=True,
    )


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(
            "{path} cannot be read ({reason}).", path=path, reason=error.strerror or str(error)
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput("{path} is not valid TOML: {error}.", path=path, error=words_of(error)) from None


def _set_fields(params: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    """Returns params with the fields of --set in them; `model.family=qwen3` decides a field of a table."""
    for field in fields:
        name, equals, value = field.partition("=")
        *tables, last = name.split(".")
        if not equals or not all(word.isidentifier() for word in (*tables, last)):
            raise click.UsageError(t("--set takes NAME=VALUE, not {value!r}.", value=field[:50]))
        inside = params
        for table_name in tables:
            inside = inside.setdefault(table_name, {})
        try:
            inside |= tomllib.loads(f"{last} = {value}")
        except tomllib.TOMLDecodeError:
            inside[last] = value
    return params


def _plan(run: Run) -> str:
    """Draws what a dry run found."""
    result = run.result or {}
    report, forecast = result["report"], result["forecast"]
    reasons = [[r["name"], r["value"], t(r["why"], **r["params"])] for r in result["reasons"]]
    lines = [*_rows(report), "", table([t("what"), t("value"), t("because")], reasons), ""]
    lines.append(
        t(
            "{steps} steps of {step_s} s: {span}, {memory}, {core_hours} core hours.",
            steps=result["recipe"]["steps"] - (result["recipe"].get("extends") or {"step": 0})["step"],
            step_s=show_seconds(forecast["step_s"]),
            span=span_words(forecast["time_s"]),
            memory=show_size(forecast["memory_bytes"]),
            core_hours=hours_words(forecast["core_hours"]),
        )
    )
    lines.append(_work(result["recipe"], forecast))
    for view in result["preview"][: 2 if report["pairs"] else 1]:
        said = {
            "": t("The first sample; what is learned is in brackets:"),
            "chosen": t("The first better answer; what is compared is in brackets:"),
            "rejected": t("The worse one:"),
        }
        lines += ["", said[view["side"]], _marked(view)]
    return "\n".join(lines)


def _work(recipe: dict[str, Any], forecast: dict[str, Any]) -> str:
    """Compares the work with that of training such a model as it is usually done, from nothing."""
    if recipe.get("model"):
        return t(
            "{share} of the work at which a model of this size learns best (6 N D with D = 20 N tokens).",
            share=f"{1 - forecast['saving']:.0%}",
        )
    scratch = forecast["from_scratch_flops"]
    parameters, per_token = (scratch / 120) ** 0.5, 4 if recipe["lora_rank"] else 6
    return t(
        "{share} less work than training such a model from nothing: {flops} operations ({per_token} N D; N = {parameters}, "
        "D = {tokens} tokens) instead of {scratch} (6 N D, D = 20 N tokens).",
        share=f"{forecast['saving']:.3%}",
        flops=f"{forecast['flops']:.2g}",
        per_token=per_token,
        parameters=f"{parameters:.3g}",
        tokens=f"{forecast['flops'] / per_token / parameters:.3g}",
        scratch=f"{scratch:.2g}",
    )


def _rows(report: dict[str, Any]) -> list[str]:
    lines = [
        t(
            "{rows} rows ({format}): {kept} to train on, {held_out} held out.",
            rows=report["rows"],
            format=report["format"],
            kept=report["kept"],
            held_out=report["held_out"],
        ),
        t(
            "{tokens} tokens in {samples} samples, {share} of them learned.",
            tokens=report["tokens"],
            samples=report["samples"],
            share=f"{report['learned_tokens'] / max(1, report['tokens']):.0%}",
        ),
    ]
    for drop in report["dropped"]:
        named = ", ".join(drop["rows"][:3]) + (", …" if drop["count"] > 3 else "")
        lines.append("  " + t(drop["template"], count=drop["count"], rows=named, detail=drop["detail"]))
    lines += [t(note["template"], **note["params"]) for note in report.get("notes", [])]
    return lines


def _marked(view: dict[str, Any]) -> str:
    """Returns a sample's text with what is learned in brackets."""
    text, inside = "", False
    for token, learned in zip(view["tokens"], view["learned"], strict=True):
        if learned != inside:
            text += "⟦" if learned else "⟧"
            inside = learned
        text += token
    return text + ("⟧" if inside else "") + (" …" if view["more"] else "")


def _outcome(run: Run) -> str:
    result = run.result or {}
    trained, recipe = result["trained"], result["recipe"]
    before, after = trained["first_held_out_loss"], trained["held_out_loss"]
    lines = [
        t(
            "{repo_id} is in the hub: {steps} steps, {span}, loss {loss}.",
            repo_id=result["repo_id"],
            steps=trained["steps"],
            span=span_words(trained["spent_s"]),
            loss=f"{trained['loss']:.4f}",
        )
    ]
    if before is not None and after is not None:
        lines.append(
            t("Held-out loss: {before} before, {after} after.", before=f"{before:.4f}", after=f"{after:.4f}")
        )
    if trained["held_out_accuracy"] is not None:
        lines.append(
            t("Of the held-out pairs {share} are judged right.", share=f"{trained['held_out_accuracy']:.0%}")
        )
    if recipe["lora_rank"]:
        lines.append(t("It is an adapter of {base}.", base=recipe["base"]))
        lines.append(t("Where its base is served, it answers as model {repo_id}.", repo_id=result["repo_id"]))
    for made in result["made"]:
        lines.append(t("{repo_id} is in the hub.", repo_id=made["repo_id"]))
        lines += [f"  {name}" for name in made["files"]]
    return "\n".join(lines)
