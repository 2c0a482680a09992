"""A connection that is kept open: when it is used again, when it is not, and how failures come out."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtasks.client.call import Call, read_object
from qtasks.client.kept import KeptClient, receive
from qtasks.errors import BadRequest, BrokerUnavailable, BrokerUnreachable
from tests.support.certificates import Authority

SOON_S = 10
OK = b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"a": "b"}\n'
CALL = Call("POST", "/v2/publish/x", read_object, (("Upstash-Label", "é"),), b"body")


class Peer:
    """A server that answers each request with the next of its answers, and b"" by closing."""

    def __init__(
        self, listening: socket.socket, answers: Sequence[bytes], tls: ssl.SSLContext | None = None
    ) -> None:
        self._tls = tls
        self._listening = listening
        self._answers = list(answers)
        self.connections = 0
        self.requests: list[bytes] = []
        self.closed = threading.Event()

    def serve(self) -> None:
        while self._answers:
            try:
                wire, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            try:
                with wire if self._tls is None else self._tls.wrap_socket(wire, server_side=True) as secured:
                    self._talk(secured)
            except ssl.SSLError:
                wire.close()  # it does not believe us
            self.closed.set()

    def _talk(self, wire: socket.socket) -> None:
        while self._answers:
            received = b""
            while b"\r\n\r\n" not in received or not received.endswith((b"body", b"y" * 70_000)):
                more = wire.recv(100_000)
                if not more:
                    return
                received += more
            self.requests.append(received)
            answer = self._answers.pop(0)
            wire.sendall(answer)
            if not answer or b"close" in answer:
                return


@contextmanager
def peer(
    *answers: bytes, path: Path | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[Peer, KeptClient]]:
    with socket.socket(socket.AF_UNIX if path else socket.AF_INET) as listening:
        listening.bind(str(path) if path else ("127.0.0.1", 0))
        listening.listen()
        server = Peer(listening, answers, tls)
        thread = threading.Thread(target=server.serve)
        thread.start()
        scheme = "http" if tls is None else "https"
        url = "" if path else f"{scheme}://localhost:{listening.getsockname()[1]}"
        client = KeptClient(url, "token", socket=str(path) if path else None)
        try:
            yield server, client
        finally:
            client.close()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(SOON_S)


def test_requests_share_a_connection_and_leave_in_one_piece() -> None:
    with peer(OK, OK) as (server, client):
        assert [client.send(CALL, SOON_S) for _ in range(2)] == [{"a": "b"}] * 2

    assert server.connections == 1
    head, body = server.requests[0].split(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v2/publish/x HTTP/1.1"
    assert {b"Authorization: Bearer token", "Upstash-Label: é".encode(), b"Content-Length: 4"} <= {*lines}
    assert body == b"body"


def test_a_large_body_arrives_whole() -> None:
    call = Call("POST", "/v2/batch", read_object, (), b"y" * 70_000)
    with peer(OK) as (server, client):
        assert client.send(call, SOON_S) == {"a": "b"}

    assert server.requests[0].endswith(b"\r\n\r\n" + b"y" * 70_000)


def test_an_answer_in_chunks_is_read_whole_and_the_connection_kept() -> None:
    chunked = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n3\r\n 1}\r\n0\r\n\r\n'
    with peer(chunked, OK) as (server, client):
        assert client.send(CALL, SOON_S) == {"a": 1}
        assert client.send(CALL, SOON_S) == {"a": "b"}

    assert server.connections == 1


def test_a_connection_that_was_closed_meanwhile_is_opened_anew() -> None:
    with peer(OK, b"", OK) as (server, client):
        client.send(CALL, SOON_S)
        with pytest.raises(BrokerUnreachable):  # it was closed on this request, which may have arrived
            client.send(CALL, SOON_S)
        assert server.closed.wait(SOON_S)
        assert client.send(CALL, SOON_S) == {"a": "b"}

    assert server.connections == 2


def test_an_answer_that_says_so_is_the_last_of_its_connection() -> None:
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with peer(closing, OK) as (server, client):
        assert [client.send(CALL, SOON_S) for _ in range(2)] == [{"a": "b"}] * 2

    assert server.connections == 2


def test_refusals_are_read_and_the_connection_is_kept() -> None:
    refusal = b'HTTP/1.1 400 Bad Request\r\nContent-Length: 15\r\n\r\n{"error": "no"}'
    draining = b"HTTP/1.1 503 Unavailable\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n"
    with peer(refusal, draining) as (server, client):
        with pytest.raises(BadRequest, match="no"):
            client.send(CALL, SOON_S)
        with pytest.raises(BrokerUnavailable) as caught:
            client.send(CALL, SOON_S)

    assert caught.value.retry_after == 2
    assert server.connections == 1


@pytest.mark.parametrize("answer", [b"not HTTP\r\n\r\nclose", OK[:30] + b"close"])
def test_what_is_no_answer_is_none(answer: bytes) -> None:
    with peer(answer, OK) as (server, client):
        with pytest.raises(BrokerUnreachable):
            client.send(CALL, SOON_S)
        assert client.send(CALL, SOON_S) == {"a": "b"}

    assert server.connections == 2


def test_an_answer_that_takes_too_long_is_none_and_is_not_taken_for_the_next() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = KeptClient(f"http://127.0.0.1:{listening.getsockname()[1]}", "token")
        with pytest.raises(BrokerUnreachable, match="it did not answer in time"):
            client.send(CALL, 0.05)
        late, _ = listening.accept()
        late.sendall(OK.replace(b"b", b"x"))

        def answer() -> None:
            with listening.accept()[0] as wire:
                wire.sendall(OK)
                wire.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        assert client.send(CALL, SOON_S) == {"a": "b"}
        client.close()
        thread.join(SOON_S)
        late.close()


def test_closing_it_wakes_who_waits() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = KeptClient(f"http://127.0.0.1:{listening.getsockname()[1]}", "token")
        errors: list[BaseException] = []

        def wait() -> None:
            try:
                client.send(CALL, SOON_S)
            except BrokerUnreachable as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        accepted, _ = listening.accept()
        assert accepted.recv(10)
        client.close()
        thread.join(SOON_S)
        accepted.close()

    assert len(errors) == 1


def test_nobody_there_is_unreachable() -> None:
    with pytest.raises(BrokerUnreachable, match="refused"):
        KeptClient("http://127.0.0.1:1", "token").send(CALL, SOON_S)


def test_it_speaks_over_a_unix_socket(tmp_path: Path) -> None:
    with peer(OK, path=tmp_path / "s") as (_, client):
        assert client.send(CALL, SOON_S) == {"a": "b"}


def test_over_tls_who_is_in_ssl_cert_file_is_believed_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, stranger = Authority(tmp_path / "known"), Authority(tmp_path / "stranger")
    monkeypatch.setenv("SSL_CERT_FILE", str(known.file))

    with peer(OK, OK, tls=known.issue("DNS:localhost")) as (server, client):
        assert [client.send(CALL, SOON_S) for _ in range(2)] == [{"a": "b"}] * 2
    assert server.connections == 1

    for tls in (stranger.issue("DNS:localhost"), known.issue("DNS:other.example")):
        with (
            peer(OK, tls=tls) as (server, client),
            pytest.raises(BrokerUnreachable, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            client.send(CALL, SOON_S)
        assert server.requests == []


@pytest.mark.parametrize("value", ["a\r\nX-Other: b", "a\nb", "a\0b"])
def test_a_header_that_would_be_two_is_not_sent(value: str) -> None:
    with peer(OK) as (server, client):
        with pytest.raises(BrokerUnreachable, match="line break"):
            client.send(Call("POST", "/", read_object, (("X-One", value),), b"body"), SOON_S)
        client.send(CALL, SOON_S)

    assert len(server.requests) == 1
    with pytest.raises(BrokerUnreachable, match="line break"):
        KeptClient("http://localhost:1", value).send(CALL, SOON_S)


class Pieces:
    """A wire over which an answer comes in pieces, and then nothing more."""

    def __init__(self, answer: bytes, cuts: Sequence[int] = ()) -> None:
        ends = sorted({each % (len(answer) + 1) for each in cuts} | {len(answer)})
        self._left = [answer[first:end] for first, end in pairwise([0, *ends]) if first < end]

    def recv(self, count: int) -> bytes:
        if not self._left:
            return b""
        piece = self._left.pop(0)
        if len(piece) > count:
            self._left.insert(0, piece[count:])
        return piece[:count]

    def recv_into(self, buffer: memoryview) -> int:
        piece = self.recv(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


def read(answer: bytes, cuts: Sequence[int] = ()) -> tuple[int, bytes, bool]:
    """Give the class of the status, the content, and whether the connection may go on."""
    found, is_kept = receive(cast("socket.socket", Pieces(answer, cuts)), "POST")
    if isinstance(found, bytes):
        return 2, found, is_kept
    return found.status_code // 100, found.content, is_kept


LENGTH = b"Content-Length: 3\r\n"
ANSWERS = {
    "plain": (b"HTTP/1.1 200 OK\r\n" + LENGTH + b"\r\nabc", 2, True),
    "length in small letters": (b"HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length:3\r\n\r\nabc", 2, True),
    "created": (b"HTTP/1.1 201 Created\r\n" + LENGTH + b"\r\nabc", 2, True),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 2, True),
    "chunked and a length": (
        b"HTTP/1.1 200 OK\r\n" + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        2, True,
    ),
    "the last": (b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + LENGTH + b"\r\nabc", 2, False),
    "kept, as it says": (b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n" + LENGTH + b"\r\nabc", 2, True),
    "of an old server": (b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\nabc", 2, False),
    "until the end": (b"HTTP/1.1 200 OK\r\n\r\nabc", 2, False),
    "after another": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n" + LENGTH + b"\r\nabc", 2, True),
    "a refusal": (b"HTTP/1.1 400 Bad Request\r\n" + LENGTH + b"\r\nabc", 4, True),
    "chunked behind a bare line feed": (
        b"HTTP/1.1 200 OK\r\nX: 1\nTransfer-Encoding: chunked\r\n" + LENGTH + b"\r\n3\r\nabc\r\n0\r\n\r\n",
        2, True,
    ),
    "a length behind a bare line feed": (b"HTTP/1.1 200 OK\nContent-Length: 3\r\n\r\nabc", 2, True),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "status", "is_kept"), ANSWERS.values(), ids=ANSWERS)
@given(cuts=st.lists(st.integers(0, 1000), max_size=5))
def test_an_answer_is_read_whole_in_whatever_pieces_it_comes(
    answer: bytes, status: int, is_kept: bool, cuts: list[int]
) -> None:
    assert read(answer, cuts) == (status, b"abc", is_kept)


@given(
    content=st.binary(max_size=200),
    large=st.sampled_from([0, 65_536, 200_000]),
    cuts=st.lists(st.integers(0)),
)
def test_a_content_of_any_size_is_read_whole(content: bytes, large: int, cuts: list[int]) -> None:
    content += b"z" * large
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)

    assert read(answer, cuts) == (2, content, True)


@given(cut=st.integers(0, len(OK) - 1), cuts=st.lists(st.integers(0, len(OK)), max_size=3))
def test_an_answer_that_is_cut_off_is_none(cut: int, cuts: list[int]) -> None:
    with pytest.raises((OSError, HTTPException)):
        read(OK[:cut], cuts)


def test_who_sends_more_than_an_answer_is_not_heard() -> None:
    with peer(OK + b"HTTP/1.1 200 OK", OK) as (server, client):
        with pytest.raises(BrokerUnreachable, match="more than its answer"):
            client.send(CALL, SOON_S)
        assert client.send(CALL, SOON_S) == {"a": "b"}

    assert server.connections == 2
