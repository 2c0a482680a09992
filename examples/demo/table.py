"""What the demo shows: one line of progress while it runs, and a table at its end."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TextIO

COLUMNS = ("task", "calls", "queue", "attempts", "state", "time")
RIGHT = {"calls", "attempts", "time"}
MIN_GAP_S = 0.5


class Progress:
    """Shows how far each queue is: in one line that changes, or line after line where none can."""

    def __init__(self, totals: Mapping[str, int], stream: TextIO = sys.stdout) -> None:
        self._totals = totals
        self._stream = stream
        self._shown = ""
        self._shown_at_s = -MIN_GAP_S

    def show(self, left: Mapping[str, int], at_s: float) -> None:
        """Show what is left of each queue, `at_s` seconds after the start."""
        done = {queue: total - left.get(queue, 0) for queue, total in self._totals.items()}
        queues = "  ".join(f"{queue} {done[queue]}/{total}" for queue, total in self._totals.items())
        if self._stream.isatty():
            print(f"\r\x1b[K{at_s:5.1f} s  {queues}", end="", file=self._stream, flush=True)
            return
        # A file or a pipe: only what is new, and not too much of it.
        is_over = done == self._totals
        if queues != self._shown and (is_over or at_s - self._shown_at_s >= MIN_GAP_S):
            print(f"{at_s:5.1f} s  {queues}", file=self._stream, flush=True)
            self._shown, self._shown_at_s = queues, at_s

    def end(self) -> None:
        """Leave the line that changes."""
        if self._stream.isatty():
            print(file=self._stream)


@dataclass(frozen=True, slots=True)
class Row:
    """One task as the table shows it; instants are in Unix ms."""

    task: str
    queue: str
    attempts: int
    state: str
    created_at: int
    finished_at: int


def render(rows: Sequence[Row]) -> Iterator[str]:
    """Give the lines of the table, in the order of `rows`: neighbours of one name share a line."""
    cells = [_cells(list(group)) for _, group in groupby(rows, key=lambda each: each.task)]
    widths = [max(len(line[at]) for line in (COLUMNS, *cells)) for at in range(len(COLUMNS))]
    for line in (COLUMNS, ["-" * width for width in widths], *cells):
        padded = (
            text.rjust(width) if column in RIGHT else text.ljust(width)
            for text, width, column in zip(line, widths, COLUMNS, strict=True)
        )
        yield "  ".join(padded).rstrip()


def _cells(rows: Sequence[Row]) -> list[str]:
    states = Counter(each.state for each in rows)
    shown = ", ".join(state if len(states) == 1 else f"{n} {state}" for state, n in states.items())
    took_ms = max(each.finished_at for each in rows) - min(each.created_at for each in rows)
    attempts = sum(each.attempts for each in rows)
    return [rows[0].task, str(len(rows)), rows[0].queue, str(attempts), shown, f"{took_ms / 1000:.2f} s"]
