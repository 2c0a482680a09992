"""What systemd is told: by datagrams, in the words of sd_notify(3)."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from qtasks.clock import ManualClock
from qtasks.home.notify import Supervisor
from tests.support.processes import Processes


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(10)
        yield listener


def supervisor_of(listener: socket.socket, clock: ManualClock, **env: str) -> Supervisor:
    return Supervisor.from_env({"NOTIFY_SOCKET": listener.getsockname(), **env}, clock)


def next_of(listener: socket.socket) -> str:
    return listener.recv(4096).decode()


def is_silent(listener: socket.socket) -> bool:
    listener.setblocking(False)
    try:
        listener.recv(4096)
    except BlockingIOError:
        return True
    return False


def test_readiness_and_the_end_are_told(heard: socket.socket) -> None:
    supervisor = supervisor_of(heard, ManualClock())

    supervisor.ready("listening on port 8080")
    supervisor.stopping()

    assert next_of(heard) == "READY=1\nSTATUS=listening on port 8080"
    assert next_of(heard) == "STOPPING=1\nSTATUS=draining"


def test_a_watchdog_gets_three_signs_of_life_in_its_time(heard: socket.socket) -> None:
    clock = ManualClock()
    supervisor = supervisor_of(heard, clock, WATCHDOG_USEC="3000000", WATCHDOG_PID=str(os.getpid()))

    for _ in range(30):
        supervisor.alive()
        clock.advance(100)

    assert [next_of(heard) for _ in range(3)] == ["WATCHDOG=1"] * 3
    assert is_silent(heard)


@pytest.mark.parametrize(
    "env", [{}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}]
)
def test_without_a_watchdog_for_this_process_nothing_is_said(
    heard: socket.socket, env: dict[str, str]
) -> None:
    supervisor_of(heard, ManualClock(), **env).alive()

    assert is_silent(heard)


def test_an_abstract_socket_is_reached_too(tmp_path: Path) -> None:
    name = f"qtasks-test-{os.getpid()}"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(10)
        Supervisor.from_env({"NOTIFY_SOCKET": f"@{name}"}, ManualClock()).stopping()

        assert next_of(listener).startswith("STOPPING=1")


@pytest.mark.parametrize("env", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/notify"}])
def test_nobody_who_listens_is_no_error(env: dict[str, str]) -> None:
    Supervisor.from_env(env, ManualClock()).ready("listening")


@pytest.mark.process
def test_a_broker_says_when_it_listens_that_it_lives_and_when_it_stops(
    heard: socket.socket, tmp_path: Path
) -> None:
    with Processes(tmp_path) as processes:
        env = {"NOTIFY_SOCKET": heard.getsockname(), "WATCHDOG_USEC": "300000"}
        store = f"sqlite:///{processes.store}"
        broker = processes.python("-m", "qtasks", "broker", "--store", store, "--port", "0", env=env)
        first = next_of(heard)
        [where] = broker.expect(r"broker on http://127.0.0.1:(\d+)")
        signs = [next_of(heard) for _ in range(2)]
        broker.terminate()
        last = next_of(heard)
        while last == "WATCHDOG=1":
            last = next_of(heard)

    assert re.fullmatch(r"READY=1\nSTATUS=listening on port (\d+)", first)
    assert first.endswith(where[1])
    assert signs == ["WATCHDOG=1"] * 2
    assert last == "STOPPING=1\nSTATUS=draining"
