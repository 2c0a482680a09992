"""What OpenTelemetry is told: the same metrics as Prometheus, through its own instruments."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

from qtasks.broker.metrics import DELIVERY_MS
from qtasks.broker.store import depths
from qtasks.broker.store.records import Reply
from qtasks.broker.telemetry import Telemetry, find_telemetry
from tests.support.broker import WIDE, Rig

Points = dict[str, list[Any]]


class Told:
    """A provider whose metrics a test reads."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self._reader])

    def points(self) -> Points:
        """Read all instruments, as an exporter would; give their points by name."""
        found = self._reader.get_metrics_data()
        scopes = [scope for each in (found.resource_metrics if found else ()) for scope in each.scope_metrics]
        return {each.name: [*each.data.data_points] for scope in scopes for each in scope.metrics}


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    yield told
    told.provider.shutdown()


def value(points: Points, name: str, **labels: str) -> float:
    [point] = [each for each in points[name] if each.attributes == labels]
    found: float = point.value
    return found


async def test_counters_and_gauges_say_what_prometheus_is_told(rig: Rig, told: Told) -> None:
    Telemetry(told.provider).attach(rig.broker)
    rig.deliverer.will(Reply(500, error="unexpected status 500"))
    rig.enqueue(spec=WIDE)
    await rig.turn()
    rig.enqueue(spec=WIDE)

    points = told.points()

    assert value(points, "qtasks.attempts", queue="mail", verdict="retry") == 1
    assert value(points, "qtasks.messages_accepted", queue="mail") == 2
    assert value(points, "qtasks.queue_messages", queue="mail", state="ready") == 1
    assert value(points, "qtasks.queue_messages", queue="mail", state="waiting") == 1
    assert value(points, "qtasks.ready") == 1
    assert value(points, "qtasks.in_flight") == 0


async def test_spans_are_recorded_as_histograms_in_seconds_with_our_bounds(rig: Rig, told: Told) -> None:
    Telemetry(told.provider).attach(rig.broker)
    rig.enqueue(spec=WIDE)
    rig.clock.advance(seconds=3)
    await rig.turn()

    points = told.points()

    [delay] = points["qtasks.start_delay"]
    [delivery] = points["qtasks.delivery_duration"]
    assert isinstance(delay, HistogramDataPoint)
    assert (delay.sum, delay.count, dict(delay.attributes or {})) == (3, 1, {"queue": "mail"})
    assert [*delivery.explicit_bounds] == [each / 1000 for each in DELIVERY_MS]
    assert {each.attributes["operation"] for each in points["qtasks.store_duration"]} == {
        "enqueue",
        "claim",
        "settle",
    }


async def test_every_metric_of_prometheus_has_its_instrument(rig: Rig, told: Told) -> None:
    Telemetry(told.provider).attach(rig.broker)
    rig.deliverer.will(Reply(429))  # so that there is a destination that is held back
    rig.enqueue(spec=WIDE)
    await rig.turn()
    families = rig.broker.metrics.families(rig.database.look(depths.look), rig.clock.now(), is_ready=True)

    wanted = {each.name.removesuffix("_total").removesuffix("_seconds") for each in families}

    assert {name.replace(".", "_") for name in told.points()} == wanted


async def test_a_broker_that_has_stopped_or_failed_is_told_of_no_more_and_breaks_nothing(
    rig: Rig, told: Told
) -> None:
    telemetry = Telemetry(told.provider)
    telemetry.attach(rig.broker)
    rig.database.close()

    assert value(told.points(), "qtasks.ready") == 0

    telemetry.detach(rig.broker)
    assert rig.broker.metrics.record is None


async def test_a_node_tells_from_its_start_to_its_stop_where_the_api_is_installed(rig: Rig) -> None:
    assert find_telemetry() is find_telemetry() is not None

    await rig.node.start()
    assert rig.broker.metrics.record is not None
    await rig.node.stop()

    assert rig.broker.metrics.record is None


def test_without_the_api_there_is_nothing_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)

    assert find_telemetry.__wrapped__() is None
