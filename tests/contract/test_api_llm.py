"""The destination `api/llm` against a server that speaks OpenAI's API (contract 6.3)."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qtasks.broker.apis import parse_apis
from qtasks.broker.config import BrokerConfig
from qtasks.errors import ConfigurationError
from tests.support.chat_server import PATH, ChatServer
from tests.support.contract import Bench, Standalone, standalone_at
from tests.support.homes import served, until

KEY = "sk-of-the-operator"
ASKED = {"model": "small", "messages": [{"role": "user", "content": "hello"}]}


@asynccontextmanager
async def broker_with(chat: ChatServer, folder: Path, key: str = KEY) -> AsyncIterator[Standalone]:
    """Run a broker that knows the chat server as `api/llm`."""
    async with served(chat.app()) as address:
        config = BrokerConfig(grace_ms=2000, apis=parse_apis([f"llm={address}/v1/"], {"llm": key}))
        async with standalone_at(folder / "q.db", config=config) as standalone:
            yield standalone


def report_of(standalone: Standalone) -> dict[str, Any]:
    """Read the newest callback, its body decoded."""
    report: dict[str, Any] = json.loads(standalone.receiver.last.body)
    return report | {"body": json.loads(base64.b64decode(report["body"]))}


async def test_a_completion_comes_to_the_callback(tmp_path: Path) -> None:
    chat = ChatServer(KEY)
    async with broker_with(chat, tmp_path) as standalone:
        headers = {
            "Upstash-Callback": f"{standalone.receiver.url}/told",
            "Content-Type": "application/json",
        }
        await standalone.publish("api/llm", json.dumps(ASKED).encode(), headers)
        await standalone.receiver.reached(1)

        report = report_of(standalone)

    assert chat.calls == [ASKED]
    assert (report["status"], report["url"].endswith(PATH)) == (200, True)
    assert report["body"]["choices"][0]["message"]["content"] == "You said: hello"


async def test_a_rate_limit_of_the_server_is_waited_for(tmp_path: Path) -> None:
    chat = ChatServer(KEY, busy=1)
    async with broker_with(chat, tmp_path) as standalone:
        headers = {"Upstash-Callback": f"{standalone.receiver.url}/told"}
        message_id = await standalone.publish("api/llm", json.dumps(ASKED).encode(), headers)
        await standalone.receiver.reached(2)
        page = (await standalone.http.get(f"/v2/events?messageId={message_id}")).json()["events"]

    times = {each["state"]: each for each in page}
    waited = times["RETRY"]["nextDeliveryTime"] - times["RETRY"]["time"]
    assert waited == 2000  # the later of the two resets
    assert len(chat.calls) == 2
    assert times["DELIVERED"]["responseStatus"] == 200


async def test_a_wrong_key_is_told_and_shown_nowhere(tmp_path: Path) -> None:
    chat = ChatServer(KEY)
    async with broker_with(chat, tmp_path, key="sk-wrong") as standalone:
        headers = {"Upstash-Callback": f"{standalone.receiver.url}/told", "Upstash-Retries": "0"}
        message_id = await standalone.publish("api/llm", json.dumps(ASKED).encode(), headers)
        await standalone.receiver.reached(1)
        report = report_of(standalone)
        shown = [
            (await standalone.http.get(path)).text
            for path in (f"/v2/messages/{message_id}", "/v2/events", "/v2/dlq")
        ]

    assert (report["status"], report["body"]["error"]["code"]) == (401, "invalid_api_key")
    assert "sk-wrong" not in "".join(shown) + json.dumps(report)


async def test_a_dead_call_can_be_replayed_with_the_key_of_then(tmp_path: Path) -> None:
    chat = ChatServer(KEY, busy=1, reset="0")
    async with broker_with(chat, tmp_path) as standalone:
        headers = {"Upstash-Callback": f"{standalone.receiver.url}/told", "Upstash-Retries": "0"}
        await standalone.publish("api/llm", json.dumps(ASKED).encode(), headers)
        await standalone.receiver.reached(1)
        [letter] = (await standalone.http.get("/v2/dlq")).json()["messages"]

        answer = await standalone.http.post(f"/v2/dlq/retry/{letter['dlqId']}")
        await standalone.receiver.reached(2)
        report = report_of(standalone)

    assert answer.status_code == 201
    assert report["status"] == 200


async def test_streaming_is_refused_as_no_callback_could_take_it(tmp_path: Path) -> None:
    async with broker_with(ChatServer(KEY), tmp_path) as standalone:
        headers = {"Upstash-Callback": "https://app.example/told"}
        body = json.dumps(ASKED | {"stream": True}).encode()
        answer = await standalone.http.post("/v2/publish/api/llm", content=body, headers=headers)

    assert answer.status_code == 400
    assert answer.json() == {"error": 'api/llm cannot stream to a callback: send "stream": false'}


async def test_email_needs_no_callback(bench: Bench) -> None:
    error = await bench.refusal("POST", "/v2/publish/api/email", 400)

    assert error.startswith(
        "invalid destination: api/email is not configured; start the broker with --api email="
    )


async def test_the_key_outweighs_a_forwarded_one(tmp_path: Path) -> None:
    """Whoever may publish may not choose whose account is charged: the broker's key is what is sent."""
    chat = ChatServer(KEY)
    async with broker_with(chat, tmp_path) as standalone:
        headers = {
            "Upstash-Callback": f"{standalone.receiver.url}/told",
            "Upstash-Forward-Authorization": "Bearer sk-mine",
        }
        await standalone.publish("api/llm", json.dumps(ASKED).encode(), headers)
        await until(lambda: chat.calls)

    assert len(chat.calls) == 1


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://api.openai.com", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
        ("https://llm.example/proxy/v1/chat/completions", "https://llm.example/proxy/v1/chat/completions"),
        ("http://127.0.0.1:11434/chat/completions", "http://127.0.0.1:11434/v1/chat/completions"),
    ],
)
def test_the_base_url_may_be_given_in_any_of_the_usual_ways(base: str, url: str) -> None:
    assert parse_apis([f"llm={base}"], {})["api/llm"].url == url


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("llm", "must name llm or email and its base URL"),
        ("chat=https://x.example", "must name llm or email and its base URL"),
        ("llm=api.openai.com", "is no base URL such as https://api.openai.com"),
        ("llm=https://user:sk-1@x.example", "its key belongs in QTASKS_API_LLM_KEY"),
    ],
)
def test_an_api_that_cannot_be_is_refused(entry: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        parse_apis([entry], {})


def test_keys_stay_out_of_what_is_printed() -> None:
    config = BrokerConfig(apis=parse_apis(["llm=https://x.example"], {"llm": KEY}))

    assert KEY not in repr(config)
