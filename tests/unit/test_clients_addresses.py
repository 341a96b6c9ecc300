"""The SSRF guard: no special-purpose address is public, however it is wrapped."""

import ipaddress

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from promptjobs.clients.addresses import GuardedResolver, Reach, check_address, reach
from promptjobs.errors import TargetForbidden, TargetNotAllowed

NOTHING: frozenset[str] = frozenset()

FORBIDDEN = [
    str(ipaddress.IPv4Address(0)),
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "2001:db8::1",
    "2001:20::1",
    "3fff::1",
    "5f00::1",
    "100::1",
    "64:ff9b:1::7f00:1",
    "::ffff:0:127.0.0.1",
    "::ffff:169.254.169.254",
    "::169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "not an address",
    "",
]
PRIVATE = ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fc00::1", "fd12::1", "fec0::1"]
LOOPBACK = ["127.0.0.1", "127.255.0.3", "::1", "::ffff:127.0.0.1", "::127.0.0.1"]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_a_forbidden_address_is_refused_even_when_it_is_listed(address):
    with pytest.raises(TargetForbidden):
        check_address("h.test", 80, address, frozenset({"h.test:80"}), allow_loopback=True)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_needs_no_list(address):
    check_address("h.test", 80, address, NOTHING, allow_loopback=False)


@pytest.mark.parametrize("address", PRIVATE + LOOPBACK)
def test_private_and_loopback_need_the_exact_host_and_port(address):
    check_address("h.test", 80, address, frozenset({"h.test:80"}), allow_loopback=False)
    for listed in ("h.test:81", "other.test:80", "test:80", f"{address}:80"):
        with pytest.raises(TargetNotAllowed) as refused:
            check_address("h.test", 80, address, frozenset({listed}), allow_loopback=False)
        assert "PROMPTJOBS_ALLOWED_TARGETS=h.test:80" in str(refused.value)


@pytest.mark.parametrize("address", LOOPBACK)
def test_allow_loopback_opens_every_loopback_address(address):
    check_address("h.test", 80, address, NOTHING, allow_loopback=True)


@pytest.mark.parametrize("address", [*PRIVATE, "2002:7f00:1::1", "64:ff9b::7f00:1", "2002:a00:1::1"])
def test_allow_loopback_opens_neither_private_addresses_nor_tunnels_to_loopback(address):
    with pytest.raises(TargetNotAllowed):
        check_address("h.test", 80, address, NOTHING, allow_loopback=True)


def test_an_ipv6_literal_is_listed_in_brackets():
    check_address("::1", 8700, "::1", frozenset({"[::1]:8700"}), allow_loopback=False)


def test_both_ends_of_teredo_count():
    server, client = ipaddress.IPv4Address("8.8.8.8"), ipaddress.IPv4Address("127.0.0.1")
    packed = (0x2001 << 112) | (int(server) << 64) | (int(client) ^ 0xFFFF_FFFF)
    assert reach(str(ipaddress.IPv6Address(packed))) is Reach.PRIVATE


@given(st.ip_addresses(v=4))
def test_wrapping_makes_no_ipv4_address_more_public(address):
    plain = reach(str(address))
    number = int(address)
    assert reach(str(ipaddress.IPv6Address((0xFFFF << 32) | number))) is plain
    for tunnelled in ((0x64FF9B << 96) | number, (0x2002 << 112) | (number << 80) | 1):
        assert reach(str(ipaddress.IPv6Address(tunnelled))) >= plain


@given(st.ip_addresses())
def test_what_python_knows_to_be_special_is_never_public(address):
    wrapping = getattr(address, "ipv4_mapped", None) or address in ipaddress.ip_network("64:ff9b::/96")
    special = address.is_multicast or address.is_link_local or address.is_reserved or address.is_unspecified
    if special and not wrapping:
        assert reach(str(address)) is not Reach.PUBLIC


class Fixed(AbstractResolver):
    """A name server with one answer."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=a, port=port, family=family, proto=0, flags=0) for a in self.addresses
        ]

    async def close(self) -> None:
        pass


async def test_one_bad_address_among_good_ones_refuses_the_name():
    with pytest.raises(TargetForbidden):
        await GuardedResolver(Fixed("8.8.8.8", "169.254.169.254"), NOTHING, False).resolve("rebind.test", 80)


async def test_the_resolver_returns_exactly_the_checked_addresses():
    found = await GuardedResolver(Fixed("8.8.8.8", "1.1.1.1"), NOTHING, False).resolve("good.test", 443)
    assert [(result["host"], result["port"]) for result in found] == [("8.8.8.8", 443), ("1.1.1.1", 443)]
