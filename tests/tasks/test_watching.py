"""The log lines of tasks: when they come, under which keys, and what they never hold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qtasks import Reject, Retry
from qtasks.clock import ManualClock
from qtasks.protocol.shapes import Enqueued
from qtasks.tasks.watching import tell_enqueued
from tests.docs.pages import rows, text
from tests.support.tasks import NOW, OTHER_SECRET, SECRET, Workshop

FACTS = {"task", "task_id", "message_id", "queue", "attempt"}
STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def shop(clock: ManualClock) -> Workshop:
    return Workshop(clock=clock, redact=[SECRET])


class Keeper(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[logging.LogRecord]]:
    """What is logged of tasks."""
    keeper, log = Keeper(), logging.getLogger("qtasks.task")
    log.addHandler(keeper)
    with caplog.at_level(logging.DEBUG, "qtasks.task"):
        yield keeper.records
    log.removeHandler(keeper)


def extra(record: logging.LogRecord) -> dict[str, Any]:
    """Give what a line tells besides its message."""
    return {name: value for name, value in vars(record).items() if name not in STANDARD}


def throwing(error: BaseException) -> Callable[[str], None]:
    def note(name: str) -> None:
        raise error

    return note


def said(lines: list[logging.LogRecord]) -> list[tuple[str, str]]:
    return [(each.levelname, each.getMessage()) for each in lines]


# --- lines and keys ---------------------------------------------------------------------------------


async def test_a_task_that_returns_is_told_at_its_start_and_end(
    shop: Workshop, clock: ManualClock, lines: list[logging.LogRecord]
) -> None:
    def note(name: str) -> None:
        clock.advance(250)

    shop.task(note)

    await shop.run("note", "Ada", queue="mail")

    facts = {"task": "note", "task_id": "tsk_1", "message_id": "msg_1", "queue": "mail", "attempt": 1}
    assert said(lines) == [("INFO", "task started"), ("INFO", "task succeeded")]
    assert extra(lines[0]) == facts
    assert extra(lines[1]) == {**facts, "runtime_ms": 250}


async def test_a_failure_is_told_with_its_traceback_and_when_it_is_tried_again(
    shop: Workshop, lines: list[logging.LogRecord]
) -> None:
    error = ValueError("broken")
    shop.task(throwing(error))

    await shop.run("note", "Ada", retries=2, retry_delay="5000 * (retried + 1)", number=1, spent=1)

    [_, failed] = lines
    assert said([failed]) == [("WARNING", "task failed, will retry")]
    assert failed.exc_info is not None
    assert failed.exc_info[1] is error
    assert extra(failed) == {
        "task": "note",
        "task_id": "tsk_1",
        "message_id": "msg_1",
        "queue": None,
        "attempt": 2,
        "runtime_ms": 0,
        "error_type": "ValueError",
        "retry_in_ms": 5_000,
    }


@pytest.mark.parametrize(
    ("error", "options", "wait_ms"),
    [
        (ValueError(), {}, 12_000),
        (ValueError(), {"retry_delay": lambda attempt, error: 7}, 7_000),
        (Retry(after=90), {}, 90_000),
        (Retry(), {}, 12_000),
    ],
)
async def test_it_is_told_how_long_the_broker_will_wait(
    shop: Workshop,
    lines: list[logging.LogRecord],
    error: BaseException,
    options: dict[str, Any],
    wait_ms: int,
) -> None:
    shop.task(throwing(error), **options)

    await shop.run("note", "Ada")

    assert extra(lines[-1])["retry_in_ms"] == wait_ms


@pytest.mark.parametrize(
    ("error", "changes"), [(ValueError("broken"), {"retries": 0}), (Reject("never"), {})]
)
async def test_a_failure_for_good_is_told_as_an_error(
    shop: Workshop, lines: list[logging.LogRecord], error: BaseException, changes: dict[str, Any]
) -> None:
    shop.task(throwing(error))

    await shop.run("note", "Ada", **changes)

    assert said(lines[1:]) == [("ERROR", "task failed for good")]
    assert extra(lines[1]).keys() == FACTS | {"runtime_ms", "error_type"}
    assert lines[1].exc_info is not None


async def test_a_retry_that_was_asked_for_has_no_traceback(
    shop: Workshop, lines: list[logging.LogRecord]
) -> None:
    shop.task(throwing(Retry("busy")))

    await shop.run("note", "Ada")

    assert said(lines[1:]) == [("WARNING", "task failed, will retry")]
    assert lines[1].exc_info is None


async def test_a_result_that_cannot_travel_is_a_failure(
    shop: Workshop, lines: list[logging.LogRecord]
) -> None:
    def note(name: str) -> Any:
        return object()

    shop.task(note)

    await shop.run("note", "Ada")

    assert said(lines[1:]) == [("ERROR", "task failed for good")]
    assert extra(lines[1])["error_type"] == "EncodeError"


async def test_a_delivery_that_is_not_ours_is_told(shop: Workshop, lines: list[logging.LogRecord]) -> None:
    delivery = Workshop(secrets=[OTHER_SECRET]).delivery(shop.envelope("note", "Ada"))

    await shop.executor.execute(delivery)

    assert said(lines) == [("WARNING", "delivery refused")]
    assert extra(lines[0]) == {"message_id": "msg_1", "status": 403, "error_type": "SignatureError"}


async def test_arguments_that_do_not_fit_are_told_without_them(
    shop: Workshop, lines: list[logging.LogRecord]
) -> None:
    shop.task(throwing(ValueError()))

    await shop.run("note", 4711)

    assert said(lines) == [("WARNING", "delivery refused")]
    assert "4711" not in str(vars(lines[0]))


async def test_below_its_level_nothing_is_said(shop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    shop.task(throwing(ValueError()))

    with caplog.at_level(logging.CRITICAL, "qtasks.task"):
        await shop.run("note", "Ada")
        await shop.run("note", "Ada", retries=0)

    assert caplog.records == []


async def test_messages_and_keys_are_those_of_the_documentation(
    shop: Workshop, lines: list[logging.LogRecord]
) -> None:
    shop.task(throwing(ValueError()), log_args=True)

    def well(name: str) -> None: ...

    shop.task(well, on_success=lambda context, result: 1 / 0)
    await shop.run("note", "Ada")
    await shop.run("note", "Ada", retries=0)
    await shop.run("well", "Ada")
    await shop.run("missing")
    called_off = shop.delivery(shop.envelope("well", "Ada"))
    called_off.cancellation.cancel()
    await shop.executor.execute(called_off)
    await shop.executor.execute(shop.delivery(shop.envelope(), signature="none"))
    tell_enqueued("note", "tsk_1", "mail", Enqueued("msg_1"))

    keys = {name for each in lines for name in extra(each)}
    assert documented("Keys of log lines") == keys
    assert documented("Logs") == {each.getMessage() for each in lines}
    assert not keys & STANDARD


def documented(heading: str) -> set[str]:
    return {row[0].strip("`") for row in rows(text("docs/observing.md"), heading)}


# --- arguments and secrets --------------------------------------------------------------------------


async def test_arguments_are_logged_by_name_if_that_is_wanted(
    shop: Workshop, lines: list[logging.LogRecord]
) -> None:
    def note(name: str, *rest: int, loud: bool = False) -> None:
        raise ValueError(name)

    shop.task(note, log_args=True)

    await shop.run("note", "Ada", 1, 2)

    assert [extra(each)["arguments"] for each in lines] == [
        {"name": "Ada", "rest": [1, 2], "loud": False}
    ] * 2


async def test_arguments_are_not_logged_otherwise(shop: Workshop, lines: list[logging.LogRecord]) -> None:
    shop.task(throwing(ValueError("broken")))

    await shop.run("note", "a-private-name")

    assert len(lines) == 2
    assert not any("a-private-name" in str(vars(each)) for each in lines)


async def test_a_secret_among_the_arguments_is_not_logged(
    shop: Workshop, lines: list[logging.LogRecord]
) -> None:
    shop.task(throwing(ValueError("broken")), log_args=True)

    await shop.run("note", f"with {SECRET}")

    assert [extra(each)["arguments"] for each in lines] == [{"name": "with ***"}] * 2


async def test_a_traceback_that_tells_a_secret_is_left_out(
    shop: Workshop, lines: list[logging.LogRecord]
) -> None:
    def note(name: str) -> None:
        try:
            raise OSError(f"401 for {SECRET}")
        except OSError as error:
            raise ValueError("broken") from error

    shop.task(note)

    await shop.run("note", "Ada")

    assert extra(lines[1])["error_type"] == "ValueError"
    assert lines[1].exc_info is None
