"""A group of commands whose modules are imported when one of them is used, so that help comes at once."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from qtasks.errors import QTasksError

Table = Mapping[str, tuple[str, str]]


class LazyGroup(click.Group):
    """Commands by name, each with where it is, `module:attribute`, and its help in one line.

    What they raise of ours becomes one line on stderr and an exit code.
    """

    def __init__(self, *args: Any, table: Table, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._table:
            return None
        module, _, attribute = self._table[cmd_name][0].partition(":")
        found: click.Command = getattr(import_module(module), attribute)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in self._table.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except QTasksError as error:
            from qtasks.cli.failures import explained

            failure = explained(error, ctx.invoked_subcommand)
            click.echo(f"qtasks: {failure.text}", err=True)
            ctx.exit(failure.code)
