"""The few connections of a sender: who carries which messages, and what each caller hears."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import orjson
import pytest

from qtasks.client.call import Call
from qtasks.client.kept import Meanwhile
from qtasks.errors import (
    BadRequest,
    BrokerUnreachable,
    RequestError,
    StoreFull,
    TooManyRequests,
    Unauthorized,
)
from qtasks.protocol.headers import Options, QueueSpec
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.tasks.lanes import BATCH_BYTES, BATCH_MESSAGES, LANES, Lanes, Load, in_turn
from tests.support.waiting import eventually

SOON_S = 10


class Road:
    """Makes lanes, notes what goes over them, and can hold or refuse it."""

    def __init__(self) -> None:
        self.lanes: list[FakeLane] = []
        self.carried: list[list[str]] = []
        self.threads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.refused: set[str] = set()
        self.error: BaseException | None = None

    def lane(self) -> FakeLane:
        self.lanes.append(FakeLane(self))
        return self.lanes[-1]


class FakeLane:
    def __init__(self, road: Road) -> None:
        self._road = road
        self.closed = threading.Event()

    def enqueue(self, call: Call[list[Enqueued]], meanwhile: Meanwhile) -> list[Enqueued]:
        road = self._road
        is_batch = call.target == "/v2/batch"
        names = [each["body"] for each in orjson.loads(call.body)] if is_batch else [call.body.decode()]
        road.carried.append(names)
        road.threads.append(threading.current_thread().name)
        meanwhile()
        while not road.gate.wait(0.01):
            if self.closed.is_set():
                raise BrokerUnreachable("closed")
        if road.error is not None:
            raise road.error
        if road.refused & {*names}:
            raise BadRequest("no")
        answers = [{"messageId": f"msg_{each}"} for each in names]
        return call.read(orjson.dumps(answers if is_batch else answers[0]))

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def road() -> Iterator[Road]:
    road = Road()
    yield road
    road.gate.set()


def messages(*names: object, size: int = 0, ordered: bool = False) -> list[Outgoing]:
    bodies = [str(each).ljust(size).encode() for each in names]
    options = Options(queue=QueueSpec(ordered=ordered))
    return [Outgoing("https://app.example/run", each, options, "mail") for each in bodies]


def ids(names: Sequence[object]) -> list[Enqueued]:
    return [Enqueued(f"msg_{each}") for each in names]


def test_a_lone_call_is_sent_by_its_own_thread_over_one_connection(road: Road) -> None:
    lanes = Lanes(road.lane)

    assert [lanes.send(messages(n)) for n in "abc"] == [ids(n) for n in "abc"]

    assert road.carried == [["a"], ["b"], ["c"]]
    assert {*road.threads} == {threading.current_thread().name}
    assert len(road.lanes) == 1


def test_calls_that_pile_up_share_a_request(road: Road) -> None:
    lanes = Lanes(road.lane)
    road.gate.clear()
    first = [lanes.submit(messages(n)) for n in range(LANES)]
    eventually(lambda: len(road.carried) == LANES, "all lanes are taken")
    with ThreadPoolExecutor(20) as pool:
        others = [pool.submit(lanes.send, messages(f"more {n}")) for n in range(20)]
        eventually(lambda: len(lanes._waiting) == 20, "the others wait")
        road.gate.set()
        assert [each.result(SOON_S) for each in others] == [ids([f"more {n}"]) for n in range(20)]

    assert [each.result(SOON_S) for each in first] == [ids([n]) for n in range(LANES)]
    assert len(road.lanes) == LANES
    assert max(map(len, road.carried)) > 1
    assert sum(map(len, road.carried)) == LANES + 20


def test_many_messages_go_in_several_requests_and_are_answered_in_their_order(road: Road) -> None:
    names = range(3 * BATCH_MESSAGES + 7)

    assert Lanes(road.lane).send(messages(*names)) == ids(names)

    assert sorted(map(len, road.carried)) == [7, BATCH_MESSAGES, BATCH_MESSAGES, BATCH_MESSAGES]
    assert len(road.lanes) > 1


def test_large_messages_are_split_by_size(road: Road) -> None:
    Lanes(road.lane).send(messages(*range(5), size=BATCH_BYTES // 2))

    assert sorted(map(len, road.carried)) == [1, 2, 2]


def test_messages_of_an_ordered_queue_go_one_request_after_the_other(road: Road) -> None:
    lanes = Lanes(road.lane)
    names = [str(n) for n in range(2 * BATCH_MESSAGES + 7)]
    parts = [*in_turn(messages(*names, ordered=True))]
    assert [len(each) for each in parts] == [BATCH_MESSAGES, BATCH_MESSAGES, 7]

    road.gate.clear()
    held = [lanes.submit(messages(f"held {n}")) for n in range(LANES)]
    eventually(lambda: len(road.carried) == LANES, "all lanes are taken")
    others = [lanes.submit(messages(f"other {n}")) for n in range(30)]
    ordered = lanes.submit(parts[0])
    road.gate.set()

    assert ordered.result(SOON_S) == ids(names[:BATCH_MESSAGES])
    assert names[:BATCH_MESSAGES] in road.carried  # whole, and with no other
    for each in (*held, *others):
        each.result(SOON_S)


def test_messages_without_an_order_are_not_split_before_they_are_sent() -> None:
    many = messages(*range(2 * BATCH_MESSAGES))

    assert [*in_turn(many)] == [many]
    assert [*in_turn([])] == []


def test_of_a_refused_request_the_others_are_accepted(road: Road) -> None:
    road.refused = {"b"}

    with pytest.raises(BadRequest):
        Lanes(road.lane).send(messages("a", "b", "c"))

    assert road.carried == [["a", "b", "c"], ["a"], ["b", "c"], ["b"], ["c"]]


def test_who_is_refused_among_many_is_found_in_few_requests(road: Road) -> None:
    road.refused = {"7"}

    with pytest.raises(BadRequest):
        Lanes(road.lane).send(messages(*range(BATCH_MESSAGES)))

    halvings = BATCH_MESSAGES.bit_length()
    assert len(road.carried) <= 1 + 2 * halvings
    accepted = [names for names in road.carried if "7" not in names]
    assert sorted(int(each) for names in accepted for each in names) == [
        n for n in range(BATCH_MESSAGES) if n != 7
    ]


@pytest.mark.parametrize("error", [Unauthorized("a wrong token"), TooManyRequests("too many")])
def test_who_is_refused_himself_does_not_ask_for_each_message(road: Road, error: RequestError) -> None:
    road.error = error

    with pytest.raises(type(error)):
        Lanes(road.lane).send(messages(*range(100)))

    assert len(road.carried) == 1


def test_each_caller_hears_of_its_own_messages(road: Road) -> None:
    lanes = Lanes(road.lane)
    road.gate.clear()
    held = [lanes.submit(messages(n)) for n in range(LANES)]
    eventually(lambda: len(road.carried) == LANES, "all lanes are taken")
    good, bad = lanes.submit(messages("good")), lanes.submit(messages("also good", "bad"))
    road.refused = {"bad"}
    road.gate.set()

    assert good.result(SOON_S) == ids(["good"])
    with pytest.raises(BadRequest):
        bad.result(SOON_S)
    for each in held:
        each.result(SOON_S)


def test_what_goes_wrong_with_a_request_is_told_to_all_whose_it_was(road: Road) -> None:
    road.error = StoreFull("no room")

    with pytest.raises(StoreFull):
        Lanes(road.lane).send(messages("a", "b"))


def test_an_interrupted_thread_leaves_the_lane_to_others(road: Road) -> None:
    lanes = Lanes(road.lane)
    road.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        lanes.send(messages("a"))
    road.error = None

    assert lanes.send(messages("b")) == ids("b")
    assert len(road.lanes) == 1


def test_meanwhile_the_next_may_be_made_while_requests_are_on_their_way(road: Road) -> None:
    lanes = Lanes(road.lane)
    seen: list[int] = []
    names = range(2 * BATCH_MESSAGES)
    road.gate.clear()

    def meanwhile() -> None:
        seen.append(len(road.carried))
        road.gate.set()

    assert lanes.send(messages(*names), meanwhile) == ids(names)

    assert seen[0] in (1, 2)
    assert len(road.carried) == 2


def test_nothing_is_done_meanwhile_for_which_calls_of_others_would_wait(road: Road) -> None:
    lanes = Lanes(road.lane)
    road.gate.clear()
    held = [lanes.submit(messages(f"held {n}")) for n in range(LANES - 1)]
    eventually(lambda: len(road.carried) == LANES - 1, "one lane is left")
    lanes._waiting.extend((load, 0) for load in [Load(messages("other"))])  # as if it came just before

    with ThreadPoolExecutor(1) as pool:
        own = pool.submit(lanes.send, messages("own"), lambda: pytest.fail("the other one waits for this"))
        road.gate.set()
        assert own.result(SOON_S) == ids(["own"])

    assert ["other", "own"] in road.carried
    assert [each.result(SOON_S) for each in held] == [ids([f"held {n}"]) for n in range(LANES - 1)]


def test_what_is_done_meanwhile_may_call_itself_whoever_else_does(road: Road) -> None:
    lanes = Lanes(road.lane)
    together = threading.Barrier(LANES - 1)

    def call_another(name: str) -> None:
        together.wait(SOON_S)  # all lanes but one are taken by who does something else meanwhile
        assert lanes.send(messages(f"{name} inside")) == ids([f"{name} inside"])

    with ThreadPoolExecutor(LANES + 3) as pool:
        names = [f"call {n}" for n in range(LANES - 1)]
        outer = [pool.submit(lanes.send, messages(each), partial(call_another, each)) for each in names]
        assert [each.result(SOON_S) for each in outer] == [ids([each]) for each in names]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(nested, lanes, 2 * LANES).result(SOON_S) == LANES - 1


def nested(lanes: Lanes, depth: int) -> int:
    """Send one within the other; say how many lines of them there were."""
    deepest = 0

    def go(level: int) -> None:
        nonlocal deepest
        deepest = max(deepest, level)
        if level < depth:
            lanes.send(messages(f"level {level}"), lambda: go(level + 1))

    go(0)
    return deepest


def test_closing_tells_who_has_a_lone_message_on_its_way(road: Road) -> None:
    lanes = Lanes(road.lane)
    road.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(lanes.send, messages("alone"))
        eventually(lambda: road.carried == [["alone"]], "it is on its way")

        lanes.close()

        with pytest.raises(BrokerUnreachable, match="were closed before it answered"):
            under_way.result(SOON_S)


def test_what_comes_while_a_lone_message_has_the_last_lane_is_carried_after_it(road: Road) -> None:
    lanes = Lanes(road.lane)
    road.gate.clear()
    with ThreadPoolExecutor(LANES) as pool:
        alone = [pool.submit(lanes.send, messages(f"alone {n}")) for n in range(LANES)]
        eventually(lambda: len(road.carried) == LANES, "all lanes are taken")
        late = [lanes.submit(messages(f"late {n}")) for n in range(3)]
        road.gate.set()

        assert [each.result(SOON_S) for each in alone] == [ids([f"alone {n}"]) for n in range(LANES)]
        assert [each.result(SOON_S) for each in late] == [ids([f"late {n}"]) for n in range(3)]
    assert road.carried[LANES:] == [["late 0", "late 1", "late 2"]]


def test_closing_tells_those_who_wait_and_those_who_come(road: Road) -> None:
    lanes = Lanes(road.lane)
    road.gate.clear()
    under_way = [lanes.submit(messages(n)) for n in range(LANES)]
    eventually(lambda: len(road.carried) == LANES, "all lanes are taken")
    waiting = lanes.submit(messages("late"))

    lanes.close()

    for each in (*under_way, waiting):
        with pytest.raises(BrokerUnreachable, match="were closed before it answered"):
            each.result(SOON_S)
    with pytest.raises(BrokerUnreachable):
        lanes.send(messages("after"))
