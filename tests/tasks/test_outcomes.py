"""What becomes of a failed attempt: again and when, or never, and which hooks hear of it."""

from __future__ import annotations

from typing import Any

import pytest

from qtasks.errors import Reject, Retry, TaskTimeout
from qtasks.tasks.answers import NON_RETRYABLE
from qtasks.tasks.options import DECLARED, TaskOptions, read_options
from qtasks.tasks.outcomes import Ending, Failure, judge

ERROR = ValueError("no")


def judged(
    error: BaseException = ERROR,
    *,
    retried: int = 0,
    retry_delay: str | None = None,
    fraction: float = 0.5,
    **options: Any,
) -> Failure:
    """Judge an error of a task with these options, which has three retries."""
    delay = options.pop("retry_delay_of", None)
    options |= {} if delay is None else {"retry_delay": delay}
    told = TaskOptions(**read_options(options, of="task note", known=DECLARED))
    return judge(error, told, retried=retried, retries=3, retry_delay=retry_delay, fraction=fraction)


def wait_s(failure: Failure) -> float | None:
    found = dict(failure.headers).get("Retry-After")
    return None if found is None else float(found)


def test_an_error_is_tried_again_when_the_broker_thinks_best() -> None:
    assert judged() == Failure(500, (), Ending.AGAIN, retry_in_ms=12_000)


def test_the_last_retry_is_the_last() -> None:
    assert [judged(retried=number).ending for number in (2, 3, 4)] == [
        Ending.AGAIN,
        Ending.EXHAUSTED,
        Ending.EXHAUSTED,
    ]


@pytest.mark.parametrize(
    "failure",
    [
        judged(Reject("never")),
        judged(no_retry_on=ValueError),
        judged(retry_on=OSError),
        judged(retry_on=()),
        judged(Reject("never"), retry_on=Reject),
    ],
)
def test_what_is_not_to_be_tried_again_is_refused(failure: Failure) -> None:
    assert failure == Failure(489, (NON_RETRYABLE,), Ending.REFUSED)


def test_running_out_of_time_says_so() -> None:
    assert judged(TaskTimeout("slow")).status == 504
    assert judged(TaskTimeout("slow"), no_retry_on=TimeoutError).ending is Ending.REFUSED


def test_a_retry_goes_before_all_options() -> None:
    asked = judged(Retry(after=2.5), retry_on=(), retry_jitter=1)

    assert asked == Failure(503, (("Retry-After", "2.5"),), Ending.AGAIN, retry_in_ms=2_500)
    assert judged(Retry()) == Failure(503, (), Ending.AGAIN, retry_in_ms=12_000)
    assert judged(Retry(after=0)).headers == (("Retry-After", "0"),)
    assert judged(Retry(after=1), retried=3).ending is Ending.EXHAUSTED


def test_a_function_says_how_long_to_wait() -> None:
    asked: list[tuple[int, BaseException]] = []

    def delay(attempt: int, error: BaseException) -> str:
        asked.append((attempt, error))
        return "1m"

    waits = [wait_s(judged(retry_delay_of=delay, retried=number)) for number in (0, 2, 3)]

    assert waits == [60, 60, None]  # after the last attempt nobody is asked
    assert asked == [(1, ERROR), (3, ERROR)]


def test_a_wait_longer_than_a_day_is_a_day() -> None:
    assert wait_s(judged(retry_delay_of=lambda attempt, error: "9d")) == 86_400


@pytest.mark.parametrize(
    "delay", [lambda attempt, error: 1 / 0, lambda attempt, error: -1, lambda attempt, error: None]
)
def test_a_function_that_breaks_leaves_the_wait_to_the_broker(delay: Any) -> None:
    assert judged(retry_delay_of=delay) == Failure(500, (), Ending.AGAIN, retry_in_ms=12_000)


def test_the_expression_of_a_call_goes_before_the_function_of_the_task() -> None:
    failure = judge(
        ERROR,
        TaskOptions(retry_delay_of=lambda attempt, error: 5),
        retried=0,
        retries=3,
        retry_delay="1000",
        fraction=0.5,
    )

    assert failure.headers == ()  # the broker has it


@pytest.mark.parametrize(
    ("jitter", "fraction", "wait"), [(1, 0.25, 7.5), (0.5, 0.5, 7.5), (0.5, 0.999, 5.005), (True, 0, 10)]
)
def test_jitter_takes_off_a_share_of_a_wait_by_chance(jitter: float, fraction: float, wait: float) -> None:
    failure = judge(
        ERROR,
        TaskOptions(retry_jitter=float(jitter)),
        retried=0,
        retries=3,
        retry_delay="10000",
        fraction=fraction,
    )

    assert wait_s(failure) == wait


def test_jitter_without_a_delay_is_that_of_the_ladder() -> None:
    assert [wait_s(judged(retry_jitter=1, retried=number)) for number in (0, 1)] == [6, 74]
