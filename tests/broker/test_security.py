"""Which destinations a broker may call: the table of hosts and addresses that it must not."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from qtasks.broker.http_delivery import GuardedResolver
from qtasks.broker.security import DestinationRules, check_destination, literal_address, parse_rules
from qtasks.errors import BadRequest, ConfigurationError

PUBLIC = parse_rules((), loopback=False)
ON_LOOPBACK = parse_rules((), loopback=True)

LOOPBACK = [
    "127.0.0.1",
    "127.0.0.2",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "127.0.0.1.",
    "2130706433",  # decimal
    "0x7f000001",  # hexadecimal
    "0X7F000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0177.0.0.1",  # octal
    "0177.1",
    "017700000001",
    "0177.0.0.01",
    "127.0x1",
    "127.0.0.0x1",
    "\uff11\uff12\uff17.0.0.1",  # full-width digits
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",  # IPv4-mapped
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:1]",
    "[::1%25lo]",
    "localhost",
    "LOCALHOST",
    "LocalHost",
    "localhost.",
    "app.localhost",
    "app.localhost.",
]

PRIVATE = [
    "0.0.0.0",
    "0",
    "0x0",
    "00.0.0.0",
    "10.0.0.1",
    "10.255.255.255",
    "10.1",
    "167772161",  # 10.0.0.1
    "0x0a000001",
    "012.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.257",
    "0xc0a80001",
    "100.64.0.1",  # carrier-grade NAT
    "100.127.255.255",
    "169.254.0.1",  # link-local
    "169.254.169.254",  # metadata of clouds
    "169.254.43518",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "100.100.100.200",  # metadata of Alibaba
    "192.0.0.192",  # metadata of Oracle
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "[::]",
    "[::ffff:0.0.0.0]",
    "[::ffff:10.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[2001:db8::1]",
    "[100::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",  # metadata of Amazon
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fec0::1]",  # site-local
    "[ff02::1]",
    "[ff05::2]",
]

IN_DISGUISE = [
    "[::127.0.0.1]",  # IPv4-compatible
    "[::10.0.0.1]",
    "[::a9fe:a9fe]",
    "[::ffff:0:127.0.0.1]",  # IPv4-translated
    "[::ffff:0:a9fe:a9fe]",
    "[2002:7f00:1::]",  # 6to4
    "[2002:7f00:1::1]",
    "[2002:a00:1::]",
    "[2002:a9fe:a9fe::]",
    "[2002:c0a8:1::1]",
    "[64:ff9b::7f00:1]",  # NAT64
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a00:1]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::a00:1]",  # NAT64 of a local network
    "[2001:0:7f00:1::]",  # Teredo
]
"""IPv6 addresses that a gateway or the system turns into an IPv4 address."""

PUBLIC_HOSTS = [
    "93.184.216.34",
    "1.1.1.1",
    "8.8.8.8",
    "172.15.0.1",
    "172.32.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "[2606:4700::1111]",
    "[2a00:1450:4001:830::200e]",
    "[::ffff:1.1.1.1]",
    "[64:ff9b::101:101]",
    "example.com",
    "app.example.com.",
    "localhost.example.com",
    "mylocalhost",
    "127.0.0.1.example.com",
    "1e100.net",
    "0x7f.example",
    "dead.beef",
]


def refusal(url: str, rules: DestinationRules = PUBLIC) -> str:
    with pytest.raises(BadRequest) as raised:
        check_destination(url, rules)
    return str(raised.value)


@pytest.mark.parametrize("host", LOOPBACK)
def test_a_loopback_destination_is_refused(host: str) -> None:
    assert "endpoint resolves to a loopback address" in refusal(f"http://{host}/hook")


@pytest.mark.parametrize("host", PRIVATE)
def test_a_private_destination_is_refused(host: str) -> None:
    assert "endpoint resolves to a private address" in refusal(f"https://{host}/hook")


@pytest.mark.parametrize("host", IN_DISGUISE)
def test_an_ipv4_address_in_disguise_is_refused(host: str) -> None:
    assert "invalid destination url: endpoint resolves to a" in refusal(f"https://{host}/hook")


@pytest.mark.parametrize("host", PRIVATE)
def test_a_broker_on_loopback_admits_no_private_destination_for_that(host: str) -> None:
    assert "endpoint resolves to a private address" in refusal(f"https://{host}/hook", ON_LOOPBACK)


@pytest.mark.parametrize("host", LOOPBACK)
def test_a_broker_on_loopback_admits_loopback(host: str) -> None:
    check_destination(f"http://{host}:8000/hook", ON_LOOPBACK)


@pytest.mark.parametrize("host", PUBLIC_HOSTS)
def test_a_public_destination_is_admitted(host: str) -> None:
    check_destination(f"https://{host}/hook", PUBLIC)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:80/",
        "http://user@127.0.0.1/",
        "http://user:password@127.0.0.1:8080/",
        "http://example.com@127.0.0.1/",
        "http://example.com:80@127.0.0.1:80/",
        "http://127.0.0.1?.example.com",
        "http://127.0.0.1#.example.com",
        "http://127.0.0.1:80#@example.com/",
        "http://a@b@127.0.0.1/",
        "HTTP://127.0.0.1/",
        "https://[::1]:443/?x=https://example.com",
    ],
)
def test_nothing_around_the_host_hides_it(url: str) -> None:
    assert "loopback" in refusal(url)


def test_the_refusal_names_the_address_and_what_would_allow_it() -> None:
    assert refusal("http://[::1]:8000/hook") == (
        "invalid destination url: endpoint resolves to a loopback address: ::1; "
        "start the broker with --allow-destination ::1 to allow it"
    )


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://[::1]/", "http://localhost/", "http://127.1/"])
def test_what_the_refusal_advises_does_allow_it(url: str) -> None:
    advice = refusal(url).partition("--allow-destination ")[2].partition(" ")[0]

    check_destination(url, parse_rules([advice], loopback=False))


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.0.0.0/8", "10.1"),
        ("10.0.0.0/8", "[::ffff:10.1.2.3]"),
        ("10.1.2.3/8", "10.200.0.1"),  # a network with host bits is meant as the network
        ("10.1.2.3", "10.1.2.3"),
        ("fd00::/8", "[fd12::1]"),
        ("::1", "[::1]"),
        ("127.0.0.0/8", "localhost"),
        ("app.internal", "app.internal"),
        ("App.Internal", "app.internal"),
        ("app.internal", "APP.internal"),
        ("localhost", "localhost"),
        (" 10.0.0.0/8 ", "10.0.0.1"),
        ("169.254.169.254", "169.254.169.254"),
    ],
)
def test_the_allow_list_admits_what_it_names(entry: str, host: str) -> None:
    check_destination(f"http://{host}/", parse_rules([entry], loopback=False))


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("10.0.0.0/24", "10.0.1.1"),
        ("10.1.2.3", "10.1.2.4"),
        ("app.internal", "127.0.0.1"),
        ("10.0.0.0/8", "127.0.0.1"),
        ("fd00::/8", "[::1]"),
        ("0.0.0.0/32", "127.0.0.1"),
    ],
)
def test_the_allow_list_admits_no_more_than_it_names(entry: str, host: str) -> None:
    refusal(f"http://{host}/", parse_rules([entry], loopback=False))


def test_a_host_on_the_list_is_that_name_and_none_below_it() -> None:
    rules = parse_rules(["app.internal"], loopback=False)

    assert rules.allows_host("app.internal")
    assert not rules.allows_host("evil.app.internal")
    assert not rules.allows_host("app.internal.evil.com")


@pytest.mark.parametrize("entry", ["", "10.0.0.0/33", "10.0.0/8", "http://app.internal", "app:80", "a/b"])
def test_an_entry_that_is_neither_network_nor_host_is_refused(entry: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_rules([entry], loopback=False)

    assert str(raised.value) == (
        f"--allow-destination {entry!r} is neither a network such as 10.0.0.0/8 "
        "nor a host name such as app.internal"
    )


@pytest.mark.parametrize("host", [*LOOPBACK, *PRIVATE, *IN_DISGUISE])
def test_a_refused_host_is_read_as_an_address_or_is_a_name_of_this_machine(host: str) -> None:
    """What a broker connects to without a resolver must have been judged as an address."""
    bare = host.strip("[]")

    assert literal_address(bare) is not None or "localhost" in bare.lower()


@given(address=st.ip_addresses(v=4))
def test_no_spelling_of_an_ipv4_address_is_judged_unlike_it(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    spellings = [
        str(address),
        str(number),
        hex(number),
        f"0{number:o}",
        ".".join(f"0{each:o}" for each in address.packed),
        ".".join(hex(each) for each in address.packed),
        f"{address.packed[0]}.{number & 0xFFFFFF}",
    ]

    verdicts = {PUBLIC.allows_address(found) for each in spellings if (found := literal_address(each))}

    assert verdicts == {PUBLIC.allows_address(address)}
    assert all(literal_address(each) == address for each in spellings)


@given(address=st.ip_addresses(v=4))
def test_no_address_is_admitted_in_ipv6_clothes_that_is_refused_without(
    address: ipaddress.IPv4Address,
) -> None:
    number = int(address)
    clothed = [
        number | 0xFFFF << 32,  # mapped
        number,  # compatible
        0x2002 << 112 | number << 80,  # 6to4
        0x0064FF9B << 96 | number,  # NAT64
    ]

    if not PUBLIC.allows_address(address):
        for each in clothed:
            assert not PUBLIC.allows_address(ipaddress.IPv6Address(each)), ipaddress.IPv6Address(each)


class FakeResolver(AbstractResolver):
    """Resolves every name to the same addresses."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses
        self.is_closed = False

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=each, port=port, family=family, proto=0, flags=0)
            for each in self._addresses
        ]

    async def close(self) -> None:
        self.is_closed = True


async def resolved(rules: DestinationRules, *addresses: str, host: str = "app.example") -> list[str]:
    resolver = GuardedResolver(rules, FakeResolver(*addresses))
    return [each["host"] for each in await resolver.resolve(host, 80)]


async def test_a_name_that_resolves_to_public_addresses_gives_them() -> None:
    assert await resolved(PUBLIC, "1.1.1.1", "2606:4700::1111") == ["1.1.1.1", "2606:4700::1111"]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "10.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "fe80::1%eth0", "0.0.0.0"],
)
async def test_a_name_that_resolves_to_a_refused_address_is_refused(address: str) -> None:
    with pytest.raises(OSError, match=r"endpoint resolves to a (loopback|private) address"):
        await resolved(PUBLIC, address)


async def test_of_mixed_addresses_only_the_admitted_are_connected_to() -> None:
    assert await resolved(PUBLIC, "10.0.0.1", "1.1.1.1", "::1") == ["1.1.1.1"]


async def test_a_name_on_the_list_may_resolve_to_anything() -> None:
    rules = parse_rules(["app.internal"], loopback=False)

    assert await resolved(rules, "10.0.0.1", host="app.internal") == ["10.0.0.1"]


async def test_a_network_on_the_list_admits_names_that_resolve_into_it() -> None:
    rules = parse_rules(["10.0.0.0/8"], loopback=False)

    assert await resolved(rules, "10.0.0.1", "192.168.0.1") == ["10.0.0.1"]


async def test_a_name_without_an_address_is_an_error_of_the_network() -> None:
    with pytest.raises(OSError, match=r"app\.example"):
        await resolved(PUBLIC)


async def test_closing_closes_the_resolver_beneath() -> None:
    beneath = FakeResolver()

    await GuardedResolver(PUBLIC, beneath).close()

    assert beneath.is_closed
