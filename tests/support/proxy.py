"""A TCP proxy in the test's process: it cuts connections, lets nothing through for a while, and delays."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

CHUNK = 65_536


class Proxy:
    """Stands between clients, which connect to `port`, and a server on loopback."""

    def __init__(self, server_port: int) -> None:
        self.delay_s = 0.0
        """How much later everything arrives."""
        self._server_port = server_port
        self._is_cut = False
        self._passes = threading.Event()
        self._passes.set()
        self._mutex = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections, and let none come about until `mend`."""
        self._is_cut = True
        self._passes.set()
        with self._mutex:
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def swallow(self) -> None:
        """Let nothing through either way until `mend`, and break nothing: both ends wait."""
        self._passes.clear()

    def mend(self) -> None:
        """Let everything through again, what was held first."""
        self._is_cut = False
        self._passes.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # it is closed
                return
            if self._is_cut:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:
                client.close()
                continue
            with self._mutex:
                self._sockets |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(CHUNK):
                time.sleep(self.delay_s)
                self._passes.wait()
                sink.sendall(chunk)
        self._passes.wait()
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with self._mutex:
            self._sockets.discard(source)
        source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.cut()
