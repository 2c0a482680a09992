"""A message that is claimed as it arrives: the same comes of it as by the line for claims."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qtasks.broker.store import claiming, queues
from qtasks.broker.store.arrivals import Arrival
from qtasks.broker.store.changes import Errand
from qtasks.broker.store.database import Session
from qtasks.broker.store.extras import Extras
from qtasks.broker.store.group import Ticket
from qtasks.broker.store.messages import LARGE_BYTES, Enqueueing
from qtasks.broker.store.records import NOTHING, Claim, Claimed, NewMessage
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.clock import ManualClock
from qtasks.errors import BadRequest, StoreError
from qtasks.protocol.flow import FlowSpec
from tests.support.store import LEASE_MARGIN_MS, NODE, Verbs, new_message

APP = "shop"
NOW = 1_700_000_000_000


class Waiting:
    """A store, with somebody who always waits for work and has it claimed along.

    `by_line` has all of it take the way of the line.
    """

    def __init__(self, path: Path, *, by_line: bool = False) -> None:
        self.database = SqliteDatabase(str(path), durability="relaxed")
        self.verbs = Verbs(self.database, ManualClock(NOW))
        self.joined = 0
        """How often a queue has joined the line."""
        if by_line:
            self.database._session._along = lambda arrival: False

    def put(self, *messages: NewMessage, slots: int = 2, fits: bool = True) -> Claimed:
        """Store messages as a call does; give what was claimed along."""
        results: list[Claimed] = []
        errand = Errand(partial(self._claim, slots, fits), results.append)
        changes = self.database._changes
        changes._told, changes._errand = False, errand
        self.database._writer.set_trace_callback(self._see)
        self.database.run(Enqueueing(messages, self.verbs.clock.now()))
        self.database._writer.set_trace_callback(None)
        changes._errand = None  # nor is it done along with what comes later
        return results[0] if results else NOTHING

    def _claim(self, slots: int, fits: bool, session: Session, arrival: Arrival | None) -> Claimed:
        return claiming.claim(
            session,
            node=NODE,
            app=APP,
            slots=slots,
            alone_is_free=True,
            lease_margin_ms=LEASE_MARGIN_MS,
            now=self.verbs.clock.now(),
            admit=lambda: lambda claim: fits,
            arrival=arrival,
        )

    def _see(self, statement: str) -> None:
        self.joined += "SET turn" in statement and "turn IS NULL" in statement

    @property
    def line(self) -> list[str]:
        """The names of the queues that stand in line."""
        rows = self.database._writer.execute("SELECT name FROM queues WHERE turn IS NOT NULL ORDER BY name")
        return [row[0] for row in rows]

    @property
    def pending(self) -> list[Any]:
        """All that is known of messages that are on their way."""
        return self.database._writer.execute("SELECT * FROM pending ORDER BY seq").fetchall()


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Waiting]:
    waiting = Waiting(tmp_path / "q.db")
    yield waiting
    waiting.database.close()


def message(body: bytes = b"", **changes: Any) -> NewMessage:
    return new_message(body, now=NOW, **{"app": APP, **changes})


def test_a_lone_message_is_claimed_as_it_arrives_as_it_would_be_read(waiting: Waiting) -> None:
    extras = Extras(batch=100, kind="mail", expires_at=NOW + 1000)
    told = message(
        b"hello",
        headers=(("Content-Type", "text/plain"), ("X-Ü", "ä")),
        labels=("a", "b"),
        task_id="tsk_7",
        caller_ip="192.0.2.1",
        retry_delay="1000 * retried",
        result_ttl_ms=60_000,
        extras=extras,
    )

    claimed = waiting.put(told)

    assert (waiting.joined, waiting.line, claimed.is_all, claimed.next_due_at) == (0, [], True, None)
    [claim] = claimed.claims
    [stored] = waiting.database.look(lambda session: claiming.own_leases(session, NODE))
    assert claim.body == b"hello"
    assert (claim.attempt, claim.lease_epoch) == (1, 1)
    assert stored == replace(claim, lease_until=NOW + claim.timeout_ms)  # whoever reads it asks for no margin


@pytest.mark.parametrize(
    ("changes", "claimed"),
    [
        ({"start_at": NOW + 5000, "queue": "free", "ordered": False}, 0),
        ({"app": "other"}, 0),
        ({"extras": Extras(expires_at=NOW - 1)}, 0),
        ({"body": b"x" * (LARGE_BYTES + 1)}, 1),
    ],
    ids=["delayed", "another-app", "expired", "large"],
)
def test_what_there_is_more_to_goes_by_the_line(
    waiting: Waiting, changes: dict[str, Any], claimed: int
) -> None:
    found = waiting.put(message(**changes))

    assert len(found.claims) == claimed
    assert waiting.joined == (0 if changes.get("start_at") else 1)


@pytest.mark.parametrize("flow", [FlowSpec("key", rate=1), FlowSpec("key", parallelism=1)])
def test_flow_control_holds_for_what_arrives(waiting: Waiting, flow: FlowSpec) -> None:
    [first] = waiting.put(message(extras=Extras(flow=flow))).claims
    waiting.verbs.deliver(first)
    second = waiting.put(message(extras=Extras(flow=flow))).claims
    assert len(second) == (0 if flow.rate else 1)

    assert not waiting.put(message(extras=Extras(flow=flow))).claims


def test_nothing_overtakes_what_waits_or_what_is_in_flight_or_a_pause(waiting: Waiting) -> None:
    [first] = waiting.put(message(b"1")).claims
    assert waiting.put(message(b"2")).claims == []

    waiting.verbs.deliver(first)
    waiting.put(message(b"3"))
    assert [each.body for each in waiting.verbs.claim(app=APP)] == [b"2"]

    waiting.database.run(lambda session: queues.upsert(session, "still", 5, True, NOW))
    assert waiting.put(message(queue="still", ordered=False)).claims == []


def test_whoever_stands_in_line_has_his_turn_before_what_arrives(waiting: Waiting) -> None:
    waiting.verbs.store(message(b"first", queue="other"))

    assert [each.body for each in waiting.put(message(b"second"), slots=1).claims] == [b"first"]
    assert "mail" in waiting.line


def test_what_does_not_fit_stays_in_line(waiting: Waiting) -> None:
    found = waiting.put(message(), fits=False)

    assert (found.claims, waiting.line) == ([], ["mail"])


def test_a_claim_that_breaks_leaves_the_message_in_line(
    waiting: Waiting, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(session: Session, arrival: Arrival | None) -> None:
        assert arrival is not None
        queues.join_line(session, [arrival.queue.id])
        raise ZeroDivisionError

    waiting.database._changes._errand = Errand(break_down)
    waiting.database.run(Enqueueing([message(b"kept")], NOW))

    assert waiting.line == ["mail"]
    assert "what was to be done along failed" in caplog.text
    assert [each.body for each in waiting.verbs.claim(app=APP)] == [b"kept"]


def test_what_a_work_did_along_is_undone_with_it(waiting: Waiting) -> None:
    """Of several works of a commit, one fails after what it stored was claimed."""

    def store_and_break(session: Session) -> None:
        Enqueueing([message(b"gone")], NOW)(session)
        raise BadRequest("too late")

    errand = Errand(partial(waiting._claim, 1, True))
    waiting.database._changes._errand = errand
    tickets = [Ticket(store_and_break), Ticket(Enqueueing([message(b"kept")], NOW))]
    assert waiting.database._do_at_once(tickets)

    assert isinstance(tickets[0].error, BadRequest)
    with pytest.raises(StoreError, match="what was to be done along was not done"):
        asyncio.run(errand.outcome())
    assert [each.body for each in waiting.verbs.claim(app=APP)] == [b"kept"]


OPS = st.one_of(
    st.fixed_dictionaries(
        {
            "queue": st.sampled_from(["one", "two", "wide"]),
            "delay": st.sampled_from([None, None, None, 500]),
            "app": st.sampled_from([APP, APP, None, "other"]),
        }
    ),
    st.sampled_from(["deliver", "fail", "pause", "resume", "later"]),
)
WIDTHS = {"one": (1, True), "two": (2, False), "wide": (100, False)}


ONE, TWO = ({"queue": name, "delay": None, "app": APP} for name in ("one", "two"))


@settings(deadline=None)
@example([TWO, "deliver", ONE, ONE, "deliver", "deliver", ONE, "pause", TWO, ONE, "resume"])
@given(st.lists(OPS, max_size=30))
def test_the_same_comes_of_it_as_by_the_line(ops: Sequence[dict[str, Any] | str]) -> None:
    with TemporaryDirectory() as folder:
        stores = [Waiting(Path(folder) / "a.db"), Waiting(Path(folder) / "b.db", by_line=True)]
        held: list[Claim] = []
        for op in ops:
            found = _do(stores, op, held)
            assert found[0] == found[1]
            held += found[0]
            assert stores[0].pending == stores[1].pending
        for each in stores:
            each.database.close()


def _do(stores: Sequence[Waiting], op: dict[str, Any] | str, held: list[Claim]) -> list[list[Claim]]:
    """Do the same to all stores; give what was claimed in each, by whom has slots for all."""
    if isinstance(op, dict):
        parallelism, ordered = WIDTHS[op["queue"]]
        now = stores[0].verbs.clock.now()
        told = message(
            queue=op["queue"],
            parallelism=parallelism,
            ordered=ordered,
            app=op["app"],
            created_at=now,
            start_at=None if op["delay"] is None or ordered else now + op["delay"],
        )
        return [[*each.put(told).claims, *each.verbs.claim(app=APP)] for each in stores]
    claim = held.pop(0) if op in ("deliver", "fail") and held else None
    claims: list[list[Claim]] = []
    for each in stores:
        verbs = each.verbs
        if claim is not None:
            verbs.deliver(claim) if op == "deliver" else verbs.fail(claim, after_ms=300)
        elif op in ("pause", "resume"):
            each.database.run(lambda session: queues.set_paused(session, "two", op == "pause", NOW))
        elif op == "later":
            verbs.clock.advance(400)
        claims.append(verbs.claim(app=APP))
    return claims
