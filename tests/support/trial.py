"""A broker and an oracle that go through the same: each call is made of both, and their answers are compared.

Which calls to make, and in what order, is for whoever holds the trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson

from qtasks.broker.store.records import Claim, Reply
from tests.support.mortal import MortalBroker
from tests.support.oracle import Oracle
from tests.support.oracle_values import (
    CALLBACK,
    FAILURE_CALLBACK,
    Letter,
    Message,
    Outcome,
    Schedule,
    Settings,
    Wanted,
)
from tests.support.oracle_views import check_message, compare

CONCURRENCY = 6
MANY_TURNS = 300

Ends = Sequence[tuple[Message, Outcome]]
"""How attempts end."""


class Trial:
    """A broker on a file of its own, and the oracle that foretells it."""

    def __init__(self, path: Path) -> None:
        self.broker = MortalBroker(path, concurrency=CONCURRENCY)
        self.oracle = Oracle(self.broker.clock.now(), CONCURRENCY)

    async def compare(self) -> None:
        """Hold all that the API shows against the oracle."""
        await compare(self.broker, self.oracle)

    async def send(self, wanted: Wanted) -> None:
        """Publish or enqueue to a URL, or to a URL group."""
        route = "publish" if wanted.queue is None else f"enqueue/{wanted.queue}"
        path = f"/v2/{route}/{wanted.group or wanted.url}"
        answer = await self.broker.call("POST", path, headers_of(wanted.settings), wanted.body)
        if wanted.group is not None and wanted.group not in self.oracle.groups:
            assert (answer.status, answer.json) == (404, {"error": f"topic {wanted.group} not found"})
            return
        assert answer.status in (200, 202), f"{wanted}: {answer.status} {answer.body!r}"
        are_duplicates = self._accepted([wanted], [answer.json])
        assert (answer.status == 202) == are_duplicates

    async def batch(self, items: Sequence[Wanted]) -> None:
        """Send several in one call; one of them that names no group refuses the call."""
        content = orjson.dumps([item_of(each) for each in items])
        answer = await self.broker.call("POST", "/v2/batch", body=content)
        if any(each.group is not None and each.group not in self.oracle.groups for each in items):
            assert answer.status == 404, f"{items}: {answer.status} {answer.body!r}"
            return
        assert answer.status == 200, f"{items}: {answer.status} {answer.body!r}"
        self._accepted(items, answer.json)

    async def refused_batch(self, items: Sequence[Wanted]) -> None:
        """Send a batch of which one item is bad, so that nothing of it is stored (contract 2.3)."""
        content = orjson.dumps([item_of(each) for each in items])
        await self.broker.ask("POST", "/v2/batch", body=content, status=400)

    async def refused(self, path: str, status: int, settings: Mapping[str, str], body: bytes = b"") -> None:
        """Make a call that must be refused, and so must change nothing."""
        await self.broker.ask("POST", path, settings, body, status=status)

    def _accepted(self, wanted: Sequence[Wanted], answers: Sequence[Any]) -> bool:
        """Compare the answers for messages; say whether all of these are duplicates."""
        targets: list[Wanted] = []
        items: list[Any] = []
        for each, answer in zip(wanted, answers, strict=True):
            targets += self.oracle.targets(each)
            items += [answer] if each.group is None else answer  # that of a group is a list (contract 2.1)
        expected = self.oracle.accept(targets, [each["messageId"] for each in items])
        urls = [each.url if each.group else None for each in targets]
        assert items == [_answer(*each, url) for each, url in zip(expected, urls, strict=True)]
        return all(is_duplicate for _, is_duplicate in expected)

    async def claim(self) -> None:
        """Claim until nothing more can start, as the dispatcher does."""
        for _ in range(MANY_TURNS):
            if len(self.oracle.in_flight) < CONCURRENCY:
                self.oracle.look()
            claimed = await self.broker.claim()
            self._started(claimed.claims)
            if not claimed.claims:
                self._check_that_nothing_is_forgotten(claimed.next_due_at)
                return
        raise AssertionError("there is always something more to claim")

    def _check_that_nothing_is_forgotten(self, next_due_at: int | None) -> None:
        forgotten = [(each.id, self.oracle.why(each)) for each in self.oracle.startable()]
        assert not forgotten, f"the broker does not start {forgotten}"
        until = self.oracle.next_start_at()
        if until is not None and len(self.oracle.in_flight) < CONCURRENCY:
            sleeps = f"the broker sleeps until {next_due_at}, and work is due at {until}"
            assert next_due_at is not None, sleeps
            assert next_due_at <= until, sleeps

    def _started(self, claims: Sequence[Claim]) -> None:
        for each in claims:
            message = self.oracle.recognise(each.id, each.url, each.body)
            self.oracle.start(message)
            assert (each.attempt, each.url, each.body) == (
                message.attempts,
                message.wanted.url,
                message.wanted.body,
            )

    async def answer(self, ends: Ends) -> None:
        """Let attempts end, all of which is recorded at once."""
        await self.broker.settle({message.id: reply_of(outcome) for message, outcome in ends})
        self._answered(ends)

    async def answer_and_claim(self, ends: Ends) -> None:
        """Let attempts end, and others start in the same transaction."""
        replies = {message.id: reply_of(outcome) for message, outcome in ends}
        claims = await self.broker.settle_and_claim(replies)
        self._answered(ends)
        self.oracle.look()
        self._started(claims)

    def _answered(self, ends: Ends) -> None:
        for message, outcome in ends:
            self.oracle.answer(message, outcome)

    def advance(self, ms: int) -> None:
        """Let time pass."""
        self.broker.clock.advance(ms)
        self.oracle.now = self.broker.clock.now()

    async def crash(self) -> None:
        """Let the broker die, and begin again on the same file."""
        await self.broker.die_and_recover()
        self.oracle.crash()

    async def read(self, message: Message) -> None:
        """Read one message, which is gone some time after its end."""
        answer = await self.broker.call("GET", f"/v2/messages/{message.id}")
        check_message(self.oracle, message, answer)

    async def cancel(self, message: Message) -> None:
        """Call one message off."""
        path = f"/v2/messages/{message.id}"
        if message.is_done:
            await self.broker.ask("DELETE", path, status=404)
        else:
            assert await self.broker.ask("DELETE", path) == {"cancelled": 1}
            self.oracle.cancel([message])

    async def cancel_many(self, query: Sequence[tuple[str, str]], messages: Sequence[Message]) -> None:
        """Call off what a filter is about, which are these messages."""
        answer = await self.broker.ask("DELETE", f"/v2/messages?{urlencode(query)}")
        assert answer == {"cancelled": self.oracle.cancel(messages)}

    async def set_queue(self, name: str, parallelism: int, paused: bool | None) -> None:
        """Make or change a queue."""
        members = {"queueName": name, "parallelism": parallelism}
        if paused is not None:
            members["paused"] = paused
        assert await self.broker.ask("POST", "/v2/queues", body=orjson.dumps(members)) is None
        self.oracle.set_queue(name, parallelism, paused)

    async def pause_queue(self, name: str, paused: bool) -> None:
        """Pause or resume a queue."""
        queue = self.oracle.queues.get(name)
        status = 200 if queue else 404
        await self.broker.ask("POST", f"/v2/queues/{name}/{'pause' if paused else 'resume'}", status=status)
        if queue:
            queue.is_paused = paused

    async def delete_queue(self, name: str) -> None:
        """Delete a queue, which may not be there."""
        assert await self.broker.ask("DELETE", f"/v2/queues/{name}") is None
        self.oracle.delete_queue(name)

    async def pause_key(self, name: str, paused: bool) -> None:
        """Pause or resume a flow-control key, which may be new."""
        await self.broker.ask("POST", f"/v2/flowControl/{name}/{'pause' if paused else 'resume'}")
        self.oracle.key(name).is_paused = paused

    async def pin(self, name: str, parallelism: int | None, rate: int | None, period_s: int) -> None:
        """Fix limits of a flow-control key, which may be new."""
        given = {"parallelism": parallelism, "rate": rate, "period": period_s if rate else None}
        query = urlencode({key: value for key, value in given.items() if value is not None})
        await self.broker.ask("POST", f"/v2/flowControl/{name}/pin?{query}")
        self.oracle.pin(name, parallelism, rate, period_s)

    async def unpin(self, name: str, *, parallelism: bool, rate: bool) -> None:
        """Let the next message decide limits of a flow-control key again."""
        query = urlencode({"parallelism": str(parallelism).lower(), "rate": str(rate).lower()})
        key = self.oracle.keys.get(name)
        await self.broker.ask("POST", f"/v2/flowControl/{name}/unpin?{query}", status=200 if key else 404)
        if key:
            key.pins_parallelism &= not parallelism
            key.pins_rate &= not rate

    async def reset_rate(self, name: str) -> None:
        """Begin a new window of a flow-control key."""
        key = self.oracle.keys.get(name)
        await self.broker.ask("POST", f"/v2/flowControl/{name}/resetRate", status=200 if key else 404)
        if key:
            key.begin_window(self.oracle.now)

    async def add_endpoint(self, group: str, url: str, name: str | None) -> None:
        """Add an endpoint to a URL group; one of a known name gets its new URL."""
        member = {"url": url} if name is None else {"url": url, "name": name}
        content = orjson.dumps({"endpoints": [member]})
        await self.broker.ask("POST", f"/v2/topics/{group}/endpoints", body=content)
        self.oracle.add_endpoint(group, url, name)

    async def remove_endpoint(self, group: str, url: str) -> None:
        """Remove an endpoint from a URL group; without its last one the group is gone."""
        content = orjson.dumps({"endpoints": [{"url": url}]})
        status = 200 if group in self.oracle.groups else 404
        await self.broker.ask("DELETE", f"/v2/topics/{group}/endpoints", body=content, status=status)
        self.oracle.remove_endpoint(group, url)

    async def delete_group(self, group: str) -> None:
        """Delete a URL group, which may not be there."""
        await self.broker.ask("DELETE", f"/v2/topics/{group}")
        self.oracle.groups.pop(group, None)

    async def replay(self, letter: Letter, retries: int | None) -> None:
        """Run a dead letter again."""
        headers = {} if retries is None else {"Upstash-Retries": str(retries)}
        path = f"/v2/dlq/retry/{letter.id}"
        answer = await self.broker.ask("POST", path, headers, status=201)
        self.oracle.replay(letter, retries, answer["messageId"])
        await self.broker.ask("POST", path, status=404)

    async def replay_many(self, query: Sequence[tuple[str, str]], letters: Sequence[Letter]) -> None:
        """Run again the dead letters that a filter is about, which are these."""
        status = 404 if not letters and any(name == "dlqIds" for name, _ in query) else 201
        answer = await self.broker.ask("POST", f"/v2/dlq/retry?{urlencode(query)}", status=status)
        if status == 404:
            return
        assert len(answer["responses"]) == len(letters), f"{query}: {answer} for {len(letters)}"
        for letter, response in zip(letters, answer["responses"], strict=True):
            self.oracle.replay(letter, None, response["messageId"])

    async def delete_letter(self, letter: Letter) -> None:
        """Delete one dead letter."""
        await self.broker.ask("DELETE", f"/v2/dlq/{letter.id}")
        await self.broker.ask("DELETE", f"/v2/dlq/{letter.id}", status=404)
        self.oracle.letters.remove(letter)

    async def delete_letters(self, query: Sequence[tuple[str, str]], letters: Sequence[Letter]) -> None:
        """Delete the dead letters that a filter is about, which are these."""
        answer = await self.broker.ask("DELETE", f"/v2/dlq?{urlencode(query)}")
        assert answer["deleted"] == len(letters), f"{query}: {answer} for {len(letters)}"
        for each in letters:
            self.oracle.letters.remove(each)

    async def schedule(self, name: str, schedule: Schedule) -> None:
        """Make a schedule, or replace it."""
        wanted = schedule.wanted
        headers = {
            **headers_of(wanted.settings),
            "Upstash-Cron": f"{schedule.first}-59/{schedule.minutes} * * * *",
            "Upstash-Schedule-Id": name,
            "Upstash-Queue-Name": wanted.queue or "",
        }
        is_known = wanted.group is None or wanted.group in self.oracle.groups
        path = f"/v2/schedules/{wanted.group or wanted.url}"
        answer = await self.broker.ask("POST", path, headers, wanted.body, status=200 if is_known else 404)
        if is_known:
            assert answer == {"scheduleId": name}
            kept = replace(wanted.settings, dedup_id=None, content_dedup=False)
            schedule.wanted = replace(wanted, settings=kept, schedule=name)
            self.oracle.schedule(name, schedule)

    async def pause_schedule(self, name: str, paused: bool) -> None:
        """Pause or resume a schedule."""
        schedule = self.oracle.schedules.get(name)
        path = f"/v2/schedules/{name}/{'pause' if paused else 'resume'}"
        await self.broker.ask("PATCH", path, status=200 if schedule else 404)
        if schedule and schedule.is_paused != paused:
            schedule.is_paused = paused
            schedule.next_at = schedule.next_at if paused else schedule.following(self.oracle.now)

    async def delete_schedule(self, name: str) -> None:
        """Delete a schedule, which may not be there."""
        await self.broker.ask("DELETE", f"/v2/schedules/{name}")
        self.oracle.schedules.pop(name, None)

    async def fire(self) -> None:
        """Let the schedules fire that are due."""
        before = len(self.oracle.expected)
        self.oracle.fire()
        assert await self.broker.node.scheduler.step() == len(self.oracle.expected) - before

    async def prune(self) -> None:
        """Let the janitor work, who may forget nothing that can still be seen."""
        await self.broker.node.janitor.step()

    async def finish(self) -> None:
        """Let everything be delivered: what was accepted and is still wanted must arrive."""
        for message in list(self.oracle.messages.values()):
            await self.read(message)
        for name in self.oracle.queues:
            await self.pause_queue(name, False)
        for name in self.oracle.keys:
            await self.pause_key(name, False)
        for _ in range(MANY_TURNS):
            await self.claim()
            if ends := [(each, Outcome(200)) for each in self.oracle.in_flight]:
                await self.answer(ends)
            elif (until := self.oracle.next_start_at()) is not None:
                self.advance(until - self.oracle.now)
            else:
                break
            await self.compare()
        left = [
            (each.id, self.oracle.why(each)) for each in self.oracle.messages.values() if not each.is_done
        ]
        assert not left, f"never delivered: {left}"


def reply_of(outcome: Outcome) -> Reply | None:
    """Make the answer of a destination; None for none at all."""
    if not outcome.status:
        return None
    error = None if 200 <= outcome.status < 300 else f"unexpected status {outcome.status}"
    return Reply(outcome.status, outcome.headers, outcome.body, error)


def headers_of(settings: Settings) -> dict[str, str]:
    """Write settings as the headers of a request; an empty value is none (contract 3.0)."""
    limits = settings.limits
    known = {
        "Upstash-Retries": settings.retries,
        "Upstash-Retry-Delay": settings.expression,
        "Upstash-Label": ",".join(settings.labels) or None,
        "Upstash-Callback": CALLBACK if settings.callback else None,
        "Upstash-Failure-Callback": FAILURE_CALLBACK if settings.failure_callback else None,
        "Upstash-Callback-Retries": settings.callback_retries,
        "Upstash-Forward-Kind": settings.forwarded,
        "Upstash-Deduplication-Id": settings.dedup_id,
        "Upstash-Content-Based-Deduplication": "true" if settings.content_dedup else None,
        "Upstash-Delay": None if settings.delay_s is None else f"{settings.delay_s}s",
        "Upstash-Not-Before": settings.not_before_s,
        "Upstash-Flow-Control-Key": limits and limits.key,
        "Upstash-Flow-Control-Value": limits and ", ".join(_limit_parts(settings)),
    }
    return {name: str(value) for name, value in known.items() if value is not None}


def _limit_parts(settings: Settings) -> list[str]:
    limits = settings.limits
    assert limits is not None
    named = (("rate", limits.rate), ("parallelism", limits.parallelism), ("period", limits.period_s))
    return [f"{name}={value}" for name, value in named if value is not None]


def item_of(wanted: Wanted) -> dict[str, object]:
    """Write a message as an item of a batch."""
    return {
        "destination": wanted.group or wanted.url,
        "headers": headers_of(wanted.settings),
        "body": wanted.body.decode(),
        "queue": wanted.queue,
    }


def _answer(message_id: str, is_duplicate: bool, url: str | None) -> dict[str, object]:
    answer: dict[str, object] = {"messageId": message_id}
    if url is not None:
        answer["url"] = url
    if is_duplicate:
        answer["deduplicated"] = True
    return answer
