"""What a broker for development is made of: where it keeps messages, its keys, and when it refuses to run.

What a person sees and presses is in `cli/dev.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from qtasks.broker.config import BrokerConfig
from qtasks.errors import ConfigurationError
from qtasks.home.keys import Keys, load_or_make_keys
from qtasks.home.server import ServerSetup, is_loopback
from qtasks.ids import Ids
from qtasks.settings import Settings, project_folder

KEYS_FILE = ".qtasks-dev.keys"
QSTASH_USER = (
    "eyJVc2VySUQiOiJkZWZhdWx0VXNlciIsIlBhc3N3b3JkIjoiZGVmYXVsdFBhc3N3b3JkIn0=",
    "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r",
    "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs",
)
"""Token and keys that QStash's development server has published; SDKs in their development mode know them."""
GRACE_MS = 2000
LONGEST_WAIT_MS = 1000
"""How long a retry waits at most, where nobody said: a person looks at it."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks of a broker for development; without a `store` nothing outlives it."""

    host: str = "127.0.0.1"
    port: int = 8080
    store: str | None = None
    is_qstash: bool = False
    """Have the published token and keys instead of the project's own."""


def check_wish(wish: Wish, settings: Settings) -> None:
    """Refuse what is no development: others could reach it, or the environment is production's."""
    if settings.is_production:
        raise ConfigurationError(
            "QTASKS_ENV is 'production', and this is for development only; run `qtasks broker` instead"
        )
    if not is_loopback(wish.host):
        raise ConfigurationError(
            f"a broker for development listens on loopback only, not on {wish.host!r}; use 127.0.0.1, or run "
            "`qtasks broker` for others to reach it"
        )
    if wish.store is not None and not wish.store.startswith("sqlite:"):
        raise ConfigurationError(
            "--store must be a file of its own for development, such as sqlite:///dev.db"
        )


def development_keys(wish: Wish, ids: Ids, start: Path) -> tuple[Keys, Path]:
    """Give the secrets, and the project's file of them, which is made where there is none.

    Those of the environment do not count: they may be production's.
    """
    path = project_folder(start) / KEYS_FILE
    own = load_or_make_keys(path, ids)
    if not wish.is_qstash:
        return own, path
    token, current, following = QSTASH_USER
    return replace(own, token=token, current=current, next=following), path


@contextmanager
def development_setup(wish: Wish, settings: Settings, keys: Keys) -> Iterator[ServerSetup]:
    """Say how to run the broker, for as long as it runs: a store that nobody named is gone afterwards.

    Of the `settings` only the destinations count.
    """
    with TemporaryDirectory(prefix="qtasks-dev-") as folder:
        yield ServerSetup(
            store=wish.store or f"sqlite:///{folder}/dev.db",
            host=wish.host,
            port=wish.port,
            allow_destinations=settings.allow_destinations,
            settings=Settings(token=keys.token, signing_keys=(keys.current, keys.next), durability="relaxed"),
            config=BrokerConfig(grace_ms=GRACE_MS, longest_ladder_wait_ms=LONGEST_WAIT_MS),
            linger_ms=0,
        )


def app_environment(env: Mapping[str, str], url: str, keys: Keys, public_url: str) -> dict[str, str]:
    """Give the environment of an app whose broker is at `url`: `env`, in which all that is said anew."""
    secrets = {"TOKEN": keys.token, "CURRENT_SIGNING_KEY": keys.current, "NEXT_SIGNING_KEY": keys.next}
    return {
        **env,
        **{f"{prefix}_{name}": value for prefix in ("QTASKS", "QSTASH") for name, value in secrets.items()},
        "QSTASH_URL": url,
        "QTASKS_BROKER": url,
        "QTASKS_SECRET": keys.secret,
        "QTASKS_PUBLIC_URL": public_url,
        "PYTHONUNBUFFERED": "1",
    }
