"""A buffer: which calls go together, what their callers are told, and what becomes of them at the end."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from typing import Any

import pytest

from qtasks.client.kept import Meanwhile, nothing
from qtasks.clock import ManualClock, SystemClock
from qtasks.errors import ArgumentsError, BadRequest, BrokerUnreachable, EncodeError, StoreFull, Unauthorized
from qtasks.ids import Ids
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.tasks.buffered import BufferedCall
from qtasks.tasks.buffering import TOGETHER, Buffer
from qtasks.tasks.calling import Caller
from qtasks.tasks.envelope import EnvelopeSigner, unpack
from qtasks.tasks.options import NO_LAYERS
from qtasks.tasks.packing import Packer
from qtasks.tasks.registry import Registry
from qtasks.tasks.task import Task, make_task
from tests.support.tasks import NoResults
from tests.support.waiting import eventually

URL = "https://app.example/qtasks/run"
SOON_S = 10
NEVER_MS = 3_600_000


class Line:
    """A sender that can be held, refuses some arguments and may fail as a whole."""

    def __init__(self) -> None:
        self.got: list[list[Any]] = []
        self.refused: list[int] = []
        self.error: Exception | None = None
        self.tries = 0
        self.flows = threading.Event()
        self.flows.set()
        self.is_busy = threading.Event()

    def send(self, messages: Sequence[Outgoing], meanwhile: Meanwhile = nothing) -> list[Enqueued]:
        self.is_busy.set()
        assert self.flows.wait(SOON_S)
        numbers = [unpack(each.body).args[0] for each in messages]
        self.tries += 1
        if self.error is not None:
            raise self.error
        for each in numbers:
            if each in self.refused:
                raise BadRequest(f"{each} is refused")
        self.got.append(numbers)
        return [Enqueued(f"msg_{each}") for each in numbers]

    async def asend(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        return self.send(messages)


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.flows.set()


def caller_of(line: Line) -> Caller:
    signer = EnvelopeSigner(["0123456789abcdef" * 4])
    clock = ManualClock(1_700_000_000_000)
    packer = Packer(
        signer=lambda: signer, destination=URL, queues={}, layers=NO_LAYERS, clock=clock, ids=Ids.seeded(1)
    )
    return Caller(line, NoResults(), packer, clock)


def task_of(line: Line) -> Task[[int], None, None]:
    caller = caller_of(line)

    def note(number: int) -> None: ...

    return make_task(note, Registry(), lambda: caller, {"name": "note"})


@pytest.fixture
def note(line: Line) -> Task[[int], None, None]:
    return task_of(line)


def buffer(size: int = 500, ms: int = NEVER_MS, limit: int = 10_000) -> Buffer:
    return Buffer(SystemClock(), size=size, ms=ms, limit=limit)


def test_calls_go_together_once_there_are_enough(line: Line, note: Task[[int], None, None]) -> None:
    buffered = buffer(size=3)
    calls = [buffered.delay(note, n) for n in range(3)]

    handles = [each.result(SOON_S) for each in calls]

    assert line.got == [[0, 1, 2]]
    assert [each.id for each in handles] == [each.id for each in calls]
    assert all(each.done() and each.exception() is None for each in calls)


def test_calls_go_when_the_first_has_waited_for_long_enough(
    line: Line, note: Task[[int], None, None]
) -> None:
    clock = ManualClock(1_700_000_000_000)
    buffered = Buffer(clock, size=500, ms=60_000, limit=500)
    first, second = buffered.delay(note, 1), buffered.delay(note, 2)
    with pytest.raises(TimeoutError):
        first.result(0.1)

    clock.advance(60_000)

    assert second.result(SOON_S).id == second.id
    assert line.got == [[1, 2]]


def test_the_id_is_known_and_nothing_is_durable_before_the_future_is_done(
    line: Line, note: Task[[int], None, None]
) -> None:
    buffered = buffer()

    call = buffered.delay(note, 1)

    assert call.id.startswith("tsk_")
    assert call.id in repr(call)
    assert not call.done()
    with pytest.raises(TimeoutError):
        call.result(0)
    assert line.got == []
    buffered.flush()
    assert call.result(0).id == call.id


def test_a_call_gives_a_future_that_others_can_wait_for(line: Line, note: Task[[int], None, None]) -> None:
    buffered = buffer(size=2)
    early = buffered.delay(note, 1).future()
    buffered.delay(note, 2)

    assert wait([early], SOON_S, FIRST_COMPLETED).done == {early}
    assert not early.cancel()
    late = buffered.delay(note, 3)
    buffered.flush()
    assert late.future().result(0) is late.result(0)


async def test_a_call_can_be_awaited(line: Line, note: Task[[int], None, None]) -> None:
    async with buffer() as buffered:
        first = await buffered.adelay(note, 1)
        waits = asyncio.ensure_future(_awaited(first))
        await asyncio.sleep(0)
        assert not waits.done()

    assert (await waits).id == (await first).id == first.id


async def _awaited(call: BufferedCall[Any]) -> Any:
    return await call


async def test_who_gives_up_waiting_does_not_take_the_call_back(
    line: Line, note: Task[[int], None, None]
) -> None:
    buffered = buffer()
    call = buffered.delay(note, 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(_awaited(call), 0.01)

    await buffered.aflush(SOON_S)

    assert (await call).id == call.id
    assert line.got == [[1]]


def test_what_comes_during_a_flush_goes_in_the_next(line: Line, note: Task[[int], None, None]) -> None:
    buffered = buffer(size=2)
    line.flows.clear()
    first = [buffered.delay(note, n) for n in range(2)]
    assert line.is_busy.wait(SOON_S)
    rest = [buffered.delay(note, n) for n in range(2, 7)]
    line.flows.set()

    buffered.flush(SOON_S)

    assert line.got == [[0, 1], [2, 3, 4, 5], [6]]
    assert all(each.done() for each in first + rest)


def test_a_flush_that_takes_too_long_says_so_and_goes_on(line: Line, note: Task[[int], None, None]) -> None:
    buffered = buffer()
    line.flows.clear()
    call = buffered.delay(note, 1)
    with pytest.raises(TimeoutError, match="1 buffered calls are still on their way"):
        buffered.flush(0.01)

    line.flows.set()

    assert call.result(SOON_S).id == call.id


def test_a_wrong_token_is_not_tried_for_each_call(line: Line, note: Task[[int], None, None]) -> None:
    line.error = Unauthorized("a wrong token")
    buffered = buffer()
    for n in range(50):
        buffered.delay(note, n)

    with pytest.raises(Unauthorized, match="a wrong token") as caught:
        buffered.flush(SOON_S)

    assert line.tries <= 2
    assert caught.value.__notes__ == ["50 buffered calls failed; each one's future says why"]


def test_a_call_that_is_refused_fails_alone(
    line: Line, note: Task[[int], None, None], caplog: pytest.LogCaptureFixture
) -> None:
    line.refused = [3, 7]
    buffered = buffer()
    calls = [buffered.delay(note, n) for n in range(10)]

    with (
        caplog.at_level(logging.ERROR, "qtasks.buffer"),
        pytest.raises(BadRequest, match="3 is refused") as caught,
    ):
        buffered.flush()

    assert sorted(n for each in line.got for n in each) == [0, 1, 2, 4, 5, 6, 8, 9]
    assert [n for n, each in enumerate(calls) if each.exception()] == [3, 7]
    with pytest.raises(BadRequest, match="7 is refused"):
        calls[7].result()
    assert caught.value.__notes__ == ["2 buffered calls failed; each one's future says why"]
    assert [vars(each)["task_id"] for each in caplog.records] == [calls[3].id, calls[7].id]
    buffered.flush()  # it was told


def test_a_batch_that_fails_as_a_whole_fails_each_call(
    line: Line, note: Task[[int], None, None], caplog: pytest.LogCaptureFixture
) -> None:
    line.error = StoreFull("no room")
    buffered = buffer(size=2)

    first, second = buffered.delay(note, 1), buffered.delay(note, 2)

    assert isinstance(first.exception(SOON_S), StoreFull)
    assert isinstance(second.exception(SOON_S), StoreFull)
    assert [(each.message, vars(each)["count"]) for each in caplog.records] == [("buffered calls failed", 2)]
    with pytest.raises(StoreFull):
        buffered.flush()


def test_a_call_of_which_nobody_knows_can_be_repeated_by_itself(
    line: Line, note: Task[[int], None, None]
) -> None:
    line.error = BrokerUnreachable("no answer")
    buffered = buffer(size=2)
    first, second = buffered.delay(note, 1), buffered.delay(note, 2)
    error = second.exception(SOON_S)
    assert isinstance(error, BrokerUnreachable)
    assert error.task_id == second.id

    line.error = None
    handle = error.repeat()

    assert handle.id == second.id
    assert line.got == [[2]]
    assert isinstance(first.exception(), BrokerUnreachable)


def test_a_block_sends_its_calls_and_raises_what_failed(line: Line, note: Task[[int], None, None]) -> None:
    with buffer() as buffered:
        calls = [buffered.delay(note, n) for n in range(3)]
    assert all(each.done() for each in calls)

    line.refused = [5]
    with pytest.raises(BadRequest), buffered:
        buffered.delay(note, 5)
    assert line.got == [[0, 1, 2]]


def test_a_block_that_raises_sends_what_was_called_and_hides_nothing(
    line: Line, note: Task[[int], None, None]
) -> None:
    line.refused = [2]
    refused: list[BufferedCall[None]] = []

    def block() -> None:
        with buffer() as buffered:
            refused.extend(buffered.delay(note, n) for n in (1, 2))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()

    assert line.got == [[1]]
    assert isinstance(refused[1].exception(), BadRequest)


def test_wrong_arguments_raise_at_once(line: Line, note: Task[[int], None, None]) -> None:
    buffered = buffer()

    with pytest.raises(ArgumentsError):
        buffered.delay(note)  # type: ignore[call-arg]
    with pytest.raises(EncodeError):
        buffered.delay(note, "1")  # type: ignore[arg-type]
    buffered.flush()

    assert line.got == []


def test_a_full_buffer_has_callers_wait_for_room(line: Line, note: Task[[int], None, None]) -> None:
    buffered = buffer(size=2, limit=2)
    line.flows.clear()
    for n in range(2):
        buffered.delay(note, n)
    assert line.is_busy.wait(SOON_S)
    late: list[BufferedCall[None]] = []
    thread = threading.Thread(target=lambda: late.append(buffered.delay(note, 2)))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()

    line.flows.set()
    thread.join(SOON_S)
    buffered.flush(SOON_S)

    assert late[0].done()
    assert line.got == [[0, 1], [2]]


async def test_a_full_buffer_lets_the_loop_go_on(line: Line, note: Task[[int], None, None]) -> None:
    buffered = buffer(size=1, limit=1)
    line.flows.clear()
    await buffered.adelay(note, 1)
    waits = asyncio.ensure_future(buffered.aapply_async(note, (2,), retries=0))
    await asyncio.sleep(0.05)
    assert not waits.done()

    line.flows.set()

    assert (await (await waits)).id
    assert line.got == [[1], [2]]


def test_a_callback_may_call_but_not_wait_for_its_own_buffer(
    line: Line, note: Task[[int], None, None]
) -> None:
    buffered = buffer(size=2)
    errors: list[RuntimeError] = []
    more: list[BufferedCall[None]] = []

    def follow(done: object) -> None:
        more.append(buffered.delay(note, 3))
        try:
            buffered.flush(SOON_S)
        except RuntimeError as error:
            errors.append(error)

    buffered.delay(note, 1).future().add_done_callback(follow)
    buffered.delay(note, 2)
    eventually(lambda: errors, "the callback has run")
    buffered.flush(SOON_S)

    assert "cannot wait for its buffer" in str(errors[0])
    assert line.got == [[1, 2], [3]]


def test_calls_may_be_told_options_and_instants(line: Line, note: Task[[int], None, None]) -> None:
    with buffer() as buffered:
        call = buffered.apply_async(note, (1,), task_id="tsk_mine", countdown=60, retries=0)
        with pytest.raises(ArgumentsError, match="task_id"):
            buffered.apply_async(note, (1,), task_id="no id")

    assert call.id == "tsk_mine"


def test_calls_of_many_threads_all_arrive(line: Line, note: Task[[int], None, None]) -> None:
    def call(start: int) -> None:
        for n in range(start, start + 250):
            buffered.delay(note, n)

    with buffer(size=64, ms=1, limit=100) as buffered:
        threads = [threading.Thread(target=call, args=(250 * n,)) for n in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    assert sorted(n for each in line.got for n in each) == [*range(2000)]
    assert max(map(len, line.got)) <= TOGETHER * 64


def test_calls_of_two_apps_go_each_to_its_own(line: Line, note: Task[[int], None, None]) -> None:
    other = Line()
    theirs = task_of(other)

    with buffer() as buffered:
        for n in range(4):
            buffered.delay(note if n % 2 else theirs, n)

    assert [n for each in line.got for n in each] == [1, 3]
    assert [n for each in other.got for n in each] == [0, 2]


def test_the_thread_ends_when_nothing_waits_and_comes_again(
    line: Line, note: Task[[int], None, None]
) -> None:
    buffered = buffer(size=1)
    for n in range(2):
        buffered.delay(note, n).result(SOON_S)
        thread = buffered._thread
        assert thread is not None
        assert not thread.daemon
        thread.join(SOON_S)
        assert not thread.is_alive()

    assert line.got == [[0], [1]]


async def test_at_the_end_of_an_app_what_waits_is_sent(line: Line, note: Task[[int], None, None]) -> None:
    buffered = buffer()
    call = buffered.delay(note, 1)

    await buffered.finish()

    assert call.result(0).id == call.id


async def test_at_the_end_of_an_app_what_cannot_be_sent_in_time_fails_and_is_logged(
    line: Line,
    note: Task[[int], None, None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qtasks.tasks.buffering.END_MS", 10)
    buffered = buffer(size=1)
    line.flows.clear()
    under_way = buffered.delay(note, 1)
    assert line.is_busy.wait(SOON_S)
    waiting = buffered.delay(note, 2)

    await buffered.finish()

    with pytest.raises(BrokerUnreachable, match="the app ended before"):
        waiting.result(0)
    assert [vars(each)["task_id"] for each in caplog.records] == [waiting.id]
    line.flows.set()
    assert under_way.result(SOON_S).id == under_way.id
    assert line.got == [[1]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this platform")
def test_what_waits_at_a_fork_is_sent_by_the_parent_alone(line: Line, note: Task[[int], None, None]) -> None:
    buffered = buffer()
    buffered.delay(note, 1)
    read, write = os.pipe()

    child = os.fork()
    if not child:
        try:
            buffered.delay(note, 2)
            buffered.flush(SOON_S)
            os.write(write, repr(line.got).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    buffered.flush()

    assert os.read(read, 100) == b"[[2]]"
    assert line.got == [[1]]
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"ms": -1}, {"limit": 499}, {"size": 1.5}, {"ms": True}])
def test_numbers_that_make_no_buffer_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentsError, match=f"buffered\\({next(iter(wrong))}="):
        buffer(**wrong)
