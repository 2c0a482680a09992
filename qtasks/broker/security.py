"""Which destinations a broker may call: the allow-list first, then scheme and kind of address.

What a URL itself says is judged when a message is accepted, and so is what its host has resolved to
just before. At each delivery the deliverer has the addresses judged that it is about to connect to.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from qtasks.broker.addresses import Address, Endpoint, Network, is_public, read_endpoint, unmapped
from qtasks.clock import Clock, SystemClock
from qtasks.errors import BadRequest, ConfigurationError

# They give a machine's credentials to whoever asks. What they resolve to is refused anyway; their
# names are known so that an allow-list that is a little too wide does not open them.
METADATA_SERVICES = frozenset(
    {
        "instance-data",
        "instance-data.ec2.internal",
        "metadata",
        "metadata.azure.internal",
        "metadata.goog",
        "metadata.google.internal",
        "metadata.packet.net",
        "metadata.platformequinix.com",
        "metadata.tencentyun.com",
        "rancher-metadata",
    }
)
ANSWER_TTL_MS = 10_000
ANSWERS_KEPT = 1024

_WILDCARD = re.compile(r"\*\.(.+)")


@dataclass(frozen=True, slots=True)
class Reach:
    """What calling a host comes to: its first address that is not public, or its first one.

    `is_public`: some address of it is public; `is_listed`: some is in a listed network, or is loopback
    and loopback is admitted.
    """

    first: Address
    is_public: bool
    is_listed: bool


class Answers:
    """Remembers for some seconds what hosts came to when they were resolved.

    The deliverer writes, on one thread; any thread may read.
    """

    def __init__(self, clock: Clock | None = None, *, ttl_ms: int = ANSWER_TTL_MS) -> None:
        self._clock = clock or SystemClock()
        self._ttl_ms = ttl_ms
        self._found: dict[str, tuple[int, Reach]] = {}

    def remember(self, host: str, reach: Reach) -> None:
        """Keep what a host came to; the oldest answer goes when there are too many."""
        self._found.pop(host, None)
        self._found[host] = (self._clock.monotonic() + self._ttl_ms, reach)
        for oldest in list(islice(self._found, max(0, len(self._found) - ANSWERS_KEPT))):
            del self._found[oldest]

    def recall(self, host: str) -> Reach | None:
        """Give what a host came to, unless it is not known or was too long ago."""
        found = self._found.get(host)
        return found[1] if found is not None and self._clock.monotonic() < found[0] else None


@dataclass(frozen=True, slots=True)
class DestinationRules:
    """Says which hosts and addresses may be called. `parse_rules` makes it of the operator's list.

    `domains` are what names must end in, such as `.internal.example`; `origins` are scheme, host and
    port. What has just been resolved is in `answers`, so the broker and its deliverer must share
    one object for the former to know.
    """

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()
    domains: tuple[str, ...] = ()
    origins: frozenset[tuple[str, str, int]] = frozenset()
    loopback: bool = False
    """Admit loopback addresses: the broker itself listens on loopback only."""
    answers: Answers = field(default_factory=Answers, compare=False, repr=False)

    def is_named(self, endpoint: Endpoint) -> bool:
        """Say whether the name itself is on the list, whatever it resolves to."""
        if self._is_named_in_full(endpoint):
            return True
        return endpoint.host.endswith(self.domains) and endpoint.host not in METADATA_SERVICES

    def admits(self, scheme: str, address: Address) -> bool:
        """Say whether an address may be called although the name of its host is not on the list."""
        bare = unmapped(address)
        return self._lists(bare) or (scheme == "https" and is_public(bare))

    def reach(self, addresses: Sequence[Address]) -> Reach | None:
        """Sum up the addresses of a host; None if there are none."""
        if not addresses:
            return None
        bare = [unmapped(each) for each in addresses]
        public = [is_public(each) for each in bare]
        first = addresses[public.index(False)] if False in public else addresses[0]
        return Reach(first, any(public), any(self._lists(each) for each in bare))

    def objection(self, endpoint: Endpoint, reach: Reach | None) -> str | None:
        """Say why an endpoint may not be called and what would allow it; None if it may.

        Without a `reach` its addresses are not known yet: then the answer is only about what no
        address could change.
        """
        if self.is_named(endpoint):
            return None
        if endpoint.host in METADATA_SERVICES:
            return (
                f"invalid destination url: {endpoint.host} is a cloud's metadata service; "
                f"start the broker with --allow-destination {endpoint.host} to allow it"
            )
        if reach is None:
            # Its addresses may turn out to be on the list, if networks are.
            return None if endpoint.scheme == "https" or self.networks else _unencrypted(endpoint)
        if reach.is_listed or (reach.is_public and endpoint.scheme == "https"):
            return None
        bare = unmapped(reach.first)
        if is_public(bare):
            return _unencrypted(endpoint)
        kind = "loopback" if bare.is_loopback else "private"
        entry = endpoint.host if endpoint.address is None else str(bare)
        return (
            f"invalid destination url: endpoint resolves to a {kind} address: {reach.first}; "
            f"start the broker with --allow-destination {entry} to allow it"
        )

    def _is_named_in_full(self, endpoint: Endpoint) -> bool:
        origin = (endpoint.scheme, endpoint.host, endpoint.port)
        return endpoint.host in self.hosts or origin in self.origins

    def _lists(self, bare: Address) -> bool:
        return (self.loopback and bare.is_loopback) or any(bare in network for network in self.networks)


def check_destination(url: str, rules: DestinationRules) -> bool:
    """Refuse a URL that may not be called, as far as can be said without asking anybody.

    Raises `BadRequest`, which says what would allow it. A name that has not been resolved in the last
    seconds is judged at delivery. Says whether a URL may be called whatever names are resolved to.
    """
    endpoint = read_endpoint(url)
    known = endpoint.addresses
    reach = rules.reach(known) if known else rules.answers.recall(endpoint.host)
    if (objection := rules.objection(endpoint, reach)) is not None:
        raise BadRequest(objection)
    return bool(known) or rules.is_named(endpoint)


def parse_rules(entries: Sequence[str], *, loopback: bool) -> DestinationRules:
    """Read `--allow-destination` entries; raises `ConfigurationError` for what is none.

    An entry is a network, an address, a host name, a wildcard for the names below one, or an origin.
    Hosts compare in lower-case A-labels, without a trailing dot.
    """
    networks: list[Network] = []
    hosts: set[str] = set()
    domains: list[str] = []
    origins: set[tuple[str, str, int]] = set()
    for entry in (each.strip() for each in entries):
        if (network := _network(entry)) is not None:
            networks.append(network)
        elif wildcard := _WILDCARD.fullmatch(entry):
            domains.append(f".{_name(wildcard[1], entry)}")
        elif "://" in entry:
            origins.add(_origin(entry))
        else:
            hosts.add(_name(entry, entry))
    return DestinationRules(tuple(networks), frozenset(hosts), tuple(domains), frozenset(origins), loopback)


def _network(entry: str) -> Network | None:
    if "%" in entry:  # a zone, which a destination cannot have
        return None
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None
    # An address is judged by the IPv4 address in it, so that is what to list.
    is_single = network.prefixlen == network.max_prefixlen
    return ipaddress.ip_network(unmapped(network.network_address)) if is_single else network


def _name(text: str, entry: str) -> str:
    """Read a host name: nothing around it, and no other spelling of an address."""
    endpoint = _endpoint(f"https://{text}", entry)
    if endpoint.address is not None or any(each in text for each in ":/?#"):
        raise _no_entry(entry)
    return endpoint.host


def _origin(entry: str) -> tuple[str, str, int]:
    endpoint = _endpoint(entry, entry)
    if any(each in entry.partition("://")[2] for each in "/?#"):
        raise _no_entry(entry)
    return (endpoint.scheme, endpoint.host, endpoint.port)


def _endpoint(url: str, entry: str) -> Endpoint:
    try:
        return read_endpoint(url)
    except BadRequest:
        raise _no_entry(entry) from None


def _no_entry(entry: str) -> ConfigurationError:
    return ConfigurationError(
        f"--allow-destination {entry!r} is neither a network such as 10.0.0.0/8, an address such as "
        "10.0.0.5, a host such as app.internal, a wildcard such as *.internal.example for all names "
        "below it, nor an origin such as http://app.internal:9000"
    )


def _unencrypted(endpoint: Endpoint) -> str:
    return (
        f"invalid destination url: http:// is not encrypted, and {endpoint.host} is not on the list; "
        f"use https://, or start the broker with --allow-destination {endpoint.origin} to allow it"
    )
