"""Recording what became of claims: one transaction for a batch, fenced by the lease epoch.

The end of a message, its log row, its result, its dead letter and the slot it frees commit together
(promise P14).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import orjson

from qtasks.broker.store import queues
from qtasks.broker.store.claiming import orphaned, own_leases
from qtasks.broker.store.database import Session
from qtasks.broker.store.messages import enqueue, pack_headers
from qtasks.broker.store.records import (
    Again,
    Cancelled,
    Claim,
    Dead,
    Delivered,
    Lease,
    LogKind,
    NewMessage,
    Reply,
    Settlement,
    Stage,
    Verdict,
)
from qtasks.broker.store.results import error_document

CONTINUED = "qtasks-continued"
"""A task that goes on in another message, under the same id, has come to no result yet."""
INTERRUPTED = "interrupted: the broker stopped before the reply was known"
KINDS = {Delivered: LogKind.DELIVERED, Dead: LogKind.FAILED, Cancelled: LogKind.ENDED_CANCELLED}
STATES = {Delivered: "SUCCEEDED", Dead: "FAILED", Cancelled: "CANCELLED"}


def settle(session: Session, settlements: Sequence[Settlement]) -> list[Settlement]:
    """Record verdicts; give those that took effect, without those whose lease was lost (promise P08).

    A message that was called off meanwhile gets no further attempt: its verdict comes back as
    `Cancelled`.
    """
    freed: set[int] = set()
    moves = _Moves(session, [each.claim.seq for each in settlements])
    recorded = [
        each for each in (_moved(session, one, moves, freed) for one in settlements) if each is not None
    ]
    moves.make(session)
    session.insert_many("log_insert", [_log_row(each) for each in recorded])
    dead = [_dead_letter(each) for each in recorded if isinstance(each.verdict, Dead)]
    session.insert_many("dead_letter_insert", dead)
    results = {each.claim.task_id: _result(each) for each in recorded if _has_result(each)}
    session.insert_many("result_insert", [*results.values()])
    _tell_others(session, recorded)
    queues.freed(session, freed | {each.claim.queue_id for each in recorded})
    return recorded


def _tell_others(session: Session, recorded: Sequence[Settlement]) -> None:
    """Store the callbacks; those of a message that has finished in a queue keep its slot (contract 1.5)."""
    for each in recorded:
        callbacks = [
            one
            for one in each.callbacks
            if not (one.is_failure_callback and isinstance(each.verdict, Cancelled))
        ]
        if callbacks:
            enqueue(session, callbacks, each.ended_at)
        claim = each.claim
        if claim.queue and claim.extras.has_callbacks and not isinstance(each.verdict, Again):
            session.update_many("pending_keep_slot", [{"source": claim.seq, "queue": claim.queue_id}])


class _Moves:
    """Where the messages of a batch stand, and where they go: read by one statement, and moved by two."""

    def __init__(self, session: Session, seqs: Sequence[int]) -> None:
        rows = session.all("pending_standing", {"seqs": orjson.dumps(seqs).decode()})
        self._standing = {row[0]: row[1:] for row in rows}
        self._done: list[int] = []
        self._again: list[dict[str, Any]] = []

    def lease(self, claim: Claim) -> tuple[int | None, int] | None:
        """Give when its message was called off and in which queue it is now; None if the lease was lost."""
        row = self._standing.get(claim.seq)
        return None if row is None or row[1] != claim.lease_epoch else (row[2], row[3])

    def is_active(self, claim: Claim) -> bool:
        """Whether this very attempt is the one under way."""
        row = self._standing.get(claim.seq)
        return row is not None and row[0] == Stage.ACTIVE and row[1] == claim.lease_epoch

    def is_idle(self, claim: Claim) -> bool:
        """Whether the message waits, and no attempt is under way."""
        row = self._standing.get(claim.seq)
        return row is not None and row[0] != Stage.ACTIVE

    def finish(self, claim: Claim) -> None:
        """Have its row removed."""
        del self._standing[claim.seq]
        self._done.append(claim.seq)

    def repeat(self, claim: Claim, changes: dict[str, Any]) -> None:
        """Have its row wait for another attempt."""
        _, epoch, *rest = self._standing[claim.seq]
        self._standing[claim.seq] = (changes["state"], epoch, *rest)
        self._again.append({"seq": claim.seq, **changes})

    def make(self, session: Session) -> None:
        """Make all moves."""
        if self._done:
            session.delete_many("pending_finish", [{"seqs": orjson.dumps(self._done).decode()}])
        session.update_many("pending_again", self._again)


def _moved(session: Session, settlement: Settlement, moves: _Moves, freed: set[int]) -> Settlement | None:
    """Note how the pending row moves on; give what took effect, None if the lease was lost.

    The lease epoch is the fence: whoever lost the lease changes nothing (promise P08), but a late success
    completes a message of which no newer attempt runs. A callback that ends gives back the slot that it
    kept: its queue is added to `freed`.
    """
    claim, verdict = settlement.claim, settlement.verdict
    if claim.source is not None:
        slot = session.one("pending_slot", {"seq": claim.seq})
        freed.update(slot[:1] if slot and slot[0] is not None else ())
    lease = moves.lease(claim)
    if lease is not None:
        cancel_at, queue = lease
        if queue != claim.queue_id:  # its queue was dropped meanwhile
            settlement = replace(settlement, claim=replace(claim, queue=None, queue_id=queue))
        if cancel_at is not None:
            called_off = not isinstance(verdict, Delivered)
            settlement = replace(
                settlement, verdict=Cancelled() if called_off else verdict, cancel_at=cancel_at
            )
            verdict = settlement.verdict
    if isinstance(verdict, Again):
        if not moves.is_active(claim):
            return None
        moves.repeat(claim, _next_attempt(claim, verdict))
    elif moves.is_active(claim) or (isinstance(verdict, Delivered) and moves.is_idle(claim)):
        moves.finish(claim)
    else:
        return None
    return settlement


def _next_attempt(claim: Claim, verdict: Again) -> dict[str, Any]:
    """Where a message waits for its next attempt; in an ordered queue it keeps its place."""
    waiting = Stage.HELD if claim.ordered else Stage.WAITING
    stage = Stage.READY if verdict.at is None else waiting
    due_at = verdict.at if verdict.at is not None else (0 if claim.ordered else claim.created_at)
    return {
        "state": stage.value,
        "due_at": due_at,
        "attempt": claim.attempt if verdict.counted else claim.attempt - 1,
        "interrupted": _interruptions(claim, verdict),
        "guard_until": _guard(claim, verdict),
    }


def _interruptions(claim: Claim, verdict: Again) -> int:
    """Count on; a counted reply means that the app lives, and ends the suspicion."""
    if verdict.interrupted:
        return claim.interrupted + 1
    return 0 if verdict.counted else claim.interrupted


def _guard(claim: Claim, verdict: Again) -> int | None:
    """Until when an earlier attempt may still run in the app, unknown to this broker."""
    if verdict.interrupted:
        return claim.lease_until
    return None if verdict.counted else claim.guard_until or claim.lease_until


def _log_row(settlement: Settlement) -> dict[str, Any]:
    claim, reply, verdict = settlement.claim, settlement.reply, settlement.verdict
    delivered = isinstance(verdict, Delivered)
    return {
        "message": claim.seq,
        "epoch": claim.lease_epoch,
        "kind": _kind(verdict).value,
        "started_at": claim.started_at,
        "ended_at": settlement.ended_at,
        "next_at": (verdict.at or settlement.ended_at) if isinstance(verdict, Again) else None,
        "cancel_at": settlement.cancel_at,
        "status": reply.status,
        "error": reply.error,
        "headers": None if delivered else pack_headers(reply.headers),
        "body": None if delivered else reply.body,
    }


def _kind(verdict: Verdict) -> LogKind:
    if isinstance(verdict, Again):
        return LogKind.RETRY if verdict.counted else LogKind.RETURNED
    return KINDS[type(verdict)]


def _dead_letter(settlement: Settlement) -> dict[str, Any]:
    claim, reply = settlement.claim, settlement.reply
    return {
        "message": claim.seq,
        "died_at": settlement.ended_at,
        "attempts": claim.attempt,
        "status": reply.status,
        "error": reply.error,
        "headers": pack_headers(reply.headers),
        "body": reply.body,
    }


def _has_result(settlement: Settlement) -> bool:
    claim = settlement.claim
    if not claim.task_id or not claim.result_ttl_ms or isinstance(settlement.verdict, Again):
        return False
    return not any(name.lower() == CONTINUED for name, _ in settlement.reply.headers)


def _result(settlement: Settlement) -> dict[str, Any]:
    claim, reply, ended_at = settlement.claim, settlement.reply, settlement.ended_at
    succeeded = isinstance(settlement.verdict, Delivered)
    # It is put into answers as it is, so it must be JSON; a destination may have answered anything.
    keeps_value = succeeded and not reply.truncated and _is_json(reply.body)
    return {
        "task_id": claim.task_id,
        "state": STATES[type(settlement.verdict)],
        "value": reply.body if keeps_value else None,
        "error": None if succeeded else error_document(reply),
        "attempts": claim.attempt,
        "created_at": claim.created_at,
        "finished_at": ended_at,
        "expires_at": ended_at + (claim.result_ttl_ms or 0),
    }


def _is_json(body: bytes) -> bool:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True


def recover(
    session: Session,
    *,
    node: str,
    lease_margin_ms: int,
    now: int,
    callbacks: Callable[[Settlement], Sequence[NewMessage]] = lambda settlement: (),
) -> int:
    """Put back in play what earlier lives of this broker had in flight; say how many (promise P07).

    Their attempts stay counted. Those without a further attempt go to the dead letter queue, so a
    task that kills its process is bounded (promise P13). What was in flight at crash
    after crash then runs one at a time. `callbacks` makes the messages that tell others of an end.
    """
    orphans = orphaned(session, node, lease_margin_ms)
    lost = Reply(0, error=INTERRUPTED)
    ends = [
        Settlement(
            each,
            lost,
            Dead() if each.attempt > each.max_retries else Again(None, interrupted=True),
            ended_at=max(now, each.started_at),
        )
        for each in orphans
    ]
    settle(session, [replace(each, callbacks=callbacks(each)) for each in ends])
    queues.join_all(session)
    session.announce()
    return len(orphans)


def give_back_unknown(session: Session, node: str, known: Collection[Lease], now: int) -> None:
    """Give up the node's own leases that are not `known` to it: the answer to their claim was lost.

    Nothing of them was sent, so no attempt is spent.
    """
    back = Again(None, counted=False)
    lost = [each for each in own_leases(session, node) if each.lease not in known]
    reply = Reply(0, error="the store's answer to the claim was lost")
    settle(session, [Settlement(each, reply, back, ended_at=max(now, each.started_at)) for each in lost])
