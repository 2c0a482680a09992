"""What a process is told from outside: `Settings`, frozen, and its one constructor from the environment.

Arguments given in code win over the environment. Nothing is opened, made or contacted here.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from qtasks.errors import ConfigurationError

DEFAULT_BROKER = "sqlite:///qtasks.db"
MIN_SECRET_BYTES = 32
SAMPLE_WORDS = ("changeme", "change-me", "example", "secret-key", "your-secret", "insecure")
PROJECT_MARKS = ("pyproject.toml", ".git")
HOSTED_DOMAIN = "upstash.io"
HOSTED_URL = "https://qstash.upstash.io"
LIKE_HOSTED = "qstash+"
"""Before a URL: treat the broker there as hosted QStash."""
KEY_NAMES = ("CURRENT_SIGNING_KEY", "NEXT_SIGNING_KEY")
MOST_BATCH = 1000
REGIONS = ("EU_CENTRAL_1", "US_EAST_1")


class HomeKind(Enum):
    """Where the broker is (see `docs/brokers.md`)."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"
    HTTP = "http"
    HOSTED = "hosted"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the environment decides. `secrets` sign envelopes: the first signs, all verify."""

    broker: str = DEFAULT_BROKER
    token: str | None = field(default=None, repr=False)
    signing_keys: tuple[str, ...] = field(default=(), repr=False)
    """Current and next key of the broker, in that order."""
    regional_keys: tuple[str, ...] = field(default=(), repr=False)
    """Keys of all regions of hosted QStash, which deliveries may be signed with too."""
    regional_url: str | None = None
    """Where `QSTASH_REGION` is asked; of use only where `broker` is hosted QStash itself."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    public_url: str | None = None
    """Where the broker reaches this app's webhook, without the `/run` at the end."""
    allow_destinations: tuple[str, ...] = ()
    durability: str = "full"
    listen: tuple[str, int] | None = None
    """Where an embedded broker serves its API beside its socket: host and port, on loopback."""
    api_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Keys of the servers that API names stand for, by the short names `llm` and `email`."""
    send_budget_ms: int = 5000
    """How long a call may wait in all for a broker elsewhere to accept it."""
    results: str | None = None
    """Where the app keeps results itself, as hosted QStash keeps none: `sqlite:///results.db`."""
    outbox: str | None = field(default=None, repr=False)
    """The app's own database, if calls in its transactions go out from there."""
    plan: str = "pay-as-you-go"
    """The plan of hosted QStash whose limits are checked at the start."""
    batch: int = 100
    """How many calls at most the app takes in one request of a standalone broker; 1 for each alone. With
    a broker inside 1 means that the app is handed none before it can run it."""
    is_production: bool = False
    """Whether `QTASKS_ENV` says so: then nothing runs that is for development."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read `QTASKS_*`, and the `QSTASH_*` names for token and keys; raises `ConfigurationError`."""
        env = os.environ if env is None else env
        region = check_region(env.get("QSTASH_REGION", "").strip())
        return cls(
            broker=env.get("QTASKS_BROKER", "").strip() or DEFAULT_BROKER,
            token=_first(env, "TOKEN", region),
            signing_keys=_keys(env, region),
            regional_keys=_regional_keys(env) if region else (),
            regional_url=env.get(f"{region}_QSTASH_URL", "").strip() or None if region else None,
            secrets=tuple(check_secret(each) for each in _listed(env.get("QTASKS_SECRET", ""))),
            public_url=check_public_url(env.get("QTASKS_PUBLIC_URL", "").strip()),
            allow_destinations=_listed(env.get("QTASKS_ALLOW_DESTINATIONS", "")),
            durability=check_durability(env.get("QTASKS_DURABILITY", "").strip() or "full"),
            listen=check_listen(env.get("QTASKS_LISTEN", "").strip()),
            api_keys={
                name: key
                for name in ("llm", "email")
                if (key := env.get(f"QTASKS_API_{name.upper()}_KEY", "").strip())
            },
            results=env.get("QTASKS_RESULTS", "").strip() or None,
            outbox=env.get("QTASKS_OUTBOX", "").strip() or None,
            plan=env.get("QTASKS_QSTASH_PLAN", "").strip() or "pay-as-you-go",
            batch=check_batch(env.get("QTASKS_BATCH", "").strip() or "100"),
            is_production=env.get("QTASKS_ENV", "").strip().lower() == "production",
        )

    @property
    def home(self) -> HomeKind:
        """The kind of broker that `broker` names; raises `ConfigurationError`."""
        scheme = self.broker.partition(":")[0].lower()
        if scheme in (f"{LIKE_HOSTED}http", f"{LIKE_HOSTED}https"):
            return HomeKind.HOSTED
        if scheme == "sqlite":
            return HomeKind.SQLITE
        if scheme in ("postgresql", "postgres"):
            return HomeKind.POSTGRES
        parts = _split(self.broker)
        if scheme in ("http", "https") and parts is not None and (host := parts.hostname):
            is_hosted = host == HOSTED_DOMAIN or host.endswith(f".{HOSTED_DOMAIN}")
            return HomeKind.HOSTED if is_hosted else HomeKind.HTTP
        raise ConfigurationError(
            f"QTASKS_BROKER is {_without_password(self.broker)!r}, which is no broker; use "
            "sqlite:///qtasks.db, postgresql://…, http://host:port or https://…"
        )

    @property
    def address(self) -> str:
        """The URL at which a broker elsewhere is asked: of hosted QStash, that of `QSTASH_REGION`."""
        if self.regional_url is not None and self.broker.rstrip("/") == HOSTED_URL:
            return self.regional_url
        is_marked = self.broker.lower().startswith(LIKE_HOSTED)
        return self.broker[len(LIKE_HOSTED) :] if is_marked else self.broker


def database_path(url: str, start: Path | None = None) -> Path:
    """Give the absolute path of `sqlite:///name` or `sqlite:////absolute/name`.

    A relative one belongs to the project: the nearest folder upward from `start` (the working
    directory) with a `pyproject.toml` or `.git`, else `start` itself.
    """
    name = url.partition(":")[2].removeprefix("//").removeprefix("/")
    if not name or name.endswith("/"):
        raise ConfigurationError(f"{url!r} names no file; use sqlite:///qtasks.db")
    if name == ":memory:":
        raise ConfigurationError("a broker in memory would lose tasks; use a file, sqlite:///qtasks.db")
    path = Path(name)
    return path if path.is_absolute() else project_folder(start or Path.cwd()) / path


def project_folder(start: Path) -> Path:
    """Give the nearest folder upward that holds a project, else `start`."""
    for folder in (start, *start.parents):
        if any((folder / mark).exists() for mark in PROJECT_MARKS):
            return folder
    return start


def check_app_name(name: str) -> str:
    """Refuse what cannot be the name of an app, which is part of an address; gives it in small letters."""
    if (
        not name
        or len(name) > 63
        or not all(each.isascii() and (each.isalnum() or each == "-") for each in name)
    ):
        raise ConfigurationError(f"QTasks(name={name!r}): use up to 63 letters, digits and hyphens")
    return name.lower()


def check_secret(secret: str) -> str:
    """Refuse a secret that could be guessed; gives it back."""
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise ConfigurationError(
            f"QTASKS_SECRET must be at least {MIN_SECRET_BYTES} bytes long, not {len(secret.encode())}; "
            "make one with: python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    if len(set(secret)) < 8 or any(word in secret.lower() for word in SAMPLE_WORDS):
        raise ConfigurationError(
            "QTASKS_SECRET looks like a sample, not like a secret; "
            "make one with: python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    return secret


def check_public_url(url: str | None) -> str | None:
    """Refuse what cannot be the address of a webhook; gives it back without a slash at its end."""
    if not url:
        return None
    parts = _split(url)
    if (
        parts is None
        or parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.query
        or parts.fragment
    ):
        raise ConfigurationError(
            f"QTASKS_PUBLIC_URL is {url!r}; it must be the address where the webhook is mounted, "
            "such as https://app.example.com/qtasks"
        )
    return url.rstrip("/")


def _split(url: str) -> SplitResult | None:
    """Take a URL apart; None for one whose brackets hold no IPv6 address."""
    try:
        return urlsplit(url)
    except ValueError:
        return None


def check_listen(text: str) -> tuple[str, int] | None:
    """Read `127.0.0.1:8080` or `[::1]:8080`; only loopback, as an embedded broker is for this machine."""
    if not text:
        return None
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback or not port.isdecimal() or int(port) > 65535:
        raise ConfigurationError(
            f"QTASKS_LISTEN is {text!r}; it must be a loopback address and a port, such as 127.0.0.1:8080. "
            "For other machines run a broker of its own: qtasks broker --host"
        )
    return host, int(port)


def check_batch(text: str) -> int:
    """Read how many calls an app takes at once; raises `ConfigurationError`."""
    if not (text.isascii() and text.isdecimal() and len(text) < 5 and 1 <= int(text) <= MOST_BATCH):
        raise ConfigurationError(
            f"QTASKS_BATCH is {text!r}; it must be from 1, for each call alone, to {MOST_BATCH}"
        )
    return int(text)


def check_durability(durability: str) -> str:
    """Refuse what is neither "full" nor "relaxed"; gives it back."""
    if durability not in ("full", "relaxed"):
        raise ConfigurationError(f'durability must be "full" or "relaxed", not {durability!r}')
    return durability


def check_region(text: str) -> str | None:
    """Read a region of hosted QStash as it names them itself, `US_EAST_1` or `us-east-1`."""
    region = text.upper().replace("-", "_")
    if region and region not in REGIONS:
        raise ConfigurationError(f"QSTASH_REGION is {text!r}; it must be {' or '.join(REGIONS)}")
    return region or None


def _first(env: Mapping[str, str], name: str, region: str | None = None) -> str | None:
    """Our own name counts before that of the region, and that before the usual one."""
    names = (f"QTASKS_{name}", *([f"{region}_QSTASH_{name}"] if region else ()), f"QSTASH_{name}")
    return next((value for each in names if (value := env.get(each, "").strip())), None)


def _keys(env: Mapping[str, str], region: str | None) -> tuple[str, ...]:
    keys = (_first(env, name, region) for name in KEY_NAMES)
    return tuple(key for key in keys if key)


def _regional_keys(env: Mapping[str, str]) -> tuple[str, ...]:
    """An app that calls one region may still be delivered to from the others."""
    names = (
        f"{region}QSTASH_{name}" for region in ("", *(f"{each}_" for each in REGIONS)) for name in KEY_NAMES
    )
    return tuple(dict.fromkeys(key for each in names if (key := env.get(each, "").strip())))


def _listed(text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.split(",") if each.strip())


def _without_password(url: str) -> str:
    credentials, at, rest = url.rpartition("@")
    return f"{credentials.partition('://')[0]}://***@{rest}" if at else url
