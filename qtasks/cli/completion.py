"""`qtasks completion`: the script that lets a shell complete commands, options and live names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from qtasks.errors import ConfigurationError

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_QTASKS_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script for a shell: source <(qtasks completion bash), or into its folder of completions."""
    kind = get_completion_class(shell)
    if kind is None:
        raise ConfigurationError(f"there is no completion for {shell}")
    from qtasks.cli import main

    click.echo(kind(main, {}, "qtasks", VARIABLE).source())
