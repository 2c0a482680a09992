"""Texts of the wire's small grammars, and of their alphabets, for tests that feed parsers with any text."""

from __future__ import annotations

import zoneinfo

from hypothesis import strategies as st

Texts = st.SearchStrategy[str]


def joined(*parts: Texts | str) -> Texts:
    """Texts of these parts, one after the other."""
    return st.tuples(*(st.just(each) if isinstance(each, str) else each for each in parts)).map("".join)


def listed(item: Texts, separator: str = ",", most: int = 5) -> Texts:
    """Texts of one to `most` items with a separator between."""
    return st.lists(item, min_size=1, max_size=most).map(separator.join)


@st.composite
def damaged(draw: st.DrawFn, texts: Texts) -> str:
    """Texts with a piece taken out, put in, or repeated."""
    text = draw(texts)
    at, to = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
    middle = draw(
        st.sampled_from(["", text[at:to] * 2]) | st.text(max_size=2) | st.sampled_from(list(" \t,=-/%\0"))
    )
    return text[:at] + middle + text[to:]


def of(alphabet: str) -> Texts:
    """Short texts of these characters."""
    return st.text(alphabet, max_size=40)


BLANKS = st.sampled_from(["", "", " ", "\t"])
DIGITS = st.from_regex("[0-9]{1,5}", fullmatch=True)
DURATIONS = listed(joined(BLANKS, DIGITS, BLANKS, st.sampled_from("smhdSMHD")), "")
ATOMS = st.sampled_from(["0", "1", "2.5", "1e308", "1e-308", "9e99", "retried", "7"])


def _composed(inner: Texts) -> Texts:
    one = joined(
        st.sampled_from(["exp", "sqrt", "abs", "floor", "ceil", "round", "-", "+", ""]), "(", inner, ")"
    )
    some = joined(st.sampled_from(["min", "max"]), "(", listed(inner, ", "), ")")
    both = joined("pow(", inner, ",", inner, ")")
    return joined(inner, st.sampled_from(list("+-*/%")), inner) | one | some | both


EXPRESSIONS = st.recursive(ATOMS, _composed, max_leaves=12)


def cron_items(low: int, high: int, *names: str) -> Texts:
    """Fields of a cron expression; some ranges run backwards."""
    values = st.integers(low, high).map(str)
    if names:
        values |= st.sampled_from(names)
    stars = joined("*", st.sampled_from(["", "/2", "/7", "/59"]))
    spans = joined(values, "-", values, st.sampled_from(["", "/3"]))
    return listed(stars | spans | values | joined(values, "/5"), most=3)


ALL_ZONES = sorted(zoneinfo.available_timezones() - {"Factory", "localtime"})
ZONES = st.sampled_from(ALL_ZONES)
FIELDS = st.tuples(
    cron_items(0, 59),
    cron_items(0, 23),
    cron_items(1, 31),
    cron_items(1, 12, "JAN", "feb", "Dec"),
    cron_items(0, 7, "SUN", "mon", "SAT"),
).map(" ".join)
CRONS = FIELDS | joined("CRON_TZ=", ZONES, " ", FIELDS | st.sampled_from(["@daily", "@hourly", "@yearly"]))
FLOWS = listed(
    joined(
        BLANKS,
        st.sampled_from(["rate", "parallelism"]) | st.just("period"),
        BLANKS,
        "=",
        BLANKS,
        DIGITS | DURATIONS,
    ),
    most=3,
)
TOKENS = st.from_regex("[!#$%&'*+.^_`|~0-9A-Za-z-]{1,8}", fullmatch=True)
REDACTIONS = listed(
    joined(
        BLANKS,
        st.sampled_from(["body", "BODY", "header", "Headers"]) | joined("header[", BLANKS, TOKENS, "]"),
    )
)
QUEUES = listed(
    joined(
        BLANKS,
        st.sampled_from(["parallelism=", "ordered=", "parallelism ="]),
        st.sampled_from(["1", "0", "16", "true"]),
    ),
    ";",
    most=2,
)
DATES = joined("Sun, ", DIGITS, " ", st.sampled_from(["Jan", "jun", "FEB"]), " 2024 12:16:", DIGITS, " GMT")
HINTS = (
    DIGITS
    | listed(joined(DIGITS, st.sampled_from(["ns", "us", "µs", "μs", "ms", "s", "m", "h"])), "")
    | DATES
)
HOSTS = st.sampled_from(
    ["a", "a.example:80", "[::1]:8080", "u:p@a", "[", "a:99999", "\\a", "é.example", "[v1.a]"]
)
PATHS = st.text("ab/%?#é&=+ ", max_size=12)
URLS = joined(st.sampled_from(["https://", "http://", "HTTPS://", "https:/", "http:///"]), HOSTS, "/", PATHS)
PLACES = listed(st.from_regex("[0-9]{1,19}", fullmatch=True), "-", most=4)
IDS = st.from_regex("[A-Za-z0-9._-]{1,20}", fullmatch=True)
COUNTS = st.from_regex("[0-9]{1,16}", fullmatch=True)

LABELS = listed(of("ab é,"))

OF_HEADERS: dict[str, Texts] = {
    "Content-Type": st.just("text/plain; charset=utf-8"),
    "Upstash-Method": st.sampled_from(["get", "POST", "Patch"]),
    "Upstash-Timeout": DURATIONS,
    "Upstash-Retries": COUNTS,
    "Upstash-Retry-Delay": EXPRESSIONS,
    "Upstash-Delay": DURATIONS,
    "Upstash-Not-Before": COUNTS,
    "Upstash-Label": LABELS,
    "Upstash-Deduplication-Id": IDS,
    "Upstash-Content-Based-Deduplication": st.sampled_from(["true", "False"]),
    "Qtasks-Task-Id": IDS,
    "Qtasks-Not-Before": COUNTS,
    "Qtasks-Expires": COUNTS,
    "Qtasks-Dedup-Window": COUNTS,
    "Qtasks-Unique": st.sampled_from(["started", "Finished"]),
    "Qtasks-Result-TTL": COUNTS,
    "Qtasks-Queue": QUEUES,
    "Upstash-Redact-Fields": REDACTIONS,
    "Upstash-Cron": CRONS,
    "Upstash-Schedule-Id": IDS,
    "Upstash-Queue-Name": IDS,
    "Qtasks-Every": DURATIONS,
    "Qtasks-Catch-Up": st.sampled_from(["latest", "All", "none"]),
    "Qtasks-Overlap": st.sampled_from(["allow", "Skip"]),
    "Qtasks-Expires-After": DURATIONS,
    "Qtasks-Batch": st.integers(1, 1000).map(str),
    "Qtasks-Batch-Kind": of("ab é.<>"),
}
