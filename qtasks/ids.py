"""The only reader of randomness: identifiers, tokens and keys. Everything else is handed an `Ids`.

Message and task ids begin with the time in milliseconds, so that they sort by age and an index on
them grows at its end.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable

SMALL_BYTES = 16
AT_ONCE = 256


class _Pool:
    """Random bytes of the system, read ahead.

    Each read lets go of the interpreter, which takes longer to win back from busy threads than an id takes
    to be made. A forked child begins with none: it would draw what its parent draws.
    """

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._chunks.clear)

    def draw(self, count: int) -> bytes:
        """Give so many random bytes; safe on any thread."""
        if count > SMALL_BYTES:
            return os.urandom(count)
        try:
            return self._chunks.pop()[:count]
        except IndexError:
            read = os.urandom(SMALL_BYTES * AT_ONCE)
        self._chunks += [
            read[first : first + SMALL_BYTES] for first in range(SMALL_BYTES, len(read), SMALL_BYTES)
        ]
        return read[:count]


_POOL = _Pool()
_TASK_ID = re.compile("tsk_[0-9a-f]{32}")


def message_of(task_id: str) -> str | None:
    """Name the message that a call makes by the digits of its task's id, so that one index finds it by both.

    None for an id that was not made here.

    >>> message_of("tsk_01a21f0d161f97deef0e29257e2f5b50")
    'msg_01a21f0d161f97deef0e29257e2f5b50'
    """
    return f"msg_{task_id[4:]}" if _TASK_ID.fullmatch(task_id) else None


class Ids:
    """Makes identifiers and secrets. `entropy(n)` gives n random bytes; tests pass a seeded one."""

    def __init__(self, entropy: Callable[[int], bytes] = _POOL.draw) -> None:
        self._entropy = entropy

    @classmethod
    def seeded(cls, seed: int) -> Ids:
        """Make ids that repeat from run to run: for tests alone, as they can be guessed."""
        return cls(random.Random(seed).randbytes)

    def message_id(self, now: int) -> str:
        """Name a message; `now` is in Unix milliseconds."""
        return f"msg_{now:012x}{self._entropy(10).hex()}"

    def task_id(self, now: int) -> str:
        """Name a call of a task; `now` is in Unix milliseconds."""
        return f"tsk_{now:012x}{self._entropy(10).hex()}"

    def schedule_id(self) -> str:
        """Name a schedule."""
        return f"scd_{self._entropy(12).hex()}"

    def token_id(self) -> str:
        """Name one signed delivery (the `jti` of its JWT)."""
        return f"jwt_{self._entropy(12).hex()}"

    def boot_id(self) -> str:
        """Name one life of one process; leases bear it."""
        return self._entropy(8).hex()

    def secret(self) -> str:
        """Make a secret of 256 bits."""
        return self._entropy(32).hex()

    def signing_key(self) -> str:
        """Make a key for signing deliveries."""
        return f"sig_{self._entropy(32).hex()}"

    def fraction(self) -> float:
        """Draw a number from 0 up to, not including, 1: for jitter."""
        return int.from_bytes(self._entropy(6), "big") / (1 << 48)
