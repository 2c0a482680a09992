"""Asks a broker over its own API what it knows, for tests that compare that with what happened.

Messages are told apart by the member `id` of their JSON body: the test's own key, or the task id.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from qtasks.home.ownership import owner_socket

INTERRUPTED = "interrupted"


class BrokerApi:
    """What tests ask of a broker."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def lag(self) -> int:
        """Say how many messages are stored and not finished."""
        return sum(each["lag"] for each in self._get("/v2/queues"))

    def dead(self) -> list[str]:
        """Give the keys of the dead letters."""
        return [_key(each) for each in self._pages("/v2/dlq", "messages")]

    def interrupted(self) -> Counter[str]:
        """Count, by key, the attempts of which the broker says that its own death cut them short."""
        attempts = self._pages("/v2/logs", "logs", state="ERROR")
        return Counter(_key(each) for each in attempts if each.get("error", "").startswith(INTERRUPTED))

    def failed(self) -> Counter[str]:
        """Count, by key, the attempts that ended in an error of any kind."""
        return Counter(_key(each) for each in self._pages("/v2/logs", "logs", state="ERROR"))

    def states(self, message_id: str) -> list[str]:
        """Give the states that a message went through, oldest first."""
        found = [each["state"] for each in self._pages("/v2/logs", "logs", messageId=message_id)]
        return found[::-1]

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pages(self, path: str, member: str, **query: str) -> Iterator[dict[str, Any]]:
        while True:
            page = self._get(path, **query)
            yield from page[member]
            if not page.get("cursor"):
                return
            query["cursor"] = page["cursor"]

    def _get(self, path: str, **query: str) -> Any:
        answer = self.http.get(path, params=query)
        assert answer.status_code == 200, f"{path} {query}: {answer.status_code} {answer.text}"
        return answer.json()


def _key(shown: dict[str, Any]) -> str:
    """Read the body of a dead letter, which is text, or of a log entry, which is base64."""
    body = shown["body"]
    if not body.startswith("{"):
        body = base64.b64decode(body)
    return str(json.loads(body)["id"])


def owner_api(store: Path) -> BrokerApi | None:
    """Give the API of the process that owns a file; None while there is none."""
    socket = owner_socket(store)
    if socket is None:
        return None
    headers = {"Authorization": f"Bearer {read_keys(store)['QSTASH_TOKEN']}"}
    transport = httpx.HTTPTransport(uds=socket)
    return BrokerApi(httpx.Client(base_url="http://owner", headers=headers, transport=transport, timeout=10))


def read_keys(store: Path) -> dict[str, str]:
    """Give what stands in the file of secrets beside a database, by name."""
    lines = store.with_name(f"{store.name}.keys").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))
