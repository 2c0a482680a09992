"""The use cases of schedules: when they fire, and the message that each of their fires makes (contract 1.7).

The loop that fires what is due is in `scheduler.py`; `fire` is what it does in a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qtasks.broker.catch_up import LATEST, NONE, fires_due
from qtasks.broker.config import BrokerConfig
from qtasks.broker.intake import Intake, plain_headers
from qtasks.broker.store import messages, schedules
from qtasks.broker.store.database import Database, Session
from qtasks.broker.store.records import NewMessage
from qtasks.broker.store.schedules import StoredSchedule
from qtasks.broker.store.views import header_lists, shown_settings
from qtasks.broker.url_groups import find_group
from qtasks.clock import Clock
from qtasks.errors import BadRequest, InvalidValue, NotFound, QuotaExceeded, RequestError
from qtasks.ids import Ids
from qtasks.protocol.destinations import API_NAMES
from qtasks.protocol.every import Timing, parse_timing
from qtasks.protocol.headers import Options, parse_options, render_options
from qtasks.protocol.resources import RunState, ScheduleView
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.protocol.shown import redacted

SKIP = "skip"
EXPIRED = "expired: no broker was there in time"
SKIPPED = "skipped: the messages of the fire before have not finished"


class Schedules:
    """Makes, shows, steers and fires schedules. Safe to call from any thread."""

    def __init__(
        self, database: Database, config: BrokerConfig, clock: Clock, intake: Intake, ids: Ids
    ) -> None:
        self._database = database
        self._config = config
        self._clock = clock
        self._intake = intake
        self._ids = ids

    def create(self, asked: Outgoing) -> str:
        """Make a schedule of a message that says when, replacing the one of its id; give the id.

        Raises `BadRequest`, `NotFound` for an unknown URL group, and `QuotaExceeded`.
        """
        options = asked.options
        timing = _timing(options)
        if options.not_before is not None:
            raise BadRequest("Upstash-Not-Before: a schedule cannot have one; use Upstash-Delay")
        if options.task_id is not None:
            raise BadRequest("Qtasks-Task-Id: it names one call, and a schedule makes many")
        if options.expires_at is not None:
            raise BadRequest(
                "Qtasks-Expires: it is one instant, and a schedule goes on; use Qtasks-Expires-After"
            )
        now = self._clock.now()
        kept = replace(options, cron=None, every=None, schedule_id=None, content_dedup=False)
        if options.unique is None and options.dedup_window_ms is None:
            # An id that holds as long as usual would stop every fire but the first (contract 1.7).
            kept = replace(kept, dedup_id=None)
        schedule = StoredSchedule(
            id=options.schedule_id or self._ids.schedule_id(),
            cron=timing.text,
            destination=asked.destination,
            options=tuple(render_options(kept)),
            body=asked.body,
            caller_ip=asked.caller_ip,
            created_at=now,
            is_paused=False,
            next_at=timing.next_after(now),
        )

        def work(session: Session) -> None:
            self._messages(session, schedule, now, now)  # what no fire could make is refused now
            if schedules.find(session, schedule.id) is None:
                self._check_room(session)
            schedules.save(session, schedule)

        self._database.run(work)
        return schedule.id

    def _check_room(self, session: Session) -> None:
        if schedules.count(session) >= self._config.max_schedules:
            raise QuotaExceeded(f"quota maxSchedules exceeded, current limit: {self._config.max_schedules}")

    def all(self) -> list[ScheduleView]:
        """List all schedules by id."""
        return self._database.look(
            lambda session: [self._view(session, each) for each in schedules.find_all(session)]
        )

    def one(self, id_: str) -> ScheduleView:
        """Give one schedule; raises `NotFound`."""
        return self._database.look(lambda session: self._view(session, _found(session, id_)))

    def set_paused(self, id_: str, paused: bool) -> None:
        """Pause a schedule, or let it go on with its next fire; raises `NotFound`."""
        now = self._clock.now()

        def work(session: Session) -> None:
            schedule = _found(session, id_)
            if schedule.is_paused != paused:
                following = None if paused else parse_timing(schedule.cron).next_after(now)
                schedules.set_paused(session, id_, paused, following)

        self._database.run(work)

    def delete(self, id_: str) -> None:
        """Delete a schedule; no error if there is none."""
        self._database.run(lambda session: schedules.delete(session, id_))

    def fire(self, session: Session, due: Sequence[StoredSchedule], now: int) -> int:
        """Make the messages of schedules that are due; say how many.

        Each fire makes its own once, whoever else tries (promise P15).
        """
        return sum(self._fire_one(session, each, now) for each in due)

    def _fire_one(self, session: Session, schedule: StoredSchedule, now: int) -> int:
        assert schedule.next_at is not None  # it is due
        try:
            options = parse_options(schedule.options)
            due = fires_due(parse_timing(schedule.cron), schedule.next_at, now, self._catch_up(options))
        except (InvalidValue, RequestError) as error:  # its time zone is gone from this machine, perhaps
            if schedules.take_turn(session, schedule, None):
                schedules.tell_run(session, schedule.id, now, (), str(error))
            return 0
        if not schedules.take_turn(session, schedule, due.next_at):
            return 0
        made, last = 0, schedule.last_messages
        for fire_at in due.fires:
            if options.overlap == SKIP and _is_under_way(session, last):
                schedules.tell_skipped(session, schedule.id, SKIPPED)
                break
            answers = self._run(session, schedule, fire_at, now)
            made += sum(not each.deduplicated for each in answers)
            last = tuple(each.message_id for each in answers)
        return made

    def _catch_up(self, options: Options) -> str:
        return NONE if self._config.strict else options.catch_up or LATEST

    def _run(self, session: Session, schedule: StoredSchedule, fire_at: int, now: int) -> Sequence[Enqueued]:
        """Make what one fire makes; nothing if that cannot be, which the schedule then tells."""
        try:
            answers = messages.enqueue(session, self._messages(session, schedule, fire_at, now), now)
        except RequestError as error:
            schedules.tell_run(session, schedule.id, fire_at, (), str(error))
            return ()
        schedules.tell_run(session, schedule.id, fire_at, [each.message_id for each in answers], None)
        return answers

    def _messages(
        self, session: Session, schedule: StoredSchedule, fire_at: int, now: int
    ) -> list[NewMessage]:
        """Make what one fire makes: a message, or one for each endpoint of a URL group."""
        destination = schedule.destination
        targets: list[tuple[str, str | None, str | None]] = [(destination, None, None)]
        options = parse_options(schedule.options)
        if "://" not in destination and destination not in API_NAMES:
            group = find_group(session, destination)
            targets = [(each.url, destination, each.name) for each in group.view.endpoints]
            options = parse_options(schedule.options, defaults=group.headers)
        elif options.result_ttl_ms is not None:
            # A result can be kept of each fire, and asked for by whoever knows its instant.
            options = replace(options, task_id=f"{schedule.id}.{fire_at}")
        if options.expires_after_ms is not None:
            expires_at = fire_at + options.expires_after_ms
            if expires_at <= now:
                raise BadRequest(EXPIRED)
            options = replace(options, expires_at=expires_at)
        asked = Outgoing(
            destination,
            schedule.body,
            options,
            options.schedule_queue,
            schedule.caller_ip,
            schedule_id=schedule.id,
            fired_at=None if self._config.strict else fire_at,
        )
        return [
            self._intake.prepare(
                replace(asked, destination=url, group_name=name, endpoint_name=endpoint), now
            )
            for url, name, endpoint in targets
        ]

    def _view(self, session: Session, schedule: StoredSchedule) -> ScheduleView:
        options = parse_options(schedule.options)
        view = ScheduleView(
            schedule_id=schedule.id,
            cron=schedule.cron,
            destination=schedule.destination,
            created_at=schedule.created_at,
            method=options.method,
            header=header_lists(plain_headers(options)),
            body=schedule.body,
            retries=self._config.default_retries if options.retries is None else options.retries,
            delay_s=_seconds(options.delay_ms),
            timeout_s=_seconds(options.timeout_ms),
            is_paused=schedule.is_paused,
            caller_ip=schedule.caller_ip,
            queue_name=options.schedule_queue,
            retry_delay_expression=options.retry_delay,
            labels=options.labels,
            last_schedule_time=schedule.last_at,
            next_schedule_time=None if schedule.is_paused else schedule.next_at,
            last_schedule_states=schedules.run_states(session, schedule.last_messages),
            error=schedule.error,
            **shown_settings(options),
        )
        return redacted(view, options.redact)


def _is_under_way(session: Session, message_ids: Sequence[str]) -> bool:
    return RunState.IN_PROGRESS in schedules.run_states(session, message_ids).values()


def _timing(options: Options) -> Timing:
    timing = options.every or options.cron
    if timing is None:
        raise BadRequest("Upstash-Cron: a schedule needs a cron expression, such as 0 9 * * *")
    return timing


def _found(session: Session, id_: str) -> StoredSchedule:
    schedule = schedules.find(session, id_)
    if schedule is None:
        raise NotFound(f"schedule {id_[:128]} not found")
    return schedule


def _seconds(ms: int | None) -> int | None:
    return None if ms is None else -(-ms // 1000)
