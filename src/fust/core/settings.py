"""All settings in one frozen object, a section per package.

Order: flag, then environment (``FUST_SERVER__PORT``), then ``$FUST_HOME/fust.toml``, then the default. Read in
``cli`` and ``app`` only, and passed from there.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from fust.core.decode_words import words_of
from fust.core.errors import InvalidInput
from fust.core.i18n import Words


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the server listens and how it is seen from outside."""

    host: str = "127.0.0.1"
    """Address to bind. Anything but loopback demands that an administrator has a password."""
    port: int = 8787
    """TCP port; the next free one is taken when another program has it."""
    public_url: str = ""
    """How clients reach Fust, a sub-path included, e.g. `https://ai.school.org/fust`. Empty: http://host:port."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies whose X-Forwarded-For is believed. Empty: none."""
    blocking_threads: int = 16
    """Threads for work that blocks (database, git, disk)."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where rows and bytes are kept."""

    database_url: str = ""
    """SQLAlchemy URL. Empty: SQLite in the home."""
    blobs_url: str = ""
    """Where large files live: file:///path or s3://bucket/prefix. Empty: `blobs` in the home."""


@dataclass(frozen=True, slots=True)
class HubSettings:
    """The hub of repos."""

    whole_file_cache_bytes: int = 20 * 10**9
    """Room for whole files rebuilt from xorbs; the least recently used goes first."""
    max_regular_file_bytes: int = 10 * 10**6
    """Largest file kept in git itself; larger ones are large files."""
    max_commit_body_bytes: int = 256 * 10**6
    """Largest body of one commit request."""
    max_push_bytes: int = 4 * 10**9
    """Largest push of git itself; what git-lfs uploads is not counted."""
    lfs_part_bytes: int = 10**9
    """Files larger than this come in parts of so many bytes from clients that can (`multipart`)."""
    max_file_bytes: int = 2 * 10**12
    """Largest single file."""
    max_bucket_bytes: int = 0
    """Room of one bucket, its files counted whole. 0: as much as the disk has."""
    keep_unreferenced_s: float = 7 * 86400.0
    """How long a large file that no repo points to is kept after it was last brought: longer than any upload takes."""


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Engines."""

    threads: int = 0
    """Threads of an engine. 0: the physical cores."""
    context: int = 4096
    """Longest context (tokens) of a slot; never more than the model's own."""
    slots: int = 4
    """Requests that one engine answers at a time."""
    idle_unload_s: float = 1800.0
    """A deployment that is not pinned and was not used for so long is unloaded. 0: never."""
    memory_bytes: int = 0
    """Memory that engines may take together. 0: what the machine has free, less a reserve."""
    load_timeout_s: float = 600.0
    """How long a model may take to load."""
    llama_server: str = ""
    """Which llama.cpp answers: `wheel`, or the path of a `llama-server`. Empty: what `fust engines build` made when that was
    measured to be faster, else the wheel."""
    vllm: str = ""
    """Which `vllm` program serves on a GPU: its path. Empty: the one on PATH."""
    gpu_share: float = 0.9
    """Share of a GPU's memory that vLLM takes, weights and KV cache together."""
    gpu_adapters: int = 4
    """LoRA adapters that vLLM computes with at a time; more of them take turns. 0: none can be added, which leaves more
    memory for the KV cache."""
    gpu_adapter_rank: int = 32
    """Highest rank of an adapter on vLLM, which keeps memory for `gpu_adapters` of this rank."""
    starter: bool = True
    """Put the starter model into an empty home and serve it."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The model API `/v1`."""

    requests_per_minute: int = 0
    """Requests that one key may send in a minute. 0: no limit."""
    tokens_per_minute: int = 0
    """Tokens, of prompts and answers together, that one key may use in a minute. 0: no limit."""
    max_file_bytes: int = 200 * 10**6
    """Largest file that `/v1/files` takes; one user's files may take ten times as much together."""
    keep_responses: bool = True
    """Whether `/v1/responses` keeps responses (for 30 days, unless a request says `store: false`)."""
    image_hosts: tuple[str, ...] = ()
    """Hosts on private addresses that the URLs of images may lead to, by name, address or network. Empty: public addresses only."""


@dataclass(frozen=True, slots=True)
class JobsSettings:
    """Long work."""

    cores: int = 0
    """Cores that runs may use together. 0: all of the machine's, at a lower priority."""
    memory_bytes: int = 0
    """Memory that runs may take together. 0: half of the machine's."""
    keep_s: float = 90 * 86400.0
    """How long the folder of a run (log, events, files) is kept after its end; its row stays. 0: for ever."""


@dataclass(frozen=True, slots=True)
class PullSettings:
    """Where models come from."""

    source: str = "https://huggingface.co"
    """Base URL of the hub to pull from; `modelscope+https://…` for one of ModelScope's form."""
    token: str = ""
    """Token for that hub. Empty: none is sent."""
    mirrors: tuple[str, ...] = ()
    """Hubs to go on with, in this order, when the source does not answer; written as the source is. Empty: none."""
    mirror_tokens: tuple[str, ...] = ()
    """Tokens for mirrors, each written `URL TOKEN`; no other hub gets them. Empty: mirrors get none."""
    limit: str = ""
    """Bandwidth of all pulls together, such as `10MB/s`. Empty: no limit."""
    connections: int = 4
    """Connections that one pull has open at a time."""
    patience_s: float = 900.0
    """How long a pull waits for a hub that asks for time (429 and 503 with Retry-After), from the last byte on."""
    allow_private_addresses: bool = False
    """Whether a source may live on a private or loopback address when someone else than an administrator asks."""


@dataclass(frozen=True, slots=True)
class WebhooksSettings:
    """Addresses that hear of what happens to repos."""

    internal_hosts: tuple[str, ...] = ()
    """Hosts on private addresses that webhooks may go to, by name, address or network: `ci.school.org`, `10.1.0.0/16`.
    Empty: public addresses only."""
    timeout_s: float = 10.0
    """How long a receiver may take to answer."""
    retry_s: float = 5.0
    """The wait after the first failure; it doubles with each further one, up to an hour."""
    patience_s: float = 86400.0
    """How long a message is tried before it is put aside as dead."""


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """Sign-in through a provider of your own (OpenID Connect)."""

    issuer: str = ""
    """The provider's issuer URL, exactly as it calls itself, e.g. `https://id.school.org/realms/all`. Empty: none."""
    client_id: str = ""
    """What the provider calls this Fust."""
    client_secret: str = ""
    """The secret that the provider gave. Empty: none, a public client with PKCE only."""
    client_secret_file: str = ""
    """A file that holds the secret instead."""
    name: str = ""
    """What people call the provider; stands on the button. Empty: the issuer."""
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    """What is asked of the provider."""
    name_claim: str = "preferred_username"
    """The claim that new users are named by; without it, the part of the e-mail address before the @."""
    allowed_domains: tuple[str, ...] = ()
    """Only people with a verified e-mail address of these domains. Empty: everybody whom the provider knows."""
    auto_create: bool = True
    """Whether somebody who comes for the first time gets an account."""
    admin_claim: str = ""
    """The claim that makes administrators at each sign-in, and ends it, e.g. `groups`. Empty: Fust decides by itself."""
    admin_values: tuple[str, ...] = ("fust-admins",)
    """The values of that claim that make an administrator."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Logs."""

    level: str = "info"
    """debug, info, warning or error."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting of one Fust home."""

    home: Path
    """Folder that holds everything (`FUST_HOME`, default ~/.fust)."""
    server: ServerSettings = field(default_factory=ServerSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    hub: HubSettings = field(default_factory=HubSettings)
    serve: ServeSettings = field(default_factory=ServeSettings)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    jobs: JobsSettings = field(default_factory=JobsSettings)
    pull: PullSettings = field(default_factory=PullSettings)
    oidc: OidcSettings = field(default_factory=OidcSettings)
    webhooks: WebhooksSettings = field(default_factory=WebhooksSettings)
    log: LogSettings = field(default_factory=LogSettings)
    sources: Mapping[str, str] = field(default_factory=lambda: {})
    """Where each value that is not a default came from: key -> `flag`, `FUST_…` or the file's path."""

    @property
    def database_url(self) -> str:
        """The effective SQLAlchemy URL."""
        return self.store.database_url or f"sqlite:///{self.home / 'fust.db'}"

    @property
    def blobs_url(self) -> str:
        """The effective URL of the blob store."""
        return self.store.blobs_url or (self.home / "blobs").as_uri()

    @property
    def public_url(self) -> str:
        """How clients reach Fust, without a trailing slash."""
        return self.server.public_url.rstrip("/") or self._listening_url

    @property
    def local_url(self) -> str:
        """How programs on this machine reach Fust, below the same sub-path."""
        return self._listening_url + self.base_path

    def url_for(self, headers: Mapping[str, str]) -> str:
        """Returns how whoever sends these headers reaches Fust: the public URL, or the local one.

        The local one is for a program on this machine that came by it and says so: a machine often does not reach
        its own public name, or does not trust its certificate.
        """
        near = NEAR in headers and headers.get("host", "") == urlsplit(self.local_url).netloc
        return self.local_url if near else self.public_url

    @property
    def _listening_url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.server.host, self.server.host)
        return f"http://[{host}]:{self.server.port}" if ":" in host else f"http://{host}:{self.server.port}"

    @property
    def base_path(self) -> str:
        """The sub-path of ``public_url`` without a trailing slash; empty at the root."""
        return urlsplit(self.public_url).path.rstrip("/")


NEAR = "x-fust-near"
"""Header of a program that wants to be sent on to where it is."""

SECTIONS: dict[str, type[Any]] = {
    "server": ServerSettings,
    "store": StoreSettings,
    "hub": HubSettings,
    "serve": ServeSettings,
    "gateway": GatewaySettings,
    "jobs": JobsSettings,
    "pull": PullSettings,
    "oidc": OidcSettings,
    "webhooks": WebhooksSettings,
    "log": LogSettings,
}
SECRET_KEYS = frozenset({"pull.token", "pull.mirror_tokens", "oidc.client_secret", "store.database_url"})


def default_home(environ: Mapping[str, str]) -> Path:
    """Returns the home that the environment names, else ~/.fust."""
    return Path(environ.get("FUST_HOME") or "~/.fust").expanduser().absolute()


def load_settings(
    home: Path | None = None,
    *,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Returns the settings of a home.

    Args:
        home: the folder; none means `FUST_HOME`, else ~/.fust.
        flags: dotted key -> value, strongest.
        environ: the environment; none means the process's own.

    Raises:
        InvalidInput: a key that does not exist, or a value of the wrong type; names key, value and wanted type.

    """
    env = os.environ if environ is None else environ
    folder = (home or default_home(env)).expanduser().absolute()
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    for key, value, source in (
        *_from_file(folder / "fust.toml"),
        *_from_environ(env),
        *_from_flags(flags or {}),
    ):
        values[key] = value
        sources[key] = source
    sections: dict[str, Any] = {}
    for name, kind in SECTIONS.items():
        given = {k.partition(".")[2]: v for k, v in values.items() if k.startswith(name + ".")}
        sections[name] = _convert(name, kind, given, sources)
    return Settings(home=folder, sources=sources, **sections)


def _convert(section: str, kind: type[Any], given: dict[str, object], sources: Mapping[str, str]) -> object:
    hints = {f.name: f.type for f in dataclasses.fields(kind)}
    for name, value in given.items():
        key = f"{section}.{name}"
        if name not in hints:
            raise InvalidInput(
                "There is no setting {key!r} (from {source}).",
                hint="`fust config show` lists all of them.",
                key=key,
                source=sources[key],
            )
        try:
            if isinstance(value, str) and "tuple" in str(hints[name]):
                value = [part.strip() for part in value.split(",") if part.strip()]
                given[name] = value
            msgspec.convert({name: value}, kind, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidInput(
                "Setting {key!r} is {value!r} (from {source}); wanted: {wanted}.",
                hint="Mend the value and start again.",
                key=key,
                value="…" if key in SECRET_KEYS else value,
                source=sources[key],
                wanted=Words("{type} ({reason})", type=hints[name], reason=words_of(error)),
            ) from None
    return msgspec.convert(given, kind, strict=False)


def _from_file(path: Path) -> list[tuple[str, object, str]]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput("{path} is not valid TOML: {error}.", path=path, error=words_of(error)) from None
    found: list[tuple[str, object, str]] = []
    for section, table in document.items():
        if not isinstance(table, dict):
            raise InvalidInput(
                "{key!r} in {path} stands outside a section.",
                hint="Put it under one, such as [server].",
                key=section,
                path=path,
            )
        entries = cast("dict[str, object]", table)
        found += [(f"{section}.{name}", value, str(path)) for name, value in entries.items()]
    return found


def _from_environ(environ: Mapping[str, str]) -> list[tuple[str, object, str]]:
    found: list[tuple[str, object, str]] = []
    for variable, value in environ.items():
        if variable.startswith("FUST_") and "__" in variable:
            section, _, name = variable.removeprefix("FUST_").partition("__")
            found.append((f"{section.lower()}.{name.lower()}", value, variable))
    return found


def _from_flags(flags: Mapping[str, object]) -> list[tuple[str, object, str]]:
    return [(key, value, "flag") for key, value in flags.items() if value is not None]


def describe_settings(settings: Settings) -> list[tuple[str, object, str]]:
    """Returns (key, value, where from) of every setting; secrets only as set or not set."""
    rows: list[tuple[str, object, str]] = [("home", str(settings.home), "FUST_HOME or default")]
    for name, kind in SECTIONS.items():
        section = getattr(settings, name)
        for item in dataclasses.fields(kind):
            key = f"{name}.{item.name}"
            value = getattr(section, item.name)
            if key in SECRET_KEYS and value:
                value = "(set)"
            rows.append((key, value, settings.sources.get(key, "default")))
    return rows
