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
from urllib.parse import urlsplit

from qtasks.errors import ConfigurationError

DEFAULT_BROKER = "sqlite:///qtasks.db"
MIN_SECRET_BYTES = 32
SAMPLE_WORDS = ("changeme", "change-me", "example", "secret-key", "your-secret", "insecure")
PROJECT_MARKS = ("pyproject.toml", ".git")


class HomeKind(Enum):
    """Where the broker is (see `docs/brokers.md`)."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the environment decides. `secrets` sign envelopes: the first signs, all verify."""

    broker: str = DEFAULT_BROKER
    token: str | None = field(default=None, repr=False)
    signing_keys: tuple[str, ...] = field(default=(), repr=False)
    """Current and next key of the broker, in that order."""
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

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read `QTASKS_*`, and the `QSTASH_*` names for token and keys; raises `ConfigurationError`."""
        env = os.environ if env is None else env
        keys = (_first(env, "CURRENT_SIGNING_KEY"), _first(env, "NEXT_SIGNING_KEY"))
        return cls(
            broker=env.get("QTASKS_BROKER", "").strip() or DEFAULT_BROKER,
            token=_first(env, "TOKEN"),
            signing_keys=tuple(key for key in keys if key),
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
        )

    @property
    def home(self) -> HomeKind:
        """The kind of broker that `broker` names; raises `ConfigurationError`."""
        scheme = self.broker.partition(":")[0].lower()
        if scheme == "sqlite":
            return HomeKind.SQLITE
        if scheme in ("postgresql", "postgres"):
            return HomeKind.POSTGRES
        if scheme in ("http", "https"):
            return HomeKind.HTTP
        raise ConfigurationError(
            f"QTASKS_BROKER is {_without_password(self.broker)!r}, which is no broker; use "
            "sqlite:///qtasks.db, postgresql://…, http://host:port or https://…"
        )


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
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigurationError(
            f"QTASKS_PUBLIC_URL is {url!r}; it must be the address where the webhook is mounted, "
            "such as https://app.example.com/qtasks"
        )
    return url.rstrip("/")


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


def check_durability(durability: str) -> str:
    """Refuse what is neither "full" nor "relaxed"; gives it back."""
    if durability not in ("full", "relaxed"):
        raise ConfigurationError(f'durability must be "full" or "relaxed", not {durability!r}')
    return durability


def _first(env: Mapping[str, str], name: str) -> str | None:
    return env.get(f"QTASKS_{name}", "").strip() or env.get(f"QSTASH_{name}", "").strip() or None


def _listed(text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.split(",") if each.strip())


def _without_password(url: str) -> str:
    credentials, at, rest = url.rpartition("@")
    return f"{credentials.partition('://')[0]}://***@{rest}" if at else url
