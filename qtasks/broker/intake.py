"""Judges what is asked to be stored, and makes the messages of it. No database and no HTTP.

Every check is made before anything is stored, in the order of contract 3.11: destination, combination,
quotas. What comes from a request, a schedule, a replay or a callback becomes a message here.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from operator import attrgetter
from urllib.parse import urlsplit

import orjson

from qtasks.broker.config import ApiTarget, BrokerConfig
from qtasks.broker.security import DestinationRules, check_destination
from qtasks.broker.store import messages, queues, surroundings
from qtasks.broker.store.extras import NO_EXTRAS, OPTIONS, Extras
from qtasks.broker.store.flow import PREFIX as FLOW_PREFIX
from qtasks.broker.store.records import NewMessage
from qtasks.errors import BadRequest, QuotaExceeded
from qtasks.ids import Ids, message_of
from qtasks.protocol.destinations import API_NAMES, check_queue_name, check_url
from qtasks.protocol.headers import Callback, Options, QueueSpec
from qtasks.protocol.shapes import Outgoing

REPLAY_OF = "Qtasks-Replay-Of"
INTERNAL_SUFFIX = ".qtasks.internal"
NEEDS_CALLBACK = "api/llm"
ASKED = attrgetter(*OPTIONS)
NOTHING_ASKED = ASKED(Options())


def internal_url(app: str) -> str:
    """Give the destination that means "the app of that name, in its own process"."""
    return f"http://{app}{INTERNAL_SUFFIX}/"


class Intake:
    """Makes messages of what is asked for, or refuses it with a `RequestError`.

    `app` is the name of the app that this process hosts, whose messages never leave it. Without
    `delivers_http`, other destinations are refused.
    """

    def __init__(
        self, config: BrokerConfig, *, ids: Ids, rules: DestinationRules, app: str | None, delivers_http: bool
    ) -> None:
        self._config = config
        self._ids = ids
        self._rules = rules
        self._app = app
        self._delivers_http = delivers_http
        self._internal = None if app is None else internal_url(app)
        self._allowed: str | None = None
        """The destination that was allowed last."""
        self._allowed_at: int | None = None
        """When, for others may come with it; None if it is for good."""

    def prepare(self, outgoing: Outgoing, now: int) -> NewMessage:
        """Check a message and make it; raises `BadRequest` or `QuotaExceeded`."""
        if outgoing.destination in API_NAMES:
            self._check_api(outgoing)
        elif outgoing.destination != self._internal and not self._is_allowed(outgoing.destination, now):
            is_for_good = self.check_destination(outgoing.destination)
            self._allowed, self._allowed_at = outgoing.destination, None if is_for_good else now
        self._check_combination(outgoing, now)
        self._check_quotas(outgoing.options, len(outgoing.body), now)
        return self.make(outgoing, now)

    def _is_allowed(self, url: str, now: int) -> bool:
        return url == self._allowed and self._allowed_at in (None, now)

    def make(self, outgoing: Outgoing, now: int) -> NewMessage:
        """Make a message of what has been checked."""
        options, config = outgoing.options, self._config
        is_internal = outgoing.destination == self._internal
        api = outgoing.destination if outgoing.destination in API_NAMES else None
        extras = _extras(outgoing, api)
        queue, parallelism, ordered = _place(outgoing.queue, options.queue, extras)
        return NewMessage(  # in the order of its fields: giving all their names costs more than all the rest
            _id_of_call(options) or self._ids.message_id(now),
            queue,
            parallelism,
            ordered,
            outgoing.destination if api is None else self._api(api).url,
            options.method,
            plain_headers(options),
            outgoing.body,
            now,
            _start_at(options, now),
            config.default_retries if options.retries is None else options.retries,
            min(options.timeout_ms or config.max_timeout_ms, config.max_timeout_ms),
            options.retry_delay,
            options.labels,
            options.task_id,
            options.result_ttl_ms,
            _dedup_key(outgoing),
            _dedup_until(options, now, config.dedup_window_ms),
            self._app if is_internal else None,
            outgoing.caller_ip,
            extras,
        )

    def again(self, original: NewMessage, options: Options, method: str | None, now: int) -> NewMessage:
        """Make a new message of one that died; options that are given go before its own (contract 2.8).

        Raises what `prepare` raises.
        """
        queue = original.queue or None
        if original.extras.api is not None:
            self._api(original.extras.api)
        is_internal = original.url == self._internal
        if original.extras.api is None and not is_internal:
            self.check_destination(original.url)
        self._check_combination(Outgoing(original.url, original.body, options, queue), now)
        self._check_quotas(options, len(original.body), now)
        given = {name: getattr(options, name) for name in OPTIONS if getattr(options, name) is not None}
        message = replace(
            original,
            id=self._ids.message_id(now),
            created_at=now,
            start_at=_start_at(options, now),
            app=self._app if is_internal else None,
            method=method or original.method,
            headers=_replayed(original, options),
            max_retries=original.max_retries if options.retries is None else options.retries,
            timeout_ms=min(options.timeout_ms or original.timeout_ms, self._config.max_timeout_ms),
            retry_delay=options.retry_delay or original.retry_delay,
            labels=options.labels or original.labels,
            extras=replace(original.extras, **given),
        )
        name, parallelism, ordered = _place(queue, None, message.extras)
        return replace(message, queue=name, parallelism=parallelism, ordered=ordered)

    def check_destination(self, url: str, what: str = "destination") -> bool:
        """Refuse a URL that may not be called; raises `BadRequest`. `what` says whose URL it is.

        Says whether it may be called for good.
        """
        check_url(url, what)
        host = urlsplit(url).hostname or ""
        if host.endswith(INTERNAL_SUFFIX):
            raise BadRequest(
                f"no app named {host.removesuffix(INTERNAL_SUFFIX)!r} runs in this broker; "
                "an embedded SQLite broker serves the one app whose process owns the file"
            )
        if not self._delivers_http:
            raise BadRequest(
                f"this broker cannot deliver to {url}: install qtasks with its extra [broker] "
                "for destinations outside the app"
            )
        try:
            return check_destination(url, self._rules)
        except BadRequest as error:
            raise BadRequest(
                str(error).replace("invalid destination url", f"invalid {what} url", 1)
            ) from error

    def _api(self, name: str) -> ApiTarget:
        target = self._config.apis.get(name)
        if target is None:
            short = name.removeprefix("api/")
            raise BadRequest(
                f"invalid destination: {name} is not configured; start the broker with "
                f"--api {short}=BASE_URL, and its key in QTASKS_API_{short.upper()}_KEY"
            )
        return target

    def _check_api(self, outgoing: Outgoing) -> None:
        self._api(outgoing.destination)
        if outgoing.destination != NEEDS_CALLBACK:
            return
        if outgoing.options.callback is None:
            raise BadRequest(
                f"{NEEDS_CALLBACK} answers to a callback: Upstash-Callback is required with this destination"
            )
        if _asks_for_a_stream(outgoing.body):
            raise BadRequest(f'{NEEDS_CALLBACK} cannot stream to a callback: send "stream": false')

    def _check_combination(self, outgoing: Outgoing, now: int) -> None:
        options, queue = outgoing.options, outgoing.queue
        if options.expires_at is not None and options.expires_at <= now:
            raise BadRequest(
                f"Qtasks-Expires: {options.expires_at} is past; send an instant to come, in Unix ms"
            )
        if options.unique is not None and options.dedup_id is None:
            raise BadRequest("Qtasks-Unique: it says how long an Upstash-Deduplication-Id holds; send both")
        for header, callback in (
            ("Upstash-Callback", options.callback),
            ("Upstash-Failure-Callback", options.failure_callback),
        ):
            if callback is not None:
                self._check_callback(header, callback, now, in_queue=queue is not None)
        if queue is None:
            return
        check_queue_name(queue)
        for header, value in (
            ("Upstash-Delay", options.delay_ms),
            ("Upstash-Not-Before", options.not_before),
        ):
            if value is not None:
                raise BadRequest(
                    f"{header}: a message in a queue cannot be delayed; publish it without a queue, "
                    "or use Qtasks-Not-Before with an unordered queue"
                )
        if options.flow is not None:
            raise BadRequest(
                "Upstash-Flow-Control-Key: a message in a queue cannot have flow control; publish it "
                "without a queue, or set the parallelism of the queue"
            )

    def _check_callback(self, header: str, callback: Callback, now: int, *, in_queue: bool) -> None:
        self.check_destination(callback.url, "callback")
        options = callback.options
        is_delayed = options.delay_ms is not None or options.not_before is not None
        if is_delayed and in_queue:
            raise BadRequest(
                f"{header}-Delay: a callback of a message in a queue cannot be delayed, as the message "
                "keeps its place until the callback has ended"
            )
        if is_delayed and self._config.strict:
            raise BadRequest(
                f"{header}-Delay: hosted QStash refuses delayed callbacks, and so does --strict-qstash"
            )
        self._check_quotas(options, 0, now)
        for name, nested in (("Callback", options.callback), ("Failure-Callback", options.failure_callback)):
            if nested is not None:
                self._check_callback(f"{header}-{name}", nested, now, in_queue=False)

    def _check_quotas(self, options: Options, size: int, now: int) -> None:
        config = self._config
        if size > config.max_message_bytes:
            raise QuotaExceeded(
                f"quota maxMessageSize exceeded, current limit: {config.max_message_bytes} bytes"
            )
        if options.dedup_window_ms is not None and options.dedup_window_ms > config.max_dedup_window_ms:
            raise QuotaExceeded(
                f"quota maxDedupWindow exceeded, current limit: {config.max_dedup_window_ms // 1000}"
            )
        if options.retries is not None and options.retries > config.max_retries:
            raise QuotaExceeded(f"quota maxRetries exceeded, current limit: {config.max_retries}")
        start_at = _start_at(options, now)
        if start_at is not None and start_at - now > config.max_delay_ms:
            raise QuotaExceeded(f"quota maxDelay exceeded, current limit: {config.max_delay_ms // 1000}")


def _id_of_call(options: Options) -> str | None:
    """Give the id of a message that a call makes; None for what goes on with one, and for all others."""
    task_id = options.task_id
    return message_of(task_id) if task_id is not None and task_id == options.dedup_id else None


def _place(queue: str | None, declared: QueueSpec | None, extras: Extras) -> tuple[str, int, bool]:
    """Say where a message waits, with which parallelism and whether in order.

    That is in its queue, with its flow-control key, or without either.
    """
    if queue is not None:
        spec = declared or QueueSpec()
        return queue, spec.parallelism, spec.ordered
    name = queues.PUBLISHED if extras.flow is None else FLOW_PREFIX + extras.flow.key
    return name, queues.UNLIMITED, False


def _extras(outgoing: Outgoing, api: str | None) -> Extras:
    options = outgoing.options
    given = (
        outgoing.group_name,
        outgoing.endpoint_name,
        outgoing.schedule_id,
        api,
        outgoing.fired_at,
        options.expires_at,
        options.batch,
        options.kind,
    )
    asked = ASKED(options)
    if asked == NOTHING_ASKED:
        return Extras(*given) if any(given) else NO_EXTRAS
    return Extras(*given, **dict(zip(OPTIONS, asked, strict=True)))


def _asks_for_a_stream(body: bytes) -> bool:
    try:
        members = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(members, dict) and bool(members.get("stream"))


def _start_at(options: Options, now: int) -> int | None:
    """Say when the first delivery may start; an absolute instant goes before a delay (contract 3.2)."""
    if options.start_at is not None or options.not_before is not None:
        return options.start_at if options.not_before is None else options.not_before
    return now + options.delay_ms if options.delay_ms else None


def plain_headers(options: Options) -> tuple[tuple[str, str], ...]:
    """Give the headers that the destination is sent: the content type, and what is forwarded."""
    if options.content_type is None:
        return options.forward
    return (("Content-Type", options.content_type), *options.forward)


def _replayed(original: NewMessage, options: Options) -> tuple[tuple[str, str], ...]:
    """Give the headers of a replay; a task is told that it is one, others get what they were sent before."""
    mark = {} if original.task_id is None else {REPLAY_OF: original.id}
    return tuple((dict(original.headers) | mark | dict(plain_headers(options))).items())


def _dedup_until(options: Options, now: int, usual_ms: int) -> int:
    if options.unique is not None:
        return messages.NO_WINDOW
    return now + (usual_ms if options.dedup_window_ms is None else options.dedup_window_ms)


def _dedup_key(outgoing: Outgoing) -> str | None:
    """Give the account-wide key of contract 3.9; an explicit id wins over the content.

    Each endpoint of a URL group has a key of its own. An id has no colon, so the two kinds of key differ.
    What is known to be new needs none: a repeat of it finds the id of its task.
    """
    if outgoing.is_new:
        return None
    options = outgoing.options
    endpoint = "" if outgoing.group_name is None else f":{outgoing.destination}"
    if options.dedup_id is not None:
        prefix = (
            surroundings.EXPLICIT_KEY if options.unique is None else surroundings.UNIQUE_KEYS[options.unique]
        )
        return f"{prefix}{options.dedup_id}{endpoint}"
    if not options.content_dedup:
        return None
    digest = hashlib.sha256()
    pairs = sorted((name.lower(), value) for name, value in plain_headers(options))
    destination = outgoing.group_name or outgoing.destination
    for part in (outgoing.queue or "", destination, *(f"{name}:{value}" for name, value in pairs)):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    digest.update(len(outgoing.body).to_bytes(8, "big") + outgoing.body)
    return f"cb:{digest.hexdigest()}{endpoint}"
