"""What the Fust surface answers, as far as the command line and the tests need it; unknown fields are let pass."""

from __future__ import annotations

import msgspec


class OpenLink(msgspec.Struct):
    """A link that signs one browser in."""

    url: str
    expires_at: str


class Machine(msgspec.Struct):
    """What the server's machine has."""

    memory_total_bytes: int
    memory_available_bytes: int
    disk_total_bytes: int
    disk_free_bytes: int
    cores: int
    load_1m: float


class Counts(msgspec.Struct):
    """How many there are of each."""

    models: int = 0
    datasets: int = 0
    deployments: int = 0
    runs_active: int = 0


class Choice(msgspec.Struct):
    """Something the server chose at start, and why."""

    what: str
    value: str
    why: str


class Need(msgspec.Struct):
    """Something that waits for a person."""

    code: str
    subject: str
    message: str
    hint: str = ""
    href: str = ""


class Status(msgspec.Struct):
    """What runs."""

    version: str
    started_at: str
    home: str
    base_url: str
    openai_base_url: str
    machine: Machine
    counts: Counts
    chosen: list[Choice] = []
    needs: list[Need] = []
    steps: dict[str, bool] = {}
    reached_url: str = ""
    """How we reach it; empty from an older server: as everybody does."""


class RepoDeployment(msgspec.Struct):
    """How a repo is served."""

    id: str
    name: str
    state: str


class RepoSummary(msgspec.Struct):
    """A repo in a list."""

    repo_id: str
    type: str
    private: bool = False
    revision: str | None = None
    created_at: str | None = None
    updated_at: str | None = None
    size_bytes: int = 0
    downloads: int = 0
    licence: str | None = None
    languages: list[str] = []
    task: str | None = None
    formats: list[str] = []
    description: str | None = None
    fits: str = "unknown"
    fits_reason: str | None = None
    deployment: RepoDeployment | None = None


class RepoList(msgspec.Struct):
    """A page of repos."""

    items: list[RepoSummary]
    next: str | None = None
    total: int = 0


class RepoFile(msgspec.Struct):
    """A file of a repo."""

    path: str
    size_bytes: int = 0
    oid: str = ""
    lfs: bool = False
    sha256: str | None = None


class Repo(RepoSummary):
    """A repo with its files."""

    files: list[RepoFile] = []
    card: str | None = None
    clone_url: str = ""


class Token(msgspec.Struct):
    """A key; ``token`` is there only in the answer that made it."""

    id: str
    name: str
    scope: str
    created_at: str | None = None
    last_used_at: str | None = None
    expires_at: str | None = None
    expired: bool = False
    repos: list[str] | None = None
    """What a fine-grained key opens; none in both: everything that its user may."""
    models: list[str] | None = None
    prefix: str = ""
    token: str = ""


class TokenList(msgspec.Struct):
    """The caller's keys."""

    items: list[Token]


class Invitation(msgspec.Struct):
    """A link that lets one person in; ``url`` only when it is made."""

    id: str
    organisation: str | None
    role: str | None
    state: str
    note: str
    created_by: str
    created_at: str
    expires_at: str
    used_by: str | None = None
    url: str = ""


class InvitationList(msgspec.Struct):
    """Invitations, newest first."""

    items: list[Invitation]


class AuditEntry(msgspec.Struct):
    """Who did what to what (administrators only)."""

    seq: int
    at: str
    actor: str
    action: str
    subject: str
    address: str
    detail: dict[str, str | int | bool]
    hash: str


class AuditPage(msgspec.Struct):
    """Entries of the audit, newest first."""

    items: list[AuditEntry]
    next: str | None = None


class AuditHead(msgspec.Struct):
    """The last good entry."""

    seq: int
    hash: str


class AuditBreak(msgspec.Struct):
    """The first entry that is not what was written."""

    seq: int
    reason: str


class AuditVerdict(msgspec.Struct):
    """What walking the chain of the audit found."""

    ok: bool
    entries: int
    head: AuditHead | None = None
    broken: AuditBreak | None = None


class User(msgspec.Struct):
    """A person."""

    name: str
    full_name: str = ""
    is_admin: bool = False
    has_password: bool = False
    suspended: bool = False
    created_at: str | None = None


class UserList(msgspec.Struct):
    """All people."""

    items: list[User]


class Organisation(msgspec.Struct):
    """An organisation; ``role`` is the caller's."""

    name: str
    display_name: str = ""
    created_at: str | None = None
    members: int = 0
    role: str | None = None
    may: list[str] = []


class OrganisationList(msgspec.Struct):
    """Organisations by name."""

    items: list[Organisation]


class Member(msgspec.Struct):
    """A member of an organisation."""

    name: str
    role: str
    full_name: str = ""
    since: str | None = None


class MemberList(msgspec.Struct):
    """Members by name."""

    items: list[Member]


class Session(msgspec.Struct):
    """Who the server takes us for."""

    user: User | None = None
    version: str = ""


class Adapter(msgspec.Struct):
    """An adapter beside a model at the API."""

    name: str
    repo_id: str
    state: str
    file: str = ""
    revision: str = ""
    size_bytes: int = 0
    error: str | None = None
    by_request: bool = False


class Deployment(msgspec.Struct):
    """A model at the API."""

    id: str
    name: str
    repo_id: str
    state: str
    alias: str | None = None
    file: str | None = None
    revision: str | None = None
    pinned: bool = False
    engine: str = ""
    context: int = 0
    slots: int = 0
    threads: int = 0
    size_bytes: int = 0
    memory_bytes: int = 0
    started_at: str | None = None
    last_used_at: str | None = None
    error: str | None = None
    note: str | None = None
    pooling: str | None = None
    has_chat_template: bool | None = None
    why: list[str] = []
    tokens_per_s: float | None = None
    adapters: list[Adapter] = []


class DeploymentList(msgspec.Struct):
    """All models at the API."""

    items: list[Deployment]


class EngineKind(msgspec.Struct):
    """A kind of engine."""

    name: str
    available: bool
    detail: str
    used: str = ""
    ratio: float | None = None


class EngineList(msgspec.Struct):
    """What serves models here."""

    items: list[EngineKind]


class ChatDelta(msgspec.Struct):
    """A piece of an answer; ``usage`` comes with the last one."""

    text: str = ""
    finish_reason: str | None = None
    completion_tokens: int | None = None
