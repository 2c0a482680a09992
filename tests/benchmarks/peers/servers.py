"""The servers that contestants need, each a private one on loopback, new for every measurement.

A server is started with the durability that its contestant is listed with, and ends with its measurement.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.benchmarks.peers.children import Child
from tests.support.postgres import binaries, drop_postgres, new_postgres

SOON_S = 30
TOKEN = "t" * 8 + "0123456789abcdef" * 2
KEYS = {
    "QTASKS_TOKEN": TOKEN,
    "QTASKS_CURRENT_SIGNING_KEY": "sig_" + "a1b2c3d4" * 8,
    "QTASKS_NEXT_SIGNING_KEY": "sig_" + "e5f6a7b8" * 8,
    "QTASKS_SECRET": "0123456789abcdef" * 4,
}


class Need(StrEnum):
    """What a contestant needs beside its own processes."""

    FILE = "a SQLite file"
    REDIS = "Redis, fsync every second"
    REDIS_ALWAYS = "Redis, fsync before each answer"
    POSTGRES = "PostgreSQL"
    BROKER = "a standalone broker on a SQLite file"

    @property
    def is_synced(self) -> bool:
        """Whether what was accepted is on the disk before the call returns."""
        return self is not Need.REDIS


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs: its address, and the process that it began with."""

    url: str
    pid: int | None


@contextmanager
def serving(need: Need, folder: Path) -> Iterator[Server]:
    """Run what is needed; its files are in the folder."""
    match need:
        case Need.FILE:
            yield Server(f"sqlite:///{folder / 'store.db'}", None)
        case Need.REDIS | Need.REDIS_ALWAYS:
            with _redis(folder, "everysec" if need is Need.REDIS else "always") as server:
                yield server
        case Need.POSTGRES:
            with _postgres() as server:
                yield server
        case Need.BROKER:
            with _broker(folder) as server:
                yield server


def install(needs: set[Need]) -> None:
    """See that what is needed is on this machine: from Debian's packages if root asks, or say what lacks."""
    lacking = []
    if needs & {Need.REDIS, Need.REDIS_ALWAYS} and shutil.which("redis-server") is None:
        lacking.append("redis-server")
    if Need.POSTGRES in needs and binaries() is None:
        lacking.append("postgresql")
    if not lacking:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *lacking]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SystemExit(f"this machine lacks {', '.join(lacking)}; run as root: {' '.join(command)}")
    print(f"installing {', '.join(lacking)} with apt-get", file=sys.stderr)
    for each in (["apt-get", "update"], command):
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(each, env=env, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise SystemExit(f"{' '.join(each)}: {(done.stdout + done.stderr)[-2000:]}")


def versions() -> dict[str, str]:
    """Give the versions of the servers that are here."""
    found = {}
    folder = binaries()
    for name, path in (
        ("redis-server", shutil.which("redis-server")),
        ("postgres", folder and folder / "postgres"),
    ):
        if path:
            said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=SOON_S).stdout
            if number := re.search(r"\d+(?:\.\d+)+", said):
                found[name] = number.group()
    return found


def free_port() -> int:
    """Give a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def is_open(port: int) -> bool:
    """Say whether somebody listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _redis(folder: Path, fsync: str) -> Iterator[Server]:
    port = free_port()
    # Snapshots are off: the log of changes is the more durable of the two, and they would cost time.
    options = {
        "port": port,
        "bind": "127.0.0.1",
        "dir": folder,
        "save": "",
        "appendonly": "yes",
        "appendfsync": fsync,
    }
    command = [
        "redis-server",
        *(part for name, value in options.items() for part in (f"--{name}", str(value))),
    ]
    with Child("redis", command, folder, dict(os.environ)) as child:
        child.wait_for(lambda: _answers(port), SOON_S)
        yield Server(f"redis://127.0.0.1:{port}/0", child.pid)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


@contextmanager
def _postgres() -> Iterator[Server]:
    server = new_postgres(
        fsync="on", synchronous_commit="on", shared_buffers="512MB", max_wal_size="4GB", max_connections="100"
    )
    try:
        yield Server(server.url("postgres"), server.pid)
    finally:
        drop_postgres(server)


@contextmanager
def _broker(folder: Path) -> Iterator[Server]:
    store = f"sqlite:///{folder / 'broker.db'}"
    command = [sys.executable, "-m", "qtasks", "broker", "--store", store, "--port", "0"]
    with Child("broker", command, folder, os.environ | KEYS) as child:
        found = child.wait_for(lambda: re.search(r"http://\S+:\d+", child.output), SOON_S)
        yield Server(found.group(), child.pid)
