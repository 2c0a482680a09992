"""`qtasks tasks`: what tasks an app has, and where one of their calls is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import orjson

from qtasks.cli import exits
from qtasks.cli.bulk import one_by_one
from qtasks.cli.command import Session, printing, with_broker
from qtasks.cli.output import Output
from qtasks.cli.tables import Column, body_text, clean, facts, span
from qtasks.client import calls
from qtasks.client.call import Call
from qtasks.errors import NotFound
from qtasks.protocol.results import ResultView

if TYPE_CHECKING:
    from qtasks.home.app import QTasks
    from qtasks.home.wiring import AnyTask
    from qtasks.tasks.options import TaskOptions

app_option = click.option("--app", "app_name", metavar="MODULE:NAME", help="Your app.  [default: QTASKS_APP]")


@click.group()
def tasks() -> None:
    """Tasks: what an app has, and where a call is."""


@tasks.command("ls")
@app_option
@printing
def ls(out: Output, *, app_name: str | None) -> None:
    """List the tasks of an app, which is imported for it."""
    from qtasks.home.loading import load_app, tasks_of

    app = load_app(app_name)
    out.rows(tasks_of(app), _columns(app), lambda each: _members(app, each), empty="no tasks")


def _columns(app: QTasks) -> tuple[Column[AnyTask], ...]:
    from qtasks.home.loading import options_of

    return (
        Column("NAME", lambda each: each.name),
        Column("QUEUE", lambda each: _queue(options_of(app, each))),
        Column("RETRIES", lambda each: options_of(app, each).retries, is_number=True),
        Column("TIMEOUT", lambda each: _span(options_of(app, each).timeout_ms), is_number=True),
        Column("PARAMETERS", lambda each: ", ".join(each.signature.parameters)),
    )


def _queue(options: TaskOptions) -> str | None:
    """The queue in which calls wait; None where they wait at a key."""
    return None if options.has_keys else options.queue


def _span(ms: int | None) -> str | None:
    return None if ms is None else span(ms)


def _members(app: QTasks, task: AnyTask) -> dict[str, object]:
    from qtasks.home.loading import options_of

    options = options_of(app, task)
    return {
        "name": task.name,
        "aliases": list(task.aliases),
        "queue": _queue(options),
        "retries": options.retries,
        "timeoutMs": options.timeout_ms,
        "parameters": list(task.signature.parameters),
    }


@tasks.command("show")
@click.argument("task_id")
@with_broker
def show(session: Session, *, task_id: str) -> None:
    """Show where a call of a task is, and its result. Exits with 3 if nobody knows it."""
    found = session.ask(calls.result(task_id))
    pairs = facts(found, ("task_id", "state", "attempts", "created_at", "finished_at"))
    if found.progress is not None:
        of = "" if found.progress.total is None else f" of {found.progress.total:g}"
        note = "" if found.progress.note is None else f", {clean(found.progress.note)}"
        pairs.append(("progress", f"{found.progress.done:g}{of}{note}"))
    if found.value is not None:
        pairs.append(("result", body_text(found.value)))
    pairs.extend(error_facts(found))
    session.out.one(pairs, found.to_json())
    if found.state == "UNKNOWN":
        session.out.say(
            f"qtasks: nothing is known of {task_id}: it never was, or its result has been forgotten"
        )
        raise click.exceptions.Exit(exits.NOT_FOUND)


def error_facts(found: ResultView) -> list[tuple[str, str]]:
    """List what is known of a failure."""
    if found.error is None:
        return []
    error = orjson.loads(found.error)["error"]
    pairs = [("error", clean(f"{error.get('type')}: {error.get('message')}"))]
    if error.get("traceback"):
        pairs.append(("traceback", body_text(str(error["traceback"]).rstrip().encode())))
    return pairs


@tasks.command("cancel")
@click.argument("task_ids", nargs=-1, required=True)
@with_broker
def cancel(session: Session, *, task_ids: tuple[str, ...]) -> None:
    """Call tasks off, by their ids. One that is not under way is not found."""
    one_by_one(session, task_ids, lambda each: _checked(calls.cancel_task(each), each), "cancelled")


@tasks.command("forget")
@click.argument("task_ids", nargs=-1, required=True)
@with_broker
def forget(session: Session, *, task_ids: tuple[str, ...]) -> None:
    """Drop the results that are kept of tasks."""
    one_by_one(session, task_ids, lambda each: _checked(calls.forget_result(each), each), "forgot")


def _checked(call: Call[bool], task_id: str) -> Call[None]:
    """Take a call that says whether there was anything for one that fails if there was not."""

    def read(body: bytes) -> None:
        if not call.read(body):
            raise NotFound(f"nothing to do for {task_id}; where it is: qtasks tasks show {task_id}")

    return Call(call.method, call.target, read, call.headers, call.body)
