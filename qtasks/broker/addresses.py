"""Reads where a URL leads: the host in its one canonical form, and an address however it is spelled.

Pure, and no judge of what may be called: that is `security.py`. The deliverer calls the canonical
form and not the URL as it was written, so nobody after us gets to read another host out of it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

from qtasks.errors import BadRequest
from qtasks.protocol.text import quoted

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_PORTS = {"http": 80, "https": 443}
USUAL_URL = 512  # bytes of one that is worth remembering
LONGEST_HOST = 253
LONGEST_AUTHORITY = 1000  # as it was written, other alphabets and all

# Kept here and not taken from the interpreter, whose tables differ between versions.
NEVER_PUBLIC: tuple[Network, ...] = tuple(
    ipaddress.ip_network(each)
    for each in (
        "0.0.0.0/8",  # this network: Linux takes 0.0.0.0 for loopback
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared between carriers and customers; a cloud's metadata is here
        "127.0.0.0/8",
        "168.63.129.16/32",  # looks public, but is Azure's own service inside each virtual machine
        "169.254.0.0/16",  # link-local, and the metadata of nearly every cloud
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata is here
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4, given up
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)
# Everything else in IPv6 is local, multicast, or not given to anybody.
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# IPv6 networks whose last four bytes are the IPv4 address that is really reached.
CARRIERS = tuple(ipaddress.IPv6Network(each) for each in ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96"))
NOT_CARRIED = (ipaddress.IPv6Address("::"), ipaddress.IPv6Address("::1"))
THIS_MACHINE: tuple[Address, ...] = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))

_URL = re.compile(r"(https?)://([^/?#]*)", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{0,5}))?")
_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
# A name that ends like this is an address or nothing: no such top-level domain can exist.
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_NUMERAL = re.compile(r"0x[0-9a-f]*|[0-9]+")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a URL leads.

    `host` is in lower-case A-labels without a trailing dot, or the plain text of `address`.
    `authority` is what to call: the same with brackets, a port that is not the usual one, and the
    trailing dot if there was one, by which a resolver knows a complete name.
    """

    scheme: str
    host: str
    port: int
    address: Address | None = None
    authority: str = ""

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The addresses that are known without asking anybody; empty for a name."""
        if self.address is not None:
            return (self.address,)
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return THIS_MACHINE
        return ()

    @property
    def origin(self) -> str:
        """Scheme, host and port, as they would stand on the allow-list."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{_shown_port(self.scheme, self.port)}"


def read_endpoint(url: str) -> Endpoint:
    """Read where a URL leads; raises `BadRequest` if that is not clear beyond doubt."""
    return _usual(url) if len(url) <= USUAL_URL else _split(url)[0]


@lru_cache(256)
def _usual(url: str) -> Endpoint:
    """Most messages go where others went before."""
    return _split(url)[0]


def call_url(url: str) -> tuple[Endpoint, str]:
    """Give where a URL leads, and the URL to call: that endpoint, and the rest to the letter."""
    endpoint, rest = _split(url)
    return endpoint, f"{endpoint.scheme}://{endpoint.authority}{rest}"


def literal_address(host: str) -> Address | None:
    """Read a host that is an address in any spelling that some library takes; None if it is a name.

    >>> literal_address("0x7f.1"), literal_address("2130706433"), literal_address("app.example")
    (IPv4Address('127.0.0.1'), IPv4Address('127.0.0.1'), None)
    """
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return _loose_ipv4(host)


def unmapped(address: Address) -> Address:
    """See through IPv6 forms that carry an IPv4 address: mapped, NAT64, 6to4 and their like."""
    if isinstance(address, ipaddress.IPv4Address) or address in NOT_CARRIED:
        return address
    if any(address in network for network in CARRIERS):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


@lru_cache(1024)
def is_public(address: Address) -> bool:
    """Say whether anybody on the internet can be meant by this address; pass it `unmapped`."""
    if any(address in network for network in NEVER_PUBLIC):
        return False
    if isinstance(address, ipaddress.IPv6Address) and address not in GLOBAL_UNICAST:
        return False
    return address.is_global and not address.is_multicast


def _split(url: str) -> tuple[Endpoint, str]:
    match = _URL.match(url)
    if match is None:
        raise BadRequest("invalid destination url: endpoint has invalid scheme, add http:// or https://")
    authority = match[2]
    if "@" in authority:
        raise BadRequest(
            "invalid destination url: it has credentials before the @, which logs would show; "
            "leave them out and send the header Upstash-Forward-Authorization instead"
        )
    if len(authority) > LONGEST_AUTHORITY:
        raise _no_host(authority)
    return _endpoint(match[1], authority), url[match.end() :]


@lru_cache(1024)
def _endpoint(scheme: str, authority: str) -> Endpoint:
    """Many messages go to few hosts, so the part of a URL that says where is read once."""
    scheme = scheme.lower()
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise _no_host(authority)
    port = int(match[2]) if match[2] else DEFAULT_PORTS[scheme]
    if not 0 < port < 65536:
        raise BadRequest(f"invalid destination url: there is no port {port}; ports are 1 to 65535")
    name, address = _host(match[1])
    if address is None:
        authority = name + _shown_port(scheme, port)
        return Endpoint(scheme, name.removesuffix("."), port, None, authority)
    bracketed = f"[{address}]" if address.version == 6 else str(address)
    return Endpoint(scheme, str(address), port, address, bracketed + _shown_port(scheme, port))


def _shown_port(scheme: str, port: int) -> str:
    return "" if port == DEFAULT_PORTS[scheme] else f":{port}"


def _host(text: str) -> tuple[str, Address | None]:
    """Read a host; a name keeps its trailing dot."""
    if text.startswith("["):
        return text, _ipv6(text)
    name = (text if text.isascii() else _a_labels(text)).lower()
    bare = name.removesuffix(".")
    if (address := literal_address(bare)) is not None:
        return bare, address
    if len(bare) > LONGEST_HOST or not _NAME.fullmatch(bare) or _NUMBER.fullmatch(bare):
        raise _no_host(text)
    return name, None


def _ipv6(bracketed: str) -> Address:
    address, percent, _ = bracketed[1:-1].partition("%")
    if percent:
        raise BadRequest(
            f"invalid destination url: {quoted(bracketed)} has a zone, which has a meaning on one machine "
            f"only; leave out what is from the % on"
        )
    try:
        return ipaddress.IPv6Address(address)
    except ValueError:
        raise _no_host(bracketed) from None


def _a_labels(name: str) -> str:
    # Costs milliseconds to load, and few destinations need it.
    import idna

    try:
        return idna.encode(name, uts46=True).decode()
    except UnicodeError:
        raise _no_host(name) from None


def _no_host(text: str) -> BadRequest:
    return BadRequest(
        f"invalid destination url: {quoted(text)} is no host; write a name such as app.example, "
        "an address such as 93.184.216.34, or one such as [2606:4700::1111]"
    )


def _loose_ipv4(host: str) -> ipaddress.IPv4Address | None:
    """Read what system resolvers take for IPv4 too: `127.1`, `0x7f000001`, `2130706433`, `0177.0.0.1`."""
    numbers = [_numeral(each) for each in host.split(".", 4)]
    if len(numbers) > 4 or None in numbers:
        return None
    *heads, last = [each for each in numbers if each is not None]
    value = last
    for place, head in enumerate(heads):
        if head > 255:
            return None
        value += head << (8 * (3 - place))
    return ipaddress.IPv4Address(value) if last < 1 << (8 * (4 - len(heads))) else None


def _numeral(text: str) -> int | None:
    text = text.lower()
    if not text.isascii() or len(text) > 20 or not _NUMERAL.fullmatch(text):
        return None
    if text.startswith("0x"):
        return int(text[2:] or "0", 16)
    try:
        return int(text, 8 if text.startswith("0") else 10)
    except ValueError:  # 08 and 09 are no octal numbers
        return None
