"""Puts the parts of an app together, by its settings, its home and its clock.

What users call is in `app.py`; here is what those calls go through, and how all of it is exchanged while
the app lives in another home, as under test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any
from weakref import WeakSet

from qtasks.broker.config import BrokerConfig
from qtasks.broker.intake import internal_url
from qtasks.clock import Clock
from qtasks.errors import ConfigurationError
from qtasks.home.apps import Home
from qtasks.home.engine import EngineSetup, no_more
from qtasks.home.homes import make_home
from qtasks.home.in_process import AppRunner
from qtasks.home.outbox import AtOnce, Outbox
from qtasks.home.plans import check_plan, find_plan
from qtasks.home.result_store import open_results
from qtasks.home.secrets import all_secrets, signing_secrets
from qtasks.home.shared import SharedHome
from qtasks.ids import Ids
from qtasks.protocol.shapes import Outgoing
from qtasks.settings import HomeKind, Settings, database_path
from qtasks.tasks.app_tables import InboxTable
from qtasks.tasks.around import Around
from qtasks.tasks.buffering import Buffer
from qtasks.tasks.calling import Caller
from qtasks.tasks.default import CALLERS, DEFAULT
from qtasks.tasks.dependencies import Resolver
from qtasks.tasks.envelope import EnvelopeSigner
from qtasks.tasks.execution import Executor
from qtasks.tasks.failures import Failures
from qtasks.tasks.hosted_schedules import in_schedule_dialect
from qtasks.tasks.options import DEFAULTS, DefaultOptions, Layers, read_options
from qtasks.tasks.packing import Packer
from qtasks.tasks.periodic import Periodic
from qtasks.tasks.progress import ProgressReporter
from qtasks.tasks.queues import Queue
from qtasks.tasks.recording import ResultBackend
from qtasks.tasks.registry import Registry
from qtasks.tasks.resolving import resolver_for
from qtasks.tasks.schedules import Timetable, make_timetable
from qtasks.tasks.support import check_supported
from qtasks.tasks.task import Task
from qtasks.tasks.threads import ThreadPool
from qtasks.tasks.tracing import find_tracing
from qtasks.tasks.transactions import Outlet
from qtasks.tasks.webhook import RUN, Webhook, WebhookKeys

AnyTask = Task[..., Any, Any]


class Wiring:
    """The parts of one app. Nothing is opened here: that is for the first call, or the lifespan."""

    def __init__(
        self,
        settings: Settings,
        *,
        name: str,
        queues: Mapping[str, Queue],
        defaults: DefaultOptions,
        concurrency: int,
        threads: int,
        unknown_task_window_ms: int,
        outbox: str | Callable[[], Any] | None,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._settings = settings
        self._inbox = InboxTable(clock)
        self._name = name
        self._queues = dict(queues)
        self._specs = {name: queue.spec for name, queue in self._queues.items()}
        self._layers = self._make_layers(defaults)
        self._clock = clock
        self._ids = ids
        self._registry = Registry()
        self._around = Around()
        self._tracing = find_tracing()
        self._concurrency = concurrency
        self._threads = ThreadPool(threads, self._clock)
        self._unknown_task_window_ms = unknown_task_window_ms
        self._find_to_run = self.find
        self._make_reporter: type[ProgressReporter] = ProgressReporter
        self._resolver: Resolver | None = None
        self._path = database_path(self._settings.broker) if self._settings.home is HomeKind.SQLITE else None
        self._outbox = Outbox(outbox, self._path)
        self._results = self._make_results()
        self._home: Home = self._make_home()
        self._buffers: WeakSet[Buffer] = WeakSet()
        self._lifespans = 0
        self._is_lodging = False
        self._wire()

    def find(self, name: str) -> AnyTask | None:
        """Give the task of that name or alias, also one of the module-level `@task`; else None."""
        return self._registry.find(name) or DEFAULT.find(name)

    def _names(self) -> list[str]:
        return [*self._registry.names(), *DEFAULT.names()]

    def _check_dependencies(self) -> None:
        for task in self._registry:
            if task.dependencies:
                resolver_for(self._resolver, task.name).check(task)

    @property
    def _is_embedded(self) -> bool:
        return self._settings.home in (HomeKind.SQLITE, HomeKind.POSTGRES)

    @cached_property
    def _has_schedules(self) -> bool:
        return any(each.schedules for each in (*self._registry, *DEFAULT))

    @property
    def _is_hosted(self) -> bool:
        return self._settings.home is HomeKind.HOSTED

    def _wire(self) -> None:
        """Make what goes by settings, home and clock."""
        self._signer: EnvelopeSigner | None = None
        self._executor: Executor | None = None
        self._reporter = self._make_reporter(self._home.report_progress)
        self._caller = self._make_caller()
        self._webhook = Webhook(
            self._get_executor,
            keys=self._webhook_keys(),
            concurrency=self._concurrency,
            clock=self._clock,
            failures=self._make_failures(),
        )

    @contextmanager
    def _in_home(
        self,
        home: Home,
        settings: Settings,
        *,
        name: str,
        clock: Clock,
        ids: Ids,
        stand_in: Callable[[AnyTask], AnyTask],
        through: Callable[[Caller], Caller],
        reporter: type[ProgressReporter],
    ) -> Iterator[None]:
        """Live in another home for a while, and come back to exactly what was before.

        There it is called `name`. What runs is what `stand_in` gives for a task that was found; calls go
        `through` what it gives, and a `reporter` tells of progress. The block counts as a lifespan, so those
        of the app within it start and stop nothing.
        """
        before = dict(vars(self))

        def find(name: str) -> AnyTask | None:
            task = self.find(name)
            return None if task is None else stand_in(task)

        self._home, self._settings, self._clock, self._ids = home, settings, clock, ids
        self._find_to_run = find
        self._make_reporter = reporter
        self._name = name
        self._path = None
        self._results = None  # that home keeps them itself
        self._lifespans = 1
        self._is_lodging = True
        self._wire()
        self._caller = through(self._caller)
        try:
            yield
        finally:
            self.__dict__ = before

    def _make_layers(self, defaults: Mapping[str, Any]) -> Layers:
        of = "QTasks(defaults=...)"
        app = read_options(defaults, of=of, known=DEFAULTS, error=ConfigurationError)
        check = partial(check_supported, kind=self._settings.home, queues=self._specs)
        return Layers(app, {name: queue.read() for name, queue in self._queues.items()}, check)

    def _make_results(self) -> ResultBackend | None:
        """Every other broker keeps results better, so the setting means nothing there."""
        url = self._settings.results
        return open_results(url, self._clock) if self._is_hosted and url is not None else None

    def _make_failures(self) -> Failures | None:
        if self._results is None:
            return None
        return Failures(
            self._results, signer=self._get_signer, destination=self._destination(), clock=self._clock
        )

    def _make_home(self) -> Home:
        return make_home(
            self._settings,
            self._path,
            self._engine_setup,
            clock=self._clock,
            queues=self._specs,
            results=self._results,
            check_hosted=self._check_hosted,
            timetable=self._timetable,
        )

    def _engine_setup(self) -> EngineSetup:
        runner = AppRunner(self._get_executor, self._concurrency)
        return EngineSetup(
            app=self._name,
            run=runner.run,
            drop=runner.drop,
            ahead=runner.ahead if self._settings.batch > 1 else no_more,
            config=BrokerConfig(concurrency=self._concurrency),
            ids=self._ids,
            timetable=self._timetable,
            queues=self._specs,
            allow_destinations=self._settings.allow_destinations,
            durability=self._settings.durability,
            listen=self._settings.listen,
        )

    def _check_hosted(self) -> None:
        """Check every task that is defined by now, as its options may ask for more than the plan gives."""
        tasks = {each.name: each.options_in(self._layers) for each in (*DEFAULT, *self._registry)}
        check_plan(find_plan(self._settings.plan), tasks, self._specs)

    def _make_caller(self) -> Caller:
        packer = Packer(
            signer=self._get_signer,
            destination=self._destination(),
            queues=self._queues,
            layers=self._layers,
            clock=self._clock,
            ids=self._ids,
            trace=self._tracing.trace,
            batch=self._settings.batch if self._settings.home is HomeKind.HTTP else None,
        )
        return Caller(
            self._home,
            self._home,
            packer,
            self._clock,
            self._tracing,
            self._outlet(),
            is_prompt=self._is_lodging,
        )

    def _outlet(self) -> Outlet | None:
        """Say where calls in transactions go; None if there is no such place."""
        if self._is_lodging:
            return AtOnce(self._home)
        if self._outbox.is_told:
            return self._outbox
        return self._home if isinstance(self._home, SharedHome) else None

    def _timetable(self) -> Timetable:
        """Collect the schedules of all tasks that this app runs."""
        shared = [each for each in DEFAULT if each.schedules]
        if shared:
            CALLERS.only()  # else every app of the process would have them called
        return make_timetable(
            self._name,
            self._destination(),
            self._get_signer(),
            [*self._registry, *shared],
            self._scheduled,
        )

    def _scheduled(self, task: Task[..., Any, Any], periodic: Periodic, schedule_id: str) -> Outgoing:
        message = self._caller.scheduled(task, periodic, schedule_id)
        return in_schedule_dialect(message, task.name) if self._is_hosted else message

    def _get_caller(self) -> Caller:
        return self._caller

    def _destination(self) -> str:
        """The address that tasks are signed for: in process, or the webhook's own."""
        if self._is_embedded:
            return internal_url(self._name)
        return f"{self._settings.public_url}/{RUN}"

    def _webhook_keys(self) -> WebhookKeys | None:
        settings = self._settings
        if self._is_embedded or not settings.signing_keys or settings.public_url is None:
            return None
        keys = dict.fromkeys((*settings.signing_keys, *settings.regional_keys))
        return WebhookKeys(tuple(keys), self._destination(), is_counting=self._is_hosted)

    def _get_signer(self) -> EnvelopeSigner:
        if self._signer is None:  # two threads may both make one: they come out the same
            self._signer = EnvelopeSigner(signing_secrets(self._settings, self._path, self._ids))
        return self._signer

    def _get_executor(self) -> Executor:
        if self._executor is None:
            self._executor = Executor(
                self._find_to_run,
                signer=self._get_signer(),
                destination=self._destination(),
                threads=self._threads,
                layers=self._layers,
                clock=self._clock,
                ids=self._ids,
                go_on=self._caller.go_on,
                report_progress=self._reporter.report,
                around=self._around,
                tracing=self._tracing,
                names=self._names,
                unknown_task_window_ms=self._unknown_task_window_ms,
                redact=all_secrets(self._settings, self._path, self._ids),
                results=self._results,
                resolver=lambda: self._resolver,
            )
        return self._executor
