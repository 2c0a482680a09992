"""The threads of plain functions: as many run at once as there may be, however their starts fall."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

from qtasks.clock import SystemClock
from qtasks.tasks.threads import ThreadPool

AT_ONCE = 3
ROUNDS = 400
SOON_S = 10


async def test_a_function_never_waits_for_a_thread_that_another_one_has_just_taken() -> None:
    met = 0
    for _ in range(ROUNDS):
        pool, meeting = ThreadPool(AT_ONCE, SystemClock()), threading.Barrier(AT_ONCE)
        jobs = []
        for _ in range(AT_ONCE):
            jobs.append(pool.start(partial(meeting.wait, SOON_S), lambda: None))
            await asyncio.sleep(0)  # lets a thread get between two starts
        met += len(await asyncio.gather(*(each.future for each in jobs)))

    assert met == ROUNDS * AT_ONCE
