"""The paths that every task takes, each run so often in a process of its own: for `instructions.py` to count.

Time and ids are the same in every run, SQLite syncs little, and the garbage collector rests, so that two
runs differ by what was done. Each path is run twice, the second time twice as often: what is between them is
the path alone, without its preparation. Prints a line for each process: its id, the path, how often.

    python -m tests.benchmarks.hot_paths [PATH ...]
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qtasks.broker.api import ROUTES, Api
from qtasks.client import calls
from qtasks.client.kept import Meanwhile, nothing
from qtasks.ids import Ids
from qtasks.protocol.batches import DeliveryLine, write_deliveries
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.protocol.signature import sign
from qtasks.tasks.calling import Caller
from qtasks.tasks.envelope import SIGNATURE_HEADER, pack, unpack
from qtasks.tasks.queues import Queue
from qtasks.tasks.registry import Registry
from qtasks.tasks.task import Task, make_task
from qtasks.tasks.webhook import Webhook, WebhookKeys
from tests.benchmarks.processes import TOKEN
from tests.support.asgi import call as ask
from tests.support.broker import Rig
from tests.support.tasks import KEY, NOW, URL, NoResults, Workshop

Run = Callable[[int], None]
TEXT = "x" * 64
AT_ONCE = 100
BULK = 500
BATCH_URL = f"{URL.removesuffix('run')}batch"


class Recorder:
    """A sender that keeps what it is given, or hands it on."""

    def __init__(self, accept: Callable[[Sequence[Outgoing]], list[Enqueued]] | None = None) -> None:
        self.messages: list[Outgoing] = []
        self._accept = accept

    def send(self, messages: Sequence[Outgoing], meanwhile: Meanwhile = nothing) -> list[Enqueued]:
        if self._accept is not None:
            return self._accept(messages)
        self.messages += messages
        return [Enqueued("msg_1")] * len(messages)

    async def asend(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        return self.send(messages)


def _task(sender: Recorder) -> Task[..., Any, Any]:
    shop = Workshop()
    caller = Caller(sender, NoResults(), shop.packer(bench=Queue(parallelism=1000)), shop.clock)

    def noop(text: str) -> None: ...

    return make_task(noop, Registry(), lambda: caller, {"name": "noop", "queue": "bench"})


def _messages(count: int) -> list[Outgoing]:
    sender = Recorder()
    task = _task(sender)
    task.delay_many(task.call(TEXT) for _ in range(count))
    return sender.messages


def delay(folder: Path, total: int) -> Run:
    """`.delay()` with a broker in this process: bind, convert, pack, sign, accept, store."""
    task = _task(Recorder(Rig(folder).broker.accept))

    def run(count: int) -> None:
        for _ in range(count):
            task.delay(TEXT)

    return run


def call(folder: Path, total: int) -> Run:
    """The part of it that is the app's, up to the sender."""
    task = _task(Recorder(lambda messages: [Enqueued("msg_1")]))

    def run(count: int) -> None:
        for _ in range(count):
            task.delay(TEXT)

    return run


def request(folder: Path, total: int) -> Run:
    """A call that comes over HTTP, from its parsed request to its answer."""
    return _asking(folder, [calls.enqueue(each) for each in _messages(total)])


def request_many(folder: Path, total: int) -> Run:
    """The same of calls that come in requests of 100."""
    messages = _messages(total)
    asked = [calls.batch(messages[first : first + AT_ONCE]) for first in range(0, total, AT_ONCE)]
    return _asking(folder, asked, AT_ONCE)


def _asking(folder: Path, asked: Sequence[calls.Call[Any]], size: int = 1) -> Run:
    api = Api(Rig(folder).broker, ROUTES, (TOKEN,))
    requests, runner = iter(asked), asyncio.Runner()

    async def work(count: int) -> None:
        for _ in range(count // size):
            call = next(requests)
            known = _encoded({"Authorization": f"Bearer {TOKEN}", **dict(call.headers)})
            answered = await ask(api, call.method, call.target.encode(), headers=known, chunks=(call.body,))
            assert answered.status == 200, answered.body

    return lambda count: runner.run(work(count))


def accept_many(folder: Path, total: int) -> Run:
    """The broker's part of `delay_many`, 500 at a time."""
    broker, messages = Rig(folder).broker, iter(_messages(total))

    def run(count: int) -> None:
        for _ in range(count // BULK):
            broker.accept([next(messages) for _ in range(BULK)])

    return run


def turn(folder: Path, total: int) -> Run:
    """The dispatcher's part: claim, hand over, judge, settle."""
    rig = Rig(folder)
    for number in range(0, total, BULK):
        rig.broker.accept(_renamed(_messages(min(BULK, total - number)), number))
    runner = asyncio.Runner()

    def run(count: int) -> None:
        runner.run(_turns(rig, count))

    return run


def _renamed(messages: Sequence[Outgoing], number: int) -> list[Outgoing]:
    """Tell apart what was made with the same seed."""
    return [
        replace(
            each, options=replace(each.options, dedup_id=f"{number}-{place}", task_id=f"tsk_{number}-{place}")
        )
        for place, each in enumerate(messages)
    ]


async def _turns(rig: Rig, count: int) -> None:
    wanted = len(rig.deliverer.attempts) + count
    while len(rig.deliverer.attempts) < wanted:
        if not await rig.turn():
            raise AssertionError("nothing was left to claim")


def envelope(folder: Path, total: int) -> Run:
    """The envelope: written and signed, checked and read."""
    shop = Workshop()
    written = shop.envelope("noop", TEXT, queue="bench", retries=3)

    def run(count: int) -> None:
        for _ in range(count):
            body = pack(written)
            shop.signer.check(body, shop.signer.sign(body))
            unpack(body)

    return run


def _workshop() -> Workshop:
    shop = Workshop()

    async def noop(text: str) -> None: ...

    shop.task(noop)
    return shop


def execute(folder: Path, total: int) -> Run:
    """The app's part of a coroutine, without HTTP: check, read, convert, call, encode."""
    shop = _workshop()
    deliveries = iter([shop.delivery(shop.envelope("noop", TEXT, id=f"tsk_{n}")) for n in range(total)])
    runner = asyncio.Runner()

    async def work(count: int) -> None:
        for _ in range(count):
            answer = await shop.executor.execute(next(deliveries))
            assert answer.status == 200, answer.body

    return lambda count: runner.run(work(count))


def webhook(folder: Path, total: int) -> Run:
    """The same by a request to `/run`, one for each."""
    shop = _workshop()
    app = Webhook(lambda: shop.executor, keys=WebhookKeys((KEY,), URL), concurrency=64, clock=shop.clock)
    bodies = [pack(shop.envelope("noop", TEXT, id=f"tsk_{number}")) for number in range(total)]
    requests = iter([(body, _encoded(shop.headers(body))) for body in bodies])
    runner = asyncio.Runner()

    async def work(count: int) -> None:
        for _ in range(count):
            body, headers = next(requests)
            answered = await ask(app, "POST", b"/qtasks/run", headers=headers, chunks=(body,))
            assert answered.status == 200, answered.body

    return lambda count: runner.run(work(count))


def batch(folder: Path, total: int) -> Run:
    """The same by requests to `/batch`, with 100 in each."""
    shop, ids = _workshop(), Ids.seeded(2)
    app = Webhook(lambda: shop.executor, keys=WebhookKeys((KEY,), URL), concurrency=64, clock=shop.clock)
    requests = iter([_batch(shop, ids, first) for first in range(0, total, AT_ONCE)])
    runner = asyncio.Runner()

    async def work(count: int) -> None:
        for _ in range(count // AT_ONCE):
            body, headers = next(requests)
            answered = await ask(app, "POST", b"/qtasks/batch", headers=headers, chunks=(body,))
            assert answered.status == 200, answered.body

    return lambda count: runner.run(work(count))


def _batch(shop: Workshop, ids: Ids, first: int) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    lines = []
    for number in range(first, first + AT_ONCE):
        body = pack(shop.envelope("noop", TEXT, id=f"tsk_{number}"))
        headers = {SIGNATURE_HEADER.lower(): shop.signer.sign(body)}
        lines.append(DeliveryLine(f"msg_{number}", 0, headers, body))
    whole = write_deliveries(lines)
    token = sign(BATCH_URL, whole, key=KEY, now=NOW, jti=ids.token_id())
    return whole, _encoded({"Upstash-Signature": token})


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


PATHS: dict[str, tuple[Callable[[Path, int], Run], int]] = {
    "call": (call, 300),
    "delay": (delay, 200),
    "request": (request, 200),
    "request_many": (request_many, 500),
    "accept_many": (accept_many, 500),
    "turn": (turn, 640),
    "envelope": (envelope, 500),
    "execute": (execute, 300),
    "webhook": (webhook, 200),
    "batch": (batch, 500),
}
"""By name: what prepares the path for as many rounds as there will be, and how often it is run."""


def work(name: str, count: int) -> None:
    """Prepare a path, run it once to warm it, then `count` times."""
    prepare, least = PATHS[name]
    with TemporaryDirectory(prefix="qtasks-paths-") as folder:
        run = prepare(Path(folder), 3 * least)
        run(least)
        gc.collect()
        gc.disable()
        run(count)


def main() -> None:
    for name in sys.argv[1:] or PATHS:
        least = PATHS[name][1]
        for count in (least, 2 * least):
            # What all paths load is loaded once, here, as that takes most of the time under valgrind.
            child = os.fork()
            if not child:
                work(name, count)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            if status:
                raise SystemExit(f"{name} ended with {status}")
            print(child, name, count, flush=True)


if __name__ == "__main__":
    main()
