"""`qtasks dev`: a broker for development on this machine alone, the app beside it, and keys to steer both."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from qtasks.cli.broker import check_extra, run_server
from qtasks.cli.exits import FAILED
from qtasks.cli.logs import FactsFormatter
from qtasks.cli.output import counted

if TYPE_CHECKING:
    from qtasks.broker.node import Node
    from qtasks.home.keys import Keys
    from qtasks.home.server import Server

KEYS = "p pause or go on, f fast-forward what waits, c clear, q quit"


@click.command(context_settings={"show_default": True})
@click.argument("app", required=False)
@click.option("--host", default="127.0.0.1", help="Address to listen on: loopback only.")
@click.option("--port", default=8080, type=click.IntRange(0, 65535), help="Port to listen on; 0 picks one.")
@click.option("--app-port", default=8000, type=click.IntRange(1, 65535), help="Port of the app.")
@click.option("--mount", default="/qtasks", metavar="PATH", help="Where the app has mounted its QTasks.")
@click.option("--store", metavar="URL", help="Keep messages: sqlite:///FILE.  [default: gone at the end]")
@click.option(
    "--qstash-users",
    "is_qstash",
    is_flag=True,
    help="Have the published token and keys of QStash's development server, so that SDKs in their own "
    "development mode find this broker.",
)
def dev(
    *, app: str | None, host: str, port: int, app_port: int, mount: str, store: str | None, is_qstash: bool
) -> None:
    """Run a broker for development, with the API of QStash, and APP, such as shop:app, if you name it.

    The app is served with reload, and its tasks go to this broker, which stays up meanwhile. Token and
    keys are this project's own, made at the first start and kept in .qtasks-dev.keys. It does not run
    where QTASKS_ENV is production. On a terminal single keys steer it; Ctrl-C ends it.
    """
    check_extra()
    from qtasks.home.development import Wish, app_environment, check_wish, development_keys, development_setup
    from qtasks.home.server import Server
    from qtasks.ids import Ids
    from qtasks.settings import Settings

    settings, wish = Settings.from_env(), Wish(host, port, store, is_qstash)
    check_wish(wish, settings)
    desk = Desk()
    desk.take_logs()
    keys, path = development_keys(wish, Ids(), Path.cwd())
    shown = keys if is_qstash or sys.stdout.isatty() else None
    public_url = f"http://127.0.0.1:{app_port}/{mount.strip('/')}".rstrip("/")

    @asynccontextmanager
    async def beside(node: Node, url: str) -> AsyncIterator[None]:
        for line in banner(url, shown, path, is_kept=store is not None):
            desk.say(line)
        async with AsyncExitStack() as stack:
            if app is not None:
                env = app_environment(os.environ, url, keys, public_url)
                await stack.enter_async_context(serving(app, app_port, env, desk, server))
            stack.enter_context(steering(node, desk, server))
            yield

    with development_setup(wish, settings, keys) as setup:
        server = Server(setup, say=desk.say, beside=beside)
        run_server(server)
    if desk.has_failed:
        sys.exit(FAILED)


class Desk:
    """Where all is told: what the broker and the app say, line by line, with who says it before it."""

    def __init__(self) -> None:
        self._is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self.has_failed = False

    def say(self, line: str) -> None:
        """Tell what the broker says."""
        self._tell("broker", "cyan", line)

    def say_of_app(self, line: str) -> None:
        """Tell what the app has printed."""
        self._tell("app", "green", line)

    def take_logs(self) -> None:
        """Have what the broker logs told as well."""
        told = _Told(self)
        told.setFormatter(FactsFormatter("%(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level="WARNING", handlers=[told])

    def _tell(self, who: str, colour: str, line: str) -> None:
        prefix = f"{who:6} |"
        with suppress(OSError):  # nobody reads any more, as when the terminal is closed
            click.echo(f"{click.style(prefix, fg=colour) if self._is_coloured else prefix} {line}")


class _Told(logging.Handler):
    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).splitlines():
            self._desk.say(line)


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


@asynccontextmanager
async def serving(
    app: str, port: int, env: Mapping[str, str], desk: Desk, server: Server
) -> AsyncIterator[None]:
    """Serve the app; if it ends by itself, so does all the rest."""
    from qtasks.cli.dev_app import command, running, write_log_config

    def ended(code: int) -> None:
        desk.say(f"the app has ended with {code}, so this ends too")
        desk.has_failed = True
        server.stop()

    with TemporaryDirectory(prefix="qtasks-dev-") as folder:
        log_config = Path(folder) / "logging.json"
        write_log_config(log_config)
        async with running(command(app, port, log_config), env, line=desk.say_of_app, ended=ended):
            yield


@contextmanager
def steering(node: Node, desk: Desk, server: Server) -> Iterator[None]:
    """Listen to keys for as long as this runs, where they come from a terminal."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, server.stop)  # the terminal is closed
    if not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    known = verbs(node, server)

    def read() -> None:
        try:
            pressed = os.read(terminal, 64)
        except OSError:
            pressed = b""
        if pressed:
            _press(known, desk, pressed.decode(errors="replace"))
        else:  # it is closed, which no signal says where it is not the controlling terminal
            loop.remove_reader(terminal)
            server.stop()

    def step_back() -> None:
        """Be stopped by Ctrl-Z as others are: the shell gets its terminal as it was."""
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        os.kill(os.getpid(), signal.SIGSTOP)
        tty.setcbreak(terminal)  # it goes on

    tty.setcbreak(terminal)
    loop.add_reader(terminal, read)
    loop.add_signal_handler(signal.SIGTSTP, step_back)
    desk.say(f"keys: {KEYS}")
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        loop.remove_signal_handler(signal.SIGTSTP)
        with suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


Verbs = Mapping[str, Callable[[], str]]


def verbs(node: Node, server: Server) -> Verbs:
    """Give what each key does; each says what it has done."""
    from qtasks.broker.store.filters import MessageFilter

    def pause() -> str:
        node.dispatcher.hold(not node.dispatcher.is_held)
        return "paused: nothing is delivered until p" if node.dispatcher.is_held else "deliveries go on"

    def fast_forward() -> str:
        return f"fast-forwarded {counted(node.broker.hasten(), 'message')}"

    def clear() -> str:
        return f"cleared {counted(node.broker.cancel_matching(MessageFilter(), None), 'message')}"

    def leave() -> str:
        server.stop()
        return "ending"

    return {"p": pause, "f": fast_forward, "c": clear, "q": leave}


def _press(known: Verbs, desk: Desk, keys: str) -> None:
    from qtasks.errors import QTasksError

    for key in keys.lower():
        try:
            desk.say(known[key]() if key in known else f"keys: {KEYS}")
        except QTasksError as error:
            desk.say(f"{key}: {error}")
