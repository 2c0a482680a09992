"""`Kit`: what a test holds. Everything else in this room is its parts."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from contextvars import Context
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast
from weakref import WeakSet

import orjson

from qtasks.broker.keys import KeyRing
from qtasks.errors import KitError
from qtasks.home.app import QTasks
from qtasks.home.apps import APPS
from qtasks.home.periodic import synchronise
from qtasks.protocol.durations import span_ms
from qtasks.settings import Settings
from qtasks.tasks.calling import Caller
from qtasks.tasks.default import DEFAULT
from qtasks.tasks.keys import Span
from qtasks.tasks.task import Task
from qtasks.tasks.webhook import RUN
from qtasks.testing.calls import AnyTask, DeadCall, EnqueuedCall
from qtasks.testing.clocks import AppClock, FollowingCaller, KitClock
from qtasks.testing.delivery import AsgiDeliverer
from qtasks.testing.faults import Doubling, Failure, Faults
from qtasks.testing.home import KitHome, PromptReporter
from qtasks.testing.journal import Journal
from qtasks.testing.rounds import DOMAIN, Drained, Rounds, SteadyIds

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

LIMIT = 10_000
MADE_IN_KITS: WeakSet[QTasks] = WeakSet()


class Kit:
    """Runs the tasks of apps in memory, when the test says so: `with Kit() as kit: ...`.

    In the block the `apps`, by default all of the process, also those made later, send their calls to a
    broker in memory. Nothing runs before `drain` or `advance`. Time stands still at `now`, by default that
    of the machine, until `advance` moves it. At most `concurrency` tasks run at once: one after the other
    unless it is told. Everything is as before at the end.
    """

    def __init__(self, *apps: QTasks, now: datetime | None = None, concurrency: int = 1) -> None:
        if now is not None and now.tzinfo is None:
            raise KitError(f"now={now.isoformat()} has no time zone, so it names no instant")
        if concurrency < 1:
            raise KitError(
                f"concurrency={concurrency} lets nothing run; it is how many tasks may run at once"
            )
        self._ids = SteadyIds()
        self._given = apps
        self._apps: dict[str, QTasks] = {}
        self._concurrency = concurrency
        self._clock = KitClock(None if now is None else _ms(now))
        self._app_clock = AppClock(self._clock)
        self._faults = Faults()
        self._keys = KeyRing(self._ids.signing_key(), self._ids.signing_key())
        self._secret = self._ids.secret()
        self._home = KitHome(
            lambda: self._rounds.broker, lambda: self._is_draining, is_serial=concurrency == 1
        )
        self._stack = ExitStack()
        self._runner: asyncio.Runner | None = None
        self._is_draining = False
        self._is_open = False

    def __enter__(self) -> Self:
        if self._is_open:
            raise KitError("this kit is open already; make another one: Kit()")
        self._start_anew()
        _let_go()
        with ExitStack() as stack:
            self._stack = stack
            if not self._given:
                stack.enter_context(APPS.watched(self._take_new))
            for app in self._given or APPS:
                self._take(app)
            self._stack = stack.pop_all()
        self._is_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        self._stack.close()
        self._rounds.close()
        self._apps.clear()
        if self._runner is not None:
            _close(self._runner)
            self._runner = None

    # --- running ---------------------------------------------------------------------------------

    def drain(self, *, wait: bool = False, raise_errors: bool = False, limit: int = LIMIT) -> Drained:
        """Run all that is due now, and what that enqueues, until nothing is.

        With `wait` also what is not due yet, retries and delays, each at its own instant, as if the test
        waited for it. With `raise_errors` the first failure is raised at the end: the exception of a task,
        or `TaskFailed` where it is not the task's own. Raises `KitError` after `limit` deliveries, and where
        an event loop is running: use `await kit.adrain()`.
        """
        return self._on_own_loop(self.adrain, wait=wait, raise_errors=raise_errors, limit=limit)

    async def adrain(self, *, wait: bool = False, raise_errors: bool = False, limit: int = LIMIT) -> Drained:
        """Do what `drain` does, on the event loop of the test: for tests that are `async def`."""
        return await self._run(None, wait, raise_errors, limit)

    def advance(
        self,
        span: Span = 0,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        raise_errors: bool = False,
        limit: int = LIMIT,
    ) -> Drained:
        """Let time pass, and run all that falls due meanwhile: each at its own instant, in order.

        `span` is in seconds, a timedelta, or a text such as "1h30m"; it and the others add up. Raises
        what `drain` raises.
        """
        until = self._clock.now() + _added(span, days, hours, minutes, seconds)
        return self._on_own_loop(self._run, until, False, raise_errors, limit)

    async def aadvance(
        self,
        span: Span = 0,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        raise_errors: bool = False,
        limit: int = LIMIT,
    ) -> Drained:
        """Do what `advance` does, on the event loop of the test."""
        until = self._clock.now() + _added(span, days, hours, minutes, seconds)
        return await self._run(until, False, raise_errors, limit)

    @property
    def now(self) -> datetime:
        """The kit's time, in UTC."""
        return datetime.fromtimestamp(self._clock.now() / 1000, UTC)

    # --- looking ---------------------------------------------------------------------------------

    def enqueued(self, task: AnyTask | str | None = None, /, *args: Any, **kwargs: Any) -> list[EnqueuedCall]:
        """List the calls that were enqueued since the kit began, oldest first, whatever came of them.

        Of a `task` only those, of these only those with these arguments: as many as are given, compared by
        `==` with what the function gets, defaults included. Raises `ArgumentsError` for a parameter that
        the task does not have.
        """
        return [self._journal.seen(each) for each in self._journal.found(task, args, kwargs)]

    def results(self, task: Task[P, T, R], /, *args: Any, **kwargs: Any) -> list[T]:
        """Give what the calls of a task have returned that have succeeded, in the order of the calls.

        Arguments choose among them as with `enqueued`.
        """
        found = self._journal.found(task, args, kwargs)
        # Once each: a task that was enqueued anew is the same one.
        views = [self._home.result(each) for each in dict.fromkeys(each.envelope.id for each in found)]
        values = [each.value for each in views if each.state == "SUCCEEDED" and each.value is not None]
        decoded: list[Any] = [task.signature.decode_result(orjson.loads(each)) for each in values]
        return decoded

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All calls as JSON that is the same at every run: for snapshots. Spans are in seconds."""
        return [each.snapshot(self._home.result(each.envelope.id)) for each in self._journal.calls()]

    @property
    def dead_letters(self) -> list[DeadCall]:
        """List the calls that are not tried again, oldest first."""
        return self._journal.dead()

    # --- having things go wrong ------------------------------------------------------------------

    def fail_next(
        self,
        task: AnyTask | str | None = None,
        error: Failure | None = None,
        *,
        times: int = 1,
    ) -> None:
        """Have the next attempts, of `task` or of any, raise `error` instead of running the function.

        It is an exception or a type of them, by default a `ConnectionError`.
        """
        planned = ConnectionError("the test has this attempt fail") if error is None else error
        self._faults.fail(self._name(task), planned, times)

    def lose_next(self, task: AnyTask | str | None = None, *, times: int = 1) -> None:
        """Have the next attempts, of `task` or of any, run without the broker hearing of it.

        So it tries again: as when a process is killed between the end of a task and its report.
        """
        self._faults.lose(self._name(task), times)

    def deliver_twice(self) -> Doubling:
        """Hand each message over twice from now on, or in a block: `with kit.deliver_twice(): ...`.

        Tasks that are not idempotent show. An attempt that fails is not doubled: it is tried again anyway.
        """
        return Doubling(self._faults)

    def clear(self) -> None:
        """Forget all messages, results and planned failures; the clock stays where it is."""
        self._check_idle()
        self._rounds.close()
        self._faults = Faults()
        self._start_anew()

    # --- wiring ----------------------------------------------------------------------------------

    def _start_anew(self) -> None:
        deliverer = AsgiDeliverer(
            self._apps,
            self._faults,
            name_of=lambda claim: self._journal.name_of(claim),
            signing_key=self._keys.current,
            clock=self._clock,
            ids=self._ids,
        )
        self._rounds = Rounds(
            deliverer, self._clock, self._ids, keys=self._keys, concurrency=self._concurrency
        )
        self._journal = Journal(self._apps, self._rounds.broker)

    def _take_new(self, app: QTasks) -> None:
        MADE_IN_KITS.add(app)
        self._take(app)

    def _take(self, app: QTasks) -> None:
        number = len(self._apps) + 1
        url = f"https://app-{number}.{DOMAIN}"
        is_taken = any(each._name == app._name for each in self._apps.values())
        name = f"{app._name}-{number}" if is_taken else app._name  # schedules are told apart by it
        settings = Settings(
            broker=f"http://broker.{DOMAIN}",
            token=self._secret,
            signing_keys=self._keys.pair,
            secrets=(self._secret,),
            public_url=url,
        )
        self._stack.enter_context(
            app._in_home(
                self._home,
                settings,
                name=name,
                clock=self._app_clock,
                ids=self._ids,
                stand_in=lambda task: self._faults.stand_in(task),
                through=lambda caller: cast(
                    Caller, FollowingCaller(caller, self._clock, lambda: self._is_draining)
                ),
                reporter=PromptReporter,
            )
        )
        self._apps[f"{url}/{RUN}"] = app

    async def _run(self, until: int | None, waits: bool, raise_errors: bool, limit: int) -> Drained:
        self._check_idle()
        for app in self._apps.values():  # each time, as tasks may have been declared meanwhile
            synchronise(self._rounds.broker.schedules, app._timetable())
        self._is_draining = True
        try:
            running = self._rounds.run(until=until, waits=waits, limit=limit)
            # In a context of their own: what a test sets there reaches no task, as nowhere else.
            drained = await asyncio.create_task(running, context=Context())
        finally:
            self._is_draining = False
            failures = self._rounds.failures.take()
        if raise_errors and failures:
            raise failures[0]
        return drained

    def _on_own_loop(self, run: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run on a loop that is the kit's own, and the same from one time to the next."""
        if _is_loop_running():
            raise KitError(
                "an event loop is running in this thread, and tasks may need it; "
                "use: await kit.adrain(), or await kit.aadvance(...)"
            )
        self._check_idle()
        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        return self._runner.run(run(*args, **kwargs))

    def _name(self, task: AnyTask | str | None) -> str | None:
        return None if task is None else self._journal.name(task)

    def _check_idle(self) -> None:
        if not self._is_open:
            raise KitError("this kit is not in use; do it in its block: with Kit() as kit: ...")
        if self._is_draining:
            raise KitError("the kit is running tasks already; it is the test that drains, not a task")


def _let_go() -> None:
    """Have Python look for apps of earlier tests, gone but for their circles, where they would be felt.

    Their schedules would fire here, and tasks of the module-level `@task` would have more than one app.
    """
    if MADE_IN_KITS and (len(DEFAULT) or any(each._has_schedules for each in MADE_IN_KITS)):
        gc.collect()


def _ms(instant: datetime) -> int:
    return round(instant.timestamp() * 1000)


def _added(span: Span, days: float, hours: float, minutes: float, seconds: float) -> int:
    return span_ms(span) + span_ms(timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds))


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _close(runner: asyncio.Runner) -> None:
    if _is_loop_running():  # it cannot run another one to clean it up
        runner.get_loop().close()
    else:
        runner.close()
