"""Arguments and results of random types, through a running app: delay, broker, handler and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from qtasks.errors import EncodeError, TaskDefinitionError
from tests.support.homes import SOON_S, embedded
from tests.support.typed_values import Typed, same, signature_of, typed

Case = tuple[Typed, Any]


def drawn_cases(count: int) -> list[Case]:
    found: list[Case] = []

    @settings(max_examples=count, database=None, phases=[Phase.generate])
    @given(typed(), st.data())
    def draw(one: Typed, data: st.DataObject) -> None:
        found.append((one, data.draw(one.right)))

    draw()
    return [each for each in found if _may_travel(*each)]


def _may_travel(one: Typed, value: Any) -> bool:
    try:
        signature_of(one.annotation).encode((value,), {})
    except (TaskDefinitionError, EncodeError):
        return one.is_certain
    return True


def echo(annotation: Any, received: list[Any]) -> Callable[[Any], Any]:
    def task(value):  # type: ignore[no-untyped-def] # the annotation is put on below
        received.append(value)
        return value

    task.__annotations__ = {"value": annotation, "return": annotation}
    return task


async def test_what_a_task_receives_and_returns_equals_what_was_passed(tmp_path: Path) -> None:
    cases = drawn_cases(60)
    tasks = embedded(tmp_path / "qtasks.db")
    received: list[list[Any]] = [[] for _ in cases]
    echoes = [
        tasks.task(name=f"echo_{n}")(echo(one.annotation, received[n])) for n, (one, _) in enumerate(cases)
    ]

    async with tasks.lifespan():
        results = [await each.adelay(value) for each, (_, value) in zip(echoes, cases, strict=True)]
        returned = [await each.aget(timeout=SOON_S) for each in results]

    assert len(cases) >= 50
    for (one, value), [arrived], result in zip(cases, received, returned, strict=True):
        assert same(value, arrived, widened=one.has_float), (one.annotation, value, arrived)
        assert same(value, result, widened=one.has_float), (one.annotation, value, result)
