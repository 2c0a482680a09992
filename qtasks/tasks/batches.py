"""Executes the messages of one request, and streams their answers as they are ready.

Each is executed as if it had come alone: what one does or takes is nothing to the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from starlette.types import Send

from qtasks.protocol.batches import CONTENT_TYPE, AnswerLine, DeliveryLine, write_answers
from qtasks.tasks.answers import error_document
from qtasks.tasks.cancellation import Cancellation
from qtasks.tasks.envelope import SIGNATURE_HEADER
from qtasks.tasks.execution import Delivery, Executor
from qtasks.tasks.turns import Turns

log = logging.getLogger("qtasks.webhook")

HEADERS = [(b"content-type", CONTENT_TYPE.encode())]


class BatchRun:
    """The messages of one request under way; `answer` runs them, `cancel` calls all of them off."""

    def __init__(self, executor: Callable[[], Executor], lines: Sequence[DeliveryLine], turns: Turns) -> None:
        self._executor = executor
        self._turns = turns
        self._deliveries = [_delivery(each) for each in lines]
        self._ready: list[AnswerLine] = []
        self._has_answers = asyncio.Event()

    async def answer(self, send: Send) -> None:
        """Execute all, each when its turn comes, and send what each answers."""
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        for each in self._deliveries:
            self._turns.add(partial(self._execute, each))
        left = len(self._deliveries)
        while left:
            await self._has_answers.wait()
            self._has_answers.clear()
            lines, self._ready = self._ready, []
            left -= len(lines)
            await send({"type": "http.response.body", "body": write_answers(lines), "more_body": left > 0})

    def cancel(self) -> None:
        """Call off what has not ended: nobody is there to be answered."""
        for each in self._deliveries:
            each.cancellation.cancel()

    async def _execute(self, delivery: Delivery) -> None:
        try:
            answer = await self._executor().execute(delivery)
        except Exception as error:  # a wall: the others of the batch have their answers to come
            log.exception("execution broke", extra={"message_id": delivery.message_id})
            body = error_document(type(error).__name__, "the execution broke", None)
            self._tell(AnswerLine(delivery.message_id, 500, (), body))
        else:
            self._tell(AnswerLine(delivery.message_id, answer.status, answer.headers, answer.body))

    def _tell(self, line: AnswerLine) -> None:
        self._ready.append(line)
        self._has_answers.set()


def _delivery(line: DeliveryLine) -> Delivery:
    headers: Mapping[str, str] = line.headers
    signature = headers.get(SIGNATURE_HEADER.lower())
    return Delivery(line.message_id, line.body, signature, line.retried, headers, Cancellation())
