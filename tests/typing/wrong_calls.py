"""Calls that a type checker must refuse; `test_types.py` compares what mypy says with the marks.

Checked there alone, so `scripts/check` passes it over.
"""

from __future__ import annotations

from qtasks import Context, QTasks, Queue

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
    greet.delay("a", True)  # error: call-arg
    greet.delay(1)  # error: arg-type
    count.delay("1")  # error: arg-type
    count.delay(context, 1)  # error: call-arg
    count.delay()  # error: call-arg
    count(context, 1)  # error: call-arg
    print(text)


@tasks.task(retrys=3)  # error: call-overload
def misspelt() -> None: ...


@tasks.task(bind=True)  # error: arg-type
def unbound(number: int) -> None: ...
