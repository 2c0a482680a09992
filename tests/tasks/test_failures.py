"""Failure callbacks: which of them end a task, and which are none of this app's."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from qtasks.errors import DecodeError
from qtasks.home.result_store import KeptResults
from qtasks.home.result_tables import SqliteTable
from qtasks.protocol.signature import sign
from qtasks.tasks.answers import Answer
from qtasks.tasks.envelope import EnvelopeSigner, pack
from qtasks.tasks.failures import Failures, read_failure
from qtasks.tasks.webhook import Webhook, WebhookKeys
from tests.support.tasks import KEY, NOW, OTHER_SECRET, URL, Workshop, error_of

SHOP = Workshop()
BODY = pack(SHOP.envelope("note"))
ANSWER = b'{"error":{"type":"ValueError","message":"no","traceback":"Traceback"}}'


def report(**changes: Any) -> bytes:
    members = {
        "status": 500,
        "body": b64encode(ANSWER).decode(),
        "retried": 3,
        "maxRetries": 3,
        "sourceMessageId": "msg_1",
        "sourceHeader": {"Qtasks-Signature": [SHOP.signer.sign(BODY)]},
        "sourceBody": b64encode(BODY).decode(),
    }
    return orjson.dumps({name: value for name, value in (members | changes).items() if value is not None})


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[KeptResults]:
    results = KeptResults(SqliteTable(tmp_path / "results.db"), SHOP.clock)
    yield results
    results.close()


def failures(kept: KeptResults, destination: str = URL) -> Failures:
    return Failures(kept, signer=lambda: SHOP.signer, destination=destination, clock=SHOP.clock)


async def test_a_task_that_was_given_up_has_failed_with_its_last_error(kept: KeptResults) -> None:
    answer = await failures(kept)(report())

    view = kept.result("tsk_1")
    assert answer.status == 200
    assert (view.state, view.attempts, view.error) == ("FAILED", 4, ANSWER)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": 0, "body": ""}, "the last of 4 attempts got no answer; the broker has given the task up"),
        ({"status": 0, "body": None}, "the last of 4 attempts got no answer"),
        (
            {"status": 502, "body": b64encode(b"<html>").decode()},
            "the last of 4 attempts was answered with 502, and not by the task",
        ),
        ({"status": 404, "body": b64encode(b'{"error":"none"}').decode()}, "was answered with 404"),
    ],
)
def test_where_the_task_said_nothing_the_error_tells_what_came_instead(
    changes: Mapping[str, Any], message: str
) -> None:
    found = error_of(Answer(500, read_failure(report(**changes)).document))

    assert found["type"] == "DeliveryFailed"
    assert message in found["message"]


async def test_a_header_that_is_a_text_is_read_like_a_list(kept: KeptResults) -> None:
    header = {"Qtasks-Signature": SHOP.signer.sign(BODY)}

    assert (await failures(kept)(report(sourceHeader=header))).status == 200


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"sourceHeader": {}}, 403, "the task has no signature"),
        ({"sourceHeader": None}, 403, "the task has no signature"),
        (
            {"sourceHeader": {"Qtasks-Signature": [EnvelopeSigner([OTHER_SECRET]).sign(BODY)]}},
            403,
            "the task was not signed by this app",
        ),
        ({"sourceBody": b64encode(b"{}").decode()}, 403, "the task was not signed by this app"),
        ({"sourceBody": None}, 489, "the body is not a failure callback"),
        ({"retried": "many"}, 489, "the body is not a failure callback"),
    ],
)
async def test_what_is_not_of_this_app_changes_nothing(
    kept: KeptResults, changes: Mapping[str, Any], status: int, text: str
) -> None:
    answer = await failures(kept)(report(**changes))

    assert answer.status == status
    assert text in error_of(answer)["message"]
    assert kept.result("tsk_1").state == "UNKNOWN"


async def test_a_task_of_another_address_is_refused(kept: KeptResults) -> None:
    answer = await failures(kept, "https://other.example/run")(report())

    assert answer.status == 403
    assert error_of(answer)["message"] == f"the task was signed for {URL}"


def test_what_is_no_json_object_is_no_failure() -> None:
    for text in (b"", b"[]", b'"x"', b"{"):
        with pytest.raises(DecodeError, match="is not a failure callback"):
            read_failure(text)


async def post(webhook: Webhook, path: str, *, signed_for: str) -> int:
    """Deliver a failure callback; give the status of the answer."""
    body = report()
    headers = {"Upstash-Signature": sign(signed_for, body, key=KEY, now=NOW, jti="jwt_1")}
    transport = httpx.ASGITransport(webhook)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return (await client.post(path, content=body, headers=headers)).status_code


@pytest.mark.parametrize(
    ("signed_for", "status", "state"),
    [
        ("https://app.example/qtasks/failed", 200, "FAILED"),
        (URL, 403, "UNKNOWN"),
        ("https://evil.example/qtasks/failed", 403, "UNKNOWN"),
    ],
)
async def test_the_webhook_takes_failures_that_are_signed_for_their_address(
    kept: KeptResults, signed_for: str, status: int, state: str
) -> None:
    webhook = Webhook(
        lambda: SHOP.executor,
        keys=WebhookKeys((KEY,), URL),
        concurrency=1,
        clock=SHOP.clock,
        failures=failures(kept),
    )

    assert await post(webhook, "/qtasks/failed", signed_for=signed_for) == status
    assert kept.result("tsk_1").state == state


async def test_a_webhook_that_keeps_no_results_takes_no_failures() -> None:
    webhook = Webhook(lambda: SHOP.executor, keys=WebhookKeys((KEY,), URL), concurrency=1, clock=SHOP.clock)

    signed_for = "https://app.example/qtasks/failed"
    assert await post(webhook, "/qtasks/failed", signed_for=signed_for) == 404
