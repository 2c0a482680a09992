"""What the programme measures beyond `qtasks bench`, by name, in the order in which it is told."""

from __future__ import annotations

from qtasks.cli.bench.figures import FIGURES as USUAL
from qtasks.cli.bench.figures import Figure

_MORE = (
    Figure("buffered", "calls through a buffer", "calls/s"),
    Figure("relaxed_1", ".delay(), one thread, durability relaxed", "calls/s"),
    Figure("relaxed_raw", "commits of one row, database alone, relaxed", "commits/s"),
    Figure("client", "single calls by the HTTP client, against a few lines on a socket", "calls/s"),
    Figure(
        "exchange", "the same, against an empty endpoint of Starlette on the broker's HTTP server", "calls/s"
    ),
    Figure("cpu_us", "CPU of a task from a backlog", "µs"),
    Figure("backlog", "tasks run, from a long backlog", "tasks/s"),
    Figure("backlog_cpu_us", "CPU of a task from a long backlog", "µs"),
    Figure("plain", "plain functions run, from a backlog", "tasks/s"),
    Figure("plain_cpu_us", "CPU of a plain function from a backlog", "µs"),
    Figure("naps", "tasks of 50 ms, 100 at once", "tasks/s"),
    Figure("load_p50_ms", "from due to start, at half load, p50", "ms"),
    Figure("load_p99_ms", "from due to start, at half load, p99", "ms"),
    Figure("load_rate", "half load", "tasks/s"),
    Figure("load_kept", "of half load, what was called in time", "share"),
    Figure("start_ms", "start until it answers", "ms"),
    Figure("first_start_ms", "first start, on no store", "ms"),
    Figure("rss_mib", "memory of who has the broker", "MiB"),
    Figure("waiting_mib", "memory with 1,000,000 waiting", "MiB"),
    Figure("waiting_tasks", "tasks run, with 1,000,000 waiting", "tasks/s"),
    Figure("cost_1k_us", "store: a task where 1,000 wait", "µs"),
    Figure("cost_100k_us", "store: a task where 100,000 wait", "µs"),
    Figure("cost_1m_us", "store: a task where 1,000,000 wait", "µs"),
    Figure("deep_ratio", "store: 1,000,000 waiting to 1,000", "times"),
    Figure("cost_1_queue_us", "store: a task, 10,000 waiting in 1 queue", "µs"),
    Figure("cost_1k_queues_us", "store: a task, 1,000 waiting in 1,000 queues", "µs"),
    Figure("cost_10k_queues_us", "store: a task, 10,000 waiting in 10,000 queues", "µs"),
    Figure("wide_ratio", "store: 10,000 queues to 1,000", "times"),
    Figure("spread_ratio", "store: 1,000 queues to 1", "times"),
    Figure("store_enqueue_100", "store: enqueue, 100 at a time", "messages/s"),
    Figure("store_enqueue_500", "store: enqueue, 500 at a time", "messages/s"),
    Figure("store_cycle_64", "store: claim and settle, 64 at a time", "messages/s"),
    Figure("store_cycle_200", "store: claim and settle, 200 at a time", "messages/s"),
    Figure("batch_100", "/v2/batch over HTTP, 100 at a time", "messages/s"),
    Figure("batch_500", "/v2/batch over HTTP, 500 at a time", "messages/s"),
)

_ORDER = (
    "raw", "delay_1", "delay_8", "adelay_1", "adelay_64", "delay_many", "buffered", "relaxed_1",
    "relaxed_raw", "client", "exchange",
    "backlog", "backlog_cpu_us", "tasks", "cpu_us", "plain", "plain_cpu_us", "naps",
    "idle_p50_ms", "idle_p99_ms", "load_rate", "load_kept", "load_p50_ms", "load_p99_ms",
    "result_p50_ms", "result_p99_ms",
)  # fmt: skip
_KNOWN = {each.name: each for each in (*USUAL, *_MORE)}

FIGURES = (
    *(_KNOWN[name] for name in _ORDER),
    *(each for each in _MORE if each.name not in _ORDER),
)
