"""Where each home tells its metrics, and to whom."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import httpx
import pytest

from qtasks.home.ownership import owner_socket
from tests.support.homes import TOKEN, running_server, server_setup, url_said
from tests.support.processes import Processes, free_port
from tests.support.waiting import eventually

DELIVERED = re.compile(r'^qtasks_attempts_total\{queue="\S+",verdict="delivered"\} ([1-9]\d*)$', re.MULTILINE)


async def ask(url: str, token: str | None = None) -> httpx.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"{url}/metrics", headers=headers)


async def test_a_standalone_broker_on_loopback_tells_anybody(store: Path) -> None:
    async with running_server(server_setup(store)) as said:
        answer = await ask(url_said(said))

    assert answer.status_code == 200
    assert "\nqtasks_ready 1\n" in answer.text
    assert "\nqtasks_in_flight 0\n" in answer.text


async def test_a_standalone_broker_that_others_may_reach_wants_the_token(store: Path) -> None:
    # No test listens beyond loopback. This is there too, but not known to be: only what is plain counts.
    async with running_server(server_setup(store, host="127.1")) as said:
        url = url_said(said).replace("127.1", "127.0.0.1")
        refused, told = await ask(url), await ask(url, TOKEN)

    assert (refused.status_code, told.status_code) == (401, 200)


@pytest.mark.process
def test_an_embedded_broker_tells_on_its_socket_and_on_the_port_it_is_given(tmp_path: Path) -> None:
    port = free_port()
    with Processes(tmp_path) as processes:
        app = processes.app(env={"QTASKS_LISTEN": f"127.0.0.1:{port}"})
        app.delay("count", "k1")
        socket = owner_socket(processes.store)
        assert socket is not None
        ways = {"http://owner": socket, f"http://127.0.0.1:{port}": None}
        for url, uds in ways.items():
            with httpx.Client(transport=httpx.HTTPTransport(uds=uds), base_url=url) as http:
                found = eventually(partial(delivered, http), "a delivery that is told", of=[app])

            assert found == 1


def delivered(http: httpx.Client) -> int | None:
    """Give how many deliveries are told; None while there are none."""
    answer = http.get("/metrics")
    assert answer.status_code == 200, answer.text
    found = DELIVERED.search(answer.text)
    return None if found is None else int(found[1])
