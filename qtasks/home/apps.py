"""The `QTasks` of this process, and what the testing kit does to them: another home, for a while.

Nothing here keeps an app alive.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from qtasks.protocol.results import ProgressReport
from qtasks.tasks.results import ResultSource
from qtasks.tasks.selection import Selection
from qtasks.tasks.senders import Sender

if TYPE_CHECKING:
    from qtasks.home.app import QTasks


class Home(Sender, ResultSource, Protocol):
    """Where an app's broker is: takes its calls, answers its questions, and lives as long as it does."""

    def cancel_matching(self, wanted: Selection) -> int:
        """Call off what is selected; say how many calls."""
        ...

    async def acancel_matching(self, wanted: Selection) -> int:
        """Do what `cancel_matching` does, on an event loop."""
        ...

    async def start(self) -> None:
        """Run the broker, where it is embedded."""
        ...

    async def stop(self) -> None:
        """End what `start` began."""
        ...

    def report_progress(self, reports: Mapping[str, ProgressReport]) -> None:
        """Note how far tasks have come; may block, and raise."""
        ...

    def abandon(self) -> None:
        """Do the same at the end of the process, when the app's loop is gone already."""
        ...


class Apps:
    """All apps that are in use."""

    def __init__(self) -> None:
        self._apps: weakref.WeakSet[QTasks] = weakref.WeakSet()
        self._watchers: list[Callable[[QTasks], object]] = []

    def add(self, app: QTasks) -> None:
        """Make a new app known."""
        self._apps.add(app)
        for tell in self._watchers:
            tell(app)

    def __iter__(self) -> Iterator[QTasks]:
        return iter([*self._apps])

    @contextmanager
    def watched(self, tell: Callable[[QTasks], object]) -> Iterator[None]:
        """Have `tell` called with every app that is made in the block."""
        self._watchers.append(tell)
        try:
            yield
        finally:
            self._watchers.remove(tell)


APPS = Apps()
