"""Makes the home that an app's settings name. What each kind is stands in a module of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from qtasks.clock import Clock
from qtasks.home.apps import Home
from qtasks.home.embedded import EmbeddedHome
from qtasks.home.engine import EngineSetup
from qtasks.home.hosted import HostedHome
from qtasks.home.remote import RemoteHome
from qtasks.home.shared import SharedHome
from qtasks.protocol.headers import QueueSpec
from qtasks.settings import HomeKind, Settings
from qtasks.tasks.recording import ResultBackend
from qtasks.tasks.schedules import Timetable
from qtasks.tasks.webhook import FAILED


def make_home(
    settings: Settings,
    path: Path | None,
    setup: Callable[[], EngineSetup],
    *,
    clock: Clock,
    queues: Mapping[str, QueueSpec],
    results: ResultBackend | None,
    check_hosted: Callable[[], None],
    timetable: Callable[[], Timetable],
) -> Home:
    """Make it, without opening anything; `path` is that of the SQLite file, if there is one."""
    if path is not None:
        return EmbeddedHome(path, setup(), clock)
    if settings.home is HomeKind.POSTGRES:
        return SharedHome(settings, setup(), clock)
    if settings.home is HomeKind.HTTP:
        return RemoteHome(settings, clock, timetable)
    return HostedHome(
        settings,
        clock,
        queues=queues,
        results=results,
        check=check_hosted,
        failure_url=f"{settings.public_url}/{FAILED}",
        timetable=timetable,
    )
