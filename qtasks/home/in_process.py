"""Runs the broker's claims in the app, on the app's own loop: what the webhook does after parsing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from qtasks.broker.pace import Pace
from qtasks.broker.store.records import Claim, Reply
from qtasks.clock import stopwatch_ns
from qtasks.protocol.headers import SCHEDULED_AT
from qtasks.tasks.answers import uncounted
from qtasks.tasks.cancellation import Cancellation
from qtasks.tasks.envelope import SIGNATURE_HEADER
from qtasks.tasks.execution import Delivery, Executor
from qtasks.tasks.turns import Turns

log = logging.getLogger("qtasks.app")

QUICK_NS = 5_000_000
MOST_AHEAD = 16
IN_HAND_NS = 20_000_000
"""For as long as that there is work in hand for each task that runs at once, if tasks are quick."""
Tell = Callable[[Claim, Reply], None]


class AppRunner:
    """Runs claims as tasks of the running loop, `concurrency` at a time, and tells each one's reply."""

    def __init__(self, executor: Callable[[], Executor], concurrency: int) -> None:
        self._executor = executor
        self._turns = Turns(concurrency)
        self._cancellations: dict[tuple[int, int], Cancellation] = {}
        self._pace = Pace(QUICK_NS)

    def ahead(self) -> int:
        """Say how many times as many claims as run at once may be here; from any thread.

        Small tasks are over before the store has recorded them and given the next ones.
        """
        return min(MOST_AHEAD, self._pace.count(IN_HAND_NS)) if self._pace.is_quick else 1

    def run(self, claims: Sequence[Claim], tell: Tell) -> None:
        """Run all claims; `tell` is called once for each, on this loop."""
        for claim in claims:
            self._cancellations[_attempt(claim)] = cancellation = Cancellation()
            self._turns.add(partial(self._run, claim, tell, cancellation))

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


def _attempt(claim: Claim) -> tuple[int, int]:
    return claim.seq, claim.lease_epoch
