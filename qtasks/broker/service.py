"""The broker's use cases: no HTTP and no SQL. The API and the embedded home both call `Broker`.

Every check is made before anything is stored, so a `RequestError` means that nothing happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from qtasks.broker.config import BrokerConfig
from qtasks.broker.flow_keys import FlowKeys
from qtasks.broker.intake import Intake
from qtasks.broker.keys import KeyRing
from qtasks.broker.metrics import Metrics
from qtasks.broker.results import Results
from qtasks.broker.room import Room
from qtasks.broker.schedules import Schedules
from qtasks.broker.security import DestinationRules
from qtasks.broker.store import cancelling, dead_letters, logs, messages, queues, results, views
from qtasks.broker.store.database import Database, Session
from qtasks.broker.store.dead_letters import EVERY_LETTER, DeadLetterFilter
from qtasks.broker.store.filters import MessageFilter
from qtasks.broker.store.records import NewMessage
from qtasks.broker.tokens import Tokens
from qtasks.broker.url_groups import UrlGroups
from qtasks.broker.waiters import Waiters
from qtasks.clock import Clock
from qtasks.errors import (
    BadRequest,
    BrokerError,
    BrokerFailed,
    BrokerUnavailable,
    ConfigurationError,
    NotFound,
    QuotaExceeded,
    RequestError,
)
from qtasks.ids import Ids
from qtasks.protocol.destinations import check_queue_name
from qtasks.protocol.headers import Options, QueueSpec
from qtasks.protocol.left import write_left
from qtasks.protocol.shapes import DeadLetter, Enqueued, LogEntry, MessageView, Outgoing, QueueView
from qtasks.sql_texts import Statement

BULK_ROWS = 500  # rows that one transaction of a bulk operation looks at


class Broker:
    """Accepts messages and answers questions about them. Safe to call from any thread.

    `app` is the name of the app that this process hosts, whose messages never leave it. Without
    `delivers_http`, other destinations are refused when a message is accepted. What outlives messages
    has rooms of its own: `results`, `url_groups`, `schedules`, `flow_keys`, `tokens`, `keys`.
    """

    def __init__(
        self,
        database: Database,
        config: BrokerConfig,
        *,
        clock: Clock,
        ids: Ids,
        rules: DestinationRules,
        keys: KeyRing,
        room: Room | None = None,
        app: str | None = None,
        delivers_http: bool = True,
    ) -> None:
        self.database = database
        self.config = config
        self.clock = clock = database.lead(clock)
        self.room = room
        self.metrics = Metrics()
        self.waiters = Waiters()
        self.results = Results(database, clock, self.waiters)
        self.drop: Callable[[Sequence[int]], None] = _nobody_delivers
        """Has deliveries in flight broken off, by sequence number; set by the node that makes them."""
        self.is_draining = False
        self._ids = ids
        self.intake = Intake(config, ids=ids, rules=rules, app=app, delivers_http=delivers_http)
        self.keys = keys
        self.url_groups = UrlGroups(database, config, clock, self.intake)
        self.schedules = Schedules(database, config, clock, self.intake, ids)
        self.flow_keys = FlowKeys(database, clock)
        self.tokens = Tokens(database, clock, ids)

    def accept(self, outgoing: Sequence[Outgoing], items: Sequence[int] | None = None) -> list[Enqueued]:
        """Check and store messages; durable when this returns, all of them or none.

        Raises `BadRequest` or `QuotaExceeded` for what cannot be accepted; of several, the text names the
        one by its number among `items`, or its place.
        """
        work = self._acceptance(outgoing, items)
        with self.metrics.timed("enqueue"):
            answers = self.database.run(work)
        self.metrics.accepted(outgoing, answers)
        return answers

    async def aaccept(
        self, outgoing: Sequence[Outgoing], items: Sequence[int] | None = None
    ) -> list[Enqueued]:
        """Do what `accept` does, for an event loop: it makes at most a quick commit itself."""
        work = self._acceptance(outgoing, items)
        with self.metrics.timed("enqueue"):
            answers = await self.database.write(work, is_small=work.is_small)
        self.metrics.accepted(outgoing, answers)
        return answers

    def leaving(self, outgoing: Sequence[Outgoing]) -> Statement:
        """Check messages, and give what leaves them in the outbox, in a transaction of the caller's.

        Its row begins with their number, or 0 if that connection leads to another database. Raises what
        `accept` raises, `StoreError`, and `ConfigurationError` if this store has no outbox.
        """
        outbox = self.database.outbox
        if outbox is None:
            raise ConfigurationError("a store that is no PostgreSQL takes nothing from other transactions")
        app = self._acceptance(outgoing, None).messages[0].app
        return outbox.leaving(app, [write_left(each) for each in outgoing])

    def _acceptance(self, outgoing: Sequence[Outgoing], items: Sequence[int] | None) -> messages.Enqueueing:
        self._check_room()
        now = self.clock.now()
        if items is None and len(outgoing) == 1:
            return messages.Enqueueing([self.intake.prepare(outgoing[0], now)], now)
        prepared: list[NewMessage] = []
        for item, each in zip(items or range(len(outgoing)), outgoing, strict=True):
            try:
                prepared.append(self.intake.prepare(each, now))
            except RequestError as error:
                raise type(error)(f"message {item}: {error}") from error
        return messages.Enqueueing(prepared, now)

    def _check_room(self) -> None:
        """Raise `StoreFull` while the disk has too little room for more messages (promise P06)."""
        if self.room is not None:
            self.room.check()

    def check_alive(self) -> None:
        """Raise `BrokerFailed` once the store has failed: nothing succeeds any more (promise P04)."""
        if self.database.failure is not None:
            raise BrokerFailed(f"the store failed: {self.database.failure}; the broker has stopped")

    def check_open(self) -> None:
        """Raise `BrokerUnavailable` for callers from outside while this process shuts down."""
        if self.is_draining:
            raise BrokerUnavailable("the broker is shutting down; repeat in a moment", retry_after=1)

    def message(self, message_id: str) -> MessageView:
        """Give a message by its id; raises `NotFound` once it is gone."""
        since = self.clock.now() - self.config.readable_ms
        found = self.database.look(lambda session: views.find_message(session, message_id, since))
        if found is None:
            raise NotFound(f"message {message_id} not found")
        return found

    def queues(self) -> list[QueueView]:
        """List all queues by name."""
        return self.database.look(queues.views)

    def queue(self, name: str) -> QueueView:
        """Give one queue; raises `NotFound`."""
        check_queue_name(name)
        found = self.database.look(lambda session: queues.views(session, name))
        if not found:
            raise NotFound(f"queue {name} not found")
        return found[0]

    def declare(self, declared: Mapping[str, QueueSpec]) -> None:
        """Apply what an app declares to queues that exist, unless the API has set them since."""
        now = self.clock.now()
        self.database.run(lambda session: queues.declare(session, declared, now))

    def set_queue(self, name: str, parallelism: int, paused: bool | None) -> None:
        """Make or change a queue (contract 2.6); raises `QuotaExceeded` for one too many, or too wide."""
        check_queue_name(name)
        if parallelism > self.config.max_parallelism:
            raise QuotaExceeded(
                f"quota maxParallelism exceeded, current limit: {self.config.max_parallelism}"
            )
        now = self.clock.now()
        self.database.run(
            lambda session: queues.upsert(session, name, parallelism, paused, now, self.config.max_queues)
        )

    def set_paused(self, name: str, paused: bool) -> None:
        """Pause or resume a queue at once; raises `NotFound`."""
        check_queue_name(name)
        now = self.clock.now()
        if not self.database.run(lambda session: queues.set_paused(session, name, paused, now)):
            raise NotFound(f"queue {name} not found")

    def delete_queue(self, name: str) -> None:
        """Drop a queue and call off what waits in it; no error if there is none (contract 2.6)."""
        check_queue_name(name)
        # The most of it in steps that keep nobody waiting; the rest together with the queue.
        # What is in flight goes on to its end.
        for each in self._cancel_steps(MessageFilter(queues=frozenset({name})), None):
            self.waiters.finish(each.task_ids)
        now = self.clock.now()
        called_off = self.database.run(lambda session: cancelling.delete_queue(session, name, now))
        self.waiters.finish(called_off.task_ids)

    def log(
        self, wanted: logs.LogFilter, before: logs.Place | None, count: int
    ) -> tuple[list[LogEntry], str | None]:
        """Give a page of the log, newest first, and the cursor of the next."""
        return self.database.look(lambda session: logs.log_page(session, wanted, before, count))

    def cancel_one(self, message_id: str) -> None:
        """Call a message off; raises `NotFound` if it is unknown or has finished (contract 1.9)."""
        if not self.cancel([message_id]) and not self._is_pending(message_id):
            raise NotFound(f"message {message_id[:64]} not found")

    def cancel(self, message_ids: Sequence[str]) -> int:
        """Call messages off; say how many were not called off before."""
        now = self.clock.now()
        called_off = self.database.run(lambda session: cancelling.cancel(session, message_ids, now))
        self._tell(called_off)
        return called_off.count

    def cancel_task(self, task_id: str) -> bool:
        """Call a task off; say whether it was under way and not called off before."""
        now = self.clock.now()

        def work(session: Session) -> cancelling.CalledOff:
            return cancelling.cancel(session, results.pending_messages(session, task_id), now)

        called_off = self.database.run(work)
        self._tell(called_off)
        return called_off.count > 0

    def _tell(self, called_off: cancelling.CalledOff) -> None:
        """Let those know whom it concerns that tasks have ended, or are to end."""
        self.waiters.finish(called_off.task_ids)
        if called_off.in_flight:
            self.drop(called_off.in_flight)

    def cancel_matching(self, wanted: MessageFilter, limit: int | None) -> int:
        """Call off what matches, up to `limit` messages, in steps that keep nobody waiting."""
        count = 0
        for called_off in self._cancel_steps(wanted, limit):
            self._tell(called_off)
            count += called_off.count
        return count

    def _cancel_steps(self, wanted: MessageFilter, limit: int | None) -> Iterator[cancelling.CalledOff]:
        count, after = 0, 0
        now = self.clock.now()

        def step(session: Session) -> tuple[cancelling.CalledOff, int | None]:
            ids, following = cancelling.find_pending(session, wanted, after=after, count=BULK_ROWS)
            left = len(ids) if limit is None else limit - count
            return cancelling.cancel(session, ids[:left], now), following

        while limit is None or count < limit:
            called_off, following = self.database.run(step)
            yield called_off
            count += called_off.count
            if following is None:
                break
            after = following

    def hasten(self) -> int:
        """Let no message wait for its instant any longer, delayed or to be retried; say how many did."""
        now = self.clock.now()
        return self.database.run(lambda session: messages.hasten(session, now))

    def _is_pending(self, message_id: str) -> bool:
        row = self.database.look(lambda session: session.one("pending_of_message", {"id": message_id}))
        return row is not None

    def rotate_keys(self) -> tuple[str, str]:
        """Sign with the next key from now on; give the new pair. Raises `BadRequest` if that is not ours."""
        return self.keys.rotate(self._ids, self.clock.now())

    def signing_key(self) -> str:
        """Give the key to sign an attempt with now."""
        return self.keys.use(self.clock.now())

    def problem(self) -> str | None:
        """Say why nothing is accepted or delivered now; None if all is well."""
        if self.is_draining:
            return "the broker is shutting down"
        try:
            self.check_alive()
            self._check_room()
            self.database.look(lambda session: session.one("claim_outlook", {}))
        except BrokerError as error:
            return str(error)
        return None

    def global_parallelism(self) -> tuple[int, int]:
        """Say how many deliveries may be in flight at once in all, and how many are."""
        active = self.database.look(lambda session: session.one("active_count", {}))
        return self.config.concurrency, active[0] if active else 0

    def dead_letters(
        self, cursor: str | None, count: int, wanted: DeadLetterFilter = EVERY_LETTER
    ) -> tuple[list[DeadLetter], str | None]:
        """Give a page of the dead letter queue, newest first, and the cursor of the next."""
        place = _place(cursor)
        return self.database.look(lambda session: dead_letters.find_many(session, wanted, place, count))

    def dead_letter(self, dlq_id: str) -> DeadLetter:
        """Give one dead letter; raises `NotFound`."""
        return self.database.look(lambda session: _find_letter(session, dlq_id))

    def delete_dead_letter(self, dlq_id: str) -> None:
        """Delete one dead letter; raises `NotFound`."""
        self.database.run(lambda session: dead_letters.delete_many(session, [_find_letter(session, dlq_id)]))

    def delete_dead_letters(
        self, wanted: DeadLetterFilter, cursor: str | None, count: int
    ) -> tuple[int, str | None]:
        """Delete up to `count` dead letters; also give the cursor to go on from."""
        place = _place(cursor)

        def work(session: Session) -> tuple[int, str | None]:
            found, following = dead_letters.find_many(session, wanted, place, count)
            return dead_letters.delete_many(session, found), following

        return self.database.run(work)

    def replay(self, dlq_id: str, options: Options, method: str | None = None) -> Enqueued:
        """Run a dead letter again as a new message; raises `NotFound`."""
        self._check_room()
        now = self.clock.now()
        return self.database.run(
            lambda session: self._replay(session, _find_letter(session, dlq_id), options, method, now)
        )

    def replay_many(
        self,
        wanted: DeadLetterFilter,
        cursor: str | None,
        count: int,
        options: Options,
        method: str | None = None,
    ) -> tuple[list[Enqueued], str | None]:
        """Run up to `count` dead letters again; raises `NotFound` if none of the given ids is known."""
        self._check_room()
        place = _place(cursor)
        now = self.clock.now()

        def work(session: Session) -> tuple[list[Enqueued], str | None]:
            found, following = dead_letters.find_many(session, wanted, place, count)
            if wanted.ids and not found:
                raise NotFound(f"no dlq message of {len(wanted.ids)} was found")
            return [self._replay(session, each, options, method, now) for each in found], following

        return self.database.run(work)

    def _replay(
        self, session: Session, letter: DeadLetter, options: Options, method: str | None, now: int
    ) -> Enqueued:
        message = self.intake.again(dead_letters.original(session, letter), options, method, now)
        return dead_letters.replay(session, letter, message)


def _nobody_delivers(seqs: Sequence[int]) -> None:
    """A broker without a node has nothing in flight."""


def _place(cursor: str | None) -> dead_letters.Place | None:
    place = None if cursor is None else views.parse_cursor(cursor)
    if cursor is not None and place is None:
        raise BadRequest(f"cursor {cursor[:40]!r} is not one that this API gave")
    return place


def _find_letter(session: Session, dlq_id: str) -> DeadLetter:
    place = views.parse_cursor(dlq_id)
    found = place and dead_letters.find_one(session, place)
    if not found:
        raise NotFound(f"dlq message {dlq_id[:64]} not found")
    return found
