"""The command line: `qtasks`. One module for each group of commands, imported when it is used."""

from __future__ import annotations

import click

from qtasks.cli.lazy import LazyGroup
from qtasks.version import VERSION

COMMANDS = {
    "broker": ("qtasks.cli.broker:broker", "Run a broker with the API of QStash."),
    "dev": ("qtasks.cli.dev:dev", "Develop: a broker on this machine, your app beside it."),
    "run": ("qtasks.cli.run:run", "Call a task of your app."),
    "tasks": ("qtasks.cli.tasks:tasks", "Tasks of an app, and where a call is."),
    "send": ("qtasks.cli.send:send", "Send a message to a URL."),
    "queues": ("qtasks.cli.queues:queues", "Queues: lag, parallelism, pause."),
    "messages": ("qtasks.cli.messages:messages", "Messages: where they are, calling them off."),
    "dlq": ("qtasks.cli.dlq:dlq", "Dead letters: why they died, running them again."),
    "schedules": ("qtasks.cli.schedules:schedules", "Schedules: when they fire, pause."),
    "groups": ("qtasks.cli.groups:groups", "URL groups: one name for several URLs."),
    "flow": ("qtasks.cli.flow:flow", "Flow-control keys: rates, parallelism, pause."),
    "logs": ("qtasks.cli.events:logs", "The log of what befell messages."),
    "keys": ("qtasks.cli.keys:keys", "Signing keys: status, rolling them."),
    "tokens": ("qtasks.cli.tokens:tokens", "Tokens of the broker's API."),
    "db": ("qtasks.cli.db:db", "The store itself: migrate, check, back up, restore."),
    "doctor": ("qtasks.cli.doctor:doctor", "Whether your setup is right, and how to mend it."),
    "bench": ("qtasks.cli.bench:bench", "Measure a broker on this machine."),
    "health": ("qtasks.cli.health:health", "Whether a broker is well: for container checks."),
    "completion": ("qtasks.cli.completion:completion", "Completion for your shell."),
}


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 token, 5 unreachable, 7 partly done.",
)
@click.version_option(VERSION, prog_name="qtasks", message="%(prog)s %(version)s")
def main() -> None:
    """Background tasks for any ASGI app, with no worker to run.

    An app needs none of these commands: its broker is embedded in it by default. They show and steer
    a broker, wherever it lives: QTASKS_BROKER or --broker says which one, QTASKS_TOKEN is its token.
    """
