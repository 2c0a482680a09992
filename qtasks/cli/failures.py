"""What an error means to a person at a shell: a text that says how to mend it, and an exit code. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from qtasks.cli import exits
from qtasks.errors import (
    ArgumentsError,
    BrokerUnavailable,
    BrokerUnreachable,
    ConfigurationError,
    EncodeError,
    Forbidden,
    InvalidValue,
    MethodNotAllowed,
    NotFound,
    QTasksError,
    ResultTimeout,
    StoreUnreachable,
    TooManyRequests,
    Unauthorized,
)

LISTED = ("queues", "dlq", "schedules", "groups", "flow", "tokens")
NO_OPERATION = "no such operation"


@dataclass(frozen=True, slots=True)
class Failure:
    """What to say of an error, and what to exit with."""

    text: str
    code: int


def explained(error: QTasksError, group: str | None) -> Failure:
    """Say what became of a command of a group, and which command or setting mends it."""
    text = str(error)
    if isinstance(error, MethodNotAllowed) or (isinstance(error, NotFound) and NO_OPERATION in text):
        return Failure(
            f"this broker cannot do that ({text}): it is hosted QStash, strict, or of an older version",
            exits.FAILED,
        )
    if isinstance(error, NotFound):
        return Failure(f"{text}{_listing(group)}", exits.NOT_FOUND)
    if isinstance(error, Unauthorized):
        return Failure(
            f"{text}; set QTASKS_TOKEN to a token of this broker: its own stands in the file of keys beside "
            "its database, and with that `qtasks tokens new NAME` makes others",
            exits.AUTH,
        )
    if isinstance(error, Forbidden):
        return Failure(f"{text}; make one that may: qtasks tokens new NAME --scope full", exits.AUTH)
    if isinstance(error, BrokerUnreachable | StoreUnreachable):
        return Failure(text, exits.UNREACHABLE)
    if isinstance(error, BrokerUnavailable):
        again = f"in {error.retry_after:g} s" if error.retry_after else "later"
        return Failure(f"{text}; try again {again}", exits.UNREACHABLE)
    if isinstance(error, TooManyRequests):
        return Failure(f"{text}; try again in a second, or with a smaller --rate", exits.FAILED)
    if isinstance(error, ResultTimeout):
        return Failure(f"{text}; it goes on: qtasks tasks show TASK_ID", exits.FAILED)
    if isinstance(error, ConfigurationError | InvalidValue | ArgumentsError | EncodeError):
        return Failure(text, exits.USAGE)
    return Failure(text, exits.FAILED)


def _listing(group: str | None) -> str:
    return f"; what there is: qtasks {group} ls" if group in LISTED else ""
