"""An app's tasks and the executor that runs them, without broker, server or store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson

from qtasks.clock import Clock, ManualClock
from qtasks.errors import ConfigurationError
from qtasks.ids import Ids
from qtasks.protocol.results import ProgressReport, ResultView
from qtasks.protocol.signature import sign
from qtasks.tasks.answers import Answer
from qtasks.tasks.around import Around
from qtasks.tasks.calling import Caller
from qtasks.tasks.envelope import Envelope, EnvelopeSigner, pack
from qtasks.tasks.execution import Delivery, Executor
from qtasks.tasks.options import NO_LAYERS, Layers
from qtasks.tasks.packing import Packer
from qtasks.tasks.queues import Queue
from qtasks.tasks.recording import ResultBackend
from qtasks.tasks.registry import Registry
from qtasks.tasks.task import Task, make_task
from qtasks.tasks.threads import ThreadPool
from qtasks.tasks.tracing import Tracing

URL = "https://app.example/qtasks/run"
NOW = 1_700_000_000_000
KEY = "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r"
NEXT_KEY = "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs"
SECRET = "0123456789abcdef" * 4
OTHER_SECRET = "fedcba9876543210" * 4


class Workshop:
    """Registers functions as tasks and executes deliveries of them.

    `ran` lists what has been executed; tasks of tests write to it.
    """

    def __init__(
        self,
        *,
        secrets: Sequence[str] = (SECRET,),
        threads: int = 4,
        clock: Clock | None = None,
        redact: Sequence[str] = (),
        layers: Layers = NO_LAYERS,
        results: ResultBackend | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.around = Around()
        self.layers = layers
        self.clock = clock or ManualClock(NOW)
        self.ran: list[object] = []
        self.signer = EnvelopeSigner(secrets)
        self.registry = Registry()
        self.reports: list[tuple[str, ProgressReport]] = []
        """What tasks have told of their progress."""
        self.executor = Executor(
            self.registry.find,
            signer=self.signer,
            destination=URL,
            threads=ThreadPool(threads, self.clock),
            clock=self.clock,
            layers=layers,
            redact=redact,
            report_progress=lambda task_id, report: self.reports.append((task_id, report)),
            results=results,
            around=self.around,
            tracing=tracing,
            names=self.registry.names,
        )
        self._ids = Ids.seeded(1)

    def task(
        self, function: Callable[..., Any], name: str | None = None, **options: Any
    ) -> Task[..., Any, Any]:
        """Make a task of a function, called as the function is."""
        named = {"name": name or function.__name__, **options}
        return make_task(function, self.registry, _nobody_calls, named, self.layers)

    def envelope(self, task: str = "note", *args: Any, **changes: Any) -> Envelope:
        """Make the envelope of a call, as `delay` would."""
        envelope = Envelope(task, "tsk_1", args, {}, destination=URL, enqueued_at=self.clock.now())
        return replace(envelope, **changes)

    def delivery(self, envelope: Envelope, **changes: Any) -> Delivery:
        """Make a first delivery of an envelope, signed by this app."""
        body = pack(envelope)
        return replace(Delivery("msg_1", body, self.signer.sign(body), 0), **changes)

    async def run(self, task: str, *args: Any, **changes: Any) -> Answer:
        """Deliver a call to the executor."""
        return await self.executor.execute(self.delivery(self.envelope(task, *args, **changes)))

    def packer(self, url: str = URL, batch: int | None = None, **queues: Queue) -> Packer:
        """Give what makes the messages of this app's calls."""
        return Packer(
            signer=lambda: self.signer,
            destination=url,
            queues=queues,
            layers=self.layers,
            clock=self.clock,
            ids=self._ids,
            batch=batch,
        )

    def headers(self, body: bytes, **changes: str | None) -> dict[str, str]:
        """Give the headers of a delivery over HTTP; a header that is changed to None is left out.

        Underscores stand for hyphens.
        """
        token = sign(URL, body, key=KEY, now=self.clock.now(), jti=self._ids.token_id())
        good: dict[str, str | None] = {
            "Content-Type": "application/json",
            "Upstash-Message-Id": "msg_1",
            "Upstash-Retried": "0",
            "Upstash-Signature": token,
            "Qtasks-Signature": self.signer.sign(body),
        }
        good |= {name.replace("_", "-"): value for name, value in changes.items()}
        return {name: value for name, value in good.items() if value is not None}


class NoResults:
    """A source of results that nobody asks; a test adds what it is asked."""

    def result(self, task_id: str, wait_ms: int = 0) -> ResultView:
        raise NotImplementedError

    async def aresult(self, task_id: str, wait_ms: int = 0) -> ResultView:
        return self.result(task_id, wait_ms)

    def settled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        raise NotImplementedError

    async def asettled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        return self.settled(task_ids, wait_ms)

    def cancel(self, task_id: str) -> bool:
        raise NotImplementedError

    async def acancel(self, task_id: str) -> bool:
        return self.cancel(task_id)

    def forget(self, task_id: str) -> bool:
        raise NotImplementedError

    async def aforget(self, task_id: str) -> bool:
        return self.forget(task_id)

    def stall(self) -> str | None:
        return None


def _nobody_calls() -> Caller:
    raise ConfigurationError("tasks of a workshop are delivered, not called")


def error_of(answer: Answer) -> dict[str, Any]:
    """Give the error document of an answer."""
    found: dict[str, Any] = orjson.loads(answer.body)["error"]
    return found
