"""What expiry and keys without a window owe on every database."""

from __future__ import annotations

from typing import Any

import pytest

from qtasks.broker.store import cancelling, messages, surroundings
from qtasks.broker.store.extras import Extras
from qtasks.broker.store.records import Again, Dead, Delivered
from tests.support.store import BROKEN, Verbs, bodies

SOON_MS = 5000


def late(store: Verbs, body: bytes, **changes: Any) -> str:
    """Enqueue a message that expires in five seconds."""
    extras = Extras(expires_at=store.clock.now() + SOON_MS)
    return store.enqueue(body, extras=extras, task_id=body.decode(), result_ttl_ms=60_000, **changes)


def unique(store: Verbs, until: str, key: str = "a", **changes: Any) -> str:
    return store.enqueue(key.encode(), dedup_key=surroundings.UNIQUE_KEYS[until] + key,
                         dedup_until=messages.NO_WINDOW, ordered=False, parallelism=9, **changes)  # fmt: skip


def test_what_has_not_expired_is_started(store: Verbs) -> None:
    late(store, b"in time")

    store.clock.advance(SOON_MS)

    assert bodies(store.claim()) == [b"in time"]


def test_what_has_expired_is_called_off_instead_of_started(store: Verbs) -> None:
    late(store, b"too late")
    store.enqueue(b"next")

    store.clock.advance(SOON_MS + 1)
    first, second = store.claim(), store.claim()

    assert bodies([*first, *second]) == [b"next"]
    result = store.result("too late")
    assert (result.state, result.attempts) == ("EXPIRED", 0)
    [entry] = [each for each in store.log() if each.state == "CANCELED"]
    assert (entry.body, entry.error) == (b"too late", "expired")


def test_a_crowd_that_has_expired_gives_way_to_what_has_not(store: Verbs) -> None:
    for number in range(50):
        late(store, b"%d" % number, queue="wide", ordered=False, parallelism=5)
    store.enqueue(b"good", queue="wide", ordered=False, parallelism=5)
    store.clock.advance(SOON_MS + 1)

    started = [bodies(store.claim(slots=5)) for _ in range(11)]

    assert [each for each in started if each] == [[b"good"]]


def test_a_retry_that_comes_too_late_is_not_made(store: Verbs) -> None:
    late(store, b"retried")
    store.settle(store.claim_one(), Again(store.clock.now() + SOON_MS + 1), BROKEN)

    store.clock.advance(SOON_MS + 1)

    assert store.claim() == []
    result = store.result("retried")
    assert (result.state, result.attempts) == ("EXPIRED", 1)


def test_a_result_outlives_its_kept_state_as_expired(store: Verbs) -> None:
    late(store, b"too late")
    store.clock.advance(SOON_MS + 1)
    store.claim()

    store.clock.advance(61_000)

    assert store.result("too late").state == "EXPIRED"


@pytest.mark.parametrize("until", ["started", "finished"])
def test_a_key_holds_while_its_message_waits(store: Verbs, until: str) -> None:
    first = unique(store, until)

    assert unique(store, until) == first
    assert unique(store, until, "b") != first


@pytest.mark.parametrize(("until", "holds"), [("started", False), ("finished", True)])
def test_a_key_holds_while_its_message_runs_or_waits_for_its_retry(
    store: Verbs, until: str, holds: bool
) -> None:
    first = unique(store, until)

    claim = store.claim_one()
    running = unique(store, until)
    store.settle(claim, Again(store.clock.now() + 1000), BROKEN)
    retrying = unique(store, until)

    assert (running == first) is holds
    assert (retrying == first) is holds


@pytest.mark.parametrize("verdict", [Delivered(), Dead()])
def test_a_key_is_free_once_its_message_has_finished(store: Verbs, verdict: Delivered | Dead) -> None:
    first = unique(store, "finished")
    store.settle(store.claim_one(), verdict)

    assert unique(store, "finished") != first


def test_a_key_is_free_once_its_message_is_called_off(store: Verbs) -> None:
    first = unique(store, "finished")
    now = store.clock.now()
    store.database.run(lambda session: cancelling.cancel(session, [first], now))

    assert unique(store, "finished") != first


def test_a_key_is_free_once_its_message_has_expired(store: Verbs) -> None:
    first = unique(store, "finished", extras=Extras(expires_at=store.clock.now() + SOON_MS))

    store.clock.advance(SOON_MS + 1)

    assert unique(store, "finished") != first


def test_a_repeat_learns_the_task_that_has_the_key(store: Verbs) -> None:
    key = surroundings.UNIQUE_KEYS["finished"] + "a"
    wanted = [
        store.message(task_id=task, dedup_key=key, dedup_until=messages.NO_WINDOW)
        for task in ("t1", "t2", "t1")
    ]

    answers = store.store(*wanted)

    assert [each.deduplicated for each in answers] == [False, True, True]
    assert [each.task_id for each in answers] == [None, "t1", None]


def test_keys_of_finished_messages_are_forgotten_and_others_are_kept(store: Verbs) -> None:
    unique(store, "finished", "done")
    store.settle(store.claim_one(), Delivered())
    unique(store, "finished", "waiting")

    store.database.run(
        lambda session: messages.prune_dedup(session, after="", now=store.clock.now(), count=100)
    )
    left = store.database.look(
        lambda session: session.all("dedup_walk", {"after": "", "no_window": 0, "count": 9})
    )

    assert [row[0] for row in left] == ["uf:waiting"]
