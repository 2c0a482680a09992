"""The home of a standalone broker, reached over HTTP. That of hosted QStash is `hosted.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from qtasks.client import calls
from qtasks.client.kept import Meanwhile, nothing
from qtasks.clock import Clock
from qtasks.errors import ConfigurationError, RequestError
from qtasks.home.periodic import Synchroniser
from qtasks.protocol.results import ProgressReport, ResultView
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.settings import Settings
from qtasks.tasks.schedules import Timetable
from qtasks.tasks.selection import Selection
from qtasks.tasks.senders import HttpSender


class RemoteHome:
    """Sends to, and asks, a broker at `settings.broker`; says at first use what is not configured.

    `timetable` gives the app's schedules, of which the broker is told at the start.
    """

    def __init__(self, settings: Settings, clock: Clock, timetable: Callable[[], Timetable]) -> None:
        self._settings = settings
        self._sender = HttpSender(
            settings.address, settings.token or "", clock=clock, budget_ms=settings.send_budget_ms
        )
        self._synchroniser = Synchroniser(self._sender.aask_once, timetable, clock)
        self._is_checked = False

    def send(self, messages: Sequence[Outgoing], meanwhile: Meanwhile = nothing) -> list[Enqueued]:
        """Enqueue; durable when this returns."""
        return self._checked().send(messages, meanwhile)

    async def asend(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Do what `send` does without blocking the event loop."""
        return await self._checked().asend(messages)

    def result(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Say what is known of a task, waiting up to `wait_ms` for its end."""
        return self._checked().ask(calls.result(task_id, wait_ms), wait_ms)

    async def aresult(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Do what `result` does, on an event loop."""
        return await self._checked().aask(calls.result(task_id, wait_ms), wait_ms)

    def settled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Give those tasks that have finished or are unknown, waiting for the first of them."""
        return self._checked().ask(calls.settled(task_ids, wait_ms), wait_ms)

    async def asettled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Do what `settled` does, on an event loop."""
        return await self._checked().aask(calls.settled(task_ids, wait_ms), wait_ms)

    def cancel(self, task_id: str) -> bool:
        """Call a task off; say whether it was under way and not called off before."""
        return self._checked().ask(calls.cancel_task(task_id))

    async def acancel(self, task_id: str) -> bool:
        """Do what `cancel` does, on an event loop."""
        return await self._checked().aask(calls.cancel_task(task_id))

    def forget(self, task_id: str) -> bool:
        """Drop the value or error that is kept of a task; say whether there was one."""
        return self._checked().ask(calls.forget_result(task_id))

    async def aforget(self, task_id: str) -> bool:
        """Do what `forget` does, on an event loop."""
        return await self._checked().aask(calls.forget_result(task_id))

    def stall(self) -> str | None:
        """Nothing is known here of who runs the tasks."""
        return None

    def report_progress(self, reports: Mapping[str, ProgressReport]) -> None:
        """Note how far tasks have come; one that has finished meanwhile is passed over."""
        for task_id, report in reports.items():
            with suppress(RequestError):
                self._checked().ask(calls.report_progress(task_id, report))

    def cancel_matching(self, wanted: Selection) -> int:
        """Call off what is selected; say how many calls."""
        return self._checked().ask(calls.cancel_matching(wanted.filters()))

    async def acancel_matching(self, wanted: Selection) -> int:
        """Do what `cancel_matching` does, on an event loop."""
        return await self._checked().aask(calls.cancel_matching(wanted.filters()))

    async def start(self) -> None:
        """Check the settings and tell the broker of the schedules; there is nothing to run here."""
        self._checked()
        await self._synchroniser.start()

    async def stop(self) -> None:
        """Close the connections."""
        await self._synchroniser.stop()
        self._sender.close()

    def abandon(self) -> None:
        """There is nothing to give up."""

    def _checked(self) -> HttpSender:
        if not self._is_checked:
            check_remote(self._settings)
            self._is_checked = True
        return self._sender


def check_remote(settings: Settings) -> None:
    """Raise `ConfigurationError` naming everything that a broker elsewhere needs and that is not set."""
    needed = {
        "QTASKS_TOKEN": settings.token,
        "QTASKS_CURRENT_SIGNING_KEY and QTASKS_NEXT_SIGNING_KEY": len(settings.signing_keys) == 2,
        "QTASKS_SECRET": settings.secrets,
        "QTASKS_PUBLIC_URL": settings.public_url,
    }
    missing = [name for name, value in needed.items() if not value]
    if missing:
        raise ConfigurationError(
            f"the broker at {settings.broker} needs {', '.join(missing)} to be set; see docs/brokers.md"
        )
