"""The values of single `Upstash-*` and `Qtasks-*` headers: one reader, and where needed a writer, each.

A reader gets a trimmed, non-empty text and raises `InvalidValue`, which does not name the header.
Which header uses which of them is the table's in `headers`.
"""

from __future__ import annotations

import re

from qtasks.errors import BadRequest, InvalidValue
from qtasks.protocol.destinations import check_queue_name
from qtasks.protocol.durations import parse_duration_ms
from qtasks.protocol.expression import parse_expression
from qtasks.protocol.text import quoted

UNIQUE = ("started", "finished")
CATCH_UP = ("latest", "all", "none")
OVERLAP = ("allow", "skip")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
MAX_LABEL_BYTES = 256
MAX_KIND_BYTES = 128
# An index entry of PostgreSQL holds less than 2,704 bytes, and this id stands in one.
MAX_DEDUP_ID_BYTES = 1024

# As seconds still below 2^63 milliseconds, and exact in a client's double.
MOST_IN_BATCH = 1000
_MOST_DIGITS = 15
_DIGITS = re.compile("[0-9]+")
_ID = re.compile("[A-Za-z0-9._-]{1,128}")


def read_count(text: str) -> int:
    """Read an integer of at least 0."""
    if not _DIGITS.fullmatch(text):
        raise InvalidValue(f"must be an integer of at least 0, not {quoted(text)}")
    if len(text) > _MOST_DIGITS:
        raise InvalidValue(f"must have at most {_MOST_DIGITS} digits, unlike {quoted(text)}")
    return int(text)


def read_batch(text: str) -> int:
    """Read how many messages a destination takes in one request."""
    count = read_count(text)
    if not 1 <= count <= MOST_IN_BATCH:
        raise InvalidValue(f"must be from 1 to {MOST_IN_BATCH}, not {quoted(text)}")
    return count


def read_kind(text: str) -> str:
    """Check the name of a kind of work, which is any text that can be shown on one line."""
    if not text.isprintable():
        raise InvalidValue(f"{quoted(text)} has characters that cannot be printed")
    if len(text.encode()) > MAX_KIND_BYTES:
        raise InvalidValue(f"must be at most {MAX_KIND_BYTES} bytes long, unlike {quoted(text)}")
    return text


def read_seconds(text: str) -> int:
    """Read whole seconds as milliseconds."""
    return read_count(text) * 1000


def write_seconds(ms: int) -> str:
    """Write milliseconds as whole seconds, upwards: never earlier or shorter than asked for."""
    return str(-(-ms // 1000))


def read_flag(text: str) -> bool:
    """Read true or false in any case: the Python SDK sends `True` (contract 3.9)."""
    if text.lower() not in ("true", "false"):
        raise InvalidValue(f"must be true or false, not {quoted(text)}")
    return text.lower() == "true"


def write_flag(flag: bool) -> str:
    """Write true or false."""
    return "true" if flag else "false"


def read_method(text: str) -> str:
    """Read an HTTP method in any case (contract 3.4)."""
    if text.upper() not in METHODS:
        raise InvalidValue(f"must be one of {', '.join(METHODS)}, not {quoted(text)}")
    return text.upper()


def read_timeout(text: str) -> int:
    """Read a duration above 0, as milliseconds."""
    ms = parse_duration_ms(text)
    if ms == 0:
        raise InvalidValue("must be longer than 0, or no attempt could succeed")
    return ms


def read_retry_delay(text: str) -> str:
    """Check an expression, and give it verbatim (contract 3.3)."""
    return parse_expression(text).text


def read_labels(text: str) -> tuple[str, ...]:
    """Split at commas, trim, drop empty ones and repeats, keep the order (contract 3.7)."""
    labels = tuple(dict.fromkeys(each.strip() for each in text.split(",") if each.strip()))
    for each in labels:
        if not each.isprintable():
            raise InvalidValue(f"{quoted(each)} has characters that cannot be printed")
        if len(each.encode()) > MAX_LABEL_BYTES:
            raise InvalidValue(f"{quoted(each)} is longer than {MAX_LABEL_BYTES} bytes")
    return labels


def read_dedup_id(text: str) -> str:
    """Check a deduplication id (contract 3.9).

    Raises `BadRequest` for a colon: the text of that refusal is QStash's, and names no header.
    """
    if ":" in text:
        raise BadRequest("DeduplicationId cannot contain ':'")
    if len(text.encode()) > MAX_DEDUP_ID_BYTES:
        raise InvalidValue(f"must be at most {MAX_DEDUP_ID_BYTES} bytes long")
    return text


def read_task_id(text: str) -> str:
    """Check a task id: it must fit into a deduplication id and the path of a URL."""
    return _checked_id(text)


def read_schedule_id(text: str) -> str:
    """Check the id of a schedule (contract 2.7), which is a segment of a path."""
    return _checked_id(text)


def read_queue_name(text: str) -> str:
    """Check the name of a queue; raises `BadRequest`, with the text that queues have elsewhere."""
    check_queue_name(text)
    return text


def read_catch_up(text: str) -> str:
    """Read what a schedule does about fires that were missed."""
    return _choice(text, CATCH_UP)


def read_overlap(text: str) -> str:
    """Read what a schedule does at a fire while the messages of the fire before have not finished."""
    return _choice(text, OVERLAP)


def _choice(text: str, choices: tuple[str, ...]) -> str:
    if text.lower() not in choices:
        raise InvalidValue(f"must be one of {', '.join(choices)}, not {quoted(text)}")
    return text.lower()


def read_unique(text: str) -> str:
    """Read how long a deduplication id holds where it does so without a window."""
    if text.lower() not in UNIQUE:
        raise InvalidValue(f"must be {' or '.join(UNIQUE)}, not {quoted(text)}")
    return text.lower()


def _checked_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise InvalidValue(f'must be 1 to 128 letters, digits, ".", "_" or "-", not {quoted(text)}')
    return text
