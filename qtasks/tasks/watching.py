"""What is told of calls and attempts while they happen: log lines on `qtasks.task`, and the span's end.

The keys of the lines are told in `docs/observing.md` and stay. An argument is logged for `log_args` alone,
and none of the app's own secrets ever.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from qtasks.clock import Clock
from qtasks.errors import Retry
from qtasks.protocol.shapes import Enqueued
from qtasks.tasks.envelope import Envelope
from qtasks.tasks.outcomes import Ending
from qtasks.tasks.tracing import NoteEnding

if TYPE_CHECKING:
    from qtasks.tasks.task import Task

log = logging.getLogger("qtasks.task")


def tell_enqueued(task: str, task_id: str, queue: str | None, answer: Enqueued) -> None:
    """Say that the broker has a call; of one that it had already, `message_id` is the earlier one's."""
    facts = {"task": task, "task_id": task_id, "message_id": answer.message_id, "queue": queue}
    log.debug("task enqueued", extra=facts)


def tell_refused(message_id: str, status: int, type_: str) -> None:
    """Say that a delivery was not for this app to execute, or not now."""
    log.warning("delivery refused", extra={"message_id": message_id, "status": status, "error_type": type_})


@dataclass(slots=True)
class Watch:
    """Tells of one attempt; `number` counts from 1. `note` is its span's."""

    task: Task[..., Any, Any]
    envelope: Envelope
    message_id: str
    number: int
    log_args: bool
    secrets: Sequence[str]
    clock: Clock
    note: NoteEnding
    _began_at: int | None = None

    def begins(self) -> None:
        """Say that its time begins."""
        self._began_at = self.clock.monotonic()
        if log.isEnabledFor(logging.INFO):
            log.info("task started", extra=self._facts())

    def succeeded(self) -> None:
        """Say that the task returned, and that its result can travel."""
        self.note(Ending.DONE, None, None)
        if log.isEnabledFor(logging.INFO):
            log.info("task succeeded", extra={**self._facts(), "runtime_ms": self._runtime_ms()})

    def failed(
        self,
        ending: Ending,
        type_: str,
        error: BaseException | None = None,
        *,
        retry_in_ms: int | None = None,
    ) -> None:
        """Say that it failed and, with the traceback, why. A `Retry` was asked for, so nothing broke."""
        is_asked = isinstance(error, Retry) and ending is Ending.AGAIN
        shown = None if is_asked or error is None else self._showable(error)
        self.note(ending, None if is_asked else type_, shown)
        if not log.isEnabledFor(logging.WARNING if ending is Ending.AGAIN else logging.ERROR):
            return
        facts = {**self._facts(), "runtime_ms": self._runtime_ms(), "error_type": type_}
        if ending is Ending.AGAIN:
            facts["retry_in_ms"] = retry_in_ms
            log.warning("task failed, will retry", extra=facts, exc_info=shown)
        else:
            log.error("task failed for good", extra=facts, exc_info=shown)

    def cancelled(self) -> None:
        """Say that it was called off while it ran."""
        self.note(Ending.CANCELLED, None, None)
        if log.isEnabledFor(logging.INFO):
            log.info("task cancelled", extra={**self._facts(), "runtime_ms": self._runtime_ms()})

    def _runtime_ms(self) -> int:
        return 0 if self._began_at is None else self.clock.monotonic() - self._began_at

    def _showable(self, error: BaseException) -> BaseException | None:
        """Give the error, unless its text or traceback tells a secret."""
        if not self.secrets:
            return error
        text = "".join(traceback.format_exception(error))
        return None if any(secret in text for secret in self.secrets) else error

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "task": self.task.name,
            "task_id": self.envelope.id,
            "message_id": self.message_id,
            "queue": self.envelope.queue,
            "attempt": self.number,
        }
        if self.log_args:
            facts["arguments"] = self._arguments()
        return facts

    def _arguments(self) -> Any:
        """Give the arguments by parameter, as they travelled."""
        text = orjson.dumps(self.task.signature.arguments(self.envelope.args, self.envelope.kwargs)).decode()
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return orjson.loads(text)
