"""The store's verbs on an open database, each in a transaction of its own, at a hand-moved clock's time.

Messages and verdicts have defaults, so that a test says only what it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from qtasks.broker.store import claiming, dead_letters, logs, messages, queues, results, settling, views
from qtasks.broker.store.database import Database
from qtasks.broker.store.dead_letters import DeadLetterFilter
from qtasks.broker.store.filters import MessageFilter
from qtasks.broker.store.records import (
    Again,
    Claim,
    Dead,
    Delivered,
    NewMessage,
    Reply,
    Settlement,
    Verdict,
)
from qtasks.clock import ManualClock
from qtasks.protocol.results import ProgressReport, ResultView
from qtasks.protocol.shapes import DeadLetter, Enqueued, LogEntry, QueueView, State

HOOK = "https://app.example/hook"
NODE = "node-1"
DAY_MS = 86_400_000
LEASE_MARGIN_MS = 10_000
DEDUP_WINDOW_MS = 600_000
OK = Reply(200)
EVERY_LETTER = DeadLetterFilter()
BROKEN = Reply(500, error="unexpected status 500")

_numbers = count(1)


def new_message(body: bytes = b"", *, now: int, **changes: Any) -> NewMessage:
    """Make a message for the ordered queue `mail`, with parallelism 1, which may be tried four times."""
    message = NewMessage(
        id=f"msg_{next(_numbers):08d}",
        queue="mail",
        parallelism=1,
        ordered=True,
        url=HOOK,
        method="POST",
        headers=(),
        body=body,
        created_at=now,
        start_at=None,
        max_retries=3,
        timeout_ms=60_000,
        dedup_until=now + DEDUP_WINDOW_MS,
    )
    return replace(message, **changes)


def new_claim(url: str = HOOK, *, now: int, **changes: Any) -> Claim:
    """Make a claim of a message that is tried for the first time, at `now`, and may be three times more."""
    claim = Claim(
        seq=1,
        id="msg_1",
        queue="mail",
        app=None,
        url=url,
        method="POST",
        headers=(),
        body=b"",
        created_at=now - 1000,
        attempt=1,
        lease_epoch=1,
        lease_until=now + 70_000,
        started_at=now,
        max_retries=3,
        timeout_ms=60_000,
        retry_delay=None,
        task_id="tsk_1",
        result_ttl_ms=None,
        caller_ip=None,
        queue_id=1,
        ordered=True,
        interrupted=0,
        guard_until=None,
    )
    return replace(claim, **changes)


class Verbs:
    """What tests do to a store. Instants are the clock's."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.database = database
        self.clock = clock

    def message(self, body: bytes = b"", **changes: Any) -> NewMessage:
        """Make a message without storing it."""
        return new_message(body, now=self.clock.now(), **changes)

    def store(self, *wanted: NewMessage) -> list[Enqueued]:
        """Enqueue messages in one transaction, by the way that the database finds best."""
        return self.database.run(messages.Enqueueing(wanted, self.clock.now()))

    def enqueue(self, body: bytes = b"", **changes: Any) -> str:
        """Enqueue one message; give the id that was answered."""
        [answer] = self.store(self.message(body, **changes))
        return answer.message_id

    def claim(
        self,
        slots: int = 100,
        *,
        node: str = NODE,
        app: str | None = None,
        alone_is_free: bool = True,
        admit: Callable[[], claiming.Fits] = claiming.admit_all,
    ) -> list[Claim]:
        """Lease what may start now."""
        now = self.clock.now()
        claimed = self.database.run(
            lambda session: claiming.claim(
                session,
                node=node,
                app=app,
                slots=slots,
                alone_is_free=alone_is_free,
                lease_margin_ms=LEASE_MARGIN_MS,
                now=now,
                admit=admit,
            )
        )
        return list(claimed.claims)

    def claim_one(self, **conditions: Any) -> Claim:
        """Lease exactly one message."""
        [claim] = self.claim(1, **conditions)
        return claim

    def settle(self, claim: Claim, verdict: Verdict, reply: Reply = OK) -> bool:
        """Record a verdict; say whether it took effect."""
        now = self.clock.now()
        return bool(self.settle_all(Settlement(claim, reply, verdict, max(now, claim.started_at))))

    def settle_all(self, *wanted: Settlement) -> list[Settlement]:
        """Record verdicts in one transaction; give those that took effect."""
        return self.database.run(lambda session: settling.settle(session, wanted))

    def deliver(self, claim: Claim) -> bool:
        """Record a success."""
        return self.settle(claim, Delivered())

    def fail(self, claim: Claim, *, after_ms: int = 12_000) -> bool:
        """Record a failure that is retried."""
        return self.settle(claim, Again(self.clock.now() + after_ms), BROKEN)

    def hand_back(self, claim: Claim) -> bool:
        """Give up a lease without spending its attempt."""
        return self.settle(claim, Again(None, counted=False), Reply(0, error="handed back"))

    def kill(self, claim: Claim) -> bool:
        """Record a failure without a further attempt."""
        return self.settle(claim, Dead(), BROKEN)

    def recover(self, node: str) -> int:
        """Begin another life of the broker, named `node`."""
        now = self.clock.now()
        return self.database.run(
            lambda session: settling.recover(session, node=node, lease_margin_ms=LEASE_MARGIN_MS, now=now)
        )

    def set_queue(self, name: str, parallelism: int, paused: bool | None = None) -> None:
        """Set a queue as the API does."""
        now = self.clock.now()
        self.database.run(lambda session: queues.upsert(session, name, parallelism, paused, now))

    def pause(self, name: str, paused: bool = True) -> bool:
        """Pause or resume a queue."""
        now = self.clock.now()
        return self.database.run(lambda session: queues.set_paused(session, name, paused, now))

    def queue(self, name: str) -> QueueView:
        """Show a queue."""
        [found] = self.database.look(lambda session: queues.views(session, name))
        return found

    def log(
        self,
        message_id: str | None = None,
        *,
        queue: str | None = None,
        states: frozenset[State] | None = None,
    ) -> list[LogEntry]:
        """Give the log, of all messages or of one, oldest first."""
        messages_wanted = MessageFilter(
            message_ids=None if message_id is None else frozenset({message_id}),
            queues=None if queue is None else frozenset({queue}),
        )
        wanted = logs.LogFilter(messages_wanted, states)
        entries, _ = self.database.look(lambda session: logs.log_page(session, wanted, None, 1000))
        return entries[::-1]

    def states(self, message_id: str) -> str:
        """Give the states that a message went through, in order."""
        return ", ".join(each.state.value for each in self.log(message_id=message_id))

    def is_stored(self, message_id: str) -> bool:
        """Say whether anything of a message is left."""
        return self.database.look(lambda session: views.find_message(session, message_id, 0)) is not None

    def dead_letters(self) -> list[DeadLetter]:
        """Give the dead letter queue, newest first."""
        return self.database.look(lambda session: dead_letters.find_many(session, EVERY_LETTER, None, 1000))[
            0
        ]

    def result(self, task_id: str) -> ResultView:
        """Say what is known of a task."""
        now = self.clock.now()
        return self.database.look(lambda session: results.find_result(session, task_id, now))

    def settled(self, *task_ids: str) -> list[str]:
        """Give those tasks that there is nothing to wait for."""
        now = self.clock.now()
        return self.database.look(lambda session: results.find_settled(session, task_ids, now))

    def report(self, task_id: str, done: float, total: float | None = None, note: str | None = None) -> bool:
        """Note how far a task has come; say whether it took that."""
        now, reports = self.clock.now(), {task_id: ProgressReport(done, total, note)}
        return bool(self.database.run(lambda session: results.report_progress(session, reports, now)))

    def forget(self, task_id: str) -> bool:
        """Drop the result of a task; say whether one was kept."""
        return self.database.run(lambda session: results.forget_result(session, task_id))

    def reports(self) -> int:
        """Count the reports that the store still holds, those included that nobody sees any more."""
        walk = {"after": 0, "count": 1000}
        return len(self.database.look(lambda session: session.all("progress_walk", walk)))


def bodies(claims: Sequence[Claim]) -> list[bytes]:
    """Give the bodies of claims, in order."""
    return [each.body for each in claims]
