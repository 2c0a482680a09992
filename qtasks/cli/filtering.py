"""The options by which commands choose messages, log entries and dead letters, made a `Filter`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from qtasks.cli.kinds import INSTANT
from qtasks.client.filters import Filter

# By field of the filter: option, help.
TEXTS = {
    "queues": ("--queue", "In this queue."),
    "labels": ("--label", "With this label."),
    "urls": ("--url", "To this URL."),
    "url_groups": ("--url-group", "Sent through this URL group."),
    "schedules": ("--schedule", "Made by this schedule."),
    "flow_keys": ("--flow-key", "Waiting at this flow-control key."),
}
INSTANTS = {
    "since": ("--since", "Not older: 2h, or an instant."),
    "until": ("--until", "Not newer: 10m, or an instant."),
}


def filtered(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a filter; it gets `wanted`. Each may be given several times."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        texts: dict[str, Any] = {field: tuple(kwargs.pop(field)) for field in TEXTS}
        instants: dict[str, Any] = {field: kwargs.pop(field) for field in INSTANTS}
        if any("" in values for values in texts.values()):
            raise click.UsageError("a filter is empty; leave it out to ask for all")
        function(*args, wanted=Filter(**texts, **instants), **kwargs)

    for field, (option, about) in reversed(INSTANTS.items()):
        run = click.option(option, field, type=INSTANT, help=about)(run)
    for field, (option, about) in reversed(TEXTS.items()):
        run = click.option(option, field, multiple=True, help=about)(run)
    return run
