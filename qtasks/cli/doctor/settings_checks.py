"""Checks of what the environment says: what is set, where it comes from, and what is missing."""

from __future__ import annotations

from difflib import get_close_matches
from urllib.parse import urlsplit

from qtasks.broker.security import parse_rules
from qtasks.cli.doctor.facts import Facts
from qtasks.cli.doctor.findings import Check, Verdict, fail, failed, ok, warn
from qtasks.errors import ConfigurationError
from qtasks.home.stores import shown_store
from qtasks.settings import DEFAULT_BROKER, KEY_NAMES, HomeKind, Settings, database_path

KNOWN = (
    "QTASKS_ALLOW_DESTINATIONS",
    "QTASKS_API_EMAIL_KEY",
    "QTASKS_API_LLM_KEY",
    "QTASKS_APP",
    "QTASKS_BATCH",
    "QTASKS_BROKER",
    "QTASKS_CURRENT_SIGNING_KEY",
    "QTASKS_DURABILITY",
    "QTASKS_ENV",
    "QTASKS_LISTEN",
    "QTASKS_NEXT_SIGNING_KEY",
    "QTASKS_OUTBOX",
    "QTASKS_PUBLIC_URL",
    "QTASKS_QSTASH_PLAN",
    "QTASKS_RESULTS",
    "QTASKS_SECRET",
    "QTASKS_TOKEN",
)
"""Names with our prefix that mean something."""
SHARED = ("TOKEN", *KEY_NAMES)
"""Settings that have a name of ours and one of QStash."""
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
NEW_SECRET = "python -c 'import secrets; print(secrets.token_hex(32))'"
ODD = "\"' \t\r\n"
USED_BY = {
    "QTASKS_BATCH": (HomeKind.SQLITE, HomeKind.POSTGRES, HomeKind.HTTP),
    "QTASKS_DURABILITY": (HomeKind.SQLITE,),
    "QTASKS_LISTEN": (HomeKind.SQLITE, HomeKind.POSTGRES),
    "QTASKS_QSTASH_PLAN": (HomeKind.HOSTED,),
    "QTASKS_RESULTS": (HomeKind.HOSTED,),
    "QSTASH_REGION": (HomeKind.HOSTED,),
}
"""Settings that not every broker obeys."""
BROKERS = {
    HomeKind.SQLITE: "embedded on SQLite",
    HomeKind.POSTGRES: "on PostgreSQL",
    HomeKind.HTTP: "standalone",
    HomeKind.HOSTED: "hosted QStash",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def look_at_settings(facts: Facts) -> Verdict:
    """Whether the environment can be read, and which settings it has."""
    if facts.settings_error is not None:
        return failed(facts.settings_error, "mend that variable and run this again")
    names = sorted(name for name in facts.environment if "QTASKS_" in name or "QSTASH_" in name)
    return ok(f"set in the environment: {', '.join(names)}" if names else "nothing is set: defaults hold")


def look_for_typos(facts: Facts) -> Verdict | None:
    """Whether a variable is named as none of ours is."""
    strange = sorted(name for name in facts.environment if name.startswith("QTASKS_") and name not in KNOWN)
    if not strange:
        return None
    meant = [get_close_matches(name, KNOWN, 1) for name in strange]
    hints = [
        f"{name} (do you mean {like[0]}?)" if like else name
        for name, like in zip(strange, meant, strict=True)
    ]
    return warn(f"not known, so without effect: {', '.join(hints)}", f"rename or unset {', '.join(strange)}")


def look_for_shadows(facts: Facts) -> Verdict | None:
    """Whether QStash's name of a setting says something else than ours, which wins."""
    env = facts.environment
    pairs = [(f"QTASKS_{each}", f"QSTASH_{each}") for each in SHARED]
    found = [
        (ours, theirs) for ours, theirs in pairs if ours in env and theirs in env and env[ours] != env[theirs]
    ]
    if not found:
        return None
    texts = ", ".join(f"{ours} wins over {theirs}" for ours, theirs in found)
    return warn(f"set twice, and not alike: {texts}", f"unset {' and '.join(theirs for _, theirs in found)}")


def look_at_broker(facts: Facts) -> Verdict | None:
    """Which broker it is, and who says so."""
    settings = facts.settings
    if settings is None:
        return None
    if facts.home is None:
        return failed(facts.broker_error or "", "correct QTASKS_BROKER")
    named = facts.environment.get("QTASKS_BROKER", "").strip()
    if settings.broker == named:
        source = "QTASKS_BROKER"
    else:
        source = "default" if settings.broker == DEFAULT_BROKER else "the app or --broker"
    return ok(f"{_shown(settings, facts.home)}, by {source}")


def _shown(settings: Settings, home: HomeKind) -> str:
    if home in (HomeKind.SQLITE, HomeKind.POSTGRES):
        path = database_path(settings.broker) if home is HomeKind.SQLITE else None
        return f"embedded: {shown_store(settings.broker, path)}"
    parts = urlsplit(settings.address)
    kind = "hosted QStash" if home is HomeKind.HOSTED else "standalone"
    return f"{kind}: {parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def look_at_token(facts: Facts) -> Verdict | None:
    """Whether there is a token for a broker elsewhere."""
    if facts.settings is None or not facts.is_elsewhere:
        return None
    if facts.settings.token is None:
        where = (
            "the console of QStash shows it"
            if facts.home is HomeKind.HOSTED
            else "the broker's file of keys has it"
        )
        return fail("no token is set, and the broker wants one", f"set QTASKS_TOKEN; {where}")
    if not is_sendable(facts.settings.token):
        return fail(
            "the token has a blank, a quote or a letter beyond ASCII in it, as no token has",
            "copy it into QTASKS_TOKEN once more, alone",
        )
    return ok("a token is set")


def is_sendable(token: str) -> bool:
    """Say whether a text may be a token: one word of ASCII."""
    return token.isascii() and not any(each in token for each in ODD)


def look_at_secret(facts: Facts) -> Verdict | None:
    """Whether there is a secret with which tasks are signed."""
    if facts.settings is None or facts.home is None:
        return None
    count = len(facts.settings.secrets)
    if count:
        more = f"; {count - 1} more verify" if count > 1 else ""
        return ok(f"QTASKS_SECRET signs tasks{more}")
    if facts.home is HomeKind.SQLITE:
        return ok("tasks are signed with the secret that stands beside the database")
    return fail(
        "QTASKS_SECRET is not set, and all processes must sign tasks with the same",
        f"make one with {NEW_SECRET} and set it for all of them",
    )


def look_at_signing_keys(facts: Facts) -> Verdict | None:
    """Whether there is a pair of keys with which deliveries are verified."""
    if facts.settings is None or facts.home is None:
        return None
    keys = facts.settings.signing_keys
    if not keys and not facts.is_elsewhere:
        return None
    if len(keys) < len(KEY_NAMES):
        return fail(
            f"{len(keys)} of 2 signing keys are set",
            "set QTASKS_CURRENT_SIGNING_KEY and QTASKS_NEXT_SIGNING_KEY to what `qtasks keys show` prints",
        )
    if keys[0] == keys[1]:
        return warn(
            "the current and the next signing key are the same, so a roll would lose deliveries",
            "set both to what `qtasks keys show` prints",
        )
    return ok("both signing keys are set")


def look_at_public_url(facts: Facts) -> Verdict | None:
    """Whether the broker is told where the webhook is."""
    if facts.settings is None or not facts.is_elsewhere:
        return None
    url = facts.settings.public_url
    if url is None:
        return fail(
            "QTASKS_PUBLIC_URL is not set, so the broker cannot know where to deliver",
            "set it to the address where the webhook is mounted, such as https://app.example.com/qtasks",
        )
    parts = urlsplit(url)
    is_here = (parts.hostname or "") in LOOPBACK
    is_hosted = (urlsplit(facts.settings.address).hostname or "") not in LOOPBACK
    if facts.home is HomeKind.HOSTED and is_here and is_hosted:
        return fail(
            f"QTASKS_PUBLIC_URL is {url}, which hosted QStash cannot reach",
            "give the app an address on the internet (a tunnel will do), or use another broker at home",
        )
    if parts.scheme == "http" and not is_here:
        return warn(f"{url} is not encrypted: arguments travel in the clear", "serve it by https://")
    return ok(url)


def look_at_path(facts: Facts) -> Verdict | None:
    """Whether the public address has a part that is added to it anyway, or that is written twice."""
    if facts.settings is None or facts.settings.public_url is None:
        return None
    url = facts.settings.public_url
    path = urlsplit(url).path
    if path.endswith(("/run", "/failed")):
        return fail(
            f"QTASKS_PUBLIC_URL is {url}, and /run is added to it, so deliveries would go to {url}/run",
            f"set it to {url.rpartition('/')[0]}",
        )
    if "//" in path:
        return warn(
            f"the path of {url} has a double slash, which proxies take for one", "leave one of them away"
        )
    return None


def look_at_proxies(facts: Facts) -> Verdict | None:
    """Whether a proxy is set that calls to the broker would not go through."""
    if facts.settings is None or not facts.is_elsewhere:
        return None
    host = urlsplit(facts.settings.address).hostname or ""
    env = {name.upper(): value for name, value in facts.environment.items()}
    found = [name for name in PROXIES if env.get(name)]
    exempt = [each.strip().lstrip(".") for each in env.get("NO_PROXY", "").split(",") if each.strip()]
    is_exempt = any(each == "*" or host == each or host.endswith(f".{each}") for each in exempt)
    if not found or host in LOOPBACK or is_exempt:
        return None
    return warn(
        f"{', '.join(found)} is set, but qtasks calls {host} directly, through no proxy",
        f"let this machine reach {host} itself, and say so: NO_PROXY={host}",
    )


def look_at_destinations(facts: Facts) -> Verdict | None:
    """Whether what QTASKS_ALLOW_DESTINATIONS lists can be read."""
    if facts.settings is None or not facts.settings.allow_destinations:
        return None
    allowed = facts.settings.allow_destinations
    try:
        parse_rules(allowed, loopback=True)
    except ConfigurationError as error:
        return failed(str(error), "mend QTASKS_ALLOW_DESTINATIONS")
    return ok(f"QTASKS_ALLOW_DESTINATIONS allows {', '.join(allowed)}")


def look_for_idle_settings(facts: Facts) -> Verdict | None:
    """Whether a variable is set that the broker which is set has no use for."""
    if facts.home is None:
        return None
    used = USED_BY | ({"QTASKS_QSTASH_PLAN": (facts.home,)} if facts.is_for_hosted else {})
    idle = [name for name, homes in used.items() if facts.environment.get(name) and facts.home not in homes]
    if not idle:
        return None
    named = ", ".join(idle)
    return warn(f"without effect where the broker is {BROKERS[facts.home]}: {named}", f"unset {named}")


def look_at_durability(facts: Facts) -> Verdict | None:
    """Whether a power cut may lose what was accepted."""
    if facts.settings is None or facts.home is not HomeKind.SQLITE:
        return None
    if facts.settings.durability == "full":
        return ok("full: what was accepted outlives a power cut")
    return warn("relaxed: a power cut may lose the newest tasks", "unset QTASKS_DURABILITY")


CHECKS = (
    Check("settings", "the environment can be read; which settings it has", look_at_settings),
    Check("unknown-settings", "no `QTASKS_…` variable is misspelt", look_for_typos),
    Check("shadowed-settings", "no `QSTASH_…` variable differs from ours, which wins", look_for_shadows),
    Check("broker", "which broker it is, and who says so", look_at_broker),
    Check("token", "there is a token for a broker elsewhere", look_at_token),
    Check("secret", "there is a secret that signs tasks", look_at_secret),
    Check("signing-keys", "both keys are set, and differ", look_at_signing_keys),
    Check("public-url", "it is set, encrypted, and can be reached by hosted QStash", look_at_public_url),
    Check("public-path", "it does not end in `/run`, and has no double slash", look_at_path),
    Check("proxies", "no `HTTPS_PROXY` that calls would have to go through", look_at_proxies),
    Check("destinations", "`QTASKS_ALLOW_DESTINATIONS` can be read", look_at_destinations),
    Check("idle-settings", "no variable is set that this broker has no use for", look_for_idle_settings),
    Check("durability", "a power cut loses nothing", look_at_durability),
)
