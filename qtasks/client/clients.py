"""`Client` and `AsyncClient`: each sends a `Call` and turns failures into our exceptions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import orjson

from qtasks.client.call import Call, Page, following
from qtasks.errors import (
    BrokerUnavailable,
    BrokerUnreachable,
    InvalidValue,
    RequestError,
    StoreFull,
    TooManyRequests,
    refusal,
)
from qtasks.protocol.durations import span_ms

T = TypeVar("T")

SOCKET_HOST = "http://qtasks.internal"


class Client:
    """Speaks to a broker from plain code. `socket` is the path of an embedded broker's Unix socket.

    Raises `RequestError` for a refusal (4xx), `BrokerUnavailable` for a 5xx, `BrokerUnreachable` when
    there is no answer.
    """

    def __init__(self, url: str, token: str, *, socket: str | None = None, timeout: float = 10) -> None:
        transport = httpx.HTTPTransport(uds=socket) if socket else None
        self._http = httpx.Client(transport=transport, timeout=timeout, **_setup(url, token, socket))

    def send(self, call: Call[T]) -> T:
        """Carry out one operation."""
        try:
            response = self._http.request(
                call.method, call.target, headers=_encoded(call.headers), content=call.body
            )
        except httpx.TransportError as error:
            raise _unreachable(error) from error
        return read_answer(call, response)

    def pages(self, call: Call[Page[T]]) -> Iterator[Page[T]]:
        """Carry out an operation on a page, and again for each page that follows."""
        page = self.send(call)
        yield page
        while page.cursor is not None:
            page = self.send(following(call, page.cursor))
            yield page

    def each(self, call: Call[Page[T]]) -> Iterator[T]:
        """Give the items of all pages of a listing, asking for a page when it is needed."""
        for page in self.pages(call):
            yield from page.items

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """Speaks to a broker from an event loop; raises what `Client` raises."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        socket: str | None = None,
        limits: httpx.Limits | None = None,
        timeout: httpx.Timeout | float = 10,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if transport is None:
            transport = httpx.AsyncHTTPTransport(uds=socket, limits=limits or httpx.Limits())
        self._http = httpx.AsyncClient(transport=transport, timeout=timeout, **_setup(url, token, socket))

    async def send(self, call: Call[T]) -> T:
        """Carry out one operation."""
        try:
            response = await self._http.request(
                call.method, call.target, headers=_encoded(call.headers), content=call.body
            )
        except httpx.TransportError as error:
            raise _unreachable(error) from error
        return read_answer(call, response)

    async def pages(self, call: Call[Page[T]]) -> AsyncIterator[Page[T]]:
        """Carry out an operation on a page, and again for each page that follows."""
        page = await self.send(call)
        yield page
        while page.cursor is not None:
            page = await self.send(following(call, page.cursor))
            yield page

    async def each(self, call: Call[Page[T]]) -> AsyncIterator[T]:
        """Give the items of all pages of a listing, asking for a page when it is needed."""
        async for page in self.pages(call):
            for item in page.items:
                yield item

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _setup(url: str, token: str, socket: str | None) -> dict[str, Any]:
    return {
        "base_url": SOCKET_HOST if socket else url.rstrip("/"),
        "headers": {"Authorization": f"Bearer {token}"},
        "trust_env": False,
        "follow_redirects": False,
    }


def _encoded(pairs: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Give headers in UTF-8, as the broker reads them; httpx would take ASCII only."""
    return [(name.encode("ascii"), value.encode()) for name, value in pairs]


def _unreachable(error: httpx.TransportError) -> BrokerUnreachable:
    """Give our exception for what no answer came for."""
    return BrokerUnreachable(str(error) or type(error).__name__)


def read_answer(call: Call[T], response: httpx.Response) -> T:
    """Make the result of a call of its answer, or raise what that stands for."""
    if response.is_success:
        return call.read(response.content)
    text = _text(response)
    if response.status_code == 507:
        raise StoreFull(text)
    if response.is_server_error:
        raise BrokerUnavailable(
            f"the broker answered {response.status_code}: {text}",
            status=response.status_code,
            retry_after=_retry_after(response),
        )
    raise _refusal(response, text)


def _refusal(response: httpx.Response, text: str) -> RequestError:
    if response.status_code != TooManyRequests.status:
        return refusal(response.status_code, text)
    limit, reset_at = (_number(response, f"Burst-RateLimit-{name}") for name in ("Limit", "Reset"))
    return TooManyRequests(text, limit=limit, reset_at=reset_at)


def _number(response: httpx.Response, name: str) -> int | None:
    text = response.headers.get(name, "")
    return int(text) if text.isdecimal() else None


def _text(response: httpx.Response) -> str:
    """Give the `error` of the answer, or the beginning of whatever came."""
    try:
        members = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return response.text[:500]
    error = members.get("error") if isinstance(members, dict) else None
    return str(error) if error else response.text[:500]


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return span_ms(float(response.headers["Retry-After"])) / 1000
    except (KeyError, ValueError, InvalidValue):
        return None


def in_process(app: Any, token: str) -> AsyncClient:
    """Give a client to a broker's API that is an ASGI app in this process."""
    return AsyncClient(SOCKET_HOST, token, transport=httpx.ASGITransport(app))
