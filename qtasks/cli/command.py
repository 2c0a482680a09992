"""What all commands that ask a broker have in common: their options, and a `Session` to work with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from qtasks.cli.output import Form, Output
from qtasks.clock import Clock, SystemClock

if TYPE_CHECKING:
    from qtasks.client.call import Call, Page

P = ParamSpec("P")
T = TypeVar("T")


class Session:
    """One run of a command: the broker to ask, and where its answer goes."""

    def __init__(self, broker: str | None, out: Output, clock: Clock) -> None:
        from qtasks.cli.connection import Connection

        self.broker = Connection(broker)
        self.out = out
        self.clock = clock

    def ask(self, call: Call[T]) -> T:
        """Carry out one operation."""
        return self.broker.ask(call)

    def each(self, call: Call[Page[T]], limit: int | None = None) -> Iterator[T]:
        """Give the items of a listing, at most `limit`."""
        return self.broker.each(call, limit)

    def now(self) -> int:
        """Say the time in Unix milliseconds."""
        return self.clock.now()


def printing(function: Callable[Concatenate[Output, P], None]) -> Callable[P, None]:
    """Give a command the options of its form, and the output that they ask for."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.option("--jsonl", "as_lines", is_flag=True, help="Print JSON, one value to a line.")
    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json, as_lines = kwargs.pop("as_json"), kwargs.pop("as_lines")
        if as_json and as_lines:
            raise click.UsageError("--json and --jsonl are two forms of one answer; give one of them")
        form = Form.JSON if as_json else Form.JSONL if as_lines else Form.PEOPLE
        function(Output(form), *args, **kwargs)

    return run


def with_broker(function: Callable[Concatenate[Session, P], None]) -> Callable[P, None]:
    """Give a command the options that say which broker it asks and how it prints, and a session."""

    @click.option(
        "--broker", metavar="URL", help="Which broker: sqlite:///FILE or http://…  [default: QTASKS_BROKER]"
    )
    @printing
    @functools.wraps(function)
    def run(out: Output, /, *args: P.args, **kwargs: P.kwargs) -> None:
        broker: Any = kwargs.pop("broker")
        session = Session(broker, out, SystemClock())
        try:
            function(session, *args, **kwargs)
        finally:
            session.broker.close()

    return run
