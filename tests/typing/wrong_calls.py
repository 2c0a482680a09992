"""Calls that a type checker must refuse; `test_types.py` compares what mypy says with the marks.

Checked there alone, so `scripts/check` passes it over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from qtasks import AsyncResult, Context, QTasks, Queue, cron, every, task

tasks = QTasks()


@tasks.task
def add(a: int, b: int = 2) -> int:
    return a + b


@tasks.task(queue="mail")
async def greet(name: str, *, loud: bool = False) -> str:
    return name


@tasks.task(bind=True)
def count(context: Context, number: int) -> int:
    return number


@task(name="tests.typing.mixed")
def mixed(first: int, /, second: str = "", *rest: float, named: bool, other: bytes = b"") -> list[int]:
    return [first]


@tasks.task(bind=True, queue="mail")
async def fetch(context: Context, url: str, *, depth: int = 1) -> bytes:
    return url.encode()


def wrong_arguments_of_mixed_kinds() -> None:
    mixed.delay(1)  # error: call-arg
    mixed.delay(first=1, named=True)  # error: call-arg
    mixed.delay("1", named=True)  # error: arg-type
    mixed.delay(1, 2, named=True)  # error: arg-type
    mixed.delay(1, "", "2", named=True)  # error: arg-type
    mixed.delay(1, named="yes")  # error: arg-type
    mixed.delay(1, named=True, more=1)  # error: call-arg
    mixed.call(1)  # error: call-arg
    mixed.with_options(retries=1).delay(1)  # error: call-arg
    mixed.with_options(retries=1).call(first=1, named=True)  # error: call-arg
    mixed.delay_many([mixed.call(1, named=1)])  # error: arg-type
    numbers: list[str] = mixed.delay(1, named=True).get()  # error: assignment
    texts: list[AsyncResult[str]] = mixed.delay_many([mixed.call(1, named=True)])  # error: assignment
    print(numbers, texts)


def wrong_buffered_calls() -> None:
    with tasks.buffered(every=5):  # error: call-arg
        pass
    buffer = tasks.buffered()
    buffer.delay(add, "1")  # error: arg-type
    buffer.delay(greet, "a", quiet=True)  # error: call-arg
    buffer.delay(mixed.with_options(retries=1), "1", named=True)  # error: arg-type
    text: str = buffer.delay(add, 1).result().get()  # error: assignment
    buffer.apply_async(add, (1,), retry=5)  # error: call-arg
    print(text)


async def wrong_arguments_of_coroutines(context: Context) -> None:
    await greet.adelay()  # error: call-arg
    await greet.adelay(1)  # error: arg-type
    await greet.adelay("a", True)  # error: call-arg
    await greet.adelay("a", loud="yes")  # error: arg-type
    await greet.with_options(queue="slow").adelay(name=1)  # error: arg-type
    await greet.adelay_many([greet.call()])  # error: call-arg
    await add.adelay("1")  # error: arg-type
    await add.with_options(retries=0).adelay(1, b="2")  # error: arg-type
    await fetch.adelay()  # error: call-arg
    await fetch.adelay(context, "a")  # error: call-arg
    await fetch.adelay("a", 2)  # error: call-arg
    await fetch.with_options(retries=0).adelay("a", depth="2")  # error: arg-type
    await fetch.adelay_many([add.call(1)])  # error: list-item
    text: str = await (await fetch.adelay("a")).aget()  # error: assignment
    late: int = await greet.adelay("a")  # error: assignment
    print(text, late)


def wrong_options() -> None:
    add.with_options(bind=True)  # error: call-arg
    add.with_options(name="other")  # error: call-arg
    add.with_options(aliases=["other"])  # error: call-arg
    add.with_options(retries="3")  # error: arg-type
    add.with_options(queue=None)  # error: arg-type
    add.apply_async((1,), retrys=5)  # error: call-arg
    add.apply_async((1,), eta="tomorrow")  # error: arg-type
    tasks.send("elsewhere").get(time=1)  # error: call-arg


def wrong(context: Context) -> None:
    add.delay()  # error: call-arg
    add.delay("1")  # error: arg-type
    add.delay(1, c=2)  # error: call-arg
    add.with_options(retries=0).delay("1")  # error: arg-type
    add.with_options(retrys=0)  # error: call-arg
    add.apply_async((1,), countdwn=5)  # error: call-arg
    add.call()  # error: call-arg
    add.delay_many([add.call("1")])  # error: arg-type
    add.delay_many([greet.call("a")])  # error: list-item
    add.delay_many([(1, 2)])  # error: list-item
    add.with_options(retry_on=OSError)  # error: call-arg
    QTasks(defaults={"retrys": 1})  # error: arg-type
    Queue(retrys=1)  # error: call-arg
    tasks.send(add)  # error: arg-type
    text: str = add.delay(1).get()  # error: assignment
    text = add.delay(1).info().result  # error: assignment
    state: Literal["DONE"] = add.delay(1).info().state  # error: assignment
    print(state)
    add.delay(1).result = 3  # error: misc
    add.delay_in(object(), "1")  # error: arg-type
    add.delay_in()  # error: call-arg
    greet.adelay_in(object(), "a", True)  # error: call-arg
    greet.delay("a", True)  # error: call-arg
    greet.delay(1)  # error: arg-type
    count.delay("1")  # error: arg-type
    count.delay(context, 1)  # error: call-arg
    count.delay()  # error: call-arg
    count(context, 1)  # error: call-arg
    print(text)


@tasks.task(schedule="0 9 * * *")  # error: arg-type
def by_a_text() -> None: ...


every(minutes="5")  # error: arg-type
cron("@daily", overlap="never")  # error: arg-type


@tasks.task(retrys=3)  # error: call-overload
def misspelt() -> None: ...


@tasks.task(bind=True)  # error: arg-type
def unbound(number: int) -> None: ...


@task(retrys=3)  # error: call-overload
def misspelt_too() -> None: ...


@tasks.task(retries="3")  # error: call-overload
def mistyped() -> None: ...


@tasks.around  # error: type-var
def yields_nothing(context: Context) -> None: ...


@tasks.around  # error: type-var
def takes_a_number(number: int) -> Iterator[None]:
    yield
