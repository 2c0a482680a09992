"""Asking whether a broker is up, and how it describes itself. These need no token."""

from __future__ import annotations

from collections.abc import Mapping

from qtasks.client.call import Call, read_nothing, read_object


def livez() -> Call[None]:
    """Ask whether the broker answers at all."""
    return Call("GET", "/livez", read_nothing)


def readyz() -> Call[None]:
    """Ask whether messages are accepted and delivered now; `BrokerUnavailable` says why they are not."""
    return Call("GET", "/readyz", read_nothing)


def openapi() -> Call[Mapping[str, object]]:
    """Ask for the description of the API in OpenAPI 3.1."""
    return Call("GET", "/openapi.json", read_object)


def metrics() -> Call[str]:
    """Ask for the metrics, in the text form of Prometheus."""
    return Call("GET", "/metrics", bytes.decode)
