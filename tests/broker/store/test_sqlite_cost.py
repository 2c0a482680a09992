"""What SQLite does for each verb must not grow with backlog, history or the number of queues.

Measured in steps of SQLite's virtual machine, which say the same on every machine.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from qtasks.broker.store import (
    claiming,
    dead_letters,
    depths,
    logs,
    messages,
    queues,
    results,
    settling,
    views,
)
from qtasks.broker.store.database import Session
from qtasks.broker.store.filters import MessageFilter
from qtasks.broker.store.holding import LOOK, Held
from qtasks.broker.store.queries import load_queries, statements
from qtasks.broker.store.records import Again, Claim, Delivered, Settlement, Verdict
from qtasks.broker.store.sqlite import SqliteDatabase, SqliteSession
from tests.support.store import BROKEN, OK, new_message

NOW = 1_700_000_000_000
QUERIES = load_queries("sqlite")
WIDE: dict[str, Any] = {"queue": "wide", "parallelism": 100_000, "ordered": False}

# Run at start or when somebody asks for a list; they may read one row for each queue.
VISITS_QUEUES = {
    "pending_orphans",
    "pending_own",
    "queue_list",
    "queue_join_all",
    "log_active",
    "active_count",
    "queue_count",
    "flow_list",
    "depth_list",
}
# Counts that stop at a limit, however much there is to count.
STOPS = {"depth_rest", "depth_dead", "depth_list"}
# Lists of what there are few of, asked for whole.
WHOLE = {"schedule_list", "schedule_count", "token_list", "url_group_list", "url_group_count"}
FEW = 200  # more than one claim ever looks at
MANY = 3000


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    path = str(tmp_path / "q.db")
    SqliteDatabase(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        yield connection


@pytest.fixture
def session(connection: sqlite3.Connection) -> SqliteSession:
    return SqliteSession(connection, QUERIES)


@pytest.mark.parametrize("name", QUERIES)
def test_no_query_reads_a_whole_table(connection: sqlite3.Connection, name: str) -> None:
    text = QUERIES[name]
    params = dict.fromkeys(re.findall(r":(\w+)", text), 1)

    plan = [
        row[3]
        for each in statements(text)
        for row in connection.execute(f"EXPLAIN QUERY PLAN {each}", params)
    ]

    for step in plan:
        if name in WHOLE or (step.startswith("SCAN q") and name in VISITS_QUEUES):
            continue
        if name in STOPS and step in ("SCAN few", "SCAN dead_letters USING COVERING INDEX dead_letters_died"):
            continue
        if step == "SCAN line_end":  # a view of one row, which is found by an index
            continue
        if re.match(
            r"SCAN ((k|json_each) VIRTUAL TABLE|v$|(\d+ )?CONSTANT ROW)", step
        ):  # the list that the call brings along
            continue
        reads_in_order_and_stops = "USING" in step and "INDEX" in step and "LIMIT 1" in text
        assert not step.startswith("SCAN") or reads_in_order_and_stops, plan
        assert "TEMP B-TREE" not in step, plan


def test_only_what_does_not_bear_its_tasks_digits_is_in_the_index_of_tasks(
    connection: sqlite3.Connection, session: SqliteSession
) -> None:
    for n in range(3):
        enqueue(session, 1, id=f"msg_{n:032x}", task_id=f"tsk_{n:032x}")
    enqueue(session, 1, task_id=f"tsk_{1:032x}")
    enqueue(session, 1, task_id="order-17")
    enqueue(session, 1)

    rows = connection.execute(
        "SELECT task_id FROM messages INDEXED BY messages_task WHERE substr(task_id, 5) <> substr(id, 5)"
    )
    assert sorted(rows) == [("order-17",), (f"tsk_{1:032x}",)]


def steps_of(connection: sqlite3.Connection, work: Callable[[], object]) -> int:
    """Count the instructions that SQLite executes."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    connection.set_progress_handler(tick, 1)
    work()
    connection.set_progress_handler(None, 1)
    return count


def enqueue(session: Session, count: int, **changes: Any) -> None:
    wanted = [new_message(now=NOW, **(WIDE | changes)) for _ in range(count)]
    messages.enqueue(session, wanted, NOW)


def claim(session: Session, slots: int = 1) -> list[Claim]:
    claimed = claiming.claim(
        session, node="n", app=None, slots=slots, alone_is_free=True, lease_margin_ms=0, now=NOW
    )
    return list(claimed.claims)


def settle(session: Session, claims: list[Claim], verdict: Verdict) -> None:
    reply = OK if isinstance(verdict, Delivered) else BROKEN
    settling.settle(session, [Settlement(each, reply, verdict, NOW) for each in claims])


def ready(session: Session, count: int) -> None:
    enqueue(session, count)


def delayed(session: Session, count: int) -> None:
    enqueue(session, count, start_at=NOW + 1_000_000)


def finished(session: Session, count: int) -> None:
    enqueue(session, count)
    settle(session, claim(session, count), Delivered())


def waiting_for_a_retry(session: Session, count: int) -> None:
    enqueue(session, count)
    settle(session, claim(session, count), Again(NOW + 1_000_000))


def in_other_queues(session: Session, count: int) -> None:
    """Many queues, each with something ready, of which one claim visits a few."""
    wanted = [new_message(now=NOW, queue=f"q{n}") for n in range(count)]
    messages.enqueue(session, wanted, NOW)


def in_paused_queues(session: Session, count: int) -> None:
    in_other_queues(session, count)
    for number in range(count):
        queues.set_paused(session, f"q{number}", True, NOW)


def behind_the_head_of_an_ordered_queue(session: Session, count: int) -> None:
    wanted = [new_message(now=NOW) for _ in range(count)]
    messages.enqueue(session, wanted, NOW)
    claim(session, 1)


BACKLOGS = pytest.mark.parametrize(
    "backlog",
    [
        ready,
        delayed,
        finished,
        waiting_for_a_retry,
        in_other_queues,
        in_paused_queues,
        behind_the_head_of_an_ordered_queue,
    ],
    ids=lambda each: each.__name__,
)


def a_day_of_work(session: Session) -> None:
    """Do all that happens to a message: enqueue, claim, retry, hand back, deliver."""
    enqueue(session, 1, dedup_key="id:a")
    enqueue(session, 1, dedup_key="id:a")
    first = claim(session, 2)
    settle(session, first[:1], Again(NOW))
    settle(session, first[1:], Delivered())
    second = claim(session, 1)
    settle(session, second, Again(None, counted=False))
    settle(session, claim(session, 1), Delivered())


@BACKLOGS
def test_a_message_costs_the_same_whatever_lies_beside_it(
    connection: sqlite3.Connection, session: SqliteSession, backlog: Callable[[Session, int], None]
) -> None:
    enqueue(session, 4)
    backlog(session, FEW)
    few = steps_of(connection, lambda: a_day_of_work(session))

    for _ in range(10):
        backlog(session, MANY // 10)
    many = steps_of(connection, lambda: a_day_of_work(session))

    assert many <= 1.2 * few + 200, f"{few} steps beside {FEW} messages, {many} beside {MANY}"


def test_a_claim_past_what_is_held_back_costs_the_same_however_much_that_is(
    connection: sqlite3.Connection, session: SqliteSession
) -> None:
    nothing = Held({}, lambda url: "the one", others=0)

    def look() -> None:
        now = next(instants)
        claiming.claim(
            session,
            node="n",
            app=None,
            slots=10,
            alone_is_free=True,
            lease_margin_ms=0,
            now=now,
            held=nothing,
        )

    instants = count(NOW + 1_000_000, 1_000_000)  # so that what was turned away is looked at again
    enqueue(session, LOOK)
    look()
    few = steps_of(connection, look)

    enqueue(session, 10 * LOOK)
    many = steps_of(connection, look)

    assert many <= 1.2 * few + 200, f"{few} steps with {LOOK} messages held, {many} with {11 * LOOK}"


@BACKLOGS
@pytest.mark.parametrize(
    "look",
    [
        lambda session: views.find_message(session, "msg_none", 0),
        lambda session: results.find_result(session, "tsk_none", NOW),
        lambda session: logs.log_page(
            session, logs.LogFilter(MessageFilter(message_ids=frozenset({"msg_none"}))), None, 10
        ),
        lambda session: dead_letters.find_many(session, dead_letters.DeadLetterFilter(), None, 10),
    ],
    ids=["message", "result", "log of a message", "dead letters"],
)
def test_a_question_costs_the_same_whatever_is_stored(
    connection: sqlite3.Connection,
    session: SqliteSession,
    backlog: Callable[[Session, int], None],
    look: Callable[[Session], object],
) -> None:
    backlog(session, FEW)
    few = steps_of(connection, lambda: look(session))

    backlog(session, MANY // 3)
    many = steps_of(connection, lambda: look(session))

    assert many <= 1.2 * few + 50


@BACKLOGS
def test_the_metrics_of_the_store_cost_the_same_whatever_is_stored(
    connection: sqlite3.Connection, session: SqliteSession, backlog: Callable[[Session, int], None]
) -> None:
    most = 5  # for each count
    for _ in range(most):
        backlog(session, depths.MOST_QUEUES + most)
    few = steps_of(connection, lambda: depths.look(session, most))

    for _ in range(10):
        backlog(session, MANY // 10)
    many = steps_of(connection, lambda: depths.look(session, most))

    assert many <= 1.2 * few + 200, f"{few} steps at first, {many} beside {MANY} messages more"


def test_a_page_of_the_log_costs_the_same_however_long_the_log_is(
    connection: sqlite3.Connection, session: SqliteSession
) -> None:
    def page() -> object:
        return logs.log_page(session, logs.LogFilter(), None, 10)

    finished(session, FEW)
    few = steps_of(connection, page)

    finished(session, MANY)
    many = steps_of(connection, page)

    # Bisection to the newest message costs a few steps for each doubling.
    assert many <= 1.2 * few + 500
