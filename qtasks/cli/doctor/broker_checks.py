"""Checks of what a broker answers, and of what comes back from the app's public address."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from qtasks.cli.doctor.asking import MOST_LETTERS
from qtasks.cli.doctor.facts import Facts, Trouble
from qtasks.cli.doctor.findings import Check, Verdict, fail, ok, warn
from qtasks.cli.output import counted
from qtasks.client.attempts import Answer
from qtasks.protocol.signature import LIFETIME_S
from qtasks.settings import HomeKind
from qtasks.tasks.webhook import CLOCK_TOLERANCE_S

UNSIGNED = "Upstash-Signature is missing"
NOT_CONFIGURED = "not configured"
UNREADABLE = 489
"""What an app answers to a delivery that it has verified and that calls no task."""


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


def look_at_webhook(facts: Facts) -> Verdict | None:
    """Whether the webhook is where the broker is told."""
    if facts.webhook is None:
        return None
    url, answer = facts.webhook.url, facts.webhook.unsigned
    if isinstance(answer, str):
        return fail(answer, "start the app, or correct QTASKS_PUBLIC_URL")
    said = _said(answer)
    if answer.status == 401 and UNSIGNED in said:
        return ok(f"{url} refuses what is not signed")
    if answer.status == 503 and NOT_CONFIGURED in said:
        return fail(
            f"{url} takes no deliveries: its process lacks settings",
            "set QTASKS_PUBLIC_URL, QTASKS_CURRENT_SIGNING_KEY and QTASKS_NEXT_SIGNING_KEY where the app "
            "runs, and restart it",
        )
    if 300 <= answer.status < 400:
        return _redirected(url, answer)
    if answer.status in (404, 405):
        return fail(
            f"{url} answered {answer.status}: the webhook is not there",
            "QTASKS_PUBLIC_URL must be where the app mounts its tasks, with the path that a proxy adds or "
            "takes away",
        )
    if answer.status in (401, 403):
        return fail(
            f"something before the app answered {answer.status} at {url}: {said}",
            "let POST requests to this path pass without a login; they are verified by their signatures",
        )
    return fail(
        f"{url} answered {answer.status}: {said}", "see that the app runs, and the log of what is before it"
    )


def _redirected(url: str, answer: Answer) -> Verdict:
    target = answer.headers.get("location", "")
    parts = urlsplit(target)
    if parts.scheme == "https" and url.startswith("http:"):
        remedy = "set QTASKS_PUBLIC_URL to the https:// address"
    elif target.rstrip("/").endswith(url.removeprefix("http://").partition("/")[2]) and target.endswith("/"):
        remedy = "let the proxy add no slash to the path of the webhook"
    else:
        remedy = "set QTASKS_PUBLIC_URL to where that leads, without /run"
    return fail(f"{url} is redirected to {target}, and deliveries follow no redirect", remedy)


def look_at_signature(facts: Facts) -> Verdict | None:
    """Whether a delivery signed with the keys here is taken at the public address."""
    if facts.webhook is None or facts.webhook.signed is None:
        return None
    url, answer = facts.webhook.url, facts.webhook.signed
    if isinstance(answer, str):
        return None  # said of the webhook
    said = _said(answer)
    if answer.status == UNREADABLE:
        return ok(f"{url} takes what is signed with our keys")
    if UNSIGNED in said:
        return fail(
            f"the header Upstash-Signature does not come through to {url}",
            "let the proxy pass all headers on",
        )
    if answer.status != 403:
        return None
    if "none of the signing keys" in said:
        return fail(
            "the running app has other signing keys than this environment",
            "give both the keys that `qtasks keys show` prints, and restart the app",
        )
    if "signature is for" in said:
        return fail(
            f"the running app goes by another QTASKS_PUBLIC_URL: {said}",
            "set the same one for the app, and restart it",
        )
    if "expired" in said:
        return fail(
            f"the clock of the app's machine is off: {said}", "have it set by NTP: timedatectl set-ntp true"
        )
    if "not signed by this app" in said:
        return fail(
            "the running app has another QTASKS_SECRET than this environment",
            "give all processes the same list of secrets, and restart the app",
        )
    return fail(f"{url} refuses what is signed: {said}", "see the app's log")


def _said(answer: Answer) -> str:
    """Give the error of an answer on one line: ours is a text or an object with a message."""
    try:
        error = json.loads(answer.body)["error"]
        text = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        text = answer.body.decode(errors="replace")
    return " ".join(str(text).split())[:200]


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
    Check(
        "webhook", "the webhook is at the public URL, with no redirect or login before it", look_at_webhook
    ),
    Check("signature", "a signed delivery comes through the public URL and is taken", look_at_signature),
    Check("queues", "queues are at the broker as the app declares them", look_at_queues),
    Check("blocked-queues", "no ordered queue waits for a retry", look_for_blocked),
    Check("paused-queues", "nothing waits in a paused queue", look_for_paused),
    Check("dead-letters", "there are none", look_for_dead_letters),
)
