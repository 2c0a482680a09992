"""`qtasks doctor` with a broker elsewhere: answers, keys, clock and queues, and the way to the webhook."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from qtasks import QTasks, Queue, Settings
from qtasks.client import calls
from qtasks.client.clients import AsyncClient
from qtasks.clock import SystemClock
from qtasks.protocol.headers import Options, QueueSpec
from qtasks.protocol.shapes import Outgoing
from tests.support.cli import Ran, Shell
from tests.support.homes import (
    KEYS,
    SECRET,
    TOKEN,
    running_server,
    served,
    server_setup,
    until_found,
    url_said,
)
from tests.support.wire import WireServer, response

OK, WARN, FAIL = "OK", "WARN", "FAIL"
MODULE = "shop_of_test_doctor"
OTHER_SECRET = "3141592653589793238462643383279502884197"
UNSIGNED = b'{"error": "the delivery is not signed: header Upstash-Signature is missing"}'


def found(ran: Ran, name: str) -> tuple[str, str, str]:
    """Give level, text and remedy of a check."""
    [finding] = [each for each in ran.lines if each["name"] == name]
    return finding["level"], finding["text"], finding["remedy"] or ""


def amiss(ran: Ran) -> set[str]:
    """Give the names of the checks that are not well, but for the machine's own."""
    return {each["name"] for each in ran.lines if each["level"] != OK} - {"sqlite", "open-files"}


class Door:
    """An address at which an app is put once it knows it."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Site:
    """A standalone broker and an app behind a public address, set up alike."""

    broker: str
    public_url: str
    door: Door
    shell: Shell

    @property
    def settings(self) -> Settings:
        """What the app runs with."""
        return Settings(
            broker=self.broker, token=TOKEN, signing_keys=KEYS, secrets=(SECRET,), public_url=self.public_url
        )

    def run_app(self, settings: Settings, **arguments: Any) -> QTasks:
        """Put another app behind the address."""
        tasks = QTasks(settings=settings, **arguments)
        self.door.app = tasks
        return tasks

    async def doctor(self, *arguments: str, **env: str) -> Ran:
        """Ask the doctor, in an environment that is as the app's but for `env`."""
        return await self.shell("doctor", "--jsonl", *arguments, **env)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[AsyncClient]:
        """Speak to the broker."""
        async with AsyncClient(self.broker, TOKEN) as client:
            yield client


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A sound setup."""
    door = Door()
    async with running_server(server_setup(tmp_path / "q.db")) as said, served(door) as public_url:
        env = {
            "QTASKS_BROKER": url_said(said),
            "QTASKS_TOKEN": TOKEN,
            "QTASKS_CURRENT_SIGNING_KEY": KEYS[0],
            "QTASKS_NEXT_SIGNING_KEY": KEYS[1],
            "QTASKS_SECRET": SECRET,
            "QTASKS_PUBLIC_URL": public_url,
        }
        made = Site(url_said(said), public_url, door, Shell(env))
        made.run_app(made.settings)
        yield made


def declare(monkeypatch: pytest.MonkeyPatch, tasks: QTasks) -> str:
    """Make an app one that can be imported; give its name."""
    module = type(sys)(MODULE)
    vars(module).update(tasks=tasks)
    monkeypatch.setitem(sys.modules, MODULE, module)
    return f"{MODULE}:tasks"


async def test_a_sound_setup_is_well(site: Site) -> None:
    ran = await site.doctor()

    assert (ran.code, amiss(ran)) == (0, set())
    assert {"answer", "clock", "broker-keys", "webhook", "signature"} <= {each["name"] for each in ran.lines}
    assert not any(each in ran.out for each in (TOKEN, *KEYS, SECRET))


BROKEN_HERE = {
    "a wrong token": ({"QTASKS_TOKEN": "no"}, "answer", FAIL, "set QTASKS_TOKEN to a token of this broker"),
    "keys of another broker": (
        {"QTASKS_CURRENT_SIGNING_KEY": "sig_a", "QTASKS_NEXT_SIGNING_KEY": "sig_b"},
        "broker-keys",
        FAIL,
        "to what `qtasks keys show` prints, and restart the app",
    ),
    "keys that differ from the app's": (
        {"QTASKS_CURRENT_SIGNING_KEY": "sig_a", "QTASKS_NEXT_SIGNING_KEY": "sig_b"},
        "signature",
        FAIL,
        "give both the keys that `qtasks keys show` prints, and restart the app",
    ),
    "keys from before the last roll": (
        {"QTASKS_CURRENT_SIGNING_KEY": "sig_old", "QTASKS_NEXT_SIGNING_KEY": KEYS[0]},
        "broker-keys",
        WARN,
        "to what `qtasks keys show` prints, and restart the app",
    ),
    "a secret that differs from the app's": (
        {"QTASKS_SECRET": OTHER_SECRET},
        "signature",
        FAIL,
        "give all processes the same list of secrets",
    ),
}


@pytest.mark.parametrize("case", BROKEN_HERE)
async def test_what_is_wrong_in_this_environment_is_named(case: str, site: Site) -> None:
    env, name, level, remedy = BROKEN_HERE[case]

    ran = await site.doctor(**env)

    was, told, mend = found(ran, name)
    assert was == level, told
    assert remedy in mend
    assert not any(each in ran.out for each in (SECRET, OTHER_SECRET, *KEYS, "sig_"))


BROKEN_APPS: dict[str, tuple[Callable[[Settings], Settings], str, str]] = {
    "without keys": (lambda sound: replace(sound, signing_keys=()), "webhook", "where the app runs, and"),
    "with another public URL": (
        lambda sound: replace(sound, public_url="https://other.example.com/qtasks"),
        "signature",
        "set the same one for the app, and restart it",
    ),
}


@pytest.mark.parametrize("case", BROKEN_APPS)
async def test_what_is_wrong_with_the_running_app_is_named(case: str, site: Site) -> None:
    spoil, name, remedy = BROKEN_APPS[case]
    site.run_app(spoil(site.settings))

    ran = await site.doctor()

    assert found(ran, name)[0] == FAIL
    assert remedy in found(ran, name)[2]
    assert ran.code == 1


PROXIES = {
    "drops what begins with ours": (
        response(403, b'{"error": {"message": "header Qtasks-Signature is missing"}}'),
        "signature",
        "let it pass all headers on",
    ),
    "fails at what is signed": (response(500, b"oops"), "signature", "see the app's log"),
    "adds a slash": (response(308, b"", "Location: /qtasks/run/"), "webhook", "let the proxy add no slash"),
    "wants https": (
        response(301, b"", "Location: https://app.example.com/qtasks/run"),
        "webhook",
        "set QTASKS_PUBLIC_URL to the https:// address",
    ),
    "leads elsewhere": (
        response(302, b"", "Location: http://127.0.0.1/welcome"),
        "webhook",
        "set QTASKS_PUBLIC_URL to where that leads, without /run",
    ),
    "takes the path away": (response(404, b"no such page"), "webhook", "where the app mounts its tasks"),
    "asks for a login": (response(401, b"log in, please"), "webhook", "pass without a login"),
    "finds no app": (response(502, b"Bad Gateway"), "webhook", "see that the app runs"),
    "drops the signature": (response(401, UNSIGNED), "signature", "let it pass all headers on"),
    "is late by its clock": (
        response(403, b'{"error": "the signature has expired"}'),
        "signature",
        "have both set by NTP",
    ),
}


@pytest.mark.parametrize("case", PROXIES)
async def test_what_is_wrong_before_the_app_is_named(case: str, site: Site, hook: WireServer) -> None:
    answer, name, remedy = PROXIES[case]
    hook.answers.extend([response(401, UNSIGNED) if name == "signature" else answer, answer])

    ran = await site.doctor(QTASKS_PUBLIC_URL=f"{hook.url}/qtasks")

    assert found(ran, name)[0] == FAIL
    assert remedy in found(ran, name)[2]
    assert [(each.method, each.target) for each in hook.requests] == [("POST", "/qtasks/run")] * 2


@pytest.mark.parametrize(("off_s", "level"), [(0, OK), (30, WARN), (-30, WARN), (400, FAIL)])
async def test_a_clock_that_is_off_is_named(off_s: int, level: str, hook: WireServer) -> None:
    there = SystemClock().now() / 1000 - off_s
    date = _date_of(there)
    hook.answers.extend(
        [
            response(404, b"", f"Date: {date}"),
            response(200, b"[]"),
            response(404, b'{"error": "no such operation"}'),
            response(404, b'{"error": "no such operation"}'),
            response(200, b'{"messages": []}'),
        ]
    )
    ran = await Shell({"QTASKS_BROKER": f"qstash+{hook.url}", "QTASKS_TOKEN": "t"})("doctor", "--jsonl")

    was, told, mend = found(ran, "clock")
    assert was == level, told
    assert ("timedatectl set-ntp true" in mend) is (level != OK)
    assert ("ahead of" in told) is (off_s > 0)
    assert found(ran, "answer")[0] == OK


def _date_of(seconds: float) -> str:
    epoch = parsedate_to_datetime("Thu, 01 Jan 1970 00:00:00 GMT")
    return format_datetime(epoch.fromtimestamp(seconds, epoch.tzinfo), usegmt=True)


async def test_a_broker_that_stops_is_named(hook: WireServer) -> None:
    hook.answers.extend([response(200), response(503, b'{"error": "the broker is shutting down"}')])
    ran = await Shell({"QTASKS_BROKER": hook.url, "QTASKS_TOKEN": "t"})("doctor", "--jsonl")

    level, told, mend = found(ran, "answer")
    assert (level, mend) == (FAIL, "see its log, and its /readyz")
    assert "shutting down" in told


def message(url: str, queue: str, *, ordered: bool = True, retries: int = 3) -> Outgoing:
    """A message that goes into a queue."""
    return Outgoing(url, b"", queue=queue, options=Options(queue=QueueSpec(1, ordered), retries=retries))


async def test_an_ordered_queue_that_waits_for_a_retry_is_named(site: Site, hook: WireServer) -> None:
    hook.answers.extend([response(500)] * 5)
    async with site.client() as client:
        first = await client.send(calls.enqueue(message(hook.url, "orders")))
        await client.send(calls.enqueue(message(hook.url, "orders")))
        await hook.reached(1)
        ran = await until_found(site.doctor, lambda ran: "blocked-queues" in amiss(ran))

    message_id = first.message_id
    level, told, mend = found(ran, "blocked-queues")
    assert level == WARN
    assert f"orders (1 message behind {message_id})" in told
    assert mend == (
        f"see why it fails: qtasks messages show {message_id}; "
        f"or give it up: qtasks messages cancel {message_id}"
    )


async def test_what_waits_in_a_paused_queue_and_what_is_dead_are_named(site: Site, hook: WireServer) -> None:
    hook.answers.append(response(489, b"", "Upstash-NonRetryable-Error: true"))
    async with site.client() as client:
        await client.send(calls.enqueue(message(hook.url, "mail", retries=0)))
        await hook.reached(1)
        await client.send(calls.pause_queue("mail"))
        await client.send(calls.enqueue(message(hook.url, "mail")))
        ran = await until_found(site.doctor, lambda ran: "dead-letters" in amiss(ran))

    assert found(ran, "paused-queues") == (
        WARN,
        "paused, while 1 message in them: mail",
        "go on with: qtasks queues resume mail",
    )
    assert found(ran, "dead-letters")[:2] == (WARN, "1 dead letter")
    assert "qtasks dlq ls --group" in found(ran, "dead-letters")[2]
    assert ran.code == 0


async def test_queues_that_are_not_as_declared_are_named(
    site: Site, hook: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.client() as client:
        await client.send(calls.set_queue("orders", parallelism=3))
        wide = {"orders": Queue(parallelism=8, ordered=True), "unused": Queue()}
        name = declare(monkeypatch, site.run_app(site.settings, queues=wide))
        other_size = await site.doctor("--app", name)
        free = {"orders": Queue(parallelism=3)}
        name = declare(monkeypatch, site.run_app(site.settings, queues=free))
        other_order = await site.doctor("--app", name)

    assert found(other_size, "queues")[:2] == (
        WARN,
        "not as declared: orders runs 3 at once instead of 8",
    )
    assert "restart the app" in found(other_size, "queues")[2]
    assert found(other_order, "queues")[0] == FAIL
    assert "qtasks queues rm orders --yes" in found(other_order, "queues")[2]
