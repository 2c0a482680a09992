"""Schedules as hosted QStash takes them: cron expressions of five fields, and none of our own headers.

What it cannot do is refused when the app starts, never left out in silence. How single calls are put for
it is the business of `home/`.
"""

from __future__ import annotations

from dataclasses import replace

from qtasks.errors import UnsupportedByBroker
from qtasks.protocol.cron import Cron, parse_cron
from qtasks.protocol.every import Every
from qtasks.protocol.flow import FlowSpec
from qtasks.protocol.headers import Options
from qtasks.protocol.shapes import Outgoing

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


def in_schedule_dialect(message: Outgoing, task: str) -> Outgoing:
    """Put the message of a schedule for hosted QStash; raises `UnsupportedByBroker`.

    Its queues are strictly ordered, so an unordered one is a flow-control key of the same name.
    """
    options = message.options
    of = f"schedule {options.schedule_id} of task {task}"
    for option, value in _beyond(options).items():
        if value is not None:
            raise UnsupportedByBroker(
                f"hosted QStash cannot do {option}={value!r}, as {of} asks; leave it away, or use our broker",
                option=option,
            )
    cron = options.cron
    if cron is None and options.every is not None:
        cron = cron_of(options.every, of)
    queue, spec, flow = options.schedule_queue, options.queue, options.flow
    if queue is not None and spec is not None and not spec.ordered:
        flow, queue = FlowSpec(queue, parallelism=spec.parallelism), None
    plain = replace(
        options,
        cron=cron,
        every=None,
        schedule_queue=queue,
        flow=flow,
        queue=None,
        result_ttl_ms=None,
        catch_up=None,
        overlap=None,
    )
    return replace(message, options=plain)


def _beyond(options: Options) -> dict[str, object]:
    """Give what is asked for that only our own broker can do, as people write it."""
    is_unique = options.unique is not None or options.dedup_window_ms is not None
    return {
        "overlap": options.overlap if options.overlap != "allow" else None,
        "catch_up": options.catch_up if options.catch_up != "latest" else None,
        "expires": None if options.expires_after_ms is None else options.expires_after_ms / 1000,
        "unique": True if is_unique else None,
    }


def cron_of(every: Every, what: str) -> Cron:
    """Give the cron expression that fires at the same instants; raises `UnsupportedByBroker` without one."""
    minutes, seconds_ms = divmod(every.interval_ms, MINUTE_MS)
    hours, minutes_ms = divmod(every.interval_ms, HOUR_MS)
    if not seconds_ms and minutes and 60 % minutes == 0 and minutes < 60:
        return parse_cron("* * * * *" if minutes == 1 else f"*/{minutes} * * * *")
    if not minutes_ms and hours and 24 % hours == 0 and hours < 24:
        return parse_cron("0 * * * *" if hours == 1 else f"0 */{hours} * * *")
    if every.interval_ms == DAY_MS:
        return parse_cron("0 0 * * *")
    if every.interval_ms == 7 * DAY_MS:
        return parse_cron("0 0 * * 4")  # 1970 began on a Thursday
    raise UnsupportedByBroker(
        f"hosted QStash has cron expressions alone, and none fires every {every.interval_ms / 1000:g} s, "
        f"as {what} asks; choose minutes that divide an hour, hours that divide a day, a day or a week",
        option="schedule",
    )
