"""The context of tasks that a broker delivers: over attempts, queues and delays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from qtasks import Context, QTasks, current
from tests.support.homes import SOON_S, embedded


@pytest.fixture
async def app(store: Path) -> AsyncIterator[QTasks]:
    """An app that runs, on the loop of the test."""
    tasks = embedded(store)
    async with tasks.lifespan():
        yield tasks


async def test_attempts_of_a_call_count_up_and_share_their_ids(app: QTasks) -> None:
    seen: list[Context] = []

    @app.task(bind=True, queue="mail", retry_delay=0.01)
    async def send(context: Context, to: str) -> str:
        seen.append(context)
        if context.retried < 2:
            context.retry(countdown=0)
        return to

    result = send.delay("Ada")

    assert await result.aget(SOON_S) == "Ada"
    assert [each.attempt for each in seen] == [1, 2, 3]
    assert {each.task_id for each in seen} == {result.id}
    assert {(each.queue, each.task) for each in seen} == {("mail", send.name)}
    assert len({each.message_id for each in seen}) == 1


async def test_a_plain_function_knows_when_it_was_called_and_for_when(app: QTasks) -> None:
    @app.task(timeout="1m")
    def look() -> list[datetime]:
        context = current()
        assert context.scheduled_at is not None
        assert context.deadline is not None
        assert 0 < context.remaining() <= 60
        return [context.enqueued_at, context.scheduled_at, context.deadline]

    eta = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    before = datetime.now(UTC)

    enqueued_at, scheduled_at, deadline = await look.apply_async(eta=eta).aget(SOON_S)

    assert abs(enqueued_at - before) < timedelta(seconds=SOON_S)
    assert scheduled_at == eta
    assert eta + timedelta(minutes=1) <= deadline < eta + timedelta(minutes=1, seconds=SOON_S)
