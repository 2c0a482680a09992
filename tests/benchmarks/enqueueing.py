"""How many calls a second are accepted, by threads, coroutines and in bulk; and what the client could do."""

from __future__ import annotations

from functools import partial
from typing import Any

from qtasks.cli.bench import measuring
from qtasks.cli.bench.machine import file_pace, seconds_since
from qtasks.cli.bench.rig import SIZE
from qtasks.clock import SystemClock, stopwatch_ns
from qtasks.protocol.headers import Options
from qtasks.protocol.shapes import Outgoing
from qtasks.tasks.senders import HttpSender
from tests.benchmarks.homes import Site, Subject, empty_endpoint, opened
from tests.benchmarks.processes import TOKEN
from tests.benchmarks.sizes import Programme

WARM = 50
BODY = (
    b'{"v":1,"task":"bench.noop","id":"tsk_0123456789abcdef0123456789abcdef","args":["%s"],"kwargs":{},"meta":'
    b'{"destination":"http://127.0.0.1:8000/run","enqueuedAt":1700000000000,"queue":"bench","retries":3}}'
    % (b"x" * SIZE)
)


def enqueue(site: Site, programme: Programme) -> dict[str, float]:
    """Measure all ways to call, with the pace of the database right before and after."""
    with opened(site) as subject:
        before = site.pace()
        figures = measuring.enqueue(subject.rig, programme.calls)
        figures |= buffered(subject, programme.calls.many)
        figures["raw"] = (before + site.pace()) / 2
    if site.home.is_standalone:
        figures["client"] = client_pace(programme.calls.single)
        figures["exchange"] = client_pace(programme.calls.single, "--listener")
    return figures


def buffered(subject: Subject, count: int) -> dict[str, float]:
    """Measure calls one by one through a buffer, until all of them are durable."""
    make: Any = getattr(subject.rig.tasks, "buffered", None)
    if make is None:
        return {}
    before = subject.done()
    with measuring.paused(subject.rig):
        began_at = stopwatch_ns()
        with make() as buffer:
            for _ in range(count):
                buffer.delay(subject.rig.work.noop, subject.rig.text)
        rate = count / seconds_since(began_at)
    subject.rig.await_number(before + count, subject.done)
    return {"buffered": rate}


def relaxed(site: Site, programme: Programme) -> dict[str, float]:
    """Measure one thread where a power cut may lose the newest calls."""
    with opened(site, durability="relaxed") as subject, measuring.paused(subject.rig):
        rate = measuring.calls_per_second(
            partial(subject.rig.work.noop.delay, subject.rig.text), 1, programme.calls.single
        )
    return {"relaxed_1": rate, "relaxed_raw": file_pace(site.folder, "relaxed")}


def client_pace(count: int, *options: str) -> float:
    """Send single calls by our HTTP client to an endpoint that does nothing."""
    message = Outgoing("http://127.0.0.1:8000/run", BODY, Options(), queue="bench")
    with empty_endpoint(*options) as url:
        sender = HttpSender(url, TOKEN, clock=SystemClock())
        try:
            for _ in range(WARM):
                sender.send([message])
            began_at = stopwatch_ns()
            for _ in range(count):
                sender.send([message])
            return count / seconds_since(began_at)
        finally:
            sender.close()
