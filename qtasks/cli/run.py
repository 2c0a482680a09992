"""`qtasks run`: call a task of an app, as its code would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import orjson

from qtasks.cli import exits
from qtasks.cli.command import printing
from qtasks.cli.kinds import CONTENT, PAIR, SPAN
from qtasks.cli.output import Output
from qtasks.cli.tasks import app_option

if TYPE_CHECKING:
    from qtasks.tasks.results import AsyncResult

ARGUMENTS = '{"to": "a@example.com"}'


@click.command()
@click.argument("name")
@click.option("--arg", "-a", "written", multiple=True, type=PAIR, help="An argument; JSON where that fits.")
@click.option("--data", "-d", type=CONTENT, help=f"All arguments as JSON, such as '{ARGUMENTS}', or @file.")
@click.option("--delay", type=SPAN, help="Not before so long: 10s, 5m, 2h, 1d.")
@click.option("--queue", help="Into this queue instead of the task's.")
@click.option("--retries", type=click.IntRange(0), help="How often it is tried again.")
@click.option("--wait", is_flag=True, help="Wait for the result, and print it as JSON.")
@click.option("--timeout", type=SPAN, default=60_000, help="How long to wait.  [default: 1m]")
@app_option
@printing
def run(
    out: Output,
    /,
    *,
    name: str,
    written: tuple[tuple[str, str], ...],
    data: bytes | None,
    wait: bool,
    timeout: int,
    app_name: str | None,
    delay: int | None,
    **options: Any,
) -> None:
    """Call the task NAME of your app later. Prints the task's id or, with --wait, its result.

    NAME is the task's, or the last part of it: shop.mail.welcome, or welcome.
    """
    from qtasks.home.loading import call_task, load_app

    texts = dict(written) if data is None else _texts(data) | dict(written)
    given = {key: value for key, value in options.items() if value is not None}
    app = load_app(app_name)
    task_id = call_task(app, name, texts, delay_ms=delay, **given)
    if wait:
        _wait(out, app.result(task_id), timeout)
    elif out.is_for_people:
        click.echo(task_id)
    else:
        out.json({"taskId": task_id})


def _texts(data: bytes) -> dict[str, str]:
    """Take JSON apart into the texts of arguments."""
    try:
        members = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise click.UsageError(f"--data is not JSON: {error}") from error
    if not isinstance(members, dict):
        raise click.UsageError(f"--data must be a JSON object of the arguments, such as {ARGUMENTS}")
    return {name: orjson.dumps(value).decode() for name, value in members.items()}


def _wait(out: Output, result: AsyncResult[Any], timeout_ms: int) -> None:
    from qtasks.errors import ResultTimeout, TaskFailed

    out.say(f"waiting for {result.id} …")
    try:
        value = result.get(timeout=timeout_ms / 1000)
    except ResultTimeout:
        mend = f"qtasks tasks show {result.id}"
        out.say(f"qtasks: {result.id} has not finished yet; it goes on, and this shows it: {mend}")
        raise click.exceptions.Exit(exits.FAILED) from None
    except TaskFailed as error:
        out.say(f"qtasks: {error}")
        if error.traceback:
            out.say(error.traceback.rstrip())
        raise click.exceptions.Exit(exits.FAILED) from None
    out.json(value)
