"""`qtasks dlq`: list, group, show, replay and remove dead letters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import click

from qtasks.cli import exits
from qtasks.cli.bulk import Rehearsal, one_by_one, step_by_step, yes_option
from qtasks.cli.command import Session, with_broker
from qtasks.cli.filtering import filtered
from qtasks.cli.kinds import PAIR
from qtasks.cli.letters import Ailment, cause_of, grouped, message_of, trace_of
from qtasks.cli.tables import Column, age, body_text, facts
from qtasks.client import calls
from qtasks.client.dead_letters import MOST
from qtasks.client.filters import Filter
from qtasks.protocol.headers import Options
from qtasks.protocol.shapes import DeadLetter

DELIVERY_S = 60.0
"""How long an app on this machine may take."""


def columns(now: int) -> tuple[Column[DeadLetter], ...]:
    """What a listing shows of a dead letter."""
    return (
        Column("ID", lambda each: each.dlq_id, is_whole=True),
        Column("WHAT", lambda each: cause_of(each).what),
        Column("QUEUE", lambda each: each.message.queue_name),
        Column("SENT", lambda each: age(each.message.created_at, now), is_number=True),
        Column("ERROR", lambda each: cause_of(each).error, tone=lambda each: "red"),
        Column("MESSAGE", message_of),
    )


def ailment_columns(now: int) -> tuple[Column[Ailment], ...]:
    """What a listing shows of dead letters of one cause."""
    return (
        Column("COUNT", lambda each: each.count, is_number=True),
        Column("WHAT", lambda each: each.cause.what),
        Column("ERROR", lambda each: each.cause.error, tone=lambda each: "red"),
        Column("PLACE", lambda each: (each.cause.place or "").rpartition("/")[2]),
        Column("LAST SENT", lambda each: age(each.last_at, now), is_number=True),
        Column("NEWEST", lambda each: each.newest.dlq_id, is_whole=True),
        Column("MESSAGE", lambda each: message_of(each.newest)),
    )


def chosen(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command ids and the filter of dead letters, and `--all`."""
    for add in (
        click.option("--all", "everything", is_flag=True, help="All dead letters."),
        filtered,
        click.option("--status", "statuses", multiple=True, type=click.IntRange(0, 999), help="Answered so."),
        click.argument("dlq_ids", nargs=-1),
    ):
        function = add(function)
    return function


@click.group()
def dlq() -> None:
    """Dead letters: what failed for good, why, and running it again."""


@dlq.command("ls")
@filtered
@click.option("--status", "statuses", multiple=True, type=click.IntRange(0, 999), help="Answered so.")
@click.option("--group", "by_cause", is_flag=True, help="Bring those of the same error and line together.")
@click.option("--limit", type=click.IntRange(1), help="How many at most.  [default: 50; grouped: all]")
@with_broker
def ls(
    session: Session, *, wanted: Filter, statuses: tuple[int, ...], by_cause: bool, limit: int | None
) -> None:
    """List dead letters, newest first."""
    wanted = replace(wanted, statuses=statuses)
    if by_cause:
        ailments = grouped(session.each(calls.dead_letters(wanted), limit))
        columns_of = ailment_columns(session.now())
        session.out.rows(ailments, columns_of, Ailment.to_json, empty="no dead letters")
        return
    most = limit or 50
    found = session.each(calls.dead_letters(wanted, count=min(most + 1, MOST)))
    shown = session.out.rows(
        islice(found, most), columns(session.now()), DeadLetter.to_json, empty="no dead letters"
    )
    if shown == most and session.out.is_for_people and next(found, None) is not None:
        session.out.say(f"there are more: --limit {most * 10}, or together: qtasks dlq ls --group")


@dlq.command("show")
@click.argument("dlq_id")
@with_broker
def show(session: Session, *, dlq_id: str) -> None:
    """Show one dead letter: the message, and how it failed."""
    letter = session.ask(calls.dead_letter(dlq_id))
    cause = cause_of(letter)
    pairs = [("id", letter.dlq_id), ("what", cause.what), ("error", f"{cause.error}: {message_of(letter)}")]
    if letter.response_status:
        pairs.append(("status", str(letter.response_status)))
    trace = trace_of(letter)
    if trace is not None:
        pairs.append(("traceback", body_text(trace.rstrip().encode())))
    elif letter.response_body:
        pairs.append(("answer", body_text(letter.response_body)))
    session.out.one([*pairs, *facts(letter.message)], letter.to_json())


@dlq.command("replay")
@chosen
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="How many a second at most.")
@click.option("--retries", type=click.IntRange(0), help="How often it is tried again, instead of before.")
@click.option("--edit", "changes", multiple=True, type=PAIR, help="Another argument for the task; one id.")
@click.option("--app", "app_name", metavar="MODULE:NAME", help="Your app, for --edit.  [default: QTASKS_APP]")
@click.option("--to", metavar="URL", help="Deliver it to an app on this machine instead; one id.")
@yes_option
@with_broker
def replay(
    session: Session,
    /,
    *,
    to: str | None,
    rate: float | None,
    retries: int | None,
    changes: tuple[tuple[str, str], ...],
    app_name: str | None,
    yes: bool,
    **choice: Any,
) -> None:
    """Run dead letters again, by their ids or by a filter. By a filter, a dry run without --yes.

    The dead letter becomes a new message; a task keeps its id, and sees `context.is_replay`. With --to it
    stays, and is delivered to an app on this machine, signed with the keys of this environment.
    """
    options = Options(retries=retries)
    ids, wanted = _choice(**choice)
    if to is not None:
        _deliver_here(session, ids, to, is_plain=not changes and retries is None)
    elif changes:
        _replay_edited(session, ids, dict(changes), app_name, retries)
    elif ids:
        one_by_one(session, ids, lambda each: calls.replay(each, options), "replayed")
    elif yes:
        count = MOST if rate is None else max(1, min(MOST, round(rate)))
        pages = session.broker.pages(calls.replay_many(wanted, options, count=count))
        _step(session, (len(each.items) for each in pages), "replaying", "replayed", rate)
    else:
        _rehearse(session, "replay", wanted)


@dlq.command("rm")
@chosen
@yes_option
@with_broker
def rm(session: Session, /, *, yes: bool, **choice: Any) -> None:
    """Delete dead letters, by their ids or by a filter. By a filter, a dry run without --yes."""
    ids, wanted = _choice(**choice)
    if ids:
        one_by_one(session, ids, calls.delete_dead_letter, "deleted")
    elif yes:
        pages = session.broker.pages(calls.delete_dead_letters(wanted))
        _step(session, (sum(each.items) for each in pages), "deleting", "deleted", None)
    else:
        _rehearse(session, "delete", wanted)


def _choice(
    *, dlq_ids: tuple[str, ...], wanted: Filter, statuses: tuple[int, ...], everything: bool
) -> tuple[tuple[str, ...], Filter]:
    """Give the ids, or the filter of a command on many; raises `UsageError` for both and for neither."""
    wanted = replace(wanted, statuses=statuses)
    is_filtered = everything or not wanted.is_empty
    if bool(dlq_ids) == is_filtered:
        raise click.UsageError("say which: ids, or a filter such as --queue mail, or --all")
    return dlq_ids, replace(wanted, everything=everything and wanted.is_empty)


def _rehearse(session: Session, verb: str, wanted: Filter) -> None:
    found = session.each(calls.dead_letters(replace(wanted, everything=False)))
    Rehearsal(verb, "dead letter", columns(session.now()), DeadLetter.to_json).show(session, found)


def _step(session: Session, counts: Iterator[int], verb: str, done: str, rate: float | None) -> None:
    step_by_step(session, counts, verb=verb, done=done, noun="dead letter", key=done, rate=rate)


def _replay_edited(
    session: Session, ids: tuple[str, ...], changes: dict[str, str], app_name: str | None, retries: int | None
) -> None:
    if len(ids) != 1:
        raise click.UsageError("--edit is about one dead letter; give its id")
    from qtasks.home.loading import load_app
    from qtasks.home.replaying import edited

    letter = session.ask(calls.dead_letter(ids[0]))
    message = edited(load_app(app_name), letter, changes, retries)
    answer = session.ask(calls.send(message))
    # The new message is stored; should this end here, the letter is still there and nothing is lost.
    session.ask(calls.delete_dead_letter(letter.dlq_id))
    names = ", ".join(changes)
    session.out.done(f"replayed {ids[0]} as {answer.message_id}, with another {names}", answer.to_json())


def _deliver_here(session: Session, ids: tuple[str, ...], to: str, *, is_plain: bool) -> None:
    if len(ids) != 1 or not is_plain:
        raise click.UsageError(
            "--to is about one dead letter as it is; give its id, and no --edit or --retries"
        )
    from qtasks.client.attempts import send_attempt
    from qtasks.home.redelivering import attempt_of
    from qtasks.ids import Ids

    settings = session.broker.settings()
    letter = session.ask(calls.dead_letter(ids[0]))
    made = attempt_of(letter, to, settings, session.clock, Ids())
    if not settings.signing_keys:
        session.out.say("not signed: QTASKS_CURRENT_SIGNING_KEY and QTASKS_NEXT_SIGNING_KEY are not set here")
    answer = send_attempt(made.method, made.url, made.headers, made.body, timeout=DELIVERY_S)
    if session.out.is_for_people:
        session.out.say(f"{made.url} answered {answer.status}")
        click.echo(body_text(answer.body))
    else:
        members = {"url": made.url, "status": answer.status, "body": answer.body.decode(errors="replace")}
        session.out.json(members)
    if not 200 <= answer.status < 300:
        raise click.exceptions.Exit(exits.FAILED)
