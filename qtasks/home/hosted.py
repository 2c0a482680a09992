"""The home of hosted QStash: the same calls in its dialect, and results that the app keeps itself.

Its queues are strictly ordered and take no delays, so they stand for our ordered queues alone; an
unordered queue is a flow-control key, whose parallelism holds for delayed and retried messages too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from qtasks.client.calls import cancel_labelled, cancel_matching, set_queue
from qtasks.client.kept import Meanwhile, nothing
from qtasks.clock import Clock
from qtasks.errors import BrokerError, ResultsUnavailable, UnsupportedByBroker
from qtasks.home.periodic import Synchroniser
from qtasks.home.remote import check_remote
from qtasks.protocol.flow import FlowSpec
from qtasks.protocol.headers import ROWS, Callback, QueueSpec
from qtasks.protocol.results import ProgressReport, ResultView
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.settings import Settings
from qtasks.tasks.queues import UNDECLARED
from qtasks.tasks.recording import ResultBackend, accepted
from qtasks.tasks.schedules import Timetable
from qtasks.tasks.selection import Selection
from qtasks.tasks.senders import HttpSender

log = logging.getLogger("qtasks.hosted")

NOT_OURS: Mapping[str, Any] = {row.field: None for row in ROWS if row.header.startswith("Qtasks-")}
"""Options that only our own broker knows, left away."""


def in_dialect(message: Outgoing, failure_url: str | None = None) -> Outgoing:
    """Put a message as hosted QStash takes it: enqueue for ordered queues, publish for all else.

    None of our own headers is left; the task id becomes a label, by which a message can be found.
    `failure_url` is where QStash tells that it has given a message up.
    """
    options = message.options
    plain = replace(
        replace(options, **NOT_OURS),
        labels=(*options.labels, options.task_id) if options.task_id else options.labels,
        timeout_ms=_in_whole_seconds(options.timeout_ms),
        not_before=options.start_at,
        failure_callback=Callback(failure_url) if failure_url else options.failure_callback,
    )
    if options.queue is not None and options.queue.ordered:
        return replace(message, options=plain)
    flow = options.flow
    if message.queue is not None:
        flow = FlowSpec(message.queue, parallelism=(options.queue or UNDECLARED).parallelism)
    return replace(message, options=replace(plain, flow=flow), queue=None)


def _in_whole_seconds(ms: int | None) -> int | None:
    """Round up: fractions of a second are documented for no header of QStash."""
    return None if ms is None else -(-ms // 1000) * 1000


class HostedHome:
    """Sends to hosted QStash, and asks `results` how tasks went.

    `queues` are those that the app declares. `check` is called at the start; it raises what is wrong
    with the app's tasks. `failure_url` is where the app hears of tasks that never answered.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        queues: Mapping[str, QueueSpec],
        results: ResultBackend | None,
        check: Callable[[], None],
        failure_url: str | None,
        timetable: Callable[[], Timetable],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._queues = queues
        self._results = results
        self._check = check
        self._failure_url = None if results is None else failure_url
        self._sender = HttpSender(
            settings.address, settings.token or "", clock=clock, budget_ms=settings.send_budget_ms
        )
        self._synchroniser = Synchroniser(self._sender.aask_once, timetable, clock)
        self._is_checked = False

    def send(self, messages: Sequence[Outgoing], meanwhile: Meanwhile = nothing) -> list[Enqueued]:
        """Enqueue; durable when this returns."""
        answers = self._checked().send(self._translated(messages), meanwhile)
        if self._results is not None:
            self._results.store(accepted(messages, self._clock.now()))
        return answers

    async def asend(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Do what `send` does without blocking the event loop."""
        answers = await self._checked().asend(self._translated(messages))
        if self._results is not None:
            await asyncio.to_thread(self._results.store, accepted(messages, self._clock.now()))
        return answers

    def result(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Say what is known of a task, waiting up to `wait_ms` for its end."""
        return self._kept().result(task_id, wait_ms)

    async def aresult(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Do what `result` does, on an event loop."""
        return await self._kept().aresult(task_id, wait_ms)

    def settled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Give those tasks that have finished or are unknown, waiting for the first of them."""
        return self._kept().settled(task_ids, wait_ms)

    async def asettled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Do what `settled` does, on an event loop."""
        return await self._kept().asettled(task_ids, wait_ms)

    def cancel(self, task_id: str) -> bool:
        """Call a task off; say whether it was under way and not called off before."""
        is_off = self._checked().ask(cancel_labelled(task_id)) > 0
        if is_off and self._results is not None:
            self._results.cancelled(task_id)
        return is_off

    async def acancel(self, task_id: str) -> bool:
        """Do what `cancel` does, on an event loop."""
        is_off = await self._checked().aask(cancel_labelled(task_id)) > 0
        if is_off and self._results is not None:
            await asyncio.to_thread(self._results.cancelled, task_id)
        return is_off

    def cancel_matching(self, wanted: Selection) -> int:
        """Call off what is selected; say how many calls. Which these were it does not say."""
        return self._checked().ask(cancel_matching(self._filters(wanted)))

    async def acancel_matching(self, wanted: Selection) -> int:
        """Do what `cancel_matching` does, on an event loop."""
        return await self._checked().aask(cancel_matching(self._filters(wanted)))

    def _filters(self, wanted: Selection) -> Mapping[str, Sequence[str]]:
        """Put a selection as hosted QStash takes it; an unordered queue is a flow-control key there."""
        if wanted.tasks:
            raise UnsupportedByBroker(
                f"hosted QStash cannot tell which messages call {wanted.tasks[0]}: cancel by label= or "
                "queue=, or by the result of a call",
                option="task",
            )
        filters = dict(wanted.filters())
        for name in filters.pop("queueName", ()):
            is_ordered = (self._queues.get(name) or UNDECLARED).ordered
            filters["queueName" if is_ordered else "flowControlKey"] = (name,)
        return filters

    def forget(self, task_id: str) -> bool:
        """Drop the value or error that is kept of a task; say whether there was one."""
        return self._kept().forget(task_id)

    async def aforget(self, task_id: str) -> bool:
        """Do what `forget` does, on an event loop."""
        return await asyncio.to_thread(self._kept().forget, task_id)

    def stall(self) -> str | None:
        """Nothing is known here of who runs the tasks."""
        return None

    def report_progress(self, reports: Mapping[str, ProgressReport]) -> None:
        """Note how far tasks have come, if the app keeps results: else nobody could ask."""
        if self._results is not None:
            self._results.report_progress(reports)

    async def start(self) -> None:
        """Check settings, tasks and plan, and give the ordered queues their parallelism."""
        sender = self._checked()
        self._check()
        for name, spec in self._queues.items():
            if not spec.ordered:
                continue
            try:
                await sender.aask(set_queue(name, parallelism=spec.parallelism))
            except BrokerError as error:  # the app serves its users all the same, and calls wait in the queue
                log.warning(
                    "cannot set the parallelism of a queue; it stays as it was until the next start",
                    extra={"queue": name, "parallelism": spec.parallelism, "reason": str(error)},
                )

        await self._synchroniser.start()

    async def stop(self) -> None:
        """Close the connections."""
        await self._synchroniser.stop()
        self._sender.close()
        if self._results is not None:
            self._results.close()

    def abandon(self) -> None:
        """There is nothing to give up."""

    def _translated(self, messages: Sequence[Outgoing]) -> list[Outgoing]:
        return [in_dialect(each, self._failure_url) for each in messages]

    def _checked(self) -> HttpSender:
        if not self._is_checked:
            check_remote(self._settings)
            self._is_checked = True
        return self._sender

    def _kept(self) -> ResultBackend:
        if self._results is None:
            raise ResultsUnavailable(
                "hosted QStash keeps no results, and this app does not either; "
                "set QTASKS_RESULTS=sqlite:///results.db, or give QTasks(results=...)"
            )
        return self._results
