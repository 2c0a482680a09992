"""Makes the message of a call: sealed in its envelope, with what the broker is to be told of it.

Pure but for clock and ids. Sending it is the business of `calling.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from orjson import dumps, loads

from qtasks.clock import Clock
from qtasks.errors import ArgumentsError, BadRequest, InvalidValue
from qtasks.ids import Ids
from qtasks.protocol.cron import Cron
from qtasks.protocol.every import Every
from qtasks.protocol.flow import FlowSpec, check_flow_key
from qtasks.protocol.header_values import read_kind
from qtasks.protocol.headers import Options, QueueSpec
from qtasks.protocol.shapes import Outgoing
from qtasks.tasks.codec import Signature
from qtasks.tasks.envelope import SIGNATURE_HEADER, Envelope, EnvelopeSigner, Form, Trace, pack
from qtasks.tasks.keys import FINISHED, STARTED, unique_id
from qtasks.tasks.options import Layers, TaskOptions
from qtasks.tasks.periodic import Periodic
from qtasks.tasks.queues import UNDECLARED, Queue
from qtasks.tasks.tracing import trace_here

JSON_TYPE = "application/json"
MARGIN_MS = 3000
"""So much longer than a task's own timeout the broker waits: the app is to be the one that says it."""
DIGITS = 32
MOULDS = 1000
"""As many kinds of calls, by task and options, are kept ready."""


class Target(Protocol):
    """What is called: a task of ours, or one that is only known by name."""

    name: str
    signature: Signature
    version: int

    def options_in(self, layers: Layers) -> TaskOptions:
        """Give what holds in an app."""
        ...


class Packer:
    """Makes the messages of one app's calls. `destination` is the address of the app's webhook."""

    def __init__(
        self,
        *,
        signer: Callable[[], EnvelopeSigner],
        destination: str,
        queues: Mapping[str, Queue],
        layers: Layers,
        clock: Clock,
        ids: Ids,
        trace: Callable[[], Trace | None] = trace_here,
        batch: int | None = None,
    ) -> None:
        self._batch = batch
        self._trace = trace
        self._signer = signer
        self._destination = destination
        self._queues = {name: queue.spec for name, queue in queues.items()}
        self._layers = layers
        self._clock = clock
        self._ids = ids
        self._moulds: dict[int, tuple[TaskOptions, str, int, _Mould]] = {}

    def queue_of(self, target: Target) -> str | None:
        """Say in which queue calls of a task wait; None if they wait at a key."""
        options = target.options_in(self._layers)
        return None if options.has_keys else options.queue

    def message(
        self, target: Target, args: Any, kwargs: Any, start_at: int | None = None, task_id: str | None = None
    ) -> Outgoing:
        """Make the message of a call, whose arguments are encoded, or written already as bytes.

        Raises `ArgumentsError`, or `UnsupportedByBroker` for a delay that cannot be had.
        """
        now = self._clock.now()
        options = target.options_in(self._layers)
        if start_at is not None:
            self._layers.check(options, is_delayed=True)
        mould = self._mould(target, options)
        is_new = task_id is None
        task_id = task_id or self._ids.task_id(now)
        expires_at = None if options.expires_ms is None else _expires_at(options.expires_ms, now, start_at)
        body = mould.form.fill(
            task_id, _written(args), _written(kwargs), now, start_at, expires_at, self._trace()
        )
        flow = _flow(target, options, args, kwargs) if options.has_keys else None
        message = mould.message(
            body, self._signer().sign(body), task_id, start_at, expires_at, flow, is_new=is_new
        )
        if options.unique is None:
            return message
        once = _once(message.options, target, options, args, kwargs)
        return replace(message, options=once, is_new=False)

    def _mould(self, target: Target, options: TaskOptions) -> _Mould:
        """Give what all calls of a target with these options have in common, made at the first of them."""
        found = self._moulds.get(id(options))
        if found is not None:
            known, name, version, mould = found
            if known is options and name == target.name and version == target.version:
                return mould
        if len(self._moulds) >= MOULDS:  # options that are made for each call would fill the memory
            self._moulds.clear()
        template = Envelope(
            task=target.name,
            id="",
            args=(),
            kwargs={},
            destination=self._destination,
            enqueued_at=0,
            timeout_ms=options.timeout_ms,
            queue=None if options.has_keys else options.queue,
            retries=options.retries,
            retry_delay=options.retry_delay,
            labels=options.labels,
            result_ttl_ms=options.result_ttl_ms,
            version=target.version,
        )
        mould = self._mould_of(template, options.dedup_window_ms)
        self._moulds[id(options)] = options, target.name, target.version, mould
        return mould

    def _mould_of(self, template: Envelope, dedup_window_ms: int | None) -> _Mould:
        queue = template.queue
        spec = None if queue is None else self._queues.get(queue, UNDECLARED)
        return _Mould(template, spec, dedup_window_ms, self._batch)

    def anew(
        self, envelope: Envelope, target: Target, args: Any, kwargs: Any, *, spent: int, after_ms: int
    ) -> Outgoing:
        """Make the message that goes on with a call, under its id: after a wait, or with other arguments."""
        now = self._clock.now()
        options = target.options_in(self._layers)
        if after_ms:
            self._layers.check(replace(options, queue=envelope.queue or options.queue), is_delayed=True)
        flow = _flow(target, options, args, kwargs) if options.has_keys else None
        following = replace(
            envelope,
            args=args,
            kwargs=kwargs,
            enqueued_at=now,
            start_at=now + after_ms if after_ms else None,
            number=envelope.number + 1,
            spent=spent,
            version=target.version,
        )
        return self._sealed(following, flow)

    def scheduled(self, target: Target, periodic: Periodic, schedule_id: str) -> Outgoing:
        """Make the message that stands for all calls of a schedule: the same one each time this is asked.

        Raises `ArgumentsError` or `EncodeError`.
        """
        args, kwargs = target.signature.encode(periodic.args, periodic.kwargs)
        options = target.options_in(self._layers)
        flow = _flow(target, options, args, kwargs) if options.has_keys else None
        envelope = Envelope(
            task=target.name,
            id=schedule_id,
            args=args,
            kwargs=kwargs,
            destination=self._destination,
            enqueued_at=0,
            timeout_ms=options.timeout_ms,
            queue=None if flow else options.queue,
            retries=options.retries,
            retry_delay=options.retry_delay,
            labels=options.labels,
            result_ttl_ms=options.result_ttl_ms,
            version=target.version,
            schedule=periodic.name,
            expires_after_ms=options.expires_ms,
        )
        message = self._sealed(envelope, flow)
        told = replace(message.options, dedup_id=None, task_id=None)
        if options.unique is not None:
            told = _once(told, target, options, args, kwargs)
        return replace(message, queue=None, options=_by_the_clock(told, periodic, envelope))

    def _sealed(self, envelope: Envelope, flow: FlowSpec | None) -> Outgoing:
        body = pack(envelope)
        mould = self._mould_of(envelope, None)
        message = mould.message(
            body, self._signer().sign(body), envelope.id, envelope.start_at, envelope.expires_at, flow
        )
        if not envelope.number:
            return message
        dedup_id = f"{envelope.id}.{envelope.number}"
        return replace(message, options=replace(message.options, dedup_id=dedup_id))


class _Mould:
    """The messages of calls that are alike, made but for what differs from one to the next."""

    __slots__ = ("_destination", "_queue", "_shared", "form")

    def __init__(
        self, template: Envelope, spec: QueueSpec | None, dedup_window_ms: int | None, batch: int | None
    ) -> None:
        timeout_ms, retries = template.timeout_ms, template.retries
        self.form = Form(template)
        self._destination = template.destination
        self._queue = template.queue
        self._shared = Options(
            content_type=JSON_TYPE,
            timeout_ms=None if timeout_ms is None else timeout_ms + MARGIN_MS,
            retries=None if retries is None else retries - template.spent,
            retry_delay=template.retry_delay,
            dedup_window_ms=dedup_window_ms,
            labels=template.labels,
            result_ttl_ms=template.result_ttl_ms,
            queue=spec,
            batch=batch,
            kind=_kind(template.task) if batch is not None and batch > 1 else None,
        )

    def message(
        self,
        body: bytes,
        signature: str,
        task_id: str,
        start_at: int | None,
        expires_at: int | None,
        flow: FlowSpec | None = None,
        *,
        is_new: bool = False,
    ) -> Outgoing:
        """Make the message of one call. Its deduplication id is the task id."""
        shared = self._shared
        options = Options(  # in the order of its fields: giving their names costs more than all the rest
            shared.method,
            shared.content_type,
            ((SIGNATURE_HEADER, signature),),
            shared.timeout_ms,
            shared.retries,
            shared.retry_delay,
            None,
            None,
            shared.labels,
            task_id,
            shared.dedup_window_ms,
            None,
            False,
            task_id,
            start_at,
            expires_at,
            shared.result_ttl_ms,
            shared.queue,
            flow,
            shared.batch,
            shared.kind,
        )
        return Outgoing(self._destination, body, options, self._queue, is_new=is_new)


def _kind(task: str) -> str:
    """Say of what kind calls of a task are: its name, or a digest of one that no header can have."""
    try:
        return read_kind(task)
    except InvalidValue:
        return hashlib.sha256(task.encode()).hexdigest()[:DIGITS]


def _by_the_clock(told: Options, periodic: Periodic, envelope: Envelope) -> Options:
    timing = periodic.timing
    return replace(
        told,
        cron=timing if isinstance(timing, Cron) else None,
        every=timing if isinstance(timing, Every) else None,
        schedule_id=envelope.id,
        schedule_queue=envelope.queue,
        expires_after_ms=envelope.expires_after_ms,
        catch_up=periodic.catch_up,
        overlap=periodic.overlap,
    )


def _expires_at(expires_ms: int, now: int, start_at: int | None) -> int:
    expires_at = now + expires_ms
    if start_at is not None and start_at >= expires_at:
        raise ArgumentsError(
            f"a call that may start in {(start_at - now) / 1000:g} s would never run: "
            f"it expires in {expires_ms / 1000:g} s; give it a longer expires"
        )
    return expires_at


def _flow(target: Target, options: TaskOptions, args: Any, kwargs: Any) -> FlowSpec | None:
    """Give the key at which a call waits, if it waits at one."""
    if options.flow is not None:
        template = options.flow.template
        key = target.name if template is None else template.fill(_arguments(target, args, kwargs))
        spec = options.flow.spec(key)
    elif options.exclusive is not None:
        template = options.exclusive.template
        suffix = "" if template is None else f":{template.fill(_arguments(target, args, kwargs))}"
        spec = FlowSpec(f"{target.name}{suffix}", parallelism=1)
    else:
        return None
    try:
        check_flow_key(spec.key)
    except BadRequest as error:
        raise ArgumentsError(
            f"{target.name}(): the key that its arguments make cannot be one: {error}"
        ) from error
    return spec


def _once(message: Options, target: Target, options: TaskOptions, args: Any, kwargs: Any) -> Options:
    """Give the options of a message that is stored only if no other call of its key is on its way."""
    unique = options.unique
    assert unique is not None
    template = unique.template
    dedup_id = unique_id(target.name, template, _arguments(target, args, kwargs))
    if unique.until in (FINISHED, STARTED):
        return replace(message, dedup_id=dedup_id, unique=str(unique.until))
    return replace(message, dedup_id=dedup_id, dedup_window_ms=unique.window_ms)


def _arguments(target: Target, args: Any, kwargs: Any) -> dict[str, object]:
    return target.signature.arguments(_plain(args), _plain(kwargs))


def _written(encoded: Any) -> bytes:
    """Write arguments as JSON, unless `Task.call` has done so already."""
    return encoded if type(encoded) is bytes else dumps(encoded)


def _plain(encoded: Any) -> Any:
    """Read back what `Task.call` has written already."""
    return loads(encoded) if type(encoded) is bytes else encoded
