"""A small model of the broker: it says what must be true of every message after each call (contract 1 to 5).

Lists and dicts, no SQL, and no code of the broker. Where the contract leaves a choice, the model says what
is allowed (`may_start`) and is told what happened. Ids are the broker's: the model takes them over.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

from tests.support.oracle_values import (
    ALONE_MS,
    CALLBACK,
    CALLER,
    DEDUP_WINDOW_MS,
    EXPRESSIONS,
    FAILURE_CALLBACK,
    LADDER_MS,
    NO_ANSWER,
    Key,
    Letter,
    Limits,
    Message,
    Outcome,
    Queue,
    Schedule,
    Settings,
    Stage,
    Wanted,
)


class Oracle:
    """The model. `now` is moved by whoever moves the broker's clock."""

    def __init__(self, now: int, concurrency: int) -> None:
        self.now = now
        self.concurrency = concurrency
        self.messages: dict[str, Message] = {}
        self.expected: list[Message] = []
        """Messages that the broker makes by itself, whose ids are still to be seen."""
        self.queues: dict[str, Queue] = {}
        self.keys: dict[str, Key] = {}
        self.groups: dict[str, list[tuple[str, str | None]]] = {}
        self.schedules: dict[str, Schedule] = {}
        self.letters: list[Letter] = []
        self._dedup: dict[tuple[object, ...], tuple[str, int]] = {}

    def accept(self, wanted: Sequence[Wanted], ids: Sequence[str]) -> list[tuple[str, bool]]:
        """Take in messages, to which the broker gave these ids.

        Gives the ids that it had to give, and whether each is a duplicate's.
        """
        answers = []
        for each, id_ in zip(wanted, ids, strict=True):
            key = _dedup_key(each)
            known = self._dedup.get(key) if key else None
            if known is not None and self.now < known[1]:
                answers.append((known[0], True))
                continue
            if key:
                self._dedup[key] = (id_, self.now + DEDUP_WINDOW_MS)
            self._admit(self._make(each), id_)
            answers.append((id_, False))
        return answers

    def _make(self, wanted: Wanted) -> Message:
        settings = wanted.settings
        start_at = self.now if settings.delay_s is None else self.now + 1000 * settings.delay_s
        start_at = start_at if settings.not_before_s is None else 1000 * settings.not_before_s
        waits = start_at > self.now
        return Message(
            wanted,
            created_at=self.now,
            not_before=start_at,
            queue=None if wanted.queue is None else self.queues.setdefault(wanted.queue, Queue(wanted.queue)),
            key=None if settings.limits is None else self._configured(settings.limits),
            stage=Stage.WAITING if waits else Stage.READY,
            due_at=start_at,
            log=[("CREATED", self.now, start_at if waits else None)],
        )

    def _configured(self, limits: Limits) -> Key:
        key = self.key(limits.key)
        if not key.pins_parallelism:
            key.parallelism = limits.parallelism
        if not key.pins_rate:
            key.rate, key.period_s = limits.rate, limits.period_s
        return key

    def _admit(self, message: Message, id_: str) -> None:
        assert id_ not in self.messages, f"the id {id_} was given twice"
        message.id, message.place = id_, len(self.messages)
        self.messages[id_] = message

    def recognise(self, id_: str, url: str, body: bytes) -> Message:
        """Give the message of an id; one that is new must be among those that are expected."""
        if id_ in self.messages:
            return self.messages[id_]
        for each in self.expected:
            if each.wanted.url == url and _says(each, body):
                self.expected.remove(each)
                each.wanted = replace(each.wanted, body=body)
                if url == FAILURE_CALLBACK and each.source is not None:
                    each.source.told_letter_id = json.loads(body)["dlqId"]
                self._admit(each, id_)
                return each
        raise AssertionError(f"nobody asked for the message {id_} to {url}: {body!r}")

    @property
    def in_flight(self) -> list[Message]:
        """The attempts that have started and not ended."""
        return [each for each in self.messages.values() if each.stage is Stage.ACTIVE]

    def look(self) -> None:
        """Let what is due become ready, as the broker does whenever it claims."""
        for each in self.messages.values():
            if each.is_due(self.now):
                each.stage = Stage.READY

    def may_start(self, message: Message) -> bool:
        """Say whether an attempt of a message may start now, before any other."""
        if not message.is_due(self.now) or len(self.in_flight) >= self.concurrency:
            return False
        if message.is_suspect and not self._alone_is_free():
            return False
        if message.queue is not None:
            return self._next_of(message.queue) is message
        key = message.key
        return key is None or not (
            key.is_paused
            or self._is_crowded(key)
            or (key.rate is not None and key.started(self.now) >= key.rate)
        )

    def _next_of(self, queue: Queue) -> Message | None:
        """Give the first message in line of a queue, if it has a slot to start in."""
        members = [each for each in self.messages.values() if each.queue is queue]
        taken = sum(each.holds_slot(self.now) for each in members)
        if queue.is_paused or taken >= queue.parallelism:
            return None
        return next((each for each in members if each.is_due(self.now)), None)

    def _alone_is_free(self) -> bool:
        return not any(each.is_suspect and self.now < each.started_at + ALONE_MS for each in self.in_flight)

    def _is_crowded(self, key: Key) -> bool:
        active = sum(each.key is key for each in self.in_flight)
        return key.parallelism is not None and active >= key.parallelism

    def start(self, message: Message) -> None:
        """An attempt starts: the broker has said so."""
        assert self.may_start(message), f"{message.id} may not start: {self.why(message)}"
        message.stage, message.started_at = Stage.ACTIVE, self.now
        message.attempts += 1
        message.log.append(("ACTIVE", self.now, None))
        key = message.key
        if key is not None and key.rate is not None:
            if self.now >= key.ends_at():
                key.begin_window(self.now)
            key.count += 1

    def startable(self) -> list[Message]:
        """Give messages of which each could be the next to start."""
        return [each for each in self.messages.values() if self.may_start(each)]

    def next_start_at(self) -> int | None:
        """Say when time alone lets something start; None if only an answer or a call can."""
        waiting = [each.due_at for each in self.messages.values() if each.stage is Stage.WAITING]
        windows = [
            key.ends_at()
            for key in self.keys.values()
            if key.rate is not None
            and key.started(self.now) >= key.rate
            and not (key.is_paused or self._is_crowded(key))
            and any(each.key is key and each.is_due(self.now) for each in self.messages.values())
        ]
        return min((each for each in (*waiting, *windows) if each > self.now), default=None)

    def instants(self) -> list[int]:
        """Give the instants to come at which anything changes by itself."""
        found = {each.due_at for each in self.messages.values() if each.stage is Stage.WAITING}
        found |= {each.ends_at() for each in self.keys.values() if each.rate is not None}
        found |= {each.started_at + ALONE_MS for each in self.in_flight if each.is_suspect}
        found |= {each.next_at for each in self.schedules.values()}
        found |= {until for _, until in self._dedup.values()}
        return sorted(each for each in found if each > self.now)

    def why(self, message: Message) -> str:
        """Tell what is known of a message, for whoever reads a failure."""
        queue, key = message.queue, message.key
        others = [
            f"{each.id}:{each.stage.name}"
            for each in self.messages.values()
            if each is not message
            and ((queue is not None and each.queue is queue) or (key is not None and each.key is key))
            and (not each.is_done or each.holds_slot(self.now))
        ]
        return f"{message.stage.name}, due at {message.due_at}, {queue or key}, beside {others}"

    def answer(self, message: Message, outcome: Outcome) -> None:
        """The broker has learnt how an attempt ended, and has recorded it."""
        message.interruptions = 0
        self._end(message, outcome)

    def crash(self) -> None:
        """The broker died with all that was in flight, and has recovered."""
        for each in self.in_flight:
            each.interruptions += 1
            self._end(each, replace(NO_ANSWER, hint_ms=0))
            if each.stage is Stage.WAITING:
                each.stage = Stage.READY

    def _end(self, message: Message, outcome: Outcome) -> None:
        retried = message.attempts - 1
        is_dead = False
        if 200 <= outcome.status < 300:
            self._finish(message, "DELIVERED")
        else:
            message.log.append(("ERROR", self.now, None))
            if message.is_cancelled:
                self._finish(message, "CANCELED")
            elif outcome.is_final or retried >= message.wanted.settings.max_retries:
                is_dead = True
                self._finish(message, "FAILED")
                self.letters.append(Letter(message, self.now, outcome))
            else:
                message.stage = Stage.WAITING
                message.due_at = self.now + _delay_ms(message, retried, outcome)
                message.log.append(("RETRY", self.now, message.due_at))
        self._tell(message, outcome, retried, is_dead=is_dead)

    def _finish(self, message: Message, state: str) -> None:
        message.stage = Stage.DONE
        message.keeps_slot = message.queue is not None
        message.log.append((state, self.now, None))

    def _tell(self, message: Message, outcome: Outcome, retried: int, *, is_dead: bool) -> None:
        settings = message.wanted.settings
        report = {
            "status": outcome.status,
            "body": _base64(outcome.body),
            "retried": retried,
            "maxRetries": settings.max_retries,
            "sourceMessageId": message.id,
            "url": message.wanted.url,
            "sourceBody": _base64(message.wanted.body),
            "notBefore": message.not_before,
            "createdAt": message.created_at,
            "topicName": message.wanted.group,
            "endpointName": message.wanted.endpoint,
            "scheduleId": message.wanted.schedule,
            "callerIP": CALLER,
        }
        for url, is_told in ((CALLBACK, settings.callback), (FAILURE_CALLBACK, settings.failure_callback)):
            if not is_told or (url == FAILURE_CALLBACK and not is_dead):
                continue
            own = settings.callback_retries
            retries = settings.max_retries if url == FAILURE_CALLBACK or own is None else own
            callback = self._make(Wanted(url, settings=Settings(retries=retries)))
            callback.report, callback.source = report, message
            message.callbacks.append(callback)
            self.expected.append(callback)

    def cancel(self, messages: Iterable[Message]) -> int:
        """Call messages off; say how many of them were not called off or done before."""
        count = 0
        for each in messages:
            if each.is_done or each.is_cancelled:
                continue
            count += 1
            each.is_cancelled = True
            each.log.append(("CANCEL_REQUESTED", self.now, None))
            if each.stage is not Stage.ACTIVE:
                self._finish(each, "CANCELED")
        return count

    def set_queue(self, name: str, parallelism: int, paused: bool | None) -> None:
        """Make or change a queue."""
        queue = self.queues.setdefault(name, Queue(name))
        queue.parallelism = parallelism
        queue.is_paused = queue.is_paused if paused is None else paused

    def delete_queue(self, name: str) -> None:
        """Drop a queue: what waits in it is called off, what is in flight goes on outside it."""
        queue = self.queues.pop(name, None)
        if queue is None:
            return
        members = [each for each in self.messages.values() if each.queue is queue]
        self.cancel(members)
        for each in members:
            each.queue, each.keeps_slot = None, False

    def key(self, name: str) -> Key:
        """Give a flow-control key, which is made if it is new."""
        return self.keys.setdefault(name, Key(name))

    def pin(self, name: str, parallelism: int | None, rate: int | None, period_s: int) -> None:
        """Fix limits of a flow-control key; a rate begins a new window."""
        key = self.key(name)
        if parallelism is not None:
            key.parallelism, key.pins_parallelism = parallelism, True
        if rate is not None:
            key.rate, key.period_s, key.pins_rate = rate, period_s, True
            key.begin_window(self.now)

    def listed(self) -> list[Letter]:
        """Give the dead letters as they are listed: the latest first."""
        return sorted(self.letters, key=lambda each: (each.died_at, each.message.place), reverse=True)

    def replay(self, letter: Letter, retries: int | None, id_: str) -> None:
        """A dead letter becomes a new message of this id."""
        self.letters.remove(letter)
        old = letter.message.wanted
        settings = replace(
            old.settings,
            retries=old.settings.retries if retries is None else retries,
            dedup_id=None,
            content_dedup=False,
            delay_s=None,
            not_before_s=None,
        )
        self._admit(self._make(replace(old, settings=settings)), id_)

    def targets(self, wanted: Wanted) -> list[Wanted]:
        """Give what a message to a URL group stands for: one to each of its endpoints."""
        if wanted.group is None:
            return [wanted]
        endpoints = self.groups.get(wanted.group, [])
        return [replace(wanted, url=url, endpoint=endpoint) for url, endpoint in endpoints]

    def add_endpoint(self, group: str, url: str, name: str | None) -> None:
        """Add an endpoint, or give one of a known name its new URL."""
        endpoints = self.groups.setdefault(group, [])
        for place, (known_url, known_name) in enumerate(endpoints):
            if name is not None and known_name == name:
                endpoints[place] = (url, name)
                return
            if name is None and known_url == url:
                return
        endpoints.append((url, name))

    def remove_endpoint(self, group: str, url: str) -> None:
        """Remove the endpoints of a URL; a group without endpoints is none."""
        left = [each for each in self.groups.pop(group, []) if each[0] != url]
        if left:
            self.groups[group] = left

    def schedule(self, name: str, schedule: Schedule) -> None:
        """Make a schedule, or replace it; its last run stays known."""
        schedule.next_at = schedule.following(self.now)
        if known := self.schedules.get(name):
            schedule.last_at, schedule.last_run = known.last_at, known.last_run
        self.schedules[name] = schedule

    def fire(self) -> None:
        """Schedules that are due make the messages of their last fire, the longest due first."""
        due = [each for each in self.schedules.values() if not each.is_paused and each.next_at <= self.now]
        for each in sorted(due, key=lambda each: each.next_at):
            each.next_at = each.following(self.now)
            each.last_at = each.next_at - 60_000 * each.minutes
            each.last_run = [self._make(one) for one in self.targets(each.wanted)]
            each.error = None if each.last_run else f"topic {each.wanted.group} not found"
            self.expected.extend(each.last_run)


def _dedup_key(wanted: Wanted) -> tuple[object, ...] | None:
    """Say what a repeat of a message has in common with it (contract 3.9)."""
    settings = wanted.settings
    endpoint = wanted.url if wanted.group else None
    if settings.dedup_id is not None:
        return (settings.dedup_id, endpoint)
    if settings.content_dedup:
        return (wanted.queue, wanted.group or wanted.url, wanted.body, settings.forwarded, endpoint)
    return None


def _delay_ms(message: Message, retried: int, outcome: Outcome) -> int:
    expression = message.wanted.settings.expression
    if outcome.hint_ms is not None:
        return outcome.hint_ms
    return LADDER_MS[retried] if expression is None else EXPRESSIONS[expression](retried)


def _says(message: Message, body: bytes) -> bool:
    """Say whether the body of a message that the broker made is what it must be."""
    if message.report is None:
        return message.wanted.body == body
    told = json.loads(body)
    has_id = message.wanted.url != FAILURE_CALLBACK or "dlqId" in told
    return has_id and all(told.get(name) == value for name, value in message.report.items())


def _base64(body: bytes) -> str:
    return base64.b64encode(body).decode()
