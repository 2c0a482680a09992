"""`AsyncResult`: what the caller of a task holds, to ask how it went."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

import orjson

from qtasks.clock import Clock
from qtasks.errors import ResultError, ResultTimeout, TaskFailed, WaitRefused
from qtasks.protocol.results import ResultView

T = TypeVar("T")

POLL_MS = 20_000  # one question to the broker waits this long at most; then it is asked again


class ResultSource(Protocol):
    """Where results are asked for: the broker, in process or over HTTP."""

    def result(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Say what is known of a task, waiting up to `wait_ms` for its end."""
        ...

    async def aresult(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Do what `result` does, on an event loop."""
        ...


class AsyncResult(Generic[T]):
    """A call that was enqueued. It holds nothing but the id: every question goes to the broker.

    `decode` turns the JSON value that is kept into what the task returned.
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

    @property
    def state(self) -> str:
        """`QUEUED SCHEDULED RUNNING RETRYING SUCCEEDED FAILED`, or `UNKNOWN` for an id nobody knows."""
        return self._source.result(self.id).state

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

    def get(self, timeout: float | None = None) -> T:
        """Wait for the task and give what it returned; `timeout` is in seconds, None for ever.

        Raises `TaskFailed` if it failed for good, `ResultTimeout` if it has not finished in time,
        `ResultError` if nobody knows it or its value is not kept, and `WaitRefused` on a thread
        whose event loop is running: the task may need that loop. Use `await result.aget()` there.
        """
        _refuse_in_loop()
        ends_at = self._ends_at(timeout)
        while True:
            wait_ms = self._wait_ms(ends_at)
            view = self._source.result(self.id, wait_ms)
            if view.is_final or view.state == "UNKNOWN":
                return self._value(view)
            self._check_time(ends_at, timeout, view)

    async def aget(self, timeout: float | None = None) -> T:
        """Do what `get` does without blocking the event loop."""
        ends_at = self._ends_at(timeout)
        while True:
            wait_ms = self._wait_ms(ends_at)
            view = await self._source.aresult(self.id, wait_ms)
            if view.is_final or view.state == "UNKNOWN":
                return self._value(view)
            self._check_time(ends_at, timeout, view)

    def _ends_at(self, timeout: float | None) -> int | None:
        return None if timeout is None else self._clock.monotonic() + int(timeout * 1000)

    def _wait_ms(self, ends_at: int | None) -> int:
        return POLL_MS if ends_at is None else max(0, min(POLL_MS, ends_at - self._clock.monotonic()))

    def _check_time(self, ends_at: int | None, timeout: float | None, view: ResultView) -> None:
        if ends_at is not None and self._clock.monotonic() >= ends_at:
            raise ResultTimeout(f"task {self.id} is still {view.state} after {timeout:g} s; it goes on")

    def _value(self, view: ResultView) -> T:
        if view.state == "UNKNOWN":
            raise ResultError(f"nobody knows task {self.id}: it was never accepted, or forgotten long ago")
        if view.state != "SUCCEEDED":
            raise _failure(view)
        if view.value is None:
            raise ResultError(
                f"task {self.id} succeeded, but its result is not kept: "
                "it was too large, its result_ttl has passed, or it was 0"
            )
        return cast(T, self._decode(orjson.loads(view.value)))


def _failure(view: ResultView) -> TaskFailed:
    document: dict[str, Any] = orjson.loads(view.error) if view.error else {}
    error = document.get("error")
    facts: dict[str, Any] = error if isinstance(error, dict) else {}
    return TaskFailed(
        task_id=view.task_id,
        state=view.state,
        type=str(facts.get("type", "Unknown")),
        message=str(facts.get("message", "the reason is not kept")),
        traceback=facts.get("traceback"),
    )


def _refuse_in_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise WaitRefused(
        ".get() would block the running event loop, which the task may need to run on; "
        "use: await result.aget()"
    )
