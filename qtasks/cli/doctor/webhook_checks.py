"""Checks of what comes back from the app's public address: a proxy, a login, or the webhook itself."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from qtasks.cli.doctor.facts import Facts
from qtasks.cli.doctor.findings import Check, Verdict, fail, ok
from qtasks.client.attempts import Answer

UNSIGNED = "Upstash-Signature is missing"
NOT_CONFIGURED = "not configured"
UNREADABLE = 489
"""What an app answers to a delivery that it has verified and that calls no task."""
REFUSALS = (
    (
        "Signature is missing",
        "a proxy keeps the headers of signatures back",
        "let it pass all headers on, those too that begin with Upstash- and Qtasks-",
    ),
    (
        "none of the signing keys",
        "the running app has other signing keys than this environment",
        "give both the keys that `qtasks keys show` prints, and restart the app",
    ),
    (
        "signature is for",
        "the running app goes by another QTASKS_PUBLIC_URL than this environment",
        "set the same one for the app, and restart it",
    ),
    (
        "expired",
        "the clock of the app's machine is ahead of this one's",
        "have both set by NTP: timedatectl set-ntp true",
    ),
    (
        "not signed by this app",
        "the running app has another QTASKS_SECRET than this environment",
        "give all processes the same list of secrets, and restart the app",
    ),
)
"""By what an app says of a signed delivery that it refuses: what that means, and what mends it."""


def look_at_webhook(facts: Facts) -> Verdict | None:
    """Whether the webhook is where the broker is told."""
    if facts.webhook is None:
        return None
    url, answer = facts.webhook.url, facts.webhook.unsigned
    if isinstance(answer, str):
        return fail(answer, "start the app, or correct QTASKS_PUBLIC_URL")
    said = _said(answer)
    if _is_guarded(answer):
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
    elif parts.path == f"{urlsplit(url).path}/":
        remedy = "let the proxy add no slash to the path of the webhook"
    else:
        remedy = "set QTASKS_PUBLIC_URL to where that leads, without /run"
    return fail(f"{url} is redirected to {target}, and deliveries follow no redirect", remedy)


def look_at_signature(facts: Facts) -> Verdict | None:
    """Whether a delivery signed with the keys here is taken at the public address."""
    webhook = facts.webhook
    if webhook is None or not isinstance(webhook.signed, Answer) or not _is_guarded(webhook.unsigned):
        return None
    if webhook.signed.status == UNREADABLE:
        return ok(f"{webhook.url} takes what is signed with our keys")
    said = _said(webhook.signed)
    for words, meaning, remedy in REFUSALS:
        if words in said:
            return fail(f"{meaning}: {said}", remedy)
    return fail(
        f"{webhook.url} answered {webhook.signed.status} to a signed delivery: {said}", "see the app's log"
    )


def _is_guarded(answer: Answer | str) -> bool:
    """Say whether this is how a webhook that works refuses what has no signature."""
    return isinstance(answer, Answer) and answer.status == 401 and UNSIGNED in _said(answer)


def _said(answer: Answer) -> str:
    """Give the error of an answer on one line: ours is a text or an object with a message."""
    try:
        error = json.loads(answer.body)["error"]
        text = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        text = answer.body.decode(errors="replace")
    return " ".join(str(text).split())[:200]


CHECKS = (
    Check("webhook", "it is at the public URL, with no redirect or login before it", look_at_webhook),
    Check("signature", "a signed delivery comes through the public URL and is taken", look_at_signature),
)
