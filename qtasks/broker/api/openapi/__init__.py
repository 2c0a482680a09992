"""`GET /openapi.json`: what this API takes and answers, in OpenAPI 3.1, without a token.

Only the operation is here; the document is loaded and made when it is first asked for, as few brokers are.
"""

from __future__ import annotations

import asyncio
from functools import cache

import orjson
from starlette.responses import Response

from qtasks.broker.api.routing import Call


async def show(call: Call) -> Response:
    """Describe the API, as this broker has it."""
    encoded = await asyncio.to_thread(_encoded, call.broker.config.strict)
    return Response(encoded, media_type="application/json")


@cache
def _encoded(strict: bool) -> bytes:
    from qtasks.broker.api.openapi.document import document

    return orjson.dumps(document(strict=strict))
