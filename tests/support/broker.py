"""A broker in a folder, with destinations that answer as a test tells them and a clock moved by hand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qtasks.broker.config import BrokerConfig
from qtasks.broker.delivery import Answer, OneByOne
from qtasks.broker.intake import internal_url
from qtasks.broker.keys import KeyRing
from qtasks.broker.node import Node
from qtasks.broker.security import parse_rules
from qtasks.broker.service import Broker
from qtasks.broker.store import logs
from qtasks.broker.store.filters import MessageFilter
from qtasks.broker.store.records import Claim, Reply
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.clock import ManualClock
from qtasks.ids import Ids
from qtasks.protocol.headers import Options, QueueSpec
from qtasks.protocol.shapes import LogEntry, Outgoing
from tests.support.store import Verbs

HOOK = "https://app.example/hook"
APP = "shop"
WIDE = QueueSpec(parallelism=100, ordered=False)
SOON_S = 10
"""For waits that end at once unless something is broken."""


class Held:
    """An answer that comes when the test lets it go."""

    def __init__(self, reply: Reply | None = None) -> None:
        self.reply = Reply(200) if reply is None else reply
        self.released = asyncio.Event()

    def release(self) -> None:
        """Let the answer come."""
        self.released.set()


class _Silence:
    """The delivery ends without a reply."""


SILENCE = _Silence()
Step = Reply | Held | Exception | _Silence


class WatchedClock(ManualClock):
    """A hand-moved clock that tells when somebody has begun to sleep."""

    def __init__(self) -> None:
        super().__init__()
        self._asleep = asyncio.Event()

    async def sleep(self, ms: int) -> None:
        self._asleep.set()
        await super().sleep(ms)

    async def somebody_sleeps(self) -> None:
        """Wait until somebody sleeps who did not when this was last asked."""
        async with asyncio.timeout(SOON_S):
            await self._asleep.wait()
        self._asleep.clear()


class ScriptedDeliverer(OneByOne):
    """Answers each attempt with the next step of its script, and with 200 once that is used up."""

    def __init__(self) -> None:
        self.attempts: list[Claim] = []
        self.is_closed = False
        self.witness: Callable[[Claim], None] = lambda claim: None
        """Called at the moment an attempt arrives."""
        self._script: deque[Step] = deque()
        self._held: dict[int, Held] = {}
        self._arrived = asyncio.Event()

    def will(self, *steps: Step) -> None:
        """Say what the next attempts are answered with."""
        self._script.extend(steps)

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of all attempts, in their order."""
        return [each.body for each in self.attempts]

    async def reached(self, count: int) -> None:
        """Wait until `count` attempts have arrived."""
        async with asyncio.timeout(SOON_S):
            while len(self.attempts) < count:
                self._arrived.clear()
                await self._arrived.wait()

    def part(self, claims: Sequence[Claim]) -> Sequence[Sequence[Claim]]:
        in_process = [each for each in claims if each.app is not None]
        parts = [[each] for each in claims if each.app is None]
        return [in_process, *parts] if in_process else parts

    async def deliver(self, claims: Sequence[Claim]) -> AsyncIterator[Sequence[Answer]]:
        for claim in claims:
            self.attempts.append(claim)
            self.witness(claim)
            self._arrived.set()
            step = self._script.popleft() if self._script else Reply(200)
            if isinstance(step, Exception):
                raise step
            if isinstance(step, Held):
                self._held[claim.seq] = step
                await step.released.wait()
                yield [(claim, step.reply)]
            elif isinstance(step, Reply):
                yield [(claim, step)]

    def drop(self, claim: Claim) -> None:
        if claim.seq in self._held:
            self._held[claim.seq].reply = Reply(0, error="cancelled")
            self._held[claim.seq].release()

    async def close(self) -> None:
        self.is_closed = True


class Rig:
    """A broker on its own SQLite file, one node of it, and its destinations.

    `config` are members of `BrokerConfig`.
    """

    def __init__(self, folder: Path, *, max_pages: int | None = None, **config: Any) -> None:
        self.clock = WatchedClock()
        self.ids = Ids.seeded(1)
        self.config = replace(BrokerConfig(), **config)
        # The machine is not switched off during a test, so nothing need be synced.
        self.database = SqliteDatabase(str(folder / "q.db"), durability="relaxed", max_pages=max_pages)
        self.broker = Broker(
            self.database,
            self.config,
            clock=self.clock,
            ids=self.ids,
            rules=parse_rules((), loopback=True),
            keys=KeyRing("sig_current", "sig_next", lambda current, following: None),
            app=APP,
        )
        self.deliverer = ScriptedDeliverer()
        self.node = self.new_node()
        self.store = Verbs(self.database, self.clock)

    def new_node(self) -> Node:
        """Begin another life of the broker on the same store; the test starts it."""
        return Node(self.broker, self.deliverer, self.config, app=APP, ids=self.ids)

    def enqueue(
        self,
        body: bytes = b"",
        *,
        queue: str = "mail",
        spec: QueueSpec | None = None,
        destination: str = HOOK,
        **options: Any,
    ) -> str:
        """Accept one message; give its id. The queue is ordered unless `spec` says otherwise."""
        outgoing = Outgoing(destination, body, Options(queue=spec, **options), queue)
        [answer] = self.broker.accept([outgoing])
        return answer.message_id

    def call(self, task_id: str, body: bytes = b"{}", **options: Any) -> str:
        """Accept the call of a task, which is run in process and whose result is kept for a minute."""
        known: dict[str, Any] = {"task_id": task_id, "result_ttl_ms": 60_000, "spec": WIDE} | options
        return self.enqueue(body, queue="tasks", destination=internal_url(APP), **known)

    async def turn(self) -> int:
        """Claim once and let all that ends; give the number of claims."""
        claimed = await self.node.dispatcher.step()
        async with asyncio.timeout(SOON_S):
            await self.node.dispatcher.idle()
        return len(claimed.claims)

    def log(self, message_id: str) -> list[LogEntry]:
        """Give the log of a message, oldest first."""
        entries, _ = self.broker.log(
            logs.LogFilter(MessageFilter(message_ids=frozenset({message_id}))), None, 1000
        )
        return entries[::-1]

    def states(self, message_id: str) -> str:
        """Give the states that a message went through, in order."""
        return ", ".join(each.state.value for each in self.log(message_id))
