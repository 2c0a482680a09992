"""The error document: tracebacks as they are read in a dead letter queue."""

from __future__ import annotations

from typing import Any

import orjson

from qtasks.tasks.answers import TRACEBACK_LIMIT, describe
from tests.support.tasks import Workshop, error_of


def document(error: BaseException) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(describe(error, type(error).__name__, []))["error"]
    return found


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as raised:
        return raised


async def test_the_cause_of_an_exception_is_read_before_it() -> None:
    shop = Workshop()

    def pay() -> None:
        try:
            dict[str, int]()["card"]
        except KeyError as error:
            raise ValueError("no card") from error

    shop.task(pay)
    trace = error_of(await shop.run("pay"))["traceback"]

    first, last = trace.index("KeyError: 'card'"), trace.index("ValueError: no card")
    assert first < trace.index("direct cause of the following exception") < last
    assert trace.count("Traceback (most recent call last)") == 2
    assert "qtasks/tasks/" not in trace


def test_all_of_a_group_can_be_read() -> None:
    group = BaseExceptionGroup("two partners", [caught(KeyError("a")), caught(OSError("b"))])

    error = document(caught(group))

    assert (error["type"], error["message"]) == ("ExceptionGroup", "two partners (2 sub-exceptions)")
    assert all(each in error["traceback"] for each in ("KeyError: 'a'", "OSError: b"))


def test_notes_are_kept() -> None:
    error = ValueError("x")
    error.add_note("while reading line 7")

    assert "while reading line 7" in document(caught(error))["traceback"]


def test_of_a_long_traceback_the_end_is_kept_in_whole_lines() -> None:
    error: BaseException = ValueError("the first")
    for number in range(400):
        following = ValueError(f"number {number}")
        following.__cause__ = error
        error = caught(following)

    trace = document(error)["traceback"]

    head = trace.partition("\n")[0]
    assert head.startswith("... ")
    assert head.endswith(" characters before this are left out ...")
    assert TRACEBACK_LIMIT - 200 < len(trace) <= TRACEBACK_LIMIT
    assert trace.endswith("ValueError: number 399\n")


def test_one_line_longer_than_the_limit_keeps_its_end() -> None:
    trace = document(caught(ValueError("x" * 100_000 + "end")))["traceback"]

    assert trace.endswith("xxxend\n")


def test_a_traceback_is_text_whatever_the_exception_holds() -> None:
    body = describe(caught(ValueError("é\0\udcff☃")), "ValueError", [])

    assert "☃" in body.decode()
