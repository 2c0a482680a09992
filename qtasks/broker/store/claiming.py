"""Leasing what is due: which messages may start now, and which it is too late to start.

Nothing here costs more when the backlog, the history or the number of queues grows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import orjson

from qtasks.broker.store import flow, queues
from qtasks.broker.store.arrivals import Arrival
from qtasks.broker.store.cancelling import expire
from qtasks.broker.store.database import Row, Session
from qtasks.broker.store.extras import unpack_extras
from qtasks.broker.store.holding import Held, Rooms, look_ahead
from qtasks.broker.store.messages import LARGE_BYTES, unpack_headers
from qtasks.broker.store.records import NOTHING, SUSPECT_AFTER, Claim, Claimed

# A queue may turn out to have nothing left; as many others are then looked at in the same claim.
CLAIM_ROUNDS = 8
QUEUES_PER_ROUND = 64


Claiming = Callable[[Session], Claimed]
"""A claim that is made once there is a session."""
Fits = Callable[[Claim], bool]
"""Says whether one more message may begin beside those that it was asked for before."""


def admit_all() -> Fits:
    """Have no limit but the number of slots."""
    return lambda claim: True


def claim(
    session: Session,
    *,
    node: str,
    app: str | None,
    slots: int,
    alone_is_free: bool,
    lease_margin_ms: int,
    now: int,
    large_bytes: int = 1 << 62,
    has_others: bool = False,
    held: Held | None = None,
    first: Sequence[int] = (),
    admit: Callable[[], Fits] = admit_all,
    arrival: Arrival | None = None,
) -> Claimed:
    """Lease up to `slots` messages to `node`, counting the attempt before it is made (promise P13).

    Takes what pause, parallelism, rate and order allow, for HTTP or for `app`. Of the messages under
    suspicion at most one is claimed at a time, and only if `alone_is_free`. Large bodies are taken
    until `large_bytes` are spent, and wait in their queues after that (promise P20). Where other nodes
    claim from the same store (`has_others`), a queue stays in line as long as it has something for them.
    Towards destinations that are `held` back no more is taken than is said there; the queues that waited
    for them and may go on have the `first` turn. What `admit` gives is asked for one message after the other,
    and the first that does not fit ends the claim. An `arrival` joins the line unless it is taken at once.
    """
    claimant = _Claimant(node, app, lease_margin_ms, has_others, now, admit())
    if arrival is not None:
        met = _meet(session, arrival, claimant, is_free=slots > 0 and held is None)
        if met is not None:
            return met
    if slots <= 0:
        return NOTHING
    outlook = _look_out(session)
    if outlook.is_due(now):
        promote(session, now)
        outlook = _look_out(session)
    if first:
        queues.freed(session, first)
    elif not outlook.has_line:
        return Claimed([], outlook.next_at, is_all=True)
    budget = _Budget(slots, alone_is_free, large_bytes, None if held is None else Rooms(held))
    claims, ended, visited = list[Claim](), list[str](), 0
    is_outdated = outlook.wake_at is not None
    for queue in _queues_to_visit(session, frozenset(first)):
        visited += 1
        if not budget.room:
            break
        visit = _visit(session, queue, claimant, budget)
        claims += visit.claims
        ended += visit.ended
        is_outdated = is_outdated or visit.wake_at is not None or bool(visit.ended)
    return Claimed(
        claims,
        (_look_out(session) if is_outdated else outlook).next_at,
        ended,
        is_all=bool(budget.room) and visited < CLAIM_ROUNDS * QUEUES_PER_ROUND and not ended,
        turned_away=() if budget.rooms is None else budget.rooms.turned_away,
    )


@dataclass(frozen=True, slots=True)
class _Claimant:
    """Who claims, and when."""

    node: str
    app: str | None
    lease_margin_ms: int
    has_others: bool
    now: int
    fits: Fits


def _meet(session: Session, arrival: Arrival, claimant: _Claimant, *, is_free: bool) -> Claimed | None:
    """Take what has just come, if nothing is before it; else it joins the line, and that is None."""
    outlook = _look_out(session)
    is_next = is_free and not outlook.has_line and not outlook.is_due(claimant.now)
    claim = _claim_arrival(session, arrival, claimant) if is_next else None
    if claim is not None:
        return Claimed([claim], outlook.next_at, is_all=True)
    queues.join_line(session, [arrival.queue.id])
    return None


def _claim_arrival(session: Session, arrival: Arrival, claimant: _Claimant) -> Claim | None:
    """Lease a message that has just come, if it may start; it goes by the line if there is more to it."""
    message, queue, now = arrival.message, arrival.queue, claimant.now
    expires_at = message.extras.expires_at
    if (
        queue.is_paused
        or message.extras.flow is not None
        or message.app not in (None, claimant.app)
        or len(message.body) > LARGE_BYTES
        or (expires_at is not None and expires_at < now)
        or queues.free_slots(session, queue) < 1
    ):
        return None
    claim = arrival.claimed(now, claimant.lease_margin_ms)
    if not claimant.fits(claim):
        return None
    _lease(session, [claim], claimant.node)
    return claim


@dataclass(frozen=True, slots=True)
class _Visit:
    """What came of one queue: its claims, the tasks that have expired, when it is to be looked at again."""

    claims: Sequence[Claim]
    ended: Sequence[str]
    wake_at: int | None


def _visit(session: Session, queue: queues.QueueRow, claimant: _Claimant, budget: _Budget) -> _Visit:
    """Take from a queue what its limits and the budget allow, and send it to its place in the line."""
    now = claimant.now
    picked = _pick(session, queue, claimant.app, budget, now)
    ended = expire(session, picked.late, now) if picked.late else ()
    has_more = picked.has_more or (claimant.has_others and _has_for_others(session, queue, claimant.app))
    is_full, wake_at = picked.is_full, picked.wake_at
    found = (_claim(session, row, queue, now, claimant.lease_margin_ms) for row in picked.rows)
    taken = list(takewhile(claimant.fits, found))
    budget.room -= len(taken)
    if len(taken) < len(picked.rows):
        has_more, is_full, wake_at, budget.room = True, False, None, 0
    _lease(session, taken, claimant.node)
    if queue.rate is not None and taken:
        flow.spend(session, queue, len(taken), now)
    if budget.rooms is not None and picked.held_by is not None:
        again_at = budget.rooms.turn_away(queue.id, picked.held_by, now)
        is_full, wake_at = True, again_at if wake_at is None else min(wake_at, again_at)
    queues.rejoin(session, queue, has_more=has_more, is_full=is_full, wake_at=wake_at)
    return _Visit(taken, ended, wake_at)


@dataclass(frozen=True, slots=True)
class _Outlook:
    """When the next message falls due and the next queue may go on, and whether any queue stands in line."""

    due_at: int | None
    wake_at: int | None
    has_line: bool

    @property
    def next_at(self) -> int | None:
        """When the first of what waits for its instant falls due."""
        return min((each for each in (self.due_at, self.wake_at) if each is not None), default=None)

    def is_due(self, now: int) -> bool:
        """Whether something that has waited for its instant may go on."""
        next_at = self.next_at
        return next_at is not None and next_at <= now


def _look_out(session: Session) -> _Outlook:
    row = session.one("claim_outlook", {})
    assert row is not None
    return _Outlook(row[0], row[1], row[2] is not None)


def promote(session: Session, now: int, count: int = 1000) -> None:
    """Make ready what has waited until its instant."""
    due = session.all("pending_due", {"now": now, "count": count})
    if due:
        session.update_many("pending_promote", [{"seq": row[0], "ordered": row[2]} for row in due])
        queues.freed(session, {row[1] for row in due})
    session.update_many("queue_wake", [{"now": now}])


def _queues_to_visit(session: Session, first: Collection[int]) -> Iterator[queues.QueueRow]:
    """Give queues in line, each once. Some turn out to have nothing left, so more than slots are given."""
    visited: set[int] = set()
    for _ in range(CLAIM_ROUNDS):
        found = queues.in_line(session, QUEUES_PER_ROUND)
        fresh = [each for each in found if each.id not in visited]
        if not fresh:
            return
        visited.update(each.id for each in fresh)
        yield from sorted(fresh, key=lambda each: each.id not in first) if first else fresh
        if len(found) < QUEUES_PER_ROUND:
            return  # that was the whole line


def _has_for_others(session: Session, queue: queues.QueueRow, app: str | None) -> bool:
    """Whether something of a queue is ready that only nodes of another app may start."""
    return session.one("claim_for_others", {"queue": queue.id, "app": app}) is not None


@dataclass(slots=True)
class _Budget:
    """What may still be taken in this claim: messages, suspects, bytes of large bodies, by destination."""

    room: int
    alone_is_free: bool
    large_bytes: int
    rooms: Rooms | None


@dataclass(frozen=True, slots=True)
class _Picked:
    """Rows of one queue to be claimed, and how the queue stands after that."""

    rows: Sequence[Row]
    has_more: bool
    is_full: bool
    wake_at: int | None = None
    """When its next window begins, if a rate holds it back."""
    late: Sequence[str] = ()
    """The ids of those that have expired."""
    held_by: str | None = None
    """The destination for whose sake others were left."""


def _pick(session: Session, queue: queues.QueueRow, app: str | None, budget: _Budget, now: int) -> _Picked:
    """Pick what the limits of a queue allow to start."""
    left = flow.left_in_window(queue, now)
    free = min(queues.free_slots(session, queue), left)
    wake_at = flow.window_of(queue, now).ends_at if left <= free else None
    count = min(budget.room, free)
    if count <= 0:
        return _Picked((), has_more=True, is_full=True, wake_at=wake_at)
    skips = not budget.alone_is_free and not queue.ordered
    query = "claim_ready_skipping_suspects" if skips else "claim_ready"
    held_by = None
    if budget.rooms is None:
        rows = session.all(query, {"queue": queue.id, "app": app, "count": count})
    else:
        ahead = look_ahead(session, queue, app, budget.rooms, count=count, skips=skips, now=now)
        held_by = ahead.held_by
        found = session.all(query, {"queue": queue.id, "app": app, "count": ahead.depth})
        rows = [row for row in found if row[SEQ] in ahead.allowed]
    late = [row[ID] for row in rows if row[EXTRAS] is not None and _is_late(row, now)]
    timely = [row for row in rows if row[ID] not in late] if late else rows
    picked = list(_affordable(timely, queue, budget))
    is_full = len(picked) == free
    has_more = len(rows) == count or skips or held_by is not None or len(picked) < len(rows)
    return _Picked(picked, has_more, is_full, wake_at if is_full else None, late, held_by)


def _is_late(row: Row, now: int) -> bool:
    expires_at = unpack_extras(row[EXTRAS]).expires_at
    return expires_at is not None and expires_at < now


def _affordable(rows: Sequence[Row], queue: queues.QueueRow, budget: _Budget) -> Iterator[Row]:
    for row in rows:
        interrupted, large = row[INTERRUPTED], row[LARGE]
        if interrupted >= SUSPECT_AFTER:
            if not budget.alone_is_free:
                if queue.ordered:
                    return  # nothing may overtake it
                continue
            budget.alone_is_free = False
        if large:
            if budget.large_bytes <= 0:
                return  # it waits, and those behind it, until others have ended
            budget.large_bytes -= large
        yield row


SEQ, INTERRUPTED, ID, EXTRAS, LARGE = 0, 3, 6, 20, 22  # columns of `claim_ready`


def _claim(session: Session, row: Row, queue: queues.QueueRow, now: int, lease_margin_ms: int) -> Claim:
    (seq, attempt, epoch, interrupted, guard_until, app, id_, task_id, queue_name, url, method, headers, body,
     created_at, max_retries, retry_delay, timeout_ms, caller_ip, result_ttl_ms, not_before, extras, source,
     large) = row  # fmt: skip
    if large:
        found = session.one("message_body", {"seq": seq})
        assert found is not None
        body = found[0]
    # In the order of its fields: giving all their names costs more than all the rest.
    return Claim(
        seq, id_, queue_name, app, url, method, unpack_headers(headers), body, created_at,
        attempt + 1,
        epoch + 1,
        now + timeout_ms + lease_margin_ms,
        max(now, created_at),
        max_retries, timeout_ms, retry_delay, task_id, result_ttl_ms, caller_ip,
        queue.id, queue.ordered,
        interrupted, guard_until, not_before, unpack_extras(extras), source,
    )  # fmt: skip


def orphaned(session: Session, node: str, lease_margin_ms: int) -> list[Claim]:
    """Give the leases of nodes that are dead: on SQLite, those of earlier lives of the broker."""
    return _leases(session, "pending_orphans", node, lease_margin_ms)


def own_leases(session: Session, node: str) -> list[Claim]:
    """Give the leases of a node as the store has them."""
    return _leases(session, "pending_own", node, 0)


def _leases(session: Session, query: str, node: str, lease_margin_ms: int) -> list[Claim]:
    claims = []
    for queue_id, ordered, started_at, *row in session.all(query, {"owner": node}):
        queue = queues.QueueRow(queue_id, "", 0, bool(ordered))
        claims.append(_claim(session, tuple(row), queue, started_at, lease_margin_ms))
    return claims


def _lease(session: Session, taken: Sequence[Claim], node: str) -> None:
    """Note whose the claims are, by a statement for all that have the same times: nearly always one."""
    alike: dict[tuple[int, int], list[int]] = {}
    for each in taken:
        alike.setdefault((each.lease_until, each.started_at), []).append(each.seq)
    rows = [
        {"owner": node, "until": until, "now": started_at, "seqs": orjson.dumps(seqs).decode()}
        for (until, started_at), seqs in alike.items()
    ]
    session.update_many("pending_lease", rows)
