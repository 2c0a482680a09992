"""What the page of the HTTP API says is so: operations, headers, limits, errors, and its examples work."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Template
from typing import Any

import httpx
import pytest

from qtasks.broker.api import ROUTES
from qtasks.broker.api.flow_control import VERBS
from qtasks.broker.api.routing import Route
from qtasks.broker.config import BrokerConfig, strict_config
from qtasks.home.receipt import ReceiptLimits
from qtasks.protocol.flow import FLOW_KEY, FLOW_VALUE
from qtasks.protocol.headers import CALLBACKS, ROWS
from tests.docs.pages import rows, shell_commands, templates, text
from tests.support import ROOT
from tests.support.broker import HOOK, Rig
from tests.support.contract import bench_of
from tests.support.processes import BrokerProcess, Processes

API = "docs/http-api.md"
TAKES_VALUE = {"-X", "-H", "-d"}
# Read outside the table of the parser.
WITHOUT_ROW = {
    "Upstash-Forward-*",
    "Upstash-Header-Forward",
    FLOW_KEY,
    FLOW_VALUE,
    *(name for name, _ in CALLBACKS),
}
WITHOUT_ROW |= {f"{name}-*" for name, _ in CALLBACKS}


def operations(route: Route) -> list[str]:
    """Give a route as the docs name it; that of all the verbs of a key stands for each of them."""
    path = route.path.replace("{key...}", "{key}")
    if route.path == "/v2/flowControl/{key...}" and route.method == "POST":
        return [f"POST {path}/{verb}" for verb in VERBS]
    return [f"{route.method} {path}"]


def scope(route: Route) -> str:
    """Give what a token must be allowed, as the docs name it."""
    return "none" if route.is_open else "full" if route.needs_full else "read"


def documented_operations() -> dict[str, list[str]]:
    """Give the cells of the table by operation, with those that are named in the last cell only."""
    found: dict[str, list[str]] = {}
    for operation, *cells in rows(text(API), "Operations"):
        method, path = operation.strip("`").split(" ")
        also = re.search(r"[Aa]lso by ((?:`[A-Z]+`(?:, )?)+)", cells[-1])
        for each in (method, *re.findall("[A-Z]+", also[1] if also else "")):
            found[f"{each} {path}"] = cells
    return found


def test_every_operation_is_in_the_docs_with_its_scope_and_no_other_is() -> None:
    wanted = {each.lower(): scope(route) for route in ROUTES for each in operations(route)}

    assert {name.lower(): cells[1] for name, cells in documented_operations().items()} == wanted


def test_the_docs_say_whose_an_operation_is() -> None:
    marks = {name.partition(" ")[2]: cells[0] for name, cells in documented_operations().items()}
    of_qstash = [row for row in rows(text(API), "Operations") if row[1] == "QStash"]

    assert len(of_qstash) == 40
    assert {path for path, mark in marks.items() if mark == "ours"} == {
        path for path in marks if not path.startswith("/v2/")
    }
    assert set(marks.values()) == {"QStash", "clients", "ours"}


def test_the_pages_count_the_operations_right() -> None:
    for name in ("README.md", API, "CHANGELOG.md"):
        assert "all 40 operations" in text(name), name


def documented_headers() -> Mapping[str, str]:
    found: dict[str, str] = {}
    for row in rows(text(API), "Headers of a message"):
        found |= dict.fromkeys(re.findall(r"`([^`]+)`", row[0]), row[1])
    return found


def test_every_header_that_is_read_is_in_the_docs_and_no_other_is_said_to_be_read() -> None:
    read = {name for name, where in documented_headers().items() if where != "ignored"}

    assert read == {row.header for row in ROWS} | WITHOUT_ROW


def test_every_header_says_where_it_may_stand() -> None:
    for name, where in documented_headers().items():
        assert where == "ignored" or re.fullmatch("[PEBSRC]( [PEBSRC])*", where), name


SAMPLES = {
    "Content-Type": "text/plain",
    "Upstash-Forward-*": "1",
    "Upstash-Header-Forward": "true",
    "Upstash-Method": "PUT",
    "Upstash-Timeout": "5s",
    "Upstash-Retries": "1",
    "Upstash-Retry-Delay": "1000",
    "Upstash-Delay": "1h",
    "Upstash-Not-Before": "1000",
    "Upstash-Label": "a",
    "Upstash-Deduplication-Id": "d",
    "Upstash-Content-Based-Deduplication": "true",
    "Upstash-Callback": HOOK,
    "Upstash-Failure-Callback": HOOK,
    FLOW_KEY: "k",
    FLOW_VALUE: "rate=5",
    "Upstash-Redact-Fields": "body",
    "Upstash-Cron": "0 0 1 1 *",
    "Upstash-Schedule-Id": "nightly",
    "Upstash-Queue-Name": "mail",
    "Qtasks-Every": "30s",
    "Qtasks-Catch-Up": "none",
    "Qtasks-Overlap": "skip",
    "Qtasks-Expires-After": "10m",
    "Qtasks-Batch": "9",
    "Qtasks-Batch-Kind": "shop.mail",
    "Qtasks-Task-Id": "t",
    "Qtasks-Result-TTL": "60",
    "Qtasks-Not-Before": "1000",
    "Qtasks-Queue": "ordered=false",
    "Qtasks-Expires": "9000000000000",
    "Qtasks-Dedup-Window": "60",
    "Qtasks-Unique": "started",
}
WAYS = {
    "R": "/v2/dlq/retry/{}",  # the first, as its message must be the only one
    "P": f"/v2/publish/{HOOK}",
    "E": f"/v2/enqueue/mail/{HOOK}",
    "B": "/v2/batch",
    "S": f"/v2/schedules/{HOOK}",
}


def test_every_header_has_a_sample() -> None:
    families = {f"{name}-*" for name, _ in CALLBACKS} | {"Upstash-Telemetry-*"}

    assert documented_headers().keys() - families == SAMPLES.keys()


@pytest.mark.parametrize("name", SAMPLES)
async def test_a_header_is_taken_where_the_page_says_so_and_nowhere_else(name: str, tmp_path: Path) -> None:
    cells = next(row for row in rows(text(API), "Headers of a message") if f"`{name}`" in row[0])
    ignored = re.search(r"((?:[PEBSR] ?)+): ignored", cells[3])
    taken = set(cells[1].split()) | set(ignored[1].split() if ignored else "")
    sent = {name.replace("*", "X"): SAMPLES[name]}
    if name in (FLOW_KEY, FLOW_VALUE):
        sent = {each: SAMPLES[each] for each in (FLOW_KEY, FLOW_VALUE)}
    if name == "Qtasks-Not-Before":
        sent["Qtasks-Queue"] = "ordered=false"
    if name == "Qtasks-Unique":
        sent["Upstash-Deduplication-Id"] = "d"
    rig = Rig(tmp_path)
    with closing(rig.database):
        async with bench_of(rig) as bench:
            for way, path in WAYS.items():
                if way == "R":
                    await bench.die()
                    path = path.format((await bench.letters())[0]["dlqId"])
                answer = await bench.http.post(path, **request(way, sent))
                assert answer.is_success == (way in taken), f"{way}: {answer.status_code} {answer.text}"
                assert answer.is_success or name.partition("-Value")[0] in answer.text


def request(way: str, sent: Mapping[str, str]) -> dict[str, Any]:
    if way == "B":
        return {"json": [{"destination": HOOK, "headers": sent, "body": "b"}]}
    return {"headers": {"Upstash-Cron": "0 0 1 1 *", **sent} if way == "S" else sent, "content": way}


def span(ms: int) -> str:
    for unit_ms, unit in ((86_400_000, "days"), (3_600_000, "h"), (60_000 * 10, "min"), (1000, "s")):
        if ms % unit_ms == 0:
            return f"{ms * (10 if unit == 'min' else 1) // unit_ms} {unit}"
    raise AssertionError(ms)


def size(count: int) -> str:
    return f"{count // 1024**2} MiB" if count >= 1024**2 else f"{count // 1024} KiB"


def limits(config: BrokerConfig, receipt: ReceiptLimits) -> dict[str, str]:
    """Give what the table of limits must say of a broker."""
    return {
        "body of a message": size(config.max_message_bytes),
        "a batch request": size(config.max_batch_bytes),
        "an answer that is kept": size(config.max_response_bytes),
        "retries": f"{config.max_retries}",
        "delay": span(config.max_delay_ms),
        "timeout of an attempt": span(config.max_timeout_ms),
        "dead letters are kept": span(config.dead_letter_retention_ms),
        "log and history are kept": span(config.retention_ms),
        "a message can be read after its end": f"{config.readable_ms // 1000} s",
        "deduplication": span(config.dedup_window_ms),
        "deliveries in flight": f"{config.concurrency}",
        "queues": f"{config.max_queues:,}",
        "parallelism of a queue": f"{config.max_parallelism:,}",
        "schedules": f"{config.max_schedules:,}",
        "URL groups": f"{config.max_url_groups:,}",
        "endpoints of a group": f"{config.max_endpoints}",
        "requests a second for each token": "none" if config.burst_limit is None else f"{config.burst_limit}",
        "path and query of a request": size(receipt.target_bytes),
        "header of a request": size(receipt.head_bytes),
        "header fields of a request": f"{receipt.head_fields}",
    }


def test_the_limits_in_the_docs_are_those_of_the_code() -> None:
    table = {row[0]: row[1:] for row in rows(text(API), "Limits")}
    usual, strict = (
        limits(each, ReceiptLimits()) for each in (BrokerConfig(), strict_config(BrokerConfig()))
    )

    assert {name: cells[0] for name, cells in table.items()} == usual
    for name, cells in table.items():
        said = usual[name] if cells[2] == "the same" else cells[2].removesuffix(" at most").replace(",", "")
        assert said == strict[name].replace(",", "") or said == strict[name], name


def test_every_error_text_of_the_docs_is_one_of_ours() -> None:
    sources = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "qtasks").rglob("*.py"))]
    known = {each for source in sources for each in templates(source)}

    for row in rows(text(API), "Errors"):
        wanted = re.sub(r"<\w+>", "<>", row[1].strip("`"))
        assert any(wanted in each for each in known), row[1]


@pytest.mark.process
def test_every_curl_example_works(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes, destination() as url:
        broker = processes.broker()
        values = {"QSTASH_URL": broker.url, "QSTASH_TOKEN": broker.token}
        values["START_AT"] = str(round(time.time() * 1000) + 1000)
        sent, answer = 0, None
        for words in shell_commands(text(API)):
            if words[0] == "curl":
                answer = curl(words[1:], values, url)
                if answer and "messageId" in answer:
                    values.setdefault("MESSAGE_ID", answer["messageId"])
                sent += 1

        assert sent >= 25
        assert answer == {"status": "ok"}
        assert_the_first_was_delivered(broker, values["MESSAGE_ID"])


class _Destination(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def destination() -> Iterator[str]:
    """Run a server that answers 200 to everything."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Destination) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def curl(arguments: list[str], values: Mapping[str, str], destination: str) -> Any:
    """Send what curl would, to the broker of the test and the destination of the test; give the JSON."""
    method, url, headers, body = "GET", "", [], None
    words = iter(arguments)
    for word in words:
        value = next(words) if word in TAKES_VALUE else word
        value = Template(value).substitute(values).replace("http://127.0.0.1:8000", destination)
        if word == "-X":
            method = value
        elif word == "-H":
            name, _, content = value.partition(": ")
            headers.append((name, content))
        elif word == "-d":
            body = value
        else:
            url = value
    answer = httpx.request(method, url, headers=headers, content=body, timeout=20, trust_env=False)
    assert answer.is_success, f"{method} {url}: {answer.status_code} {answer.text}"
    return json.loads(answer.text) if answer.text and answer.text.startswith("{") else None


def assert_the_first_was_delivered(broker: BrokerProcess, message_id: str) -> None:
    with broker.api() as api:
        assert api.states(message_id)[:2] == ["CREATED", "ACTIVE"]
