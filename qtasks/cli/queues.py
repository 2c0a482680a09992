"""`qtasks queues`: list, show, set, pause, resume and remove queues."""

from __future__ import annotations

import click

from qtasks.cli.bulk import Rehearsal, one_by_one, yes_option
from qtasks.cli.command import Session, with_broker
from qtasks.cli.completing import live
from qtasks.cli.tables import Column, age, facts
from qtasks.client import calls
from qtasks.errors import NotFound
from qtasks.protocol.shapes import QueueView

complete_names = live(calls.queues, lambda each: each.name)
names_argument = click.argument("names", nargs=-1, required=True, shell_complete=complete_names)


def columns(now: int) -> tuple[Column[QueueView], ...]:
    """What a listing shows of a queue."""
    return (
        Column("NAME", lambda each: each.name, is_whole=True),
        Column("LAG", lambda each: each.lag, is_number=True),
        Column("PARALLELISM", lambda each: each.parallelism, is_number=True),
        Column("ORDER", lambda each: "strict" if each.ordered else "free"),
        Column(
            "STATE",
            lambda each: "paused" if each.paused else "active",
            tone=lambda each: "yellow" if each.paused else "green",
        ),
        Column("AGE", lambda each: age(each.created_at, now), is_number=True),
    )


@click.group()
def queues() -> None:
    """Queues: what waits in them, how many run at once, and whether they go on."""


@queues.command("ls")
@click.option("--lagging", is_flag=True, help="Only those in which something waits, most first.")
@with_broker
def ls(session: Session, *, lagging: bool) -> None:
    """List the queues."""
    found = session.ask(calls.queues())
    if lagging:
        found = sorted((each for each in found if each.lag), key=lambda each: -each.lag)
    session.out.rows(found, columns(session.now()), QueueView.to_json, empty="no queues")


@queues.command("show")
@click.argument("name", shell_complete=complete_names)
@with_broker
def show(session: Session, *, name: str) -> None:
    """Show one queue."""
    found = session.ask(calls.queue(name))
    session.out.one(facts(found), found.to_json())


@queues.command("set")
@click.argument("name", shell_complete=complete_names)
@click.option("--parallelism", type=click.IntRange(1), help="How many run at once.")
@click.option("--paused/--active", default=None, help="Whether it stands still.")
@with_broker
def set_(session: Session, *, name: str, parallelism: int | None, paused: bool | None) -> None:
    """Make a queue, or change one. What is not given stays; a new queue is in strict order."""
    if parallelism is None:
        try:
            parallelism = session.ask(calls.queue(name)).parallelism
        except NotFound:
            parallelism = 1
    session.ask(calls.set_queue(name, parallelism=parallelism, paused=paused))
    found = session.ask(calls.queue(name))
    state = "paused" if found.paused else "active"
    session.out.done(f"set {name}: parallelism {found.parallelism}, {state}", found.to_json())


@queues.command("pause")
@names_argument
@with_broker
def pause(session: Session, *, names: tuple[str, ...]) -> None:
    """Start nothing more of queues; what is in flight goes on."""
    one_by_one(session, names, calls.pause_queue, "paused")


@queues.command("resume")
@names_argument
@with_broker
def resume(session: Session, *, names: tuple[str, ...]) -> None:
    """Let paused queues go on."""
    one_by_one(session, names, calls.resume_queue, "resumed")


@queues.command("rm")
@names_argument
@yes_option
@with_broker
def rm(session: Session, *, names: tuple[str, ...], yes: bool) -> None:
    """Remove queues, and call off what waits in them. A dry run without --yes."""
    if yes:
        one_by_one(session, names, calls.delete_queue, "removed")
        return
    found = [session.ask(calls.queue(name)) for name in dict.fromkeys(names)]
    waiting = sum(each.lag for each in found)
    Rehearsal("remove", "queue", columns(session.now()), QueueView.to_json).show(session, found)
    if waiting and session.out.is_for_people:
        session.out.say(f"{waiting:,} waiting would be called off with them")
