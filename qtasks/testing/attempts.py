"""What came of attempts, for the test to see: what tasks have raised, and other reasons why they failed.

What was planned, and what a task raised to steer its own retries, is no failure here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import orjson

from qtasks.broker.store.records import Claim, Reply
from qtasks.errors import ControlFlow, TaskFailed
from qtasks.tasks.answers import UNCOUNTED
from qtasks.tasks.fitting import UNKNOWN_TASK

log = logging.getLogger("qtasks.testing")


@dataclass(slots=True)
class Attempt:
    """One attempt: the function of the task writes down in it what it raises."""

    is_planned: bool = False
    """Whether the test has it fail."""
    error: BaseException | None = None

    def watched(self, function: Callable[..., Any], *, is_coroutine: bool) -> Callable[..., Any]:
        """Give the same function, of which is known what it raises."""

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                self._note(error)
                raise

        async def call_later(*args: Any, **kwargs: Any) -> Any:
            try:
                return await function(*args, **kwargs)
            except BaseException as error:
                self._note(error)
                raise

        return call_later if is_coroutine else call

    def _note(self, error: BaseException) -> None:
        if not isinstance(error, asyncio.CancelledError):  # that is what ends it, and not why
            self.error = error

    def failure(self, claim: Claim, reply: Reply) -> BaseException | None:
        """Say what the test should hear of, if anything: the task's own exception, else what was answered."""
        if reply.status == 200 or self.is_planned or isinstance(self.error, ControlFlow):
            return None
        if self.error is not None:
            return self.error
        marker = next((value for name, value in reply.headers if name.lower() == UNCOUNTED.lower()), None)
        if marker not in (None, UNKNOWN_TASK):  # there is no roll-out in a test: such a task will never come
            return None
        type_, message, traceback = read_error(reply.body, reply.error)
        task_id = claim.task_id or claim.id
        return TaskFailed(task_id=task_id, state="FAILED", type=type_, message=message, traceback=traceback)


ATTEMPT: ContextVar[Attempt] = ContextVar("qtasks_kit_attempt")


class Failures:
    """The failures of one drain."""

    def __init__(self) -> None:
        self._found: list[BaseException] = []

    def add(self, failure: BaseException, claim: Claim) -> None:
        """Keep one, and log it: pytest shows that below a test that fails, which is then seldom a riddle."""
        self._found.append(failure)
        log.warning("an attempt failed", extra={"message_id": claim.id}, exc_info=failure)

    def take(self) -> list[BaseException]:
        """Give those since this was last asked."""
        found, self._found = self._found, []
        return found


def read_error(body: bytes, problem: str | None) -> tuple[str, str, str | None]:
    """Read type, message and traceback of an error document; without one, say what the broker says."""
    try:
        error = orjson.loads(body)["error"]
        return error["type"], error["message"], error.get("traceback")
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "Unknown", problem or "the reason is not known", None
