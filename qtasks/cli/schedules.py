"""`qtasks schedules`: list, show, add, pause, resume and remove schedules, and say when they fire."""

from __future__ import annotations

import click

from qtasks.cli.bulk import one_by_one
from qtasks.cli.command import Session, with_broker
from qtasks.cli.completing import live
from qtasks.cli.kinds import CONTENT, HEADER, SPAN
from qtasks.cli.send import message_options
from qtasks.cli.tables import Column, age, facts, instant, span
from qtasks.client import calls
from qtasks.errors import InvalidValue, NotFound
from qtasks.protocol.durations import format_duration
from qtasks.protocol.every import parse_timing
from qtasks.protocol.resources import ScheduleView
from qtasks.protocol.shapes import Outgoing

complete_ids = live(calls.schedules, lambda each: each.schedule_id)
ids_argument = click.argument("ids", nargs=-1, required=True, shell_complete=complete_ids)


def columns(now: int) -> tuple[Column[ScheduleView], ...]:
    """What a listing shows of a schedule."""
    return (
        Column("ID", lambda each: each.schedule_id, is_whole=True),
        Column("CRON", lambda each: each.cron),
        Column(
            "STATE",
            lambda each: "paused" if each.is_paused else "active",
            tone=lambda each: "yellow" if each.is_paused else "green",
        ),
        Column("LAST", lambda each: age(each.last_schedule_time, now), is_number=True),
        Column("NEXT", lambda each: age(each.next_schedule_time, now), is_number=True),
        Column("QUEUE", lambda each: each.queue_name),
        Column("DESTINATION", lambda each: each.destination),
    )


@click.group()
def schedules() -> None:
    """Schedules: messages that are sent again and again."""


@schedules.command("ls")
@with_broker
def ls(session: Session) -> None:
    """List the schedules, those that fire next first."""
    found = session.ask(calls.schedules())
    found.sort(key=lambda each: (each.is_paused, each.next_schedule_time or 0, each.schedule_id))
    session.out.rows(found, columns(session.now()), ScheduleView.to_json, empty="no schedules")


@schedules.command("show")
@click.argument("schedule_id", shell_complete=complete_ids)
@with_broker
def show(session: Session, *, schedule_id: str) -> None:
    """Show one schedule."""
    found = session.ask(calls.schedule(schedule_id))
    session.out.one(facts(found), found.to_json())


@schedules.command("add")
@click.argument("destination")
@click.option("--cron", help='When: "0 3 * * *", or "CRON_TZ=Europe/Berlin 0 3 * * *".')
@click.option("--every", type=SPAN, help="How often instead: 30s, 5m, 2h, 1d.")
@click.option("--id", "schedule_id", help="Its id; a schedule of that id is replaced.")
@click.option("--queue", help="Put its messages into this queue.")
@click.option("--data", "-d", type=CONTENT, default=b"", help="The body: text, @file, or @- for stdin.")
@click.option("--method", "-X", default="POST", help="How the destination is called.", show_default=True)
@click.option("--header", "-H", "headers", multiple=True, type=HEADER, help="Sent on to the destination.")
@click.option("--retries", type=click.IntRange(0), help="How often each message is tried again.")
@click.option("--timeout", type=SPAN, help="How long the destination may take.")
@click.option("--label", "labels", multiple=True, help="To find its messages by.")
@with_broker
def add(
    session: Session,
    /,
    *,
    destination: str,
    cron: str | None,
    every: int | None,
    schedule_id: str | None,
    queue: str | None,
    data: bytes,
    method: str,
    headers: tuple[tuple[str, str], ...],
    timeout: int | None,
    **settings: object,
) -> None:
    """Send a message to DESTINATION again and again: by --cron or --every. Prints the schedule's id."""
    if (cron is None) == (every is None):
        raise click.UsageError('say when: --cron "0 3 * * *", or --every 30s')
    written = [
        ("Upstash-Cron", cron),
        ("Qtasks-Every", None if every is None else format_duration(every)),
        ("Upstash-Schedule-Id", schedule_id),
        ("Upstash-Queue-Name", queue),
    ]
    options = message_options(data, headers, written, method=method.upper(), timeout_ms=timeout, **settings)
    made = session.ask(calls.create_schedule(Outgoing(destination, data, options)))
    if session.out.is_for_people:
        click.echo(made)
    else:
        session.out.json({"scheduleId": made})


@schedules.command("pause")
@ids_argument
@with_broker
def pause(session: Session, *, ids: tuple[str, ...]) -> None:
    """Let schedules fire no more; what falls due meanwhile is not made up for."""
    one_by_one(session, ids, calls.pause_schedule, "paused")


@schedules.command("resume")
@ids_argument
@with_broker
def resume(session: Session, *, ids: tuple[str, ...]) -> None:
    """Let paused schedules go on."""
    one_by_one(session, ids, calls.resume_schedule, "resumed")


@schedules.command("rm")
@ids_argument
@with_broker
def rm(session: Session, *, ids: tuple[str, ...]) -> None:
    """Remove schedules; the messages that they have made go on."""
    known = {each.schedule_id for each in session.ask(calls.schedules())}

    def remove(name: str) -> calls.Call[None]:
        # The API takes one that is not there for deleted; a person who mistyped it wants to know.
        if name not in known:
            raise NotFound(f"schedule {name} not found")
        return calls.delete_schedule(name)

    one_by_one(session, ids, remove, "removed")


@schedules.command("next")
@click.argument("schedule", shell_complete=complete_ids)
@click.option("-n", "--count", default=5, type=click.IntRange(1, 1000), show_default=True)
@with_broker
def next_(session: Session, *, schedule: str, count: int) -> None:
    """Say when a schedule fires next: by its id, or by an expression: "0 9 * * mon" or "@every 30s"."""
    now = session.now()
    try:
        timing = parse_timing(schedule)
    except InvalidValue as error:
        if " " in schedule.strip():
            raise
        try:
            timing = parse_timing(session.ask(calls.schedule(schedule)).cron)
        except NotFound:
            raise NotFound(f"{schedule} is no schedule, and as a cron expression: {error}") from None
    fires = [now]
    while len(fires) <= count:
        fires.append(timing.next_after(fires[-1]))
    session.out.rows(
        fires[1:],
        (
            Column("FIRES", instant),
            Column("IN", lambda at: span((at - now) // 1000 * 1000) if at - now < 60_000 else age(at, now)),
        ),
        lambda at: {"at": at},
        empty="never",
    )
