"""Where a broker is measured, so that nothing of the user's is touched.

On the same disk that is a new file, on PostgreSQL a schema of its own, at a broker elsewhere a queue of its
own. All of them are removed afterwards.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from qtasks.cli.bench import machine
from qtasks.cli.connection import Connection
from qtasks.errors import ConfigurationError, QTasksError
from qtasks.ids import Ids
from qtasks.settings import HomeKind, Settings, database_path

if TYPE_CHECKING:
    from qtasks.cli.bench.rig import Rig
    from qtasks.cli.output import Output

QUEUE = "bench"


@dataclass(frozen=True, slots=True)
class Bench:
    """A place at work: the app, the pace of the database alone, and what is said of durability."""

    rig: Rig
    durability: str
    pace: Callable[[], float] | None = None
    """Commits of single rows a second, where the database can be reached from here."""
    has_broker: bool = True
    """Whether the broker runs in this process, so that its memory is seen here."""


Place = Callable[[], AbstractContextManager[Bench]]
"""Opens a place for one run."""


def choose(
    settings: Settings, *, address: str | None, durability: str, size: int, out: Output
) -> tuple[str, Place]:
    """Give the place that the settings' broker names, and what a person calls it."""
    if settings.home is HomeKind.HOSTED:
        raise ConfigurationError(
            "hosted QStash is not measured: each call would count as a message of your plan"
        )
    if settings.home is not HomeKind.SQLITE and durability != "full":
        raise ConfigurationError("--durability is for SQLite; others are as durable as they were started")
    if settings.home is HomeKind.HTTP:
        return f"the broker at {settings.address}", partial(elsewhere, settings, address, size, out)
    if address is not None:
        raise ConfigurationError(
            "--address is for a broker elsewhere; an embedded one needs no way to the app"
        )
    if settings.home is HomeKind.POSTGRES:
        return "embedded, on PostgreSQL", partial(on_postgres, settings.broker, size)
    folder = database_path(settings.broker).parent
    return f"embedded, a new file in {folder}", partial(on_file, folder, durability, size)


@contextmanager
def on_file(folder: Path, durability: str, size: int) -> Iterator[Bench]:
    """Measure an embedded broker on a new SQLite file in a folder, so on the disk that an app would have."""
    from qtasks.cli.bench.rig import at_work

    try:
        temporary = TemporaryDirectory(prefix=".qtasks-bench-", dir=folder)
    except OSError as error:
        raise ConfigurationError(
            f"no folder can be made in {folder} ({error.strerror}); name one with --broker sqlite:////path/x.db"
        ) from error
    with temporary as name:
        path = Path(name) / "bench.db"
        settings = Settings(broker=f"sqlite:///{path}", durability=durability)
        level = "FULL" if durability == "full" else "NORMAL, so a power cut may lose the newest"
        with at_work(settings, QUEUE, size=size) as rig:
            yield Bench(rig, f"synchronous={level}", partial(machine.file_pace, Path(name), durability))


@contextmanager
def on_postgres(url: str, size: int) -> Iterator[Bench]:
    """Measure an embedded broker in a schema of its own, which no other process looks at."""
    from qtasks.broker.store.postgres_links import Place as Schema
    from qtasks.cli.bench.rig import at_work

    ids = Ids()
    store = with_schema(url, f"qtasks_bench_{ids.boot_id()}")
    schema = Schema.parse(store)
    try:
        with at_work(Settings(broker=store, secrets=(ids.secret(),)), QUEUE, size=size) as rig:
            yield Bench(rig, machine.server_durability(schema), partial(machine.server_pace, schema))
    finally:
        machine.drop_schema(schema)


def with_schema(url: str, schema: str) -> str:
    """Give the address of another schema in the same database.

    >>> with_schema("postgresql://host/db?schema=mine&sslmode=require", "other")
    'postgresql://host/db?sslmode=require&schema=other'
    """
    where, _, query = url.partition("?")  # what puts a URL together would drop the `//` before no host
    kept = [(name, value) for name, value in parse_qsl(query) if name != "schema"]
    return (
        f"{where}?{urlencode([*kept, ('schema', schema)], quote_via=quote)}"  # libpq takes no + for a space
    )


@contextmanager
def elsewhere(settings: Settings, address: str | None, size: int, out: Output) -> Iterator[Bench]:
    """Measure a running broker by a queue of its own, with this process as the app."""
    from qtasks.cli.bench.rig import at_work
    from qtasks.client import calls

    ids = Ids()
    queue = f"qtasks-bench-{ids.boot_id()}"
    with closing(Connection(settings=settings)) as connection:
        keys = connection.ask(calls.signing_keys())
        listening, public_url = listen(address)
        known = Settings(
            broker=settings.broker,
            token=settings.token,
            signing_keys=(keys.current, keys.next),
            secrets=(ids.secret(),),
            public_url=public_url,
        )
        try:
            with at_work(known, queue, listening=listening, size=size) as rig:
                yield Bench(rig, "as the broker was started with", has_broker=False)
        finally:
            listening.close()
            with suppress(QTasksError):  # it was never made, or the broker is gone
                connection.ask(calls.delete_queue(queue))
                out.say(f"removed the queue {queue}; what befell its messages stays in the broker's log")


def listen(address: str | None) -> tuple[socket.socket, str]:
    """Open a port for the webhook, at loopback unless an address says where a broker finds this machine."""
    from qtasks.home.ports import bind_port

    if address is None:
        listening = bind_port("127.0.0.1", 0)
        return listening, f"http://127.0.0.1:{listening.getsockname()[1]}"
    parts = urlsplit(address)
    if parts.scheme != "http" or not parts.hostname or parts.port is None or parts.path.strip("/"):
        raise ConfigurationError(f"--address is {address!r}; it must be http://HOST:PORT of this machine")
    return bind_port("::" if ":" in parts.hostname else "0.0.0.0", parts.port), address.rstrip("/")


def replaced(settings: Settings, broker: str | None) -> Settings:
    """Give the settings with the broker that an option names, else with a file of the project's folder.

    What the environment names may be in use by others, so it is measured only where that is asked for.
    """
    return replace(settings, broker=Settings().broker if broker is None else broker)
