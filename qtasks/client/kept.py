"""`KeptClient`: sends one `Call` after another over a connection that is kept open, at little cost.

A transport for httpx on the standard library's reader of answers, without the pool, the redirects and the
cookies of httpx's own: those take five times as long as the rest of a small request. `docs/decisions/023`.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
from functools import lru_cache
from http.client import HTTPException, HTTPResponse
from typing import TypeVar

import httpx

from qtasks.client.call import Call
from qtasks.client.clients import SOCKET_HOST, encoded, read_answer, unreachable

T = TypeVar("T")

CONNECT_S = 2.0
_MERGED = 64 * 1024  # a body up to so many bytes is copied, to leave in one piece with its header


class KeptClient:
    """Speaks to a broker over one connection; for one thread at a time. `socket` is as with `Client`.

    A connection that the broker has closed meanwhile is opened anew. Raises what `Client` raises.
    """

    def __init__(self, url: str, token: str, *, socket: str | None = None) -> None:
        self._base = SOCKET_HOST if socket else url.rstrip("/")
        self._headers = encoded((("Authorization", f"Bearer {token}"), ("Accept", "application/json")))
        self._transport = KeptTransport(socket)

    def send(self, call: Call[T], timeout: float) -> T:
        """Carry out one operation; `timeout`, in seconds, is for connecting and for each wait for bytes."""
        limits = {"connect": min(CONNECT_S, timeout), "read": timeout, "write": timeout}
        request = httpx.Request(
            call.method,
            _url(self._base + call.target),
            headers=[*self._headers, *encoded(call.headers)],
            content=call.body,
            extensions={"timeout": limits},
        )
        try:
            response = self._transport.handle_request(request)
        except httpx.TransportError as error:
            raise unreachable(error) from error
        return read_answer(call, response)

    def close(self) -> None:
        """Close the connection; for any thread, and who waits for an answer gets none."""
        self._transport.close()


@lru_cache(256)
def _url(text: str) -> httpx.URL:
    """Read a URL once: calls of a task have all the same, and reading it takes a third of a request."""
    return httpx.URL(text)


class KeptTransport(httpx.BaseTransport):
    """One connection, opened when it is needed. Without proxies, as are all of our clients."""

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._wire: socket.socket | None = None
        self._secure: ssl.SSLContext | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and read the whole answer; raises httpx's `TransportError`."""
        head = _head(request)
        limits = request.extensions["timeout"]
        wire = self._open(request.url, limits["connect"])
        is_kept = False
        try:
            wire.settimeout(limits["write"])
            _write(wire, head, request.read())
            wire.settimeout(limits["read"])
            with HTTPResponse(wire, method=request.method) as answer:
                answer.begin()
                is_bounded = answer.chunked or answer.length is not None
                content = answer.read()
                if not (is_bounded or content):  # cut off in its header: whatever that says is not the answer
                    raise httpx.RemoteProtocolError("the answer was cut off", request=request)
                is_kept = not answer.will_close
        except TimeoutError as error:
            raise httpx.ReadTimeout("it did not answer in time", request=request) from error
        except OSError as error:
            raise httpx.ReadError(str(error), request=request) from error
        except HTTPException as error:
            raise httpx.RemoteProtocolError(repr(error), request=request) from error
        finally:
            if not is_kept:  # also when this is interrupted: what still comes is not for the next request
                self.close()
        return httpx.Response(answer.status, headers=answer.getheaders(), content=content, request=request)

    def close(self) -> None:
        """Close the connection, if there is one."""
        with self._lock:
            wire, self._wire = self._wire, None
        if wire is not None:
            try:
                wire.shutdown(socket.SHUT_RDWR)  # wakes a thread that reads from it
            except OSError:
                pass  # it is closed already
            wire.close()

    def _open(self, url: httpx.URL, timeout: float) -> socket.socket:
        wire = self._wire
        if wire is not None:
            if not _has_something(wire):
                return wire
            self.close()  # by the broker: nothing else comes between two requests
        try:
            wire = self._connect(url, timeout)
        except TimeoutError as error:
            raise httpx.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        with self._lock:
            self._wire = wire
        return wire

    def _connect(self, url: httpx.URL, timeout: float) -> socket.socket:
        if self._path is not None:
            wire = socket.socket(socket.AF_UNIX)
            wire.settimeout(timeout)
            wire.connect(self._path)
            return wire
        host = url.raw_host.decode("ascii")
        port = url.port or (443 if url.scheme == "https" else 80)
        wire = socket.create_connection((host, port), timeout)
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if url.scheme != "https":
            return wire
        try:
            if self._secure is None:
                self._secure = httpx.create_ssl_context()  # as all of httpx: SSL_CERT_FILE may name others
            return self._secure.wrap_socket(wire, server_hostname=host)
        except BaseException:
            wire.close()
            raise


def _head(request: httpx.Request) -> bytes:
    """Write the header of a request; raises `LocalProtocolError` for one that would be two."""
    target = request.url.raw_path
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), target)]
    lines += [b"%b: %b" % pair for pair in request.headers.raw]
    head = b"\r\n".join(lines)
    breaks = len(lines) - 1
    if head.count(b"\r") != breaks or head.count(b"\n") != breaks or b"\0" in head or b" " in target:
        raise httpx.LocalProtocolError("a header has a line break or NUL in it", request=request)
    return head + b"\r\n\r\n"


def _write(wire: socket.socket, head: bytes, body: bytes) -> None:
    if len(body) <= _MERGED:
        wire.sendall(head + body)
        return
    wire.sendall(head)
    wire.sendall(body)


def _has_something(wire: socket.socket) -> bool:
    """Say whether there is something to read, as the end of a connection is."""
    poll = select.poll()
    poll.register(wire, select.POLLIN)
    return bool(poll.poll(0))
