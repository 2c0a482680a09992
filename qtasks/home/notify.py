"""Tells systemd how this process does: that it is ready, still alive, about to stop (see `sd_notify(3)`).

Without a supervisor that asked to be told, nothing happens; nor does a message that cannot be sent disturb
anybody.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

from qtasks.clock import Clock


class Supervisor:
    """Whoever started this process and listens at `address`; with `watchdog_ms` it expects signs of life."""

    def __init__(self, address: str | None, watchdog_ms: int | None, clock: Clock) -> None:
        # A name that begins with @ is one of Linux's abstract ones, which begin with a null byte.
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address
        self._every_ms = None if watchdog_ms is None else watchdog_ms // 3
        self._clock = clock
        self._next_at = 0

    @classmethod
    def from_env(cls, env: Mapping[str, str], clock: Clock) -> Supervisor:
        """Read what systemd says to the processes it starts."""
        usec = env.get("WATCHDOG_USEC", "")
        is_meant = env.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog_ms = int(usec) // 1000 if usec.isdecimal() and is_meant else None
        return cls(env.get("NOTIFY_SOCKET") or None, watchdog_ms, clock)

    def ready(self, status: str) -> None:
        """Say that start-up is over; `status` is what `systemctl status` shows."""
        self._tell(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """Say that the event loop turns, if it is time to. Cheap, to be called often."""
        if self._every_ms is not None and self._clock.monotonic() >= self._next_at:
            self._next_at = self._clock.monotonic() + self._every_ms
            self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._tell("STOPPING=1\nSTATUS=draining")

    def _tell(self, text: str) -> None:
        if self._address is None:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.setblocking(False)
            out.connect(self._address)
            out.send(text.encode())
