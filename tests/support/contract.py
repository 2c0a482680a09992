"""The broker's API called in process, above a broker whose clock and destinations a test commands.

`Bench` is for all that needs no socket; `Standalone` is a broker and a destination on loopback.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import orjson

from qtasks.broker.api import ROUTES, Api
from qtasks.broker.store.records import Claim, Reply
from tests.support.broker import HOOK, Rig
from tests.support.homes import TOKEN, running_server, server_setup, url_said
from tests.support.wire import WireServer

CALLER = "203.0.113.9"
CALLBACK = "https://app.example/callback"
FAILURE_CALLBACK = "https://app.example/failed"
ENDPOINTS = ("https://a.example", "https://b.example")
TEXT = (("Content-Type", "text/plain"),)
BROKEN = Reply(500, TEXT, b"oops", "unexpected status 500")
MISSING = Reply(404, TEXT, b"404 Not Found", "unexpected status 404")
LIMITS = {"Upstash-Flow-Control-Key": "tenant", "Upstash-Flow-Control-Value": "rate=2, period=1m"}
MANY_TURNS = 200

Headers = Mapping[str, str]


class Bench:
    """A rig, its API with a client of it, and what most tests do with these."""

    def __init__(self, rig: Rig, api: Api, http: httpx.AsyncClient) -> None:
        self.rig = rig
        self.api = api
        self.http = http

    async def ask(self, method: str, path: str, *, status: int = 200, **request: Any) -> Any:
        """Make a request, insist on the status of its answer, and give what it holds; None for nothing."""
        answer = await self.http.request(method, path, **request)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        return orjson.loads(answer.content) if answer.content else None

    async def get(self, path: str) -> Any:
        """Read something that is there."""
        return await self.ask("GET", path)

    async def refusal(self, method: str, path: str, status: int, **request: Any) -> str:
        """Make a request that is refused with this status; give the text of the error and nothing else."""
        answer = await self.ask(method, path, status=status, **request)
        assert list(answer) == ["error"], f"{method} {path}: {answer}"
        return str(answer["error"])

    async def publish(
        self, destination: str = HOOK, body: bytes | str = b"", headers: Headers | None = None
    ) -> str:
        """Publish one message to a URL; give its id."""
        answer = await self.ask("POST", f"/v2/publish/{destination}", content=body, headers=headers)
        return str(answer["messageId"])

    async def enqueue(
        self,
        queue: str = "mail",
        body: bytes | str = b"",
        headers: Headers | None = None,
        destination: str = HOOK,
    ) -> str:
        """Put one message to a URL into a queue; give its id."""
        path = f"/v2/enqueue/{queue}/{destination}"
        answer = await self.ask("POST", path, content=body, headers=headers)
        return str(answer["messageId"])

    async def batch(self, *items: Mapping[str, object]) -> Any:
        """Send a batch; give the list that comes back."""
        return await self.ask("POST", "/v2/batch", json=items)

    async def schedule(
        self,
        destination: str = HOOK,
        body: bytes | str = b"",
        headers: Headers | None = None,
        *,
        cron: str = "* * * * *",
    ) -> str:
        """Make a schedule, for every minute unless told otherwise; give its id."""
        known = {"Upstash-Cron": cron, **(headers or {})}
        answer = await self.ask("POST", f"/v2/schedules/{destination}", content=body, headers=known)
        assert list(answer) == ["scheduleId"]
        return str(answer["scheduleId"])

    async def group(
        self, name: str = "orders", endpoints: Iterable[str | dict[str, str]] = ENDPOINTS
    ) -> None:
        """Add endpoints to a URL group, which is made if it is missing."""
        members = [{"url": each} if isinstance(each, str) else each for each in endpoints]
        path = f"/v2/topics/{name}/endpoints"
        assert await self.ask("POST", path, json={"endpoints": members}) is None

    async def tick(self) -> int:
        """Move on to the beginning of the next minute and let schedules fire; say how many messages."""
        self.rig.clock.advance(60_000 - self.rig.clock.now() % 60_000)
        return int(await self.rig.node.scheduler.step())

    async def run(self) -> list[Claim]:
        """Deliver until nothing is due any more; give the attempts that this took."""
        before = len(self.rig.deliverer.attempts)
        await self.rig.node.dispatcher.idle()  # what a test has let go is settled first
        for _ in range(MANY_TURNS):
            if not await self.rig.turn():
                return self.rig.deliverer.attempts[before:]
        raise AssertionError("there is always something due")

    async def run_to_the_end(self) -> None:
        """Deliver what is due, and what falls due in the next thirty days of retries."""
        for _ in range(30):
            await self.run()
            self.rig.clock.advance(hours=24.001)

    async def die(self, headers: Headers | None = None, body: bytes = b"hello", reply: Reply = BROKEN) -> str:
        """Publish a message whose only attempt fails; give its id."""
        self.rig.deliverer.will(reply)
        message_id = await self.publish(body=body, headers={"Upstash-Retries": "0", **(headers or {})})
        await self.run()
        return message_id

    async def letters(self, query: str = "") -> list[dict[str, Any]]:
        """List the dead letters on the first page."""
        return list((await self.get(f"/v2/dlq{query}"))["messages"])

    async def entries(self, message_id: str) -> list[dict[str, Any]]:
        """Give the log of a message, oldest first."""
        return list((await self.get(f"/v2/events?messageId={message_id}"))["events"])[::-1]

    async def states(self, message_id: str) -> str:
        """Give the states that a message went through, in order."""
        return " ".join(each["state"] for each in await self.entries(message_id))

    async def message(self, message_id: str) -> dict[str, Any]:
        """Read a message."""
        return dict(await self.get(f"/v2/messages/{message_id}"))

    async def messages_to(self, url: str) -> list[dict[str, Any]]:
        """Read the messages to a URL, oldest first, callbacks among them."""
        page = await self.get(f"/v2/events?state=CREATED&url={url}")
        return [await self.message(each["messageId"]) for each in page["events"]][::-1]

    async def flow(self, key: str) -> dict[str, Any]:
        """Read a flow-control key."""
        return dict(await self.get(f"/v2/flowControl/{key}"))

    def seen(self, url: str) -> list[Claim]:
        """The attempts that a URL has seen, in order."""
        return [each for each in self.rig.deliverer.attempts if each.url == url]


class MakeBench(Protocol):
    """Makes a bench with other limits than the default: members of `BrokerConfig`; one for each test."""

    async def __call__(self, **config: Any) -> Bench: ...


@asynccontextmanager
async def bench_of(rig: Rig, token: str | None = TOKEN) -> AsyncIterator[Bench]:
    """Give a bench upon a rig; its client bears the token, if there is one."""
    api = Api(rig.broker, ROUTES, [TOKEN])
    transport = httpx.ASGITransport(api, client=(CALLER, 50000))
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://broker", headers=headers) as http:
        yield Bench(rig, api, http)


@dataclass(frozen=True, slots=True)
class Standalone:
    """A broker that listens on loopback, and a destination beside it."""

    http: httpx.AsyncClient
    receiver: WireServer

    async def publish(self, destination: str, body: bytes = b"", headers: Headers | None = None) -> str:
        """Publish one message; give its id."""
        answer = await self.http.post(f"/v2/publish/{destination}", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["messageId"])


@asynccontextmanager
async def standalone_at(store: Path, token: str = TOKEN, **changes: Any) -> AsyncIterator[Standalone]:
    """Run a broker on this file, in this process; `changes` are members of its `ServerSetup`."""
    async with WireServer() as receiver, running_server(server_setup(store, **changes)) as said:
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=url_said(said), headers=headers, timeout=10) as http:
            yield Standalone(http, receiver)


def unpacked(text: str) -> bytes:
    """Read base64 as the API writes it: the standard alphabet, padded."""
    return base64.b64decode(text, validate=True)


def told(claim: Claim) -> dict[str, Any]:
    """Read what a callback tells."""
    return dict(orjson.loads(claim.body))


def claims_of(token: str) -> dict[str, Any]:
    """Read the claims of a JWT, without checking them."""
    payload = token.split(".")[1]
    return dict(orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))


def uncited(names: Iterable[str], pattern: str, count: int, excused: Mapping[int, str]) -> Sequence[int]:
    """Say which of the rows 1 to `count` neither a test is named after nor an excuse is given for.

    `pattern` finds the number of the row in the name of a test.
    """
    cited = {int(found[1]) for found in (re.match(pattern, name) for name in names) if found}
    both = cited & set(excused)
    assert not both, f"tested, and yet excused: {sorted(both)}"
    return sorted(set(range(1, count + 1)) - cited - set(excused))
