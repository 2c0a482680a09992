"""Makes text of values, for people: tables, lists of facts, ages. Pure; printing is `output`'s.

Whatever comes from a broker may have been chosen by a stranger, so control characters are written out
and never reach the terminal.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

GAP = "  "
INSTANTS = ("time", "not_before", "next_delivery_time", "last_schedule_time", "next_schedule_time")
UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"))
SHORTEST = 8
"""To which a cell is cut off at most."""


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A column: its title, and the text of an item's cell. Numbers stand to the right."""

    title: str
    cell: Callable[[T], object]
    is_number: bool = False
    is_whole: bool = False
    """Whether it is never cut off: what a person copies."""
    tone: Callable[[T], str | None] | None = None
    """The colour of an item's cell, on a terminal."""


def clean(value: object) -> str:
    """Write a value on one line, control characters as escapes, None as a dash."""
    text = "-" if value is None or value == "" else str(value)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(each) for each in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()


def width_of(text: str) -> int:
    """Say how many places a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1
        for each in text
    )


def cut(text: str, width: int) -> str:
    """Cut a text off so that it takes at most so many places."""
    if width_of(text) <= width:
        return text
    kept = text
    while kept and width_of(kept) > width - 1:
        kept = kept[:-1]
    return f"{kept}…"


def table(
    items: Sequence[T],
    columns: Sequence[Column[T]],
    *,
    width: int | None = None,
    paint: Callable[[str, str], str] | None = None,
) -> list[str]:
    """Lay items out in aligned columns below their titles; gives the lines.

    Within `width` the widest columns give way, as far as they may be cut off. `paint` is given a text and
    its colour, "bold" for titles.
    """
    cells = [[clean(each.cell(item)) for each in columns] for item in items]
    widths = [
        max([width_of(each.title), *(width_of(row[at]) for row in cells)]) for at, each in enumerate(columns)
    ]
    if width is not None:
        widths = _narrowed(widths, columns, width - len(GAP) * (len(widths) - 1))
    tones: list[list[str | None]] = [["bold"] * len(columns)]
    tones += [[each.tone(item) if each.tone else None for each in columns] for item in items]
    rows = [[each.title for each in columns], *cells]
    return [
        _line(row, widths, columns, tone if paint else None, paint)
        for row, tone in zip(rows, tones, strict=True)
    ]


def _narrowed(widths: Sequence[int], columns: Sequence[Column[Any]], room: int) -> list[int]:
    """Take from the widest column, place by place, until all fit or none can give more."""
    narrowed = list(widths)
    while sum(narrowed) > room:
        cuttable = [at for at, each in enumerate(columns) if not each.is_whole and narrowed[at] > SHORTEST]
        if not cuttable:
            break
        narrowed[max(cuttable, key=lambda at: narrowed[at])] -= 1
    return narrowed


def _line(
    row: Sequence[str],
    widths: Sequence[int],
    columns: Sequence[Column[Any]],
    tones: Sequence[str | None] | None,
    paint: Callable[[str, str], str] | None,
) -> str:
    parts = []
    for at, (text, width, column) in enumerate(zip(row, widths, columns, strict=True)):
        shown = cut(text, width)
        space = " " * (width - width_of(shown))
        tone = tones[at] if tones else None
        painted = paint(shown, tone) if paint and tone else shown
        parts.append(f"{space}{painted}" if column.is_number else f"{painted}{space}")
    return GAP.join(parts).rstrip()


def facts(value: DataclassInstance, names: Sequence[str] = ()) -> list[tuple[str, str]]:
    """List what a view says, as labels and texts; what is empty is left out.

    Units go by the names of fields. With `names`, just these fields.
    """
    found: list[tuple[str, str]] = []
    for each in fields(value):
        content = getattr(value, each.name)
        if (names and each.name not in names) or content is None or content in ((), {}, b"", ""):
            continue
        found.append(_fact(each.name, content))
    return found


def _fact(name: str, content: object) -> tuple[str, str]:
    if isinstance(content, bool):
        return name.removeprefix("is_").replace("_", " "), "yes" if content else "no"
    if isinstance(content, int) and (name.endswith("_at") or name in INSTANTS):
        return name.removesuffix("_at").replace("_", " "), instant(content)
    if isinstance(content, int) and name.endswith("_ms"):
        return name.removesuffix("_ms").replace("_", " "), span(content)
    if isinstance(content, int) and name.endswith("_s"):
        return name.removesuffix("_s").replace("_", " "), span(content * 1000)
    label = name.replace("_", " ")
    if isinstance(content, bytes):
        return label, body_text(content)
    if isinstance(content, Mapping):
        return label, "\n".join(f"{clean(key)}: {clean(_joined(each))}" for key, each in content.items())
    return label, clean(_joined(content))


def _joined(content: object) -> object:
    return ", ".join(str(each) for each in content) if isinstance(content, tuple) else content


def record(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Lay facts out, one to a line, those of several lines indented below each other."""
    width = max((width_of(label) for label, _ in pairs), default=0)
    lines = []
    for label, text in pairs:
        first, *rest = text.split("\n")
        lines.append(f"{label}{' ' * (width - width_of(label))}{GAP}{first}".rstrip())
        lines.extend(f"{' ' * width}{GAP}{each}".rstrip() for each in rest)
    return lines


def body_text(body: bytes) -> str:
    """Show a body as text, or how long it is where it is none."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return f"<{len(body)} bytes>"
    return "\n".join("" if not each else clean(each) for each in text.replace("\r\n", "\n").split("\n"))


def instant(at: int) -> str:
    """Write Unix milliseconds as an instant in UTC."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def recent(at: int, now: int) -> str:
    """Write an instant in UTC: of today by its time alone."""
    full = instant(at)
    day, _, clock = full.partition(" ")
    return clock if instant(now).startswith(day) else full


def span(ms: int) -> str:
    """Write a span in its largest unit, as commands take it where that is exact.

    >>> span(90_000), span(7_200_000), span(250)
    ('90s', '2h', '250ms')
    """
    for size, unit in UNITS:
        if ms and ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms" if ms < 1000 else f"{ms / 1000:g}s"


def age(at: int | None, now: int) -> str | None:
    """Say how long ago an instant was, roughly: `3m`; `in 3m` if it is to come."""
    if at is None:
        return None
    away = abs(now - at)
    for size, unit in UNITS:
        if away >= size:
            return f"in {away // size}{unit}" if at > now else f"{away // size}{unit}"
    return "now"
