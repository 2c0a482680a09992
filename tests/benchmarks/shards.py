"""What `docs/scaling.md` says of queues that are shared out over databases: evenness, and what moves.

A simulation, as no broker does so yet: `python -m tests.benchmarks.shards` prints its table.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence

QUEUES = 1000
MESSAGES = 1_000_000
SEED = 8


def shard_of(queue: str, shards: Sequence[str]) -> str:
    """Choose the database of a queue: the one that its name and the database's score highest for together.

    So a database that is added takes queues from all others, and no queue moves between those.
    """
    return max(shards, key=lambda each: hashlib.blake2b(f"{each}\0{queue}".encode(), digest_size=8).digest())


def weights(count: int, skew: float) -> list[float]:
    """Give the shares of messages of queues: the n-th has 1/n^skew of the first; 0 is even."""
    raw = [1 / (rank**skew) for rank in range(1, count + 1)]
    return [each / sum(raw) for each in raw]


def fullest(shards: int, skew: float) -> float:
    """Say how much more than its fair share the fullest database has."""
    names = [f"db{number}" for number in range(shards)]
    load: Counter[str] = Counter()
    for number, weight in enumerate(weights(QUEUES, skew)):
        load[shard_of(f"queue{number}", names)] += round(MESSAGES * weight)
    return max(load.values()) / (MESSAGES / shards)


def moved(shards: int) -> float:
    """Say which share of the queues moves when one more database is added."""
    before, after = ([f"db{number}" for number in range(count)] for count in (shards, shards + 1))
    changes = sum(shard_of(f"queue{n}", before) != shard_of(f"queue{n}", after) for n in range(QUEUES))
    return changes / QUEUES


def one_node_down(shards: int, calls: int = 10_000) -> float:
    """Say which share of bulk calls over random queues touches a given database."""
    rng = random.Random(SEED)
    names = [f"db{number}" for number in range(shards)]
    places = [shard_of(f"queue{number}", names) for number in range(QUEUES)]
    hit = sum(any(places[rng.randrange(QUEUES)] == names[0] for _ in range(10)) for _ in range(calls))
    return hit / calls


def main() -> None:
    print(
        "databases  fullest, even load  fullest, skewed (1/n)  queues that move  10-queue calls hit by a loss"
    )
    for shards in (2, 3, 4, 8, 16):
        even, skewed = fullest(shards, 0), fullest(shards, 1)
        print(
            f"{shards:9}  {even:18.2f}  {skewed:21.2f}  {moved(shards):16.0%}  {one_node_down(shards):30.0%}"
        )


if __name__ == "__main__":
    main()
