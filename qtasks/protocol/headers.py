"""Translates between `Options` and the `Upstash-*` and `Qtasks-*` headers of a request.

One table, `ROWS`, is read in both directions. Forwarded headers and those of callbacks, which have no
fixed names, have their rules below it. Which options may go together, and quotas, are the broker's to
judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from operator import attrgetter
from typing import Any

from qtasks.errors import BadRequest, InvalidValue
from qtasks.protocol import header_values as values
from qtasks.protocol.cron import Cron, parse_cron
from qtasks.protocol.destinations import check_url
from qtasks.protocol.durations import format_duration, parse_duration_ms
from qtasks.protocol.every import Every, read_every, write_every
from qtasks.protocol.flow import FLOW_KEY, FLOW_VALUE, FlowSpec, parse_flow, render_flow
from qtasks.protocol.redact import Redaction, parse_redaction, render_redaction
from qtasks.protocol.text import UNSENDABLE, quoted
from qtasks.values import dataclass

MAX_FORWARDED = 100
MAX_HEADER_BYTES = 8 * 1024
MAX_FORWARDED_BYTES = 64 * 1024
# A callback may have a callback of its own, and that is the last.
MAX_CALLBACK_DEPTH = 2


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """How a queue is to be made if it does not exist yet (`Qtasks-Queue`)."""

    parallelism: int = 1
    ordered: bool = True


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that configures one message; `None` leaves the choice to the broker.

    `forward` holds the headers for the destination, names in Go's canonical form, without the
    content type. Instants are Unix milliseconds. `queue` is how to make the queue that the message goes
    to now, `schedule_queue` the name of the one that a schedule puts its messages into.
    """

    method: str = "POST"
    content_type: str | None = None
    forward: tuple[tuple[str, str], ...] = ()
    timeout_ms: int | None = None
    retries: int | None = None
    retry_delay: str | None = None
    delay_ms: int | None = None
    not_before: int | None = None
    labels: tuple[str, ...] = ()
    dedup_id: str | None = None
    dedup_window_ms: int | None = None
    unique: str | None = None
    """How long its deduplication id holds: until the message has "started" or "finished"."""
    content_dedup: bool = False
    task_id: str | None = None
    start_at: int | None = None
    expires_at: int | None = None
    result_ttl_ms: int | None = None
    queue: QueueSpec | None = None
    flow: FlowSpec | None = None
    batch: int | None = None
    """With how many others, at most, its destination takes it in one request."""
    kind: str | None = None
    """A name for work of its sort, such as the task's: whether it is quick is learnt of each kind."""
    redact: Redaction | None = None
    cron: Cron | None = None
    every: Every | None = None
    schedule_id: str | None = None
    schedule_queue: str | None = None
    catch_up: str | None = None
    overlap: str | None = None
    expires_after_ms: int | None = None
    callback: Callback | None = None
    failure_callback: Callback | None = None


@dataclass(frozen=True, slots=True)
class Callback:
    """Where a callback goes, and the options of its message, none of them inherited (contract 3.6)."""

    url: str
    options: Options = Options()

    @property
    def header(self) -> dict[str, tuple[str, ...]]:
        """The headers it forwards, as the API shows them."""
        shown: dict[str, tuple[str, ...]] = {name: (value,) for name, value in self.options.forward}
        if self.options.content_type is not None:
            shown["Content-Type"] = (self.options.content_type,)
        return shown


def _read_queue_spec(text: str) -> QueueSpec:
    found: dict[str, Any] = {}
    for each in text.split(";"):
        name, _, value = (part.strip() for part in each.partition("="))
        if name == "parallelism" and name not in found:
            found[name] = values.read_count(value)
        elif name == "ordered" and name not in found:
            found[name] = values.read_flag(value)
        else:
            raise InvalidValue(f'must look like "parallelism=16; ordered=false", unlike {quoted(text)}')
    if found.get("parallelism") == 0:
        raise InvalidValue("parallelism must be at least 1")
    return QueueSpec(**found)


def _write_queue_spec(queue: QueueSpec) -> str:
    return f"parallelism={queue.parallelism}; ordered={values.write_flag(queue.ordered)}"


@dataclass(frozen=True, slots=True)
class Row:
    """One header and the field of `Options` that it fills.

    `read` gets the trimmed, non-empty value and raises `InvalidValue`; `write` is its inverse.
    """

    header: str
    field: str
    read: Callable[[str], object]
    write: Callable[[Any], str]


ROWS = (
    Row("Content-Type", "content_type", str, str),
    Row("Upstash-Method", "method", values.read_method, str),
    Row("Upstash-Timeout", "timeout_ms", values.read_timeout, format_duration),
    Row("Upstash-Retries", "retries", values.read_count, str),
    Row("Upstash-Retry-Delay", "retry_delay", values.read_retry_delay, str),
    Row("Upstash-Delay", "delay_ms", parse_duration_ms, format_duration),
    Row("Upstash-Not-Before", "not_before", values.read_seconds, values.write_seconds),
    Row("Upstash-Label", "labels", values.read_labels, ",".join),
    Row("Upstash-Deduplication-Id", "dedup_id", values.read_dedup_id, str),
    Row("Upstash-Content-Based-Deduplication", "content_dedup", values.read_flag, values.write_flag),
    Row("Qtasks-Task-Id", "task_id", values.read_task_id, str),
    Row("Qtasks-Dedup-Window", "dedup_window_ms", values.read_seconds, values.write_seconds),
    Row("Qtasks-Unique", "unique", values.read_unique, str),
    Row("Qtasks-Not-Before", "start_at", values.read_count, str),
    Row("Qtasks-Expires", "expires_at", values.read_count, str),
    Row("Qtasks-Result-TTL", "result_ttl_ms", values.read_seconds, values.write_seconds),
    Row("Qtasks-Queue", "queue", _read_queue_spec, _write_queue_spec),
    Row("Upstash-Redact-Fields", "redact", parse_redaction, render_redaction),
    Row("Upstash-Cron", "cron", parse_cron, lambda cron: cron.text),
    Row("Upstash-Schedule-Id", "schedule_id", values.read_schedule_id, str),
    Row("Upstash-Queue-Name", "schedule_queue", values.read_queue_name, str),
    Row("Qtasks-Every", "every", read_every, write_every),
    Row("Qtasks-Catch-Up", "catch_up", values.read_catch_up, str),
    Row("Qtasks-Overlap", "overlap", values.read_overlap, str),
    Row("Qtasks-Expires-After", "expires_after_ms", values.read_timeout, format_duration),
    Row("Qtasks-Batch", "batch", values.read_batch, str),
    Row("Qtasks-Batch-Kind", "kind", values.read_kind, str),
)

CALLBACKS = (("Upstash-Callback", "callback"), ("Upstash-Failure-Callback", "failure_callback"))

# Tells a destination which fire of its schedule a message is for, in Unix milliseconds.
SCHEDULED_AT = "Qtasks-Scheduled-At"

# Schedules are made by requests, and these would make one of a callback.
_NOT_FOR_CALLBACKS = {"upstash-cron", "upstash-schedule-id", "upstash-queue-name"}

_OURS = ("upstash-", "qtasks-")
_FORWARD = "upstash-forward-"
_HEADER_FORWARD = "upstash-header-forward"
_PREFIX = "Upstash-"
# These frame the message on its connection; the broker's own are sent instead (contract 3.5).
_DROPPED = {"Host", "Content-Length", "Transfer-Encoding"}
# When all plain headers are forwarded, what concerns one connection or this request stays behind.
_KEPT_BACK = {
    "connection",
    "content-length",
    "content-type",  # has its own row
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}

_TOKEN = re.compile("[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_KEYED_ROWS = tuple((each.header.lower(), each) for each in ROWS)
_IN_ROWS = attrgetter(*[row.field for row in ROWS])
_USUAL = _IN_ROWS(Options())
_WRITTEN = [(row.header, row.write) for row in ROWS]

# What was sent, folded: lower-case name -> (name as first sent, value).
_Sent = Mapping[str, tuple[str, str]]


def parse_options(
    headers: Iterable[tuple[str, str]],
    config: Iterable[tuple[str, str]] = (),
    *,
    defaults: Iterable[tuple[str, str]] = (),
    token_in_header: bool = True,
) -> Options:
    """Read the options of one message from the headers of its request (contract 3).

    `config` are the `upstash-*` and `qtasks-*` pairs of the query and `defaults` those of a URL group,
    which work like headers; a header goes before the query, and that before a default. Names match in
    any case, an empty value counts as absent, and unknown names are ignored, as are the settings of a
    callback without a URL. `token_in_header` says that `Authorization` carries the broker's token,
    which is then never forwarded. Raises `BadRequest`, naming the header.
    """
    sent = _folded(_ours(defaults, "content-type")) | _folded(_ours(config)) | _folded(headers)
    return _options(sent, _PREFIX, token_in_header=token_in_header)


def render_options(options: Options) -> list[tuple[str, str]]:
    """Write options as the headers of a request: the inverse of `parse_options`.

    Only what differs from the defaults is written. `parse_options(render_options(o))` holds options
    that were made in a program to the rules of the wire. Raises `InvalidValue` for a callback with
    options that only a message of its own can have.
    """
    values = _IN_ROWS(options)
    rendered = [
        (header, write(value))
        for (header, write), value, usual in zip(_WRITTEN, values, _USUAL, strict=True)
        if value != usual
    ]
    if options.flow is not None:
        rendered += [(FLOW_KEY, options.flow.key), (FLOW_VALUE, render_flow(options.flow))]
    if options.callback is not None or options.failure_callback is not None:
        for header, field in CALLBACKS:
            rendered.extend(_rendered_callback(header, getattr(options, field)))
    rendered += [(f"Upstash-Forward-{name}", value) for name, value in options.forward]
    return rendered


def canonical_name(name: str) -> str:
    """Spell a header name as Go's `CanonicalMIMEHeaderKey` does: `x-API-key` becomes `X-Api-Key`.

    What is no header name comes back as it is.
    """
    if not _TOKEN.fullmatch(name):
        return name
    return "-".join(each.capitalize() for each in name.split("-"))


def _ours(pairs: Iterable[tuple[str, str]], *others: str) -> Iterable[tuple[str, str]]:
    return (pair for pair in pairs if pair[0].lower().startswith((*_OURS, *others)))


def _folded(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Bring equal names together: a header sent several times is one, joined (contract 3.0)."""
    found: dict[str, tuple[str, list[str]]] = {}
    for name, untrimmed in pairs:
        value = untrimmed.strip(" \t")
        if not value:
            continue
        if not _TOKEN.fullmatch(name):
            raise BadRequest(f"{quoted(name)} is not the name of a header")
        # Joined once at the end: a text that grows by each value is copied as often.
        found.setdefault(name.lower(), (name, []))[1].append(value)
    return {key: (name, ", ".join(values)) for key, (name, values) in found.items()}


def _options(sent: _Sent, prefix: str, *, token_in_header: bool = True, depth: int = 0) -> Options:
    """Read folded headers; those of a callback, whose names in full begin with another `prefix`."""
    found = {
        row.field: read_value(_in_full(row.header, prefix), sent[key][1], row.read)
        for key, row in _KEYED_ROWS
        if key in sent
    }
    forward = _forwarded(sent, prefix, token_in_header=token_in_header)
    if (content_type := forward.pop("Content-Type", None)) is not None:
        found["content_type"] = content_type
    check_room(forward.items())
    for header, field in CALLBACKS:
        found[field] = _callback(sent, header, prefix, depth)
    return Options(forward=tuple(forward.items()), flow=_flow(sent, prefix), **found)


def _in_full(header: str, prefix: str) -> str:
    return prefix + header.removeprefix(_PREFIX) if header.startswith(_PREFIX) else header


def _flow(sent: _Sent, prefix: str) -> FlowSpec | None:
    key, value = (
        read_value(_in_full(header, prefix), sent[header.lower()][1], str) if header.lower() in sent else ""
        for header in (FLOW_KEY, FLOW_VALUE)
    )
    return parse_flow(key, value) if key or value else None


def _callback(sent: _Sent, header: str, prefix: str, depth: int) -> Callback | None:
    """Read a callback: its settings are those of a message, behind a longer prefix (contract 3.6)."""
    if header.lower() not in sent:
        return None
    name = _in_full(header, prefix)
    url: str = read_value(name, sent[header.lower()][1], str)
    if depth == MAX_CALLBACK_DEPTH:
        raise BadRequest(f"{name}: the callback of a callback cannot have one")
    check_url(url, "callback")
    start = f"{header.lower()}-"
    settings: dict[str, tuple[str, str]] = {}
    for key, (spelled, value) in sent.items():
        setting = _PREFIX + spelled[len(start) :]
        if key.startswith(start) and setting.lower() not in _NOT_FOR_CALLBACKS:
            settings[setting.lower()] = (setting, value)
    return Callback(url, _options(settings, f"{name}-", depth=depth + 1))


def _rendered_callback(header: str, callback: Callback | None) -> Iterable[tuple[str, str]]:
    if callback is None:
        return
    yield header, callback.url
    for name, value in render_options(callback.options):
        if name == "Content-Type":
            yield f"{header}-Forward-{name}", value
        elif not name.startswith(_PREFIX) or name.lower() in _NOT_FOR_CALLBACKS:
            raise InvalidValue(f"{header}: {name} cannot be set for a callback")
        else:
            yield f"{header}-{name.removeprefix(_PREFIX)}", value


def read_value(header: str, text: str, read: Callable[[str], object]) -> Any:
    """Read the value of a header, trimmed and not empty; raises `BadRequest`, naming the header."""
    check_sendable(header, text)
    try:
        return read(text)
    except InvalidValue as error:
        raise BadRequest(f"{header}: {error}") from error


def _forwarded(sent: _Sent, prefix: str, *, token_in_header: bool) -> dict[str, str]:
    """Collect the headers for the destination, canonically named (contract 3.5)."""
    flag = sent.get(_HEADER_FORWARD)
    name_in_full = _in_full("Upstash-Header-Forward", prefix)
    everything = flag is not None and read_value(name_in_full, flag[1], values.read_flag)
    plain: dict[str, str] = {}
    explicit: dict[str, str] = {}
    for key, (name, value) in sent.items():
        if key.startswith(_FORWARD):
            found, bare_name = explicit, name[len(_FORWARD) :]
        elif everything and _is_plain(key, token_in_header=token_in_header):
            found, bare_name = plain, name
        else:
            continue
        if not bare_name:
            raise BadRequest(f"{prefix}Forward-: the name of the header to forward is missing")
        bare_name = canonical_name(bare_name)
        check_sendable(f"{prefix}Forward-{bare_name}", value)
        found[bare_name] = value
    return {name: value for name, value in (plain | explicit).items() if name not in _DROPPED}


def _is_plain(key: str, *, token_in_header: bool) -> bool:
    if key.startswith((*_OURS, "proxy-")) or key in _KEPT_BACK:
        return False
    return not (token_in_header and key == "authorization")


def check_sendable(header: str, value: str) -> None:
    """Raise `BadRequest` for a value that no header can have."""
    if UNSENDABLE.search(value):
        raise BadRequest(f"{header}: the value must not contain CR, LF, NUL or other control characters")
    if len(header) + len(value.encode()) > MAX_HEADER_BYTES:
        raise BadRequest(f"{header}: name and value are limited to {MAX_HEADER_BYTES} bytes")


def check_room(forward: Collection[tuple[str, str]]) -> None:
    """Raise `BadRequest` for more forwarded headers than a message may have."""
    if len(forward) > MAX_FORWARDED:
        raise BadRequest(f"at most {MAX_FORWARDED} headers can be forwarded, not {len(forward)}")
    size = sum(len(name) + len(value.encode()) for name, value in forward)
    if size > MAX_FORWARDED_BYTES:
        raise BadRequest(f"forwarded headers are limited to {MAX_FORWARDED_BYTES} bytes, not {size}")
