"""Holds what the store says after a simulation against what its destinations and clients saw."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.simulation_ledger import Accepted, Ledger
from tests.support.store import Verbs

ENDS = ("DELIVERED", "FAILED", "CANCELED")


def contradictions(verbs: Verbs, ledger: Ledger) -> Iterator[str]:
    """Give a line for each thing that is not as promised, once everything has come to rest."""
    for key, known in ledger.accepted.items():
        for fault in _faults_of(verbs, ledger, known):
            yield f"{key}, {known.id} in {known.place!r}: {fault}"


def _faults_of(verbs: Verbs, ledger: Ledger, known: Accepted) -> list[str]:
    states = verbs.states(known.id).split(", ")
    attempts = ledger.attempts[known.id]
    ends = [each for each in states if each in ENDS]
    if len(ends) != 1:
        return [f"has not one end: {states}"]
    [end] = ends
    faults = []
    if end == "DELIVERED" and not any(each.succeeded for each in attempts):
        faults.append("is delivered without a success")
    if end != "DELIVERED" and any(each.succeeded and not each.is_excused for each in attempts):
        faults.append(f"succeeded, and ended as {end}")
    if end == "CANCELED" and not known.was_cancelled:
        faults.append("is cancelled though nobody did so")
    timely = [each for each in attempts if not (each.is_of_the_dead or each.was_handed_back)]
    if len(timely) > known.retries + 1:
        faults.append(f"was attempted {len(timely)} times with {known.retries} retries")
    if known.task_id is not None:
        wanted = {"DELIVERED": "SUCCEEDED", "FAILED": "FAILED", "CANCELED": "CANCELLED"}[end]
        result = verbs.result(known.task_id).state
        if result != wanted:
            faults.append(f"ended as {end}, and its result is {result}")
    return faults
