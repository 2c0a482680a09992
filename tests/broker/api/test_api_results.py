"""Our own operations on tasks: which of many have finished, forgetting, progress, calling off."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from qtasks.broker.store.records import Reply
from qtasks.protocol.results import MOST_IDS, NOTE_LENGTH
from tests.support.broker import SOON_S, Held, Rig
from tests.support.homes import until


async def result(client: httpx.AsyncClient, task_id: str = "tsk_1") -> dict[str, Any]:
    """Ask for what is known of a task."""
    found: dict[str, Any] = (await client.get(f"/qtasks/v1/results/{task_id}")).json()
    return found


async def settled(client: httpx.AsyncClient, *ids: str, wait: str = "0") -> list[str]:
    """Ask which tasks have settled."""
    answer = await client.post(f"/qtasks/v1/results/query?wait={wait}", json={"ids": ids})
    found: list[str] = answer.json()["settled"]
    return found


async def report(client: httpx.AsyncClient, task_id: str = "tsk_1", **members: Any) -> httpx.Response:
    """Tell how far a task has come."""
    return await client.post(f"/qtasks/v1/results/{task_id}/progress", json=members)


# --- which have finished --------------------------------------------------------------------------


async def test_those_that_have_settled_are_told(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.call("tsk_1")
    await rig.turn()
    rig.call("tsk_2")

    assert await settled(client, "tsk_2", "tsk_1", "tsk_none") == ["tsk_1", "tsk_none"]


async def test_a_question_about_many_waits_for_the_first_end(client: httpx.AsyncClient, rig: Rig) -> None:
    for n in range(3):
        rig.call(f"tsk_{n}", start_at=None if n == 1 else rig.clock.now() + 60_000)
    asking = asyncio.create_task(settled(client, "tsk_0", "tsk_1", "tsk_2", wait="60s"))
    await until(lambda: rig.broker.waiters._waiting)

    await rig.turn()

    async with asyncio.timeout(SOON_S):
        assert await asking == ["tsk_1"]
    assert rig.broker.waiters._waiting == {}


async def test_a_question_about_nothing_is_answered_at_once(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(SOON_S):
        assert await settled(client, wait="60s") == []


async def test_as_many_are_asked_about_as_is_said(client: httpx.AsyncClient) -> None:
    ids = [f"tsk_{n}" for n in range(MOST_IDS + 1)]
    assert await settled(client, *ids[1:]) == ids[1:]

    answer = await client.post("/qtasks/v1/results/query", json={"ids": ids})

    assert answer.status_code == 400
    assert answer.json()["error"] == "ids has 1001 task ids, of which one question takes 1000 at most"


@pytest.mark.parametrize("body", [{}, {"ids": "tsk_1"}, {"ids": [1]}, {"ids": None}])
async def test_a_question_without_ids_is_refused(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    answer = await client.post("/qtasks/v1/results/query", json=body)

    assert (answer.status_code, answer.json()["error"]) == (400, "ids must be a list of task ids")


async def test_a_token_that_may_only_read_may_ask_about_many(client: httpx.AsyncClient) -> None:
    made = await client.post("/qtasks/v1/tokens", json={"name": "dashboard", "scope": "read-only"})
    reader = {"Authorization": f"Bearer {made.json()['token']}"}

    answer = await client.post("/qtasks/v1/results/query", json={"ids": ["tsk_1"]}, headers=reader)
    refused = await client.delete("/qtasks/v1/results/tsk_1", headers=reader)

    assert (answer.status_code, refused.status_code) == (200, 403)


# --- forgetting -----------------------------------------------------------------------------------


async def test_a_forgotten_result_is_gone_and_its_state_is_not(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.deliverer.will(Reply(200, body=b"42"))
    rig.call("tsk_1")
    await rig.turn()

    first = await client.delete("/qtasks/v1/results/tsk_1")
    second = await client.delete("/qtasks/v1/results/tsk_1")

    assert (first.json(), second.json()) == ({"forgotten": 1}, {"forgotten": 0})
    found = await result(client)
    assert (found["state"], found["attempts"], "result" in found) == ("SUCCEEDED", 1, False)


# --- progress -------------------------------------------------------------------------------------


async def test_progress_is_shown_as_it_was_told(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.call("tsk_1")

    answer = await report(client, done=3, total=10.5, note="Importing")

    assert (answer.status_code, answer.content) == (200, b"")
    told = {"done": 3, "total": 10.5, "note": "Importing", "reportedAt": rig.clock.now()}
    assert (await result(client))["progress"] == told


async def test_a_long_note_is_cut_off(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.call("tsk_1")

    await report(client, done=0, total=None, note="ä" * 1000)

    shown = (await result(client))["progress"]
    assert shown == {"done": 0, "note": "ä" * NOTE_LENGTH, "reportedAt": rig.clock.now()}


async def test_a_task_that_is_not_under_way_takes_no_progress(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.call("tsk_1")
    await rig.turn()

    for task_id in ("tsk_1", "tsk_none"):
        answer = await report(client, task_id, done=1)
        assert (answer.status_code, answer.json()["error"]) == (404, f"task {task_id} is not under way")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{}", "done must be a number, not None"),
        (b'{"done": true}', "done must be a number, not True"),
        (b'{"done": 1, "total": "9"}', "total must be a number, not '9'"),
        (b'{"done": 1, "note": 9}', "note must be a text, not 9"),
    ],
)
async def test_progress_that_is_none_is_refused(
    client: httpx.AsyncClient, rig: Rig, body: bytes, text: str
) -> None:
    rig.call("tsk_1")

    answer = await client.post("/qtasks/v1/results/tsk_1/progress", content=body)

    assert (answer.status_code, answer.json()["error"]) == (400, text)


# --- calling off ----------------------------------------------------------------------------------


async def test_a_task_that_waits_is_called_off_by_its_id(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.call("tsk_1")

    with rig.broker.waiters.expect(["tsk_1"]) as ended:
        first = await client.post("/qtasks/v1/tasks/tsk_1/cancel")
        second = await client.post("/qtasks/v1/tasks/tsk_1/cancel")

        assert ended.done()
    assert (first.json(), second.json()) == ({"cancelled": 1}, {"cancelled": 0})
    assert (await result(client))["state"] == "CANCELLED"


async def test_a_task_that_runs_is_called_off_at_the_end_of_its_attempt(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    rig.call("tsk_1")
    rig.deliverer.will(held := Held(Reply(500, error="unexpected status 500")))
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)

    answer = await client.post("/qtasks/v1/tasks/tsk_1/cancel")

    assert answer.json() == {"cancelled": 1}
    held.release()
    await rig.node.dispatcher.idle()
    assert (await result(client))["state"] == "CANCELLED"


async def test_a_task_that_has_finished_is_not_called_off(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.call("tsk_1")
    await rig.turn()

    for task_id in ("tsk_1", "tsk_none"):
        assert (await client.post(f"/qtasks/v1/tasks/{task_id}/cancel")).json() == {"cancelled": 0}
    assert (await result(client))["state"] == "SUCCEEDED"
