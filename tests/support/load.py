"""A client that enqueues without pause, and repeats what got no answer until it is accepted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import httpx

from tests.support.waiting import PATIENCE_S, eventually

Send = Callable[[httpx.Client, str], httpx.Response]
"""Enqueues one message under a key: every time to where the broker is now."""

AGAIN_S = 0.01


class Load:
    """Enqueues `{prefix}0`, `{prefix}1`, … from one thread for as long as its context lasts.

    `accepted` maps each key to the answer of the first 2xx, in order. `broken` lists the requests that
    reached a server and got no whole answer. Retry-After is followed.
    """

    def __init__(self, send: Send, prefix: str) -> None:
        self.accepted: dict[str, str] = {}
        self.broken: list[str] = []
        self.repeated = 0
        self._send = send
        self._prefix = prefix
        self._ending = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"load-{prefix}")

    def await_accepted(self, count: int) -> None:
        """Wait until so many have been accepted."""
        eventually(
            lambda: len(self.accepted) >= count or self._failure, f"{count} messages accepted", of=[self]
        )
        self._check()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join(PATIENCE_S)
        if error is None:
            assert not self._thread.is_alive(), f"the last message was never accepted: {self}"
            self._check()

    def __str__(self) -> str:
        return f"--- load {self._prefix}: {len(self.accepted)} accepted, {self.repeated} requests repeated"

    def _check(self) -> None:
        if self._failure is not None:
            raise AssertionError(f"a message was refused: {self._failure}") from self._failure

    def _run(self) -> None:
        with httpx.Client(timeout=10, trust_env=False) as http:
            try:
                while not self._ending.is_set():
                    key = f"{self._prefix}{len(self.accepted)}"
                    self.accepted[key] = self._accepted(http, key)
            except Exception as error:
                self._failure = error

    def _accepted(self, http: httpx.Client, key: str) -> str:
        pause = threading.Event()
        for _ in range(int(PATIENCE_S / AGAIN_S)):
            answer = self._try(http, key)
            if answer is not None and answer.is_success:
                return answer.text
            if answer is not None and answer.is_client_error:
                raise RuntimeError(f"{key}: {answer.status_code} {answer.text}")
            self.repeated += 1
            pause.wait(AGAIN_S if answer is None else float(answer.headers.get("Retry-After", AGAIN_S)))
        raise RuntimeError(f"{key}: no answer, repeated for {PATIENCE_S} s")

    def _try(self, http: httpx.Client, key: str) -> httpx.Response | None:
        try:
            return self._send(http, key)
        except httpx.ConnectError:
            return None  # nobody listens
        except httpx.TransportError as error:
            self.broken.append(f"{key}: {error!r}")
            return None
