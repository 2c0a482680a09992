"""`qtasks health`: asks a broker whether it works. For the checks of containers, so it loads little."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import click

from qtasks.errors import ConfigurationError
from qtasks.settings import database_path

FAILED = 1
DEFAULT = "http://127.0.0.1:8080"


@click.command()
@click.argument("url", required=False)
@click.option("--live", is_flag=True, help="Ask only whether it answers at all (/livez).")
@click.option("--timeout", default=5.0, type=click.FloatRange(0.1), help="Seconds to wait for an answer.")
def health(url: str | None, live: bool, timeout: float) -> None:
    """Ask the broker at URL whether messages are accepted and delivered; exit 0 if so, else 1.

    URL is http://HOST:PORT, or sqlite:///FILE for the app that runs the tasks of that file. Without it,
    QTASKS_BROKER is asked, else http://127.0.0.1:8080. No token is needed.
    """
    where, connection = _way(url or os.environ.get("QTASKS_BROKER") or DEFAULT, timeout)
    path = "/livez" if live else "/readyz"
    try:
        status, body = _ask(connection, path)
    except (OSError, http.client.HTTPException) as error:
        _end(f"{where} does not answer: {error}", FAILED)
    if status == 200:
        _end(f"ok: {where}{path}", 0)
    _end(f"{where}{path} answered {status}: {_reason(body)}", FAILED)


def _way(url: str, timeout: float) -> tuple[str, http.client.HTTPConnection]:
    """Give what a broker is called in public, so without a password, and the way to it."""
    parts = urlsplit(url)
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    try:
        if parts.scheme == "sqlite":
            path = database_path(url)
            return str(path), _OwnerConnection(path, timeout)
        host, port = parts.hostname, parts.port
    except (ConfigurationError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint="URL") from error
    if parts.scheme not in kinds or not host:
        raise click.BadParameter(
            f"{parts.scheme}: names no broker that can be asked; give http://HOST:PORT or sqlite:///FILE",
            param_hint="URL",
        )
    where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return where, kinds[parts.scheme](host, port, timeout=timeout)


class _OwnerConnection(http.client.HTTPConnection):
    """Speaks to the process that owns a database, over its Unix socket."""

    def __init__(self, database: Path, timeout: float) -> None:
        super().__init__("qtasks.internal", timeout=timeout)
        self._database = database

    def connect(self) -> None:
        from qtasks.home.ownership import owner_socket

        address = owner_socket(self._database)
        if address is None:
            raise ConnectionError("no process runs its tasks")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(address)


def _ask(connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(10_000)
    finally:
        connection.close()


def _reason(body: bytes) -> str:
    """Give the `error` of an answer, on one line."""
    try:
        text = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        text = body.decode(errors="replace")
    return " ".join(str(text).split())[:300]


def _end(line: str, code: int) -> NoReturn:
    click.echo(f"qtasks: {line}", err=code != 0)
    sys.exit(code)
