"""Who may do what, how often, with how much at once: tokens, scopes, keys, bursts, uploads, strictness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from qtasks.broker.api import ROUTES, Api
from qtasks.broker.api.limits import FREE_BYTES, Burst, Uploads
from qtasks.broker.config import BrokerConfig, strict_config
from qtasks.broker.keys import KeyRing
from qtasks.broker.store.records import Reply
from qtasks.clock import ManualClock
from qtasks.errors import BadRequest, BrokerUnavailable, StoreUnusable, TooManyRequests
from qtasks.home.keys import key_ring, load_or_make_keys
from qtasks.ids import Ids
from tests.broker.api.conftest import TOKEN, client_of
from tests.broker.conftest import MakeRig
from tests.support.broker import HOOK, Rig

INVALID = {"error": "unable to authenticate: invalid token"}


async def make(client: httpx.AsyncClient, name: str, scope: str) -> str:
    answer = await client.post("/qtasks/v1/tokens", json={"name": name, "scope": scope})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["token"])


# --- named tokens ---------------------------------------------------------------------------------


async def test_a_token_is_shown_once_and_kept_as_a_digest(rig: Rig, client: httpx.AsyncClient) -> None:
    token = await make(client, "dashboard", "read-only")

    listed = (await client.get("/qtasks/v1/tokens")).json()

    assert listed == [{"name": "dashboard", "scope": "read-only", "createdAt": rig.clock.now()}]
    [row] = rig.database._writer.execute("SELECT * FROM tokens")
    assert token not in str(row)
    assert token.encode() not in row


@pytest.mark.parametrize("way", ["header", "query"])
async def test_a_full_token_may_do_everything(rig: Rig, client: httpx.AsyncClient, way: str) -> None:
    token = await make(client, "deploy", "full")

    sent: dict[str, Any] = {"headers": {"Authorization": f"Bearer {token}"}}
    if way == "query":
        sent = {"params": {"qstash_token": token}, "headers": {"X-Nothing": ""}}
        del client.headers["Authorization"]
    answers = [
        await client.post(f"/v2/publish/{HOOK}", **sent),
        await client.get("/v2/keys", **sent),
        await client.delete("/v2/messages", **sent),
    ]

    assert [each.status_code for each in answers] == [200, 200, 200]


READABLE = sorted({r.path for r in ROUTES if r.method == "GET" and not (r.needs_full or r.is_open)})
CHANGING = sorted({(r.method, r.path) for r in ROUTES if r.needs_full})


@pytest.mark.parametrize("path", READABLE)
async def test_a_read_only_token_reads(rig: Rig, client: httpx.AsyncClient, path: str) -> None:
    token = await make(client, "dashboard", "read-only")

    answer = await client.get(_example(path), headers={"Authorization": f"Bearer {token}"})

    assert answer.status_code in (200, 404)


@pytest.mark.parametrize(("method", "path"), CHANGING)
async def test_a_read_only_token_changes_nothing_and_sees_no_keys(
    rig: Rig, client: httpx.AsyncClient, method: str, path: str
) -> None:
    token = await make(client, "dashboard", "read-only")

    answer = await client.request(method, _example(path), headers={"Authorization": f"Bearer {token}"})

    assert answer.status_code == 403
    assert answer.json() == {"error": "unable to authorize: 'dashboard' is a read-only token"}
    assert rig.store.log() == []


def _example(path: str) -> str:
    known = {"{destination...}": HOOK, "{key...}": "tenant/pause"}
    for name, value in known.items():
        path = path.replace(name, value)
    return "/".join("x1-1" if each.startswith("{") else each for each in path.split("/"))


async def test_a_revoked_token_opens_nothing_at_once(client: httpx.AsyncClient) -> None:
    token = await make(client, "old", "full")
    bearer = {"Authorization": f"Bearer {token}"}
    before = await client.get("/v2/queues", headers=bearer)

    revoked = await client.delete("/qtasks/v1/tokens/old")
    after = await client.get("/v2/queues", headers=bearer)

    assert (before.status_code, revoked.status_code) == (200, 200)
    assert (after.status_code, after.json()) == (401, INVALID)
    assert (await client.delete("/qtasks/v1/tokens/old")).status_code == 404


async def test_a_token_outlives_the_api_that_made_it(rig: Rig, client: httpx.AsyncClient) -> None:
    token = await make(client, "deploy", "full")

    async with client_of(rig, Authorization=f"Bearer {token}") as another:
        assert (await another.get("/v2/queues")).status_code == 200


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"name": "a b"}, "the name of a token must be 1 to 64 letters"),
        ({}, "the name of a token must be 1 to 64 letters"),
        ({"name": "a", "scope": "root"}, "scope must be one of full, read-only, not 'root'"),
        ({"name": 1}, "name must be a string, not int"),
        ([], "the body must be a JSON object such as"),
    ],
)
async def test_a_token_that_cannot_be_is_refused(client: httpx.AsyncClient, body: Any, text: str) -> None:
    answer = await client.post("/qtasks/v1/tokens", json=body)

    assert (answer.status_code, answer.json()["error"][: len(text)]) == (400, text)


async def test_a_second_token_of_a_name_is_refused(client: httpx.AsyncClient) -> None:
    await make(client, "deploy", "full")

    answer = await client.post("/qtasks/v1/tokens", json={"name": "deploy"})

    assert (answer.status_code, answer.json()["error"][:30]) == (400, "there is a token named deploy ")


# --- signing keys ---------------------------------------------------------------------------------


async def test_a_rotation_makes_the_next_key_the_current_one(client: httpx.AsyncClient) -> None:
    before = (await client.get("/v2/keys")).json()

    rotated = (await client.post("/v2/keys/rotate")).json()

    assert rotated == (await client.get("/v2/keys")).json()
    assert rotated["current"] == before["next"]
    assert rotated["next"] not in before.values()
    assert rotated["next"].startswith("sig_")


async def test_getting_never_rotates(client: httpx.AsyncClient) -> None:
    before = (await client.get("/v2/keys")).json()

    answer = await client.get("/v2/keys/rotate")

    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert (await client.get("/v2/keys")).json() == before


def test_a_rotation_is_in_the_file_before_it_takes_effect(tmp_path: Path) -> None:
    path, ids = tmp_path / "q.db.keys", Ids.seeded(1)
    keys = load_or_make_keys(path, ids)

    clock = ManualClock()
    pair = key_ring(keys, path, ids, clock).rotate(ids, clock.now())

    stored = load_or_make_keys(path, ids)
    assert (stored.current, stored.next) == pair
    assert (stored.current, stored.token, stored.secret) == (keys.next, keys.token, keys.secret)
    assert (keys.rotated_at, stored.rotated_at) == (None, clock.now())
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["q.db.keys"]


def test_a_rotation_that_cannot_be_saved_changes_nothing(tmp_path: Path) -> None:
    def save(current: str, following: str) -> None:
        raise StoreUnusable("no room")

    ring = KeyRing("sig_a", "sig_b", save)
    with pytest.raises(StoreUnusable):
        ring.rotate(Ids.seeded(1), 0)

    assert ring.pair == ("sig_a", "sig_b")


def test_keys_of_the_environment_are_rotated_there() -> None:
    with pytest.raises(BadRequest, match="the signing keys are set by QTASKS_CURRENT_SIGNING_KEY"):
        KeyRing("sig_a", "sig_b").rotate(Ids.seeded(1), 0)


# --- bursts ---------------------------------------------------------------------------------------


async def test_more_requests_a_second_than_allowed_are_told_to_wait(make_rig: MakeRig) -> None:
    rig = make_rig(burst_limit=3)
    async with client_of(rig) as client:
        answers = [await client.get("/v2/queues") for _ in range(4)]
        published = await client.post(f"/v2/publish/{HOOK}")
        rig.clock.advance(seconds=1)
        later = await client.get("/v2/queues")

    assert [each.status_code for each in answers] == [200, 200, 200, 429]
    refused = answers[-1]
    assert refused.json() == {"error": "rate limit exceeded: 3 requests a second; publishing is not limited"}
    assert {k: v for k, v in refused.headers.items() if "ratelimit" in k} == {
        "burst-ratelimit-limit": "3",
        "burst-ratelimit-remaining": "0",
        "burst-ratelimit-reset": str(rig.clock.now() // 1000),
    }
    assert (published.status_code, later.status_code) == (200, 200)


def test_each_token_has_a_burst_of_its_own() -> None:
    burst = Burst(1)
    burst.count("a", 1000)
    burst.count("b", 1000)

    with pytest.raises(TooManyRequests):
        burst.count("a", 1999)
    burst.count("a", 2000)


# --- uploads --------------------------------------------------------------------------------------


def test_small_bodies_need_no_room() -> None:
    uploads = Uploads(0)

    with uploads.room() as room:
        assert room.take(FREE_BYTES) == FREE_BYTES


def test_bodies_share_the_room_and_give_it_back() -> None:
    uploads = Uploads(1000)

    with uploads.room() as first, uploads.room() as second:
        first.take(FREE_BYTES + 600)
        second.take(FREE_BYTES)
        with pytest.raises(BrokerUnavailable, match="too many large requests are being received at once"):
            second.take(401)
    with uploads.room() as third:
        third.take(FREE_BYTES + 1000)


async def test_a_request_without_room_is_told_to_come_back(rig: Rig) -> None:
    api = Api(rig.broker, ROUTES, [TOKEN])
    api._uploads = Uploads(1000)
    transport = httpx.ASGITransport(api)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://broker", headers=bearer) as client:
        refused = await client.post(f"/v2/publish/{HOOK}", content=b"x" * (FREE_BYTES + 2000))
        accepted = await client.post(f"/v2/publish/{HOOK}", content=b"x" * (FREE_BYTES + 1000))

    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert accepted.status_code == 200
    assert len(rig.store.log()) == 1


# --- strictness -----------------------------------------------------------------------------------


def test_a_strict_broker_has_the_limits_of_the_hosted_service() -> None:
    strict = strict_config(BrokerConfig(max_retries=5))

    assert strict.strict
    assert (strict.max_retries, strict.max_queues, strict.max_schedules) == (5, 100, 1000)
    assert (strict.max_parallelism, strict.max_url_groups) == (100, 100)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"/v2/publish/{HOOK}", 405),
        ("PUT", f"/v2/publish/{HOOK}", 405),
        ("GET", "/qtasks/v1/tokens", 404),
        ("GET", "/qtasks/v1/results/tsk_1", 404),
        ("POST", f"/v2/publish/{HOOK}", 200),
    ],
)
async def test_a_strict_broker_has_no_routes_of_our_own(
    make_rig: MakeRig, method: str, path: str, status: int
) -> None:
    async with client_of(make_rig(strict=True)) as client:
        assert (await client.request(method, path)).status_code == status


async def test_a_strict_broker_does_not_know_our_headers(make_rig: MakeRig) -> None:
    rig = make_rig(strict=True)
    ours = {"Qtasks-Queue": "parallelism=9; ordered=false", "Qtasks-Task-Id": "tsk_1", "Qtasks-Expires": "x"}
    async with client_of(rig) as client:
        answer = await client.post(f"/v2/enqueue/mail/{HOOK}", headers=ours | {"Upstash-Forward-A": "b"})
        batch = [{"destination": HOOK, "queue": "mail", "headers": ours}]
        batched = await client.post("/v2/batch", json=batch)

    assert (answer.status_code, batched.status_code) == (200, 200)
    view = rig.broker.queue("mail")
    assert (view.parallelism, view.ordered) == (1, True)


async def test_a_strict_broker_adds_no_jitter_and_counts_every_failure(make_rig: MakeRig) -> None:
    rig = make_rig(strict=True)
    running = Reply(409, (("Qtasks-Uncounted", "running"),))
    rig.deliverer.will(running)
    message_id = rig.call("tsk_1", retries=1)
    await rig.turn()

    [retry] = [each for each in rig.log(message_id) if each.state.value == "RETRY"]
    assert retry.next_delivery_time == rig.clock.now() + 12_000
    assert "ERROR" in rig.states(message_id)
