"""What hypothesis may choose from when it makes up the calls and the answers of a trial.

Few names, so that what is chosen meets: a queue its messages, a repeat its first.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.support.oracle_values import (
    CALLBACK,
    EXPRESSIONS,
    NO_ANSWER,
    Limits,
    Outcome,
    Settings,
    Wanted,
)

HOOK = "https://app.example/hook"
QUEUES = st.sampled_from(("mail", "mail", "bulk", "late"))
KEYS = st.sampled_from(("tenant", "tenant", "guest"))
GROUPS = st.sampled_from(("orders", "orders", "news"))
SCHEDULES = st.sampled_from(("often", "seldom"))
URLS = st.sampled_from((HOOK, "https://b.example/hook?x=1"))
ENDPOINTS = st.sampled_from(("https://one.example", "https://two.example", "https://three.example"))
BODIES = st.sampled_from((b"hello", b"", b"more"))
PICKS = st.sampled_from((0, 0, 0, 1, 1, 2, 3, 4, 6, 9))
"""Which of those that are there: mostly the one that matters most."""
COUNTS = st.sampled_from((None, 1, 2, 3))

OUTCOMES = st.sampled_from(
    (
        Outcome(200, b"done"),
        Outcome(200),
        Outcome(204),
        Outcome(500, b"oops"),
        Outcome(500, b"oops"),
        NO_ANSWER,
        Outcome(302),
        Outcome(489, b"never", (("Upstash-NonRetryable-Error", "true"),), is_final=True),
        Outcome(489, b"plain"),
        Outcome(503, b"busy", (("Retry-After", "7"),), hint_ms=7000),
        Outcome(503, b"busy", (("Retry-After", "0"),), hint_ms=0),
        Outcome(429, b"", (("X-RateLimit-Reset", "1m0.5s"),), hint_ms=60_500),
    )
)
ANSWERS = st.lists(OUTCOMES, min_size=1, max_size=6)

LIMITS = st.builds(
    Limits,
    KEYS,
    rate=st.sampled_from((1, 1, 2)),
    parallelism=st.sampled_from((None, 1, 2)),
    period_s=st.sampled_from((60, 10, 1)),
) | st.builds(Limits, KEYS, parallelism=st.sampled_from((1, 2)))
SHARED = st.one_of(LIMITS, LIMITS, st.none())
PINNED = st.tuples(st.sampled_from((1, 2)), st.none()) | st.tuples(
    st.sampled_from((None, 1)), st.sampled_from((1, 3))
)
"""The parallelism and the rate that a pin fixes."""


def _settings(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[Settings]:
    known: dict[str, st.SearchStrategy[Any]] = {
        "retries": st.sampled_from((1, 2, 0)),
        "expression": st.sampled_from(tuple(EXPRESSIONS)),
        "labels": st.sampled_from((("red",), ("red", "blue"))),
        "callback": st.just(True),
        "failure_callback": st.just(True),
        "callback_retries": st.sampled_from((0, 1)),
        "forwarded": st.just("x"),
        "dedup_id": st.sampled_from((None, None, "first", "second")),
        "content_dedup": st.sampled_from((False, False, True)),
    }
    return st.fixed_dictionaries({}, optional=known | more).map(lambda chosen: Settings(**chosen))


# A message in a queue has neither delay nor flow control (contract 2.2). Instants are counted from now.
QUEUED = _settings()
PUBLISHED = _settings(
    delay_s=st.sampled_from((None, None, 0, 2, 90)),
    not_before_s=st.sampled_from((None, None, -5, 1, 3600)),
    limits=LIMITS,
)
TO_QUEUE = st.builds(Wanted, URLS, BODIES, QUEUED, queue=QUEUES)
TO_URL = st.builds(Wanted, URLS, BODIES, PUBLISHED)
TO_GROUP = st.builds(Wanted, st.just(""), BODIES, PUBLISHED, group=GROUPS) | st.builds(
    Wanted, st.just(""), BODIES, QUEUED, queue=QUEUES, group=GROUPS
)
ANYWHERE = TO_QUEUE | TO_URL | TO_GROUP

REFUSED = st.sampled_from(
    (
        ("/v2/publish/ftp://app.example", 400, {}),
        ("/v2/publish/nobody", 404, {}),
        (f"/v2/publish/{HOOK}", 400, {"Upstash-Retries": "-1"}),
        (f"/v2/publish/{HOOK}", 412, {"Upstash-Retries": "1001"}),
        (f"/v2/publish/{HOOK}", 400, {"Upstash-Retry-Delay": "1 +"}),
        (f"/v2/publish/{HOOK}", 400, {"Upstash-Deduplication-Id": "a:b"}),
        (f"/v2/publish/{HOOK}", 400, {"Upstash-Deduplication-Id": "first", "Upstash-Delay": "soon"}),
        (f"/v2/publish/{HOOK}", 400, {"Upstash-Flow-Control-Key": "fresh"}),
        (f"/v2/publish/{HOOK}", 400, {"Upstash-Callback": "nobody"}),
        (f"/v2/enqueue/fresh/{HOOK}", 400, {"Upstash-Delay": "1s"}),
        (f"/v2/enqueue/fresh/{HOOK}", 400, {"Upstash-Callback": CALLBACK, "Upstash-Callback-Delay": "1s"}),
        (f"/v2/enqueue/fresh:1/{HOOK}", 400, {}),
        (f"/v2/schedules/{HOOK}", 400, {"Upstash-Cron": "61 * * * *"}),
    )
)
"""Calls that must be refused: path, status, headers."""
BAD_ITEMS = st.sampled_from(
    (
        Wanted("ftp://app.example"),
        Wanted(HOOK, settings=Settings(retries=-1)),
        Wanted(HOOK, settings=Settings(dedup_id="a:b")),
        Wanted(HOOK, settings=Settings(delay_s=1), queue="fresh"),
        Wanted(HOOK, settings=Settings(limits=Limits("fresh", rate=1)), queue="fresh"),
    )
)
