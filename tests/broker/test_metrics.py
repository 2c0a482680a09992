"""What a broker counts, and how it tells Prometheus: names, labels, and numbers that are right."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from qtasks.broker.api import ROUTES, Api
from qtasks.broker.exposition import CONTENT_TYPE, Family, Sample, render
from qtasks.broker.metrics import Histogram, Metrics
from qtasks.broker.store import depths
from qtasks.broker.store.records import Reply
from qtasks.broker.tokens import Scope
from qtasks.protocol.flow import FlowSpec
from qtasks.protocol.headers import Options
from qtasks.protocol.shapes import Outgoing
from qtasks.version import VERSION
from tests.support.broker import WIDE, Held, Rig

TOKEN = "0123456789abcdef0123456789abcdef"
BROKEN = Reply(500, error="unexpected status 500")
LINE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\.)*",?)+)\})? (\S+)')


class Page(dict[str, float]):
    """The series of one scrape, by name and labels as they are written."""


async def scrape(rig: Rig, *, is_local: bool = True, token: str | None = None) -> httpx.Response:
    api = Api(rig.broker, ROUTES, [TOKEN], is_local=is_local)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    transport = httpx.ASGITransport(api)
    async with httpx.AsyncClient(transport=transport, base_url="http://broker", headers=headers) as client:
        return await client.get("/metrics")


async def page_of(rig: Rig) -> Page:
    answer = await scrape(rig)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == CONTENT_TYPE
    page = Page()
    for line in answer.text.splitlines():
        if line.startswith("#"):
            continue
        found = LINE.fullmatch(line)
        assert found is not None, line
        name = line.rpartition(" ")[0]
        assert name not in page, f"{name} is told twice"
        page[name] = float(found[3])
    return page


async def test_every_family_is_told_once_with_help_and_type_before_its_series(rig: Rig) -> None:
    rig.enqueue()
    await rig.turn()

    text = (await scrape(rig)).text

    families = re.findall(r"^# TYPE (\S+) (counter|gauge|histogram)$", text, re.MULTILINE)
    assert len(families) == len(dict(families)) == 15
    for name, kind in families:
        assert f"# HELP {name} " in text
        assert name.startswith("qtasks_")
        assert name.endswith("_total") == (kind == "counter")
        assert name.endswith("_seconds") or kind != "histogram"


async def test_what_waits_runs_and_is_ready_is_told_for_each_queue(rig: Rig) -> None:
    held = Held()
    rig.deliverer.will(held)
    rig.enqueue(queue="mail")
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)
    rig.enqueue(queue="mail")
    rig.enqueue(queue="images", spec=WIDE, start_at=rig.clock.now() + 60_000)
    rig.clock.advance(seconds=30)

    page = await page_of(rig)

    assert page['qtasks_queue_messages{queue="mail",state="active"}'] == 1
    assert page['qtasks_queue_messages{queue="mail",state="ready"}'] == 1
    assert page['qtasks_queue_messages{queue="images",state="waiting"}'] == 1
    assert page['qtasks_queue_oldest_ready_seconds{queue="mail"}'] == 30
    assert page['qtasks_queue_oldest_ready_seconds{queue="images"}'] == 0
    assert page["qtasks_in_flight"] == 1
    held.release()
    await rig.node.dispatcher.idle()


async def test_destinations_that_are_held_back_are_told_with_their_limits(rig: Rig) -> None:
    rig.deliverer.will(*[Reply(429)] * 10)
    for number in range(20):
        where = "busy" if number < 10 else "well"
        rig.enqueue(queue="wide", spec=WIDE, destination=f"https://{where}.example/hook?token=secret")
    before = await page_of(rig)
    await rig.turn()

    page = await page_of(rig)

    assert before["qtasks_destinations_held_back"] == 0
    assert page["qtasks_destinations_held_back"] == 1
    limits = {name: value for name, value in page.items() if name.startswith("qtasks_destination_limit")}
    assert limits == {'qtasks_destination_limit{destination="https://busy.example"}': 1}


async def test_attempts_are_counted_by_what_was_made_of_them(rig: Rig) -> None:
    rig.deliverer.will(BROKEN, Reply(200), BROKEN)
    rig.enqueue(spec=WIDE)
    await rig.turn()
    rig.clock.advance(hours=1)
    await rig.turn()
    rig.enqueue(retries=0, spec=WIDE)
    await rig.turn()

    page = await page_of(rig)

    attempts = {
        verdict: page[f'qtasks_attempts_total{{queue="mail",verdict="{verdict}"}}']
        for verdict in ("delivered", "retry", "dead", "returned", "cancelled")
    }
    assert attempts == {"delivered": 1, "retry": 1, "dead": 1, "returned": 0, "cancelled": 0}
    assert page['qtasks_messages_accepted_total{queue="mail"}'] == 2
    assert page["qtasks_dead_letters"] == 1


async def test_how_long_deliveries_took_and_waited_is_told_in_seconds(rig: Rig) -> None:
    held = Held()
    rig.deliverer.will(held)
    rig.enqueue()
    rig.clock.advance(seconds=4)
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)
    rig.clock.advance(seconds=2)
    held.release()
    await rig.node.dispatcher.idle()

    page = await page_of(rig)

    assert page['qtasks_delivery_duration_seconds_sum{queue="mail"}'] == 2
    assert page['qtasks_delivery_duration_seconds_bucket{queue="mail",le="1"}'] == 0
    assert page['qtasks_delivery_duration_seconds_bucket{queue="mail",le="2.5"}'] == 1
    assert page['qtasks_delivery_duration_seconds_bucket{queue="mail",le="+Inf"}'] == 1
    assert page['qtasks_start_delay_seconds_sum{queue="mail"}'] == 4
    assert page['qtasks_start_delay_seconds_count{queue="mail"}'] == 1


async def test_only_the_first_attempt_tells_how_long_a_message_waited(rig: Rig) -> None:
    rig.deliverer.will(BROKEN)
    rig.enqueue(spec=WIDE)
    await rig.turn()
    rig.clock.advance(hours=1)
    await rig.turn()

    page = await page_of(rig)

    assert page['qtasks_start_delay_seconds_count{queue="mail"}'] == 1
    assert page['qtasks_delivery_duration_seconds_count{queue="mail"}'] == 2


async def test_the_store_s_work_is_timed_by_what_it_was(rig: Rig) -> None:
    rig.enqueue()
    await rig.turn()

    page = await page_of(rig)

    for operation in ("enqueue", "claim", "settle"):
        assert page[f'qtasks_store_duration_seconds_count{{operation="{operation}"}}'] == 1
        assert 0 < page[f'qtasks_store_duration_seconds_sum{{operation="{operation}"}}'] < 60


async def test_a_node_says_who_it_is_and_when_it_last_looked_for_work(rig: Rig) -> None:
    before = await page_of(rig)
    await rig.turn()
    rig.clock.advance(seconds=7)

    page = await page_of(rig)

    assert not any(name.startswith("qtasks_node_idle_seconds") for name in before)
    assert page["qtasks_node_idle_seconds"] == 7
    assert page[f'qtasks_node_info{{version="{VERSION}",node="{rig.node.boot_id}"}}'] == 1
    assert page["qtasks_ready"] == 1


async def test_a_broker_that_drains_is_not_ready(rig: Rig) -> None:
    rig.broker.is_draining = True

    assert (await page_of(rig))["qtasks_ready"] == 0


async def test_a_repeat_that_was_not_stored_is_not_counted_as_accepted(rig: Rig) -> None:
    for _ in range(2):
        rig.enqueue(dedup_id="once")

    assert (await page_of(rig))['qtasks_messages_accepted_total{queue="mail"}'] == 1


async def test_messages_of_flow_control_keys_share_one_label(rig: Rig) -> None:
    for key in ("a", "b"):
        options = Options(flow=FlowSpec(key, parallelism=1))
        rig.broker.accept([Outgoing("https://app.example/hook", b"", options)])
    page = await page_of(rig)
    await rig.turn()
    after = await page_of(rig)

    assert page['qtasks_queue_messages{queue="(flow)",state="ready"}'] == 2
    assert page['qtasks_messages_accepted_total{queue="(flow)"}'] == 2
    assert after['qtasks_attempts_total{queue="(flow)",verdict="delivered"}'] == 2


async def test_queues_beyond_the_bound_share_one_label(rig: Rig) -> None:
    rig.broker.metrics = Metrics(most_queues=2)
    for number in range(5):
        rig.enqueue(queue=f"q{number}", spec=WIDE)

    page = await page_of(rig)

    named = {name for name in page if name.startswith("qtasks_messages_accepted_total")}
    assert named == {f'qtasks_messages_accepted_total{{queue="{each}"}}' for each in ("q0", "q1", "(other)")}
    assert page['qtasks_messages_accepted_total{queue="(other)"}'] == 3
    assert page['qtasks_queue_messages{queue="(other)",state="ready"}'] == 3


async def test_two_thousand_queues_make_no_more_series_than_the_bound(rig: Rig) -> None:
    for first in range(0, 2000, 500):
        rig.store.store(*(rig.store.message(queue=f"q{first + n}") for n in range(500)))

    page = await page_of(rig)

    ready = {name: value for name, value in page.items() if 'state="ready"' in name}
    assert len(ready) == 101
    assert sum(ready.values()) == 2000


async def test_a_count_stops_where_it_would_cost_too_much(rig: Rig) -> None:
    for _ in range(30):
        rig.enqueue(spec=WIDE)

    found = rig.database.look(lambda session: depths.look(session, 10))

    assert [each.ready for each in found.queues] == [10]


@pytest.mark.parametrize(
    ("is_local", "token", "status"),
    [(True, None, 200), (True, "wrong", 200), (False, None, 401), (False, "wrong", 401), (False, TOKEN, 200)],
)
async def test_metrics_need_the_token_wherever_others_reach_the_broker(
    rig: Rig, is_local: bool, token: str | None, status: int
) -> None:
    assert (await scrape(rig, is_local=is_local, token=token)).status_code == status


async def test_a_read_only_token_may_read_metrics(rig: Rig) -> None:
    _, made = rig.broker.tokens.make("prometheus", Scope.READ_ONLY)

    assert (await scrape(rig, is_local=False, token=made)).status_code == 200


def test_a_span_counts_for_the_bound_that_it_just_reaches() -> None:
    spans = Histogram((1, 10))
    for each in (0.5, 1, 1.5, 10, 11):
        spans.observe(each)

    lines = {(each.labels.get("le"), each.suffix): each.value for each in spans.samples()}

    assert [lines[le, "_bucket"] for le in ("0.001", "0.01", "+Inf")] == [2, 4, 5]
    assert lines[None, "_count"] == 5
    assert lines[None, "_sum"] == pytest.approx(0.024)


def test_labels_are_escaped() -> None:
    text = render([Family("x", "gauge", "X.", [Sample(1, {"a": 'q"\\\n'})])])

    assert text.splitlines()[-1] == r'x{a="q\"\\\n"} 1'


def test_the_page_of_the_documentation_names_every_metric(rig: Rig) -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    families = rig.broker.metrics.families(rig.database.look(depths.look), rig.clock.now(), is_ready=True)

    assert re.findall(r"^\| `(qtasks_\w+)", page, re.MULTILINE) == [each.name for each in families]
