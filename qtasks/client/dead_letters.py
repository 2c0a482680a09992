"""Operations on the dead letter queue (contract 2.8).

Those on many take a page of dead letters at a time: their answers have a cursor while there are more.
"""

from __future__ import annotations

from qtasks.client.call import Call, Page, read_count, read_nothing, read_object, read_one, read_page, segment
from qtasks.client.filters import ANYTHING, Filter
from qtasks.protocol.headers import Options, render_options
from qtasks.protocol.shapes import DeadLetter, Enqueued

MOST = 100
"""Of dead letters on a page."""
AS_STORED = Options()


def dead_letters(
    wanted: Filter = ANYTHING, *, cursor: str | None = None, count: int = MOST
) -> Call[Page[DeadLetter]]:
    """Ask for a page of the dead letter queue, newest first."""
    return Call(
        "GET",
        f"/v2/dlq{wanted.query(cursor=cursor, count=count)}",
        read_page("messages", DeadLetter.from_json),
    )


def dead_letter(dlq_id: str) -> Call[DeadLetter]:
    """Ask for a dead letter."""
    return Call("GET", f"/v2/dlq/{segment(dlq_id)}", read_one(DeadLetter.from_json))


def delete_dead_letter(dlq_id: str) -> Call[None]:
    """Delete a dead letter."""
    return Call("DELETE", f"/v2/dlq/{segment(dlq_id)}", read_nothing)


def delete_dead_letters(wanted: Filter, *, cursor: str | None = None, count: int = MOST) -> Call[Page[int]]:
    """Delete a page of the dead letters that match: the page's one item says how many they were.

    Raises `InvalidValue` for an empty filter.
    """
    query = wanted.bulk_query(cursor=cursor, count=count)
    return Call("DELETE", f"/v2/dlq{query}", _read_deleted)


def replay(dlq_id: str, options: Options = AS_STORED) -> Call[Enqueued]:
    """Run a dead letter again as a new message; what `options` set goes before what is stored."""
    return Call(
        "POST", f"/v2/dlq/retry/{segment(dlq_id)}", read_one(Enqueued.from_json), render_options(options)
    )


def replay_many(
    wanted: Filter, options: Options = AS_STORED, *, cursor: str | None = None, count: int = MOST
) -> Call[Page[Enqueued]]:
    """Run a page of the dead letters that match again; raises `InvalidValue` for an empty filter."""
    return Call(
        "POST",
        f"/v2/dlq/retry{wanted.bulk_query(cursor=cursor, count=count)}",
        read_page("responses", Enqueued.from_json),
        render_options(options),
    )


def _read_deleted(body: bytes) -> Page[int]:
    cursor = read_object(body).get("cursor")
    return Page([read_count("deleted")(body)], str(cursor) if cursor else None)
