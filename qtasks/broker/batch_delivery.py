"""Delivers several messages to one destination in one request, and takes the answers as they come.

A line that never comes is a lost reply of its message alone. Called off, a message is given up here: its
destination runs it to its end, as nothing but all of the request could be broken off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

import aiohttp

from qtasks.broker.batching import reply_of
from qtasks.broker.delivery import Answer
from qtasks.broker.store.records import Claim, Reply, Trouble
from qtasks.broker.store.results import CANCELLED
from qtasks.errors import BadRequest, InvalidValue
from qtasks.protocol.batches import CONTENT_TYPE, read_answer

log = logging.getLogger("qtasks.delivery")

OK = 200
LOST = "the answer to a batch broke off before this message's"

Ask = Callable[[Sequence[Claim]], Awaitable[AbstractAsyncContextManager[aiohttp.ClientResponse]]]
Grow = Callable[[int], Awaitable[bool]]
"""Is told how many bytes more an answer takes; says whether there is room for them."""


class BatchDelivery:
    """One request under way. `answers` is asked once; `drop` gives one message up."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        self.left = {each.id: each for each in claims}
        self._claims = claims
        self._ready: list[Answer] = []
        self._has_ready = asyncio.Event()

    async def answers(
        self,
        ask: Ask,
        read_whole: Callable[[aiohttp.ClientResponse], Awaitable[Reply]],
        grow: Grow,
        hold: object,
    ) -> AsyncIterator[Sequence[Answer]]:
        """Send, and give replies as soon as they are known.

        `read_whole` gives what an answer says to all of them, where it is no stream. `hold` goes with each
        reply of a stream.
        """
        left = len(self.left)
        reading = asyncio.create_task(self._read(ask, read_whole, grow, hold))
        try:
            while left:
                await self._has_ready.wait()
                self._has_ready.clear()
                ready, self._ready = self._ready, []
                left -= len(ready)
                yield ready
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def drop(self, claim: Claim) -> None:
        """Give up a message, if its answer has not come."""
        if self.left.get(claim.id) is claim:
            del self.left[claim.id]
            self._give(claim, Reply(0, error=CANCELLED))

    def _give(self, claim: Claim, reply: Reply) -> None:
        self._ready.append((claim, reply))
        self._has_ready.set()

    async def _read(
        self,
        ask: Ask,
        read_whole: Callable[[aiohttp.ClientResponse], Awaitable[Reply]],
        grow: Grow,
        hold: object,
    ) -> None:
        timeout_s = self._claims[0].timeout_ms / 1000
        lost = Reply(0, error=LOST, is_alone_next=True)
        try:
            async with asyncio.timeout(timeout_s), await ask(self._claims) as response:
                if response.status == OK and response.content_type == CONTENT_TYPE:
                    await self._read_lines(response, grow, hold)
                else:
                    lost = await read_whole(response)
        except TimeoutError:
            problem = f"no complete answer within {timeout_s:g} s"
            lost = Reply(0, error=problem, is_alone_next=True, trouble=Trouble.SILENT)
        except aiohttp.ClientConnectorError as error:  # nothing of it has arrived
            lost = Reply(0, error=str(error), trouble=Trouble.UNREACHABLE)
        except aiohttp.ClientConnectionError as error:
            problem = str(error) or type(error).__name__
            lost = Reply(0, error=problem, is_alone_next=True, trouble=Trouble.SILENT)
        except (aiohttp.ClientError, OSError, ValueError, BadRequest, InvalidValue) as error:
            lost = Reply(0, error=str(error) or type(error).__name__, is_alone_next=True)
        except Exception:  # a wall: whatever it is, every message has a reply
            log.exception("a batch broke", extra={"message_ids": list(self.left)})
        finally:
            left, self.left = self.left, {}
            for claim in left.values():
                self._give(claim, lost)

    async def _read_lines(self, response: aiohttp.ClientResponse, grow: Grow, hold: object) -> None:
        rest = b""
        async for chunk in response.content.iter_any():
            if not await grow(len(chunk)):
                response.close()  # there is no room for what follows
                return
            *lines, rest = (rest + chunk).split(b"\n")
            for each in lines:
                line = read_answer(each)
                claim = self.left.pop(line.message_id, None)
                if claim is not None:
                    self._give(claim, reply_of(line, hold))
