"""`QTasks`: an application's tasks, the broker they go to, and the webhook they come back through."""

from __future__ import annotations

import atexit
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal, ParamSpec, TypeVar, Unpack, overload

from starlette.types import Receive, Scope, Send

from qtasks.broker.config import BrokerConfig
from qtasks.broker.intake import internal_url
from qtasks.clock import Clock, SystemClock
from qtasks.errors import ConfigurationError
from qtasks.home.apps import APPS, Home
from qtasks.home.engine import EngineSetup
from qtasks.home.homes import make_home
from qtasks.home.in_process import AppRunner
from qtasks.home.outbox import AtOnce, Outbox
from qtasks.home.plans import check_plan, find_plan
from qtasks.home.result_store import open_results
from qtasks.home.secrets import all_secrets, signing_secrets
from qtasks.home.shared import SharedHome
from qtasks.ids import Ids
from qtasks.protocol.shapes import Outgoing
from qtasks.settings import HomeKind, Settings, check_app_name, database_path
from qtasks.tasks.app_tables import AppTable, InboxTable
from qtasks.tasks.around import Around, AroundHook
from qtasks.tasks.calling import Caller, Elsewhere
from qtasks.tasks.default import CALLERS, DEFAULT
from qtasks.tasks.dependencies import Resolver
from qtasks.tasks.envelope import EnvelopeSigner
from qtasks.tasks.execution import Executor
from qtasks.tasks.failures import Failures
from qtasks.tasks.fitting import read_window
from qtasks.tasks.hosted_schedules import in_schedule_dialect
from qtasks.tasks.keys import Span
from qtasks.tasks.many import Collection
from qtasks.tasks.options import DEFAULTS, DeclaredOptions, DefaultOptions, Layers, read_options
from qtasks.tasks.packing import Packer
from qtasks.tasks.periodic import Periodic
from qtasks.tasks.progress import ProgressReporter
from qtasks.tasks.queues import Queue
from qtasks.tasks.recording import ResultBackend
from qtasks.tasks.registry import Registry
from qtasks.tasks.resolving import resolver_for
from qtasks.tasks.results import AsyncResult
from qtasks.tasks.schedules import Timetable, make_timetable
from qtasks.tasks.selection import Which, select
from qtasks.tasks.support import check_supported
from qtasks.tasks.task import BoundDecorator, Decorator, Task, make_task
from qtasks.tasks.threads import ThreadPool
from qtasks.tasks.tracing import find_tracing
from qtasks.tasks.transactions import Outlet, Transaction
from qtasks.tasks.webhook import RUN, Webhook, WebhookKeys

log = logging.getLogger("qtasks.schedules")

LATE = "a task was declared after the app had started: its schedules begin with the next start"

P = ParamSpec("P")
T = TypeVar("T")
AnyTask = Task[..., Any, Any]


class QTasks:
    """An app's tasks. Mount it where deliveries should arrive, and give its `lifespan` to the app.

    `broker` is a URL, by default that of `QTASKS_BROKER`, else `sqlite:///qtasks.db`. `name` tells
    apps apart that share one broker. `queues` declares queues that are not to be the usual
    `Queue(parallelism=16)`, and `defaults` the options of tasks that neither they nor their queue set.
    At most `concurrency` tasks run at once in this process, and at most `threads` of them are plain
    functions. A message of a task that is not here waits for `unknown_task_window`, as a roll-out may be
    under way, and is a dead letter then. `results`, by default that of `QTASKS_RESULTS`, is where results are
    kept with hosted QStash, which keeps none: `sqlite:///results.db` or `postgresql://…`. `outbox`,
    by default that of `QTASKS_OUTBOX`, is the app's own database, if calls in its transactions are to go
    out from there: a URL, or a function that connects. Nothing is opened before the first call or the
    lifespan. Raises `ConfigurationError`.
    """

    def __init__(
        self,
        broker: str | None = None,
        *,
        name: str = "app",
        queues: Mapping[str, Queue] | None = None,
        defaults: DefaultOptions | None = None,
        concurrency: int = 64,
        threads: int = 16,
        results: str | None = None,
        outbox: str | Callable[[], Any] | None = None,
        unknown_task_window: Span = "10m",
        settings: Settings | None = None,
        clock: Clock | None = None,
        ids: Ids | None = None,
    ) -> None:
        found = settings or Settings.from_env()
        self._settings = replace(
            found,
            broker=found.broker if broker is None else broker,
            results=found.results if results is None else results,
        )
        self._inbox = InboxTable(clock or SystemClock())
        self._name = check_app_name(name)
        self._queues = dict(queues or {})
        self._specs = {name: queue.spec for name, queue in self._queues.items()}
        self._layers = self._make_layers(defaults or {})
        self._clock = clock or SystemClock()
        self._ids = ids or Ids()
        self._registry = Registry()
        self._around = Around()
        self._tracing = find_tracing()
        self._concurrency = concurrency
        self._threads = ThreadPool(threads, self._clock)
        self._unknown_task_window_ms = read_window(unknown_task_window)
        self._find_to_run = self.find
        self._make_reporter: type[ProgressReporter] = ProgressReporter
        self._resolver: Resolver | None = None
        self._path = database_path(self._settings.broker) if self._settings.home is HomeKind.SQLITE else None
        self._outbox = Outbox(self._settings.outbox if outbox is None else outbox, self._path)
        self._results = self._make_results()
        self._home: Home = self._make_home()
        self._lifespans = 0
        self._is_lodging = False
        self._wire()
        CALLERS.add(weakref.WeakMethod(self._get_caller))
        APPS.add(self)

    @overload
    def task(
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> Task[P, T, Coroutine[Any, Any, T]]: ...
    @overload
    def task(self, function: Callable[P, T], /) -> Task[P, T, T]: ...
    @overload
    def task(self, /, *, bind: Literal[True], **options: Unpack[DeclaredOptions]) -> BoundDecorator: ...
    @overload
    def task(self, /, *, bind: Literal[False] = False, **options: Unpack[DeclaredOptions]) -> Decorator: ...
    def task(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Make a task of a function: `@tasks.task` or `@tasks.task(queue="mail", retries=5)`.

        With `bind=True` the function's first argument is its `Context`, which calls leave out.
        Raises `TaskDefinitionError` for a name that is taken, an option that does not exist, or a
        function that cannot be a task.
        """

        def decorate(decorated: Callable[..., Any]) -> AnyTask:
            made = make_task(decorated, self._registry, self._get_caller, options, self._layers)
            if made.schedules and self._lifespans and not self._is_lodging:
                log.warning(LATE, extra={"task": made.name})
            return made

        return decorate if function is None else decorate(function)

    def around(self, hook: AroundHook) -> AroundHook:
        """Run a generator function around every execution of a task in this app: up to its `yield`, and on.

        `def hook(context): ...; yield; ...`, or `async def`. The task's error is raised at the `yield`.
        Hooks go around each other in order of registration. One that raises before its `yield` has the
        task fail, which does not begin then. Raises `TaskDefinitionError` for what is no such function.
        """
        return self._around.add(hook)

    def find(self, name: str) -> AnyTask | None:
        """Give the task of that name or alias, also one of the module-level `@task`; else None."""
        return self._registry.find(name) or DEFAULT.find(name)

    def _names(self) -> list[str]:
        return [*self._registry.names(), *DEFAULT.names()]

    def send(self, name: str, /, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """Have a task called later that is defined in another process of this app.

        Arguments are plain JSON values, else `EncodeError`; whether they fit shows where the task runs.
        It goes where `defaults` say or, if the task is defined here as well, where its options say.
        """
        return self._caller.send(Elsewhere(name, self.find(name)), args, kwargs)

    async def asend(self, name: str, /, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """Do what `send` does without blocking the event loop."""
        return await self._caller.asend(Elsewhere(name, self.find(name)), args, kwargs)

    def collect(self) -> Collection:
        """Gather the calls of a block and send them together at its end: `with tasks.collect(): ...`.

        In the block, `delay` and its kin give handles at once, and nothing is sent if it raises. A
        block inside another one hands its calls on to that. `async with` does not block the event loop.
        """
        return self._caller.collection()

    def transaction(self, connection: object) -> Transaction:
        """Have the calls of a block go out if the transaction of this connection commits, else never.

        `with tasks.transaction(connection): ...`, or `async with`. Each is written to the connection when it
        is made, as by `delay_in`; the block itself neither begins nor ends a transaction.
        """
        return self._caller.transaction(connection)

    @property
    def outbox(self) -> AppTable:
        """The table `qtasks_outbox`, to be made in the app's database: `tasks.outbox.create(connection)`."""
        return self._outbox

    @property
    def inbox(self) -> InboxTable:
        """The table `qtasks_inbox` for `Context.once`, to be made and pruned in the app's database."""
        return self._inbox

    def result(self, task_id: str) -> AsyncResult[Any]:
        """Give the handle for a task id that was kept; its value comes as plain JSON."""
        return AsyncResult(task_id, source=self._home, decode=lambda value: value, clock=self._clock)

    @property
    def public_url(self) -> str | None:
        """Where these tasks are mounted as others see it, from `QTASKS_PUBLIC_URL`."""
        return self._settings.public_url

    def resolve_with(self, resolver: Resolver) -> None:
        """Have the dependencies of tasks filled in; for integrations, which call it as they are installed."""
        self._resolver = resolver

    def cancel(self, **which: Unpack[Which]) -> int:
        """Call off this app's tasks by `task`, `label` or `queue`, all that is given; say how many.

        What waits never starts; what runs is interrupted, as docs/tasks.md says. Raises `ArgumentsError`
        if nothing is given.
        """
        return self._home.cancel_matching(select(self._destination(), **which))

    async def acancel(self, **which: Unpack[Which]) -> int:
        """Do what `cancel` does without blocking the event loop."""
        return await self._home.acancel_matching(select(self._destination(), **which))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the webhook: `POST …/run`."""
        if scope["type"] == "lifespan":
            await self._serve_lifespan(receive, send)
        elif scope["type"] == "http":
            if not self._lifespans and (self._is_embedded or self._has_schedules):
                await self._start_late()
            await self._webhook(scope, receive, send)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Run the broker, where it is embedded, for as long as the app is up.

        At the end nothing more is started, deliveries in flight are let finish for up to 25 s, and
        the rest is handed back.
        """
        self._lifespans += 1
        try:
            if self._lifespans == 1:
                self._check_dependencies()
                self._get_executor().is_draining = False
                await self._start()
            yield
        finally:
            self._lifespans -= 1
            if not self._lifespans:
                await self._outbox.stop()
                await self._home.stop()
                self._get_executor().is_draining = True

    async def _serve_lifespan(self, receive: Receive, send: Send) -> None:
        """Speak ASGI's lifespan protocol: this object is itself the app that is served."""
        await receive()
        try:
            async with self.lifespan():
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        await self._home.start()
        self._outbox.start(self._home)

    async def _start_late(self) -> None:
        """Start without a lifespan: it was forgotten, and a request shows that the app serves."""
        self._lifespans += 1  # first, or a second request would start it again meanwhile
        try:
            await self._start()
        except BaseException:
            self._lifespans -= 1
            raise
        atexit.register(self._home.abandon)

    def _check_dependencies(self) -> None:
        for task in self._registry:
            if task.dependencies:
                resolver_for(self._resolver, task.name).check(task)

    # --- wiring ----------------------------------------------------------------------------------

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
            is_quick=runner.is_quick,
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
        return Caller(self._home, self._home, packer, self._clock, self._tracing, self._outlet())

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
