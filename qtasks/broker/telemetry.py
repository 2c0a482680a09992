"""Hands the metrics of this process to OpenTelemetry, if its API is installed.

They bear the names of `metrics.py`, as its conventions write them: `qtasks.queue_messages`. Instruments are
made once in a process; brokers come and go. With no provider set, hardly anything is done.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import cache, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from qtasks.broker.metrics import STORE, Metrics
from qtasks.broker.store import depths
from qtasks.broker.store.depths import Depths
from qtasks.clock import stopwatch_ns
from qtasks.errors import BrokerError
from qtasks.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation

    from qtasks.broker.exposition import Family
    from qtasks.broker.service import Broker

FRESH_NS = 500_000_000
"""For how long what was found for one instrument does for the others."""


class Telemetry:
    """The instruments of a process, through `provider`, by default the one that it has set, now or later."""

    def __init__(self, provider: MeterProvider | None = None) -> None:
        from opentelemetry.metrics import Observation, get_meter

        self._observation = Observation
        self._broker: Broker | None = None
        self._lock = threading.Lock()
        self._found: tuple[int, dict[str, Family]] = (0, {})
        self._spans: dict[str, Histogram] = {}
        meter = get_meter("qtasks", VERSION, meter_provider=provider)
        for each in Metrics().families(Depths([], 0), 0, is_ready=False):
            self._make(meter, each)

    def _make(self, meter: Meter, family: Family) -> None:
        name = family.name.replace("_", ".", 1).removesuffix("_total").removesuffix("_seconds")
        unit = "s" if family.name.endswith("_seconds") else ""
        if family.kind == "histogram":
            self._spans[family.name] = _histogram(meter, name, unit, family)
            return
        make: Any = (
            meter.create_observable_counter if family.kind == "counter" else meter.create_observable_gauge
        )
        make(name, callbacks=[partial(self._observe, family.name)], unit=unit, description=family.about)

    def attach(self, broker: Broker) -> None:
        """Tell of this broker from now on; of several in a process, of the last one."""
        self._broker, self._found = broker, (0, {})
        broker.metrics.record = self._record

    def detach(self, broker: Broker) -> None:
        """Tell of it no more."""
        broker.metrics.record = None
        if self._broker is broker:
            self._broker = None

    def _record(self, name: str, span_ms: float, label: str) -> None:
        self._spans[name].record(span_ms / 1000, {"operation" if name == STORE else "queue": label})

    def _observe(self, name: str, options: CallbackOptions) -> Iterable[Observation]:
        family = self._families().get(name)
        return [self._observation(each.value, dict(each.labels)) for each in family.samples] if family else []

    def _families(self) -> dict[str, Family]:
        """Look once for all instruments that are read together."""
        broker, now = self._broker, stopwatch_ns()
        if broker is None:
            return {}
        with self._lock:
            found_at, found = self._found
            if not found or now - found_at > FRESH_NS:
                found = {each.name: each for each in _look(broker)}
                self._found = (now, found)
            return found


def _look(broker: Broker) -> list[Family]:
    try:
        found = broker.database.look(depths.look)
    except BrokerError:  # it has failed, or is closed
        return broker.metrics.families(Depths([], 0), broker.clock.now(), is_ready=False)
    return broker.metrics.families(found, broker.clock.now(), is_ready=broker.problem() is None)


def _histogram(meter: Meter, name: str, unit: str, family: Family) -> Histogram:
    bounds = [float(each.labels["le"]) for each in family.samples if each.labels.get("le", "+Inf") != "+Inf"]
    try:
        return meter.create_histogram(
            name, unit, family.about, explicit_bucket_boundaries_advisory=[*dict.fromkeys(bounds)]
        )
    except TypeError:  # an API older than 1.30
        return meter.create_histogram(name, unit, family.about)


@cache
def find_telemetry() -> Telemetry | None:
    """Give the instruments of this process; None without OpenTelemetry's API."""
    if find_spec("opentelemetry") is None:
        return None
    try:
        return Telemetry()
    except ImportError:  # the name is shared by many packages, and the API is none of those here
        return None
