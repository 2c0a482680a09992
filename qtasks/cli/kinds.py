"""What options of commands take: spans, instants, pairs, and text that may stand in a file."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qtasks.clock import SystemClock
from qtasks.errors import InvalidValue
from qtasks.protocol.durations import parse_duration_ms

if TYPE_CHECKING:  # older versions of click have one kind only
    IntType = click.ParamType[int]
    BytesType = click.ParamType[bytes]
    PairType = click.ParamType[tuple[str, str]]
else:
    IntType = BytesType = PairType = click.ParamType

LONGEST_INSTANT = 15


class Span(IntType):
    """A span such as `10s`, `5m`, `2h` or `1d`, as milliseconds."""

    name = "SPAN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_duration_ms(value)
        except InvalidValue as error:
            self.fail(f"{error}; write 10s, 5m, 2h or 1d", param, ctx)


class Instant(IntType):
    """An instant: `2h` for so long ago, `2026-01-31`, `2026-01-31T12:00`, or Unix milliseconds."""

    name = "WHEN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if value.isdecimal() and len(value) <= LONGEST_INSTANT:
            return int(value)
        try:
            return SystemClock().now() - parse_duration_ms(value)
        except InvalidValue:
            pass
        try:
            read = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no instant; write 2h for two hours ago, or 2026-01-31T12:00", param, ctx)
        aware = read.astimezone() if read.tzinfo is None else read
        return round(aware.astimezone(UTC).timestamp() * 1000)


class Pair(PairType):
    """`NAME=VALUE`, as a pair."""

    name = "NAME=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not equals or not name.strip():
            self.fail(f"{value!r} is no pair; write name=value", param, ctx)
        return name.strip(), text


class Header(PairType):
    """`Name: value`, as a pair."""

    name = "NAME: VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, colon, text = value.partition(":")
        if not colon or not name.strip():
            self.fail(f'{value!r} is no header; write "Name: value"', param, ctx)
        return name.strip(), text.strip()


class Content(BytesType):
    """Text, `@file` for what stands in a file, or `@-` for stdin; as bytes."""

    name = "TEXT|@FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        if isinstance(value, bytes):
            return value
        if value == "@-":
            return sys.stdin.buffer.read()
        if not value.startswith("@"):
            text: str = value
            return text.encode("utf-8", "surrogateescape")
        try:
            return Path(value[1:]).read_bytes()
        except OSError as error:
            self.fail(f"{value[1:]} cannot be read: {error.strerror}", param, ctx)


SPAN, INSTANT, PAIR, HEADER, CONTENT = Span(), Instant(), Pair(), Header(), Content()
