"""The broker's API under sequences of calls, answers, waits and crashes that hypothesis makes up.

After each step everything that the API lists is held against the oracle (`tests/support/oracle.py`).
`Trial` makes the calls; here is only which, and in what order.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support import IN_CI, repeats
from tests.support.mortal import AtOnce
from tests.support.oracle_values import Letter, Limits, Message, Outcome, Schedule, Wanted
from tests.support.trial import Trial
from tests.support.trial_choices import (
    ANSWERS,
    ANYWHERE,
    BAD_ITEMS,
    COUNTS,
    ENDPOINTS,
    GROUPS,
    HOOK,
    KEYS,
    OUTCOMES,
    PICKS,
    PINNED,
    QUEUES,
    REFUSED,
    SCHEDULES,
    SHARED,
    TO_GROUP,
    TO_QUEUE,
    TO_URL,
    URLS,
)

STEPS = 50
"""In each of the runs, of which there are 10, or 100 in a full one."""
CROWD = 10
"""So many messages are enough to be pending at once."""

T = TypeVar("T")
Act = Coroutine[Any, Any, None]


def _pending(machine: BrokerMachine) -> int:
    return sum(not each.is_done for each in machine.messages)


# Steering is of little interest while there is nothing to steer, and so is a crowd that nobody serves.
BUSY = precondition(lambda machine: _pending(machine) >= 2)
ROOMY = precondition(lambda machine: _pending(machine) < CROWD)


class BrokerMachine(RuleBasedStateMachine):
    """A broker, and all that can be done to it."""

    root: ClassVar[Path]
    """Where each run has a folder of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(dir=self.root))
        self._runner = asyncio.Runner()
        self._runner.get_loop().set_default_executor(AtOnce())
        self._is_well = True
        self._is_eager = False
        self.trial = Trial(self._folder / "q.db")

    @property
    def messages(self) -> list[Message]:
        """All messages, in the end those that something may still happen to, the most eventful last."""
        known = self.trial.oracle.messages.values()
        return sorted(known, key=lambda each: (not each.is_done, len(each.log)))

    @property
    def letters(self) -> list[Letter]:
        """The dead letters, as they are listed."""
        return self.trial.oracle.listed()

    def _do(self, *acts: Act) -> None:
        """Do something, and hold what it comes to against the oracle."""
        self._is_well = False
        self._runner.run(self._in_turn(acts))
        self._is_well = True

    async def _in_turn(self, acts: Sequence[Act]) -> None:
        try:
            for each in acts:
                await each
        finally:
            for each in acts:
                each.close()  # those behind one that failed are never begun
        if self._is_eager:
            await self.trial.claim()
        await self.trial.compare()

    def _anchored(self, wanted: Wanted) -> Wanted:
        """Count the instant of a message from now."""
        from_now = wanted.settings.not_before_s
        if from_now is None:
            return wanted
        at = self.trial.oracle.now // 1000 + from_now
        return replace(wanted, settings=replace(wanted.settings, not_before_s=at))

    @initialize(
        is_eager=st.booleans(),
        queued=st.lists(TO_QUEUE, min_size=2, max_size=4),
        published=st.lists(TO_URL, max_size=3),
        shared=SHARED,
    )
    def begin(
        self, is_eager: bool, queued: list[Wanted], published: list[Wanted], shared: Limits | None
    ) -> None:
        # Like a dispatcher that is never late, so that whatever lets something start must wake it.
        self._is_eager = is_eager
        self._do(
            *(self.trial.add_endpoint("orders", f"https://{each}.example", None) for each in ("one", "two")),
            self.trial.schedule("often", Schedule(replace(queued[0], body=b"often"), 0, 2)),
            self.trial.batch([Wanted(HOOK), *self._alike(published, shared), *queued]),
        )

    def _alike(self, burst: Sequence[Wanted], limits: Limits | None) -> list[Wanted]:
        """Let messages share a flow-control key, which is what it takes to fill it."""
        alike = (replace(each, settings=replace(each.settings, limits=limits)) for each in burst)
        return [self._anchored(each) for each in alike]

    @rule(burst=st.lists(TO_QUEUE, min_size=1, max_size=3))
    def enqueue(self, burst: list[Wanted]) -> None:
        self._do(*map(self.trial.send, burst))

    @ROOMY
    @rule(burst=st.lists(TO_URL, min_size=1, max_size=3), shared=SHARED)
    def publish(self, burst: list[Wanted], shared: Limits | None) -> None:
        self._do(*map(self.trial.send, self._alike(burst, shared)))

    @ROOMY
    @rule(wanted=TO_GROUP)
    def publish_to_group(self, wanted: Wanted) -> None:
        self._do(self.trial.send(self._anchored(wanted)))

    @ROOMY
    @rule(items=st.lists(ANYWHERE, min_size=1, max_size=4))
    def batch(self, items: list[Wanted]) -> None:
        self._do(self.trial.batch([self._anchored(each) for each in items]))

    @BUSY
    @rule(call=REFUSED, items=st.lists(TO_QUEUE | TO_URL, max_size=2), bad=BAD_ITEMS)
    def try_what_is_refused(
        self, call: tuple[str, int, dict[str, str]], items: list[Wanted], bad: Wanted
    ) -> None:
        self._do(self.trial.refused(*call), self.trial.refused_batch([*map(self._anchored, items), bad]))

    @precondition(lambda self: self.trial.oracle.startable())
    @rule()
    def claim(self) -> None:
        self._do(self.trial.claim())

    @precondition(lambda self: self.trial.oracle.in_flight)
    @rule(pick=PICKS, outcomes=st.lists(OUTCOMES, min_size=1, max_size=2), claims=st.booleans())
    def answer(self, pick: int, outcomes: list[Outcome], claims: bool) -> None:
        ends = self._ends(pick, outcomes)
        self._do(self.trial.answer_and_claim(ends) if claims else self.trial.answer(ends))

    @rule(rounds=st.lists(ANSWERS, min_size=1, max_size=3))
    def work(self, rounds: list[list[Outcome]]) -> None:
        for outcomes in rounds:
            self._do(self.trial.claim())
            if self.trial.oracle.in_flight:
                self._do(self.trial.answer(self._ends(0, outcomes)))
            until = self.trial.oracle.next_start_at()
            if until is not None:
                self.trial.advance(until - self.trial.oracle.now)

    def _ends(self, pick: int, outcomes: Sequence[Outcome]) -> list[tuple[Message, Outcome]]:
        in_flight = self.trial.oracle.in_flight
        first = pick % len(in_flight)
        return list(zip(in_flight[first:] + in_flight[:first], outcomes, strict=False))

    @BUSY
    @rule(pick=PICKS)
    def cancel(self, pick: int) -> None:
        self._do(self.trial.cancel(_chosen(self.messages, pick)))

    @BUSY
    @rule(
        by=st.sampled_from(("messageIds", "queueName", "label", "url", "topicName", "flowControlKey", "")),
        values=st.tuples(QUEUES, URLS, GROUPS, KEYS),
        picks=st.lists(PICKS, min_size=1, max_size=3),
        count=COUNTS,
    )
    def cancel_many(
        self, by: str, values: tuple[str, str, str, str], picks: list[int], count: int | None
    ) -> None:
        if by == "messageIds":
            meant = list(dict.fromkeys(_chosen(self.messages, each) for each in picks))
            query = [("messageIds", each.id) for each in meant] + [("messageIds", "msg_unknown")]
        else:
            known: dict[str, str] = dict(
                zip(("queueName", "url", "topicName", "flowControlKey"), values, strict=True)
            )
            query = [(by, known.get(by, "red"))] if by else []
            meant = [each for each in self.trial.oracle.messages.values() if _is_meant(each, query)]
            meant = [each for each in meant if not each.is_done and not each.is_cancelled][:count]
            query += [] if count is None else [("count", str(count))]
        self._do(self.trial.cancel_many(query, meant))

    @BUSY
    @rule(
        queue=QUEUES,
        act=st.sampled_from(("resume", "set", "pause", "set", "delete", "replace")),
        parallelism=st.sampled_from((1, 2, 3)),
        paused=st.sampled_from((None, False)),
    )
    def steer_queue(self, queue: str, act: str, parallelism: int, paused: bool | None) -> None:
        if act == "set":
            self._do(self.trial.set_queue(queue, parallelism, paused))
        elif act == "delete":
            self._do(self.trial.delete_queue(queue))
        elif act == "replace":
            # The one that was made last: the next may be given its number.
            name = next(reversed(self.trial.oracle.queues), queue)
            fresh = Wanted(HOOK, b"fresh", queue=name)
            self._do(self.trial.delete_queue(name), self.trial.send(fresh), self.trial.send(fresh))
        else:
            self._do(self.trial.pause_queue(queue, act == "pause"))

    @BUSY
    @rule(
        key=KEYS,
        act=st.sampled_from(("resume", "pause", "unpin", "pin", "reset rate")),
        limits=PINNED,
        flags=st.tuples(st.booleans(), st.booleans()),
        period_s=st.sampled_from((1, 60)),
    )
    def steer_key(
        self,
        key: str,
        act: str,
        limits: tuple[int | None, int | None],
        flags: tuple[bool, bool],
        period_s: int,
    ) -> None:
        if act == "pin":
            self._do(self.trial.pin(key, *limits, period_s))
        elif act == "unpin":
            self._do(self.trial.unpin(key, parallelism=flags[0], rate=flags[1]))
        elif act == "reset rate":
            self._do(self.trial.reset_rate(key))
        else:
            self._do(self.trial.pause_key(key, act == "pause"))

    @BUSY
    @rule(
        group=GROUPS,
        act=st.sampled_from(("add", "remove", "delete")),
        url=ENDPOINTS,
        name=st.sampled_from((None, "billing")),
    )
    def change_group(self, group: str, act: str, url: str, name: str | None) -> None:
        if act == "add":
            self._do(self.trial.add_endpoint(group, url, name))
        elif act == "remove":
            self._do(self.trial.remove_endpoint(group, url))
        else:
            self._do(self.trial.delete_group(group))

    @precondition(lambda self: self.letters)
    @rule(pick=PICKS, is_replay=st.booleans(), retries=st.sampled_from((None, 0)))
    def dead_letter(self, pick: int, is_replay: bool, retries: int | None) -> None:
        letter = _chosen(self.letters, pick)
        self._do(self.trial.replay(letter, retries) if is_replay else self.trial.delete_letter(letter))

    @precondition(lambda self: self.letters)
    @rule(
        by=st.sampled_from(("dlqIds", "queueName", "label", "url", "responseStatus", "")),
        values=st.tuples(QUEUES, URLS, st.just("500")),
        picks=st.lists(PICKS, max_size=3),
        count=COUNTS,
        is_replay=st.booleans(),
    )
    def dead_letters(
        self, by: str, values: tuple[str, str, str], picks: list[int], count: int | None, is_replay: bool
    ) -> None:
        if by == "dlqIds":
            meant = list(dict.fromkeys(_chosen(self.letters, each) for each in picks))
            query = [("dlqIds", each.id or "") for each in meant] + [("dlqIds", "17-99999")]
        else:
            known: dict[str, str] = dict(zip(("queueName", "url", "responseStatus"), values, strict=True))
            query = [(by, known.get(by, "red"))] if by else []
            meant = [each for each in self.letters if _is_letter_meant(each, query)][:count]
            query += [] if count is None else [("count", str(count))]
        act = self.trial.replay_many if is_replay else self.trial.delete_letters
        self._do(act(query, meant))

    @ROOMY
    @rule(name=SCHEDULES, minutes=st.sampled_from((2, 10)), wanted=ANYWHERE)
    def schedule(self, name: str, minutes: int, wanted: Wanted) -> None:
        # No two are ever due at the same instant: which of them is first then is nobody's promise.
        # A schedule knows no instant (contract 2.7), and what it makes is told apart by its body.
        plain = replace(wanted, body=name.encode(), settings=replace(wanted.settings, not_before_s=None))
        self._do(self.trial.schedule(name, Schedule(plain, 0 if name == "often" else 1, minutes)))

    @precondition(lambda self: self.trial.oracle.schedules)
    @rule(pick=PICKS, act=st.sampled_from(("turn", "turn", "turn", "repeat", "delete")))
    def steer_schedule(self, pick: int, act: str) -> None:
        name, known = _chosen(sorted(self.trial.oracle.schedules.items()), pick)
        if act == "delete":
            self._do(self.trial.delete_schedule(name), self.trial.pause_schedule(name, True))
        else:
            self._do(self.trial.pause_schedule(name, known.is_paused == (act == "repeat")))

    @precondition(lambda self: self.trial.oracle.schedules)
    @rule(late_ms=st.sampled_from((0, -1, 999, 60_000, 300_000)))
    def fire(self, late_ms: int) -> None:
        self.trial.advance(60_000 - self.trial.oracle.now % 60_000 + late_ms)
        self._do(self.trial.fire())

    @rule(ms=st.sampled_from((1, 500, 999, 1000, 2000, 12_000, 60_000, 148_000, 600_000, 3_600_000)))
    def advance(self, ms: int) -> None:
        self.trial.advance(ms)
        self._do()

    @precondition(lambda self: self.trial.oracle.instants())
    @rule(pick=PICKS, early_ms=st.sampled_from((0, 0, 1)))
    def wait(self, pick: int, early_ms: int) -> None:
        instants = self.trial.oracle.instants()
        self.trial.advance(instants[pick % len(instants)] - self.trial.oracle.now - early_ms)
        self._do(self.trial.claim())

    @precondition(lambda self: self.trial.oracle.in_flight)
    @rule(is_repeated=st.booleans())
    def crash(self, is_repeated: bool) -> None:
        self._do(self.trial.crash())
        if is_repeated:  # what was in flight at both comes under suspicion (promise P13)
            self._do(self.trial.claim())
            self._do(self.trial.crash())

    @rule(picks=st.lists(PICKS, min_size=1, max_size=3))
    def prune_and_read(self, picks: list[int]) -> None:
        self._do(self.trial.prune(), *(self.trial.read(_chosen(self.messages, each)) for each in picks))

    def teardown(self) -> None:
        try:
            if self._is_well:
                self._runner.run(self.trial.finish())
        finally:
            self._runner.run(self.trial.broker.end())
            self._runner.close()
            shutil.rmtree(self._folder)


def _chosen(among: Sequence[T], pick: int) -> T:
    return among[-1 - pick % len(among)]


def _is_meant(message: Message, query: Sequence[tuple[str, str]]) -> bool:
    wanted, limits = message.wanted, message.wanted.settings.limits
    found: Mapping[str, tuple[str | None, ...]] = {
        "queueName": (wanted.queue,),
        "label": wanted.settings.labels,
        "url": (wanted.url,),
        "topicName": (wanted.group,),
        "flowControlKey": (limits.key if limits else None,),
    }
    return all(value in found[name] for name, value in query)


def _is_letter_meant(letter: Letter, query: Sequence[tuple[str, str]]) -> bool:
    statuses = [value for name, value in query if name == "responseStatus"]
    if statuses:
        return str(letter.outcome.status) in statuses
    return _is_meant(letter.message, query)


async def test_a_message_that_nobody_asked_for_is_noticed(tmp_path: Path) -> None:
    trial = Trial(tmp_path / "q.db")
    await trial.broker.ask("POST", f"/v2/publish/{HOOK}")

    with pytest.raises(AssertionError, match="nobody asked for the message"):
        await trial.compare()

    await trial.broker.end()


@pytest.mark.parametrize(
    ("parallelism", "complaint"), [(1, "may not start: READY"), (3, "the broker does not start")]
)
async def test_a_message_that_starts_too_early_or_too_late_is_noticed(
    tmp_path: Path, parallelism: int, complaint: str
) -> None:
    trial = Trial(tmp_path / "q.db")
    await trial.set_queue("mail", 2, None)
    await trial.batch([Wanted(HOOK, queue="mail")] * 3)
    trial.oracle.set_queue("mail", parallelism, None)

    with pytest.raises(AssertionError, match=complaint):
        await trial.claim()

    await trial.broker.end()


def test_the_broker_does_what_the_contract_says_whatever_comes_in_whatever_order(tmp_path: Path) -> None:
    class Machine(BrokerMachine):
        root = tmp_path

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=repeats(100),
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=IN_CI,
            print_blob=True,
            suppress_health_check=[
                HealthCheck.too_slow,
                HealthCheck.data_too_large,
                HealthCheck.large_base_example,
                HealthCheck.filter_too_much,
            ],
        ),
    )
