"""Which destinations a broker may call: the allow-list first, then the kind of address.

Literal addresses and names are judged when a message is accepted; what a name resolves to is judged
again at each delivery, and the address that was judged is the one connected to.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from qtasks.errors import BadRequest, ConfigurationError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


# What older tables of the interpreter take for public: shared carrier space, protocol assignments (a
# metadata service among them), local NAT64, and site-local addresses.
NEVER_PUBLIC: tuple[Network, ...] = tuple(
    ipaddress.ip_network(each) for each in ("100.64.0.0/10", "192.0.0.0/24", "64:ff9b:1::/48", "fec0::/10")
)
# IPv6 networks whose last four bytes are the IPv4 address that is really reached.
CARRIERS = tuple(ipaddress.IPv6Network(each) for each in ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96"))


@dataclass(frozen=True, slots=True)
class DestinationRules:
    """Says which hosts and addresses may be called."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = field(default_factory=frozenset)
    loopback: bool = False
    """Admit loopback addresses: the broker itself listens on loopback only."""

    def allows_host(self, host: str) -> bool:
        """Say whether the name itself is on the list, whatever it resolves to."""
        return host.lower() in self.hosts

    def allows_address(self, address: Address) -> bool:
        """Say whether the address is public, or on the list."""
        address = _unmapped(address)
        if any(address in network for network in self.networks if network.version == address.version):
            return True
        if address.is_loopback:
            return self.loopback
        if any(address in network for network in NEVER_PUBLIC if network.version == address.version):
            return False
        return address.is_global and not address.is_multicast

    def refusal(self, host: str, address: Address) -> str:
        """Say why an address may not be called, and what would allow it."""
        kind = "loopback" if _unmapped(address).is_loopback else "private"
        return (
            f"invalid destination url: endpoint resolves to a {kind} address: {address}; "
            f"start the broker with --allow-destination {host} to allow it"
        )


def parse_rules(entries: Sequence[str], *, loopback: bool) -> DestinationRules:
    """Read `--allow-destination` entries: a CIDR network, an address or a host name each."""
    networks: list[Network] = []
    hosts: set[str] = set()
    for entry in (each.strip() for each in entries):
        try:
            networks.append(ipaddress.ip_network(entry, strict=False))
        except ValueError:
            if not entry or "/" in entry or ":" in entry:
                raise ConfigurationError(
                    f"--allow-destination {entry!r} is neither a network such as 10.0.0.0/8 "
                    "nor a host name such as app.internal"
                ) from None
            hosts.add(entry.lower())
    return DestinationRules(tuple(networks), frozenset(hosts), loopback)


def check_destination(url: str, rules: DestinationRules) -> None:
    """Refuse a URL whose host is an address that may not be called; names are judged at delivery."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if rules.allows_host(host):
        return
    address = literal_address(host)
    if address is None and (host == "localhost" or host.endswith(".localhost")):
        address = ipaddress.IPv4Address("127.0.0.1")
    if address is not None and not rules.allows_address(address):
        raise BadRequest(rules.refusal(host, address))


def literal_address(host: str) -> Address | None:
    """Read a host that is an address; None if it is a name."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return _loose_ipv4(host)


def _loose_ipv4(host: str) -> Address | None:
    """Read what system resolvers take for IPv4 too: `127.1`, `0x7f000001`, `2130706433`, `0177.0.0.1`."""
    parts = host.rstrip(".").split(".")
    if len(parts) > 4:
        return None
    numbers = []
    for part in parts:
        try:
            octal = len(part) > 1 and part.startswith("0") and part.isdigit()
            numbers.append(int(part, 8) if octal else int(part, 0))
        except ValueError:
            return None
    *heads, last = numbers
    value = last
    for place, head in enumerate(heads):
        value += head << (8 * (3 - place))
    return ipaddress.IPv4Address(value) if 0 <= value < 1 << 32 else None


def _unmapped(address: Address) -> Address:
    """See through IPv6 forms that carry an IPv4 address."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in (ipaddress.IPv6Address("::1"), ipaddress.IPv6Address("::")):
        return address
    if any(address in network for network in CARRIERS):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
