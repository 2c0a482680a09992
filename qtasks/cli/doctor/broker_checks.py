"""Checks of what a broker answers: its clock, its keys, its queues and its dead letters."""

from __future__ import annotations

from qtasks.cli.doctor.asking import MOST_LETTERS
from qtasks.cli.doctor.facts import Facts, Trouble
from qtasks.cli.doctor.findings import Check, Verdict, fail, ok, warn
from qtasks.cli.output import counted
from qtasks.protocol.signature import LIFETIME_S
from qtasks.settings import HomeKind
from qtasks.tasks.webhook import CLOCK_TOLERANCE_S


def look_at_answer(facts: Facts) -> Verdict | None:
    """Whether the broker answers at all, and to our token."""
    broker = facts.broker
    if broker is None:
        return None
    error = broker.error or ""
    if broker.trouble is Trouble.UNREACHABLE:
        return fail(
            f"{broker.name} does not answer: {error}",
            "start it (qtasks broker), or say where it is: QTASKS_BROKER",
        )
    if broker.trouble is Trouble.REFUSED:
        return fail(
            f"{broker.name} refuses the token: {error}",
            "set QTASKS_TOKEN to a token of this broker, without blanks or quotes around it",
        )
    if broker.trouble is Trouble.UNAVAILABLE:
        return fail(f"{broker.name} cannot serve: {error}", "see its log, and its /readyz")
    return ok(f"{broker.name} answers")


def look_at_readiness(facts: Facts) -> Verdict | None:
    """Whether the broker accepts and delivers."""
    if facts.broker is None or facts.broker.not_ready is None:
        return None
    return fail(
        f"the broker accepts or delivers nothing now: {facts.broker.not_ready}",
        "mend that; it goes on by itself, or see its log",
    )


def look_at_clock(facts: Facts) -> Verdict | None:
    """Whether this machine's clock and the broker's agree."""
    if facts.broker is None or facts.broker.skew_ms is None:
        return None
    skew = facts.broker.skew_ms
    seconds = abs(skew) // 1000
    off = f"this machine's clock is {seconds} s {'ahead of' if skew > 0 else 'behind'} the broker's"
    remedy = "have both set by NTP: timedatectl set-ntp true"
    if seconds >= LIFETIME_S:
        return fail(f"{off}, and signatures are good for {LIFETIME_S} s", remedy)
    if seconds > CLOCK_TOLERANCE_S:
        return warn(f"{off}; delays and expiries are off by that", remedy)
    return ok(f"within {CLOCK_TOLERANCE_S} s of the broker's")


def look_at_pair(facts: Facts) -> Verdict | None:
    """Whether deliveries of this broker can be verified with the keys here."""
    if facts.broker is None or facts.broker.pair is None or facts.settings is None or not facts.is_elsewhere:
        return None
    current, following = facts.broker.pair
    ours = facts.settings.signing_keys
    if len(ours) < 2:
        return None  # said elsewhere
    if ours == (current, following):
        return ok("they are the broker's")
    remedy = (
        "set QTASKS_CURRENT_SIGNING_KEY and QTASKS_NEXT_SIGNING_KEY to what `qtasks keys show` prints, and "
        "restart the app"
    )
    if current in ours:
        return warn(
            "they are from before the broker's last roll, and another one would lose deliveries", remedy
        )
    return fail("the broker signs with a key that is not set here, so deliveries are refused", remedy)


def look_for_blocked(facts: Facts) -> Verdict | None:
    """Whether an ordered queue stands still behind a retry."""
    if facts.broker is None or not facts.broker.queues:
        return None
    blocked = facts.broker.blocked
    if not blocked:
        return ok("no ordered queue waits for a retry")
    first = blocked[0]
    texts = ", ".join(
        f"{each.queue} ({counted(each.waiting, 'message')} behind {each.message_id})" for each in blocked
    )
    return warn(
        f"wait for the retry of their first message: {texts}",
        f"see why it fails: qtasks messages show {first.message_id}; or give it up: "
        f"qtasks messages cancel {first.message_id}",
    )


def look_for_paused(facts: Facts) -> Verdict | None:
    """Whether something waits in a paused queue."""
    if facts.broker is None:
        return None
    found = [each for each in facts.broker.queues if each.paused and each.lag]
    if not found:
        return None
    names = " ".join(each.name for each in found)
    waiting = counted(sum(each.lag for each in found), "message")
    return warn(f"paused, while {waiting} in them: {names}", f"go on with: qtasks queues resume {names}")


def look_for_dead_letters(facts: Facts) -> Verdict | None:
    """Whether there are dead letters."""
    if facts.broker is None or facts.broker.trouble is not None:
        return None
    if not facts.broker.dead_letters:
        return ok("none")
    count = counted(facts.broker.dead_letters, "dead letter")
    more = " or more" if facts.broker.dead_letters >= MOST_LETTERS else ""
    return warn(f"{count}{more}", "see why: qtasks dlq ls --group; run them again: qtasks dlq replay")


def look_at_queues(facts: Facts) -> Verdict | None:
    """Whether queues are at the broker as the app declares them."""
    if facts.app is None or facts.broker is None or facts.broker.trouble is not None:
        return None
    there = {each.name: each for each in facts.broker.queues}
    other_order, other_size = [], []
    for name, spec in facts.app.queues.items():
        if name not in there or (facts.home is HomeKind.HOSTED and not spec.ordered):
            continue  # it is made at first use, or is no queue there
        if there[name].ordered != spec.ordered:
            other_order.append(name)
        elif there[name].parallelism != spec.parallelism:
            other_size.append(f"{name} runs {there[name].parallelism} at once instead of {spec.parallelism}")
    if other_order:
        names = " ".join(other_order)
        return fail(
            f"ordered otherwise than the app declares, which never changes: {names}",
            f"let them run empty, then: qtasks queues rm {names} --yes; they are made anew as declared",
        )
    if other_size:
        return warn(
            f"not as declared: {', '.join(other_size)}",
            "restart the app; or, if `qtasks queues set` has changed them, set or declare what you mean",
        )
    return ok(f"{counted(len(facts.app.queues), 'declaration')}, none contradicted")


CHECKS = (
    Check("answer", "the broker answers, and takes the token", look_at_answer),
    Check("readiness", "the broker accepts and delivers", look_at_readiness),
    Check("clock", "this machine's clock is that of the broker", look_at_clock),
    Check("broker-keys", "the signing keys set here are the broker's", look_at_pair),
    Check("queues", "queues are at the broker as the app declares them", look_at_queues),
    Check("blocked-queues", "no ordered queue waits for a retry", look_for_blocked),
    Check("paused-queues", "nothing waits in a paused queue", look_for_paused),
    Check("dead-letters", "there are none", look_for_dead_letters),
)
