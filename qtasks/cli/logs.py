"""How commands log: one line to stderr, with the facts of the record behind its message."""

from __future__ import annotations

import logging
import sys

PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class FactsFormatter(logging.Formatter):
    """Appends what a record carries in `extra` as `name=value`."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format one line."""
        facts = [f"{name}={value}" for name, value in record.__dict__.items() if name not in PLAIN]
        return " ".join([super().formatMessage(record), *facts])


def log_to_stderr(level: str) -> None:
    """Log records of `level` (such as "warning") and above."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FactsFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
