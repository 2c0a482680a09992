"""The broker's HTTP API: one line per operation here, one module per resource beside it.

Routing works on the raw path, because a destination such as `https://example.com/a%2Fb` stands in it
unencoded. Literal segments match in any case and a trailing slash is allowed (contract 2.0).
"""

from __future__ import annotations

from qtasks.broker.api import batch, dead_letters, enqueue, health, logs, messages, queues, results
from qtasks.broker.api.routing import Api, Route

ROUTES = (
    # A sender of webhooks cannot choose its method, so publish takes them all (contract 2.1).
    *(
        Route(method, "/v2/publish/{destination...}", enqueue.publish)
        for method in ("POST", "GET", "PUT", "PATCH", "DELETE")
    ),
    Route("POST", "/v2/enqueue/{queue}/{destination...}", enqueue.enqueue),
    Route("POST", "/v2/batch", batch.batch),
    Route("GET", "/v2/messages/{id}", messages.show),
    Route("DELETE", "/v2/messages/{id}", messages.cancel),
    Route("DELETE", "/v2/messages", messages.cancel_many),
    Route("GET", "/v2/queues", queues.index),
    Route("POST", "/v2/queues", queues.upsert),
    Route("GET", "/v2/queues/{queue}", queues.show),
    Route("DELETE", "/v2/queues/{queue}", queues.delete),
    Route("POST", "/v2/queues/{queue}/pause", queues.pause),
    Route("POST", "/v2/queues/{queue}/resume", queues.resume),
    Route("GET", "/v2/logs", logs.logs),
    Route("GET", "/v2/events", logs.events),
    Route("GET", "/v2/dlq", dead_letters.index),
    Route("DELETE", "/v2/dlq", dead_letters.delete_many),
    Route("POST", "/v2/dlq/retry", dead_letters.replay_many),
    Route("POST", "/v2/dlq/retry/{id}", dead_letters.replay),
    Route("GET", "/v2/dlq/{id}", dead_letters.show),
    Route("DELETE", "/v2/dlq/{id}", dead_letters.delete),
    Route("GET", "/qtasks/v1/results/{id}", results.show),
    Route("GET", "/livez", health.livez, is_open=True),
)

__all__ = ["ROUTES", "Api"]
