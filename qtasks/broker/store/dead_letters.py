"""Dead letters in the store: found, shown, deleted, run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from qtasks.broker.store.database import Session
from qtasks.broker.store.extras import unpack_extras
from qtasks.broker.store.filters import EVERYTHING, MessageFilter
from qtasks.broker.store.messages import enqueue, unpack_headers
from qtasks.broker.store.queues import PUBLISHED, UNLIMITED
from qtasks.broker.store.records import NewMessage
from qtasks.broker.store.views import header_map, message_view, parse_cursor
from qtasks.protocol.shapes import DeadLetter, Enqueued

NEWEST = (1 << 62, 1 << 62)  # a place before everything, newest first
PAGE_BYTES = 2 * 1024 * 1024  # a page ends early once its bodies are this large together (promise P20)
BULKS = 50  # pages read for one answer at most, when a filter matches little

Place = tuple[int, int]
"""When a message died and its sequence number: what a DLQ id spells."""


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters are meant; `ids` go before the rest."""

    messages: MessageFilter = EVERYTHING
    statuses: frozenset[int] | None = None
    ids: tuple[str, ...] | None = None

    def matches(self, letter: DeadLetter, died_at: int) -> bool:
        """Say whether a dead letter is meant."""
        if self.statuses is not None and letter.response_status not in self.statuses:
            return False
        return self.messages.matches(letter.message, died_at)


EVERY_LETTER = DeadLetterFilter()


def find_many(
    session: Session, wanted: DeadLetterFilter, before: Place | None, count: int
) -> tuple[list[DeadLetter], str | None]:
    """List dead letters, newest first; also give the cursor of the next page, None at the end."""
    if wanted.ids is not None:
        places = dict.fromkeys(parse_cursor(each) for each in wanted.ids)
        letters = [find_one(session, place) for place in places if place is not None]
        return [each for each in letters if each is not None], None
    found: list[DeadLetter] = []
    size = 0
    at, seq = before or NEWEST
    for _ in range(BULKS):
        rows = session.all("dead_letter_page", {"before_at": at, "before_seq": seq, "count": count + 1})
        for row in rows[:count]:
            if len(found) == count or size >= PAGE_BYTES:
                return found, f"{at}-{seq}"
            seq, at = row[0], row[1]
            letter = _letter(session, row)
            if wanted.matches(letter, at):
                found.append(letter)
                size += len(letter.message.body) + len(letter.response_body)
        if len(rows) <= count:
            return found, None
    return found, f"{at}-{seq}"


def find_one(session: Session, place: Place) -> DeadLetter | None:
    """Give one dead letter."""
    row = session.one("dead_letter_find", {"message": place[1], "died_at": place[0]})
    return None if row is None else _letter(session, row)


def _letter(session: Session, row: Sequence[Any]) -> DeadLetter:
    seq, died_at, _, status, error, headers, body = row
    content = session.one("log_message", {"seq": seq})
    assert content is not None  # pruning keeps the content of dead letters
    if body is None:
        large = session.one("dead_letter_body", {"message": seq})
        body = large[0] if large else b""
    return DeadLetter(
        dlq_id=f"{died_at}-{seq}",
        message=message_view(content),
        response_status=status,
        response_header=header_map(headers),
        response_body=body,
        error=error,
    )


def delete_many(session: Session, letters: Sequence[DeadLetter]) -> int:
    """Delete dead letters that were just found; say how many."""
    places = [parse_cursor(each.dlq_id) for each in letters]
    session.delete_many("dead_letter_delete", [{"message": place[1]} for place in places if place])
    return len(letters)


def original(session: Session, letter: DeadLetter) -> NewMessage:
    """Give the message of a dead letter as it was accepted, nothing of it hidden."""
    place = parse_cursor(letter.dlq_id)
    row = place and session.one("message_to_replay", {"seq": place[1]})
    assert row is not None  # it was found in this transaction
    (id_, task_id, queue, url, method, headers, body, created_at, max_retries, retry_delay, timeout_ms,
     labels, caller_ip, result_ttl_ms, extras) = row  # fmt: skip
    return NewMessage(
        id=id_,
        queue=queue or PUBLISHED,
        parallelism=1 if queue else UNLIMITED,
        ordered=bool(queue),
        url=url,
        method=method,
        headers=unpack_headers(headers),
        body=body,
        created_at=created_at,
        start_at=None,
        max_retries=max_retries,
        timeout_ms=timeout_ms,
        retry_delay=retry_delay,
        labels=tuple(orjson.loads(labels) if labels else ()),
        task_id=task_id,
        result_ttl_ms=result_ttl_ms,
        caller_ip=caller_ip,
        extras=unpack_extras(extras),
    )


def replay(session: Session, letter: DeadLetter, message: NewMessage) -> Enqueued:
    """Store the message that a dead letter becomes; the dead letter is gone then (contract 1.3)."""
    delete_many(session, [letter])
    if message.task_id is not None:
        session.run("result_forget", {"task_id": message.task_id})  # its failure is not the last word now
    return enqueue(session, [message], message.created_at)[0]
