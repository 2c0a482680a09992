"""Who takes part: the server each needs, the command of its worker, and why it is set up as it is.

The settings are those that did best here of what each one's documentation offers; none makes it lose more
tasks than its defaults do. What was tried and was no better stands in docs/comparison.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.benchmarks.peers.servers import Need

OURS = "tests.benchmarks.peers.ours"
THEIRS = "tests.benchmarks.peers.theirs"


@dataclass(frozen=True, slots=True)
class Setup:
    """How a task queue is used, as it is told to the reader."""

    title: str
    module: str
    worker: tuple[str, ...]
    """What the Python of its environment is given, to run tasks; `{port}` is one that it listens on,
    and `{number}` tells processes apart."""

    why: str
    """The settings that are not its defaults, and what for."""

    in_bulk: str
    """How many calls are made at once."""

    keeps: str
    """When it lets go of a task, and what of it is lost with a worker."""

    peer: str | None = None
    """The name of its environment; none is our own."""

    environment: tuple[tuple[str, str], ...] = ()
    restarts_for_results: bool = False
    """Whether results are kept for all tasks or none, by how the worker is started."""

    has_results: bool = True
    processes: int = 1
    """How often the command is run at once; most have workers of several processes."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A task queue on one kind of server, as it is measured."""

    name: str
    title: str
    setup: Setup
    need: Need

    lives_in_app: bool = False
    """Whether whoever calls runs the tasks as well, so that a worker beside it would be a second app."""

    @property
    def is_ours(self) -> bool:
        """Whether it is qtasks."""
        return self.setup.peer is None


QTASKS = Setup(
    title="qtasks",
    module=OURS,
    worker=("-m", "uvicorn", f"{OURS}:app", "--port", "{port}", "--log-level", "warning"),
    why="`Queue(parallelism=1000)`, as the peers have no limit by queue either; `result_ttl=0` for the task "
    "that does nothing, as the peers keep no result of it. One process of uvicorn.",
    in_bulk="`delay_many`, 1,000 a call",
    keeps="When it has returned. A worker's death loses nothing; what ran may run again.",
)
CELERY = Setup(
    title="Celery",
    module=f"{THEIRS}.celery_app",
    peer="celery",
    worker=(
        "-m", "celery", "-A", f"{THEIRS}.celery_app", "worker", "--pool", "solo", "-n", "{number}@%h",
        "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING",
    ),
    processes=2,
    why="Two workers, one a core, each with the pool `solo`, which saves a task the way to another process; "
    "`worker_prefetch_multiplier=64`, as its guide to optimizing says for short tasks; no gossip, mingle or "
    "heartbeats; `ignore_result` for the task that does nothing; hiredis.",
    in_bulk="a loop; `group` sends one by one as well",
    keeps="Before it begins (`acks_late` is off by default): a worker's death loses what it runs.",
)  # fmt: skip
DRAMATIQ = Setup(
    title="Dramatiq",
    module=f"{THEIRS}.dramatiq_app",
    peer="dramatiq",
    worker=("-m", "dramatiq", f"{THEIRS}.dramatiq_app", "--processes", "2", "--threads", "4"),
    environment=(("dramatiq_queue_prefetch", "500"), ("dramatiq_worker_timeout", "5")),
    why="Two processes, one a core, of four threads; `dramatiq_queue_prefetch=500`, as tasks are short; "
    "`dramatiq_worker_timeout=5`, so that an idle worker asks Redis every 5 ms "
    "instead of every second; results for the task that returns something alone; hiredis.",
    in_bulk="has none; a loop",
    keeps="When it has returned. A worker's death loses nothing; what ran may run again.",
)
TASKIQ = Setup(
    title="taskiq",
    module=f"{THEIRS}.taskiq_app",
    peer="taskiq",
    worker=(
        "-m", "taskiq", "worker", f"{THEIRS}.taskiq_app:broker", "--workers", "2", "--log-level", "WARNING",
        "--no-parse",
    ),
    restarts_for_results=True,
    why="Streams, as its lists do not acknowledge; two processes, one a core; uvloop; orjson; no parsing by "
    "pydantic; a result backend only where results are measured, asked every 1 ms; hiredis.",
    in_bulk="has none; 100 calls at a time on one loop",
    keeps="When its result is saved. A worker's death loses nothing; what ran may run again, after ten "
    "minutes.",
)  # fmt: skip
HUEY = Setup(
    title="huey",
    module=f"{THEIRS}.huey_app",
    peer="huey",
    worker=("-m", "huey.bin.huey_consumer", f"{THEIRS}.huey_app.huey", "-w", "4", "-k", "process", "-q"),
    why="Four processes, as each waits for Redis half of the time; `notify_result`, so that "
    "a result is waited for and not polled; hiredis.",
    in_bulk="has none; a loop",
    keeps="When it is taken from Redis: a worker's death loses what it runs.",
)
STREAQ = Setup(
    title="streaq",
    module=f"{THEIRS}.streaq_app",
    peer="streaq",
    worker=("-m", "streaq", "run", f"{THEIRS}.streaq_app:worker", "--workers", "2"),
    why="Two processes, one a core; uvloop; `concurrency=256`; `silent`, so that a task is not logged; "
    "`ttl=0` for the task that does nothing.",
    in_bulk="`enqueue_many`, 1,000 a call",
    keeps="When it has returned. A worker's death loses nothing; what ran may run again.",
)
PROCRASTINATE = Setup(
    title="procrastinate",
    module=f"{THEIRS}.procrastinate_app",
    peer="procrastinate",
    worker=(
        "-m",
        "procrastinate",
        "--app",
        f"{THEIRS}.procrastinate_app.app",
        "worker",
        "--concurrency",
        "15",
    ),
    has_results=False,
    processes=2,
    why="Two workers of a process each, one a core; `--concurrency 15` and 20 connections; wake-ups by "
    "LISTEN/NOTIFY, which is the default; ANALYZE before the backlog is run, as autovacuum does in time.",
    in_bulk="`batch_defer`, 1,000 a call",
    keeps="When it has returned. A worker's death leaves the task as running, until the app retries "
    "stalled jobs.",
)

CONTESTANTS = (
    Contestant("qtasks-embedded", "qtasks, embedded", QTASKS, Need.FILE, lives_in_app=True),
    Contestant("qtasks-standalone", "qtasks, standalone", QTASKS, Need.BROKER),
    Contestant("qtasks-postgres", "qtasks, PostgreSQL", QTASKS, Need.POSTGRES, lives_in_app=True),
    *(
        Contestant(f"{setup.peer}{suffix}", f"{setup.title}{how}", setup, need)
        for suffix, how, need in (
            ("", ", fsync each second", Need.REDIS),
            ("-always", ", fsync always", Need.REDIS_ALWAYS),
        )
        for setup in (CELERY, DRAMATIQ, TASKIQ, HUEY, STREAQ)
    ),
    Contestant("procrastinate", "procrastinate", PROCRASTINATE, Need.POSTGRES),
)
BY_NAME = {each.name: each for each in CONTESTANTS}
