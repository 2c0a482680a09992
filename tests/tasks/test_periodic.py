"""`cron` and `every`: what may be declared, what is refused at decoration, what a call by the clock is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from qtasks import Context, Periodic, TaskDefinitionError, cron, current, every
from qtasks.clock import ManualClock
from qtasks.protocol.headers import parse_options, render_options
from qtasks.protocol.shapes import Outgoing
from qtasks.tasks.answers import Answer
from qtasks.tasks.envelope import SIGNATURE_HEADER, unpack
from qtasks.tasks.execution import Delivery
from tests.support.tasks import NOW, Workshop, error_of

FIRE = 1_700_000_040_000


def declared(workshop: Workshop, function: Callable[..., Any], **options: Any) -> tuple[Periodic, ...]:
    """Make a task of a function; give its schedules."""
    workshop.task(function, "report", **options)
    task = workshop.registry.find("report")
    assert task is not None
    return task.schedules


def message_of(workshop: Workshop, id_: str = "qt.app.report.1") -> Outgoing:
    """Make the message of the first schedule of the task `report`."""
    task = workshop.registry.find("report")
    assert task is not None
    return workshop.packer().scheduled(task, task.schedules[0], id_)


async def fired(
    workshop: Workshop, at: int | None = FIRE, *, message_id: str = "msg_1", **more: str
) -> Answer:
    """Deliver a call of the first schedule of `report`, as a broker would that says when it fired."""
    message = message_of(workshop)
    told = {} if at is None else {"qtasks-scheduled-at": str(at)}
    signature = dict(message.options.forward)[SIGNATURE_HEADER]
    delivery = Delivery(message_id, message.body, signature, 0, told | more)
    return await workshop.executor.execute(delivery)


def report(region: str = "eu", *, day: int = 0) -> str:
    return f"{region} {day}"


# --- declaring ------------------------------------------------------------------------------------


def test_a_schedule_says_when_and_with_which_arguments() -> None:
    morning = cron("0 9 * * mon-fri", tz="Europe/Paris", args=["us"], kwargs={"day": 1}, overlap="skip")

    assert morning.timing.text == "CRON_TZ=Europe/Paris 0 9 * * mon-fri"
    assert (morning.args, morning.kwargs, morning.overlap, morning.catch_up) == (
        ("us",),
        {"day": 1},
        "skip",
        "latest",
    )


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (every(seconds=1), "@every 1s"),
        (every(minutes=5), "@every 300s"),
        (every(hours=1, minutes=30), "@every 5400s"),
        (every(days=366), "@every 31622400s"),
        (every(seconds=1.5), "@every 1.5s"),
        (cron("@daily"), "@daily"),
    ],
)
def test_intervals_are_from_a_second_to_a_year(schedule: Periodic, text: str) -> None:
    assert schedule.timing.text == text


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: cron("0 9 * *"), r"cron\('0 9 \* \*'\): invalid cron .* 4 fields instead of five"),
        (
            lambda: cron("0 0 9 * * *"),
            r"6 fields instead of five: .*; seconds have no field, but there is every",
        ),
        (lambda: cron("61 * * * *"), "invalid cron"),
        (lambda: cron("0 9 * * *", tz="Mars/Olympus"), r"tz='Mars/Olympus'\): .*unknown time zone"),
        (lambda: cron("CRON_TZ=UTC @daily", tz="UTC"), "invalid cron"),
        (lambda: cron(9), r"cron\(9\): invalid cron"),  # type: ignore[arg-type]
        (lambda: every(), r"every\(\): an interval is at least one second and at most 366 days"),
        (lambda: every(seconds=0.5), r"every\(seconds=0.5\): an interval is at least one second"),
        (lambda: every(days=367), r"every\(days=367\): .* at most 366 days"),
        (lambda: every(minutes=-5), r"every\(minutes=-5\): an interval is at least"),
        (lambda: every(seconds=float("nan")), "this is no interval"),
        (lambda: every(minutes="5"), "this is no interval: unsupported type"),  # type: ignore[arg-type]
        (lambda: every(minutes=5, overlap="no"), "overlap='no' is none of allow, skip"),  # type: ignore[arg-type]
        (lambda: cron("@daily", catch_up="some"), "catch_up='some' is none of latest, all, none"),  # type: ignore[arg-type]
        (lambda: every(minutes=5, args="eu"), "args='eu' is not possible; it is a tuple or list"),
        (lambda: every(minutes=5, kwargs=[1]), r"kwargs=\[1\] is not possible; it is a dict"),  # type: ignore[arg-type]
        (lambda: every(minutes=5, name="a b"), "name='a b' is not possible; it is up to 64 letters"),
        (lambda: every(minutes=5, paused="no"), "paused='no' is not possible; it is True or False"),  # type: ignore[arg-type]
    ],
)
def test_what_no_broker_could_do_is_refused_where_it_is_written(
    make: Callable[[], Periodic], text: str
) -> None:
    with pytest.raises(TaskDefinitionError, match=text):
        make()


def test_a_task_may_have_several_schedules_known_by_name_or_number() -> None:
    found = declared(
        Workshop(), report, schedule=[every(minutes=5), cron("@daily", name="nightly"), every(hours=1)]
    )

    assert [each.name for each in found] == ["1", "nightly", "3"]


def test_one_schedule_needs_no_list_and_none_is_none() -> None:
    assert [each.name for each in declared(Workshop(), report, schedule=every(minutes=5))] == ["1"]
    assert declared(Workshop(), report, schedule=[]) == declared(Workshop(), report) == ()


def test_a_name_is_given_once() -> None:
    with pytest.raises(TaskDefinitionError, match="two of its schedules are named '2'; give each a name"):
        declared(Workshop(), report, schedule=[every(minutes=5, name="2"), every(hours=1)])


@pytest.mark.parametrize("schedule", ["0 9 * * *", [every(minutes=1), "@daily"], 300, None])
def test_a_schedule_is_made_by_cron_or_every(schedule: object) -> None:
    with pytest.raises(TaskDefinitionError, match=r"task report: schedule=.* is not possible; it is cron"):
        declared(Workshop(), report, schedule=schedule)


def test_a_task_that_needs_arguments_gets_them_from_its_schedule_or_is_refused() -> None:
    def needs(region: str) -> None: ...

    given = declared(Workshop(), needs, schedule=every(minutes=5, args=("eu",)))
    with pytest.raises(TaskDefinitionError) as caught:
        declared(Workshop(), needs, schedule=[every(minutes=5, args=("eu",)), cron("@daily")])

    assert given[0].args == ("eu",)
    assert str(caught.value) == (
        "task report, schedule '2' (@daily): report() missing 1 required argument: 'region'; "
        "give its arguments as args=(...) or kwargs={...}"
    )


def test_arguments_that_would_not_arrive_are_refused_at_decoration() -> None:
    with pytest.raises(TaskDefinitionError, match=r"schedule '1' \(@daily\): day: expected int, got str$"):
        declared(Workshop(), report, schedule=cron("@daily", kwargs={"day": "monday"}))


def test_a_schedule_belongs_to_the_decorator_alone() -> None:
    workshop = Workshop()
    declared(workshop, report)
    task = workshop.registry.find("report")
    assert task is not None

    with pytest.raises(TaskDefinitionError, match="'schedule' is an option of the decorator alone"):
        task.with_options(schedule=every(minutes=5))  # type: ignore[call-arg]


def test_an_annotation_that_is_not_defined_yet_is_looked_up_at_the_start() -> None:
    namespace: dict[str, Any] = {}
    exec("from __future__ import annotations\ndef report(day: Day = None): ...", namespace)

    assert len(declared(Workshop(), namespace["report"], schedule=cron("@daily"))) == 1


# --- what the broker is told ----------------------------------------------------------------------


def test_the_message_of_a_schedule_is_the_same_whenever_it_is_made() -> None:
    clock = ManualClock(NOW)
    workshop = Workshop(clock=clock)
    declared(workshop, report, schedule=cron("@daily", args=("us",)))
    before = message_of(workshop)

    clock.advance(hours=24)

    assert message_of(workshop) == before


def test_a_broker_is_told_when_and_how_and_nothing_that_holds_for_one_call() -> None:
    workshop = Workshop()
    schedule = every(seconds=30, overlap="skip", catch_up="all")
    declared(workshop, report, schedule=schedule, queue="mail", retries=5, expires=60, label="night")

    options = message_of(workshop).options

    assert parse_options(render_options(options)) == options
    assert (options.every, options.cron) == (schedule.timing, None)
    assert (options.overlap, options.catch_up, options.expires_after_ms) == ("skip", "all", 60_000)
    assert (options.schedule_id, options.schedule_queue) == ("qt.app.report.1", "mail")
    assert (options.retries, options.labels, options.result_ttl_ms) == (5, ("night",), 86_400_000)
    assert (options.task_id, options.dedup_id, options.expires_at, options.start_at) == (None,) * 4


def test_a_task_with_keys_keeps_them_when_the_clock_calls_it() -> None:
    workshop = Workshop()
    declared(workshop, report, schedule=cron("@daily"), exclusive="{region}", unique=True)

    message = message_of(workshop)

    assert message.options.flow is not None
    assert message.options.flow.key == "report:eu"
    assert (message.options.schedule_queue, message.options.unique) == (None, "finished")
    assert message.options.dedup_id is not None


def test_an_envelope_says_which_schedule_it_is_of() -> None:
    workshop = Workshop()
    declared(workshop, report, schedule=cron("@daily", args=("us",), name="nightly"))

    envelope = unpack(message_of(workshop, "qt.app.report.nightly").body)

    assert (envelope.id, envelope.schedule, envelope.args) == ("qt.app.report.nightly", "nightly", ["us"])


# --- a call ---------------------------------------------------------------------------------------


async def test_a_call_knows_its_schedule_and_its_instant_and_has_an_id_of_its_own() -> None:
    workshop = Workshop()
    seen: list[Context] = []

    async def task(region: str) -> str:
        seen.append(current())
        return region

    declared(workshop, task, schedule=every(seconds=20, args=("eu",), name="often"))
    answer = await fired(workshop, FIRE)

    [context] = seen
    instant = datetime.fromtimestamp(FIRE / 1000, UTC)
    assert (answer.status, answer.body) == (200, b'"eu"')
    assert (context.schedule, context.task_id) == ("often", f"qt.app.report.1.{FIRE}")
    assert (context.scheduled_at, context.enqueued_at) == (instant, instant)


@pytest.mark.parametrize("told", [None, -5, 10**16])
async def test_where_the_broker_does_not_say_when_the_message_is_the_call(told: int | None) -> None:
    workshop = Workshop()
    seen: list[Context] = []

    async def task() -> None:
        seen.append(current())

    declared(workshop, task, schedule=cron("@daily"))
    await fired(workshop, told, message_id="msg_7")

    [context] = seen
    assert (context.schedule, context.task_id, context.scheduled_at) == ("1", "msg_7", None)
    assert context.enqueued_at == datetime.fromtimestamp(NOW / 1000, UTC)


async def test_a_call_by_code_has_no_schedule_whatever_its_headers_say() -> None:
    workshop = Workshop()
    seen: list[Context] = []

    async def task() -> None:
        seen.append(current())

    workshop.task(task, "note")
    delivery = workshop.delivery(workshop.envelope("note"), headers={"qtasks-scheduled-at": str(FIRE)})
    await workshop.executor.execute(delivery)

    assert (seen[0].schedule, seen[0].task_id, seen[0].scheduled_at) == (None, "tsk_1", None)


async def test_a_call_that_comes_too_late_after_its_fire_does_not_run() -> None:
    workshop = Workshop()
    declared(workshop, report, schedule=cron("@daily"), expires=60)

    late = await fired(workshop, NOW - 60_001)
    in_time = await fired(workshop, NOW - 59_000)

    assert (late.status, error_of(late)["type"], in_time.status) == (489, "Expired", 200)


async def test_the_calls_of_two_fires_may_run_at_once() -> None:
    workshop = Workshop()
    both = asyncio.Barrier(2)
    ids: list[str] = []

    async def task() -> None:
        ids.append(current().task_id)
        await both.wait()

    declared(workshop, task, schedule=every(seconds=1))
    calls = [fired(workshop, FIRE + 1000 * n, message_id=f"msg_{n}") for n in range(2)]
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*calls)

    assert [each.status for each in answers] == [200, 200]
    assert ids == [f"qt.app.report.1.{FIRE}", f"qt.app.report.1.{FIRE + 1000}"]


async def test_a_schedule_that_was_tampered_with_does_not_run() -> None:
    workshop = Workshop()
    declared(workshop, report, schedule=cron("@daily"))
    message = message_of(workshop)
    signature = dict(message.options.forward)[SIGNATURE_HEADER]

    forged = message.body.replace(b'"task":"report"', b'"task":"ruin"  ')
    answer = await workshop.executor.execute(Delivery("msg_1", forged, signature, 0, {}))

    assert (answer.status, error_of(answer)["type"]) == (403, "SignatureError")
