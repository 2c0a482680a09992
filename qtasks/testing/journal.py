"""What the broker of a kit holds, read as calls of the tasks that the apps have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtasks.broker.service import Broker
from qtasks.broker.store import logs
from qtasks.broker.store.database import Session
from qtasks.broker.store.extras import unpack_extras
from qtasks.broker.store.records import Claim
from qtasks.errors import DecodeError
from qtasks.home.app import QTasks
from qtasks.protocol.shapes import State
from qtasks.tasks.envelope import Envelope, of_fire, unpack
from qtasks.tasks.task import Task
from qtasks.testing.attempts import read_error
from qtasks.testing.calls import AnyTask, DeadCall, EnqueuedCall, Sent, Shown, Wanted, read_call

PAGE = 200
CREATED = logs.LogFilter(states=frozenset({State.CREATED}))


class Journal:
    """Reads each call once. `apps` are by their destination."""

    def __init__(self, apps: Mapping[str, QTasks], broker: Broker) -> None:
        self._apps = apps
        self._broker = broker
        self._calls: list[Sent] = []
        self._last_read: str | None = None

    def calls(self) -> list[Sent]:
        """Give all calls that were enqueued, oldest first."""
        fresh: list[Sent | None] = []
        newest: str | None = None
        place: logs.Place | None = None
        is_new = True
        while is_new:
            entries, cursor = self._broker.log(CREATED, place, PAGE)
            for each in entries:
                newest = newest or each.message_id
                is_new = each.message_id != self._last_read
                if not is_new:
                    break
                fresh.append(self._read(each, each.max_retries or 0))
            if cursor is None:
                break
            place = logs.parse_place(cursor)
        self._last_read = newest
        self._calls += [each for each in reversed(fresh) if each is not None]
        return self._calls

    def found(
        self, task: AnyTask | str | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> list[Sent]:
        """Give the calls that a test asks about; raises what `Wanted` raises."""
        wanted = Wanted(self._known(task) if isinstance(task, str) else task, args, kwargs)
        return [each for each in self.calls() if wanted.matches(each)]

    def seen(self, sent: Sent) -> EnqueuedCall:
        """Give a call as it is now."""
        return sent.seen(self._broker.results.find(sent.envelope.id))

    def dead(self) -> list[DeadCall]:
        """Give the calls that are not tried again, oldest first."""
        found: list[DeadCall] = []
        cursor: str | None = None
        while True:
            letters, cursor = self._broker.dead_letters(cursor, PAGE)
            for each in letters:
                sent = self._read(each.message, each.message.max_retries)
                if sent is not None:
                    found.append(DeadCall(self.seen(sent), *read_error(each.response_body, each.error)))
            if cursor is None:
                return found[::-1]

    def name(self, task: AnyTask | str) -> str:
        """Give the name of a task, also where it is known by an older one."""
        found = self._known(task) if isinstance(task, str) else task
        return found.name if isinstance(found, Task) else found

    def name_of(self, claim: Claim) -> str | None:
        """Give the name of the task that a claim is a call of, if it is one."""
        try:
            return self.name(unpack(claim.body).task)
        except DecodeError:
            return None

    def _known(self, name: str) -> AnyTask | str:
        return next((found for app in self._apps.values() if (found := app.find(name))), name)

    def _read(self, message: Shown, retries: int) -> Sent | None:
        app = self._apps.get(message.url)
        if app is None:
            return None
        try:
            envelope = unpack(message.body)
        except DecodeError:
            return None
        if envelope.schedule is not None:
            envelope = self._of_fire(envelope, message.message_id)
        return read_call(message, envelope, app.find, retries=retries)

    def _of_fire(self, envelope: Envelope, message_id: str) -> Envelope:
        """Complete the envelope of a schedule, as the app does with what the broker tells it."""

        def fired_at(session: Session) -> int | None:
            found = session.one("log_seq_of_message", {"id": message_id})
            row = found and session.one("message_to_replay", {"seq": found[0]})
            return unpack_extras(row[-1]).fired_at if row else None

        instant = self._broker.database.look(fired_at)
        return of_fire(envelope, str(instant), message_id, envelope.enqueued_at)
