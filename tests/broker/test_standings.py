"""What a node learns of its destinations from each kind of answer, and how much of it it keeps."""

from __future__ import annotations

from typing import Any

import pytest

from qtasks.broker.standings import MOST_HELD_BACK, MOST_SHOWN, Standings, place_of
from qtasks.broker.store.records import Reply, Trouble
from qtasks.clock import ManualClock
from tests.support.store import new_claim

HOOK = "http://app.example/work"
SLOTS = 64


def standings() -> Standings:
    return Standings(ManualClock(), fraction=lambda: 0.0, most=lambda: SLOTS)


def teach(standings: Standings, reply: Reply, url: str = HOOK, count: int = 2, **changes: Any) -> None:
    """Have attempts end so, one after the other."""
    for number in range(count):
        claim = new_claim(url, now=0, seq=number, **changes)
        standings.begin([claim])
        standings.end(claim, reply)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200),
        Reply(404),
        Reply(500),
        Reply(504),
        Reply(0, error="called off"),
        Reply(503, body=b'{"error":{"type":"Retry","message":"later","traceback":null}}'),
        Reply(409, (("Qtasks-Uncounted", "running"),)),
        Reply(503, (("Qtasks-Uncounted", "unknown-task"),)),
    ],
    ids=lambda reply: f"{reply.status} {reply.error or reply.body or reply.headers}",
)
def test_what_is_about_one_message_holds_nothing_back(reply: Reply) -> None:
    learnt = standings()

    teach(learnt, reply, task_id="tsk_1")

    assert learnt.held() is None


@pytest.mark.parametrize(
    ("reply", "task_id"),
    [
        (Reply(429), None),
        (Reply(502), None),
        (Reply(503), None),
        (Reply(503, body=b"<html>no upstream</html>"), "tsk_1"),
        (Reply(429, (("Qtasks-Uncounted", "full"),), b'{"error":{"type":"NotNow"}}'), "tsk_1"),
        (Reply(503, (("qtasks-uncounted", "draining"),), b'{"error":{"type":"NotNow"}}'), "tsk_1"),
        (Reply(0, trouble=Trouble.UNREACHABLE), None),
        (Reply(0, trouble=Trouble.SILENT), None),
    ],
)
def test_what_is_about_the_destination_holds_it_back(reply: Reply, task_id: str | None) -> None:
    learnt = standings()

    teach(learnt, reply, task_id=task_id)

    assert learnt.shown() == {"http://app.example": 0}
    held = learnt.held()
    assert held is not None
    assert held.rooms == {"http://app.example": 0}


def test_a_message_that_is_not_answered_while_others_are_is_its_own_affair() -> None:
    clock = ManualClock()
    learnt = Standings(clock, fraction=lambda: 0.0, most=lambda: SLOTS)
    slow = new_claim(HOOK, now=0, seq=1000)
    learnt.begin([slow])
    clock.advance(seconds=1)
    teach(learnt, Reply(200))

    learnt.end(slow, Reply(0, trouble=Trouble.SILENT))

    assert learnt.held() is None


def test_what_runs_in_this_process_is_no_destination() -> None:
    learnt = standings()

    teach(learnt, Reply(503), app="shop")

    assert learnt.held() is None


def test_no_more_destinations_are_remembered_than_there_is_use_for() -> None:
    learnt = standings()
    for number in range(MOST_HELD_BACK + 50):
        teach(learnt, Reply(200), f"http://well{number}.example/")
        teach(learnt, Reply(503), f"http://ill{number}.example/")

    held = learnt.held()

    assert held is not None
    assert len(held.rooms) == learnt.held_back == MOST_HELD_BACK
    assert len(learnt.shown()) == MOST_SHOWN


def test_what_was_in_flight_over_outages_is_counted_out() -> None:
    """An attempt may outlast its era, and the time in which its destination was held back at all."""
    learnt = standings()
    old = [new_claim(HOOK, now=0, seq=1000 + number) for number in range(5)]
    learnt.begin(old)
    for _ in range(2):
        teach(learnt, Reply(0, trouble=Trouble.UNREACHABLE), count=1)
        assert learnt.shown() == {"http://app.example": 0}
        for _ in range(20):
            many = [new_claim(HOOK, now=0, seq=number) for number in range(SLOTS)]
            learnt.begin(many)
            for each in many:
                learnt.end(each, Reply(200))
        assert learnt.held() is None
    for each in old:
        learnt.end(each, Reply(200))

    assert learnt.in_flight == 0
    everybody = learnt.held(few=4)
    assert everybody is not None
    assert everybody.rooms == {}


def test_a_circuit_tells_when_it_opens_and_closes_and_names_no_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    learnt = standings()
    url = "https://user:hunter2@app.example/hook?token=hunter2"

    teach(learnt, Reply(0, error="connection refused", trouble=Trouble.UNREACHABLE), url)
    teach(learnt, Reply(200), url)

    assert caplog.messages == ["destination is left alone but for probes", "destination answers again"]
    assert {vars(each)["destination"] for each in caplog.records} == {place_of(url)}
    assert "hunter2" not in place_of(url)
