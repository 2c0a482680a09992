"""Connections that end when a request does not arrive in time, or when nobody reads the answer.

`Receiving` is mixed into uvicorn's protocol classes, in `receiving_h11.py` and `receiving_httptools.py`.
The limits and what follows from them are in `receipt.py`. A connection has one timer, which looks at
the clock now and then: a request costs no timer of its own.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar, cast

from qtasks.home.joined import Joined
from qtasks.home.receipt import (
    Due,
    Ending,
    HeaderGuard,
    Phase,
    ReceiptLimits,
    Refusal,
    allowed_s,
    ending,
    overhead,
    oversize,
    too_many,
    too_slow,
)

log = logging.getLogger("qtasks.listener")

LINGER_S = 1.0  # for which a refused client may go on sending, so that it comes to read why
LINGERING = 64  # refused clients that may do so at once; the rest are closed outright

# Names of their own, as looking them up in an enumeration is slow, and some are asked for by each request.
SILENT, IDLE, HEAD, BODY, DEAF, LEAVING = Phase


class Cycle(Protocol):
    """What is asked of uvicorn's record of a request, made when the header is complete, and its answer."""

    more_body: bool  # left as it is once the answer is complete
    response_started: bool
    response_complete: bool


C = TypeVar("C", bound=Cycle)


def due(cycle: Cycle | None, *, queued: bool = False) -> Due:
    """Say what is owed: `cycle` is the newest request, `queued` whether it waits for another's answer."""
    if cycle is None or cycle.response_complete:
        return Due.NOTHING
    return Due.MORE if queued or cycle.response_started else Due.ANSWER


class Admission:
    """Counts the connections of one listener and keeps to their limit."""

    def __init__(self, limits: ReceiptLimits, guard: HeaderGuard) -> None:
        self.limits = limits
        self.guard = guard
        self.period_s = min(limits.head_ms, limits.body_ms, limits.unread_ms) / 1000
        """How often each connection is looked at; no span of any phase is shorter."""
        self._open = 0
        self._leaving: set[asyncio.Transport] = set()
        self._is_refusing = False

    def admit(self) -> bool:
        """Count a connection in, unless there are too many; says so once until half of them are gone."""
        if self._open < self.limits.connections:
            self._open += 1
            return True
        if not self._is_refusing:
            log.warning("too many connections, new ones are refused", extra={"limit": self._open})
            self._is_refusing = True
        return False

    def release(self) -> None:
        """Count a connection out."""
        self._open -= 1
        if self._open <= self.limits.connections // 2:
            self._is_refusing = False

    def may_linger(self, wire: asyncio.Transport) -> bool:
        """Say whether a refused client may be waited for, and remember it until `forget`."""
        if len(self._leaving) >= LINGERING:
            return False
        self._leaving.add(wire)
        return True

    def forget(self, wire: asyncio.Transport) -> None:
        """Take note that a connection is gone."""
        self._leaving.discard(wire)

    def close(self) -> None:
        """End all connections that uvicorn has been told are gone."""
        for each in list(self._leaving):
            each.abort()


class Receiving(asyncio.Protocol, ABC, Generic[C]):
    """Watches over what one connection receives. `admission` is set by the class that a listener makes."""

    # In slots, as uvicorn's attributes are nearly as many as an object can have without being slower.
    __slots__ = (
        "_arriving",
        "_head_bytes",
        "_is_admitted",
        "_is_detached",
        "_loop",
        "_now",
        "_parse",
        "_paused_at",
        "_phase",
        "_received",
        "_received_to_body",
        "_seen",
        "_since",
        "_timer",
        "_unsent",
        "_unsent_at",
        "_wire",
    )

    admission: Admission
    cycle: C
    """The newest request whose header is complete; kept by uvicorn."""

    @abstractmethod
    def _due(self) -> Due:
        """Say what is owed to the client."""

    @abstractmethod
    def _target_bytes(self) -> int:
        """Say how long path and query are, of a header that is not complete."""

    @abstractmethod
    def _fields(self) -> int:
        """Say how many header fields and trailers have come, as far as the parser tells."""

    @abstractmethod
    def _overhead(self) -> int:
        """Say how many bytes have come since the last that belonged to a body."""

    @abstractmethod
    def _finish(self) -> None:
        """Have uvicorn close once what is due is answered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve a connection, or refuse it if there are too many."""
        self._wire = cast("asyncio.Transport", transport)  # uvloop's are none by their class
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._begin()
        self._is_admitted = self.admission.admit()
        self._is_detached = not self._is_admitted
        if not self._is_admitted:
            self._leave(too_many(self.admission.limits))
            return
        super().connection_made(cast("asyncio.Transport", Joined(self._wire, self._loop)))
        self._arm(self.admission.period_s)

    def _begin(self) -> None:
        self._parse = super().data_received  # looking it up for each request would be felt
        self._head_bytes = self.admission.limits.head_bytes
        self._phase = SILENT
        self._now = self._since = self._loop.time()  # `_since` is of no meaning while `IDLE`
        self._received = 0  # in this phase; for a body, not with the read that ended its header
        self._received_to_body = 0  # the same, when a part of a body last came
        self._seen: Cycle | None = None  # the newest that was complete, so that a newer is known as new
        self._arriving: Cycle | None = None  # the newest that was not
        self._paused_at: float | None = None  # we read nothing since, which is not the client's fault
        self._unsent, self._unsent_at = 0, self._now

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell uvicorn, unless it knows already."""
        if self._timer is not None:
            self._timer.cancel()
        self.admission.forget(self._wire)
        if self._is_admitted:
            self.admission.release()
        if not self._is_detached:
            super().connection_lost(exc)
        del self._parse  # it refers to this object, which would then wait for the garbage collector

    def data_received(self, data: bytes) -> None:
        """Pass on what came, then see whether it is too much."""
        if self._phase is not IDLE or len(data) > self._head_bytes:
            self._take(data)
            return
        self._parse(data)
        cycle = self.cycle
        if cycle is not self._seen and not cycle.more_body:
            self._seen = cycle  # nearly always: a whole request came, and there is nothing to see to
            return
        self._phase, self._received, self._paused_at = HEAD, len(data), None
        self._now = self._since = self._loop.time()
        self._follow()
        self._judge()

    def _take(self, data: bytes) -> None:
        if self._phase is DEAF or self._phase is LEAVING:
            return
        self._now = self._loop.time()
        if self._phase is IDLE or self._phase is SILENT:
            self._phase, self._since = HEAD, self._now
            self._received, self._paused_at = 0, None
        elif self._paused_at is not None:
            self._note_reading()
        self._received += len(data)
        if self._received > self._head_bytes:
            self.admission.guard.is_measuring = True
        self._parse(data)
        self._follow()
        self._judge()

    def _follow(self) -> None:
        """Find out the phase from what uvicorn has made of what came."""
        cycle = self.cycle
        if cycle is self._seen:
            return
        if not cycle.more_body:
            self._seen, self._phase = cycle, IDLE
        elif cycle is not self._arriving:
            self._arriving, self._phase, self._since = cycle, BODY, self._now
            self._received = self._received_to_body = 0

    def _judge(self) -> None:
        if self._phase is IDLE or self._wire.is_closing():
            return
        if not self._wire.is_reading():
            self._paused_at = self._now
        refusal = self._excess()
        if refusal is not None:
            self._end(refusal)

    def _excess(self) -> Refusal | None:
        limits, size = self.admission.limits, self._received
        if self._phase is BODY:
            return overhead(limits, fields=self._fields(), size=self._overhead())
        target = self._target_bytes() if size > limits.target_bytes else 0
        return oversize(limits, target=target, fields=self._fields(), size=size)

    def _arm(self, wait_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(wait_s, self._look)

    def _look(self) -> None:
        """See whether something is overdue. The next look is never later than a phase that begins now."""
        self._now = self._loop.time()
        if self._phase is not LEAVING:
            self._note_reading()
            if self._phase is not DEAF:
                self._follow()
        self._arm(self.admission.period_s)
        if self._is_unread():
            self._wire.abort()
        elif not self._wire.is_closing():
            self._look_at_phase()

    def _look_at_phase(self) -> None:
        limits = self.admission.limits
        span_s = LINGER_S if self._phase is LEAVING else allowed_s(limits, self._phase, self._received)
        if span_s is None or (self._paused_at is not None and self._phase is not LEAVING):
            return
        left_s = self._since + span_s - self._now
        if left_s > 0:
            self._arm(min(left_s, self.admission.period_s))
        elif self._phase is LEAVING:
            self._wire.abort()
        else:
            self._end(too_slow(limits, self._phase))

    def _note_reading(self) -> None:
        """Do not count the time for which reading was paused."""
        if not self._wire.is_reading():
            self._paused_at = self._now if self._paused_at is None else self._paused_at
        elif self._paused_at is not None:
            self._since += self._now - self._paused_at
            self._paused_at = None

    def _is_unread(self) -> bool:
        """Say whether for too long the client has taken in nothing of what is sent to it.

        uvicorn writes no more before that is gone, and closing waits for it too.
        """
        unsent = self._wire.get_write_buffer_size()
        if not unsent or unsent != self._unsent:
            self._unsent, self._unsent_at = unsent, self._now
        return self._now - self._unsent_at >= self.admission.limits.unread_ms / 1000

    def _end(self, refusal: Refusal) -> None:
        way = ending(self._phase, self._due())
        log.info(
            "request refused before it was received", extra={"status": refusal.status, "ending": way.value}
        )
        if way is Ending.FINISH:
            self._phase = DEAF
            self._finish()
            return
        self._detach()
        if way is Ending.ANSWER:
            self._leave(refusal)
        else:
            self._phase = DEAF
            self._wire.close()

    def _detach(self) -> None:
        """Have the app see a disconnect now; what it still answers goes nowhere."""
        self._is_detached = True
        super().connection_lost(ConnectionAbortedError("the request was refused before it was received"))

    def _leave(self, refusal: Refusal) -> None:
        """Answer and close, but go on reading for a little while: else the client may not see the answer."""
        self._phase, self._since = LEAVING, self._now
        self._wire.write(refusal.wire)
        if not self._wire.can_write_eof() or not self.admission.may_linger(self._wire):
            self._wire.close()
            self._arm(self.admission.period_s)
            return
        self._wire.write_eof()
        if self._is_admitted:
            self._wire.resume_reading()
        self._arm(LINGER_S)
