"""Which destinations a broker may call: what a URL says, what is on the list, what was just resolved."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from qtasks.broker.addresses import Address, call_url, literal_address, read_endpoint, unmapped
from qtasks.broker.http_delivery import GuardedResolver
from qtasks.broker.security import (
    ANSWERS_KEPT,
    Answers,
    DestinationRules,
    Reach,
    check_destination,
    parse_rules,
)
from qtasks.clock import ManualClock
from qtasks.errors import BadRequest, ConfigurationError
from tests.support.deliveries import FakeResolver

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
    "168.63.129.16",  # Azure, inside each virtual machine
    "192.88.99.1",  # relays of 6to4
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
    "[3fff::1]",
    "[4000::1]",  # given to nobody
    "[5f00::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",  # metadata of Amazon
    "[fe80::1]",
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
    "[2002:101:101::1]",
    "app\u00ad.example",
    "example.com",
    "app.example.com.",
    "localhost.example.com",
    "mylocalhost",
    "127.0.0.1.example.com",
    "1e100.net",
    "0x7f.example",
    "dead.beef",
]


NO_HOSTS = [
    "",
    ".",
    ":8000",
    "a..b",
    "app.example..",
    "127.0.0.1..",
    "a b",
    "a_b!c",
    "a\\b",
    "%31%32%37.0.0.1",
    "example.com%2f@",
    "*.example",
    "256.0.0.1",
    "1.2.3.256",
    "1.2.3.4.5",
    "127.0.0.08",
    "4294967296",
    "0x100000000",
    "app.0x7f",
    "x" * 64 + ".example",
    "x." * 130 + "example",
    "\u00ad" * 1000 + "app.example",  # soft hyphens, which are nothing in a host
    "[",
    "[]",
    "[::1",
    "::1",
    "[::1]]",
    "[::1]x",
    "[127.0.0.1]",
    "[v1.fe80::1]",
    "[::g]",
    "app.example:80:90",
    "app.example:+80",
    "app.example:\uff18\uff10",
    "\u2024",
    "xn--\u00e4.example",
]


def refusal(url: str, rules: DestinationRules = PUBLIC) -> str:
    with pytest.raises(BadRequest) as raised:
        check_destination(url, rules)
    return str(raised.value)


# --- addresses ------------------------------------------------------------------------------------


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
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_broker_on_loopback_admits_loopback(scheme: str, host: str) -> None:
    check_destination(f"{scheme}://{host}:8000/hook", ON_LOOPBACK)


@pytest.mark.parametrize("host", PUBLIC_HOSTS)
def test_a_public_destination_is_admitted_over_https(host: str) -> None:
    check_destination(f"https://{host}/hook", PUBLIC)


def test_the_refusal_names_the_address_and_what_would_allow_it() -> None:
    assert refusal("http://[::1]:8000/hook") == (
        "invalid destination url: endpoint resolves to a loopback address: ::1; "
        "start the broker with --allow-destination ::1 to allow it"
    )


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

    assert [literal_address(each) for each in spellings] == [address] * len(spellings)
    assert {read_endpoint(f"https://{each}/").host for each in spellings} == {str(address)}


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

    if not PUBLIC.admits("https", address):
        for each in clothed:
            assert not PUBLIC.admits("https", ipaddress.IPv6Address(each)), ipaddress.IPv6Address(each)


@given(address=st.ip_addresses())
def test_what_is_admitted_is_global_by_the_interpreter_s_own_table(address: Address) -> None:
    if PUBLIC.admits("https", address):
        assert unmapped(address).is_global


# --- where a URL leads ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:80/",
        "http://127.0.0.1:/",
        "http://127.0.0.1?.example.com",
        "http://127.0.0.1#.example.com",
        "http://127.0.0.1:80#@example.com/",
        "http://127.0.0.1/@example.com/",
        "HTTP://127.0.0.1/",
        "https://[::1]:443/?x=https://example.com",
    ],
)
def test_nothing_around_the_host_hides_it(url: str) -> None:
    assert "loopback" in refusal(url)


@pytest.mark.parametrize("host", NO_HOSTS)
def test_what_is_no_host_beyond_doubt_is_refused(host: str) -> None:
    assert refusal(f"https://{host}/").startswith("invalid destination url: ")


@pytest.mark.parametrize(
    "url",
    [
        "https://user@app.example/",
        "https://user:password@app.example/",
        "https://@app.example/",
        "https://:@app.example/",
        "https://app.example@127.0.0.1/",
        "https://app.example:80@127.0.0.1:80/",
        "https://a@b@127.0.0.1/",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    assert refusal(url) == (
        "invalid destination url: it has credentials before the @, which logs would show; "
        "leave them out and send the header Upstash-Forward-Authorization instead"
    )


def test_credentials_are_refused_for_a_host_on_the_list_too() -> None:
    assert "credentials" in refusal(
        "https://user:pw@app.example/", parse_rules(["app.example"], loopback=True)
    )


@pytest.mark.parametrize("port", ["0", "00", "65536", "99999"])
def test_a_port_that_cannot_be_is_refused(port: str) -> None:
    assert refusal(f"https://app.example:{port}/") == (
        f"invalid destination url: there is no port {int(port)}; ports are 1 to 65535"
    )


@pytest.mark.parametrize("host", ["[fe80::1%25eth0]", "[fe80::1%eth0]", "[::1%25lo]", "[fe80::1%25]"])
def test_a_zone_is_refused_even_on_loopback(host: str) -> None:
    assert "has a zone" in refusal(f"https://{host}/", ON_LOOPBACK)


@pytest.mark.parametrize(
    ("url", "called"),
    [
        ("https://App.Example/A?B=c#d", "https://app.example/A?B=c#d"),
        ("HTTPS://app.example:443", "https://app.example"),
        ("https://app.example:/", "https://app.example/"),
        ("https://app.example.:8443/", "https://app.example.:8443/"),
        ("http://app.example:0080/", "http://app.example/"),
        ("http://app.example:443/", "http://app.example:443/"),
        ("https://2130706433/x", "https://127.0.0.1/x"),
        ("https://0177.1:8443/x", "https://127.0.0.1:8443/x"),
        ("https://127.0.0.1./x", "https://127.0.0.1/x"),
        ("https://[0:0:0:0:0:0:0:1]:8443/x", "https://[::1]:8443/x"),
        ("https://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/", "https://127.0.0.1/"),
        ("https://127\u30020\u30020\u30021/", "https://127.0.0.1/"),
        ("https://b\u00fccher.example/\u00fc", "https://xn--bcher-kva.example/\u00fc"),
        ("https://B\u00dcCHER.example/", "https://xn--bcher-kva.example/"),
        ("https://app.example/a//b/../c?x=%2F@", "https://app.example/a//b/../c?x=%2F@"),
        ("https://app.example?a=b", "https://app.example?a=b"),
        ("https://a_b-.example/", "https://a_b-.example/"),
    ],
)
def test_the_canonical_host_is_called_and_the_rest_to_the_letter(url: str, called: str) -> None:
    assert call_url(url)[1] == called
    assert call_url(called) == (read_endpoint(url), called)


@given(text=st.text(st.sampled_from("[]:@.%/\\?#xX0179afF\u3002\uff11\u00adml-"), max_size=25))
def test_what_is_called_is_read_the_same_by_a_second_parser(text: str) -> None:
    """The host that was judged is the one that aiohttp's own reader of URLs finds."""
    try:
        endpoint, called = call_url(f"https://{text}")
    except BadRequest:
        return

    again = URL(called, encoded=True)
    assert (again.raw_host or "").removesuffix(".") == endpoint.host
    assert (again.port, again.user, again.password) == (endpoint.port, None, None)


# --- http:// --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [PUBLIC, ON_LOOPBACK])
@pytest.mark.parametrize(
    ("url", "host", "origin"),
    [
        ("http://app.example/hook", "app.example", "http://app.example"),
        ("http://App.Example.:80/hook", "app.example", "http://app.example"),
        ("http://app.example.:8080/hook", "app.example", "http://app.example:8080"),
        ("http://93.184.216.34/", "93.184.216.34", "http://93.184.216.34"),
        ("http://[2606:4700::1111]:81/", "2606:4700::1111", "http://[2606:4700::1111]:81"),
        ("http://[::ffff:1.1.1.1]/", str(ipaddress.ip_address("::ffff:1.1.1.1")), None),
    ],
)
def test_http_off_loopback_is_refused_with_what_would_allow_it(
    url: str, host: str, origin: str | None, rules: DestinationRules
) -> None:
    assert refusal(url, rules) == (
        f"invalid destination url: http:// is not encrypted, and {host} is not on the list; "
        f"use https://, or start the broker with --allow-destination {origin or f'http://[{host}]'} "
        "to allow it"
    )


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("app.example", "http://app.example:8080/"),
        ("*.example", "http://app.example:8080/"),
        ("http://app.example:8080", "http://app.example:8080/"),
        ("93.184.216.34", "http://93.184.216.34/"),
        ("93.184.216.0/24", "http://93.184.216.34/"),
        ("10.0.0.0/8", "http://10.0.0.1/"),
        ("127.0.0.0/8", "http://localhost/"),
        ("::1", "http://localhost/"),
        ("2606:4700::/32", "http://[2606:4700::1111]/"),
    ],
)
def test_http_is_admitted_to_what_is_on_the_list(entry: str, url: str) -> None:
    check_destination(url, parse_rules([entry], loopback=False))


def test_http_to_a_name_waits_for_its_addresses_where_networks_are_listed() -> None:
    """They may turn out to be in one of them; nothing is resolved when a message is accepted."""
    check_destination("http://app.example/", parse_rules(["10.0.0.0/8"], loopback=False))


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://[::1]/",
        "http://localhost/",
        "http://app.localhost:81/",
        "http://127.1/",
        "http://app.example:8080/x",
        "http://app.example./",
        "http://1.1.1.1/",
        "http://[2606:4700::1111]:81/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::10.0.0.1]/",
        "https://[2002:a00:1::]/",
        "http://metadata.google.internal/",
    ],
)
def test_what_the_refusal_advises_does_allow_it(url: str) -> None:
    advice = refusal(url).partition("--allow-destination ")[2].partition(" ")[0]

    check_destination(url, parse_rules([advice], loopback=False))


# --- the list -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.0.0.0/8", "10.1"),
        ("10.0.0.0/8", "[::ffff:10.1.2.3]"),
        ("10.1.2.3/8", "10.200.0.1"),  # a network with host bits is meant as the network
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("fd00::/8", "[fd12::1]"),
        ("::1", "[::1]"),
        ("127.0.0.0/8", "localhost"),
        ("app.internal", "app.internal"),
        ("app.internal", "app.internal."),
        ("app.internal.", "app.internal"),
        ("App.Internal", "app.internal"),
        ("app.internal", "APP.internal"),
        ("b\u00fccher.internal", "xn--bcher-kva.internal"),
        ("xn--bcher-kva.internal", "B\u00fccher.internal"),
        ("app.internal", "\uff41pp\u3002internal"),
        ("localhost", "localhost"),
        (" 10.0.0.0/8 ", "10.0.0.1"),
        ("169.254.169.254", "169.254.169.254"),
        ("*.internal", "app.internal"),
        ("*.internal", "a.b.c.internal."),
        ("*.Internal.Example.", "app.internal.example"),
        ("*.b\u00fccher.example", "app.xn--bcher-kva.example"),
        ("http://app.internal", "app.internal"),
        ("HTTP://APP.internal.:80", "app.internal"),
        ("http://10.0.0.1", "10.0.0.1"),
        ("http://[fd00::1]", "[fd00::1]"),
        ("metadata.google.internal", "metadata.google.internal"),
        ("http://metadata.google.internal", "metadata.google.internal"),
    ],
)
def test_the_allow_list_admits_what_it_names(entry: str, host: str) -> None:
    check_destination(f"http://{host}/", parse_rules([entry], loopback=False))


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("10.0.0.0/24", "http://10.0.1.1/"),
        ("10.1.2.3", "http://10.1.2.4/"),
        ("app.internal", "http://127.0.0.1/"),
        ("app.internal", "http://evil.app.internal/"),
        ("app.internal", "http://app.internal.evil.com/"),
        ("app.internal", "http://evilapp.internal/"),
        ("10.0.0.0/8", "http://127.0.0.1/"),
        ("fd00::/8", "http://[::1]/"),
        ("::/0", "http://[::ffff:127.0.0.1]/"),
        ("0.0.0.0/32", "http://127.0.0.1/"),
        ("*.internal.example", "http://internal.example/"),
        ("*.internal.example", "http://evilinternal.example/"),
        ("*.internal.example", "http://app.internal.example.evil.com/"),
        ("*.internal", "http://metadata.google.internal/"),
        ("169.254.0.0/16", "http://metadata.google.internal/"),
        ("http://app.internal:9000", "http://app.internal/"),
        ("http://app.internal:9000", "http://app.internal:9001/"),
        ("http://app.internal", "http://app.internal:8080/"),
        ("https://app.internal", "http://app.internal/"),
        ("https://app.internal", "http://app.internal:443/"),
        ("http://10.0.0.1:9000", "https://10.0.0.1:9000/"),
        ("http://10.0.0.1:9000", "http://10.0.0.1:9001/"),
        ("http://10.0.0.1:9000", "http://10.0.0.2:9000/"),
    ],
)
def test_the_allow_list_admits_no_more_than_it_names(entry: str, url: str) -> None:
    refusal(url, parse_rules([entry], loopback=False))


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "10.0.0.0/33",
        "10.0.0/8",
        "127.1",
        "0x7f000001",
        "2130706433",
        "app:80",
        "a/b",
        "app.internal?",
        "app..internal",
        "app internal",
        "user@app.internal",
        "[::1]",
        "fe80::1%eth0",
        "*",
        "*.",
        "*app.internal",
        "*.*.internal",
        "a.*.internal",
        "*.10.0.0.1",
        "*.app:80",
        "*.http://app",
        "ftp://app.internal",
        "http://",
        "http://app.internal/",
        "http://app.internal/x",
        "http://app.internal?x",
        "http://app.internal#x",
        "http://*.internal",
        "http://user:pw@app.internal",
        "http://app.internal:0",
        "http://app.internal:70000",
        "//app.internal",
    ],
)
def test_an_entry_of_another_form_is_refused_with_the_forms_there_are(entry: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_rules(["10.0.0.0/8", entry], loopback=False)

    assert str(raised.value) == (
        f"--allow-destination {entry!r} is neither a network such as 10.0.0.0/8, an address such as "
        "10.0.0.5, a host such as app.internal, a wildcard such as *.internal.example for all names "
        "below it, nor an origin such as http://app.internal:9000"
    )


@pytest.mark.parametrize(
    "host",
    [
        "metadata.google.internal",
        "METADATA.Google.Internal.",
        "metadata.goog",
        "metadata",
        "instance-data",
        "instance-data.ec2.internal",
        "metadata.tencentyun.com",
        "metadata.packet.net",
        "metadata.azure.internal",
    ],
)
def test_a_metadata_service_is_refused_by_its_name(host: str) -> None:
    name = host.lower().removesuffix(".")
    assert refusal(f"https://{host}/", ON_LOOPBACK) == (
        f"invalid destination url: {name} is a cloud's metadata service; "
        f"start the broker with --allow-destination {name} to allow it"
    )


def test_equal_lists_are_equal_rules_whatever_was_resolved() -> None:
    one, other = (parse_rules(["10.0.0.0/8", "*.a", "http://b"], loopback=True) for _ in range(2))
    one.answers.remember("app.example", require_reach(one, "10.0.0.1"))

    assert one == other
    assert hash(one) == hash(other)


# --- what a name has resolved to ------------------------------------------------------------------


def require_reach(rules: DestinationRules, *addresses: str) -> Reach:
    reach = rules.reach([ipaddress.ip_address(each) for each in addresses])
    assert reach is not None
    return reach


async def resolved(
    rules: DestinationRules, *addresses: str, host: str = "app.example", scheme: str = "https"
) -> list[str]:
    resolver = GuardedResolver(rules, scheme, FakeResolver(*addresses))
    return [each["host"] for each in await resolver.resolve(host, 80)]


async def test_a_name_that_resolves_to_public_addresses_gives_them() -> None:
    assert await resolved(PUBLIC, "1.1.1.1", "2606:4700::1111") == ["1.1.1.1", "2606:4700::1111"]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "10.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "fe80::1%eth0", "0.0.0.0"],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_name_that_resolves_to_a_refused_address_is_refused(scheme: str, address: str) -> None:
    with pytest.raises(OSError, match=r"endpoint resolves to a (loopback|private) address"):
        await resolved(PUBLIC, address, scheme=scheme)


async def test_of_mixed_addresses_only_the_admitted_are_connected_to() -> None:
    assert await resolved(PUBLIC, "10.0.0.1", "1.1.1.1", "::1") == ["1.1.1.1"]


async def test_http_is_not_sent_to_a_public_address_beside_a_listed_one() -> None:
    rules = parse_rules(["10.0.0.0/8"], loopback=False)

    assert await resolved(rules, "10.0.0.1", "1.1.1.1", scheme="http") == ["10.0.0.1"]
    with pytest.raises(OSError, match="http:// is not encrypted"):
        await resolved(rules, "1.1.1.1", scheme="http")


@pytest.mark.parametrize(
    ("entry", "scheme", "host"),
    [
        ("app.internal", "https", "app.internal"),
        ("app.internal", "http", "app.internal."),
        ("*.internal", "http", "app.internal"),
        ("http://app.internal", "http", "app.internal"),
    ],
)
async def test_a_name_on_the_list_may_resolve_to_anything(entry: str, scheme: str, host: str) -> None:
    rules = parse_rules([entry], loopback=False)

    assert await resolved(rules, "10.0.0.1", "1.1.1.1", host=host, scheme=scheme) == ["10.0.0.1", "1.1.1.1"]


async def test_an_origin_on_the_list_admits_its_name_for_its_scheme_only() -> None:
    rules = parse_rules(["http://app.internal"], loopback=False)

    with pytest.raises(OSError, match="endpoint resolves to a private address"):
        await resolved(rules, "10.0.0.1", host="app.internal", scheme="https")


async def test_a_network_on_the_list_admits_names_that_resolve_into_it() -> None:
    rules = parse_rules(["10.0.0.0/8"], loopback=False)

    assert await resolved(rules, "10.0.0.1", "192.168.0.1") == ["10.0.0.1"]


async def test_a_name_without_an_address_is_an_error_of_the_network() -> None:
    with pytest.raises(OSError, match=r"app\.example"):
        await resolved(PUBLIC)


async def test_closing_closes_the_resolver_beneath() -> None:
    beneath = FakeResolver()

    await GuardedResolver(PUBLIC, "https", beneath).close()

    assert beneath.is_closed


# --- what was resolved just before ----------------------------------------------------------------


def remembering(clock: ManualClock, *entries: str) -> DestinationRules:
    return replace(parse_rules(entries, loopback=False), answers=Answers(clock))


async def test_a_host_that_has_just_resolved_to_a_refused_address_is_refused_at_once() -> None:
    clock = ManualClock()
    rules = remembering(clock)
    check_destination("https://app.example/", rules)
    with pytest.raises(OSError, match="private"):
        await resolved(rules, "10.0.0.1")

    assert refusal("https://App.Example.:8443/other", rules) == (
        "invalid destination url: endpoint resolves to a private address: 10.0.0.1; "
        "start the broker with --allow-destination app.example to allow it"
    )

    clock.advance(seconds=9.999)
    refusal("https://app.example/", rules)
    clock.advance(ms=1)
    check_destination("https://app.example/", rules)


@pytest.mark.parametrize(
    ("url", "is_for_good"),
    [
        ("https://1.1.1.1/", True),
        ("https://[2606:4700::1111]/", True),
        ("http://app.internal:9000/a", True),
        ("https://app.example/", False),
    ],
)
async def test_only_what_no_name_decides_is_admitted_for_good(url: str, is_for_good: bool) -> None:
    rules = remembering(ManualClock(), "app.internal")
    await resolved(rules, "1.1.1.1")

    assert check_destination(url, rules) is is_for_good


async def test_a_host_that_has_moved_to_a_public_address_is_admitted_at_once() -> None:
    rules = remembering(ManualClock())
    with pytest.raises(OSError, match="loopback"):
        await resolved(rules, "::1")

    await resolved(rules, "1.1.1.1")

    check_destination("https://app.example/", rules)


async def test_a_host_with_one_admitted_address_is_admitted() -> None:
    rules = remembering(ManualClock())
    await resolved(rules, "10.0.0.1", "1.1.1.1")

    check_destination("https://app.example/", rules)


async def test_http_to_a_host_that_has_just_resolved_off_the_listed_networks_is_refused() -> None:
    rules = remembering(ManualClock(), "10.0.0.0/8")
    await resolved(rules, "1.1.1.1")

    check_destination("https://app.example/", rules)
    assert "http:// is not encrypted" in refusal("http://app.example/", rules)

    await resolved(rules, "10.0.0.1")
    check_destination("http://app.example/", rules)


async def test_a_host_on_the_list_is_admitted_whatever_it_has_resolved_to() -> None:
    rules = remembering(ManualClock(), "app.example")
    await resolved(rules, "10.0.0.1")

    check_destination("http://app.example/", rules)


def test_the_oldest_answers_go_when_there_are_too_many() -> None:
    rules = remembering(ManualClock())
    reach = require_reach(rules, "10.0.0.1")

    for number in range(ANSWERS_KEPT + 1):
        rules.answers.remember(f"app{number}.example", reach)

    assert rules.answers.recall("app0.example") is None
    assert rules.answers.recall("app1.example") is reach
    assert rules.answers.recall(f"app{ANSWERS_KEPT}.example") is reach


def test_a_host_that_is_resolved_again_is_not_the_oldest() -> None:
    rules = remembering(ManualClock())
    reach = require_reach(rules, "10.0.0.1")
    for number in range(ANSWERS_KEPT):
        rules.answers.remember(f"app{number}.example", reach)

    rules.answers.remember("app0.example", reach)
    rules.answers.remember("another.example", reach)

    assert rules.answers.recall("app0.example") is reach
    assert rules.answers.recall("app1.example") is None
