"""Who takes part: the server each needs, the command of its worker, and why it is set up as it is."""

from __future__ import annotations

from dataclasses import dataclass

from tests.benchmarks.peers.servers import Need

OURS = "tests.benchmarks.peers.ours"
THEIRS = "tests.benchmarks.peers.theirs"


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to run tasks, as it is measured."""

    name: str
    module: str
    need: Need
    worker: tuple[str, ...]
    """What the Python of its environment is given, to run tasks; `{port}` is one that it listens on."""

    peer: str | None = None
    """The name of its environment; none is our own."""

    lives_in_app: bool = False
    """Whether whoever calls runs the tasks as well, so that a worker beside it would be a second app."""

    restarts_for_results: bool = False
    """Whether results are kept for all tasks or none, by how the worker is started."""

    has_results: bool = True

    @property
    def is_ours(self) -> bool:
        """Whether it is qtasks."""
        return self.peer is None


def _ours(name: str, need: Need, *, lives_in_app: bool) -> Contestant:
    worker = ("-m", "uvicorn", f"{OURS}:app", "--port", "{port}", "--log-level", "warning")
    return Contestant(name, OURS, need, worker, lives_in_app=lives_in_app)


def _redis(peer: str, *worker: str, restarts_for_results: bool = False) -> list[Contestant]:
    """Give a peer twice, by how its Redis writes."""
    return [
        Contestant(
            name, f"{THEIRS}.{peer}_app", need, worker, peer=peer, restarts_for_results=restarts_for_results
        )
        for name, need in ((peer, Need.REDIS), (f"{peer}-always", Need.REDIS_ALWAYS))
    ]


CONTESTANTS = (
    _ours("qtasks-embedded", Need.FILE, lives_in_app=True),
    _ours("qtasks-standalone", Need.BROKER, lives_in_app=False),
    _ours("qtasks-postgres", Need.POSTGRES, lives_in_app=True),
    *_redis(
        "celery", "-m", "celery", "-A", f"{THEIRS}.celery_app", "worker", "--pool", "prefork", "--concurrency", "2",
        "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING",
    ),
    *_redis("dramatiq", "-m", "dramatiq", f"{THEIRS}.dramatiq_app", "--processes", "2", "--threads", "8"),
    *_redis(
        "taskiq", "-m", "taskiq", "worker", f"{THEIRS}.taskiq_app:broker", "--workers", "2", "--log-level", "WARNING",
        "--no-parse", restarts_for_results=True,
    ),
    *_redis("huey", "-m", "huey.bin.huey_consumer", f"{THEIRS}.huey_app.huey", "-w", "2", "-k", "process", "-q"),
    *_redis("streaq", "-m", "streaq", "run", f"{THEIRS}.streaq_app:worker", "--workers", "2"),
    Contestant(
        "procrastinate", f"{THEIRS}.procrastinate_app", Need.POSTGRES,
        ("-m", "procrastinate", "--app", f"{THEIRS}.procrastinate_app.app", "worker", "--concurrency", "30"),
        peer="procrastinate", has_results=False,
    ),
)
