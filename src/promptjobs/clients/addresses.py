"""The SSRF guard: which addresses may be dialled, and the resolver that returns no others."""

import socket
from enum import IntEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from aiohttp.abc import AbstractResolver, ResolveResult

from promptjobs.errors import TargetForbidden, TargetNotAllowed


class Reach(IntEnum):
    """How far an address reaches. PRIVATE and LOOPBACK may be allowed by an operator, FORBIDDEN never."""

    PUBLIC = 0
    LOOPBACK = 1
    PRIVATE = 2
    FORBIDDEN = 3


LOOPBACK_V4 = IPv4Network("127.0.0.0/8")
PRIVATE_V4 = tuple(IPv4Network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))
FORBIDDEN_V4 = tuple(
    IPv4Network(n)
    for n in (
        "0.0.0.0/8",
        "169.254.0.0/16",  # link-local; 169.254.169.254 is the metadata service of most clouds
        "100.100.100.200/32",  # metadata (Alibaba), in the shared address space
        "168.63.129.16/32",  # wire server (Azure), a public address
        "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is the metadata service of Oracle
        "192.0.2.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
"""Special-purpose ranges (IANA registry) that no service has a reason to live in."""

LOOPBACK_V6 = IPv6Address("::1")
PRIVATE_V6 = tuple(IPv6Network(n) for n in ("fc00::/7", "fec0::/10"))
METADATA_V6 = (IPv6Address("fd00:ec2::254"), IPv6Address("fd20:ce::254"))
GLOBAL_V6 = IPv6Network("2000::/3")
FORBIDDEN_V6 = tuple(IPv6Network(n) for n in ("2001::/23", "2001:db8::/32", "3fff::/20"))
TEREDO, SIX_TO_FOUR = IPv6Network("2001::/32"), IPv6Network("2002::/16")
NAT64 = IPv6Network("64:ff9b::/96")
COMPATIBLE = IPv6Network("::/96")


@lru_cache(maxsize=4096)
def reach(address: str) -> Reach:
    """The worst reach of the address and of every IPv4 address that it wraps. An unreadable address is FORBIDDEN."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return Reach.FORBIDDEN
    if isinstance(parsed, IPv4Address):
        return _reach_v4(parsed)
    plain = _mapped(parsed)
    if plain is not None:
        return _reach_v4(plain)
    inner = max((_reach_v4(end) for end in _tunnelled(parsed)), default=Reach.PUBLIC)
    # A tunnelled packet leaves the machine: loopback at its other end is not our loopback.
    return max(_reach_v6(parsed), Reach.PRIVATE if inner is Reach.LOOPBACK else inner)


def check_address(host: str, port: int, address: str, allowed: frozenset[str], allow_loopback: bool) -> None:
    """Raise unless `address`, which `host` (as written in the URL) resolves to, may be dialled.

    allowed: exact host:port pairs; they open private and loopback addresses. allow_loopback opens every loopback one.
    Raises TargetForbidden (nothing can allow it) or TargetNotAllowed (an operator could).
    """
    found = reach(address)
    if found is Reach.PUBLIC or (found is Reach.LOOPBACK and allow_loopback):
        return
    shown = f"[{host}]" if ":" in host else host
    if found is Reach.FORBIDDEN:
        raise TargetForbidden(shown, port, address)
    if f"{shown.lower()}:{port}" not in allowed:
        raise TargetNotAllowed(shown, port, address)


def is_literal(host: str) -> bool:
    """Whether aiohttp takes the host for an address, which it dials without asking the resolver."""
    return ":" in host or host.replace(".", "").isdigit()


class GuardedResolver(AbstractResolver):
    """Resolves once, refuses the name if any of its addresses may not be dialled, and returns exactly those checked."""

    def __init__(self, inner: AbstractResolver, allowed: frozenset[str], allow_loopback: bool) -> None:
        self.inner, self.allowed, self.allow_loopback = inner, allowed, allow_loopback

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        try:
            found = await self.inner.resolve(host, port, family)
        except UnicodeError as exc:
            # A label that is empty or longer than 63 characters fails before any question is asked.
            raise OSError("it is not a host name") from exc
        for result in found:
            check_address(host, port, result["host"], self.allowed, self.allow_loopback)
        return found

    async def close(self) -> None:
        await self.inner.close()


def _reach_v4(address: IPv4Address) -> Reach:
    if any(address in network for network in FORBIDDEN_V4):
        return Reach.FORBIDDEN
    if address in LOOPBACK_V4:
        return Reach.LOOPBACK
    if any(address in network for network in PRIVATE_V4):
        return Reach.PRIVATE
    # Belt and braces: what a newer Python knows to be special is not public either.
    return Reach.PUBLIC if address.is_global else Reach.FORBIDDEN


def _reach_v6(address: IPv6Address) -> Reach:
    if address == LOOPBACK_V6:
        return Reach.LOOPBACK
    if address in METADATA_V6:
        return Reach.FORBIDDEN
    if any(address in network for network in PRIVATE_V6):
        return Reach.PRIVATE
    if address in NAT64 or address in TEREDO or address in SIX_TO_FOUR:
        return Reach.PUBLIC
    if address not in GLOBAL_V6 or any(address in network for network in FORBIDDEN_V6):
        return Reach.FORBIDDEN
    return Reach.PUBLIC if address.is_global else Reach.FORBIDDEN


def _mapped(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that the kernel dials for a mapped or (obsolete) compatible address."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in COMPATIBLE and int(address) > 1:
        return IPv4Address(int(address))
    return None


def _tunnelled(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses at which 6to4, Teredo and NAT64 would let the packet out."""
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if address in NAT64:
        return (IPv4Address(int(address) & 0xFFFF_FFFF),)
    return ()
