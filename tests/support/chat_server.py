"""A small server that speaks OpenAI's chat completions, with keys, errors and rate limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

PATH = "/v1/chat/completions"


@dataclass(slots=True)
class ChatServer:
    """Answers who bears its key with an echo of the last message; `busy` calls are told to come back."""

    key: str
    busy: int = 0
    reset: str = "2s"
    """What `X-RateLimit-Reset-Tokens` says while it is busy."""
    calls: list[dict[str, Any]] = field(default_factory=list)

    def app(self) -> Starlette:
        """Give the ASGI app to serve."""
        return Starlette(routes=[Route(PATH, self._complete, methods=["POST"])])

    async def _complete(self, request: Request) -> Response:
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return _error(401, "Incorrect API key provided", "invalid_api_key")
        asked = orjson.loads(await request.body())
        self.calls.append(asked)
        if not asked.get("model") or not asked.get("messages"):
            return _error(400, "you must provide a model and messages", "invalid_request_error")
        if self.busy:
            self.busy -= 1
            headers = {"X-RateLimit-Reset-Tokens": self.reset, "X-RateLimit-Reset-Requests": "1s"}
            return _error(429, "Rate limit reached", "rate_limit_exceeded", headers)
        message = {"role": "assistant", "content": f"You said: {asked['messages'][-1]['content']}"}
        return JSONResponse(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1_700_000_000,
                "model": asked["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
            }
        )


def _error(status: int, text: str, code: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"message": text, "type": code, "code": code}}, status, headers)
