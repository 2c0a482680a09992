"""The call of QStash's enqueue page, with curl, against our standalone broker."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from tests.support import require
from tests.support.inbox import Inbox
from tests.support.processes import BrokerProcess

pytestmark = pytest.mark.process


def test_the_curl_call_of_the_reference_page_works(broker: BrokerProcess, inbox: Inbox) -> None:
    require(shutil.which("curl") is not None, "curl is not installed")

    command = ["curl", "-sS", "-XPOST", f"{broker.url}/v2/enqueue/myQueue/{inbox.url}/hook"]
    headers = {
        "Authorization": f"Bearer {broker.token}",
        "Content-type": "application/json",
        "Upstash-Method": "PUT",
        "Upstash-Retries": "3",
        "Upstash-Forward-Custom-Header": "custom-value",
    }
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    printed = subprocess.run(
        [*command, "-d", '{"message":"Hello, World!"}'],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout

    assert re.fullmatch(r"msg_\w+", json.loads(printed)["messageId"])
    arrived = inbox.first()
    assert (arrived.method, arrived.path) == ("PUT", "/hook")
    assert arrived.headers["custom-header"] == "custom-value"
    assert arrived.headers["content-type"] == "application/json"
    assert json.loads(arrived.body) == {"message": "Hello, World!"}
