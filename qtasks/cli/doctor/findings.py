"""What a check of a setup comes to: a `Finding`, and the `Check` that makes it. Pure values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from qtasks.cli.doctor.facts import Facts


class Level(Enum):
    """How bad it is. Whatever is a `FAIL` keeps tasks from being run, or loses them."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one check says; without a `remedy` there is nothing to do."""

    level: Level
    text: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict under the name of its check."""

    level: Level
    name: str
    text: str
    remedy: str | None = None

    def to_json(self) -> dict[str, object]:
        """Make the object that programs read."""
        return {"name": self.name, "level": self.level.value, "text": self.text, "remedy": self.remedy}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at: `look` says None where it does not apply, or nothing is known."""

    name: str
    about: str
    look: Callable[[Facts], Verdict | None]


def ok(text: str) -> Verdict:
    """Say that all is well."""
    return Verdict(Level.OK, text)


def warn(text: str, remedy: str) -> Verdict:
    """Say what may hurt some day, or is surely not meant so."""
    return Verdict(Level.WARN, text, remedy)


def fail(text: str, remedy: str) -> Verdict:
    """Say what keeps tasks from being run."""
    return Verdict(Level.FAIL, text, remedy)


def failed(error: str, otherwise: str) -> Verdict:
    """Say an error of ours, whose remedy stands behind its first semicolon if it has one."""
    text, _, remedy = error.partition("; ")
    return fail(text, remedy or otherwise)


def examine(facts: Facts, checks: Sequence[Check]) -> list[Finding]:
    """Carry out all checks that apply."""
    return [
        Finding(verdict.level, each.name, verdict.text, verdict.remedy)
        for each in checks
        if (verdict := each.look(facts)) is not None
    ]
