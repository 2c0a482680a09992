"""`qtasks broker`: run a standalone broker."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from qtasks.cli.logs import log_to_stderr
from qtasks.errors import ConfigurationError, QTasksError

if TYPE_CHECKING:
    from qtasks.home.server import Server

FAILED = 1
USAGE = 2


@click.command(context_settings={"show_default": True})
@click.option("--store", default="sqlite:///qtasks.db", help="Where messages are kept: sqlite:///FILE.")
@click.option("--host", default="127.0.0.1", help="Address to listen on; others than loopback need a token.")
@click.option("--port", default=8080, type=click.IntRange(0, 65535), help="Port to listen on; 0 picks one.")
@click.option(
    "--allow-destination",
    "allowed",
    multiple=True,
    metavar="CIDR-OR-HOST",
    help="Admit a private network or host as destination; may be repeated. Also QTASKS_ALLOW_DESTINATIONS, "
    "separated by commas.",
)
@click.option("--concurrency", default=64, type=click.IntRange(1, 10_000), help="Deliveries at once.")
@click.option(
    "--grace", default=25.0, type=click.FloatRange(0), help="Seconds for deliveries to end at a stop."
)
@click.option(
    "--log-level",
    default="warning",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="How much is logged, to stderr.",
)
def broker(
    store: str, host: str, port: int, allowed: tuple[str, ...], concurrency: int, grace: float, log_level: str
) -> None:
    """Run a broker with the API of QStash, on one SQLite file.

    Token and signing keys come from QTASKS_TOKEN, QTASKS_CURRENT_SIGNING_KEY and
    QTASKS_NEXT_SIGNING_KEY (or the QSTASH_ names); what is missing is made and kept beside the
    database. Stop it with SIGTERM or Ctrl-C: it lets deliveries end, then exits 0.
    """
    if find_spec("aiohttp") is None:
        _fail(
            "a standalone broker needs the extra [broker] of qtasks-http (aiohttp); install it first", USAGE
        )
    from qtasks.broker.config import BrokerConfig
    from qtasks.home.server import Server, ServerSetup
    from qtasks.settings import Settings

    log_to_stderr(log_level)
    try:
        settings = Settings.from_env()
        setup = ServerSetup(
            store=store,
            host=host,
            port=port,
            allow_destinations=(*settings.allow_destinations, *allowed),
            settings=settings,
            config=BrokerConfig(concurrency=concurrency, grace_ms=int(grace * 1000)),
        )
        _run(Server(setup, say=lambda line: click.echo(f"qtasks: {line}")))
    except ConfigurationError as error:
        _fail(str(error), USAGE)
    except QTasksError as error:
        _fail(str(error), FAILED)


def _run(server: Server) -> None:
    """Run on uvloop where it is installed: it is about a third faster."""
    import asyncio

    if find_spec("uvloop") is not None:
        import uvloop

        uvloop.run(server.run())
    else:
        asyncio.run(server.run())


def _fail(text: str, code: int) -> None:
    click.echo(f"qtasks: {text}", err=True)
    sys.exit(code)
