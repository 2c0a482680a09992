"""A destination of messages: a small HTTP server on a thread, which writes what it gets to a ledger."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, cast

from tests.support.ledger import DONE, Ledger

GATE_S = 30.0  # a held delivery is let go after this long at the latest


class Receiver:
    """Answers 200 to messages whose body is `{"id": key}`; while the gate is shut it holds them.

    The first attempt of a key that ends in "7" is answered with 500. `work_s` is how long a delivery
    takes, so that some are in flight at any moment.
    """

    def __init__(self) -> None:
        self.work_s = 0.001
        self.ledger = Ledger()
        self.gate = threading.Event()
        self.gate.set()
        self._failed: set[str] = set()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.receiver = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="receiver")

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/work"

    def take(self, key: str, headers: Any) -> int:
        """Execute one delivery; give the status to answer."""
        place = self.ledger.start(
            key, retried=int(headers["Upstash-Retried"]), message_id=headers["Upstash-Message-Id"]
        )
        threading.Event().wait(self.work_s)
        self.gate.wait(GATE_S)
        status = DONE
        if key.endswith("7") and key not in self._failed:
            self._failed.add(key)
            status = 500
        self.ledger.end(place, status)
        return status

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    receiver: Receiver

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The broker is killed in the midst of requests: that is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave together; apart they would wait for each other's receipt

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = cast(_Server, self.server).receiver.take(json.loads(body)["id"], self.headers)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""
