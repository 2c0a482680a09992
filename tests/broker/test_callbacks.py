"""Callbacks and failure callbacks: what they say, when they are made, and that nothing parts them from the
end that they tell of (promise P14)."""

from __future__ import annotations

import base64
import json
import logging
from dataclasses import replace
from typing import Any

import pytest

from qtasks.broker.store.logs import LogFilter
from qtasks.broker.store.records import Claim, NewMessage, Reply
from qtasks.errors import BadRequest
from qtasks.protocol.flow import FlowSpec
from qtasks.protocol.headers import Callback, Options
from qtasks.protocol.redact import Redaction
from qtasks.protocol.shapes import Outgoing, State
from tests.support.broker import HOOK, SILENCE, Held, Rig

TOLD = "https://app.example/told"
FAILED = "https://app.example/failed"
BROKEN = Reply(500, (("Content-Type", "text/plain"), ("X-Try", "a"), ("X-Try", "b")), b"oops")
EVERYTHING = LogFilter()
NEVER = Reply(489, (("Upstash-NonRetryable-Error", "true"),))


def publish(rig: Rig, body: bytes = b"hello", *, queue: str | None = None, **options: Any) -> str:
    known: dict[str, Any] = {"callback": Callback(TOLD)} | options
    [answer] = rig.broker.accept([Outgoing(HOOK, body, Options(**known), queue, caller_ip="203.0.113.7")])
    return answer.message_id


def told(rig: Rig, url: str = TOLD) -> list[dict[str, Any]]:
    """Read what has been delivered to a callback, first attempts alone."""
    return [json.loads(each.body) for each in rig.deliverer.attempts if each.url == url and each.attempt == 1]


def claims_of(rig: Rig, url: str) -> list[Claim]:
    return [each for each in rig.deliverer.attempts if each.url == url]


async def run_out(rig: Rig) -> None:
    while await rig.turn():
        pass


# --- when, and what -------------------------------------------------------------------------------


async def test_a_callback_tells_of_a_success(rig: Rig) -> None:
    rig.deliverer.will(Reply(201, (("X-Answer", "yes"),), b"\xffdone"))
    now = rig.clock.now()
    message_id = publish(rig, content_type="text/plain", forward=(("X-Tenant", "42"),), method="PUT")

    await run_out(rig)

    assert told(rig) == [
        {
            "status": 201,
            "header": {"X-Answer": ["yes"]},
            "body": base64.b64encode(b"\xffdone").decode(),
            "retried": 0,
            "maxRetries": 3,
            "sourceMessageId": message_id,
            "url": HOOK,
            "method": "PUT",
            "sourceHeader": {"Content-Type": ["text/plain"], "X-Tenant": ["42"]},
            "sourceBody": base64.b64encode(b"hello").decode(),
            "notBefore": now,
            "createdAt": now,
            "callerIP": "203.0.113.7",
        }
    ]
    [claim] = claims_of(rig, TOLD)
    assert (claim.method, claim.headers, claim.caller_ip) == (
        "POST",
        (("Content-Type", "application/json"),),
        "203.0.113.7",
    )
    assert claim.id != message_id
    assert rig.states(claim.id) == "CREATED, ACTIVE, DELIVERED"


async def test_a_callback_tells_of_each_attempt(rig: Rig) -> None:
    rig.deliverer.will(BROKEN, Reply(200), BROKEN, Reply(200))
    publish(rig, retries=2, retry_delay="1000")

    for _ in range(3):
        await run_out(rig)
        rig.clock.advance(seconds=1)

    assert [(each["status"], each["retried"]) for each in told(rig)] == [(500, 0), (500, 1), (200, 2)]
    assert told(rig)[0]["header"] == {"Content-Type": ["text/plain"], "X-Try": ["a", "b"]}


async def test_an_attempt_without_an_answer_has_status_0_and_an_error(rig: Rig) -> None:
    rig.deliverer.will(SILENCE)
    publish(rig, retries=0)

    await run_out(rig)

    [report] = told(rig)
    assert (report["status"], report["body"]) == (0, "")
    assert report["error"] == "the delivery ended without a reply"


@pytest.mark.parametrize(("answer", "retries"), [(BROKEN, 0), (NEVER, 5)])
async def test_a_failure_callback_tells_once_of_the_dead_letter(
    rig: Rig, answer: Reply, retries: int
) -> None:
    rig.deliverer.will(answer)
    message_id = publish(rig, retries=retries, callback=None, failure_callback=Callback(FAILED))

    await run_out(rig)

    [report] = told(rig, FAILED)
    letter = rig.broker.dead_letter(report["dlqId"])
    assert (letter.message.message_id, report["sourceMessageId"]) == (message_id, message_id)
    assert report["status"] == answer.status


async def test_a_callback_carries_no_dlq_id(rig: Rig) -> None:
    rig.deliverer.will(BROKEN)
    publish(rig, retries=0, failure_callback=Callback(FAILED))

    await run_out(rig)

    assert ["dlqId" in each for each in (*told(rig), *told(rig, FAILED))] == [False, True]


async def test_a_failure_that_is_tried_again_is_no_failure_yet(rig: Rig) -> None:
    rig.deliverer.will(BROKEN)
    publish(rig, retries=1, callback=None, failure_callback=Callback(FAILED))

    await run_out(rig)

    assert told(rig, FAILED) == []


async def test_an_attempt_that_is_handed_back_is_not_told_of(rig: Rig) -> None:
    rig.deliverer.will(Held())
    publish(rig)
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)

    await rig.node.dispatcher.drain(0)

    assert [each.message_id for each in rig.broker.log(EVERYTHING, None, 100)[0]] == [
        rig.deliverer.attempts[0].id
    ] * 3


async def test_a_message_that_is_called_off_makes_no_failure_callback(rig: Rig) -> None:
    held = Held(BROKEN)
    rig.deliverer.will(held)
    message_id = publish(rig, retries=0, failure_callback=Callback(FAILED))
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)

    rig.broker.cancel_one(message_id)
    held.release()
    await rig.node.dispatcher.idle()
    await run_out(rig)

    assert rig.states(message_id) == "CREATED, ACTIVE, CANCEL_REQUESTED, ERROR, CANCELED"
    assert (len(told(rig)), told(rig, FAILED)) == (1, [])


# --- options --------------------------------------------------------------------------------------


async def test_a_callback_has_the_retries_of_its_source_unless_it_has_its_own(rig: Rig) -> None:
    publish(rig, retries=7)
    publish(rig, retries=7, callback=Callback(TOLD, Options(retries=1)))

    await run_out(rig)

    assert sorted(each.max_retries for each in claims_of(rig, TOLD)) == [1, 7]


async def test_a_callback_is_sent_as_its_own_options_say(rig: Rig) -> None:
    options = Options(
        method="PATCH",
        timeout_ms=5000,
        retry_delay="500",
        delay_ms=30_000,
        labels=("audit",),
        forward=(("X-Key", "secret"),),
        flow=FlowSpec("told", parallelism=1),
    )
    publish(rig, callback=Callback(TOLD, options), labels=("source",), flow=FlowSpec("source", rate=1))
    await run_out(rig)
    assert claims_of(rig, TOLD) == []

    rig.clock.advance(seconds=30)
    await run_out(rig)

    [claim] = claims_of(rig, TOLD)
    assert (claim.method, claim.timeout_ms, claim.retry_delay) == ("PATCH", 5000, "500")
    assert claim.headers == (("Content-Type", "application/json"), ("X-Key", "secret"))
    assert claim.extras.flow == FlowSpec("told", parallelism=1)
    assert rig.broker.message(claim.id).labels == ("audit",)


async def test_a_callback_may_have_a_failure_callback_of_its_own(rig: Rig) -> None:
    rig.deliverer.will(Reply(200), BROKEN)
    nested = Options(retries=0, failure_callback=Callback(FAILED))
    publish(rig, callback=Callback(TOLD, nested))

    await run_out(rig)

    [source] = claims_of(rig, TOLD)
    assert [each["sourceMessageId"] for each in told(rig, FAILED)] == [source.id]


async def test_a_callback_that_fails_for_good_is_a_dead_letter_and_changes_nothing_else(rig: Rig) -> None:
    rig.deliverer.will(Reply(200), BROKEN)
    message_id = publish(rig, callback=Callback(TOLD, Options(retries=0)))

    await run_out(rig)

    letters, _ = rig.broker.dead_letters(None, 10)
    assert [each.message.url for each in letters] == [TOLD]
    assert rig.states(message_id) == "CREATED, ACTIVE, DELIVERED"


@pytest.mark.parametrize(
    ("options", "queue", "text"),
    [
        ({"callback": Callback("orders")}, None, "invalid callback url: endpoint has invalid scheme"),
        ({"callback": None, "failure_callback": Callback("https://")}, None, "invalid callback url"),
        (
            {"callback": Callback(TOLD, Options(callback=Callback("nowhere")))},
            None,
            "invalid callback url: endpoint has invalid scheme",
        ),
        (
            {"callback": Callback(TOLD, Options(delay_ms=1000))},
            "mail",
            "Upstash-Callback-Delay: a callback of a message in a queue cannot be delayed",
        ),
        (
            {"callback": None, "failure_callback": Callback(FAILED, Options(delay_ms=1000))},
            "mail",
            "Upstash-Failure-Callback-Delay: a callback of a message in a queue cannot be delayed",
        ),
    ],
)
async def test_a_callback_that_cannot_be_is_refused(
    rig: Rig, options: dict[str, Any], queue: str | None, text: str
) -> None:
    with pytest.raises(BadRequest, match=text):
        publish(rig, queue=queue, **options)

    assert rig.broker.log(EVERYTHING, None, 10) == ([], None)


# --- redaction ------------------------------------------------------------------------------------


async def test_what_its_source_hides_is_not_shown_by_a_callback_either(rig: Rig) -> None:
    redact = Redaction(headers=frozenset({"x-key"}))
    options = Options(forward=(("X-Key", "secret"),))
    publish(rig, b"mysecret", redact=redact, callback=Callback(TOLD, options), forward=(("X-Key", "secret"),))

    await run_out(rig)

    [claim] = claims_of(rig, TOLD)
    shown = rig.broker.message(claim.id)
    assert shown.body.startswith(b"REDACTED:")
    assert shown.header["X-Key"][0].startswith("REDACTED:")
    assert json.loads(claim.body)["sourceBody"] == base64.b64encode(b"mysecret").decode()


# --- queues wait for them -------------------------------------------------------------------------


async def test_the_next_in_a_queue_waits_until_the_callback_has_ended(rig: Rig) -> None:
    held = Held()
    rig.deliverer.will(Reply(200), held)
    publish(rig, b"1", queue="mail")
    publish(rig, b"2", queue="mail", callback=None)
    await rig.turn()

    await rig.node.dispatcher.step()
    await rig.deliverer.reached(2)
    assert (await rig.node.dispatcher.step()).claims == []
    lag_before = rig.broker.queue("mail").lag
    held.release()
    await rig.node.dispatcher.idle()

    assert lag_before == 1
    assert await rig.turn() == 1
    assert rig.deliverer.bodies[-1] == b"2"


async def test_the_next_in_a_queue_waits_for_the_retries_of_both_callbacks(rig: Rig) -> None:
    rig.deliverer.will(BROKEN, BROKEN, BROKEN)
    once = Options(retries=1, retry_delay="60000")
    publish(
        rig,
        b"1",
        queue="mail",
        retries=0,
        callback=Callback(TOLD, once),
        failure_callback=Callback(FAILED, once),
    )
    publish(rig, b"2", queue="mail", callback=None)
    await rig.turn()
    await rig.turn()
    rig.clock.advance(seconds=30)
    assert await rig.turn() == 0

    rig.clock.advance(seconds=30)
    await rig.turn()
    await rig.turn()

    assert [each.url for each in rig.deliverer.attempts] == [HOOK, TOLD, FAILED, TOLD, FAILED, HOOK]


async def test_a_callback_that_is_called_off_gives_its_slot_back(rig: Rig) -> None:
    rig.deliverer.will(Reply(200), BROKEN)
    publish(rig, b"1", queue="mail")
    publish(rig, b"2", queue="mail", callback=None)
    await rig.turn()
    await rig.turn()
    [callback] = claims_of(rig, TOLD)

    rig.broker.cancel_one(callback.id)

    assert await rig.turn() == 1
    assert rig.deliverer.bodies[-1] == b"2"


async def test_a_slot_that_callbacks_keep_is_one_of_several(rig: Rig) -> None:
    rig.broker.set_queue("mail", 2, None)
    held = Held()
    rig.deliverer.will(Reply(200), Reply(200), held)
    publish(rig, b"1", queue="mail")
    for number in (2, 3, 4):
        publish(rig, str(number).encode(), queue="mail", callback=None)

    await rig.node.dispatcher.step()
    await rig.deliverer.reached(2)
    await rig.node.dispatcher.settle()
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(4)
    assert (await rig.node.dispatcher.step()).claims == []
    held.release()
    await rig.node.dispatcher.idle()

    while await rig.turn():
        pass
    assert sorted(each for each in rig.deliverer.bodies if len(each) == 1) == [b"1", b"2", b"3", b"4"]


async def test_a_callback_whose_source_is_tried_again_holds_nobody_up(rig: Rig) -> None:
    """A waiting retry keeps its own slot; its callbacks must not take another, or it could never go on."""
    held = Held()
    rig.deliverer.will(BROKEN, held)
    publish(rig, b"1", queue="mail", retry_delay="1000")
    await rig.turn()
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(2)
    rig.clock.advance(seconds=1)

    claimed = await rig.node.dispatcher.step()

    assert [each.body for each in claimed.claims] == [b"1"]
    held.release()
    await rig.node.dispatcher.idle()


async def test_a_queue_with_kept_slots_can_be_dropped(rig: Rig) -> None:
    rig.deliverer.will(Reply(200), BROKEN)
    publish(rig, queue="mail")
    await rig.turn()

    rig.broker.delete_queue("mail")
    await rig.turn()
    publish(rig, b"again", queue="mail", callback=None)

    assert await rig.turn() == 1


# --- together or not at all -----------------------------------------------------------------------


async def test_an_end_that_is_not_recorded_makes_no_callback(rig: Rig) -> None:
    """A lost lease: another life of the broker owns the message, and will tell of its own attempt."""
    held = Held()
    rig.deliverer.will(held)
    message_id = publish(rig, retries=1)
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)

    other = rig.new_node()
    await other.recover()
    rig.deliverer.will(Held())
    await other.dispatcher.step()
    held.reply = BROKEN
    held.release()
    await rig.node.dispatcher.idle()

    entries = rig.broker.log(EVERYTHING, None, 100)[0]
    made = [each for each in entries if each.url == TOLD and each.state is State.CREATED]
    assert len(made) == 1  # of the interrupted attempt alone
    assert "FAILED" not in rig.states(message_id)
    await other.dispatcher.drain(0)


async def test_a_crash_on_the_last_attempt_tells_of_the_dead_letter(rig: Rig) -> None:
    rig.deliverer.will(Held())
    publish(rig, retries=0, callback=None, failure_callback=Callback(FAILED))
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)

    node = rig.new_node()
    await node.recover()
    await node.dispatcher.step()
    await node.dispatcher.idle()

    [report] = told(rig, FAILED)
    assert report["error"].startswith("interrupted")
    assert rig.broker.dead_letter(report["dlqId"]).response_status == 0


async def test_if_a_callback_cannot_be_stored_its_end_is_not_recorded_either(rig: Rig) -> None:
    rig.deliverer.will(BROKEN)
    message_id = publish(rig, queue="mail", retries=0, failure_callback=Callback(FAILED))
    publish(rig, b"2", queue="mail", callback=None)
    node = rig.node.dispatcher
    made = node._judging._callbacks

    def broken(settlement: Any) -> list[NewMessage]:
        return [replace(each, id=message_id) for each in made(settlement)]  # a second row of that id

    node._judging._callbacks = broken
    await node.step()
    await rig.deliverer.reached(1)
    await node.settle()

    assert rig.states(message_id) == "CREATED, ACTIVE"
    assert rig.broker.dead_letters(None, 10) == ([], None)
    assert rig.broker.queue("mail").lag == 2


# --- the log of the process -----------------------------------------------------------------------


async def test_no_log_line_holds_a_body_a_header_or_a_token(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "correct-horse-battery-staple"
    rig.deliverer.will(Reply(500, (("X-Answer", secret),), secret.encode()), NEVER, Reply(200))
    for retries in (1, 0):
        publish(
            rig,
            secret.encode(),
            retries=retries,
            retry_delay="0",
            forward=(("Authorization", secret),),
            callback=Callback(TOLD, Options(forward=(("X-Key", secret),))),
        )

    await run_out(rig)
    await run_out(rig)

    said = [f"{each.getMessage()} {each.__dict__}" for each in caplog.records]
    assert len(said) >= 4
    assert secret not in "".join(said)


# --- called off, dropped --------------------------------------------------------------------------


async def test_a_message_called_off_in_its_queue_leaves_its_slot_to_its_callbacks(rig: Rig) -> None:
    held = Held()
    rig.deliverer.will(BROKEN, held)
    first = publish(rig, b"1", queue="mail", retry_delay="60000")
    publish(rig, b"2", queue="mail", callback=None)
    await rig.turn()
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(2)

    rig.broker.cancel_one(first)
    assert (await rig.node.dispatcher.step()).claims == []
    held.release()
    await rig.node.dispatcher.idle()

    assert await rig.turn() == 1
    assert rig.deliverer.bodies[-1] == b"2"


async def test_what_outlives_its_queue_keeps_no_slot_of_another(rig: Rig) -> None:
    """The next queue may get the number of the dropped one."""
    outlives, callback = Held(), Held()
    rig.deliverer.will(outlives, callback)
    publish(rig, b"1", queue="mail")
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)
    rig.broker.delete_queue("mail")
    publish(rig, b"2", queue="post", callback=None)
    rig.broker.set_paused("post", True)

    outlives.release()
    await rig.node.dispatcher.idle()
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(2)
    rig.broker.set_paused("post", False)
    claimed = await rig.node.dispatcher.step()

    assert [each.body for each in claimed.claims] == [b"2"]
    callback.release()
    await rig.node.dispatcher.idle()
