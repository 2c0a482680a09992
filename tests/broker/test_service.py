"""The broker's use cases without HTTP: what it accepts, for whom, and how it answers from any thread."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qtasks.broker.config import BrokerConfig
from qtasks.broker.intake import internal_url
from qtasks.broker.keys import KeyRing
from qtasks.broker.security import parse_rules
from qtasks.broker.service import Broker
from qtasks.broker.store.records import Reply
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.clock import ManualClock
from qtasks.errors import BadRequest, BrokerUnavailable, QuotaExceeded, RequestError
from qtasks.ids import Ids
from qtasks.protocol.headers import Options
from qtasks.protocol.shapes import Outgoing
from tests.support.broker import APP, HOOK, WIDE, Rig
from tests.support.homes import until

SOON_S = 10


def outgoing(destination: str = HOOK, **options: Any) -> Outgoing:
    return Outgoing(destination, b"", Options(**options), "mail")


async def test_several_messages_are_accepted_in_their_order(rig: Rig) -> None:
    answers = rig.broker.accept([outgoing(dedup_id="a"), outgoing(), outgoing(dedup_id="a")])

    assert [each.deduplicated for each in answers] == [False, False, True]
    assert answers[2].message_id == answers[0].message_id


async def test_a_repeat_of_what_was_new_is_known(rig: Rig) -> None:
    """For what is new nobody looks whether it is known; it is known from then on all the same."""
    new = replace(outgoing(dedup_id="tsk_1", task_id="tsk_1"), is_new=True)
    [first] = rig.broker.accept([new])

    [again] = rig.broker.accept([new.repeated()])

    assert (again.deduplicated, again.message_id) == (True, first.message_id)


async def test_the_message_of_a_call_has_the_digits_of_its_task(rig: Rig) -> None:
    """Not so what goes on with it, what has another key, and what has an id of the caller's."""
    task_id = f"tsk_{0xAB:032x}"
    others = [
        outgoing(dedup_id=f"{task_id}.1", task_id=task_id),
        outgoing(dedup_id="only-one", task_id=task_id),
        outgoing(dedup_id="order-17", task_id="order-17"),
        outgoing(dedup_id=f"job_{0xAB:032x}", task_id=f"job_{0xAB:032x}"),
        outgoing(dedup_id=f"tsk_{0xAB:032X}"),
        outgoing(),
    ]

    [call, *rest] = rig.broker.accept([outgoing(dedup_id=task_id, task_id=task_id), *others])

    assert call.message_id == f"msg_{0xAB:032x}"
    assert len({call.message_id, *(each.message_id for each in rest)}) == 7
    assert not any(each.deduplicated for each in rest)


@pytest.mark.parametrize(
    "bad",
    [
        outgoing("ftp://app.example/"),
        outgoing("http://169.254.169.254/"),
        outgoing(retries=5000),
        outgoing(delay_ms=1000),
        Outgoing(HOOK, b"x" * 11 * 1024 * 1024, Options(), "mail"),
        Outgoing(HOOK, b"", Options(), "a b"),
    ],
    ids=["scheme", "private", "retries", "delay", "size", "queue"],
)
async def test_of_several_messages_all_are_accepted_or_none(rig: Rig, bad: Outgoing) -> None:
    with pytest.raises(RequestError, match=r"^message 1: "):
        rig.broker.accept([outgoing(dedup_id="a"), bad, outgoing()])

    assert rig.store.log() == []
    assert rig.broker.accept([outgoing(dedup_id="a")])[0].deduplicated is False


async def test_a_refusal_of_a_single_message_says_nothing_of_its_place(rig: Rig) -> None:
    with pytest.raises(QuotaExceeded, match=r"^quota maxRetries exceeded"):
        rig.broker.accept([outgoing(retries=5000)])


async def test_the_app_s_own_address_goes_to_the_app(rig: Rig) -> None:
    rig.call("tsk_1")

    await rig.turn()

    assert [each.app for each in rig.deliverer.attempts] == [APP]


async def test_another_app_s_address_is_refused(rig: Rig) -> None:
    with pytest.raises(BadRequest, match="no app named 'other' runs in this broker"):
        rig.broker.accept([outgoing(internal_url("other"))])


async def test_a_broker_without_http_accepts_for_its_app_only(tmp_path: Path) -> None:
    database = SqliteDatabase(str(tmp_path / "q.db"))
    broker = Broker(
        database,
        BrokerConfig(),
        clock=ManualClock(),
        ids=Ids.seeded(1),
        rules=parse_rules((), loopback=True),
        keys=KeyRing("sig_current", "sig_next"),
        app=APP,
        delivers_http=False,
    )

    broker.accept([outgoing(internal_url(APP))])
    with pytest.raises(BadRequest, match=r"install qtasks with its extra \[broker\]"):
        broker.accept([outgoing()])

    assert broker.queue("mail").lag == 1
    database.close()


async def test_a_thread_can_wait_for_a_task_that_ends(rig: Rig) -> None:
    rig.deliverer.will(Reply(200, body=b"7"))
    rig.call("tsk_1")
    found: list[bytes | None] = []
    thread = threading.Thread(target=lambda: found.append(rig.broker.results.find("tsk_1", 60_000).value))
    thread.start()

    await rig.turn()
    thread.join(SOON_S)

    assert found == [b"7"]


async def test_many_can_wait_for_one_task(rig: Rig) -> None:
    rig.call("tsk_1", spec=WIDE)
    states: list[str] = []
    threads = [
        threading.Thread(target=lambda: states.append(rig.broker.results.find("tsk_1", 60_000).state))
        for _ in range(8)
    ]
    for each in threads:
        each.start()

    await rig.turn()
    for each in threads:
        each.join(SOON_S)

    assert states == ["SUCCEEDED"] * 8


async def test_who_waits_is_told_that_the_broker_shuts_down(rig: Rig) -> None:
    rig.call("tsk_1")
    waiting = asyncio.create_task(rig.broker.results.afind("tsk_1", 60_000))
    await until(lambda: rig.broker.waiters._waiting)

    rig.broker.waiters.close()

    for ask in (lambda: waiting, lambda: rig.broker.results.asettled(["tsk_1"], 60_000)):
        with pytest.raises(BrokerUnavailable, match="the broker is shutting down; repeat in a moment"):
            await ask()
    with pytest.raises(BrokerUnavailable):
        rig.broker.results.find("tsk_1", 60_000)
    assert (await rig.broker.results.afind("tsk_1")).state == "QUEUED"


async def test_who_waits_too_short_is_told_how_far_it_is(rig: Rig) -> None:
    rig.call("tsk_1")

    assert rig.broker.results.find("tsk_1", 10).state == "QUEUED"
    assert rig.broker.waiters._waiting == {}
