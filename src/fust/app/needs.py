"""What needs the caller, which first steps are done, and how many of each thing there are."""

from __future__ import annotations

import shutil
from datetime import datetime

import msgspec

from fust.accounts.rights import Identity
from fust.app.services import Services
from fust.core.i18n import Language, fill
from fust.core.units import show_size
from fust.records.models import NoticeMark


class Need(msgspec.Struct):
    """One thing that waits for a person, with the place that mends it."""

    code: str
    subject: str
    message: str
    hint: str
    href: str


class Steps(msgspec.Struct):
    """First steps that are done."""

    pulled: bool
    chatted: bool
    keyed: bool
    pushed: bool


def count_things(services: Services, identity: Identity) -> dict[str, int]:
    """Returns how many repos, deployments and active runs the caller may see."""
    return {
        "models": services.hub.count_repos(identity, "model"),
        "datasets": services.hub.count_repos(identity, "dataset"),
        "deployments": len(services.serve.list_deployments(identity)),
        "runs_active": len(services.jobs.list_runs(identity, state="active")),
    }


def read_mark(services: Services, identity: Identity) -> datetime | None:
    """Returns up to when the caller has seen the news; None when never."""
    with services.database.read() as session:
        row = session.get(NoticeMark, identity.user or "")
        return row.read_at if row else None


def list_needs(services: Services, identity: Identity, language: Language) -> list[Need]:
    """Returns failed deployments, runs that failed since the caller saw the news, requests for access to decide, and a
    disk that runs full.
    """
    needs: list[Need] = []

    def add(code: str, subject: str, message: str, hint: str, href: str, **params: object) -> None:
        params["subject"] = subject
        needs.append(Need(code, subject, fill(message, params, language), fill(hint, params, language), href))

    for deployment in services.serve.list_deployments(identity):
        if deployment.state == "failed":
            add(
                "deployment_failed",
                deployment.name,
                "{subject} does not serve: {reason}",
                "Stop it, or mend the reason and serve it again.",
                f"models/{deployment.repo_id}",
                reason=deployment.error.sentence(language) if deployment.error else "",
            )
    mark = read_mark(services, identity)
    for row in services.jobs.list_runs(identity, state="failed", limit=5):
        if mark is not None and row.ended_at is not None and row.ended_at <= mark:
            continue
        run = services.jobs.draw(row, language)
        add(
            "run_failed",
            run.title,
            "{subject} failed: {reason}",
            "Look at its log, mend the reason and start it again.",
            f"jobs/{run.id}",
            reason=run.error.message if run.error else "",
        )
    for info, count in services.hub.access.pending(identity):
        add(
            "access_requested",
            info.repo_id,
            "{count} ask for access to {subject}." if count > 1 else "Somebody asks for access to {subject}.",
            "Look at what they wrote, and accept or reject.",
            f"{info.type}s/{info.repo_id}?tab=access",
            count=count,
        )
    if identity.is_admin:
        disk = shutil.disk_usage(services.settings.home)
        if disk.free < 2e9:
            add(
                "disk_low",
                str(services.settings.home),
                "The disk has {free} left.",
                "Delete repos that nobody needs, or move the home to a larger disk.",
                "models",
                free=show_size(disk.free),
            )
    return needs


def first_steps(services: Services, identity: Identity) -> Steps:
    """Returns which of the first four steps were taken."""
    runs = services.jobs.list_runs(identity, state="succeeded", limit=50)
    tokens = services.accounts.tokens.list(identity.user or "")
    return Steps(
        pulled=any(run.kind == "pull" for run in runs),
        chatted=services.usage.has_any(identity.user or ""),
        keyed=any(not token.name.startswith("first start") for token in tokens),
        pushed=services.hub.has_pushed(identity),
    )
