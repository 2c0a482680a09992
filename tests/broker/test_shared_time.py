"""Nodes that share a PostgreSQL go by its time: no machine's own wall clock counts (promise P16)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from qtasks.broker.config import BrokerConfig
from qtasks.broker.keys import KeyRing
from qtasks.broker.node import Node
from qtasks.broker.security import parse_rules
from qtasks.broker.service import Broker
from qtasks.broker.store.postgres import PostgresDatabase
from qtasks.broker.store.postgres_links import link
from qtasks.broker.store.records import Reply
from qtasks.clock import Clock, LedClock, ManualClock, SystemClock
from qtasks.ids import Ids
from qtasks.protocol.headers import Options
from qtasks.protocol.shapes import Outgoing
from tests.support.broker import HOOK, ScriptedDeliverer
from tests.support.postgres import Postgres

THREE_DAYS_MS = 3 * 86_400_000
CLOSE_MS = 5000


class WrongClock(SystemClock):
    """The clock of a machine whose wall clock was set wrong."""

    def __init__(self, ahead_ms: int) -> None:
        self.ahead_ms = ahead_ms

    def now(self) -> int:
        return super().now() + self.ahead_ms


@contextmanager
def broker_on(url: str, clock: Clock) -> Iterator[Broker]:
    """A broker of a process on a machine with this clock."""
    with closing(PostgresDatabase(url)) as database:
        yield Broker(
            database,
            BrokerConfig(),
            clock=clock,
            ids=Ids(),
            rules=parse_rules((), loopback=True),
            keys=KeyRing("sig_current", "sig_next", lambda current, following: None),
        )


def message(**options: Any) -> Outgoing:
    """A message to anybody."""
    return Outgoing(HOOK, b"", Options(**options))


def is_near(instant: int) -> bool:
    """Say whether an instant is about now; the database under test runs on this machine."""
    return abs(instant - time.time() * 1000) < CLOSE_MS


@pytest.mark.parametrize("ahead_ms", [THREE_DAYS_MS, -THREE_DAYS_MS])
def test_messages_of_a_machine_whose_clock_is_wrong_bear_the_time_of_the_database(
    postgres: Postgres, ahead_ms: int
) -> None:
    with broker_on(postgres.new_store(), WrongClock(ahead_ms)) as broker:
        [answer] = broker.accept([message(delay_ms=60_000)])
        seen = broker.message(answer.message_id)

    assert is_near(seen.created_at)
    assert seen.not_before == seen.created_at + 60_000


@pytest.mark.parametrize("step_ms", [THREE_DAYS_MS, -THREE_DAYS_MS])
async def test_what_waits_is_due_when_it_was_to_be_whoever_looks_and_whoever_sets_a_clock(
    postgres: Postgres, step_ms: int
) -> None:
    url, deliverer = postgres.new_store(), ScriptedDeliverer()
    wrong = WrongClock(-step_ms)
    with broker_on(url, WrongClock(step_ms)) as accepting, broker_on(url, wrong) as delivering:
        node = Node(delivering, deliverer, BrokerConfig(), app=None, ids=Ids())
        deliverer.will(Reply(500))
        await accepting.aaccept([message(delay_ms=200, retries=1, retry_delay="300")])
        await node.start()
        await deliverer.reached(1)
        wrong.ahead_ms = step_ms  # somebody sets the clock while a retry waits
        await deliverer.reached(2)
        await node.stop()

    first, second = deliverer.attempts
    assert is_near(first.started_at)
    assert first.started_at >= first.created_at + 200
    assert 300 <= second.started_at - first.started_at < CLOSE_MS


def test_a_beat_looks_at_the_clock_of_the_database_again(postgres: Postgres) -> None:
    own = ManualClock()
    with closing(PostgresDatabase(postgres.new_store())) as database, link(database.place) as connection:
        led = database.lead(own)
        assert is_near(led.now())
        own.advance(hours=1)  # this machine's hours are shorter than the database's
        database.presence.step(connection, beats=True)
        assert is_near(led.now())


def test_a_led_clock_goes_on_by_itself_and_whatever_the_wall_clock_does() -> None:
    own = ManualClock(now=1000)
    led = LedClock(own)
    led.follow(500, own.monotonic(), own.monotonic())
    own.step_wall(THREE_DAYS_MS)
    own.advance(70)

    assert (led.now(), led.monotonic()) == (570, 70)


def test_a_led_clock_moves_no_further_than_what_it_heard_demands() -> None:
    own = ManualClock(now=1000)
    led = LedClock(own)

    led.follow(1000, asked_at=-5, heard_at=5)  # it may have been 5 ms before or behind
    assert led.now() == 1000
    led.follow(1010, asked_at=-5, heard_at=5)
    assert led.now() == 1005
    led.follow(900, asked_at=-5, heard_at=5)
    assert led.now() == 905
