"""`QTasks`: an application's tasks, the broker they go to, and the webhook they come back through."""

from __future__ import annotations

import asyncio
import atexit
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Literal, ParamSpec, TypeVar, Unpack, overload

from starlette.types import Receive, Scope, Send

from qtasks.clock import Clock, SystemClock
from qtasks.home.apps import APPS
from qtasks.home.garbage import SET_APART
from qtasks.home.wiring import AnyTask, Wiring
from qtasks.ids import Ids
from qtasks.settings import Settings, check_app_name
from qtasks.tasks.app_tables import AppTable, InboxTable
from qtasks.tasks.around import AroundHook
from qtasks.tasks.buffering import Buffer
from qtasks.tasks.calling import Elsewhere
from qtasks.tasks.default import CALLERS
from qtasks.tasks.dependencies import Resolver
from qtasks.tasks.fitting import read_window
from qtasks.tasks.keys import Span
from qtasks.tasks.many import Collection
from qtasks.tasks.options import DeclaredOptions, DefaultOptions
from qtasks.tasks.queues import Queue
from qtasks.tasks.results import AsyncResult
from qtasks.tasks.selection import Which, select
from qtasks.tasks.task import BoundDecorator, Decorator, Task, make_task
from qtasks.tasks.transactions import Transaction

log = logging.getLogger("qtasks.schedules")

LATE = "a task was declared after the app had started: its schedules begin with the next start"

P = ParamSpec("P")
T = TypeVar("T")


class QTasks(Wiring):
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
        super().__init__(
            replace(
                found,
                broker=found.broker if broker is None else broker,
                results=found.results if results is None else results,
            ),
            name=check_app_name(name),
            queues=queues or {},
            defaults=defaults or {},
            concurrency=concurrency,
            threads=threads,
            unknown_task_window_ms=read_window(unknown_task_window),
            outbox=found.outbox if outbox is None else outbox,
            clock=clock or SystemClock(),
            ids=ids or Ids(),
        )
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

    def send(self, name: str, /, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """Have a task called later that is defined in another process of this app.

        Arguments are plain JSON values, else `EncodeError`; whether they fit shows where the task runs.
        It goes where `defaults` say or, if the task is defined here as well, where its options say.
        """
        return self._caller.send(Elsewhere(name, self.find(name)), args, kwargs)

    async def asend(self, name: str, /, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """Do what `send` does from an event loop, which stands still for a quick commit at most."""
        return await self._caller.asend(Elsewhere(name, self.find(name)), args, kwargs)

    def collect(self) -> Collection:
        """Gather the calls of a block and send them together at its end: `with tasks.collect(): ...`.

        In the block, `delay` and its kin give handles at once, and nothing is sent if it raises. A
        block inside another one hands its calls on to that. `async with` does not block the event loop.
        """
        return self._caller.collection()

    def buffered(self, *, size: int = 500, ms: int = 5, limit: int = 10_000) -> Buffer:
        """Make a buffer, whose calls return at once and are sent together in the background.

        `with tasks.buffered() as buffer: buffer.delay(send_email, "a@example.com")`, or one that is kept. It
        sends when `size` calls wait, up to twice as many at once, or `ms` milliseconds after the first one.
        A call is not durable before its future is done. While `limit` calls are not, further ones wait for
        room. What waits is sent at the end of the app's lifespan and of the process, or fails within 5 s and
        is logged.
        Raises `ArgumentsError`.
        """
        buffer = Buffer(self._clock, size=size, ms=ms, limit=limit)
        self._buffers.add(buffer)
        return buffer

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
            with SET_APART:
                yield
        finally:
            self._lifespans -= 1
            if not self._lifespans:
                await asyncio.gather(*(each.finish() for each in self._buffers))
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
