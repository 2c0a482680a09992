"""Carries claims to their destinations: the `Deliverer` seam and the in-process way through it.

A deliverer answers for every claim it was given, failures included, and enforces the time limit of
each. It decides nothing: what a reply means is said in `retry.py`. HTTP is in `http_delivery.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from qtasks.broker.store.claiming import Fits, admit_all
from qtasks.broker.store.records import Claim, Lease, Reply

Answer = tuple[Claim, Reply]
LARGEST_STATUS = 999
SPARE_PARTS = 8


@dataclass(frozen=True, slots=True)
class Admission:
    """How many may be claimed at the most, and which of them: `admit` is called as a claim begins."""

    most: int
    admit: Callable[[], Fits] = admit_all


class Deliverer(Protocol):
    """Makes one attempt for each claim."""

    def deliver(self, claims: Sequence[Claim]) -> AsyncIterator[Sequence[Answer]]:
        """Give replies as they become known, in the order of completion, those of one moment together."""
        ...

    def begin_early(self, claims: Sequence[Claim], loop: asyncio.AbstractEventLoop) -> None:
        """Begin what can be begun from any thread; `deliver` is called for all of them on the `loop` then."""
        ...

    def part(self, claims: Sequence[Claim]) -> Sequence[Sequence[Claim]]:
        """Part claims into those that one call of `deliver` takes."""
        ...

    def window(self, concurrency: int) -> int:
        """Say how many claims to have in hand, where no more than `concurrency` attempts are made at once."""
        ...

    def admission(self, concurrency: int, in_hand: int) -> Admission:
        """Say what may be claimed beside those in hand, on any thread."""
        ...

    def drop(self, claim: Claim) -> None:
        """Break off the attempt that is being made for a claim, if it is; the reply says what came of it."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class OneByOne:
    """A deliverer, but for `deliver`, that makes an attempt for each claim by itself."""

    def part(self, claims: Sequence[Claim]) -> Sequence[Sequence[Claim]]:
        return [[each] for each in claims]

    def begin_early(self, claims: Sequence[Claim], loop: asyncio.AbstractEventLoop) -> None:
        """Nothing is begun before `deliver`."""

    def window(self, concurrency: int) -> int:
        return concurrency

    def admission(self, concurrency: int, in_hand: int) -> Admission:
        return Admission(self.window(concurrency) - in_hand)

    def drop(self, claim: Claim) -> None:
        """Let it go on."""

    async def close(self) -> None:
        """There is nothing to let go of."""


Run = Callable[[Sequence[Claim], Callable[[Claim, Reply], None]], None]
"""Starts claims on the app's loop and tells their replies there, one call for each."""
Drop = Callable[[Claim], None]
"""Breaks off, on the app's loop, the attempt that is being made for a claim."""


class InProcessDeliverer(OneByOne):
    """Hands claims to the app in this process, on the app's own loop; no HTTP in between.

    It is handed `ahead` times as many as it runs at once.
    """

    def __init__(
        self,
        run: Run,
        app_loop: asyncio.AbstractEventLoop,
        drop: Drop = lambda claim: None,
        ahead: Callable[[], int] = lambda: 1,
    ) -> None:
        self._run = run
        self._app_loop = app_loop
        self._drop = drop
        self._ahead = ahead
        self._begun: dict[Lease, _Box] = {}
        """By the first of the claims that were begun together."""

    def begin_early(self, claims: Sequence[Claim], loop: asyncio.AbstractEventLoop) -> None:
        box = _Box(loop, self._app_loop)
        self._begun[claims[0].lease] = box  # before the app can answer
        with suppress(RuntimeError):  # the app's loop is closed, as `deliver` will see
            self._app_loop.call_soon_threadsafe(self._run, claims, box.put)
            return
        del self._begun[claims[0].lease]

    def part(self, claims: Sequence[Claim]) -> Sequence[Sequence[Claim]]:
        return [claims]

    def window(self, concurrency: int) -> int:
        return concurrency * self._ahead()

    async def deliver(self, claims: Sequence[Claim]) -> AsyncIterator[Sequence[Answer]]:
        first = claims[0].lease
        if first not in self._begun:
            self.begin_early(claims, asyncio.get_running_loop())
        box = self._begun.pop(first, None)
        if box is None:  # the app ended without stopping its node
            stopped = Reply(503, (("Qtasks-Uncounted", "draining"),), error="the app has stopped")
            yield [(each, stopped) for each in claims]
            return
        left = len(claims)
        while left:
            answers = await box.take()
            left -= len(answers)
            yield answers

    def drop(self, claim: Claim) -> None:
        with suppress(RuntimeError):  # the app's loop is closed: nothing runs there any more
            self._app_loop.call_soon_threadsafe(self._drop, claim)


class _Box:
    """Passes answers from the app's loop to the broker's, waking it once for all of one turn of the app's.

    To wake it for each would have both threads take turns at the interpreter, which costs more than a task.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, app_loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._app_loop = app_loop
        self._answers: deque[Answer] = deque()
        self._filled = asyncio.Event()
        self._is_told = False

    def put(self, claim: Claim, reply: Reply) -> None:
        self._answers.append((claim, reply))
        if not self._is_told:
            self._is_told = True
            self._app_loop.call_soon(self._tell)  # once what is ready now has had its turn

    def _tell(self) -> None:
        self._loop.call_soon_threadsafe(self._filled.set)

    async def take(self) -> list[Answer]:
        await self._filled.wait()
        self._filled.clear()
        self._is_told = False  # before the box is emptied: what comes from here on tells again
        return [self._answers.popleft() for _ in range(len(self._answers))]


class RoutedDeliverer:
    """Sends claims of an app to the app, and all others over HTTP."""

    def __init__(self, app: Deliverer | None, http: Deliverer | None) -> None:
        self._app = app
        self._http = http

    def deliver(self, claims: Sequence[Claim]) -> AsyncIterator[Sequence[Answer]]:
        """Claims of both kinds never come in one call."""
        way = self._way(claims[0])
        return _refuse(claims) if way is None else way.deliver(claims)

    def begin_early(self, claims: Sequence[Claim], loop: asyncio.AbstractEventLoop) -> None:
        in_process = [each for each in claims if each.app is not None]
        if in_process and self._app is not None:
            self._app.begin_early(in_process, loop)

    def part(self, claims: Sequence[Claim]) -> Sequence[Sequence[Claim]]:
        in_process = [each for each in claims if each.app is not None]
        others = [each for each in claims if each.app is None]
        parts = [[each] for each in others] if self._http is None else self._http.part(others)
        return [in_process, *parts] if in_process else parts

    def window(self, concurrency: int) -> int:
        way = self._app or self._http
        return concurrency if way is None else way.window(concurrency)

    def admission(self, concurrency: int, in_hand: int) -> Admission:
        way = self._app or self._http
        return Admission(concurrency - in_hand) if way is None else way.admission(concurrency, in_hand)

    def drop(self, claim: Claim) -> None:
        way = self._way(claim)
        if way is not None:
            way.drop(claim)

    def _way(self, claim: Claim) -> Deliverer | None:
        return self._app if claim.app is not None else self._http

    async def close(self) -> None:
        for way in (self._app, self._http):
            if way is not None:
                await way.close()


def spare(concurrency: int) -> int:
    """Say how many attempts more are made, to other destinations, while all the usual ones stand still."""
    return concurrency // SPARE_PARTS


async def _refuse(claims: Sequence[Claim]) -> AsyncIterator[Sequence[Answer]]:
    yield [(each, Reply(0, error=NO_HTTP)) for each in claims]


NO_HTTP = "this broker cannot deliver over HTTP: install qtasks with its extra [broker]"


def storable(reply: Reply) -> Reply:
    """Replace what no database and no JSON can carry: destinations answer whatever they like."""
    if not reply.headers and reply.error is None and 0 <= reply.status <= LARGEST_STATUS:
        return reply  # as nearly all that come from the app in this process
    error = None if reply.error is None else _clean(reply.error)
    # A library's own kind of text is no text to others.
    headers = tuple((_clean(str(name)), _clean(str(value))) for name, value in reply.headers)
    status = reply.status if 0 <= reply.status <= LARGEST_STATUS else 0
    return replace(reply, status=status, headers=headers, error=error)


def _clean(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
