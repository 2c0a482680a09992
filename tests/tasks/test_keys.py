"""Keys that are made of a call's arguments, and what is refused about them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest

from qtasks.clock import ManualClock
from qtasks.errors import ArgumentsError, InvalidValue, TaskDefinitionError
from qtasks.ids import Ids
from qtasks.protocol.expression import parse_expression
from qtasks.protocol.flow import FlowSpec
from qtasks.protocol.shapes import Outgoing
from qtasks.tasks.calling import Caller
from qtasks.tasks.envelope import EnvelopeSigner
from qtasks.tasks.keys import Flow, Unique, read_template
from qtasks.tasks.ladders import ladder_expression
from qtasks.tasks.options import NO_LAYERS
from qtasks.tasks.packing import Packer
from qtasks.tasks.registry import Registry
from qtasks.tasks.task import Task, make_task

PACKER = Packer(
    signer=lambda: EnvelopeSigner(["0123456789abcdef" * 4]),
    destination="https://app.example/qtasks/run",
    queues={},
    layers=NO_LAYERS,
    clock=ManualClock(1_700_000_000_000),
    ids=Ids.seeded(1),
)


def nobody() -> Caller:
    raise NotImplementedError


def note(tenant: int, day: date | None = None, *tags: str, size: int = 3, **more: str) -> None:
    """A function of a module."""


def made(function: Callable[..., Any] = note, **options: Any) -> Task[..., Any, Any]:
    return make_task(function, Registry(), nobody, {"name": "note", **options})


def message(task: Task[..., Any, Any], *args: Any, **kwargs: Any) -> Outgoing:
    return PACKER.message(task, *task.signature.encode(args, kwargs))


def flow_key(task: Task[..., Any, Any], *args: Any, **kwargs: Any) -> str | None:
    flow = message(task, *args, **kwargs).options.flow
    return None if flow is None else flow.key


def test_a_key_is_filled_in_with_the_arguments_however_they_are_given() -> None:
    task = made(flow=Flow(rate=1, key="t:{tenant}/{size}"))

    assert flow_key(task, 7) == "t:7/3"
    assert flow_key(task, tenant=7, size=4) == "t:7/4"


def test_values_stand_in_a_key_as_they_stand_in_json_and_texts_bare() -> None:
    task = made(flow=Flow(rate=1, key="{day}|{tags}"))

    assert flow_key(task, 1, date(2024, 5, 1), "a", "b") == '2024-05-01|["a","b"]'
    assert flow_key(task, 1) == "null|[]"


def test_a_flow_without_a_key_is_that_of_the_task() -> None:
    sent = message(made(flow=Flow(rate=5, period=timedelta(minutes=1), parallelism=2)), 1)

    assert sent.options.flow == FlowSpec("note", rate=5, parallelism=2, period_ms=60_000)
    assert (sent.queue, sent.options.queue) == (None, None)


def test_an_exclusive_task_is_a_flow_of_one() -> None:
    assert message(made(exclusive=True), 1).options.flow == FlowSpec("note", parallelism=1)
    assert message(made(exclusive="{tenant}"), 1).options.flow == FlowSpec("note:1", parallelism=1)


def test_braces_can_be_written_twice() -> None:
    assert flow_key(made(flow=Flow(rate=1, key="{{{tenant}}}")), 5) == "{5}"


def test_equal_calls_have_one_unique_id_and_others_have_others() -> None:
    task = made(unique=True)
    ids = [
        message(task, *args, **kwargs).options.dedup_id
        for args, kwargs in [((1,), {}), ((), {"tenant": 1}), ((1, None), {"size": 3}), ((1,), {"size": 4})]
    ]

    assert len({*ids}) == 2
    assert ids[0] == ids[1] == ids[2]
    assert message(made(name="other", unique=True), 1).options.dedup_id not in ids


def test_a_call_that_was_kept_has_the_key_of_one_that_is_made_now() -> None:
    task = made(unique=True)
    kept = task.call(1, date(2024, 5, 1))

    now = message(task, 1, date(2024, 5, 1))

    assert PACKER.message(task, kept.args, kept.kwargs).options.dedup_id == now.options.dedup_id


@pytest.mark.parametrize(
    ("until", "unique", "window_ms"),
    [("finished", "finished", None), ("started", "started", None), ("1h", None, 3_600_000)],
)
def test_unique_says_for_how_long(until: Any, unique: str | None, window_ms: int | None) -> None:
    options = message(made(unique=Unique("{tenant}", until=until)), 1).options

    assert (options.unique, options.dedup_window_ms) == (unique, window_ms)


def test_no_argument_stands_in_a_unique_id() -> None:
    assert "7777" not in str(message(made(unique="{tenant}"), 7777).options.dedup_id)


def test_a_key_too_long_is_an_error_of_the_call() -> None:
    task = made(flow=Flow(rate=1, key="{tags}"))

    with pytest.raises(
        ArgumentsError, match=r"note\(\): the key that its arguments make cannot be one: .*1024 bytes"
    ):
        message(task, 1, None, "x" * 2000)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"unique": 5}, r"unique=5: it is True, a key such as \"\{user_id\}\", or a Unique\(...\)"),
        ({"unique": "{tennant}"}, "its key names 'tennant', which is no parameter; there are: tenant, day"),
        ({"exclusive": "{tenant.id}"}, r"\{tenant.id\} is not the plain name of a parameter"),
        ({"exclusive": "{}"}, r"\{\} is not the plain name"),
        ({"exclusive": "{tenant!r}"}, "is not the plain name"),
        ({"exclusive": "{tenant"}, "is no template: expected '}'"),
        ({"exclusive": ""}, "a key cannot be empty"),
        ({"exclusive": 5}, "exclusive=5: it is True, or a key"),
        ({"flow": 5}, r"flow=5: it is a Flow\(...\)"),
        ({"flow": Flow(rate=1), "exclusive": True}, "exclusive is a flow of parallelism 1, so it has either"),
        ({"flow": Flow(rate=1), "queue": "mail"}, "with flow waits at its key and not in a queue; leave out"),
        ({"exclusive": True, "queue": "mail"}, "with exclusive waits at its key and not in a queue"),
        ({"retry_delay": []}, r"retry_delay=\[\] is not possible; a list of waits has at least one"),
        ({"retry_delay": [*range(1, 40)]}, "39 waits are too many for the 256 characters"),
        ({"retry_jitter": 2}, "retry_jitter=2 is not possible; it is the share"),
        ({"expires": 0}, "expires=0 is not possible; it is a span longer than 0"),
        ({"dedup_window": 0.5}, "dedup_window=0.5 is not possible; it is a span of at least a second"),
        ({"log_args": "yes"}, "log_args='yes' is not possible; it is True or False"),
        ({"on_success": 5}, "on_success=5 is not possible; it is a function of the context and the result"),
    ],
)
def test_what_cannot_be_is_refused_at_decoration(options: dict[str, Any], text: str) -> None:
    with pytest.raises(TaskDefinitionError, match=f"task note: .*{text}"):
        made(**options)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Flow(), "give rate, parallelism or both"),
        (lambda: Flow(rate=0), "rate=0 is not possible; it is an integer from 1"),
        (lambda: Flow(rate=1, period=1.5), "the period must be whole seconds"),
        (lambda: Flow(rate=1, key="{a.b}"), "is not the plain name of a parameter"),
        (lambda: Unique(until="soon"), 'until=\'soon\' is none of "finished", "started" or a span'),
        (lambda: Unique(until=0.1), "until=0.1: a window has at least a second"),
    ],
)
def test_a_flow_or_unique_that_cannot_be_is_refused_where_it_is_made(make: Any, text: str) -> None:
    with pytest.raises(InvalidValue, match=text):
        make()


def test_a_function_as_delay_is_refused_at_a_call() -> None:
    task = made()

    with pytest.raises(TaskDefinitionError, match="is a function, which a message cannot carry"):
        task.with_options(retry_delay=lambda attempt, error: 5)


def test_a_call_that_would_expire_before_it_may_start_is_refused() -> None:
    task = made(expires="1m")
    start_at = 1_700_000_000_000 + 60_000

    with pytest.raises(ArgumentsError, match="may start in 60 s would never run: it expires in 60 s"):
        PACKER.message(task, [1], {}, start_at)


@pytest.mark.parametrize("waits", [[5], [1000, 5000, 60_000], [10, 5, 5, 7], [0, 0, 3]])
def test_a_ladder_is_an_expression_of_the_same_waits(waits: list[int]) -> None:
    expression = parse_expression(ladder_expression(waits))

    assert [expression.delay_ms(n) for n in range(len(waits) + 2)] == [*waits, waits[-1], waits[-1]]


def test_a_template_names_each_parameter_once() -> None:
    assert read_template("{a}-{b}-{a}").names == ("a", "b")
