"""A broker that can die and begin another life on the same file, with destinations that wait to be told.

Its clock is moved by hand, and its backoff is never spread, so that what it does can be foretold.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from qtasks.broker.api import ROUTES, Api
from qtasks.broker.config import BrokerConfig
from qtasks.broker.delivery import Answer, OneByOne
from qtasks.broker.keys import KeyRing
from qtasks.broker.node import Node
from qtasks.broker.security import parse_rules
from qtasks.broker.service import Broker
from qtasks.broker.store.records import Claim, Claimed, Reply
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.clock import ManualClock
from qtasks.ids import Ids
from tests.support.asgi import Answered, call

TOKEN = "eyJVc2VySUQiOiJkZWZhdWx0VXNlciJ9"
TURNS = 10
"""How often the event loop goes round until everything that can happen has happened."""

Replies = Mapping[str, Reply | None]
"""How the attempts of these messages end; None is without any answer."""


class EvenIds(Ids):
    """Ids that repeat from run to run, and a jitter of nothing."""

    def __init__(self) -> None:
        super().__init__(random.Random(1).randbytes)

    def fraction(self) -> float:
        return 0.0


class AtOnce(ThreadPoolExecutor):
    """Does what is submitted there and then: no thread to wait for, and the same order in every run."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class PatientDestinations(OneByOne):
    """Keeps each attempt waiting until the test says how it ends."""

    def __init__(self) -> None:
        self.attempts: list[Claim] = []
        self._waiting: dict[str, asyncio.Future[Reply | None]] = {}

    async def deliver(self, claims: Sequence[Claim]) -> AsyncIterator[Sequence[Answer]]:
        for claim in claims:
            assert claim.id not in self._waiting, f"{claim.id} is attempted twice at once"
            self.attempts.append(claim)
            self._waiting[claim.id] = asyncio.get_running_loop().create_future()
            try:
                reply = await self._waiting[claim.id]
            finally:
                del self._waiting[claim.id]
            if reply is not None:
                yield [(claim, reply)]

    def answer(self, message_id: str, reply: Reply | None) -> None:
        """Let the attempt of a message end."""
        self._waiting[message_id].set_result(reply)

    def drop(self, claim: Claim) -> None:
        """Go on: the test says how attempts end."""


class MortalBroker:
    """A broker on its own file, whose process can die at any moment between two calls."""

    def __init__(self, path: Path, **config: Any) -> None:
        self.clock = ManualClock()
        self.destinations = PatientDestinations()
        self._ids = EvenIds()
        self._path = path
        self._config = replace(BrokerConfig(), **config)
        self._begin()

    def _begin(self) -> None:
        # The machine is not switched off during a test, so nothing need be synced.
        self._database = SqliteDatabase(str(self._path), durability="relaxed")
        broker = Broker(
            self._database,
            self._config,
            clock=self.clock,
            ids=self._ids,
            rules=parse_rules((), loopback=True),
            keys=KeyRing("sig_current", "sig_next", lambda current, following: None),
        )
        self._api = Api(broker, ROUTES, [TOKEN])
        self.node = Node(broker, self.destinations, self._config, app=None, ids=self._ids)
        # That a destination is handed less after refusals is no matter of the contract, and tested elsewhere.
        self.node.dispatcher.slots.standings.end = lambda claim, reply: None  # type: ignore[method-assign]

    async def call(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answered:
        """Make a request to the API."""
        known = {"Authorization": f"Bearer {TOKEN}", **(headers or {})}
        pairs = [(name.encode(), value.encode()) for name, value in known.items()]
        return await call(self._api, method, path.encode(), headers=pairs, chunks=(body,))

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        status: int = 200,
    ) -> Any:
        """Make a request, insist on the status of its answer, and give what it holds; None for nothing."""
        answer = await self.call(method, path, headers, body)
        assert answer.status == status, f"{method} {path} {headers}: {answer.status} {answer.body!r}"
        return answer.json if answer.body else None

    async def claim(self) -> Claimed:
        """Claim once, and let the attempts reach their destinations."""
        claimed = await self.node.dispatcher.step()
        await _let_happen()
        return claimed

    async def settle(self, replies: Replies) -> None:
        """Let attempts end, and record all of that at once."""
        await self._answer(replies)
        assert await self.node.dispatcher.settle() == len(replies), f"not all of {replies} were recorded"

    async def settle_and_claim(self, replies: Replies) -> list[Claim]:
        """Do what `settle` does, and claim in the same transaction; give the attempts that start."""
        before = len(self.destinations.attempts)
        await self._answer(replies)
        await self.node.dispatcher.settle_and_claim()
        await _let_happen()
        return self.destinations.attempts[before:]

    async def _answer(self, replies: Replies) -> None:
        for message_id, reply in replies.items():
            self.destinations.answer(message_id, reply)
        await _let_happen()

    async def die_and_recover(self) -> None:
        """End this life with all that is in flight, and begin another on the same file."""
        await self.end()
        self._begin()
        await self.node.recover()

    async def end(self) -> None:
        """Die: what is in flight is recorded nowhere."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self._database.close()


async def _let_happen() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)
