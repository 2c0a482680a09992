"""What this node has done, counted in memory; `docs/metrics.md` lists what becomes of it.

Counting costs about a microsecond for each delivery, and takes a lock only where threads meet. What
is in the store is counted when somebody asks, by `store/depths.py`.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, Protocol

from qtasks.broker.exposition import Family, Sample, histogram
from qtasks.broker.store.depths import Depth, Depths
from qtasks.broker.store.queues import Kind
from qtasks.broker.store.records import Again, Cancelled, Claim, Dead, Delivered, Settlement
from qtasks.clock import stopwatch_ns
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.version import VERSION

MOST_QUEUES = 100
# No queue can have such a name.
NO_QUEUE = "(none)"
FLOW = "(flow)"
OTHER = "(other)"

# In milliseconds, as the spans are. From a task in process to the longest timeout of a message.
DELIVERY_MS = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 15_000, 60_000, 300_000, 1_800_000)
DELAY_MS = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 5000, 15_000, 60_000, 300_000, 1_800_000, 10_800_000)
STORE_MS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 5000)

StoreWork = Literal["enqueue", "claim", "settle"]
Record = Callable[[str, float, str], None]
"""Takes the name of a histogram, a span in ms, and the label of what took so long."""
DELIVERY = "qtasks_delivery_duration_seconds"
DELAY = "qtasks_start_delay_seconds"
STORE = "qtasks_store_duration_seconds"
VERDICTS = ("delivered", "retry", "returned", "dead", "cancelled")


class Histogram:
    """Counts spans, in milliseconds, by the bounds they stay within."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, span_ms: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, span_ms)] += 1
        self.total += span_ms

    def samples(self, **labels: str) -> list[Sample]:
        """Give its lines, in seconds."""
        return histogram([each / 1000 for each in self.bounds], self.counts, self.total / 1000, labels)


class _Timed:
    """Counts how long the block takes, at half the cost of a generator."""

    __slots__ = ("_began_ns", "_count")

    def __init__(self, count: Callable[[float], None]) -> None:
        self._count = count

    def __enter__(self) -> None:
        self._began_ns = stopwatch_ns()

    def __exit__(self, *error: object) -> None:
        self._count((stopwatch_ns() - self._began_ns) / 1e6)


class QueueMeter:
    """What was done for one queue."""

    __slots__ = ("accepted", "attempts", "delay", "delivery")

    def __init__(self) -> None:
        self.accepted = 0
        self.attempts: dict[str, int] = dict.fromkeys(VERDICTS, 0)
        self.delivery = Histogram(DELIVERY_MS)
        self.delay = Histogram(DELAY_MS)


class NodeState(Protocol):
    """What a node says of itself."""

    @property
    def boot_id(self) -> str:
        """The name of this life of the process."""
        ...

    @property
    def in_flight(self) -> int:
        """How many deliveries have not ended."""
        ...

    @property
    def idle_ms(self) -> int | None:
        """How long ago it last looked for work; None if it has not yet."""
        ...

    @property
    def limits(self) -> Mapping[str, int]:
        """How many attempts may be in flight at destinations that are held back; of the lowest 20."""
        ...

    @property
    def held_back(self) -> int:
        """How many destinations are held back."""
        ...


class Metrics:
    """The counters of one broker process. `most_queues` have series of their own, the others share one."""

    def __init__(self, most_queues: int = MOST_QUEUES) -> None:
        self._most_queues = most_queues
        self._lock = threading.Lock()
        self._queues: dict[str, QueueMeter] = {}
        self._other = QueueMeter()
        self._store: dict[StoreWork, Histogram] = {
            each: Histogram(STORE_MS) for each in ("enqueue", "claim", "settle")
        }
        self.node: NodeState | None = None
        self.record: Record | None = None
        """Is told of each span that is measured, by `telemetry.py`."""

    def _meter(self, name: str) -> QueueMeter:
        found = self._queues.get(name)
        if found is None:
            with self._lock:
                found = self._queues.get(name)
                if found is None and len(self._queues) < self._most_queues:
                    found = self._queues[name] = QueueMeter()
        return found or self._other

    def accepted(self, outgoing: Sequence[Outgoing], answers: Sequence[Enqueued]) -> None:
        """Count what callers had stored. Safe to call from any thread."""
        for message, answer in zip(outgoing, answers, strict=True):
            if not answer.deduplicated:
                name = FLOW if message.options.flow is not None else message.queue or NO_QUEUE
                meter = self._meter(name)
                with self._lock:
                    meter.accepted += 1

    def settled(self, settlements: Sequence[Settlement]) -> None:
        """Count attempts that have ended; called on the broker's loop alone."""
        for each in settlements:
            claim = each.claim
            name = claim.queue or _unnamed(claim)
            meter = self._meter(name)
            meter.attempts[_verdict(each)] += 1
            took_ms = each.ended_at - claim.started_at
            meter.delivery.observe(took_ms)
            # Of a retry it is not known here when it was due.
            delay_ms = _delay_ms(claim) if claim.attempt == 1 else None
            if delay_ms is not None:
                meter.delay.observe(delay_ms)
            if self.record is not None:
                label = OTHER if meter is self._other else name
                self.record(DELIVERY, took_ms, label)
                if delay_ms is not None:
                    self.record(DELAY, delay_ms, label)

    def timed(self, work: StoreWork) -> _Timed:
        """Measure how long the store takes, from the call to the durable end. Safe on any thread."""
        return _Timed(partial(self._stored, work))

    def _stored(self, work: StoreWork, took_ms: float) -> None:
        with self._lock:
            self._store[work].observe(took_ms)
        if self.record is not None:
            self.record(STORE, took_ms, work)

    def families(self, found: Depths, now: int, *, is_ready: bool) -> list[Family]:
        """Give all metrics; `found` is what the store holds at `now`."""
        return [
            _gauge("ready", "Whether messages are accepted and delivered now.", [Sample(int(is_ready))]),
            *self._of_node(),
            *self._of_depths(found.queues, now),
            _gauge("dead_letters", "Dead letters; the count stops at 10000.", [Sample(found.dead)]),
            *self._of_queues(),
            self._of_store(),
        ]

    def _of_node(self) -> list[Family]:
        info, idle, in_flight, held_back, limits = [], [], [], [], []
        if self.node is not None:
            info = [Sample(1, {"version": VERSION, "node": self.node.boot_id})]
            in_flight = [Sample(self.node.in_flight)]
            held_back = [Sample(self.node.held_back)]
            limits = [Sample(each, {"destination": name}) for name, each in self.node.limits.items()]
            if self.node.idle_ms is not None:
                idle = [Sample(self.node.idle_ms / 1000)]
        return [
            _gauge("node_info", "The version, and the name of this life of the process.", info),
            _gauge("node_idle_seconds", "Time since this node last looked for work.", idle),
            _gauge("in_flight", "Deliveries of this node that have not ended.", in_flight),
            _gauge("destinations_held_back", "Destinations that this node holds back.", held_back),
            _gauge(
                "destination_limit",
                "Deliveries at once to a destination that is held back, 0 but for probes; of the lowest 20.",
                limits,
            ),
        ]

    def _of_store(self) -> Family:
        with self._lock:
            lines = [line for work, each in self._store.items() for line in each.samples(operation=work)]
        about = "Time until the store had done something durably, by what it was."
        return Family(STORE, "histogram", about, lines)

    def _of_depths(self, depths: Sequence[Depth], now: int) -> list[Family]:
        """Add up what shares a label: the queues beyond the bound, and the flow-control keys."""
        counts: dict[tuple[str, str], int] = {}
        ages: dict[str, float] = {}
        paused: dict[str, int] = {}
        for each in depths:
            label = self._label(each)
            for state, count in (("ready", each.ready), ("active", each.active), ("waiting", each.waiting)):
                counts[label, state] = counts.get((label, state), 0) + count
            age = 0 if each.oldest_at is None else max(0, now - each.oldest_at) / 1000
            ages[label] = max(ages.get(label, 0), age)
            paused[label] = max(paused.get(label, 0), int(each.paused))
        return [
            _gauge(
                "queue_messages",
                "Messages that are not finished, by state; each count stops at 10000.",
                [Sample(count, {"queue": label, "state": state}) for (label, state), count in counts.items()],
            ),
            _gauge(
                "queue_oldest_ready_seconds",
                "How long the oldest message has waited for a free slot.",
                [Sample(age, {"queue": label}) for label, age in ages.items()],
            ),
            _gauge(
                "queue_paused",
                "Whether it is paused, or one of those that share the label.",
                [Sample(value, {"queue": label}) for label, value in paused.items()],
            ),
        ]

    def _label(self, depth: Depth) -> str:
        if depth.kind is Kind.FLOW:
            return FLOW
        if depth.kind is None:
            return OTHER
        name = depth.name or NO_QUEUE
        return OTHER if self._meter(name) is self._other else name

    def _of_queues(self) -> list[Family]:
        with self._lock:
            meters = [*self._queues.items(), (OTHER, self._other)]
        attempts = [
            Sample(count, {"queue": name, "verdict": verdict})
            for name, meter in meters
            for verdict, count in meter.attempts.items()
        ]
        return [
            _counter(
                "messages_accepted_total",
                "Messages that callers had stored.",
                [Sample(meter.accepted, {"queue": name}) for name, meter in meters],
            ),
            _counter("attempts_total", "Attempts that have ended, by what was made of them.", attempts),
            Family(
                DELIVERY,
                "histogram",
                "Time from the start of an attempt to its answer.",
                [line for name, meter in meters for line in meter.delivery.samples(queue=name)],
            ),
            Family(
                DELAY,
                "histogram",
                "Time from when a message was due to the start of its first attempt.",
                [line for name, meter in meters for line in meter.delay.samples(queue=name)],
            ),
        ]


def _delay_ms(claim: Claim) -> int:
    return max(0, claim.started_at - max(claim.not_before, claim.created_at))


def _unnamed(claim: Claim) -> str:
    return NO_QUEUE if claim.extras.flow is None else FLOW


def _verdict(settlement: Settlement) -> str:
    match settlement.verdict:
        case Delivered():
            return "delivered"
        case Again(counted=counted):
            return "retry" if counted else "returned"
        case Dead():
            return "dead"
        case Cancelled():
            return "cancelled"


def _gauge(name: str, about: str, samples: Sequence[Sample]) -> Family:
    return Family(f"qtasks_{name}", "gauge", about, samples)


def _counter(name: str, about: str, samples: Sequence[Sample]) -> Family:
    return Family(f"qtasks_{name}", "counter", about, samples)
