"""How a message is put for hosted QStash: by which route, at which key, with none of our headers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qtasks.home.hosted import in_dialect
from qtasks.protocol.flow import FlowSpec
from qtasks.protocol.headers import Callback, Options, QueueSpec, parse_options, render_options
from qtasks.protocol.shapes import Outgoing

NOW = 1_700_000_000_000
LOOSE, STRICT = QueueSpec(16, ordered=False), QueueSpec(2, ordered=True)
OPTIONS = Options(
    forward=(("Qtasks-Signature", "s"),),
    timeout_ms=5500,
    retries=3,
    dedup_id="tsk_1",
    labels=("blue",),
    task_id="tsk_1",
    start_at=NOW + 1,
    expires_at=NOW + 9000,
    result_ttl_ms=1000,
    dedup_window_ms=600_000,
    unique="finished",
    queue=LOOSE,
)


def message(options: Options, queue: str | None = "mail") -> Outgoing:
    return Outgoing("https://app.example/run", b"{}", options, queue)


@pytest.mark.parametrize("spec", [LOOSE, STRICT])
def test_none_of_our_own_headers_is_left_but_the_forwarded_one(spec: QueueSpec) -> None:
    names = [name for name, _ in render_options(in_dialect(message(replace(OPTIONS, queue=spec))).options)]

    assert not [name for name in names if name.startswith("Qtasks-")]
    assert "Upstash-Forward-Qtasks-Signature" in names


def test_an_unordered_queue_is_a_key_with_its_parallelism() -> None:
    put = in_dialect(message(OPTIONS))

    assert (put.queue, put.options.flow) == (None, FlowSpec("mail", parallelism=16))


def test_an_ordered_queue_is_a_queue() -> None:
    put = in_dialect(message(replace(OPTIONS, queue=STRICT, start_at=None)))

    assert (put.queue, put.options.flow, put.options.not_before) == ("mail", None, None)


def test_a_key_of_its_own_stays() -> None:
    flow = FlowSpec("tenant", rate=5)
    put = in_dialect(message(replace(OPTIONS, queue=None, flow=flow), queue=None))

    assert (put.queue, put.options.flow) == (None, flow)


def test_a_delay_is_in_whole_seconds_and_never_earlier_than_asked() -> None:
    read = parse_options(render_options(in_dialect(message(OPTIONS)).options))

    assert read.not_before == NOW + 1000
    assert read.timeout_ms == 6000


def test_a_delay_in_order_is_never_left_away_silently() -> None:
    assert in_dialect(message(replace(OPTIONS, queue=STRICT))).options.not_before == NOW + 1


def test_the_task_id_is_the_last_label() -> None:
    assert in_dialect(message(OPTIONS)).options.labels == ("blue", "tsk_1")


def test_a_failure_is_told_to_the_app_that_keeps_results() -> None:
    url = "https://app.example/failed"

    assert in_dialect(message(OPTIONS)).options.failure_callback is None
    assert in_dialect(message(OPTIONS), url).options.failure_callback == Callback(url)
