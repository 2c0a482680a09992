"""What an app with hosted QStash is told and checks: keys, regions, plans, queues at its start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qtasks import ConfigurationError, QTasks, Queue, ResultTimeout, Settings
from qtasks.client import calls
from qtasks.errors import QuotaExceeded
from tests.support.homes import (
    SECRET,
    TOKEN,
    remote_settings,
    running_server,
    served,
    server_setup,
    until,
    url_said,
)
from tests.support.hosted import STRICT, Recorder, hosted


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
