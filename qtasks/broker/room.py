"""Watches the room on the store's disk, and keeps a ballast: a file to give up when no other room is left.

Below the reserve nothing more is accepted, and what is left is for recording what was (promise P06).
Making room is up to whoever runs the broker; here it is only measured.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from qtasks.clock import Clock
from qtasks.errors import StoreFull

log = logging.getLogger("qtasks.room")

MIB = 1024 * 1024
RESERVE_BYTES = 64 * MIB
RESERVE_PARTS = 20
"""By default the reserve is one part of so many of the disk, at most `RESERVE_BYTES`."""
LOOK_MS = 1000
HOLD_MS = 2000  # that there is room again must stay true for so long, lest answers change every second
SLACK_PARTS = 16  # and by how much: this part of the reserve more than what it became short at

FreeBytes = Callable[[], tuple[int, int]]
"""Says how many bytes are free on a disk, and how large it is."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a look at the disk."""

    is_short: bool
    """Whether there is less than the reserve."""
    is_spent: bool
    """Whether what is left is needed for the ends of deliveries that have begun."""


def judge_room(available: int, *, reserve: int, ballast: int, was_short: bool) -> Verdict:
    """Say what `available` bytes are enough for, those that the ballast holds included.

    A ballast that is not there is room to be had before anything else, so the room is short until
    both have a place.

    >>> judge_room(70, reserve=64, ballast=8, was_short=False)
    Verdict(is_short=True, is_spent=False)
    """
    slack = reserve // SLACK_PARTS if was_short else 0
    return Verdict(
        is_short=available < reserve + ballast + slack,
        is_spent=available < ballast + ballast // 4,
    )


def default_reserve(total: int) -> int:
    """Give the reserve for a disk of `total` bytes: 5 % of it, and at most 64 MiB."""
    return min(RESERVE_BYTES, total // RESERVE_PARTS)


class Room:
    """The room on the disk of one database. Safe to use from any thread.

    `reserve_bytes` of None is `default_reserve`; without `ballast_bytes` there is no ballast.
    `relieve` is called at each look while room is short, so that the store needs less of it.
    """

    def __init__(
        self,
        database: Path,
        *,
        reserve_bytes: int | None,
        ballast_bytes: int,
        clock: Clock,
        free_bytes: FreeBytes | None = None,
        relieve: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._ballast = ballast_path(database)
        self._reserve_bytes = reserve_bytes
        self._ballast_bytes = ballast_bytes
        self._clock = clock
        self._free_bytes = free_bytes or (lambda: free_bytes_at(database.parent))
        self._relieve = relieve
        self._lock = threading.Lock()
        self._verdict = Verdict(is_short=False, is_spent=False)
        self._short_until = clock.monotonic()
        self._free = 0
        self._wanted = 0
        self._has_warned = False

    @property
    def is_short(self) -> bool:
        """Whether messages are refused now."""
        return self._verdict.is_short

    @property
    def is_spent(self) -> bool:
        """Whether no delivery may begin: what is left is for recording how those in flight end."""
        return self._verdict.is_spent

    def check(self) -> None:
        """Raise `StoreFull` while room is short."""
        if self._verdict.is_short:
            raise StoreFull(
                f"too little room left for {self._database}: {_shown(self._free)} are free, and "
                f"{_shown(self._wanted)} are kept for what was accepted before; nothing was stored. "
                "Make room on its disk and repeat"
            )

    def look(self) -> None:
        """Measure, and judge by it; a disk that cannot be asked is judged as it was last."""
        with self._lock:
            self._look()

    def step(self) -> None:
        """Do what `look` does, and make the ballast if it is missing and there is room for it."""
        with self._lock:
            self._look()
            if self._ballast_bytes and not self.is_short and not self._has_ballast():
                self._make_ballast()

    async def run(self) -> None:
        """Look once a second, until cancelled.

        The ballast is made after the first second, so that whoever is here for a moment leaves none.
        """
        await asyncio.to_thread(self.look)
        while True:
            await self._clock.sleep(LOOK_MS)
            await asyncio.to_thread(self.step)

    def release(self) -> bool:
        """Give up the ballast, as the store has found no room; say whether there was one.

        Nothing is accepted from then on, until there is room for it again beside the reserve.
        """
        with self._lock:
            self._look()
            self._become(Verdict(is_short=True, is_spent=self._ballast_bytes > 0))
            try:
                self._ballast.unlink()
            except OSError:
                return False
            log.warning("no room left on the disk; the ballast is given up", extra=self._facts())
            return True

    def _look(self) -> None:
        try:
            self._free, total = self._free_bytes()
        except OSError as error:
            log.warning("cannot measure the room on the disk", extra={"reason": str(error)})
            return
        reserve = default_reserve(total) if self._reserve_bytes is None else self._reserve_bytes
        held = self._ballast_bytes if self._has_ballast() else 0
        self._wanted = reserve + self._ballast_bytes - held
        verdict = judge_room(
            self._free + held, reserve=reserve, ballast=self._ballast_bytes, was_short=self.is_short
        )
        if not verdict.is_short and self._clock.monotonic() < self._short_until:
            self._verdict = replace(verdict, is_short=True)
        else:
            self._become(verdict)

    def _become(self, verdict: Verdict) -> None:
        """Take a verdict over, and tell when it changes what happens to messages."""
        was_short = self.is_short
        self._verdict = verdict
        if verdict.is_short:
            self._short_until = self._clock.monotonic() + HOLD_MS
            self._relieve()
        if verdict.is_short and not was_short:
            log.warning("too little room on the disk; messages are refused", extra=self._facts())
        if was_short and not verdict.is_short:
            log.warning("there is room on the disk again; messages are accepted", extra=self._facts())

    def _facts(self) -> dict[str, object]:
        return {"database": str(self._database), "free_bytes": self._free, "wanted_bytes": self._wanted}

    def _has_ballast(self) -> bool:
        # Asked each time: whoever makes room by hand may have deleted it.
        try:
            found = self._ballast.lstat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == self._ballast_bytes

    def _make_ballast(self) -> None:
        try:
            self._ballast.unlink(missing_ok=True)  # it may be of another size
            allocate(self._ballast, self._ballast_bytes)
        except OSError as error:  # there was room a moment ago, or the folder has been closed to us
            with suppress(OSError):
                self._ballast.unlink(missing_ok=True)
            if not self._has_warned:
                log.warning("cannot make the ballast", extra={**self._facts(), "reason": str(error)})
            self._has_warned = True


def ballast_path(database: Path) -> Path:
    """Say where the ballast of a database is."""
    return database.with_name(f"{database.name}.ballast")


def free_bytes_at(folder: Path) -> tuple[int, int]:
    """Say how many bytes this process may still use on the disk of a folder, and how large that is."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def allocate(path: Path, size: int) -> None:
    """Make a file that takes up `size` bytes of the disk, and is not merely that long."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if sys.platform == "darwin" or not _fallocated(descriptor, size):
            write_zeros(descriptor, size)
    finally:
        os.close(descriptor)


def write_zeros(descriptor: int, size: int) -> None:
    """Take up room where a file system has no other way to promise it."""
    for written in range(0, size, MIB):
        os.write(descriptor, bytes(min(MIB, size - written)))
    os.fsync(descriptor)  # or the room would be taken up at some later time


def _fallocated(descriptor: int, size: int) -> bool:
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            return False
        raise
    return True


def _shown(size: int) -> str:
    return f"{size / MIB:.1f} MiB"
