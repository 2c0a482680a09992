"""The home that apps under test live in: the kit's broker in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qtasks.broker.service import SETTLED, Broker
from qtasks.errors import KitError
from qtasks.protocol.results import ResultView
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.tasks.context import CURRENT


class KitHome:
    """Sends to, and asks, a broker that works only while `is_draining`."""

    def __init__(
        self, broker: Callable[[], Broker], is_draining: Callable[[], bool], *, is_serial: bool
    ) -> None:
        self._broker = broker
        self._is_draining = is_draining
        self._is_serial = is_serial

    def send(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Enqueue."""
        return self._broker().accept(messages)

    async def asend(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Do the same; there is nothing to wait for."""
        return self._broker().accept(messages)

    def result(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Say what is known of a task; raises `KitError` where waiting would never end."""
        return self._broker().result(task_id, self._wait_ms(task_id, wait_ms))

    async def aresult(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Do what `result` does, on an event loop."""
        return await self._broker().aresult(task_id, self._wait_ms(task_id, wait_ms))

    async def start(self) -> None:
        """There is nothing to run: a kit's broker works when it is told to."""

    async def stop(self) -> None:
        """There is nothing to end."""

    def abandon(self) -> None:
        """There is nothing to give up."""

    def _wait_ms(self, task_id: str, wait_ms: int) -> int:
        if not wait_ms or (view := self._broker().result(task_id)).state in SETTLED:
            return 0
        context = CURRENT.get()
        if self._is_draining() and (context is None or not self._is_serial):
            return wait_ms
        if context is not None:
            raise KitError(
                f"task {context.task} waits for task {task_id}, which is {view.state}, but a kit runs one "
                "after the other; for tasks that wait for others: Kit(concurrency=16)"
            )
        raise KitError(
            f"task {task_id} is {view.state}, and nothing runs while a test waits: {_advice(view)}"
        )


def _advice(view: ResultView) -> str:
    if view.state in ("SCHEDULED", "RETRYING"):
        return "let the time pass that it waits for, by kit.advance(...)"
    return "call kit.drain() first"
