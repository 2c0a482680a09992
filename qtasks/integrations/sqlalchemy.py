"""SQLAlchemy: `delay_on_commit`, for calls that need a commit but no outbox.

They are sent after the commit, so a process that dies in between loses them; `Task.delay_in` does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction, scoped_session
from sqlalchemy.util import await_only

from qtasks.tasks.task import Task

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

KEY = "qtasks.on_commit"


@dataclass(slots=True)
class _Waiting:
    """What a session sends once it has committed, each with the transaction or savepoint it was called in."""

    calls: list[tuple[SessionTransaction | None, Callable[[], object]]] = field(default_factory=list)

    def committed(self, session: Session) -> None:
        """Send, unless it was a savepoint that has ended."""
        if session.in_nested_transaction():
            return
        calls, self.calls = self.calls, []
        for _, send in calls:
            send()

    def rolled_back(self, session: Session, ended: SessionTransaction) -> None:
        """Forget what was called in a transaction that is undone, or in a savepoint of it."""
        self.calls = [each for each in self.calls if not _is_within(each[0], ended)]


def delay_on_commit(
    session: Session | scoped_session[Any] | AsyncSession,
    task: Task[P, T, R],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> None:
    """Have a task called once this session has committed; never, if it rolls back.

    Arguments are checked and taken as they are now. With an `AsyncSession` the call does not block the
    event loop.
    """
    call = task.call(*args, **kwargs)
    if isinstance(session, AsyncSession):
        _add(session.sync_session, lambda: await_only(task.adelay_many([call])))
    else:
        inner: Session = session() if isinstance(session, scoped_session) else session
        _add(inner, lambda: task.delay_many([call]))


def _add(session: Session, send: Callable[[], object]) -> None:
    waiting: _Waiting | None = session.info.get(KEY)
    if waiting is None:
        waiting = session.info[KEY] = _Waiting()
        event.listen(session, "after_commit", waiting.committed)
        event.listen(session, "after_soft_rollback", waiting.rolled_back)
    if not session.in_transaction():
        session.begin()
    waiting.calls.append((session.get_nested_transaction() or session.get_transaction(), send))


def _is_within(inner: SessionTransaction | None, outer: SessionTransaction) -> bool:
    while inner is not None and inner is not outer:
        inner = inner.parent
    return inner is outer
