"""Commands on many things: dry runs until `--yes`, failures one by one, and how far it has come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Event
from typing import Any, TypeVar

import click

from qtasks.cli import exits
from qtasks.cli.command import Session
from qtasks.cli.failures import explained
from qtasks.cli.output import counted
from qtasks.cli.tables import Column
from qtasks.client.call import Call
from qtasks.errors import QTasksError, RequestError

T = TypeVar("T")

SAMPLE = 5

yes_option = click.option("--yes", is_flag=True, help="Do it: without, this is a dry run.")


def one_by_one(
    session: Session, names: Sequence[str], call_of: Callable[[str], Call[Any]], done: str
) -> None:
    """Do something to each of the named things; what fails does not keep the others from it.

    Exits with 7 if it was done to some and not to others, else as the first that failed.
    """
    codes: list[int] = []
    results: list[dict[str, object]] = []
    group = _group()
    for name in dict.fromkeys(names):
        try:
            session.ask(call_of(name))
            results.append({"name": name, "done": True})
            if session.out.is_for_people:
                session.out.say(f"{done} {name}")
        except QTasksError as error:
            failure = explained(error, group)
            codes.append(failure.code)
            results.append({"name": name, "done": False, "error": str(error)})
            session.out.say(f"qtasks: {name}: {failure.text}")
            if not isinstance(error, RequestError):
                break  # nobody is there to be asked for the rest
    if not session.out.is_for_people:
        session.out.rows(results, (), lambda each: each, empty="")
    if codes:
        sys.exit(codes[0] if len(codes) == len(results) else exits.PARTLY)


def _group() -> str | None:
    parent = click.get_current_context().parent
    return parent.info_name if parent else None


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a command on many would do: `verb` ("replay") to things that are called `noun` ("dead letter")."""

    verb: str
    noun: str
    columns: Sequence[Column[Any]]
    to_json: Callable[[Any], object]

    def show(self, session: Session, found: Iterable[Any], limit: int | None = None) -> None:
        """Count what was found, and show the first few of it."""
        rest = iter(found)
        sample = list(islice(rest, SAMPLE))
        count = len(sample) + sum(1 for _ in rest)
        what = f"{counted(count, self.noun)}{'' if limit is None or count < limit else ' or more'}"
        if not session.out.is_for_people:
            members = {"dryRun": True, "count": count, "sample": [self.to_json(each) for each in sample]}
            session.out.json(members)
            return
        if sample:
            session.out.rows(sample, self.columns, self.to_json, empty="")
        more = f", {len(sample)} of them above" if count > len(sample) else ""
        session.out.say(
            f"dry run: would {self.verb} {what}{more}" + ("; add --yes to do it" if count else "")
        )


class Progress:
    """Tells a person on a terminal how far long work has come, on one line that is written over."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._is_shown = sys.stderr.isatty()

    def show(self, done: int) -> None:
        """Say how much is done."""
        if self._is_shown:
            click.echo(f"\r{self._verb} {done:,} …", nl=False, err=True)

    def end(self) -> None:
        """Take the line away."""
        if self._is_shown:
            click.echo("\r\033[K", nl=False, err=True)


def pause_ms(done: int, elapsed_ms: int, rate: float) -> int:
    """Say how long to wait so that `done` in all come to `rate` a second.

    >>> pause_ms(50, 400, 100)
    100
    """
    return max(0, round(done * 1000 / rate) - elapsed_ms)


def step_by_step(
    session: Session,
    pages: Iterable[int],
    *,
    verb: str,
    done: str,
    noun: str,
    key: str,
    rate: float | None = None,
) -> None:
    """Do something to many, of which `pages` gives how many each step was about.

    `rate` is how many a second. What has been done when something fails is told, and exits with 7.
    """
    count, progress, started = 0, Progress(verb), session.clock.monotonic()
    try:
        for each in pages:
            count += each
            progress.show(count)
            if rate is not None:
                session.broker.let_go()
                Event().wait(pause_ms(count, session.clock.monotonic() - started, rate) / 1000)
    except QTasksError as error:
        progress.end()
        if not count:
            raise
        session.out.done(f"{done} {counted(count, noun)}, then it failed", {key: count, "error": str(error)})
        session.out.say(f"qtasks: {explained(error, None).text}")
        sys.exit(exits.PARTLY)
    progress.end()
    session.out.done(f"{done} {counted(count, noun)}", {key: count})
