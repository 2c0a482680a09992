"""What parsers cost on the longest and worst that reaches them: well under ten milliseconds.

Work is counted in lines of Python that run, which no neighbour on the machine changes. What C code does
in between is not seen so; for that, CPU time is compared with that of a loop that takes some ten
milliseconds on a quiet machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings, target
from hypothesis import strategies as st

from qtasks.broker.store.logs import parse_place
from qtasks.broker.store.views import parse_cursor
from qtasks.errors import BadRequest, InvalidValue
from qtasks.protocol.cron import MAX_CRON_MS, parse_cron
from qtasks.protocol.destinations import check_url, parse_destination, split_target
from qtasks.protocol.durations import parse_duration_ms, span_ms
from qtasks.protocol.expression import MAX_DEPTH, MAX_LENGTH, parse_expression
from qtasks.protocol.flow import parse_flow, parse_period
from qtasks.protocol.headers import MAX_FORWARDED, MAX_HEADER_BYTES, parse_options, render_options
from qtasks.protocol.hints import retry_hint_ms
from qtasks.protocol.redact import parse_redaction
from tests.support import repeats

MOST_LINES = 30_000  # at 50 to 100 ns each, three milliseconds at most
LINES_OF_A_PAIR = 4  # in a query, which may be nothing but `&`: lines of the shortest kind
YARDSTICK_LOOPS = 150_000

# A request's path and query together, its head, and the fields of that.
TARGET_BYTES = 16 * 1024
HEAD_BYTES = 128 * 1024
HEAD_FIELDS = 200
REPLY_FIELDS = 128
NO_CAP = 1_000_000
YEAR_MS = 31_557_600_000

Work = Callable[[], object]
Pairs = list[tuple[str, str]]


def filled(pattern: str, length: int, last: str = "") -> str:
    """Repeat a pattern up to a length."""
    return (pattern * (length // len(pattern) + 1))[: length - len(last)] + last


DURATIONS = ["1s" * 32, "9" * 64, "1." + "9" * 61 + "s", "1 " * 32, " " * 64, "1d" * NO_CAP]
EXPRESSIONS = [
    "(" * MAX_DEPTH + "retried" + ")" * MAX_DEPTH,
    "(" * MAX_LENGTH,
    filled("abs(", MAX_LENGTH),
    "max(" + filled("1,", MAX_LENGTH - 4, "1)"),
    filled("1+", MAX_LENGTH - 1),
    filled("1%-", MAX_LENGTH - 2),
    "9" * MAX_LENGTH,
    "1e" + "9" * (MAX_LENGTH - 2),
    "." * MAX_LENGTH,
    " " * (MAX_LENGTH - 1) + "1",
    "pow(9e99,pow(9e99,pow(9e99,retried)))",
    "1" * NO_CAP,
]
RARE = [
    "* * * * *",
    "0 0 29 2 *",
    "0 0 29 2 */7",
    "* * 29 2 */7",
    "0 0 31 * */7",
    "59 23 31 12 */7",
    ",".join(["*/1"] * 55) + " * * * *",
]
CRONS = [
    *RARE,
    "0 0 31 2 *",
    "0 0 30,31 2 *",
    ",".join(["0-59"] * 49) + " * * * *",
    "* * * * " + ",".join(["SUN-MON/2"] * 24),
    "*," * 128,
    "* " * 128,
    "*/" + "9" * 254,
    "CRON_TZ=" + "a" * 240 + " * * *",
    "CRON_TZ=" + "a/" * 120 + " * * *",
    "* * * * *" + " " * NO_CAP + "*",
]
# Changes of offset that are many, at midnight, by half an hour, by seconds, by a whole day.
ZONES = [
    "Africa/Casablanca",
    "Africa/Monrovia",
    "America/Havana",
    "Asia/Gaza",
    "Australia/Lord_Howe",
    "Europe/London",
    "Pacific/Apia",
]
INSTANTS = (0, 1_700_000_000_000, 4_102_000_000_000, MAX_CRON_MS)
SPANS = ((0, MAX_CRON_MS), (0, 60 * YEAR_MS), (1_700_000_000_000, 1_700_000_000_000 + YEAR_MS))
TARGETS = [
    ("/v2/publish/https://a/", "&"),
    ("/v2/publish/https://a/", "a=b&"),
    ("/v2/publish/https://a/", "%61%61=%&"),
    ("/v2/publish/https://a/", "%"),
    ("/v2/publish/https://a/", "upstash-label=%41&"),
    ("/v2/publish/https://a/", "upstash-a&"),
    ("/v2/publish/https://a/", "upstash-label=" + "%" * TARGET_BYTES),
    ("/v2/publish/" + "%" * TARGET_BYTES, ""),
    ("/v2/publish/" + filled("%41", TARGET_BYTES), ""),
    ("/v2/publish/" + filled("%41a", TARGET_BYTES), ""),
    ("/v2/publish/https%3A//" + filled("%C3%A9", TARGET_BYTES), ""),
    ("/v2/" + "%" * TARGET_BYTES + "/https://a/", ""),
    ("/" * TARGET_BYTES, ""),
]
URLS = [
    "https://a/" + "é" * 4000,
    "https://" + "a" * 8000,
    "https://[" + ":" * 8000 + "]",
    "https://" + "@" * 8000 + "a",
    "https://a:" + "9" * 8000,
    "https://" + "ﬃ" * 2600,
    "https://a/" + "a" * NO_CAP,
]
DESTINATIONS = ["%41" * NO_CAP, "https%3A//a/" + "%41" * NO_CAP, "a" * NO_CAP]
CURSORS = ["-" * TARGET_BYTES, "1-" * TARGET_BYTES, "1" * TARGET_BYTES, "1-" + "9" * TARGET_BYTES]
HINTS = ["1ns" * 21, "1m" * 32, "9." * 32, "9" * 64, "." * 64, "Sun, 27 Jun 2024 12:16:24 GMT", " " * 8000]
# Repeated up to the length of a header.
VALUES = {
    "Upstash-Redact-Fields": ["header[a],", "body,", "header , ", "header [ ", "header[" + "a" * 8000, ","],
    "Upstash-Label": ["a,", ",", "é,", " , ", ",".join(f"{each:x}" for each in range(2000))],
    "Qtasks-Queue": [";", "=", "ordered=true;", "parallelism=" + "1" * 8000],
    "Upstash-Retry-Delay": ["(", "1+"],
    "Upstash-Forward-X": ["a", "\0"],
}
FLOWS = ["rate=1,", ",", "=", "rate=" + "0" * 8000, "rate=1,period=" + "1" * 8000, "rate=1,period=1d1d"]
TEXTS: list[tuple[str, Callable[[str], object], Sequence[str]]] = [
    ("duration", parse_duration_ms, DURATIONS),
    ("span", span_ms, DURATIONS),
    ("period", parse_period, DURATIONS),
    ("expression", lambda text: [parse_expression(text).delay_ms(each) for each in (0, 1000)], EXPRESSIONS),
    ("cron", parse_cron, CRONS),
    ("url", check_url, URLS),
    ("destination", lambda text: parse_destination(text, ""), DESTINATIONS),
    ("flow", lambda text: parse_flow("k", filled(text, MAX_HEADER_BYTES)), FLOWS),
    ("redaction", lambda text: parse_redaction(filled(text, MAX_HEADER_BYTES)), ["header[a],", "headers,"]),
    ("place", parse_place, CURSORS),
    ("cursor", parse_cursor, CURSORS),
    ("hint", lambda text: retry_hint_ms([("X-RateLimit-Reset", text)] * REPLY_FIELDS, 0), HINTS),
]


def header(name: str, pattern: str) -> Work:
    value = filled(pattern, MAX_HEADER_BYTES - len(name))
    return lambda: parse_options([(name, value)])


def request_target(path: str, query: str) -> Work:
    raw = path.encode()[:TARGET_BYTES]
    raw_query = filled(query, TARGET_BYTES - len(raw)).encode() if query else b""
    return lambda: split_target(raw, raw_query, 2)


def crowds() -> Iterator[tuple[str, Pairs]]:
    """Give headers of messages, as many and as long as the head of a request holds."""
    callbacks = [
        ("Upstash-Callback", "https://c"),
        ("Upstash-Failure-Callback", "https://f"),
        ("Upstash-Callback-Callback", "https://d"),
    ]
    count = HEAD_FIELDS - len(callbacks)
    value = "v" * (HEAD_BYTES // HEAD_FIELDS - 64)
    for start in ("X", "Upstash-Forward-X", "Upstash-X", "Upstash-Callback-Forward-X", "Upstash-Callback-X"):
        yield f"many {start}", [*callbacks, *((f"{start}{at}", value) for at in range(count))]
        yield f"equal {start}", [*callbacks, *[(start, value[:40])] * count]
    nested = "Upstash-Callback-Callback-Forward-X"
    yield "nested", [*callbacks, *((f"{nested}{at}", value) for at in range(MAX_FORWARDED))]
    plain = [(f"X{at}", "v" * 512) for at in range(MAX_FORWARDED)]
    yield "all plain", [("Upstash-Header-Forward", "true"), *plain]


def rendered(pairs: Pairs) -> object:
    return parse_options(render_options(parse_options(pairs)))


def cases() -> dict[str, Work]:
    """Give every case by a short name."""
    found: dict[str, Work] = {}

    def add(name: str, text: str, work: Work) -> None:
        found[f"{len(found)} {name} {text[:30]}".encode("unicode_escape").decode()] = work

    for name, parse, texts in TEXTS:
        for text in texts:
            add(name, text, partial(parse, text))
    for path, query in TARGETS:
        add("target", path[-12:] + query, request_target(path, query))
    for name, patterns in VALUES.items():
        for pattern in patterns:
            add(name, pattern, header(name, pattern))
    for name, pairs in crowds():
        add("headers", name, partial(parse_options, pairs))
        add("rendered", name, partial(rendered, pairs))
    return found


CASES = cases()


def tried(work: Work) -> None:
    """Do what may be refused, and is not known from before."""
    parse_expression.cache_clear()
    try:
        work()
    except (BadRequest, InvalidValue):
        pass


def lines_of(work: Work) -> int:
    """Count the lines of Python that run, in libraries too."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        tried(work)
    finally:
        sys.settrace(before)
    return count


def cpu_ns(work: Work) -> int:
    begun = time.thread_time_ns()
    tried(work)
    return time.thread_time_ns() - begun


def yardstick() -> None:
    total = 0
    for each in range(YARDSTICK_LOOPS):
        total += each % 3


@pytest.mark.parametrize("name", CASES)
def test_the_longest_and_worst_is_little_work(name: str) -> None:
    most = LINES_OF_A_PAIR * TARGET_BYTES + 1000 if " target " in name else MOST_LINES

    assert 0 < lines_of(CASES[name]) < most


@pytest.mark.parametrize("name", CASES)
def test_the_longest_and_worst_is_quicker_than_ten_milliseconds_of_counting(name: str) -> None:
    pairs = [(cpu_ns(CASES[name]), cpu_ns(yardstick)) for _ in range(2)]

    assert min(pair[0] for pair in pairs) < min(pair[1] for pair in pairs)


@pytest.mark.parametrize("text", RARE)
@pytest.mark.parametrize("zone", ZONES)
def test_the_next_and_the_latest_fire_are_little_work_however_far(zone: str, text: str) -> None:
    cron = parse_cron(f"CRON_TZ={zone} {text}")

    for instant in INSTANTS:
        assert lines_of(partial(cron.next_after, instant)) < MOST_LINES
    for span in SPANS:
        assert lines_of(partial(cron.latest_between, *span)) < MOST_LINES


def test_a_header_that_a_batch_repeats_ever_so_often_costs_no_more_each_time() -> None:
    few, many = ([("Upstash-Forward-X", "v" * 40)] * count for count in (2_000, 40_000))

    spans = [(cpu_ns(partial(parse_options, few)), cpu_ns(partial(parse_options, many))) for _ in range(3)]

    # Twenty times as many; four hundred if each were added to a copy of all before it.
    assert min(span[1] for span in spans) < 80 * min(span[0] for span in spans)


def test_of_many_hints_only_the_first_are_looked_at() -> None:
    short, long = (("X-RateLimit-Reset", each) for each in ("1", "5"))

    assert retry_hint_ms([*[short] * 7, long], 0) == 5_000
    assert retry_hint_ms([*[short] * 8, long], 0) == 1_000


ALPHABETS = {
    "duration": "0123456789.smhd \t",
    "expression": "0123456789.eE+-*/%(), retidpowmaxbsq",
    "cron": "0123456789*,-/ SUNMOFEBJAN",
    "flow": "rateplismod=,0123456789 ",
    "redaction": "headerbody[], x-A",
    "url": "htps:/[]@?#%.0aé\\",
    "destination": "htps:/%3AaF2cé?&=",
    "hint": "0123456789.nsmhu",
}


@pytest.mark.parametrize("name", ALPHABETS)
@settings(max_examples=repeats(500))
@given(data=st.data())
def test_no_text_is_found_that_is_much_work(name: str, data: st.DataObject) -> None:
    parse = next(parse for each, parse, _ in TEXTS if each == name)
    pattern = data.draw(st.text(ALPHABETS[name], min_size=1, max_size=24))
    text = filled(pattern, data.draw(st.sampled_from([64, 256, 8192])), data.draw(st.sampled_from(["", ")"])))

    lines = lines_of(lambda: parse(text))

    target(float(lines))
    assert lines < MOST_LINES
