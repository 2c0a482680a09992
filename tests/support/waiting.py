"""Waiting for what other processes and threads do: bounded, and with a message that helps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 20.0
POLL_S = 0.01


def eventually(
    ask: Callable[[], T | None], what: str, *, within: float = PATIENCE_S, of: Iterable[object] = ()
) -> T:
    """Ask until the answer is true, and give it; `what` says what is waited for.

    Raises `AssertionError` after `within` seconds, showing `of`: processes, ledgers.
    """
    ends_at = time.monotonic() + within
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() >= ends_at:
            shown = "\n".join(str(each) for each in of)
            raise AssertionError(f"not within {within:g} s: {what}\n{shown}")
        time.sleep(POLL_S)
