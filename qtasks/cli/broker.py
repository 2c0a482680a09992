"""`qtasks broker`: run a standalone broker."""

from __future__ import annotations

import logging
import sys
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from qtasks.cli.exits import FAILED, USAGE
from qtasks.cli.logs import LogFormat, json_line, log_to_stderr
from qtasks.errors import ConfigurationError, InvalidValue, QTasksError
from qtasks.protocol.durations import parse_duration_ms

if TYPE_CHECKING:
    from qtasks.broker.config import BrokerConfig
    from qtasks.home.server import Server
    from qtasks.settings import Settings


@click.command(context_settings={"show_default": True})
@click.option(
    "--store", default="sqlite:///qtasks.db", help="Where messages are kept: sqlite:///FILE or postgresql://…"
)
@click.option("--host", default="127.0.0.1", help="Address to listen on; others than loopback need a token.")
@click.option("--port", default=8080, type=click.IntRange(0, 65535), help="Port to listen on; 0 picks one.")
@click.option(
    "--allow-destination",
    "allowed",
    multiple=True,
    metavar="WHAT",
    help="Admit as destination what is refused otherwise: 10.0.0.0/8, app.internal, *.internal or "
    "http://app.internal:8000; may be repeated. Also QTASKS_ALLOW_DESTINATIONS, "
    "separated by commas.",
)
@click.option(
    "--api",
    "apis",
    multiple=True,
    metavar="NAME=BASE_URL",
    help="What the destination api/llm or api/email stands for, such as llm=https://api.openai.com; its key "
    "comes from QTASKS_API_LLM_KEY or QTASKS_API_EMAIL_KEY. May be repeated.",
)
@click.option("--strict-qstash", "strict", is_flag=True, help="Be no more generous than hosted QStash.")
@click.option(
    "--burst-limit",
    type=click.IntRange(1),
    help="Requests a second for each token, publishing not counted.  [default: no limit]",
)
@click.option(
    "--max-batch-bytes",
    default=16 * 1024 * 1024,
    type=click.IntRange(1024, 100_000_000),
    help="Size of a batch request; it takes up to three times that in memory.",
)
@click.option(
    "--max-message-bytes",
    default=10 * 1024 * 1024,
    type=click.IntRange(1024, 100_000_000),
    help="Size of a message's body.",
)
@click.option(
    "--reserve-bytes",
    type=click.IntRange(0),
    help="Below so much free space nothing more is accepted.  [default: 64 MiB or 5 % of the disk]",
)
@click.option(
    "--ballast-bytes",
    default=8 * 1024 * 1024,
    type=click.IntRange(0),
    help="A file that is given up when the disk is full, so that what was accepted can be finished.",
)
@click.option("--retention", default="3d", metavar="DURATION", help="How long the log is kept.")
@click.option("--dlq-retention", default="30d", metavar="DURATION", help="How long dead letters are kept.")
@click.option("--region", metavar="NAME", help="What deliveries say in Upstash-Region.")
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
@click.option(
    "--log-format",
    default="text",
    type=click.Choice(["text", "json"]),
    help="One line of text for each record, or one JSON object.",
)
def broker(
    *,
    store: str,
    host: str,
    port: int,
    allowed: tuple[str, ...],
    grace: float,
    log_level: str,
    log_format: LogFormat,
    **limits: Any,
) -> None:
    """Run a broker with the API of QStash, on a SQLite file or, with others like it, on PostgreSQL.

    Token and signing keys come from QTASKS_TOKEN, QTASKS_CURRENT_SIGNING_KEY and
    QTASKS_NEXT_SIGNING_KEY (or the QSTASH_ names); what is missing is made and kept beside the
    database. Stop it with SIGTERM or Ctrl-C: it lets deliveries end, then exits 0.
    """
    check_extra()
    from qtasks.home.server import Server, ServerSetup
    from qtasks.settings import Settings

    log_to_stderr(log_level, log_format)
    try:
        settings = Settings.from_env()
        setup = ServerSetup(
            store=store,
            host=host,
            port=port,
            allow_destinations=(*settings.allow_destinations, *allowed),
            settings=settings,
            config=_config(settings, grace_ms=int(grace * 1000), **limits),
        )
        is_for_people = log_format == "text"
        run_server(
            Server(
                setup,
                say=partial(_say, log_format),
                shows_secrets=is_for_people and sys.stdout.isatty(),
            )
        )
    except ConfigurationError as error:
        _fail(str(error), USAGE, log_format)
    except QTasksError as error:
        _fail(str(error), FAILED, log_format)


def _config(
    settings: Settings,
    *,
    apis: tuple[str, ...],
    strict: bool,
    retention: str,
    dlq_retention: str,
    **limits: Any,
) -> BrokerConfig:
    """Put together what the broker may do; raises `ConfigurationError`."""
    from qtasks.broker.apis import parse_apis
    from qtasks.broker.config import BrokerConfig, strict_config

    config = BrokerConfig(
        apis=parse_apis(apis, settings.api_keys),
        retention_ms=_span_ms("--retention", retention),
        dead_letter_retention_ms=_span_ms("--dlq-retention", dlq_retention),
        **limits,
    )
    return strict_config(config) if strict else config


def _span_ms(option: str, text: str) -> int:
    try:
        return parse_duration_ms(text)
    except InvalidValue as error:
        raise ConfigurationError(f"{option}: {error}; use 12h or 7d, for example") from error


def check_extra() -> None:
    """End with a line that says so where what a standalone broker needs is not installed."""
    if find_spec("aiohttp") is None:
        _fail(
            "a standalone broker needs the extra [broker] of qtasks-http (aiohttp); install it first", USAGE
        )


def run_server(server: Server) -> None:
    """Run on uvloop where it is installed: it is about a third faster."""
    import asyncio

    if find_spec("uvloop") is not None:
        import uvloop

        uvloop.run(server.run())
    else:
        asyncio.run(server.run())


def _say(form: LogFormat, line: str) -> None:
    click.echo(f"qtasks: {line}" if form == "text" else json_line("qtasks.broker", logging.INFO, line))


def _fail(text: str, code: int, form: LogFormat = "text") -> None:
    line = f"qtasks: {text}" if form == "text" else json_line("qtasks.broker", logging.CRITICAL, text)
    click.echo(line, err=True)
    sys.exit(code)
