"""Runs one delivery of a task and says what to answer: the same for the webhook and in process.

The broker decides when and how often; here it is decided whether. Nothing is executed that this
app has not signed for this very address.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from functools import partial
from typing import Any, Protocol

import orjson

from qtasks.clock import Clock
from qtasks.errors import (
    ConfigurationError,
    DecodeError,
    EncodeError,
    QTasksError,
    Retry,
    SignatureError,
    TaskTimeout,
)
from qtasks.ids import Ids
from qtasks.protocol.headers import SCHEDULED_AT
from qtasks.tasks.answers import (
    CONTINUED,
    NON_RETRYABLE,
    UNCOUNTED,
    Answer,
    describe,
    problem,
    type_of,
    uncounted,
)
from qtasks.tasks.around import Around
from qtasks.tasks.cancellation import Cancellation
from qtasks.tasks.context import CURRENT, Context, ReportProgress, make_context
from qtasks.tasks.dependencies import Fill, Resolver
from qtasks.tasks.envelope import Envelope, EnvelopeSigner, of_fire, unpack
from qtasks.tasks.fitting import WINDOW_MS, Fit, Fitter
from qtasks.tasks.hooks import hooks_of, tell
from qtasks.tasks.limits import Alarm, await_within, thread_within
from qtasks.tasks.options import NO_LAYERS, Layers, TaskOptions
from qtasks.tasks.outcomes import Ending, judge
from qtasks.tasks.recording import Record, ResultBackend, ended, started
from qtasks.tasks.resolving import resolver_for, thread_resolved
from qtasks.tasks.task import Task
from qtasks.tasks.threads import ThreadPool
from qtasks.tasks.tracing import Tracing, Untraced
from qtasks.tasks.watching import Watch, tell_refused
from qtasks.values import dataclass

log = logging.getLogger("qtasks.executor")

NOTHING_NEW = (403, 409)  # not for this app, or an earlier attempt still runs and will tell
NOTHING: Mapping[str, object] = {}
CALLED_OFF = problem(499, "Cancelled", "the task was called off while it ran")
DEFAULT_RETRIES = 3  # of a call that an older version has enqueued, which does not say


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt, as it arrived. `signature` is the envelope's; `retried` counts from 0."""

    message_id: str
    body: bytes
    signature: str | None
    retried: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """What came with it, names in lower case."""
    cancellation: Cancellation = field(default_factory=Cancellation)
    """By which whoever brought it calls it off."""


@dataclass(slots=True)
class _Attempt:
    """One execution under way. `context` is there from the moment in which its time began."""

    delivery: Delivery
    envelope: Envelope
    task: Task[..., Any, Any]
    options: TaskOptions
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    watch: Watch
    context: Context | None = None


class GoOn(Protocol):
    """Enqueues a call anew, and gives the message's id; `spent` retries were made till then."""

    async def __call__(
        self,
        envelope: Envelope,
        target: Task[..., Any, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        after_ms: int,
        spent: int,
    ) -> str: ...


class Executor:
    """Executes deliveries on the loop it is called on; plain functions on its own threads.

    `destination` is the app's own address, `layers` what it says of its tasks. `redact` are secrets
    that must not leave in an error. `go_on` enqueues a call anew and gives the message's id. Without
    `report_progress`, what tasks say of theirs is dropped. `results` is where the app writes down what its
    broker does not keep. `around` are the hooks of the app, and `tracing` makes its spans. `resolver` gives
    what fills in dependencies, if anything does. `find` looks a task up, `names` lists them; messages of
    others wait for `unknown_task_window_ms`.
    """

    def __init__(
        self,
        find: Callable[[str], Task[..., Any, Any] | None],
        *,
        signer: EnvelopeSigner,
        destination: str,
        threads: ThreadPool,
        clock: Clock,
        ids: Ids | None = None,
        layers: Layers = NO_LAYERS,
        redact: Sequence[str] = (),
        go_on: GoOn | None = None,
        report_progress: ReportProgress | None = None,
        results: ResultBackend | None = None,
        around: Around | None = None,
        tracing: Tracing | None = None,
        resolver: Callable[[], Resolver | None] = lambda: None,
        names: Callable[[], Iterable[str]] = tuple,
        unknown_task_window_ms: int = WINDOW_MS,
    ) -> None:
        self._around = around or Around()
        self._tracing = tracing or Untraced()
        self._go_on = go_on
        self._results = results
        self._signer = signer
        self._destination = destination
        self._threads = threads
        self._clock = clock
        self._ids = ids or Ids()
        self._layers = layers
        self._resolver = resolver
        self._redact = [each for each in redact if each]
        self._report_progress = report_progress
        self._fitter = Fitter(find, names, window_ms=unknown_task_window_ms, clock=clock, redact=self._redact)
        self._running: set[str] = set()
        self._alarm: Alarm | None = None
        self.is_draining = False

    @property
    def running(self) -> int:
        """How many executions have not ended, those included that nobody waits for any more."""
        return len(self._running)

    async def execute(self, delivery: Delivery) -> Answer:
        """Run the task that a delivery carries, unless there is a reason not to."""
        try:
            self._signer.check(delivery.body, delivery.signature)
            envelope = unpack(delivery.body)
            if envelope.schedule is not None:
                fired_at = delivery.headers.get(SCHEDULED_AT.lower())
                envelope = of_fire(envelope, fired_at, delivery.message_id, self._clock.now())
        except SignatureError as error:
            return _refused(delivery, problem(403, "SignatureError", str(error)))
        except DecodeError as error:
            return _refused(delivery, problem(489, "DecodeError", str(error), NON_RETRYABLE))
        answer = self._refusal(delivery, envelope)
        if answer is None:
            fit = self._fitter.fit(envelope, delivery.message_id)
            answer = await self._run(delivery, fit) if isinstance(fit, Fit) else _unfit(delivery, fit)
        if self._results is not None and answer.status not in NOTHING_NEW:
            await self._note(self._results, ended(envelope, delivery.retried, answer, self._clock.now()))
        return answer

    def _refusal(self, delivery: Delivery, envelope: Envelope) -> Answer | None:
        if envelope.destination != self._destination:
            text = f"the task was signed for {envelope.destination}, not for this app"
            return _refused(delivery, problem(403, "SignatureError", text))
        if envelope.expires_at is not None and self._clock.now() > envelope.expires_at:
            # Our broker then sees for itself that it is too late; to others it is dead.
            return problem(
                489,
                "Expired",
                "the task expired before it could run",
                (UNCOUNTED, "expired"),
                ("Retry-After", "1"),
                NON_RETRYABLE,
            )
        if self.is_draining:
            return uncounted(503, "draining", "the app is shutting down", 1)
        if delivery.message_id in self._running:
            return uncounted(409, "running", "an earlier attempt of this task is still running here", 5)
        return None

    async def _run(self, delivery: Delivery, fit: Fit) -> Answer:
        task, envelope = fit.task, fit.envelope
        options = task.options_in(self._layers)
        number = envelope.spent + delivery.retried + 1
        with self._tracing.executing(
            envelope, task=task.name, message_id=delivery.message_id, attempt=number
        ) as note:
            watch = Watch(
                task, envelope, delivery.message_id, number, options.log_args, self._redact, self._clock, note
            )
            return await self._attempt(
                _Attempt(delivery, envelope, task, options, fit.args, fit.kwargs, watch)
            )

    async def _attempt(self, attempt: _Attempt) -> Answer:
        try:
            result = await self._call(attempt)
        except BaseException as error:  # the wall around a task: SystemExit in one is its failure alone
            if _is_ours(error, attempt.task):
                raise
            if attempt.delivery.cancellation.is_cancelled:
                attempt.watch.cancelled()
                return CALLED_OFF
            return await self._failed(error, attempt)
        answer = _returned(attempt.task, result)
        if answer.status == 200:
            attempt.watch.succeeded()
            if attempt.options.on_success is not None:
                await self._tell(Ending.DONE, attempt, result)
        else:
            attempt.watch.failed(Ending.REFUSED, type_of(answer))
        return answer

    async def _call(self, attempt: _Attempt) -> Any:
        """Run the task's function within its time; it counts as running until it has really ended."""
        self._running.add(attempt.delivery.message_id)
        over = partial(self._running.discard, attempt.delivery.message_id)
        call = partial(self._enter, attempt)
        if self._results is not None:
            await self._note_start(self._results, attempt, over)
        timeout_ms = attempt.envelope.timeout_ms
        if attempt.task.is_coroutine:
            with attempt.delivery.cancellation:
                return await await_within(call, timeout_ms, over, self._find_alarm())
        run = partial(thread_within, self._threads, call, timeout_ms, over, self._clock)
        if attempt.task.dependencies:
            resolve = partial(self._resolve, attempt)
            run = partial(thread_resolved, resolve, call, self._threads, timeout_ms, over, self._clock)
        if not self._around.has_async:
            return await run()
        return await self._around.acall_outside(self._context(attempt), run, timeout_ms, over)

    async def _note_start(self, results: ResultBackend, attempt: _Attempt, over: Callable[[], None]) -> None:
        record = started(attempt.envelope, attempt.delivery.retried, self._clock.now())
        try:
            await self._note(results, record)
        except BaseException:  # called off meanwhile: it never ran
            over()
            raise

    async def _note(self, results: ResultBackend, record: Record) -> None:
        """Write down how a task goes; the task counts, so that it could not be written is only logged."""
        try:
            await asyncio.to_thread(results.store, [record])
        except Exception:  # the wall: whatever the store is, and whatever ails it
            view = record.view
            log.exception(
                "cannot write down how a task goes", extra={"task_id": view.task_id, "state": view.state}
            )

    def _find_alarm(self) -> Alarm:
        loop = asyncio.get_running_loop()
        if self._alarm is None or self._alarm.loop is not loop:
            self._alarm = Alarm(loop)
        return self._alarm

    def _enter(self, attempt: _Attempt, values: Mapping[str, object] = NOTHING) -> Any:
        """Call the function with its context set; on the thread where it runs, and when its time begins."""
        task = attempt.task
        if attempt.delivery.cancellation.is_cancelled:  # while it waited for a thread
            raise asyncio.CancelledError
        context = self._begin(attempt)
        attempt.watch.begins()
        call = partial(_invoke, attempt, values)
        if task.is_coroutine and task.dependencies:
            call = partial(self._resolve, attempt, partial(_invoke, attempt))
        if not self._around.has_any:
            return call()
        return (self._around.acall if task.is_coroutine else self._around.call)(context, call)

    async def _resolve(self, attempt: _Attempt, fill: Fill) -> Any:
        """Go on inside the dependencies of the task, which see its context as well."""
        context = attempt.context or self._begin(attempt)
        return await resolver_for(self._resolver(), attempt.task.name).run(attempt.task, context, fill)

    def _begin(self, attempt: _Attempt) -> Context:
        context = attempt.context = self._context(attempt)
        CURRENT.set(context)
        return context

    def _context(self, attempt: _Attempt) -> Context:
        envelope, delivery = attempt.envelope, attempt.delivery
        return make_context(
            attempt.task.name,
            envelope.id,
            delivery.message_id,
            retried=envelope.spent + delivery.retried,
            queue=envelope.queue,
            enqueued_at=envelope.enqueued_at,
            start_at=envelope.start_at,
            schedule=envelope.schedule,
            timeout_ms=envelope.timeout_ms,
            headers=delivery.headers,
            cancellation=delivery.cancellation,
            clock=self._clock,
            report=self._report_progress,
        )

    async def _failed(self, error: BaseException, attempt: _Attempt) -> Answer:
        envelope = attempt.envelope
        retried = envelope.spent + attempt.delivery.retried
        if isinstance(error, Retry) and error.is_anew and retried < _retries(envelope):
            try:
                return await self._goes_on(error, attempt, retried + 1)
            except QTasksError as refusal:  # its arguments do not fit, or the broker cannot take it
                error = refusal
        failure = judge(
            error,
            attempt.options,
            retried=retried,
            retries=_retries(envelope),
            retry_delay=envelope.retry_delay,
            fraction=self._ids.fraction(),
            spent=envelope.spent,
        )
        type_ = "TimeoutError" if isinstance(error, TaskTimeout) else type(error).__name__
        document = describe(error, type_, self._redact)
        attempt.watch.failed(failure.ending, type_, error, retry_in_ms=failure.retry_in_ms)
        await self._tell(failure.ending, attempt, error)
        return Answer(failure.status, document, failure.headers)

    async def _goes_on(self, retry: Retry, attempt: _Attempt, spent: int) -> Answer:
        """Leave the rest to another message: with other arguments, or later than a broker repeats one."""
        if self._go_on is None:
            raise ConfigurationError("nothing can be enqueued anew here")
        after_ms = round((retry.after_s or 0) * 1000)
        message_id = await self._go_on(
            attempt.envelope,
            attempt.task,
            attempt.args if retry.new_args is None else tuple(retry.new_args),
            attempt.kwargs if retry.new_kwargs is None else retry.new_kwargs,
            after_ms=after_ms,
            spent=spent,
        )
        attempt.watch.failed(Ending.AGAIN, type(retry).__name__, retry, retry_in_ms=after_ms)
        await self._tell(Ending.AGAIN, attempt, retry)
        return Answer(200, b"null", ((CONTINUED, message_id),))

    async def _tell(self, ending: Ending, attempt: _Attempt, what: Any) -> None:
        if attempt.context is not None:
            for name, hook in hooks_of(attempt.options, ending):
                await tell(hook, name, attempt.context, what, self._threads)


def _refused(delivery: Delivery, answer: Answer) -> Answer:
    tell_refused(delivery.message_id, answer.status, type_of(answer))
    return answer


def _unfit(delivery: Delivery, answer: Answer) -> Answer:
    """Answer for a task that is not here, or does not take its arguments."""
    return _refused(delivery, answer) if NON_RETRYABLE in answer.headers else answer


def _retries(envelope: Envelope) -> int:
    return DEFAULT_RETRIES if envelope.retries is None else envelope.retries


def _invoke(attempt: _Attempt, values: Mapping[str, object]) -> Any:
    first = (attempt.context,) if attempt.task.is_bound else ()
    return attempt.task.function(*first, *attempt.args, **attempt.kwargs, **values)


def _returned(task: Task[..., Any, Any], result: object) -> Answer:
    """Answer with what a task returned; one that cannot travel would be no better the next time."""
    if inspect.iscoroutine(result):
        result.close()
        return problem(
            489,
            "TaskDefinitionError",
            f"{task.name} is async inside a decorator that is not, so nothing has awaited it; "
            "make the decorator's own function async",
            NON_RETRYABLE,
        )
    try:
        return Answer(200, orjson.dumps(task.signature.encode_result(result)))
    except EncodeError as error:
        return problem(
            489, "EncodeError", f"{task.name} ran, but its result cannot be sent: {error}", NON_RETRYABLE
        )


def _is_ours(error: BaseException, task: Task[..., Any, Any]) -> bool:
    """Whether it is this execution that is being ended, and not the task's own code that raises so."""
    if isinstance(error, asyncio.CancelledError):
        current = asyncio.current_task()
        return current is not None and current.cancelling() > 0
    return isinstance(error, KeyboardInterrupt) and task.is_coroutine  # Ctrl-C never reaches our threads
