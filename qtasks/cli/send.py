"""`qtasks send`: publish or enqueue one message."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from qtasks.cli.command import Session, with_broker
from qtasks.cli.completing import live
from qtasks.cli.kinds import CONTENT, HEADER, SPAN
from qtasks.client import calls
from qtasks.protocol.headers import Options, parse_options, render_options
from qtasks.protocol.shapes import Enqueued, Outgoing

JSON_TYPE = "application/json"


@click.command()
@click.argument("destination")
@click.option(
    "--queue",
    help="Put it into this queue; a missing one is made.",
    shell_complete=live(calls.queues, lambda each: each.name),
)
@click.option("--data", "-d", type=CONTENT, default=b"", help="The body: text, @file, or @- for stdin.")
@click.option("--method", "-X", default="POST", help="How the destination is called.", show_default=True)
@click.option("--header", "-H", "headers", multiple=True, type=HEADER, help="Sent on to the destination.")
@click.option("--delay", type=SPAN, help="Not before so long: 10s, 5m, 2h, 1d.")
@click.option("--retries", type=click.IntRange(0), help="How often it is tried again.")
@click.option("--timeout", type=SPAN, help="How long the destination may take.")
@click.option("--label", "labels", multiple=True, help="To find it by.")
@click.option("--dedup-id", help="Of equal ones within ten minutes, only the first is taken.")
@click.option("--callback", help="A URL to be told of each attempt.")
@click.option("--failure-callback", help="A URL to be told if it fails for good.")
@with_broker
def send(
    session: Session,
    /,
    *,
    destination: str,
    queue: str | None,
    data: bytes,
    method: str,
    headers: tuple[tuple[str, str], ...],
    delay: int | None,
    callback: str | None,
    failure_callback: str | None,
    **settings: Any,
) -> None:
    """Send a message to DESTINATION: a URL, a URL group, or an API name such as api/llm.

    Prints its id. What parses as JSON is sent as JSON, unless --header says another Content-Type.
    """
    options = message_options(
        data,
        headers,
        [("Upstash-Callback", callback), ("Upstash-Failure-Callback", failure_callback)],
        method=method.upper(),
        delay_ms=delay,
        timeout_ms=settings.pop("timeout"),
        **settings,
    )
    answers = session.ask(calls.fan_out(Outgoing(destination, data, options, queue=queue)))
    if session.out.is_for_people:
        for each in answers:
            click.echo(each.message_id)
            if each.deduplicated:
                session.out.say("a message with that deduplication id is there already: this is its id")
    elif len(answers) == 1:
        session.out.json(answers[0].to_json())
    else:
        session.out.rows(answers, (), Enqueued.to_json, empty="")


def message_options(
    body: bytes,
    headers: tuple[tuple[str, str], ...],
    written: list[tuple[str, str | None]],
    **settings: Any,
) -> Options:
    """Make the options of a message; `written` are settings as headers, None where they are not given.

    Raises `BadRequest` for what the wire does not take.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    plain = [(f"Upstash-Forward-{name}", value) for name, value in headers]
    types = [value for name, value in headers if name.lower() == "content-type"]
    pairs = [
        *render_options(replace(Options(), **given)),
        *plain,
        *((name, value) for name, value in written if value),
    ]
    read = parse_options(pairs)
    if types or not _is_json(body):
        return read
    return replace(read, content_type=JSON_TYPE)


def _is_json(body: bytes) -> bool:
    import orjson

    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True
