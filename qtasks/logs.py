"""Writes log records for machines: one JSON object a line. For `qtasks broker`, and for apps that want it."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import orjson

PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""What every record has; the rest are the facts that its caller gave in `extra`."""


class JsonFormatter(logging.Formatter):
    """Makes one line of JSON of a record: `time`, `level`, `logger`, `message`, then its facts.

    A traceback is `exception`. A fact cannot take the place of what every line has.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format one line."""
        line: dict[str, object] = {
            "time": instant(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        for name, value in facts(record).items():
            line.setdefault(name, value)
        try:
            return _written(line)
        except TypeError:  # something in it is no JSON: say that as text, and the rest as it is
            return _written({name: _sayable(value) for name, value in line.items()})


def _written(value: object) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _sayable(value: object) -> object:
    try:
        _written(value)
    except TypeError:
        return str(value).encode("utf-8", "replace").decode()
    return value


def facts(record: logging.LogRecord) -> dict[str, object]:
    """Give what a record carries in `extra`."""
    return {name: value for name, value in record.__dict__.items() if name not in PLAIN}


def instant(seconds: float) -> str:
    """Write an instant in UTC, to the millisecond.

    >>> instant(1_700_000_000.1234)
    '2023-11-14T22:13:20.123Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
