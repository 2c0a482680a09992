"""The home that apps under test live in: the kit's broker in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qtasks.broker.results import Results
from qtasks.broker.service import Broker
from qtasks.client.kept import Meanwhile, nothing
from qtasks.errors import KitError
from qtasks.home.questions import message_filter
from qtasks.protocol.results import ProgressReport, ResultView
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.tasks.context import CURRENT
from qtasks.tasks.progress import ProgressReporter
from qtasks.tasks.selection import Selection


class KitHome:
    """Sends to, and asks, a broker that works only while `is_draining`."""

    def __init__(
        self, broker: Callable[[], Broker], is_draining: Callable[[], bool], *, is_serial: bool
    ) -> None:
        self._broker = broker
        self._is_draining = is_draining
        self._is_serial = is_serial

    def send(self, messages: Sequence[Outgoing], meanwhile: Meanwhile = nothing) -> list[Enqueued]:
        """Enqueue."""
        return self._broker().accept(messages)

    async def asend(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Do the same; there is nothing to wait for."""
        return self._broker().accept(messages)

    def result(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Say what is known of a task; raises `KitError` where waiting would never end."""
        return self._results.find(task_id, self._wait_ms([task_id], wait_ms))

    async def aresult(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Do what `result` does, on an event loop."""
        return await self._results.afind(task_id, self._wait_ms([task_id], wait_ms))

    def settled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Give those tasks that have finished or are unknown; raises `KitError` as `result` does."""
        return self._results.settled(task_ids, self._wait_ms(task_ids, wait_ms))

    async def asettled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Do what `settled` does, on an event loop."""
        return await self._results.asettled(task_ids, self._wait_ms(task_ids, wait_ms))

    def cancel(self, task_id: str) -> bool:
        """Call a task off; say whether it was under way and not called off before."""
        return self._broker().cancel_task(task_id)

    async def acancel(self, task_id: str) -> bool:
        """Do the same; there is nothing to wait for."""
        return self.cancel(task_id)

    def forget(self, task_id: str) -> bool:
        """Drop the value or error that is kept of a task; say whether there was one."""
        return self._results.forget(task_id)

    async def aforget(self, task_id: str) -> bool:
        """Do the same; there is nothing to wait for."""
        return self.forget(task_id)

    def stall(self) -> str | None:
        """Nothing to say: `result` raises where a wait would be in vain."""
        return None

    def report_progress(self, reports: Mapping[str, ProgressReport]) -> None:
        """Note how far tasks have come."""
        self._results.report(reports)

    @property
    def _results(self) -> Results:
        return self._broker().results

    def cancel_matching(self, wanted: Selection) -> int:
        """Call off what is selected; say how many calls."""
        return self._broker().cancel_matching(message_filter(wanted), None)

    async def acancel_matching(self, wanted: Selection) -> int:
        """Do the same; there is nothing to wait for."""
        return self.cancel_matching(wanted)

    async def start(self) -> None:
        """There is nothing to run: a kit's broker works when it is told to."""

    async def stop(self) -> None:
        """There is nothing to end."""

    def abandon(self) -> None:
        """There is nothing to give up."""

    def _wait_ms(self, task_ids: Sequence[str], wait_ms: int) -> int:
        """Give how long to wait: not at all for what has ended, and for the rest only where tasks run."""
        if not wait_ms or not task_ids or self._results.settled(task_ids):
            return 0
        view = self._results.find(task_ids[0])
        context = CURRENT.get()
        if self._is_draining() and (context is None or not self._is_serial):
            return wait_ms
        if context is not None:
            raise KitError(
                f"task {context.task} waits for task {view.task_id}, which is {view.state}, but a kit runs "
                "one after the other; for tasks that wait for others: Kit(concurrency=16)"
            )
        raise KitError(
            f"task {view.task_id} is {view.state}, and nothing runs while a test waits: {_advice(view)}"
        )


class PromptReporter(ProgressReporter):
    """Tells of progress at once, and without a thread."""

    def report(self, task_id: str, report: ProgressReport) -> None:
        with self._lock:
            self._newest[task_id] = report
        self.step()


def _advice(view: ResultView) -> str:
    if view.state in ("SCHEDULED", "RETRYING"):
        return "let the time pass that it waits for, by kit.advance(...)"
    return "call kit.drain() first"
