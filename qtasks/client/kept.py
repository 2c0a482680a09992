"""`KeptClient`: sends one `Call` after another over a connection that is kept open, at little cost.

httpx's pool, redirects and cookies take five times as long as the rest of a small request, and its values
and the standard library's reader of headers as long as that rest. `docs/decisions/023`.
"""

from __future__ import annotations

import io
import select
import socket
import ssl
import threading
from collections.abc import Callable
from functools import lru_cache
from http.client import HTTPException, HTTPResponse
from typing import Any, TypeVar, cast

import httpx

from qtasks.client.call import Call
from qtasks.client.clients import SOCKET_HOST, read_answer
from qtasks.errors import BrokerUnreachable

T = TypeVar("T")

Meanwhile = Callable[[], None]
"""What may be done while others are at work."""

CONNECT_S = 2.0
_MERGED = 64 * 1024
"""A body up to so many bytes is copied, to leave in one piece with its header, and read with it."""
_OWN_LINES = 5
"""Lines of a header beside those of a call: the first, three fields of the client's, the empty one."""
_SUCCESSES = (b"HTTP/1.1 200 ", b"HTTP/1.1 201 ")


def nothing() -> None:
    """Do nothing meanwhile."""


class KeptClient:
    """Speaks to a broker over one connection; for one thread at a time. `socket` is as with `Client`.

    A connection that the broker has closed meanwhile is opened anew. Raises what `Client` raises.
    """

    def __init__(self, url: str, token: str, *, socket: str | None = None) -> None:
        self._base = SOCKET_HOST if socket else url.rstrip("/")
        self._own = f"Authorization: Bearer {token}\r\n"
        self._connection = _Connection(socket)

    def send(self, call: Call[T], timeout: float, meanwhile: Meanwhile = nothing) -> T:
        """Carry out one operation; `timeout`, in seconds, is for connecting and for each wait for bytes.

        `meanwhile` is called between the request and the answer.
        """
        url, beginning = _url(self._base + call.target)
        head = _head(call, beginning + self._own)
        try:
            answer = self._connection.ask(call.method, url, head, call.body, timeout, meanwhile)
        except TimeoutError as error:
            raise BrokerUnreachable("it did not answer in time") from error
        except OSError as error:
            raise BrokerUnreachable(str(error) or type(error).__name__) from error
        except HTTPException as error:
            raise BrokerUnreachable(repr(error)) from error
        return call.read(answer) if isinstance(answer, bytes) else read_answer(call, answer)

    def close(self) -> None:
        """Close the connection; for any thread, and who waits for an answer gets none."""
        self._connection.close()


@lru_cache(256)
def _url(text: str) -> tuple[httpx.URL, str]:
    """Read a URL once: calls of a task have all the same, and reading it takes a third of a request.

    Gives also how the header of a request to it begins, behind the method: httpx lets no space into it.
    """
    url = httpx.URL(text)
    target, host = url.raw_path.decode("ascii"), url.netloc.decode("ascii")
    return url, f"{target} HTTP/1.1\r\nHost: {host}\r\n"


class _Connection:
    """One connection, opened when it is needed. Without proxies, as are all of our clients."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._wire: socket.socket | None = None
        self._watch = select.poll()
        """Sees whether there is something to read from it, as its end is."""
        self._secure: ssl.SSLContext | None = None

    def ask(
        self, method: str, url: httpx.URL, head: bytes, body: bytes, timeout: float, meanwhile: Meanwhile
    ) -> bytes | httpx.Response:
        """Send a request and read the whole answer: of a success, its content.

        Raises `OSError` and `HTTPException` if there is none.
        """
        wire = self._open(url, min(CONNECT_S, timeout))
        is_kept = False
        try:
            if timeout != wire.gettimeout():  # setting it is a system call
                wire.settimeout(timeout)
            _write(wire, head, body)
            meanwhile()
            answer, is_kept = receive(wire, method)
            return answer
        finally:
            if not is_kept:  # also when this is interrupted: what still comes is not for the next request
                self.close()

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
            if not self._watch.poll(0):
                return wire
            self.close()  # by the broker: nothing else comes between two requests
        try:
            wire = self._connect(url, timeout)
        except TimeoutError as error:
            raise OSError(str(error)) from error  # an answer that does not come in time is something else
        self._watch = select.poll()
        self._watch.register(wire, select.POLLIN)
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


def _head(call: Call[Any], beginning: str) -> bytes:
    """Write the header of a request, in UTF-8, as the broker reads it; refuses one that would be two."""
    fields = "".join([f"{name}: {value}\r\n" for name, value in call.headers])
    text = f"{call.method} {beginning}{fields}Content-Length: {len(call.body)}\r\n\r\n"
    breaks = len(call.headers) + _OWN_LINES
    if text.count("\r") != breaks or text.count("\n") != breaks or "\0" in text:
        raise BrokerUnreachable("a header has a line break or NUL in it")
    return text.encode()


def _write(wire: socket.socket, head: bytes, body: bytes) -> None:
    if len(body) <= _MERGED:
        wire.sendall(head + body)
        return
    wire.sendall(head)
    wire.sendall(body)


def receive(wire: socket.socket, method: str) -> tuple[bytes | httpx.Response, bool]:
    """Read a whole answer, of a success its content alone; say also whether the connection may go on.

    Raises `OSError` and `HTTPException` if what comes is none.
    """
    received = wire.recv(_MERGED)
    content = _read_success(wire, received)
    return _read(wire, received, method) if content is None else (content, True)


def _read_success(wire: socket.socket, received: bytes) -> bytes | None:
    """Read the rest of the plainest of answers, a small success of known length; None for all others.

    `received` is what has come of it: its whole header, or it is another.
    """
    head, end, _ = received.partition(b"\r\n\r\n")
    length = _length(head) if end else None
    if length is None:
        return None
    first = len(head) + len(end)
    while len(received) < first + length:
        more = wire.recv(_MERGED)
        if not more:
            raise ConnectionResetError("the answer was cut off")
        received += more
    if len(received) > first + length:
        raise ConnectionError("the broker sent more than its answer")
    return received[first:]


def _length(head: bytes) -> int | None:
    """Give the length of what follows the header of a small success; None if it is not as plain as that.

    >>> _length(b"HTTP/1.1 200 OK\\r\\nContent-Length: 11")
    11
    >>> _length(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked")
    >>> _length(b"HTTP/1.1 503 Service Unavailable\\r\\nContent-Length: 11")
    """
    if not head.startswith(_SUCCESSES) or head.count(b"\n") != head.count(b"\r\n"):
        return None
    names = head.lower()
    if b"\r\ntransfer-encoding:" in names or b"\r\nconnection:" in names:
        return None
    text = names.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0].strip()
    return int(text) if text.isdigit() and len(text) < 6 else None


def _read(wire: socket.socket, received: bytes, method: str) -> tuple[httpx.Response, bool]:
    """Read any answer, of which some has come already."""
    begun = cast("socket.socket", _Begun(wire, received))  # of a socket it asks for `makefile` alone
    with HTTPResponse(begun, method=method) as answer:
        answer.begin()
        is_bounded = answer.chunked or answer.length is not None
        content = answer.read()
        if not (is_bounded or content):  # cut off in its header: whatever that says is not the answer
            raise ConnectionResetError("the answer was cut off")
        response = httpx.Response(answer.status, headers=answer.getheaders(), content=content)
        return response, not answer.will_close


class _Begun(io.RawIOBase):
    """A socket of which some has been read, for who makes a file of it."""

    def __init__(self, wire: socket.socket, received: bytes) -> None:
        self._wire = wire
        self._received = received

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._received:
            return self._wire.recv_into(buffer)
        count = min(len(buffer), len(self._received))
        buffer[:count] = self._received[:count]
        self._received = self._received[count:]
        return count
