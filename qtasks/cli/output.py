"""How commands print: what was asked for to stdout, all else to stderr; for people, or as JSON."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import TypeVar

import click
import orjson

from qtasks.cli.tables import Column, record, table

T = TypeVar("T")


class Form(Enum):
    """What a command's answer looks like."""

    PEOPLE = "people"
    JSON = "json"
    JSONL = "jsonl"


class Output:
    """Prints the answer of one command in a form."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self._is_terminal = sys.stdout.isatty()

    @property
    def is_for_people(self) -> bool:
        """Whether a person reads it."""
        return self.form is Form.PEOPLE

    @property
    def _has_colours(self) -> bool:
        return self._is_terminal and not os.environ.get("NO_COLOR")

    def painted(self, text: str, tone: str) -> str:
        """Give a text in a colour, where there are any."""
        return _paint(text, tone) if self._has_colours else text

    def rows(
        self,
        items: Iterable[T],
        columns: Sequence[Column[T]],
        to_json: Callable[[T], object],
        *,
        empty: str,
    ) -> int:
        """Print a listing; as lines of JSON, each as soon as it is known. Gives how many there were."""
        if self.form is Form.JSONL:
            count = 0
            for each in items:
                count += 1
                self._write(orjson.dumps(to_json(each)))
            return count
        found = list(items)
        if self.form is Form.JSON:
            self._write(orjson.dumps([to_json(each) for each in found], option=orjson.OPT_INDENT_2))
        elif found:
            width = shutil.get_terminal_size().columns if self._is_terminal else None
            paint = _paint if self._has_colours else None
            click.echo("\n".join(table(found, columns, width=width, paint=paint)))
        else:
            self.say(empty)
        return len(found)

    def one(self, pairs: Sequence[tuple[str, str]], members: object) -> None:
        """Print one thing: its facts, or its JSON."""
        if self.is_for_people:
            click.echo("\n".join(record(pairs)))
        else:
            self.json(members)

    def json(self, members: object) -> None:
        """Print JSON, on one line where lines are asked for."""
        option = orjson.OPT_INDENT_2 if self.form is Form.JSON else 0
        self._write(orjson.dumps(members, option=option))

    def say(self, text: str) -> None:
        """Tell the person something that is no answer."""
        click.echo(text, err=True)

    def done(self, text: str, members: object) -> None:
        """Tell of something that was done: a sentence for a person, JSON for a program."""
        if self.is_for_people:
            self.say(text)
        else:
            self.json(members)

    def _write(self, line: bytes) -> None:
        click.echo(line.decode())


def _paint(text: str, tone: str) -> str:
    return click.style(text, bold=True) if tone == "bold" else click.style(text, fg=tone)


def counted(count: int, noun: str) -> str:
    """Write a number and its noun: `1 queue`, `10,000 queues`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
