"""`qtasks logs`: the log of what befell messages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import click

from qtasks.cli.command import Session, with_broker
from qtasks.cli.filtering import filtered
from qtasks.cli.messages import STATES, TONES, trim_bytes, what_of
from qtasks.cli.output import Form
from qtasks.cli.tables import Column, facts, recent, record, table
from qtasks.client import calls
from qtasks.client.filters import Filter
from qtasks.errors import NotFound
from qtasks.protocol.shapes import LogEntry

LOOK_MS = 1000
OVERLAP_MS = 5000
"""So far back a look goes: entries of one instant may be committed one after the other."""


def columns(now: int) -> tuple[Column[LogEntry], ...]:
    """What a listing shows of a log entry."""
    return (
        Column("TIME", lambda each: recent(each.time, now), is_whole=True),
        Column("STATE", lambda each: each.state.value, tone=lambda each: TONES.get(each.state)),
        Column("MESSAGE", lambda each: each.message_id, is_whole=True),
        Column("STATUS", lambda each: each.response_status, is_number=True),
        Column("WHAT", what_of),
        Column("ERROR", lambda each: each.error),
    )


@click.group()
def logs() -> None:
    """The log: what befell messages, attempt by attempt."""


@logs.command("ls")
@filtered
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Entries of this state.")
@click.option("--limit", default=50, type=click.IntRange(1), help="How many at most.", show_default=True)
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@with_broker
def ls(session: Session, *, wanted: Filter, states: tuple[str, ...], limit: int, follow: bool) -> None:
    """List entries of the log, newest first; with --follow, newest last."""
    wanted = replace(wanted, states=states)
    if follow:
        _follow(session, wanted, limit)
        return
    found = session.each(calls.log(wanted, count=min(limit + 1, 1000), trim_bytes=trim_bytes(session)))
    shown = session.out.rows(
        islice(found, limit), columns(session.now()), LogEntry.to_json, empty="nothing in the log"
    )
    if shown == limit and session.out.is_for_people and next(found, None) is not None:
        session.out.say(f"there is more: --limit {limit * 10}, or --since 1h")


@logs.command("show")
@click.argument("message_id")
@with_broker
def show(session: Session, *, message_id: str) -> None:
    """Show all that befell one message, oldest first."""
    entries = list(session.each(calls.log(Filter(message_ids=(message_id,)))))[::-1]
    if not entries:
        raise NotFound(f"the log knows nothing of {message_id}; what it knows: qtasks messages ls")
    if not session.out.is_for_people:
        session.out.rows(entries, columns(session.now()), LogEntry.to_json, empty="")
        return
    about = facts(entries[0], ("message_id", "url", "method", "queue_name", "labels", "max_retries", "body"))
    click.echo("\n".join(record(about)))
    click.echo()
    kept = [each for each in columns(session.now()) if each.title in ("TIME", "STATE", "STATUS", "ERROR")]
    session.out.rows(entries, kept, LogEntry.to_json, empty="")


def _follow(session: Session, wanted: Filter, limit: int) -> None:
    if session.out.form is Form.JSON:
        raise click.UsageError("--follow never ends, so its JSON comes in lines: --jsonl")
    for count, batch in enumerate(_batches(session, wanted, limit)):
        if session.out.is_for_people:
            lines = table(batch, columns(session.now()))
            click.echo("\n".join(lines[0 if count == 0 else 1 :]))
        else:
            session.out.rows(batch, (), LogEntry.to_json, empty="")


def _batches(session: Session, wanted: Filter, limit: int) -> Iterator[list[LogEntry]]:
    """Give what is new, oldest first, looking again and again."""
    seen: set[tuple[int, str, str]] = set()
    since = wanted.since
    with asyncio.Runner() as runner:
        while True:
            calls_ = calls.log(replace(wanted, since=since), trim_bytes=trim_bytes(session))
            found = list(session.each(calls_, None if seen else limit))[::-1]
            fresh = [each for each in found if _key(each) not in seen]
            if fresh:
                yield fresh
                since = max(since or 0, fresh[-1].time - OVERLAP_MS)
                seen = {_key(each) for each in found if each.time >= since}
            session.broker.let_go()
            runner.run(session.clock.sleep(LOOK_MS))


def _key(entry: LogEntry) -> tuple[int, str, str]:
    return entry.time, entry.message_id, entry.state.value
