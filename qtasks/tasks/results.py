"""`AsyncResult`: what the caller of a task holds, to ask how it went, wait for it or call it off.

What it is told is in `result_info.py`; waiting for many is in `completed.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar, cast

import orjson

from qtasks.clock import Clock
from qtasks.errors import ResultError, ResultTimeout, TaskFailed, WaitRefused
from qtasks.protocol.results import ResultView
from qtasks.tasks.result_info import Progress, RemoteError, TaskInfo, make_info, remote_error
from qtasks.tasks.waiting import refuse_in_loop, refuse_in_task

T_co = TypeVar("T_co", covariant=True)

POLL_MS = 20_000  # one question to the broker waits this long at most; then it is asked again


class ResultSource(Protocol):
    """Where results are asked for: the broker, in process or over HTTP. Safe to call from any thread.

    Each method has a twin for event loops. Those that wait return by themselves once it is in vain.
    """

    def result(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Say what is known of a task, waiting up to `wait_ms` for its end."""
        ...

    async def aresult(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Do what `result` does, on an event loop."""
        ...

    def settled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Give those of up to 1,000 tasks that have finished or are unknown; waits for the first of them."""
        ...

    async def asettled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Do what `settled` does, on an event loop."""
        ...

    def cancel(self, task_id: str) -> bool:
        """Call a task off; say whether it was under way and not called off before."""
        ...

    async def acancel(self, task_id: str) -> bool:
        """Do what `cancel` does, on an event loop."""
        ...

    def forget(self, task_id: str) -> bool:
        """Drop the value or error that is kept of a task; say whether there was one."""
        ...

    async def aforget(self, task_id: str) -> bool:
        """Do what `forget` does, on an event loop."""
        ...

    def stall(self) -> str | None:
        """Say why a wait without end would be one, as far as this process can tell; else None."""
        ...


class AsyncResult(Generic[T_co]):
    """A call that was enqueued. It holds nothing but the id: every question goes to the broker.

    The properties are questions of their own, and block for a moment; `info` or `await ainfo()` asks
    for everything at once. `decode` turns the JSON value that is kept into what the task returned.
    """

    __slots__ = ("__weakref__", "_clock", "_decode", "_source", "id")  # thousands of them may be held

    def __init__(
        self, id: str, *, source: ResultSource, decode: Callable[[object], object], clock: Clock
    ) -> None:
        self.id = id
        self._source = source
        self._decode = decode
        self._clock = clock

    def __repr__(self) -> str:
        return f"<AsyncResult {self.id}>"

    # --- looking ---------------------------------------------------------------------------------

    def info(self) -> TaskInfo[T_co]:
        """Say all that is known of the task now."""
        return make_info(self._source.result(self.id), self._decode)

    async def ainfo(self) -> TaskInfo[T_co]:
        """Do what `info` does without blocking the event loop."""
        return make_info(await self._source.aresult(self.id), self._decode)

    @property
    def state(self) -> str:  # no `Literal`: a checker would take it to stay what it was when it was asked
        """`QUEUED SCHEDULED RUNNING RETRYING`, or how it ended; `UNKNOWN` for an id nobody knows."""
        return self._source.result(self.id).state

    @property
    def attempts(self) -> int:
        """How many attempts were started."""
        return self._source.result(self.id).attempts

    @property
    def result(self) -> T_co | None:
        """What the task returned; None if it has not, or its result is not kept. Never waits or raises."""
        return self.info().result

    @property
    def error(self) -> RemoteError | None:
        """Why the task failed; None if it has not, or that is not kept."""
        return remote_error(self._source.result(self.id))

    @property
    def progress(self) -> Progress | None:
        """How far the task says it has come; None if it has not told, or has finished."""
        return self.info().progress

    def ready(self) -> bool:
        """Say whether the task has finished, one way or the other."""
        return self._source.result(self.id).is_final

    def successful(self) -> bool:
        """Say whether the task has finished and returned."""
        return self.state == "SUCCEEDED"

    def failed(self) -> bool:
        """Say whether the task has finished without returning."""
        view = self._source.result(self.id)
        return view.is_final and view.state != "SUCCEEDED"

    # --- waiting ---------------------------------------------------------------------------------

    def get(self, timeout: float | None = None, *, allow_in_task: bool = False) -> T_co:
        """Wait for the task and give what it returned; `timeout` is in seconds, None for ever.

        Raises `TaskFailed` if it failed for good, `ResultTimeout` if it has not finished in time, and
        `ResultError` if nobody knows it or its value is not kept. Raises `WaitRefused` where the wait
        might never end: on a thread whose event loop is running, which the task may need (use `await
        result.aget()` there); inside a task, unless `allow_in_task`; and without a `timeout` in a server
        that has forgotten its lifespan, while no process runs the tasks.
        """
        refuse_in_loop("get()", "await result.aget()")
        refuse_in_task(timeout, allow_in_task)
        ends_at = self._ends_at(timeout)
        while True:
            stall = None if timeout is not None else self._source.stall()
            view = self._source.result(self.id, 0 if stall else self._wait_ms(ends_at))
            if view.is_settled:
                return self._value(view)
            self._check(stall, ends_at, timeout, view)

    async def aget(self, timeout: float | None = None, *, allow_in_task: bool = False) -> T_co:
        """Do what `get` does without blocking the event loop."""
        refuse_in_task(timeout, allow_in_task)
        ends_at = self._ends_at(timeout)
        while True:
            stall = None if timeout is not None else self._source.stall()
            view = await self._source.aresult(self.id, 0 if stall else self._wait_ms(ends_at))
            if view.is_settled:
                return self._value(view)
            self._check(stall, ends_at, timeout, view)

    # --- changing --------------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Call the task off; say whether it was under way and not called off before.

        One that waits ends at once, `CANCELLED`. One that runs gets no further attempt, and ends with
        the attempt under way: `CANCELLED`, or `SUCCEEDED` if it returns all the same.
        """
        return self._source.cancel(self.id)

    async def acancel(self) -> bool:
        """Do what `cancel` does without blocking the event loop."""
        return await self._source.acancel(self.id)

    def forget(self) -> None:
        """Have the broker drop what the task returned, or its error; the state stays known.

        Of a task that has not finished nothing is kept yet, so nothing is dropped.
        """
        self._source.forget(self.id)

    async def aforget(self) -> None:
        """Do what `forget` does without blocking the event loop."""
        await self._source.aforget(self.id)

    def _ends_at(self, timeout: float | None) -> int | None:
        return None if timeout is None else self._clock.monotonic() + int(timeout * 1000)

    def _wait_ms(self, ends_at: int | None) -> int:
        return POLL_MS if ends_at is None else max(0, min(POLL_MS, ends_at - self._clock.monotonic()))

    def _check(self, stall: str | None, ends_at: int | None, timeout: float | None, view: ResultView) -> None:
        if stall is not None:
            raise WaitRefused(f"task {self.id} is {view.state}, and {stall}")
        if ends_at is not None and self._clock.monotonic() >= ends_at:
            raise ResultTimeout(f"task {self.id} is still {view.state} after {timeout:g} s; it goes on")

    def _value(self, view: ResultView) -> T_co:
        if view.state == "UNKNOWN":
            raise ResultError(
                f"nobody knows task {self.id}: it was never accepted, or forgotten long ago; "
                "calls in a collect() block are sent at its end"
            )
        if view.state != "SUCCEEDED":
            raise _failure(view)
        if view.value is None:
            raise ResultError(
                f"task {self.id} succeeded, but its result is not kept: "
                "it was too large or forgotten, its result_ttl has passed, or it was 0"
            )
        return cast(T_co, self._decode(orjson.loads(view.value)))


def _failure(view: ResultView) -> TaskFailed:
    error = remote_error(view) or RemoteError("Unknown", "the reason is not kept", None)
    return TaskFailed(
        task_id=view.task_id,
        state=view.state,
        type=error.type,
        message=error.message,
        traceback=error.traceback,
    )
