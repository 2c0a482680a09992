"""`/v2/publish/{destination}` and `/v2/enqueue/{queue}/{destination}` (contract 2.1, 2.2)."""

from __future__ import annotations

from starlette.responses import Response

from qtasks.broker.api import schedules
from qtasks.broker.api.incoming import read_asked, refuse_schedule_options
from qtasks.broker.api.routing import Call, json_response, known_pairs
from qtasks.protocol.destinations import Target, check_queue_name, split_target

IN_PUBLISH = 2  # segments before the destination: v2, publish
IN_ENQUEUE = 3  # v2, enqueue, the queue's name


async def publish(call: Call) -> Response:
    """Accept one message without a queue: 200, or 202 with the first id for a duplicate.

    With `Upstash-Cron` it makes a schedule instead, as `POST /v2/schedules` does.
    """
    target = split_target(call.raw_path, call.raw_query, IN_PUBLISH)
    cron = call.request.headers.get("upstash-cron") or dict(target.config).get("upstash-cron")
    if cron:
        return await schedules.create_from(call, target)
    return await _accept(call, target, None)


async def enqueue(call: Call) -> Response:
    """Accept one message for a queue: 200, or 202 with the first id for a duplicate."""
    target = split_target(call.raw_path, call.raw_query, IN_ENQUEUE)
    queue = target.segments[2]
    check_queue_name(queue)
    return await _accept(call, target, queue)


async def _accept(call: Call, target: Target, queue: str | None) -> Response:
    call.broker.check_open()
    asked = await read_asked(
        call,
        target.destination,
        call.sent,
        await call.body(call.broker.config.max_message_bytes),
        config=known_pairs(target.config, call.broker),
        queue=queue,
        token_in_header=call.token_in_header,
    )
    refuse_schedule_options(asked.messages[0].options)
    answers = await call.broker.aaccept(asked.messages)
    are_duplicates = all(each.deduplicated for each in answers)
    return json_response(asked.answer(answers), 202 if are_duplicates else 200)
