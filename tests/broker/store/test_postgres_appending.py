"""Calls that are stored in one round trip: they are as all others, and none is lost or doubled."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from psycopg import DatabaseError, OperationalError

from qtasks.broker.store import cancelling, postgres, queues
from qtasks.broker.store.extras import Extras
from qtasks.broker.store.postgres import PostgresDatabase
from qtasks.broker.store.postgres_appending import Appended
from qtasks.broker.store.postgres_links import link
from qtasks.broker.store.postgres_pipeline import Pipeline
from qtasks.broker.store.records import NewMessage
from qtasks.clock import ManualClock
from qtasks.errors import BadRequest, StoreUnreachable
from qtasks.protocol.flow import FlowSpec
from tests.support.postgres import Postgres
from tests.support.store import Verbs, bodies

SOON_S = 30
FAR = 1 << 40


Loss = Literal["request", "sending", "answer"]
"""What is lost: all that was sent, nothing but how that ended, or the answer to it."""


@dataclass
class Wire:
    """Counts round trips and notes who sends calls, and loses the connection with one of them if told to."""

    trips: int = 0
    appended: list[int] = field(default_factory=list)
    senders: list[int] = field(default_factory=list)
    lose: Loss | None = None
    spared: int = 0
    """How many are not to be lost before that one is."""

    def loses(self, what: str) -> bool:
        if self.lose != what:
            return False
        self.spared -= 1
        self.lose = self.lose if self.spared >= 0 else None
        return self.lose is None


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire = Wire()
    come_back, begin, end = Pipeline._come_back, Pipeline.begin_commit, Pipeline.end_commit

    def counted(self: Pipeline) -> Any:
        wire.trips += 1
        return come_back(self)

    def begun(self: Pipeline, last: Appended, **options: bool) -> None:
        wire.senders.append(threading.get_ident())
        if wire.loses("request"):
            self._connection.close()
            return
        begin(self, last, **options)
        if wire.loses("sending"):
            end(self)
            self._connection.close()
            raise OperationalError("the connection is lost")

    def ended(self: Pipeline) -> int:
        count = end(self)
        if wire.loses("answer"):
            self._connection.close()
            raise OperationalError("the connection is lost")
        wire.appended.append(count)
        return count

    monkeypatch.setattr(Pipeline, "_come_back", counted)
    monkeypatch.setattr(Pipeline, "begin_commit", begun)
    monkeypatch.setattr(Pipeline, "end_commit", ended)
    return wire


@pytest.fixture(params=["", "&pooler=on"], ids=["alone", "pooler"])
def place(request: pytest.FixtureRequest, postgres: Postgres) -> str:
    return f"{postgres.new_store()}{request.param}"


@pytest.fixture
def store(place: str) -> Iterator[Verbs]:
    with closing(PostgresDatabase(place)) as database:
        yield Verbs(database, ManualClock())


@pytest.fixture
def other(place: str, store: Verbs) -> Iterator[Verbs]:
    """Another node on the same store."""
    with closing(PostgresDatabase(place)) as database:
        yield Verbs(database, store.clock)


def rows(store: Verbs, table: str) -> list[dict[str, Any]]:
    assert isinstance(store.database, PostgresDatabase)
    place = store.database.place
    with link(place) as connection:
        cursor = connection.execute(f"SELECT * FROM {place.schema}.{table} ORDER BY seq".encode())
        names = [each.name for each in cursor.description or ()]
        return [dict(zip(names, each, strict=True)) for each in cursor.fetchall()]


def waiting(store: Verbs) -> list[bytes]:
    return [bytes(each["body"]) for each in rows(store, "messages")]


def test_a_call_of_a_queue_that_stands_in_line_takes_one_round_trip(store: Verbs, wire: Wire) -> None:
    store.enqueue(b"first")
    store.enqueue(b"second")
    before = wire.trips

    store.enqueue(b"third")

    assert wire.trips == before + 1
    assert wire.appended == [1]
    assert waiting(store) == [b"first", b"second", b"third"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ordered": False, "parallelism": 3},
        {"task_id": "tsk_1", "result_ttl_ms": 5, "labels": ("a", "b"), "retry_delay": "1000", "app": "shop"},
        {"caller_ip": "10.0.0.1", "headers": (("A", "b"),), "extras": Extras(expires_at=FAR, kind="k")},
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [1, 3, 40])
def test_what_is_appended_is_stored_as_in_the_usual_way(
    store: Verbs, wire: Wire, changes: dict[str, Any], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(name: str) -> list[NewMessage]:
        extra = {"task_id": None} | changes
        return [store.message(b"%d" % n, **{**extra, "id": f"msg_{name}{n}"}) for n in range(count)]

    store.store(*make("first"))  # its queue joins the line
    store.store(*make("usual"))
    store.store(*make("quick"))

    messages, pending = rows(store, "messages"), rows(store, "pending")
    assert [each["seq"] for each in messages] == [*range(1, 3 * count + 1)]
    for table in (messages, pending):
        usual, quick = table[count : 2 * count], table[2 * count :]
        for one, another in zip(usual, quick, strict=True):
            differ = {name for name in one if one[name] != another[name]}
            assert differ <= {"seq", "id"}


def test_it_is_one_statement_however_many_there_are(store: Verbs, wire: Wire) -> None:
    """Many are too much to leave in one piece, so the turn to write is waited for."""
    store.enqueue()
    store.enqueue()
    before = wire.trips

    store.store(*(store.message(b"%d" % n) for n in range(500)))

    assert wire.trips == before + 3
    assert waiting(store)[2:] == [b"%d" % n for n in range(500)]


def test_what_must_be_looked_for_is_stored_in_the_usual_way(store: Verbs, wire: Wire) -> None:
    """Each would be in a queue in line otherwise."""
    store.enqueue(ordered=False)
    store.enqueue(ordered=False)
    store.enqueue(dedup_key="id:1", ordered=False)
    store.enqueue(dedup_key="id:1", ordered=False)
    store.enqueue(start_at=store.clock.now() + 1000, ordered=False)
    store.enqueue(queue="", ordered=False)
    store.enqueue(extras=Extras(flow=FlowSpec("k", parallelism=1)))

    assert wire.appended == []
    assert len(waiting(store)) == 6


def test_a_delay_in_an_ordered_queue_is_refused_as_ever(store: Verbs) -> None:
    for _ in range(3):
        store.enqueue()

    with pytest.raises(BadRequest, match="queue mail is ordered"):
        store.enqueue(start_at=store.clock.now() + 1000)


def test_a_queue_that_has_left_its_line_is_seen_and_joins_it(store: Verbs, other: Verbs, wire: Wire) -> None:
    for body in (b"1", b"2", b"3"):
        store.enqueue(body, ordered=False, parallelism=9)
    assert bodies(other.claim()) == [b"1", b"2", b"3"]

    store.enqueue(b"4", ordered=False, parallelism=9)
    tries = list(wire.appended)
    store.enqueue(b"5", ordered=False, parallelism=9)

    assert tries == [1, 0]
    assert bodies(other.claim()) == [b"4", b"5"]


def test_of_calls_that_share_a_commit_all_are_stored_if_one_queue_has_left_its_line(
    store: Verbs, other: Verbs, wire: Wire
) -> None:
    idle = {"queue": "idle", "ordered": False, "parallelism": 9}
    for _ in range(2):
        store.enqueue(b"busy")
        store.enqueue(b"idle", **idle)
    store.store(store.message(b"busy"), store.message(b"idle", **idle))
    assert wire.appended[-1] == 2
    other.claim()

    store.store(store.message(b"busy"), store.message(b"idle", **idle), store.message(b"busy"))

    assert wire.appended[-1] == 0
    assert waiting(store)[-3:] == [b"busy", b"idle", b"busy"]
    assert bodies(other.claim()) == [b"idle"]


def test_a_queue_that_was_deleted_is_made_again(store: Verbs, wire: Wire) -> None:
    store.enqueue(b"1")
    store.enqueue(b"2")
    store.database.run(lambda session: cancelling.delete_queue(session, "mail", store.clock.now()))

    store.enqueue(b"3")

    assert wire.appended == [0]
    assert [each.name for each in store.database.look(queues.views)] == ["mail"]


def test_numbers_and_instants_grow_whoever_stores(store: Verbs, other: Verbs, wire: Wire) -> None:
    for _ in range(3):
        store.enqueue(b"mine")
        other.enqueue(b"theirs")
    store.clock.advance(5000)
    other.enqueue(b"later")

    store.store(store.message(b"earlier", created_at=store.clock.now() - 3000))

    found = rows(store, "messages")
    assert [each["seq"] for each in found] == [*range(1, 9)]
    assert found[-1]["created_at"] == found[-2]["created_at"] == found[-1]["not_before"]
    assert wire.appended


def test_calls_of_many_threads_share_commits(store: Verbs, wire: Wire) -> None:
    store.enqueue()
    store.enqueue()
    start = threading.Barrier(8)

    def call(thread: int) -> None:
        start.wait(SOON_S)
        for n in range(25):
            store.enqueue(b"%d/%d" % (thread, n))

    with ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(call, n) for n in range(8)]:
            each.result(SOON_S)

    found = waiting(store)[2:]
    assert sorted(found) == sorted(b"%d/%d" % (t, n) for t in range(8) for n in range(25))
    for thread in range(8):
        own = [each for each in found if each.startswith(b"%d/" % thread)]
        assert own == [b"%d/%d" % (thread, n) for n in range(25)]
    assert sum(wire.appended) == 200
    assert len(wire.appended) < 200


@pytest.mark.parametrize("lose", ["request", "sending", "answer"])
@pytest.mark.parametrize("count", [1, 4])
def test_a_connection_that_is_lost_as_it_commits_is_made_anew_and_nothing_lost_or_doubled(
    store: Verbs, wire: Wire, lose: Loss, count: int
) -> None:
    store.enqueue(b"first")
    store.enqueue(b"second")
    wire.lose = lose

    answers = store.store(*(store.message(b"%d" % n) for n in range(count)))

    assert waiting(store)[2:] == [b"%d" % n for n in range(count)]
    assert [each.message_id for each in answers] == [each["id"] for each in rows(store, "messages")[2:]]
    assert wire.lose is None


def test_what_is_lost_for_good_is_told(store: Verbs, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    store.enqueue(b"first")
    store.enqueue(b"second")
    wire.lose = "request"

    def refuse(place: object) -> Any:
        raise StoreUnreachable("nobody is there")

    with monkeypatch.context() as without:
        without.setattr(postgres, "store_link", refuse)
        with pytest.raises(StoreUnreachable, match="nobody is there"):
            store.enqueue(b"third")

    store.enqueue(b"fourth")
    assert waiting(store) == [b"first", b"second", b"fourth"]


@contextmanager
def held_back(store: Verbs) -> Iterator[None]:
    """Have nobody write during the block."""
    assert isinstance(store.database, PostgresDatabase)
    place = store.database.place
    with link(place) as connection, connection.transaction():
        connection.execute(f"SELECT pg_advisory_xact_lock({place.lock})".encode())
        yield


def await_waiting(store: Verbs, count: int) -> None:
    assert isinstance(store.database, PostgresDatabase)
    group = store.database._group
    ends_at = time.monotonic() + SOON_S
    while not (group._busy and len(group._waiting) == count):
        assert time.monotonic() < ends_at
        time.sleep(0.001)


def call_behind_one(
    store: Verbs, wire: Wire, *messages: NewMessage, lose: Loss | None = None
) -> list[Future[Any]]:
    """Have each of these called by a thread of its own while the commit of another call is under way."""
    with ThreadPoolExecutor(len(messages) + 1) as pool:
        with held_back(store):
            first = pool.submit(store.store, store.message(b"ahead"))
            await_waiting(store, 0)
            calls = []
            for place, each in enumerate(messages):
                calls.append(pool.submit(store.store, each))
                await_waiting(store, place + 1)
            wire.lose, wire.spared = lose, int(lose == "answer")
        first.result(SOON_S)
    return calls


def test_calls_that_wait_are_sent_by_who_has_just_got_an_answer(store: Verbs, wire: Wire) -> None:
    store.enqueue(b"first")
    store.enqueue(b"second")
    before = wire.trips

    calls = call_behind_one(store, wire, *(store.message(b"%d" % n) for n in range(3)))

    stored = rows(store, "messages")[2:]
    assert [each["body"] for each in stored] == [b"ahead", b"0", b"1", b"2"]
    assert [each.result()[0].message_id for each in calls] == [each["id"] for each in stored[1:]]
    assert wire.appended == [1, 3]
    assert wire.trips == before + 2
    assert wire.senders == wire.senders[:1] * 2


@pytest.mark.parametrize("lose", ["request", "sending", "answer"])
def test_what_was_sent_ahead_is_neither_lost_nor_doubled_with_its_connection(
    store: Verbs, wire: Wire, lose: Loss
) -> None:
    store.enqueue(b"first")
    store.enqueue(b"second")

    calls = call_behind_one(store, wire, *(store.message(b"%d" % n) for n in range(3)), lose=lose)

    assert wire.lose is None
    assert len([each.result() for each in calls]) == 3
    assert waiting(store)[2:] == [b"ahead", b"0", b"1", b"2"]


def test_what_was_sent_ahead_to_a_queue_that_has_left_its_line_is_stored(
    store: Verbs, other: Verbs, wire: Wire
) -> None:
    idle: dict[str, Any] = {"queue": "idle", "ordered": False, "parallelism": 9}
    for _ in range(2):
        store.enqueue(b"busy")
        store.enqueue(b"idle", **idle)
    other.claim()

    call_behind_one(store, wire, store.message(b"1"), store.message(b"2", **idle))

    assert wire.appended == [1, 0]
    assert waiting(store)[-3:] == [b"ahead", b"1", b"2"]
    assert bodies(other.claim()) == [b"2"]


@pytest.mark.parametrize(
    ("what", "error"),
    [({"task_id": "\ud800"}, UnicodeEncodeError), ({"id": "msg_taken"}, DatabaseError)],
    ids=["cannot be sent", "is refused"],
)
def test_what_fails_does_so_alone_though_others_were_sent_with_it(
    store: Verbs, wire: Wire, what: dict[str, Any], error: type[Exception]
) -> None:
    """No request makes such a message."""
    store.enqueue(b"first")
    store.enqueue(b"second", id="msg_taken")

    good, bad, better = call_behind_one(
        store, wire, store.message(b"1"), store.message(b"2", **what), store.message(b"3")
    )

    assert isinstance(bad.exception(), error)
    assert (len(good.result()), len(better.result())) == (1, 1)
    assert waiting(store)[2:] == [b"ahead", b"1", b"3"]
