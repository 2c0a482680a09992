"""The broker's HTTP API: one line per operation here, one module per resource beside it.

Routing works on the raw path, because a destination such as `https://example.com/a%2Fb` stands in it
unencoded. Literal segments match in any case and a trailing slash is allowed (contract 2.0).
"""

from __future__ import annotations

from qtasks.broker.api import (
    batch,
    dead_letters,
    enqueue,
    flow_control,
    health,
    keys,
    logs,
    messages,
    openapi,
    queues,
    results,
    schedules,
    url_groups,
)
from qtasks.broker.api.routing import Api, Route

ROUTES = (
    Route("POST", "/v2/publish/{destination...}", enqueue.publish, publishes=True),
    # A sender of webhooks cannot choose its method, so publish takes them all (contract 2.1).
    *(
        Route(
            method, "/v2/publish/{destination...}", enqueue.publish, publishes=True, secret=True, extra=True
        )
        for method in ("GET", "PUT", "PATCH", "DELETE")
    ),
    Route("POST", "/v2/enqueue/{queue}/{destination...}", enqueue.enqueue, publishes=True),
    Route("POST", "/v2/batch", batch.batch, publishes=True),
    Route("GET", "/v2/messages/{id}", messages.show),
    Route("DELETE", "/v2/messages/{id}", messages.cancel),
    Route("DELETE", "/v2/messages", messages.cancel_many),
    Route("GET", "/v2/queues", queues.index),
    Route("POST", "/v2/queues", queues.upsert),
    Route("GET", "/v2/queues/{queue}", queues.show),
    Route("DELETE", "/v2/queues/{queue}", queues.delete),
    Route("POST", "/v2/queues/{queue}/pause", queues.pause),
    Route("POST", "/v2/queues/{queue}/resume", queues.resume),
    # Before the route that makes schedules, whose destination could be anything.
    *(
        Route(method, f"/v2/schedules/{{id}}/{verb}", act)
        for verb, act in (("pause", schedules.pause), ("resume", schedules.resume))
        for method in ("POST", "PATCH", "PUT")
    ),
    Route("POST", "/v2/schedules/{destination...}", schedules.create),
    Route("GET", "/v2/schedules", schedules.index),
    Route("GET", "/v2/schedules/{id}", schedules.show),
    Route("DELETE", "/v2/schedules/{id}", schedules.delete),
    Route("GET", "/v2/topics", url_groups.index),
    Route("GET", "/v2/topics/{name}", url_groups.show),
    Route("DELETE", "/v2/topics/{name}", url_groups.delete),
    Route("PATCH", "/v2/topics/{name}", url_groups.set_headers),
    Route("POST", "/v2/topics/{name}/endpoints", url_groups.add_endpoints),
    Route("DELETE", "/v2/topics/{name}/endpoints", url_groups.remove_endpoints),
    Route("GET", "/v2/flowControl", flow_control.index),
    Route("GET", "/v2/flowControl/{key...}", flow_control.show),
    Route("POST", "/v2/flowControl/{key...}", flow_control.steer),
    Route("GET", "/v2/globalParallelism", flow_control.global_parallelism),
    Route("GET", "/v2/keys", keys.show, secret=True),
    Route("POST", "/v2/keys/rotate", keys.rotate),
    Route("POST", "/v2/rotate", keys.rotate),
    Route("GET", "/v2/logs", logs.logs),
    Route("GET", "/v2/events", logs.events),
    Route("GET", "/v2/dlq", dead_letters.index),
    Route("DELETE", "/v2/dlq", dead_letters.delete_many),
    Route("POST", "/v2/dlq/retry", dead_letters.replay_many),
    Route("POST", "/v2/dlq/retry/{id}", dead_letters.replay),
    Route("GET", "/v2/dlq/{id}", dead_letters.show),
    Route("DELETE", "/v2/dlq/{id}", dead_letters.delete),
    Route("GET", "/qtasks/v1/results/{id}", results.show, publishes=True),
    Route("DELETE", "/qtasks/v1/results/{id}", results.forget, publishes=True),
    Route("POST", "/qtasks/v1/results/query", results.query, publishes=True, reads=True),
    Route("POST", "/qtasks/v1/results/{id}/progress", results.report, publishes=True),
    Route("POST", "/qtasks/v1/tasks/{id}/cancel", results.cancel, publishes=True),
    Route("GET", "/qtasks/v1/keys", keys.status),
    Route("GET", "/qtasks/v1/tokens", keys.tokens, secret=True),
    Route("POST", "/qtasks/v1/tokens", keys.make_token),
    Route("DELETE", "/qtasks/v1/tokens/{name}", keys.revoke_token),
    Route("GET", "/livez", health.livez, is_open=True),
    Route("GET", "/readyz", health.readyz, is_open=True),
    Route("GET", "/metrics", health.metrics, is_local=True),
    Route("GET", "/openapi.json", openapi.show, is_open=True),
)

__all__ = ["ROUTES", "Api"]
