"""Flow-control keys in the store (contract 1.6): a key is a queue of its own, with a rate.

The rate counts starts in fixed windows. Windows begin at whole seconds, as the API shows them, so that
in no window that anybody can see are there more starts than allowed (promise P10).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntFlag

from qtasks.broker.store import queues
from qtasks.broker.store.database import Row, Session
from qtasks.broker.store.queues import UNLIMITED, Kind, QueueRow
from qtasks.protocol.flow import FlowSpec
from qtasks.protocol.resources import FlowControlView

PREFIX = "flow:"  # no name of a queue has a colon
SECOND_MS = 1000
APART_MS = 10_000
"""How far the clocks of nodes that share a store may be apart; rates hold over all nodes up to that."""
TOUCH_MS = 3_600_000  # how exactly it is known when a key was last used


class Pins(IntFlag):
    """Which limits of a key are fixed, whatever later messages say."""

    NONE = 0
    PARALLELISM = 1
    RATE = 2


@dataclass(frozen=True, slots=True)
class Window:
    """The window that an instant falls into: from `at` until before `ends_at`, with `count` starts in it."""

    at: int
    ends_at: int
    count: int


def window_of(queue: QueueRow, now: int) -> Window:
    """Give the window of a rate at an instant; the last one while it lasts, else a new one.

    A clock that was set back a little, or is behind that of another node, stays in the window; one set
    back further begins anew, as waiting for it to catch up could take days (promise P16).
    """
    behind_ms = max(queue.period_ms, APART_MS)
    lasts = queue.window_at - behind_ms <= now < queue.window_at + queue.period_ms
    at, count = (queue.window_at, queue.window_count) if lasts else (now - now % SECOND_MS, 0)
    return Window(at, at + queue.period_ms, count)


def left_in_window(queue: QueueRow, now: int) -> int:
    """Say how many more messages of the queue may start in its window."""
    if queue.rate is None:
        return UNLIMITED
    return max(0, queue.rate - window_of(queue, now).count)


def spend(session: Session, queue: QueueRow, count: int, now: int) -> None:
    """Count starts in the window."""
    window = window_of(queue, now)
    row = {"id": queue.id, "window_at": window.at, "count": window.count + count}
    session.update_many("queue_spend", [row])


def configure(session: Session, spec: FlowSpec, now: int) -> QueueRow:
    """Give the queue of a key, with the limits of its newest message unless they are pinned."""
    row = _find(session, spec.key)
    if row is None:
        row = _create(session, spec.key, now)
    id_, pins, parallelism, rate, period_ms, used_at = row
    wanted_parallelism = parallelism if pins & Pins.PARALLELISM else spec.parallelism or UNLIMITED
    wanted_rate = (rate, period_ms) if pins & Pins.RATE else (spec.rate, spec.period_ms)
    if (parallelism, (rate, period_ms)) != (wanted_parallelism, wanted_rate):
        _change(session, id_, wanted_parallelism, *wanted_rate, pins=pins, now=now)
    elif now - used_at >= TOUCH_MS:
        session.run("flow_touch", {"id": id_, "now": now})
    found = session.one("queue_find", {"name": PREFIX + spec.key})
    assert found is not None
    return queues.queue_row(found)


def _find(session: Session, key: str) -> Row | None:
    return session.one("flow_find", {"name": PREFIX + key})


def _create(session: Session, key: str, now: int) -> Row:
    session.run(
        "flow_insert", {"name": PREFIX + key, "kind": Kind.FLOW.value, "unlimited": UNLIMITED, "now": now}
    )
    row = _find(session, key)
    assert row is not None
    return row


def _change(
    session: Session, id_: int, parallelism: int, rate: int | None, period_ms: int, *, pins: int, now: int
) -> None:
    limits = {"parallelism": parallelism, "rate": rate, "period_ms": period_ms, "pins": int(pins)}
    session.run("flow_update", {"id": id_, **limits, "now": now})
    session.announce()


def set_paused(session: Session, key: str, paused: bool, now: int) -> None:
    """Start nothing more of a key, or go on; an unknown key is made (contract 2.10)."""
    if _find(session, key) is None:
        _create(session, key, now)
    queues.set_paused(session, PREFIX + key, paused, now)


def pin(
    session: Session, key: str, parallelism: int | None, rate: int | None, period_ms: int, now: int
) -> None:
    """Fix the limits that are given. A pinned rate begins a new window."""
    id_, pins, old_parallelism, old_rate, old_period_ms, _ = _find(session, key) or _create(session, key, now)
    if parallelism is not None:
        pins |= Pins.PARALLELISM
    if rate is not None:
        pins |= Pins.RATE
        session.run("queue_spend", {"id": id_, "window_at": _second(now), "count": 0})
    else:
        rate, period_ms = old_rate, old_period_ms
    _change(session, id_, parallelism or old_parallelism, rate, period_ms, pins=pins, now=now)


def unpin(session: Session, key: str, released: Pins, now: int) -> bool:
    """Let the next message decide these limits again; until then they stay. False for an unknown key."""
    row = _find(session, key)
    if row is None:
        return False
    id_, pins, parallelism, rate, period_ms, _ = row
    _change(session, id_, parallelism, rate, period_ms, pins=pins & ~released, now=now)
    return True


def reset_rate(session: Session, key: str, now: int) -> bool:
    """Begin a new window, with nothing spent; False for an unknown key."""
    row = _find(session, key)
    if row is None:
        return False
    session.run("queue_spend", {"id": row[0], "window_at": _second(now), "count": 0})
    queues.freed(session, {row[0]})
    session.announce()
    return True


def _second(now: int) -> int:
    return now - now % SECOND_MS


def views(session: Session, now: int, *, key: str | None = None, search: str = "") -> list[FlowControlView]:
    """List the keys that contain `search`, by name, or the one that is `key`."""
    name = None if key is None else PREFIX + key
    rows: Iterable[Row] = session.all("flow_list", {"name": name, "search": search, "from": len(PREFIX) + 1})
    return [_view(row, now) for row in rows]


def _view(row: Row, now: int) -> FlowControlView:
    name, parallelism, rate, period_ms, window_at, window_count, pins, paused, waiting, active = row
    queue = QueueRow(0, name, parallelism, False, rate=rate, period_ms=period_ms, window_at=window_at,
                     window_count=window_count)  # fmt: skip
    window = window_of(queue, now)
    # Between windows the last one is shown until the next start begins another.
    shown = window if window.at == window_at else Window(window_at, window_at + period_ms, 0)
    return FlowControlView(
        key=name.removeprefix(PREFIX),
        wait_list_size=waiting,
        parallelism_max=0 if parallelism >= UNLIMITED else parallelism,
        parallelism_count=active,
        rate_max=rate or 0,
        rate_count=shown.count if rate else 0,
        rate_period_s=period_ms // SECOND_MS,
        rate_period_start_s=shown.at // SECOND_MS,
        is_pinned_parallelism=bool(pins & Pins.PARALLELISM),
        is_pinned_rate=bool(pins & Pins.RATE),
        is_paused=bool(paused),
    )


def prune(session: Session, *, after: int, before: int, count: int) -> int | None:
    """Forget keys without messages that nobody has used, paused or pinned since `before`; looks at `count`.

    Goes on behind the id `after`; gives the id to go on from, or None at the end.
    """
    rows = session.all("flow_prune_candidates", {"after": after, "before": before, "count": count})
    session.delete_many("queue_delete", [{"id": id_} for id_, is_idle in rows if is_idle])
    return rows[-1][0] if len(rows) == count else None
