"""`qtasks messages`: list, show and call off messages.

The API has no listing of messages, so they are found in the log: the newest entry of each says its state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

import click

from qtasks.cli.bulk import Rehearsal, one_by_one, yes_option
from qtasks.cli.command import Session, with_broker
from qtasks.cli.filtering import filtered
from qtasks.cli.output import counted
from qtasks.cli.tables import Column, age, facts
from qtasks.client import calls
from qtasks.client.filters import EVERYTHING, Filter
from qtasks.protocol.shapes import LogEntry, State

ENDED = (State.DELIVERED, State.FAILED, State.CANCELED)
TONES = {State.DELIVERED: "green", State.FAILED: "red", State.ERROR: "red", State.RETRY: "yellow"}
STATES = tuple(each.value.lower() for each in State if each is not State.IN_PROGRESS)
BEGINNING = 256
_ENVELOPE = re.compile(rb'\{"v":[0-9]+,"task":"([^"\\]+)"')
MOST_SEEN = 10_000
"""Messages that a dry run looks at."""


def columns(now: int) -> tuple[Column[LogEntry], ...]:
    """What a listing shows of a message, by the newest entry of its log."""
    return (
        Column("MESSAGE", lambda each: each.message_id, is_whole=True),
        Column("STATE", lambda each: each.state.value, tone=lambda each: TONES.get(each.state)),
        Column("QUEUE", lambda each: each.queue_name),
        Column("SINCE", lambda each: age(each.time, now), is_number=True),
        Column("NEXT", lambda each: age(each.next_delivery_time, now), is_number=True),
        Column("WHAT", what_of),
    )


def what_of(entry: LogEntry) -> str:
    """Give the name of the task that a message calls, else its destination.

    The beginning of the body is enough: that is how an envelope begins.
    """
    found = _ENVELOPE.match(entry.body)
    return found[1].decode(errors="replace") if found else entry.url


def trim_bytes(session: Session) -> int:
    """Say how much of bodies a listing needs: for people their beginnings, for programs nothing."""
    return BEGINNING if session.out.is_for_people else -1


def newest(entries: Iterable[LogEntry]) -> Iterator[LogEntry]:
    """Give the first entry of each message; entries come newest first."""
    seen: set[str] = set()
    for each in entries:
        if each.message_id not in seen:
            seen.add(each.message_id)
            yield each


@click.group()
def messages() -> None:
    """Messages: what was sent, where it is, and calling it off."""


@messages.command("ls")
@filtered
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Now in this state.")
@click.option("--pending", is_flag=True, help="Only those that have not ended.")
@click.option("--limit", default=50, type=click.IntRange(1), help="How many at most.", show_default=True)
@with_broker
def ls(session: Session, *, wanted: Filter, states: tuple[str, ...], pending: bool, limit: int) -> None:
    """List messages, those to which something happened last first."""
    found = _messages(session, wanted, states, pending)
    shown = session.out.rows(
        islice(found, limit), columns(session.now()), LogEntry.to_json, empty="no messages"
    )
    if shown == limit and session.out.is_for_people and next(found, None) is not None:
        session.out.say(f"there are more: --limit {limit * 10}")


def _messages(
    session: Session, wanted: Filter, states: tuple[str, ...] = (), pending: bool = False
) -> Iterator[LogEntry]:
    entries = session.each(calls.log(wanted, trim_bytes=trim_bytes(session)))
    for each in newest(entries):
        is_wanted = not states or each.state.value.lower() in states
        if is_wanted and not (pending and each.state in ENDED):
            yield each


@messages.command("show")
@click.argument("message_id")
@with_broker
def show(session: Session, *, message_id: str) -> None:
    """Show a message that is on its way or has just ended."""
    found = session.ask(calls.message(message_id))
    session.out.one(facts(found), found.to_json())


@messages.command("cancel")
@click.argument("message_ids", nargs=-1)
@filtered
@click.option("--all", "everything", is_flag=True, help="All messages there are.")
@yes_option
@with_broker
def cancel(
    session: Session, *, message_ids: tuple[str, ...], wanted: Filter, everything: bool, yes: bool
) -> None:
    """Call messages off, by their ids or by a filter. By a filter, a dry run without --yes."""
    if message_ids:
        if everything or not wanted.is_empty:
            raise click.UsageError("give ids, or a filter, and not both")
        one_by_one(session, message_ids, calls.cancel, "cancelled")
        return
    if wanted.is_empty and not everything:
        raise click.UsageError("say which: ids, a filter such as --queue mail, or --all")
    if everything:
        wanted = EVERYTHING if wanted.is_empty else wanted
    if yes:
        count = session.ask(calls.cancel_many(wanted))
        session.out.done(f"cancelled {counted(count, 'message')}", {"cancelled": count})
        return
    found = islice(_messages(session, replace(wanted, everything=False), pending=True), MOST_SEEN)
    Rehearsal("cancel", "message", columns(session.now()), LogEntry.to_json).show(session, found, MOST_SEEN)
