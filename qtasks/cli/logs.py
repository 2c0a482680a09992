"""How commands log: one line to stderr, for people or for machines."""

from __future__ import annotations

import logging
import sys
from typing import Literal

from qtasks.logs import JsonFormatter, facts

LogFormat = Literal["text", "json"]


class FactsFormatter(logging.Formatter):
    """Appends what a record carries in `extra` as `name=value`."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format one line."""
        found = [f"{name}={value}" for name, value in facts(record).items()]
        return " ".join([super().formatMessage(record), *found])


def log_to_stderr(level: str, form: LogFormat = "text") -> None:
    """Log records of `level` (such as "warning") and above."""
    handler = logging.StreamHandler(sys.stderr)
    text = FactsFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler])


def json_line(logger: str, level: int, text: str) -> str:
    """Make a line of JSON of what is said to a person otherwise."""
    return JsonFormatter().format(logging.LogRecord(logger, level, "", 0, text, None, None))
