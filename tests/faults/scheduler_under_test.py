"""A broker's scheduler in a process of its own, on a clock that runs faster than the machine's.

    scheduler_under_test.py STORE ORIGIN_MS SPEED

A second of the machine is SPEED seconds of its clock, which showed 2030 when the machine's showed
ORIGIN_MS. It runs until it is killed.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace

from qtasks.broker.config import BrokerConfig
from qtasks.broker.keys import KeyRing
from qtasks.broker.scheduler import Scheduler
from qtasks.broker.security import parse_rules
from qtasks.broker.service import Broker
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.ids import Ids
from qtasks.protocol.cron import parse_cron
from qtasks.protocol.every import Every
from qtasks.protocol.headers import Options
from qtasks.protocol.shapes import Outgoing

BEGIN_MS = 1_893_456_000_000  # 2030-01-01T00:00:00Z
MINUTELY = parse_cron("* * * * *")
SCHEDULES = {
    "all": Options(cron=MINUTELY, catch_up="all"),
    "latest": Options(cron=MINUTELY, catch_up="latest"),
    "interval": Options(every=Every(45_000), catch_up="all"),
}


class FastClock:
    """Shows instants from 2030 on."""

    def __init__(self, origin_ms: int, speed: int) -> None:
        self._origin_ms = origin_ms
        self._speed = speed

    def now(self) -> int:
        return BEGIN_MS + (time.time_ns() // 1_000_000 - self._origin_ms) * self._speed

    def monotonic(self) -> int:
        return self.now()

    async def sleep(self, ms: int) -> None:
        await asyncio.sleep(ms / 1000 / self._speed)


async def main(store: str, origin_ms: int, speed: int) -> None:
    clock = FastClock(origin_ms, speed)
    ids = Ids()
    database = SqliteDatabase(store)
    broker = Broker(
        database,
        BrokerConfig(),
        clock=clock,
        ids=ids,
        rules=parse_rules((), loopback=False),
        keys=KeyRing("sig_a", "sig_b"),
    )
    known = {each.schedule_id for each in broker.schedules.all()}
    for name, each in SCHEDULES.items():
        if name not in known:
            options = replace(each, schedule_id=name)
            broker.schedules.create(Outgoing("https://app.example/hook", name.encode(), options))
    print("running", flush=True)
    await Scheduler(database, broker.schedules, clock).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
