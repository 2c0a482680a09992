"""The command line: `qtasks`. One module for each group of commands."""

from __future__ import annotations

import click

from qtasks.cli.broker import broker
from qtasks.version import VERSION


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="qtasks", message="%(prog)s %(version)s")
def main() -> None:
    """Background tasks for any ASGI app, with no worker to run.

    An app needs none of these commands: its broker is embedded in it by default. They run and
    inspect a broker of its own.
    """


main.add_command(broker)
