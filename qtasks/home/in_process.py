"""Runs the broker's claims in the app, on the app's own loop: what the webhook does after parsing."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from qtasks.broker.store.records import Claim, Reply
from qtasks.clock import stopwatch_ns
from qtasks.protocol.headers import SCHEDULED_AT
from qtasks.tasks.answers import uncounted
from qtasks.tasks.cancellation import Cancellation
from qtasks.tasks.envelope import SIGNATURE_HEADER
from qtasks.tasks.execution import Delivery, Executor

log = logging.getLogger("qtasks.app")

QUICK_NS = 5_000_000
MOST_NS = 1_000_000_000
"""A longer one counts as one of this length: hours would not be forgotten for as many."""
MEMORY = 16
"""The mean is about that of the last so many."""
Tell = Callable[[Claim, Reply], None]


class AppRunner:
    """Runs claims as tasks of the running loop, `concurrency` at a time, and tells each one's reply."""

    def __init__(self, executor: Callable[[], Executor], concurrency: int) -> None:
        self._executor = executor
        self._concurrency = concurrency
        self._waiting: deque[tuple[Claim, Tell]] = deque()
        self._running: set[asyncio.Task[None]] = set()  # the loop itself keeps only weak references
        self._cancellations: dict[tuple[int, int], Cancellation] = {}
        self._pace = Pace()

    def is_quick(self) -> bool:
        """Say whether tasks are so short that claims may wait here; from any thread."""
        return self._pace.is_quick

    def run(self, claims: Sequence[Claim], tell: Tell) -> None:
        """Run all claims; `tell` is called once for each, on this loop."""
        for claim in claims:
            self._cancellations[_attempt(claim)] = Cancellation()
            self._waiting.append((claim, tell))
        self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._concurrency:
            claim, tell = self._waiting.popleft()
            work = self._run(claim, tell, self._cancellations[_attempt(claim)])
            task = asyncio.get_running_loop().create_task(work)
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._fill()

    def drop(self, claim: Claim) -> None:
        """Call off the attempt that is being made for a claim; its reply is told as any other."""
        cancellation = self._cancellations.get(_attempt(claim))
        if cancellation is not None:
            cancellation.cancel()

    async def _run(self, claim: Claim, tell: Tell, cancellation: Cancellation) -> None:
        headers = {name.lower(): value for name, value in claim.headers}
        if claim.extras.fired_at is not None:
            headers[SCHEDULED_AT.lower()] = str(claim.extras.fired_at)
        signature = headers.get(SIGNATURE_HEADER.lower())
        delivery = Delivery(claim.id, claim.body, signature, claim.attempt - 1, headers, cancellation)
        began_at = stopwatch_ns()
        try:
            answer = await self._executor().execute(delivery)
        except asyncio.CancelledError:
            answer = uncounted(503, "draining", "the app has stopped", 1)
            tell(claim, Reply(answer.status, answer.headers, answer.body))
            raise
        except Exception as error:  # a wall: the broker must hear of every claim
            log.exception("execution broke", extra={"message_id": claim.id})
            tell(claim, Reply(0, error=f"{type(error).__name__}: {error}"))
            return
        finally:
            del self._cancellations[_attempt(claim)]
            self._pace.took(stopwatch_ns() - began_at)
        problem = None if answer.status == 200 else f"unexpected status {answer.status}"
        tell(claim, Reply(answer.status, answer.headers, answer.body, problem))


class Pace:
    """How long tasks of this process take, those of late above all."""

    def __init__(self) -> None:
        self._mean_ns = float(QUICK_NS * 2)  # not quick until some have shown it

    @property
    def is_quick(self) -> bool:
        """Whether they are short: what waits behind as many as may wait here hardly notices."""
        return self._mean_ns < QUICK_NS

    def took(self, ns: int) -> None:
        """Learn how long one took."""
        self._mean_ns += (min(ns, MOST_NS) - self._mean_ns) / MEMORY


def _attempt(claim: Claim) -> tuple[int, int]:
    return claim.seq, claim.lease_epoch
