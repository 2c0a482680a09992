"""Wakes the one loop that waits for work, as soon as somebody has committed some."""

from __future__ import annotations

import asyncio
import threading


class Changes:
    """Wakes the one loop that waits for work; told from any thread, cheap when nobody waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told = False
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def tell(self) -> None:
        """Say that there is work."""
        with self._lock:
            waiter = None if self._told else self._waiter
            self._told = True
            if waiter is not None:
                waiter[0].call_soon_threadsafe(waiter[1].set)

    async def wait(self, wait_ms: int) -> None:
        """Return when it has been said since the last time, or after `wait_ms`."""
        event = asyncio.Event()
        with self._lock:
            if self._told:
                self._told = False
                return
            self._waiter = (asyncio.get_running_loop(), event)
        try:
            async with asyncio.timeout(wait_ms / 1000):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            with self._lock:
                self._waiter = None
                # Only a wait that ends because it was told has used the news up; a cancelled one may
                # meet them, and then the next must return at once.
                if event.is_set():
                    self._told = False
