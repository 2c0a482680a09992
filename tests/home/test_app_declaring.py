"""What an app declares: its name, tasks with their options, queues; and what is refused on the spot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from qtasks import ConfigurationError, QTasks, Queue, Retry
from qtasks.client import calls
from qtasks.errors import TaskDefinitionError
from tests.support.homes import SOON_S, ask_owner, embedded


@pytest.fixture
async def app(store: Path) -> AsyncIterator[QTasks]:
    """An app that runs, on the loop of the test."""
    tasks = embedded(store)
    async with tasks.lifespan():
        yield tasks


async def test_other_options_hold_for_the_calls_made_with_them_alone(app: QTasks, store: Path) -> None:
    @app.task(queue="mail", retries=7)
    async def send() -> None: ...

    paused = calls.set_queue("urgent", paused=True)
    ask_owner(store, paused)
    ask_owner(store, calls.set_queue("mail", paused=True))
    send.with_options(queue="urgent", retries=0).delay()
    send.apply_async(retries=1)
    send.delay()

    lags = {each.name: each.lag for each in ask_owner(store, calls.queues())}
    entries = ask_owner(store, calls.log()).items
    assert lags == {"urgent": 1, "mail": 2}
    assert [(each.queue_name, each.max_retries) for each in entries] == [
        ("mail", 7),
        ("mail", 1),
        ("urgent", 0),
    ]
    assert (send.options.queue, send.options.retries) == ("mail", 7)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retrys": 1}, r"unknown option 'retrys'; did you mean 'retries'\?"),
        ({"que": "mail"}, r"unknown option 'que'; did you mean 'queue'\?"),
        (
            {"colour": "red"},
            "unknown option 'colour'; known: .*queue, retries, retry_delay, timeout, expires, result_ttl",
        ),
        ({"retries": -1}, "retries=-1 is not possible; it is an integer from 0 to 1000"),
        ({"retries": True}, "retries=True is not possible"),
        ({"queue": 5}, "queue=5 is not possible; a queue is named by a text"),
        ({"queue": ""}, "queue='': invalid queue name"),
        ({"queue": "no spaces"}, "queue='no spaces': invalid queue name"),
        ({"timeout": 0}, "timeout=0 is not possible; it is a span longer than 0"),
        ({"timeout": "soon"}, "timeout='soon'"),
        ({"retry_delay": "2 **"}, r"retry_delay='2 \*\*'"),
        ({"result_ttl": -1}, "result_ttl=-1"),
        ({"labl": "a"}, r"unknown option 'labl'; did you mean 'label'\?"),
        ({"label": "a,b"}, "label='a,b' is not possible; it is a text without commas"),
        ({"label": ["a", 5]}, r"label=\['a', 5\] is not possible; it is a text"),
        ({"label": 5}, "label=5 is not possible; it is a text"),
        ({"label": "x" * 257}, "label='x*': .* is longer than 256 bytes"),
    ],
)
def test_an_option_that_cannot_be_is_refused_where_it_is_written(
    store: Path, options: dict[str, object], text: str
) -> None:
    tasks = embedded(store)

    @tasks.task(name="ours")
    def ours() -> None: ...

    with pytest.raises(TaskDefinitionError, match=f"task theirs: {text}"):
        tasks.task(name="theirs", **options)(plain)  # type: ignore[call-overload]  # refused
    with pytest.raises(TaskDefinitionError, match=text):
        ours.with_options(**options)  # type: ignore[arg-type]  # refused

    assert tasks.find("theirs") is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retry_on": "ValueError"}, "retry_on='ValueError' is not possible; it is an exception type"),
        ({"retry_on": [ValueError, int]}, "retry_on=.* is not possible; it is an exception type, or a tuple"),
        (
            {"no_retry_on": ValueError()},
            r"no_retry_on=ValueError\(\) is not possible; it is an exception type",
        ),
        ({"no_retry_for": ValueError}, r"unknown option 'no_retry_for'; did you mean 'no_retry_on'\?"),
        ({"aliases": "old"}, "aliases='old' is not possible; it is a list of the task's old names"),
        ({"aliases": [""]}, r"aliases=\[''\] is not possible"),
        ({"aliases": ["old", "old"]}, "alias 'old' is given twice"),
        ({"aliases": ["theirs"]}, "alias 'theirs' is given twice"),
    ],
)
def test_an_option_of_decorators_that_cannot_be_is_refused_there(
    store: Path, options: dict[str, object], text: str
) -> None:
    tasks = embedded(store)

    with pytest.raises(TaskDefinitionError, match=f"task theirs: {text}"):
        tasks.task(name="theirs", **options)(plain)  # type: ignore[call-overload]  # refused

    assert tasks.find("theirs") is None


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("name", "of the decorator alone"),
        ("aliases", "of the decorator alone"),
        ("retry_on", "of the decorator, of a queue or of the app"),
    ],
)
def test_an_option_of_decorators_is_refused_at_a_call_and_its_place_is_named(
    store: Path, name: str, whose: str
) -> None:
    task = embedded(store).task(plain)

    with pytest.raises(TaskDefinitionError, match=f"with_options: '{name}' is an option {whose}"):
        task.with_options(**{name: ValueError})  # type: ignore[arg-type]  # refused


@pytest.mark.parametrize(
    ("name", "aliases", "text"),
    [
        ("mail", [], "two tasks are named 'mail': .* and .*; give one of them another name"),
        ("post", [], "two tasks claim the name 'post': .* and .*; take it off one's aliases"),
        ("new", ["mail"], "two tasks claim the name 'mail'"),
        ("new", ["newer", "post"], "two tasks claim the name 'post'"),
    ],
)
def test_a_name_that_is_taken_is_refused_whether_it_is_old_or_new(
    store: Path, name: str, aliases: list[str], text: str
) -> None:
    tasks = embedded(store)
    first = tasks.task(name="mail", aliases=["post"])(plain)

    with pytest.raises(TaskDefinitionError, match=text):
        tasks.task(name=name, aliases=aliases)(other)

    assert {each: tasks.find(each) for each in ("mail", "post", "new", "newer")} == {
        "mail": first,
        "post": first,
        "new": None,
        "newer": None,
    }


def test_a_task_that_is_decorated_twice_is_refused(store: Path) -> None:
    tasks = embedded(store)
    task = tasks.task(name="mail")(plain)

    with pytest.raises(TaskDefinitionError, match="mail is a task already; decorate a function once"):
        tasks.task(task)


def test_a_function_in_a_class_is_a_task_if_it_takes_no_object(store: Path) -> None:
    tasks = embedded(store)

    class Bakery:
        @staticmethod
        @tasks.task
        def bake(loaves: int) -> int:
            return loaves

    assert Bakery.bake(3) == 3
    assert tasks.find(Bakery.bake.name) is Bakery.bake


def other() -> None:
    """Another function of a module."""


def plain() -> None:
    """A function of a module."""


class Shop:
    def sell(self) -> None: ...

    @classmethod
    def open(cls) -> None: ...


def generate() -> Iterator[int]:
    yield 1


async def agenerate() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda: None, "a lambda cannot be a task: its messages could not name it; use def"),
        (generate, "generate is a generator; a task must return its result"),
        (agenerate, "agenerate is a generator; a task must return its result"),
        (Shop().sell, r"Shop\.sell is a method; a task must be a function of a module"),
        (staticmethod(plain), "is a method; a task must be a function of a module"),
        (Shop.__dict__["open"], "is a method; a task must be a function of a module"),
        (Shop, "Shop is not a function but a class; decorate a function with @task"),
        (Shop(), "Shop object at .* is not a function; decorate a function with @task"),
        (
            partial(print, 1),
            r"functools\.partial\(.* is a partial: it has no name; use def, and call it there",
        ),
        (Shop.sell, r"Shop\.sell is a method: its object cannot travel; use a function of a module"),
        (print, "print is not a function; decorate a function with @task"),
    ],
)
def test_what_cannot_be_a_task_is_refused_where_it_is_decorated(
    store: Path, function: Callable[[], object], text: str
) -> None:
    with pytest.raises(TaskDefinitionError, match=text):
        embedded(store).task(function)


def test_two_tasks_of_one_name_are_refused_and_both_places_named(store: Path) -> None:
    tasks = embedded(store)
    tasks.task(name="mail")(plain)

    def other() -> None: ...

    places = [rf"test_app_declaring\.py:{each.__code__.co_firstlineno}" for each in (plain, other)]
    with pytest.raises(
        TaskDefinitionError, match=f"two tasks are named 'mail': .*{places[0]} and .*{places[1]}; give one"
    ):
        tasks.task(name="mail")(other)


@pytest.mark.parametrize("name", ["", "my app", "a.b", "x" * 64, "ü"])
def test_a_name_of_an_app_that_cannot_be_part_of_an_address_is_refused(store: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="use up to 63 letters, digits and hyphens"):
        embedded(store, name=name)


def test_postgresql_needs_a_secret_that_all_processes_have() -> None:
    tasks = QTasks("postgresql://localhost/q")

    @tasks.task
    def note() -> None: ...

    with pytest.raises(ConfigurationError, match="all processes must sign tasks with the same QTASKS_SECRET"):
        note.delay()


def test_a_queue_that_runs_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Queue\(parallelism=0\): at least 1 task"):
        Queue(parallelism=0)


async def test_a_queue_is_made_at_first_use_as_its_app_declares_it(store: Path) -> None:
    tasks = embedded(store, queues={"mail": Queue(parallelism=3), "books": Queue(ordered=True)})

    @tasks.task
    async def nothing() -> None: ...

    async with tasks.lifespan():
        for name in ("mail", "books", "default"):
            await nothing.with_options(queue=name).delay().aget(SOON_S)
        found = {each.name: (each.parallelism, each.ordered) for each in ask_owner(store, calls.queues())}

    assert found == {"mail": (3, False), "books": (1, True), "default": (16, False)}


async def test_a_declaration_that_has_changed_holds_from_the_next_start(store: Path) -> None:
    await run_with_mail_queue(store, Queue(parallelism=3))

    assert await run_with_mail_queue(store, Queue(parallelism=5)) == 5


async def test_what_the_api_has_set_holds_against_the_declaration(store: Path) -> None:
    await run_with_mail_queue(store, Queue(parallelism=3), set_to=7)

    assert await run_with_mail_queue(store, Queue(parallelism=5)) == 7


async def run_with_mail_queue(store: Path, declared: Queue, *, set_to: int | None = None) -> int:
    """Start an app, use its queue, stop it; give the parallelism that the queue has."""
    tasks = embedded(store, queues={"mail": declared})

    @tasks.task(queue="mail")
    async def nothing() -> None: ...

    async with tasks.lifespan():
        await nothing.delay().aget(SOON_S)
        if set_to is not None:
            ask_owner(store, calls.set_queue("mail", parallelism=set_to))
        return ask_owner(store, calls.queue("mail")).parallelism


async def test_an_ordered_queue_runs_its_tasks_in_the_order_of_their_calls(store: Path) -> None:
    tasks = embedded(store, queues={"books": Queue(ordered=True)})
    runs: list[int] = []

    @tasks.task(queue="books", retry_delay=0.05)
    async def book(number: int) -> None:
        runs.append(number)
        if number == 3 and runs.count(3) == 1:
            raise Retry

    async with tasks.lifespan():
        results = [book.delay(number) for number in range(8)]
        await results[-1].aget(SOON_S)

    assert runs == [0, 1, 2, 3, 3, 4, 5, 6, 7]
