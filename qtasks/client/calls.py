"""All operations of the API as values: functions that give a `Call`, for a client to send.

They stand in one module for each resource; this one has them all in one place.
"""

from __future__ import annotations

from qtasks.client.call import Call, Page, following
from qtasks.client.dead_letters import (
    dead_letter,
    dead_letters,
    delete_dead_letter,
    delete_dead_letters,
    replay,
    replay_many,
)
from qtasks.client.filters import EVERYTHING, Filter
from qtasks.client.flow_keys import (
    GlobalParallelism,
    flow_key,
    flow_keys,
    global_parallelism,
    pause_flow_key,
    pin_flow_key,
    reset_flow_rate,
    resume_flow_key,
    unpin_flow_key,
)
from qtasks.client.health import livez, openapi, readyz
from qtasks.client.keys import (
    NamedToken,
    SigningKeys,
    make_token,
    revoke_token,
    rotate_keys,
    signing_keys,
    tokens,
)
from qtasks.client.logs import log, short_log
from qtasks.client.messages import (
    batch,
    cancel,
    cancel_all,
    cancel_labelled,
    cancel_many,
    cancel_matching,
    enqueue,
    fan_out,
    fan_out_batch,
    message,
    publish,
    send,
)
from qtasks.client.queues import delete_queue, pause_queue, queue, queues, resume_queue, set_queue
from qtasks.client.results import cancel_task, forget_result, report_progress, result, settled
from qtasks.client.schedules import (
    create_schedule,
    delete_schedule,
    pause_schedule,
    resume_schedule,
    schedule,
    schedules,
)
from qtasks.client.url_groups import (
    add_endpoints,
    delete_url_group,
    remove_endpoints,
    set_group_headers,
    url_group,
    url_groups,
)

__all__ = [
    "Call",
    "EVERYTHING",
    "Filter",
    "GlobalParallelism",
    "NamedToken",
    "Page",
    "SigningKeys",
    "add_endpoints",
    "batch",
    "cancel",
    "cancel_all",
    "cancel_labelled",
    "cancel_many",
    "cancel_matching",
    "cancel_task",
    "create_schedule",
    "dead_letter",
    "dead_letters",
    "delete_dead_letter",
    "delete_dead_letters",
    "delete_queue",
    "delete_schedule",
    "delete_url_group",
    "enqueue",
    "fan_out",
    "fan_out_batch",
    "flow_key",
    "flow_keys",
    "following",
    "forget_result",
    "global_parallelism",
    "livez",
    "log",
    "make_token",
    "message",
    "openapi",
    "pause_flow_key",
    "pause_queue",
    "pause_schedule",
    "pin_flow_key",
    "publish",
    "queue",
    "queues",
    "readyz",
    "remove_endpoints",
    "replay",
    "replay_many",
    "report_progress",
    "reset_flow_rate",
    "result",
    "resume_flow_key",
    "resume_queue",
    "resume_schedule",
    "revoke_token",
    "rotate_keys",
    "schedule",
    "schedules",
    "send",
    "set_group_headers",
    "set_queue",
    "settled",
    "short_log",
    "signing_keys",
    "tokens",
    "unpin_flow_key",
    "url_group",
    "url_groups",
]
