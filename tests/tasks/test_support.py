"""What a broker makes of options: the table is whole, and what cannot be had is refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from qtasks import QTasks, UnsupportedByBroker
from qtasks.protocol.headers import QueueSpec
from qtasks.settings import HomeKind
from qtasks.tasks.keys import Exclusive, Flow
from qtasks.tasks.options import DECLARED, Layers, TaskOptions
from qtasks.tasks.support import HOSTED, check_supported
from tests.support.homes import remote_settings
from tests.support.tasks import Workshop

QUEUES = {"strict": QueueSpec(1, ordered=True)}


def test_every_option_that_people_may_write_stands_in_the_table() -> None:
    options = {*DECLARED} - {"name", "aliases", "bind", "version"}

    assert {each.option for each in HOSTED} == {*options, "countdown, eta"}


@pytest.mark.parametrize("kind", [HomeKind.SQLITE, HomeKind.HTTP, HomeKind.POSTGRES])
def test_our_own_broker_is_never_refused_here(kind: HomeKind) -> None:
    check_supported(TaskOptions(queue="strict"), kind=kind, queues=QUEUES, is_delayed=True)


@pytest.mark.parametrize(
    ("queue", "is_delayed", "is_refused"),
    [("strict", True, True), ("strict", False, False), ("loose", True, False), ("loose", False, False)],
)
def test_a_delay_is_refused_for_an_ordered_queue_alone(
    queue: str, is_delayed: bool, is_refused: bool
) -> None:
    refused: UnsupportedByBroker | None = None
    try:
        check_supported(TaskOptions(queue=queue), kind=HomeKind.HOSTED, queues=QUEUES, is_delayed=is_delayed)
    except UnsupportedByBroker as error:
        refused = error

    assert (refused is not None) == is_refused


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"unique": True},
            "hosted QStash cannot do unique for a task in the unordered queue 'default'; "
            "give equal calls an equal task_id, which is enqueued once in ten minutes",
        ),
        (
            {"dedup_window": "1h"},
            "hosted QStash cannot do dedup_window for a task in the unordered queue 'default'; "
            "its window is ten minutes, which you get without the option",
        ),
    ],
)
def test_what_hosted_qstash_cannot_do_is_refused_at_the_decorator(options: dict[str, Any], text: str) -> None:
    app = QTasks(settings=remote_settings("https://qstash.upstash.io"))

    def note() -> None: ...

    with pytest.raises(UnsupportedByBroker) as caught:
        app.task(**options)(note)

    assert str(caught.value) == text
    assert caught.value.option == next(iter(options))


@pytest.mark.parametrize(
    "options", [{"dedup_window": "10m"}, {"exclusive": True}, {"flow": Flow(rate=1)}, {"expires": 5}]
)
def test_what_hosted_qstash_can_do_is_declared_as_ever(options: dict[str, Any]) -> None:
    app = QTasks(settings=remote_settings("https://qstash.upstash.io"))

    def note() -> None: ...

    task = app.task(**options)(note)

    assert app.find(task.name) is task


def test_a_delay_at_a_key_is_fine_wherever_the_queue_would_be() -> None:
    options = TaskOptions(queue="strict", exclusive=Exclusive())

    check_supported(options, kind=HomeKind.HOSTED, queues=QUEUES, is_delayed=True)


def test_what_a_declaration_asks_for_is_checked_where_it_is_declared_and_once() -> None:
    checked: list[TaskOptions] = []

    def refuse_labels(options: TaskOptions, *, is_delayed: bool = False) -> None:
        checked.append(options)
        if options.labels:
            raise UnsupportedByBroker("no labels")

    def note() -> None: ...

    shop = Workshop(layers=Layers(check=refuse_labels))
    with pytest.raises(UnsupportedByBroker, match="no labels"):
        shop.task(note, label="blue")
    shop.task(note)
    task = shop.registry.find("note")
    assert task is not None
    assert len(checked) == 2
    with pytest.raises(UnsupportedByBroker, match="no labels"):
        task.with_options(label="blue")
    assert task.options_in(shop.layers) is task.options_in(shop.layers)
    assert len(checked) == 3
