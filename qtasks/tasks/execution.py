"""Runs one delivery of a task and says what to answer: the same for the webhook and in process.

The broker decides when and how often; here it is decided whether. Nothing is executed that this
app has not signed for this very address.
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from qtasks.clock import Clock
from qtasks.errors import DecodeError, EncodeError, Reject, Retry, SignatureError
from qtasks.tasks.context import CURRENT, make_context
from qtasks.tasks.envelope import Envelope, EnvelopeSigner, unpack
from qtasks.tasks.options import NO_LAYERS, Layers
from qtasks.tasks.task import Task
from qtasks.tasks.threads import Job, ThreadPool

UNCOUNTED = "Qtasks-Uncounted"
NON_RETRYABLE = ("Upstash-NonRetryable-Error", "true")
UNKNOWN_TASK_AFTER_S = 30
MESSAGE_LIMIT = 4096
TRACEBACK_LIMIT = 16384


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt, as it arrived. `signature` is the envelope's; `retried` counts from 0."""

    message_id: str
    body: bytes
    signature: str | None
    retried: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What the app answers: an HTTP status, headers and a JSON body."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Executor:
    """Executes deliveries on the loop it is called on; plain functions on its own threads.

    `destination` is the app's own address, `layers` what it says of its tasks. `redact` are secrets
    that must not leave in an error.
    """

    def __init__(
        self,
        find: Callable[[str], Task[..., Any, Any] | None],
        *,
        signer: EnvelopeSigner,
        destination: str,
        threads: ThreadPool,
        clock: Clock,
        layers: Layers = NO_LAYERS,
        redact: Sequence[str] = (),
    ) -> None:
        self._find = find
        self._signer = signer
        self._destination = destination
        self._threads = threads
        self._clock = clock
        self._layers = layers
        self._redact = [each for each in redact if each]
        self._running: set[str] = set()
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
        except SignatureError as error:
            return _problem(403, "SignatureError", str(error))
        except DecodeError as error:
            return _problem(489, "DecodeError", str(error), NON_RETRYABLE)
        refusal = self._refusal(delivery, envelope)
        if refusal is not None:
            return refusal
        task = self._find(envelope.task)
        if task is None:
            return _problem(
                503,
                "UnknownTask",
                f"no task is named {envelope.task!r} here; is the module that defines it imported?",
                ("Retry-After", str(UNKNOWN_TASK_AFTER_S)),
            )
        return await self._run(delivery, envelope, task)

    def _refusal(self, delivery: Delivery, envelope: Envelope) -> Answer | None:
        if envelope.destination != self._destination:
            return _problem(
                403, "SignatureError", f"the task was signed for {envelope.destination}, not for this app"
            )
        if envelope.expires_at is not None and self._clock.now() > envelope.expires_at:
            return _problem(489, "Expired", "the task expired before it could run", NON_RETRYABLE)
        if self.is_draining:
            return uncounted(503, "draining", "the app is shutting down", 1)
        if delivery.message_id in self._running:
            return uncounted(409, "running", "an earlier attempt of this task is still running here", 5)
        return None

    async def _run(self, delivery: Delivery, envelope: Envelope, task: Task[..., Any, Any]) -> Answer:
        try:
            args, kwargs = task.signature.decode(envelope.args, envelope.kwargs)
        except DecodeError as error:
            return _problem(489, "DecodeError", f"{task.name}: {error}", NON_RETRYABLE)
        call = partial(self._enter, delivery, envelope, task, args, kwargs)
        self._running.add(delivery.message_id)
        over = partial(self._running.discard, delivery.message_id)
        try:
            if task.is_coroutine:
                result = await self._await(call, envelope.timeout_ms, over)
            else:
                result = await self._thread(call, envelope.timeout_ms, over)
            return _returned(task, result)
        except BaseException as error:  # the wall around a task: SystemExit in one is its failure alone
            if _is_ours(error, task):
                raise
            return self._failure(error, task)

    def _enter(
        self,
        delivery: Delivery,
        envelope: Envelope,
        task: Task[..., Any, Any],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> Any:
        """Call the function with its context set; on the thread where it runs, and when its time begins."""
        context = make_context(
            task.name,
            envelope.id,
            delivery.message_id,
            retried=delivery.retried,
            queue=envelope.queue,
            enqueued_at=envelope.enqueued_at,
            start_at=envelope.start_at,
            timeout_ms=envelope.timeout_ms,
            clock=self._clock,
        )
        CURRENT.set(context)
        return task.function(context, *args, **kwargs) if task.is_bound else task.function(*args, **kwargs)

    async def _await(self, call: Callable[[], Any], timeout_ms: int | None, over: Callable[[], None]) -> Any:
        limit = asyncio.timeout(_seconds(timeout_ms))
        try:
            async with limit:
                return await call()
        except TimeoutError as error:
            if limit.expired():
                raise _OutOfTime(timeout_ms) from error
            raise
        finally:
            CURRENT.set(None)  # what runs here next is no task: a server may use one context for several
            over()

    async def _thread(self, call: Callable[[], Any], timeout_ms: int | None, over: Callable[[], None]) -> Any:
        """Wait for a thread no longer than allowed; it cannot be stopped, so it stays marked as running."""
        job = self._threads.start(call, over)
        if timeout_ms is None:
            return await job.future
        timer = _Timer(job, timeout_ms, self._clock)
        try:
            return await job.future
        finally:
            timer.cancel()

    def _failure(self, error: BaseException, task: Task[..., Any, Any]) -> Answer:
        document = self._document(error)
        if isinstance(error, Retry):
            headers = () if error.after_s is None else (("Retry-After", f"{max(0.0, error.after_s):g}"),)
            return Answer(503, document, headers)
        if isinstance(error, Reject):
            return Answer(489, document, (NON_RETRYABLE,))
        if not task.options_in(self._layers).is_retried(error):
            return Answer(489, document, (NON_RETRYABLE,))
        return Answer(504 if isinstance(error, _OutOfTime) else 500, document)

    def _document(self, error: BaseException) -> bytes:
        name = "TimeoutError" if isinstance(error, _OutOfTime) else type(error).__name__
        lines = traceback.format_exception(error.with_traceback(_own_frames(error)))
        return _document(name, self._clean(_text(error)), self._clean("".join(lines)))

    def _clean(self, text: str) -> str:
        for secret in self._redact:
            text = text.replace(secret, "***")
        return text


class _Timer:
    """Gives a job up when its time is over; waiting for a free thread does not count."""

    def __init__(self, job: Job, timeout_ms: int, clock: Clock) -> None:
        self._job = job
        self._timeout_ms = timeout_ms
        self._clock = clock
        self._look_in(timeout_ms)

    def _look_in(self, ms: int) -> None:
        self._handle = self._job.landing.loop.call_later(ms / 1000, self._look)

    def _look(self) -> None:
        started_at = self._job.started_at
        used_ms = 0 if started_at is None else self._clock.monotonic() - started_at
        if used_ms < self._timeout_ms:
            self._look_in(self._timeout_ms - used_ms)
        elif not self._job.future.done():
            self._job.future.set_exception(_OutOfTime(self._timeout_ms))

    def cancel(self) -> None:
        """Look no more."""
        self._handle.cancel()


class _OutOfTime(TimeoutError):
    """The task was given up after its `timeout`."""

    def __init__(self, timeout_ms: int | None) -> None:
        super().__init__(f"the task did not finish within {_seconds(timeout_ms):g} s")


def _returned(task: Task[..., Any, Any], result: object) -> Answer:
    """Answer with what a task returned; one that cannot travel would be no better the next time."""
    if inspect.iscoroutine(result):
        result.close()
        return _problem(
            489,
            "TaskDefinitionError",
            f"{task.name} is async inside a decorator that is not, so nothing has awaited it; "
            "make the decorator's own function async",
            NON_RETRYABLE,
        )
    try:
        return Answer(200, orjson.dumps(task.signature.encode_result(result)))
    except EncodeError as error:
        return _problem(
            489, "EncodeError", f"{task.name} ran, but its result cannot be sent: {error}", NON_RETRYABLE
        )


def uncounted(status: int, why: str, message: str, after_s: int) -> Answer:
    """Answer that this attempt was not made: our broker does not count it."""
    return _problem(status, "NotNow", message, (UNCOUNTED, why), ("Retry-After", str(after_s)))


def _problem(status: int, type_: str, message: str, *headers: tuple[str, str]) -> Answer:
    return Answer(status, _document(type_, message, None), headers)


def _document(type_: str, message: str, trace: str | None) -> bytes:
    """The error document: what a caller, a dead letter queue or a person reads of a failure."""
    error = {
        "type": type_,
        "message": _sendable(message[:MESSAGE_LIMIT]),
        "traceback": None if trace is None else _sendable(trace[-TRACEBACK_LIMIT:]),
    }
    return orjson.dumps({"error": error})


def _sendable(text: str) -> str:
    """Replace lone surrogates, which JSON cannot carry."""
    return text.encode("utf-8", "replace").decode()


def _is_ours(error: BaseException, task: Task[..., Any, Any]) -> bool:
    """Whether it is this execution that is being ended, and not the task's own code that raises so."""
    if isinstance(error, asyncio.CancelledError):
        current = asyncio.current_task()
        return current is not None and current.cancelling() > 0
    return isinstance(error, KeyboardInterrupt) and task.is_coroutine  # Ctrl-C never reaches our threads


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # its own code, and it may do anything
        return f"<{type(error).__name__} that cannot be printed>"


def _own_frames(error: BaseException) -> Any:
    """Leave out our own frames at the top: the reader looks for theirs."""
    trace = error.__traceback__
    while (
        trace is not None
        and trace.tb_next
        and trace.tb_frame.f_globals.get("__name__", "").startswith("qtasks.")
    ):
        trace = trace.tb_next
    return trace


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000
