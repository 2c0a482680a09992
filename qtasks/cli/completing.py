"""Shell completion with live names: asks the broker, shortly, and offers nothing if it does not answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from qtasks.client.call import Call

T = TypeVar("T")

PATIENCE_S = 1.0
Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def live(call: Callable[[], Call[list[T]]], name: Callable[[T], str]) -> Complete:
    """Complete with the names in a listing of the broker."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        from qtasks.cli.connection import Connection

        connection = Connection(ctx.params.get("broker"), timeout_s=PATIENCE_S)
        try:
            found = [name(each) for each in connection.ask(call())]
        except Exception:  # a completion must never disturb whoever types
            return []
        finally:
            connection.close()
        return [each for each in found if each.startswith(incomplete)]

    return complete
