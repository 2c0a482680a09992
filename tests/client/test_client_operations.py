"""Each operation of the broker's API by the client, against a real broker; none is without a call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from qtasks.broker.api import ROUTES
from qtasks.broker.api.flow_control import VERBS
from qtasks.client import calls
from qtasks.client.calls import EVERYTHING, Call, Filter
from qtasks.client.clients import AsyncClient
from qtasks.errors import InvalidValue, NotFound
from qtasks.protocol.cron import parse_cron
from qtasks.protocol.headers import Options
from qtasks.protocol.resources import Endpoint
from qtasks.protocol.results import ProgressReport
from qtasks.protocol.shapes import Outgoing, State
from tests.support.homes import TOKEN, running_server, server_setup, until_found, url_said
from tests.support.wire import WireServer, response

T = TypeVar("T")
NIGHTLY = Options(cron=parse_cron("0 3 * * *"), schedule_id="nightly")
# Other ways to an operation that has a call, kept for other clients.
ALIASES = {
    *((method, "/v2/publish/{destination...}") for method in ("GET", "PUT", "PATCH", "DELETE")),
    *(
        (method, f"/v2/schedules/{{id}}/{verb}")
        for method in ("PATCH", "PUT")
        for verb in ("pause", "resume")
    ),
    ("POST", "/v2/rotate"),
}
VERB_ALIASES = {"reset"}


class Recorder:
    """A client that remembers what it was asked, to be compared with what there is."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self.asked: set[tuple[str, str]] = set()
        self.verbs: set[str] = set()

    async def send(self, call: Call[T]) -> T:
        """Carry out a call."""
        path = call.target.partition("?")[0]
        segments = path.strip("/").split("/")
        route = next(
            each for each in ROUTES if each.method == call.method and each.match(segments) is not None
        )
        self.asked.add((route.method, route.path))
        if route.path == "/v2/flowControl/{key...}" and route.method == "POST":
            self.verbs.add(segments[-1].lower())
        return await self._client.send(call)


class Bench:
    """A broker, a client to it, and a destination."""

    def __init__(self, client: AsyncClient, hook: WireServer) -> None:
        self.client = Recorder(client)
        self.hook = hook

    async def send(self, call: Call[T]) -> T:
        """Carry out a call."""
        return await self.client.send(call)

    def message(self, queue: str | None = None, body: bytes = b"{}", **options: Any) -> Outgoing:
        """Make a message to the destination."""
        return Outgoing(self.hook.url, body, Options(**options), queue=queue)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A standalone broker, and a destination that answers 200 unless it is told otherwise."""
    async with (
        running_server(server_setup(tmp_path / "q.db")) as said,
        WireServer() as hook,
        AsyncClient(url_said(said), TOKEN) as client,
    ):
        yield Bench(client, hook)


async def use_queues(bench: Bench) -> None:
    """Make, show, steer and drop a queue."""
    await bench.send(calls.set_queue("mail", parallelism=3))
    await bench.send(calls.pause_queue("mail"))
    assert [each.paused for each in await bench.send(calls.queues())] == [True]
    await bench.send(calls.resume_queue("mail"))
    assert not (await bench.send(calls.queue("mail"))).paused
    await bench.send(calls.delete_queue("mail"))
    assert await bench.send(calls.queues()) == []


async def use_messages(bench: Bench) -> None:
    """Send messages in every way, show one, and call them off in every way."""
    await bench.send(calls.publish(bench.message()))
    await bench.hook.reached(1)
    await bench.send(calls.set_queue("held", paused=True))
    held = [(await bench.send(calls.enqueue(bench.message("held", labels=("a",))))).message_id]
    answers = await bench.send(calls.batch([bench.message("held", labels=("b",))] * 2))
    held += [each.message_id for each in answers]

    assert (await bench.send(calls.message(held[0]))).labels == ("a",)
    await bench.send(calls.cancel(held[0]))
    assert await bench.send(calls.cancel_many(Filter(labels=("b",), queues=("held",)), count=1)) == 1
    assert await bench.send(calls.cancel_labelled("b")) == 1
    assert await bench.send(calls.cancel_all()) == 0
    with pytest.raises(NotFound):
        await bench.send(calls.cancel(held[0]))


async def use_url_groups(bench: Bench) -> None:
    """Make a group, send to it, and take it apart."""
    first, second = Endpoint(f"{bench.hook.url}/one", "one"), Endpoint(f"{bench.hook.url}/two")
    await bench.send(calls.add_endpoints("orders", [first, second]))
    await bench.send(calls.set_group_headers("orders", {"Upstash-Retries": ["0"]}))
    assert [each.name for each in await bench.send(calls.url_groups())] == ["orders"]
    assert (await bench.send(calls.url_group("orders"))).endpoints == (first, second)

    to_group = Outgoing("orders", b"{}", Options())
    answers = await bench.send(calls.fan_out(to_group))
    assert [each.url for each in answers] == [first.url, second.url]
    both = await bench.send(calls.fan_out_batch([to_group, bench.message("held")]))
    assert [len(each) for each in both] == [2, 1]

    await bench.send(calls.remove_endpoints("orders", names=["one"]))
    assert (await bench.send(calls.url_group("orders"))).endpoints == (second,)
    await bench.send(calls.delete_url_group("orders"))
    assert await bench.send(calls.url_groups()) == []


async def use_schedules(bench: Bench) -> None:
    """Make a schedule, steer and delete it."""
    made = await bench.send(calls.create_schedule(Outgoing(bench.hook.url, b"x", NIGHTLY)))
    assert made == "nightly"
    await bench.send(calls.pause_schedule(made))
    assert [each.is_paused for each in await bench.send(calls.schedules())] == [True]
    await bench.send(calls.resume_schedule(made))
    assert (await bench.send(calls.schedule(made))).cron == "0 3 * * *"
    await bench.send(calls.delete_schedule(made))
    assert await bench.send(calls.schedules()) == []


async def use_flow_keys(bench: Bench) -> None:
    """Steer a key with a slash and a blank in its name."""
    key = "tenant/7 of 9"
    await bench.send(calls.pin_flow_key(key, parallelism=2, rate=5, period_s=60))
    await bench.send(calls.pause_flow_key(key))
    shown = await bench.send(calls.flow_key(key))
    assert (shown.key, shown.parallelism_max, shown.rate_max, shown.rate_period_s) == (key, 2, 5, 60)
    assert shown.is_paused
    await bench.send(calls.resume_flow_key(key))
    await bench.send(calls.reset_flow_rate(key))
    await bench.send(calls.unpin_flow_key(key, parallelism=True, rate=True))
    [shown] = await bench.send(calls.flow_keys("7 of"))
    assert (shown.is_paused, shown.is_pinned_rate) == (False, False)
    assert (await bench.send(calls.global_parallelism())).most == 64


async def use_dead_letters(bench: Bench) -> None:
    """Let four messages fail; show them, run them again, and delete them."""
    bench.hook.answers.extend([response(500, b"broken")] * 4)
    for label in "abcd":
        await bench.send(calls.enqueue(bench.message("bad", retries=0, labels=(label,))))
    listing = calls.dead_letters(Filter(queues=("bad",), statuses=(500,)))
    page = await until_found(lambda: bench.send(listing), lambda found: len(found.items) == 4)

    first, second, third, fourth = page.items
    assert await bench.send(calls.dead_letter(first.dlq_id)) == first
    await bench.send(calls.delete_dead_letter(first.dlq_id))
    assert list((await bench.send(calls.delete_dead_letters(Filter(dlq_ids=(second.dlq_id,))))).items) == [1]
    replayed = await bench.send(calls.replay(third.dlq_id, Options(retries=1)))
    again = await bench.send(calls.replay_many(Filter(labels=fourth.message.labels)))
    assert (await bench.send(calls.message(replayed.message_id))).max_retries == 1
    assert (len(again.items), again.cursor) == (1, None)
    assert (await bench.send(calls.dead_letters())).items == []


async def use_logs(bench: Bench) -> None:
    """Read the log by both of its operations, of one message: others are still on their way."""
    sent = await bench.send(calls.enqueue(bench.message("logged")))
    wanted = Filter(states=("DELIVERED",), urls=(bench.hook.url,), message_ids=(sent.message_id,))
    events = await until_found(
        lambda: bench.send(calls.log(wanted, trim_bytes=-1)), lambda found: len(found.items) == 1
    )
    logs = await bench.send(calls.short_log(wanted, trim_bytes=-1))

    assert {each.state for each in events.items} == {State.DELIVERED}
    assert {each.body for each in events.items} == {b""}
    assert list(events.items) == list(logs.items)


async def use_results(bench: Bench) -> None:
    """Follow tasks by their ids."""
    await bench.send(calls.enqueue(bench.message("held", task_id="tsk_1", result_ttl_ms=60_000)))
    assert (await bench.send(calls.result("tsk_1"))).state == "QUEUED"
    with pytest.raises(NotFound):
        await bench.send(calls.report_progress("tsk_2", ProgressReport.of(1, 2)))
    assert await bench.send(calls.cancel_task("tsk_1"))
    assert await bench.send(calls.settled(["tsk_1"])) == ["tsk_1"]
    assert await bench.send(calls.forget_result("tsk_1"))
    assert not await bench.send(calls.forget_result("nobody"))


async def use_keys(bench: Bench) -> None:
    """Make, list and revoke a token; show the signing keys, which are the environment's."""
    made = await bench.send(calls.make_token("dashboard", "read-only"))
    assert made.value
    [listed] = await bench.send(calls.tokens())
    assert (listed.name, listed.scope, listed.value) == ("dashboard", "read-only", None)
    await bench.send(calls.revoke_token("dashboard"))
    assert (await bench.send(calls.signing_keys())).current == "sig_the_current_key"
    status = await bench.send(calls.key_status())
    assert (status.can_rotate, status.rotated_at) == (False, None)
    [used] = status.signed
    assert used.key == status.current


async def use_health(bench: Bench) -> None:
    """Ask what needs no token."""
    await bench.send(calls.livez())
    assert "qtasks_" in await bench.send(calls.metrics())
    await bench.send(calls.readyz())
    assert (await bench.send(calls.openapi()))["openapi"] == "3.1.0"


async def test_every_operation_of_the_api_has_a_call_that_works(bench: Bench) -> None:
    for use in (
        use_queues,
        use_messages,
        use_url_groups,
        use_schedules,
        use_flow_keys,
        use_dead_letters,
        use_logs,
        use_results,
        use_keys,
        use_health,
    ):
        await use(bench)
    with pytest.raises(Exception, match="rotate them there"):  # these keys are the environment's
        await bench.send(calls.rotate_keys())

    assert bench.client.asked == {(each.method, each.path) for each in ROUTES} - ALIASES
    assert bench.client.verbs == set(VERBS) - VERB_ALIASES


@pytest.mark.parametrize(
    "make",
    [
        lambda: calls.cancel_many(Filter()),
        lambda: calls.delete_dead_letters(Filter()),
        lambda: calls.replay_many(Filter()),
    ],
)
def test_an_operation_on_many_refuses_a_filter_without_a_condition(make: Any) -> None:
    with pytest.raises(InvalidValue, match="would match everything; say EVERYTHING"):
        make()


def test_everything_is_asked_for_by_saying_so() -> None:
    assert calls.replay_many(EVERYTHING).target == "/v2/dlq/retry?count=100"


def test_an_empty_value_is_no_filter() -> None:
    with pytest.raises(InvalidValue, match="a filter by labels has an empty value"):
        calls.cancel_many(Filter(labels=("",)))


def test_a_filter_is_written_as_the_wire_has_it() -> None:
    wanted = Filter(queues=("a b", "c"), statuses=(500,), since=1, until=0)

    assert wanted.query(count=5) == (
        "?queueName=a+b&queueName=c&responseStatus=500&fromDate=1&toDate=0&count=5"
    )
