"""`qtasks dev`: a broker for development, on this machine alone."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qtasks.cli.broker import check_extra, run_server
from qtasks.cli.logs import log_to_stderr

if TYPE_CHECKING:
    from qtasks.broker.service import Broker
    from qtasks.home.keys import Keys


@click.command(context_settings={"show_default": True})
@click.option("--host", default="127.0.0.1", help="Address to listen on: loopback only.")
@click.option("--port", default=8080, type=click.IntRange(0, 65535), help="Port to listen on; 0 picks one.")
@click.option("--store", metavar="URL", help="Keep messages: sqlite:///FILE.  [default: gone at the end]")
@click.option(
    "--qstash-users",
    "is_qstash",
    is_flag=True,
    help="Have the published token and keys of QStash's development server, so that SDKs in their own "
    "development mode find this broker.",
)
def dev(*, host: str, port: int, store: str | None, is_qstash: bool) -> None:
    """Run a broker for development, with the API of QStash, for this machine alone.

    Token and keys are this project's own, made at the first start and kept in .qtasks-dev.keys. It does
    not run where QTASKS_ENV is production. Stop it with Ctrl-C.
    """
    check_extra()
    from qtasks.home.development import Wish, check_wish, development_keys, development_setup
    from qtasks.home.server import Server
    from qtasks.ids import Ids
    from qtasks.settings import Settings

    settings, wish = Settings.from_env(), Wish(host, port, store, is_qstash)
    check_wish(wish, settings)
    log_to_stderr("warning")
    keys, path = development_keys(wish, Ids(), Path.cwd())
    shown = keys if is_qstash or sys.stdout.isatty() else None

    @asynccontextmanager
    async def greeting(broker: Broker, url: str) -> AsyncIterator[None]:
        for line in banner(url, shown, path, is_kept=store is not None):
            say(line)
        yield

    with development_setup(wish, settings, keys) as setup:
        run_server(Server(setup, say=say, beside=greeting))


def banner(url: str, keys: Keys | None, path: Path, *, is_kept: bool) -> list[str]:
    """Say what this is, and what an app needs to know of it; without `keys`, where they are."""
    kept = "messages stay in the store" if is_kept else "messages are gone at its end"
    lines = [f"DEVELOPMENT MODE: for this machine alone, {kept}"]
    if keys is None:
        return [*lines, f"token and signing keys are in {path}"]
    return [
        *lines,
        f"QSTASH_URL={url}",
        f"QSTASH_TOKEN={keys.token}",
        f"QSTASH_CURRENT_SIGNING_KEY={keys.current}",
        f"QSTASH_NEXT_SIGNING_KEY={keys.next}",
    ]


def say(line: str) -> None:
    """Tell the person at the shell."""
    click.echo(f"qtasks: {line}")
