"""The same app with hosted QStash: our broker in strict mode stands for it, over HTTP on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from qtasks import (
    ConfigurationError,
    Context,
    QTasks,
    Queue,
    Reject,
    ResultsUnavailable,
    ResultTimeout,
    Retry,
    Settings,
    TaskFailed,
    UnsupportedByBroker,
    as_completed,
)
from qtasks.broker.config import BrokerConfig, strict_config
from qtasks.client import calls
from qtasks.client.clients import AsyncClient
from qtasks.errors import QuotaExceeded
from qtasks.protocol.shapes import LogEntry
from qtasks.tasks.keys import Flow
from tests.support.homes import (
    SECRET,
    SOON_S,
    TOKEN,
    remote_settings,
    running_server,
    served,
    server_setup,
    until,
    until_found,
    url_said,
)

STRICT = strict_config(BrokerConfig(grace_ms=2000))


@dataclass
class Recorder:
    """Passes requests on to an app, unless they are to fail, and remembers the headers of each."""

    app: QTasks | None = None

    def __post_init__(self) -> None:
        self.seen: list[dict[str, str]] = []
        self.failing: list[Exception] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append({name.decode(): value.decode() for name, value in scope["headers"]})
        assert self.app is not None
        if self.failing:
            raise self.failing.pop()
        await self.app(scope, receive, send)


@dataclass
class Hosted:
    """An app, what was delivered to it, and a client of the broker that it takes for hosted QStash."""

    app: QTasks
    deliveries: list[dict[str, str]]
    client: AsyncClient
    failing: list[Exception]
    """What the next deliveries meet before they reach the app."""


@asynccontextmanager
async def hosted(
    folder: Path, config: BrokerConfig = STRICT, changes: dict[str, Any] | None = None, **arguments: Any
) -> AsyncIterator[Hosted]:
    """Run a strict broker and an app that takes it for hosted QStash, both on this loop."""
    recorder = Recorder()
    arguments = {"results": f"sqlite:///{folder / 'results.db'}", **arguments}
    setup = server_setup(folder / "q.db", config=config)
    async with running_server(setup) as said, served(recorder) as address:
        url = url_said(said)
        settings = remote_settings(f"qstash+{url}", public_url=address)
        app = recorder.app = QTasks(settings=replace(settings, **(changes or {})), **arguments)
        async with app.lifespan(), AsyncClient(url, TOKEN) as client:
            yield Hosted(app, recorder.seen, client, recorder.failing)


async def test_a_call_runs_and_its_result_comes_back(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:

        @here.app.task
        async def double(number: int) -> int:
            return 2 * number

        result = await double.adelay(21)

        assert await result.aget(SOON_S) == 42
        assert await asyncio.to_thread(result.get, SOON_S) == 42
        assert (result.state, result.ready(), result.successful()) == ("SUCCEEDED", True, True)


async def test_calls_and_deliveries_carry_nothing_of_ours_but_the_forwarded_signature(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:

        @here.app.task(queue="mail", label="blue")
        async def note() -> None: ...

        result = await note.adelay()
        await result.aget(SOON_S)

        [delivery] = here.deliveries
        assert [name for name in delivery if name.startswith("qtasks-")] == ["qtasks-signature"]
        message = await here.client.send(calls.message(delivery["upstash-message-id"]))
        assert message.labels == ("blue", result.id)
        assert (message.flow_control_key, message.parallelism, message.queue_name) == ("mail", 16, None)


async def test_a_delayed_call_of_an_unordered_queue_waits_and_then_runs(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:
        ran_at: list[int] = []

        @here.app.task
        async def note() -> None:
            ran_at.append(here.app._clock.now())

        asked_at = here.app._clock.now()
        result = await note.aapply_async(countdown=0.4)

        assert result.state == "SCHEDULED"
        await result.aget(SOON_S)
        assert 400 <= ran_at[0] - asked_at < 3000


async def test_an_unordered_queue_keeps_its_parallelism_and_a_retry_holds_nobody_up(tmp_path: Path) -> None:
    async with hosted(tmp_path, queues={"narrow": Queue(parallelism=2, retry_delay="1h")}) as here:
        running: set[int] = set()
        most: list[int] = []

        @here.app.task(queue="narrow")
        async def turn(number: int) -> int:
            if number < 2:
                raise ValueError("later")
            running.add(number)
            most.append(len(running))
            await asyncio.sleep(0.05)
            running.discard(number)
            return number

        results = await turn.adelay_many(turn.call(n) for n in range(8))

        assert [await each.aget(SOON_S) for each in results[2:]] == [2, 3, 4, 5, 6, 7]
        assert max(most) == 2
        assert [each.state for each in results[:2]] == ["RETRYING", "RETRYING"]


async def test_an_ordered_queue_has_its_declared_parallelism_from_the_start_on(tmp_path: Path) -> None:
    queues = {"strict": Queue(ordered=True), "wide": Queue(3, ordered=True), "loose": Queue(5)}
    async with hosted(tmp_path, queues=queues) as here:
        found = await here.client.send(calls.queues())

    assert {each.name: each.parallelism for each in found} == {"strict": 1, "wide": 3}


async def test_the_next_start_changes_an_ordered_queue_but_leaves_it_paused(tmp_path: Path) -> None:
    async with hosted(tmp_path, queues={"strict": Queue(ordered=True)}) as here:
        await here.client.send(calls.pause_queue("strict"))
        later = QTasks(settings=here.app._settings, queues={"strict": Queue(2, ordered=True)})
        async with later.lifespan():
            found = await here.client.send(calls.queue("strict"))

    assert (found.parallelism, found.paused) == (2, True)


async def test_tasks_of_an_ordered_queue_run_in_the_order_of_their_calls(tmp_path: Path) -> None:
    async with hosted(tmp_path, queues={"strict": Queue(ordered=True)}) as here:
        ran: list[int] = []

        @here.app.task(queue="strict", retry_delay=0.01)
        async def note(number: int) -> None:
            ran.append(number)
            if ran.count(number) == 1 and number == 1:
                raise ValueError("once more")

        async with here.app.collect():
            results = [await note.adelay(n) for n in range(4)]
        for each in results:
            await each.aget(SOON_S)

        assert ran == [0, 1, 1, 2, 3]


async def test_a_delay_in_an_ordered_queue_is_refused_at_the_call(tmp_path: Path) -> None:
    async with hosted(tmp_path, queues={"strict": Queue(ordered=True)}) as here:

        @here.app.task(queue="strict")
        async def note() -> None: ...

        with pytest.raises(UnsupportedByBroker) as caught:
            note.apply_async(countdown=5)

        assert str(caught.value) == (
            "hosted QStash cannot do countdown, eta for a task in the ordered queue 'strict'; "
            "leave ordered=True away, or call it without a delay"
        )
        assert caught.value.option == "countdown, eta"
        loose = await note.aapply_async(countdown=9, queue="loose")
        assert loose.state == "SCHEDULED"


async def test_many_calls_and_blocks_reach_every_kind_of_queue(tmp_path: Path) -> None:
    async with hosted(tmp_path, queues={"strict": Queue(8, ordered=True)}) as here:

        @here.app.task
        async def double(number: int) -> int:
            return 2 * number

        ordered = double.with_options(queue="strict")
        many = await double.adelay_many(double.call(n) for n in range(120))
        async with here.app.collect():
            block = [await (ordered if n % 2 else double).adelay(n) for n in range(20)]
            assert block[0].state == "UNKNOWN"

        assert [await each.aget(SOON_S) for each in many] == [2 * n for n in range(120)]
        assert [await each.aget(SOON_S) for each in block] == [2 * n for n in range(20)]


async def test_a_failure_is_retried_and_comes_back_with_its_traceback(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:
        attempts: list[int] = []

        @here.app.task(bind=True, retries=2, retry_delay=0.01)
        async def fail(context: Context) -> None:
            attempts.append(context.attempt)
            raise ValueError(f"attempt {context.attempt}")

        result = await fail.adelay()
        with pytest.raises(TaskFailed, match="ValueError: attempt 3") as caught:
            await result.aget(SOON_S)

        assert attempts == [1, 2, 3]
        assert "in fail" in (caught.value.traceback or "")
        view = await here.app._home.aresult(result.id)
        assert (view.state, view.attempts) == ("FAILED", 3)


async def test_options_of_a_call_decide_which_attempt_was_the_last(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:

        @here.app.task(retry_delay="1h")
        async def fail() -> None:
            raise ValueError("no")

        with pytest.raises(TaskFailed, match="ValueError: no"):
            await (await fail.with_options(retries=0).adelay()).aget(SOON_S)

        waiting = await fail.adelay()
        await until(lambda: waiting.state == "RETRYING")
        with pytest.raises(ResultTimeout, match=r"is still RETRYING after 0\.05 s"):
            await waiting.aget(0.05)


async def test_a_task_id_given_twice_runs_once(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:
        ran: list[int] = []

        @here.app.task
        async def note() -> int:
            ran.append(1)
            return len(ran)

        first = await note.aapply_async(task_id="order-17")
        assert await first.aget(SOON_S) == 1
        again = await note.aapply_async(task_id="order-17")

        assert await again.aget(SOON_S) == 1
        assert ran == [1]


async def test_without_a_result_backend_every_question_says_so_at_once(tmp_path: Path) -> None:
    async with hosted(tmp_path, results=None) as here:
        ran = asyncio.Event()

        @here.app.task
        async def note() -> None:
            ran.set()

        result = await note.adelay()
        await asyncio.wait_for(ran.wait(), SOON_S)

        text = (
            "hosted QStash keeps no results, and this app does not either; "
            r"set QTASKS_RESULTS=sqlite:///results.db, or give QTasks\(results=...\)"
        )
        with pytest.raises(ResultsUnavailable, match=text):
            await result.aget()
        with pytest.raises(ResultsUnavailable, match=text):
            result.ready()
        assert here.deliveries[0]["content-type"] == "application/json"


async def test_more_retries_than_the_plan_has_are_refused_at_the_call(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:

        @here.app.task
        async def note() -> None: ...

        with pytest.raises(QuotaExceeded, match="quota maxRetries exceeded, current limit: 20"):
            await note.with_options(retries=21).adelay()


async def test_what_the_plan_does_not_allow_is_named_at_the_start(tmp_path: Path) -> None:
    settings = replace(remote_settings("https://qstash.upstash.io"), plan="free")
    app = QTasks(settings=settings, queues={"wide": Queue(3, ordered=True)})

    @app.task(name="slow", timeout="20m", retries=9)
    async def slow() -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        async with app.lifespan():
            pass

    assert str(caught.value) == (
        "hosted QStash's plan 'free' (limits as of 2026-08-21) does not allow: "
        "queue 'wide': parallelism=3, at most 2; task slow: retries=9, at most 5; "
        "task slow: timeout=1200s, at most 900s. Ask for less, or name your plan in QTASKS_QSTASH_PLAN"
    )


async def test_an_app_starts_while_hosted_qstash_cannot_be_reached(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(remote_settings("qstash+http://127.0.0.1:1"), send_budget_ms=100)
    app = QTasks(settings=settings, queues={"strict": Queue(ordered=True)})

    async with app.lifespan():
        pass

    assert "cannot set the parallelism of a queue" in caplog.text


async def rotated_keys(folder: Path, keys: tuple[str, str], env: dict[str, str]) -> object:
    """Run one task where the broker signs with other keys than those that the app takes for current."""
    recorder = Recorder()
    setup = server_setup(
        folder / "q.db",
        config=replace(STRICT, region="US-EAST-1"),
        settings=Settings(token=TOKEN, signing_keys=keys, durability="relaxed"),
    )
    async with running_server(setup) as said, served(recorder) as address:
        given = {
            "QTASKS_BROKER": f"qstash+{url_said(said)}",
            "QTASKS_PUBLIC_URL": address,
            "QTASKS_SECRET": SECRET,
            "QTASKS_RESULTS": f"sqlite:///{folder / 'results.db'}",
        }
        app = recorder.app = QTasks(settings=Settings.from_env({**given, **env}))

        @app.task(retries=0)
        async def answer() -> int:
            return 42

        async with app.lifespan():
            result = await answer.adelay()
            await until(lambda: recorder.seen)
            return await result.aget(1)


async def test_after_a_rotation_the_next_key_is_accepted(tmp_path: Path) -> None:
    env = {
        "QSTASH_TOKEN": TOKEN,
        "QSTASH_CURRENT_SIGNING_KEY": "sig_the_old_key",
        "QSTASH_NEXT_SIGNING_KEY": "sig_the_new_key",
    }

    assert await rotated_keys(tmp_path, ("sig_the_new_key", "sig_a_newer_key"), env) == 42


async def test_with_a_region_its_own_token_and_keys_are_used(tmp_path: Path) -> None:
    env = {
        "QSTASH_REGION": "US_EAST_1",
        "QSTASH_TOKEN": "the-token-of-europe",
        "QSTASH_CURRENT_SIGNING_KEY": "sig_europe_1",
        "QSTASH_NEXT_SIGNING_KEY": "sig_europe_2",
        "US_EAST_1_QSTASH_TOKEN": TOKEN,
        "US_EAST_1_QSTASH_CURRENT_SIGNING_KEY": "sig_america_1",
        "US_EAST_1_QSTASH_NEXT_SIGNING_KEY": "sig_america_2",
    }

    assert await rotated_keys(tmp_path, ("sig_america_1", "sig_america_2"), env) == 42


async def test_a_delivery_from_another_region_is_accepted_too(tmp_path: Path) -> None:
    env = {
        "QSTASH_REGION": "EU_CENTRAL_1",
        "EU_CENTRAL_1_QSTASH_TOKEN": TOKEN,
        "EU_CENTRAL_1_QSTASH_CURRENT_SIGNING_KEY": "sig_europe_1",
        "EU_CENTRAL_1_QSTASH_NEXT_SIGNING_KEY": "sig_europe_2",
        "US_EAST_1_QSTASH_CURRENT_SIGNING_KEY": "sig_america_1",
        "US_EAST_1_QSTASH_NEXT_SIGNING_KEY": "sig_america_2",
    }

    assert await rotated_keys(tmp_path, ("sig_america_1", "sig_america_2"), env) == 42


async def test_a_delivery_signed_with_an_unknown_key_runs_nothing(tmp_path: Path) -> None:
    env = {
        "QSTASH_TOKEN": TOKEN,
        "QSTASH_CURRENT_SIGNING_KEY": "sig_the_old_key",
        "QSTASH_NEXT_SIGNING_KEY": "sig_the_new_key",
    }

    with pytest.raises(ResultTimeout, match="still QUEUED"):
        await rotated_keys(tmp_path, ("sig_a_forged_key", "sig_another_key"), env)


async def test_a_task_that_waits_can_be_called_off(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:

        @here.app.task
        async def note() -> None: ...

        waiting, other = [await note.aapply_async(countdown=3600) for _ in range(2)]

        assert await waiting.acancel()
        assert not await waiting.acancel()
        assert (waiting.state, other.state) == ("CANCELLED", "SCHEDULED")


async def test_a_task_can_be_called_off_without_a_place_for_results(tmp_path: Path) -> None:
    async with hosted(tmp_path, results=None) as here:

        @here.app.task
        async def note() -> None: ...

        waiting = await note.aapply_async(countdown=3600)

        assert await waiting.acancel()
        assert not await asyncio.to_thread(waiting.cancel)


async def test_progress_and_what_is_forgotten_are_as_with_any_broker(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:
        go_on = asyncio.Event()

        @here.app.task(bind=True)
        async def import_rows(context: Context) -> int:
            context.progress(30, 100, "Importing")
            await go_on.wait()
            return 100

        result = await import_rows.adelay()
        await until(lambda: result.progress)
        seen = result.progress
        go_on.set()

        assert await result.aget(SOON_S) == 100
        assert seen is not None
        assert (seen.done, seen.total, seen.note) == (30, 100, "Importing")
        assert result.progress is None
        await result.aforget()
        assert (result.state, result.result) == ("SUCCEEDED", None)


async def test_of_many_calls_each_comes_as_it_ends(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:

        @here.app.task
        async def double(number: int) -> int:
            return 2 * number

        results = await double.adelay_many(double.call(n) for n in range(30))

        assert {await each.aget() async for each in as_completed(results)} == {2 * n for n in range(30)}


async def test_an_app_that_is_full_leaves_the_next_attempt_to_the_ladder(tmp_path: Path) -> None:
    async with hosted(tmp_path, concurrency=1) as here:
        go_on = asyncio.Event()

        @here.app.task
        async def wait() -> None:
            await go_on.wait()

        await wait.adelay()
        await until(lambda: here.deliveries)
        await wait.adelay()

        async def retries() -> list[LogEntry]:
            return list((await here.client.send(calls.log(state="RETRY"))).items)

        [entry] = await until_found(retries, bool)
        go_on.set()
        assert entry.next_delivery_time is not None
        assert 11_000 < entry.next_delivery_time - entry.time <= 13_000


async def test_a_task_whose_last_attempt_is_never_answered_has_failed_all_the_same(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:
        here.failing.append(OSError("the process is gone"))

        @here.app.task(retries=0)
        async def note() -> None: ...

        result = await note.adelay()
        with pytest.raises(TaskFailed, match="DeliveryFailed: the last of 1 attempts was answered with 500"):
            await result.aget(SOON_S)

        assert [each["upstash-retried"] for each in here.deliveries] == ["0", "0"]


async def test_what_the_task_itself_said_of_its_end_outlasts_the_brokers_word(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:

        @here.app.task
        async def reject() -> None:
            raise Reject("never")

        result = await reject.adelay()
        await until(lambda: len(here.deliveries) == 2)
        with pytest.raises(TaskFailed, match="Reject: never") as caught:
            await result.aget(SOON_S)

        assert "in reject" in (caught.value.traceback or "")


async def test_a_call_that_goes_on_in_another_message_is_one_task_to_the_end(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:
        seen: list[tuple[int, int]] = []

        @here.app.task(bind=True, retries=1)
        async def count(context: Context, number: int) -> int:
            seen.append((number, context.attempt))
            if number < 2:
                raise Retry(args=(2,))
            return number

        assert await (await count.adelay(1)).aget(SOON_S) == 2
        assert seen == [(1, 1), (2, 2)]


async def test_a_retry_after_days_is_a_message_of_its_own(tmp_path: Path) -> None:
    async with hosted(tmp_path, queues={"strict": Queue(ordered=True)}) as here:

        @here.app.task(bind=True)
        async def later(context: Context) -> None:
            context.retry(countdown="3d")

        result = await later.adelay()
        await until(lambda: result.state == "RETRYING")
        entries = (await here.client.send(calls.log(state="CREATED"))).items

        assert len(entries) == 2
        assert not result.ready()
        ordered = await later.with_options(queue="strict").adelay()
        with pytest.raises(TaskFailed, match="UnsupportedByBroker: hosted QStash cannot do countdown, eta"):
            await ordered.aget(SOON_S)


async def test_a_task_with_a_flow_waits_at_its_key_also_when_it_is_delayed(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:

        @here.app.task(flow=Flow(rate=5, period="1m", key="tenant:{tenant}"))
        async def note(tenant: str) -> None: ...

        await note.aapply_async(("acme",), countdown=3600)
        [entry] = (await here.client.send(calls.log())).items
        message = await here.client.send(calls.message(entry.message_id))

        assert (message.flow_control_key, message.rate, message.period_s) == ("tenant:acme", 5, 60)
        assert message.not_before - message.created_at >= 3_590_000


async def test_a_task_that_expires_before_it_runs_says_so(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:
        ran: list[int] = []

        @here.app.task(expires=0.001, retries=0)
        async def note() -> None:
            ran.append(1)

        here.failing.append(OSError("not yet"))
        result = await note.with_options(retries=1, retry_delay=0.05).adelay()
        with pytest.raises(TaskFailed, match="is EXPIRED"):
            await result.aget(SOON_S)

        assert ran == []
