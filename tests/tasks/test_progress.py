"""What a running task tells of its progress, and how little of it is sent."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest

from qtasks.errors import BrokerUnreachable, InvalidValue, NotFound
from qtasks.protocol.results import NOTE_LENGTH, ProgressReport
from qtasks.tasks.context import Context, current
from qtasks.tasks.progress import PAUSE_S, ProgressReporter, track
from tests.support.tasks import Workshop

SOON_S = 10


@pytest.fixture
def shop() -> Workshop:
    return Workshop()


class Sink:
    """Takes reports, and says when it has got some."""

    def __init__(self, *errors: Exception) -> None:
        self.sent: list[dict[str, ProgressReport]] = []
        self.errors = list(errors)
        self.arrived = threading.Semaphore(0)

    def __call__(self, reports: Mapping[str, ProgressReport]) -> None:
        self.sent.append(dict(reports))
        self.arrived.release()
        if self.errors:
            raise self.errors.pop(0)


# --- told by a task -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_a_task_tells_how_far_it_has_come(shop: Workshop, kind: str) -> None:
    def plain(context: Context) -> None:
        context.progress(1, 2, "first")
        current().progress(2)

    async def coroutine(context: Context) -> None:
        plain(context)

    shop.task(plain if kind == "plain" else coroutine, "note", bind=True)

    answer = await shop.run("note")

    assert answer.status == 200
    assert shop.reports == [("tsk_1", ProgressReport(1, 2, "first")), ("tsk_1", ProgressReport(2))]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("3",), "done must be a number, not '3'"),
        ((True,), "done must be a number, not True"),
        ((float("nan"),), "done must be a number, not nan"),
        ((1, float("inf")), "total must be a number, not inf"),
        ((2**53 + 1,), "done must be a number, not 9007199254740993"),
        ((1, 2, b"x"), "note must be a text, not b'x'"),
    ],
)
def test_what_is_no_progress_is_refused(arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        ProgressReport.of(*arguments)

    assert str(caught.value) == text


def test_a_note_is_cut_off_and_made_sendable() -> None:
    assert ProgressReport.of(1, None, "ä\ud800" * 1000).note == "ä?" * (NOTE_LENGTH // 2)
    assert ProgressReport.of(1, note="").note is None


# --- a loop that is tracked -----------------------------------------------------------------------


async def test_a_tracked_loop_counts_what_is_done(shop: Workshop) -> None:
    def load() -> list[str]:
        return [each.upper() for each in track(["a", "b"], "Importing")]

    shop.task(load)

    assert (await shop.run("load")).body == b'["A","B"]'
    assert [each for _, each in shop.reports] == [ProgressReport(n, 2, "Importing") for n in range(3)]


async def test_an_item_is_done_when_the_next_is_asked_for(shop: Workshop) -> None:
    done: list[float] = []

    def load() -> None:
        for _ in track(iter("ab"), total=2):
            done.append(shop.reports[-1][1].done)

    shop.task(load)
    await shop.run("load")

    assert done == [0, 1]
    assert shop.reports[-1][1] == ProgressReport(2, 2)


async def test_a_tracked_loop_may_be_asynchronous(shop: Workshop) -> None:
    async def rows() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def load() -> list[int]:
        return [each async for each in track(rows(), "Reading")]

    shop.task(load)

    assert (await shop.run("load")).body == b"[1,2]"
    assert [each for _, each in shop.reports] == [ProgressReport(n, None, "Reading") for n in range(3)]


async def test_outside_a_task_it_is_the_plain_loop() -> None:
    async def rows() -> AsyncIterator[int]:
        yield 1

    items = [1, 2, 3]
    generator: Iterator[int] = iter(items)

    assert list(track(items, "Importing")) == items
    assert track(generator) is generator
    assert [each async for each in track(rows())] == [1]
    with pytest.raises(TypeError, match="'int' object is not iterable"):
        track(3)  # type: ignore[call-overload]


# --- what is sent ---------------------------------------------------------------------------------


class ByHand(ProgressReporter):
    """A reporter whose thread is the test."""

    def _run(self) -> None:
        """Do nothing: the test calls `step`."""


def test_only_the_newest_of_each_task_is_sent() -> None:
    sink = Sink()
    reporter = ByHand(sink)
    for n in range(1000):
        reporter.report("tsk_1", ProgressReport(n))
    reporter.report("tsk_2", ProgressReport(7))

    reporter.step()
    reporter.step()

    assert sink.sent == [{"tsk_1": ProgressReport(999), "tsk_2": ProgressReport(7)}]


@pytest.mark.parametrize("error", [BrokerUnreachable("away"), NotFound("gone"), ValueError("a mistake")])
def test_what_cannot_be_sent_is_dropped_and_the_next_is_sent(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink(error)
    reporter = ByHand(sink)

    for n in range(2):
        reporter.report("tsk_1", ProgressReport(n))
        reporter.step()

    assert [each["tsk_1"].done for each in sink.sent] == [0, 1]
    assert [each.levelname for each in caplog.records] == (["ERROR"] if type(error) is ValueError else [])


def test_a_thread_sends_the_last_one_too_and_not_too_often() -> None:
    sink = Sink()
    reporter = ProgressReporter(sink)
    reporter.report("tsk_1", ProgressReport(0))
    assert sink.arrived.acquire(timeout=SOON_S)

    for n in range(1, 500):
        reporter.report("tsk_1", ProgressReport(n))
    is_early = sink.arrived.acquire(timeout=PAUSE_S / 10)

    assert not is_early
    assert sink.arrived.acquire(timeout=SOON_S)
    assert [each["tsk_1"].done for each in sink.sent] == [0, 499]


def test_a_report_waits_for_nobody() -> None:
    gate, entered = threading.Event(), threading.Event()

    def send(reports: Mapping[str, ProgressReport]) -> None:
        entered.set()
        gate.wait(SOON_S)

    reporter = ProgressReporter(send)
    reporter.report("tsk_1", ProgressReport(1))
    assert entered.wait(SOON_S)

    reporter.report("tsk_1", ProgressReport(2))  # returns although the sender hangs

    gate.set()


def test_a_thread_that_has_nothing_to_send_ends_and_comes_again() -> None:
    sink = Sink()
    reporter = ProgressReporter(sink, pause_s=0.01, idle_s=0.01)
    for n in range(2):
        reporter.report("tsk_1", ProgressReport(n))
        assert sink.arrived.acquire(timeout=SOON_S)
        thread = reporter._thread
        if thread is not None:
            thread.join(SOON_S)
        assert reporter._thread is None
