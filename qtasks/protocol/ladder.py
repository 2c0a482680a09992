"""The default waits between attempts, where neither message nor destination says otherwise (contract 4.4)."""

from __future__ import annotations

import math

DAY_S = 86_400


def ladder_ms(retried: int) -> int:
    """Say how long the default ladder waits before the next attempt, in ms of whole seconds.

    `retried` counts the retries already made, from 0.

    >>> [ladder_ms(n) // 1000 for n in range(5)]
    [12, 148, 1808, 22026, 86400]
    """
    return 1000 * (DAY_S if retried >= 4 else min(DAY_S, math.floor(math.exp(2.5 * (retried + 1)))))
