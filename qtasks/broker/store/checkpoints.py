"""When the write-ahead log of SQLite is copied back into the database file, and how long it is until then.

SQLite's own checkpoints hide their errors. Of these an error is seen, and none begins that the disk has no
room for: half a checkpoint takes up room and gives none back.

To sync what is written over a part of a file takes half the time of a sync that makes the file longer. So
where commits are small, the log is made longer ahead, with zeros, which SQLite takes for its end.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress

# Rarer checkpoints write a page once that many commits have changed.
LOG_BYTES = 8000 * (4096 + 24)
MOST_LOG_BYTES = 64 * 1024 * 1024
"""SQLite cuts the log back to this length when it begins anew."""
STEP_BYTES = 4 * 1024 * 1024
AHEAD_BYTES = 1024 * 1024
"""So much of the log is made at once: little enough that nobody waits long for it."""
ZEROS = bytes(64 * 1024)
ROOMY_BYTES = 1024 * AHEAD_BYTES
"""On a disk with less room than this, no room is taken ahead."""
SHORT_BYTES = 256 * 1024
"""A log that is no longer than this may well stay so, as that of a command which is soon done."""
FAST_BYTES = 128 * 1024
"""What makes the log longer by so much in a few rows, or at once, need not be spared that."""
LOOK_ROWS = 8
"""How many rows are changed before it is looked again how long the log is: to look costs as much as a row."""
POSTPONED = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class Checkpoints:
    """Makes the checkpoints of one database, and its log longer.

    Both is done on the connection that writes, between its transactions. The log does not shrink when it
    begins anew, but is written over. So it is due again as soon as it has grown.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: str,
        *,
        due_bytes: int = LOG_BYTES,
        look_rows: int = LOOK_ROWS,
    ) -> None:
        self._connection = connection
        self._path = path
        self._log = f"{path}-wal"
        self._least_bytes = due_bytes
        self._due_bytes = due_bytes
        self._made_bytes = SHORT_BYTES
        self._seen_bytes = 0
        """How long it was when there was last nothing to do."""
        self._look_rows = look_rows
        self._look_at = 0

    def soon(self) -> None:
        """Have one made after the next commit. Safe to call from any thread."""
        self._due_bytes = self._look_at = 0

    def is_due(self) -> bool:
        """Say whether there is something to do for `after_commit`: the log has grown."""
        changed = self._connection.total_changes
        if changed < self._look_at:
            return False
        size = self._size()
        grew_slowly = 0 < size - self._seen_bytes < FAST_BYTES
        if size > self._due_bytes or (size > self._made_bytes and grew_slowly):
            return True
        self._seen_bytes = size
        self._look_at = changed + self._look_rows
        return False

    def after_commit(self) -> None:
        """Make one if it is due, or make the log longer if it is not yet as long as it may become.

        Raises `sqlite3.Error` if the disk failed otherwise than by being full.
        """
        if not self.is_due():
            return
        size = self._seen_bytes = self._size()
        if size <= self._due_bytes:
            self._make_longer(size)
        elif self._fits() and self._make():
            self._due_bytes = min(max(size, self._least_bytes), MOST_LOG_BYTES)
        else:
            self._due_bytes = size + STEP_BYTES

    def _make_longer(self, size: int) -> None:
        """Write zeros behind the log, which nobody else writes between two transactions."""
        self._made_bytes = min(size + AHEAD_BYTES, self._due_bytes)
        with suppress(OSError):  # what has a meaning for the store, SQLite meets itself
            disk = os.statvfs(self._log)
            if disk.f_bavail * disk.f_frsize < ROOMY_BYTES:
                return
            log = os.open(self._log, os.O_WRONLY)
            try:
                for place in range(size, self._made_bytes, len(ZEROS)):
                    os.pwrite(log, ZEROS[: self._made_bytes - place], place)
            finally:
                os.close(log)

    def _size(self) -> int:
        try:
            return os.stat(self._log).st_size
        except OSError:
            return 0

    def _fits(self) -> bool:
        """Say whether the disk has room for the pages that the log adds to the database."""
        [page_size] = self._connection.execute("PRAGMA page_size").fetchone()
        [pages] = self._connection.execute("PRAGMA page_count").fetchone()
        try:
            growth = pages * page_size - os.stat(self._path).st_size
            disk = os.statvfs(self._path)
        except OSError:  # the file is gone, or its disk: the next commit says what that means
            return False
        return bool(growth <= disk.f_bavail * disk.f_frsize)

    def _make(self) -> bool:
        """Say whether all of the log was copied, so that it can begin anew."""
        try:
            _, frames, copied = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in POSTPONED:
                return False
            raise
        return bool(frames == copied)
