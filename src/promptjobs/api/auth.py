"""Who asks: the organisation whose API key a request carries, or `default` where no key is needed."""

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import ip_address
from typing import Annotated

from fastapi import Depends, Request
from fastapi.openapi.models import APIKey, APIKeyIn
from fastapi.security.base import SecurityBase

from promptjobs.api.rate_limits import RateLimits
from promptjobs.db import api_keys
from promptjobs.db.api_keys import Purpose, StoredKey
from promptjobs.db.balances import DEFAULT_ORGANISATION
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from promptjobs.errors import DatabaseUnavailable, HostNotAllowed, KeyInvalid, KeyMissing, KeyNotAllowed

KEPT_SECONDS = 5.0
"""How long a key is trusted without a look at the database: a revocation takes that long at most."""

MAX_KEPT = 10_000

AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:@/\s]+))(?::\d{1,5})?")

KEY_SCHEME, BEARER_SCHEME = "ApiKey", "Bearer"
BEARER = {"type": "http", "scheme": "bearer", "description": "An API key, as a bearer token."}
"""The two ways to send a key, by the names that they have in the API's description."""


class Access:
    """Finds out who asks. is_open_without_keys: the service can be reached from this machine only.

    Such a service is open for as long as no key has been made; the first key closes it. While the database is away,
    what was known last holds: /metrics has to tell of the outage, and nothing else can be answered without it.
    """

    def __init__(
        self,
        database: Database,
        limits: RateLimits,
        *,
        is_open_without_keys: bool,
        allowed_hosts: frozenset[str] = frozenset(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """allowed_hosts: names, beside those of this machine, under which a service without keys may be asked."""
        self._database, self.limits = database, limits
        self._is_open_without_keys, self._allowed_hosts, self._clock = is_open_without_keys, allowed_hosts, clock
        self._known: OrderedDict[bytes, tuple[StoredKey, float]] = OrderedDict()
        self._is_open: tuple[bool, float] | None = None

    async def organisation(self, request: Request, purpose: Purpose = Purpose.API) -> str:
        """Whose request it is.

        Raises KeyMissing, KeyInvalid, KeyNotAllowed, HostNotAllowed, RateLimited, DatabaseUnavailable.
        """
        if await self.is_open():
            self._check_hosts(request)
            self.limits.take(DEFAULT_ORGANISATION)
            return DEFAULT_ORGANISATION
        sent = sent_key(request)
        if sent is None:
            self._count_stranger(request)
            raise KeyMissing
        stored = await self._find(sent, request)
        if stored is None:
            raise KeyInvalid
        if stored.purpose is not purpose:
            raise KeyNotAllowed(stored.purpose)
        self.limits.take(stored.organisation)
        return stored.organisation

    async def is_open(self) -> bool:
        """Whether requests need no key. Raises DatabaseUnavailable."""
        if not self._is_open_without_keys:
            return False
        if self._is_open is None or self._clock() >= self._is_open[1]:
            try:
                async with writing(self._database) as connection:
                    is_open = not await api_keys.were_any(connection)
            except DatabaseUnavailable:
                if self._is_open is None:
                    raise
                return self._is_open[0]
            self._is_open = (is_open, self._clock() + KEPT_SECONDS)
        return self._is_open[0]

    async def _find(self, sent: str, request: Request) -> StoredKey | None:
        """The key, or None for one that opens nothing. Whoever brings one that is not known is counted before the
        database is asked.
        """
        digest = api_keys.digest_of(sent)
        known = self._known.get(digest)
        if known is not None and self._clock() < known[1]:
            return known[0]
        if known is None:
            self._count_stranger(request)
            if api_keys.SENT_KEY.fullmatch(sent) is None:
                return None
        try:
            async with writing(self._database) as connection:
                stored = await api_keys.find(connection, digest)
        except DatabaseUnavailable:
            if known is None:
                raise
            return known[0]
        if stored is None:
            # Nothing is kept of a key that opens nothing: guesses must not push out those that do.
            self._known.pop(digest, None)
            return None
        self._known[digest] = (stored, self._clock() + KEPT_SECONDS)
        self._known.move_to_end(digest)
        if len(self._known) > MAX_KEPT:
            self._known.popitem(last=False)
        return stored

    def _count_stranger(self, request: Request) -> None:
        """Who has no key that is known has an address at least. Raises RateLimited."""
        self.limits.take(f"address {request.client.host if request.client else 'unknown'}")

    def _check_hosts(self, request: Request) -> None:
        """A page in a browser on this machine must not use the service: neither by its own name for our address (DNS
        rebinding), nor across origins. Raises HostNotAllowed.
        """
        if not self._is_ours(_host_of(request.headers.get("host", ""))):
            raise HostNotAllowed("Host")
        origin = request.headers.get("origin")
        if origin is not None and not self._is_ours(_host_of(origin.partition("://")[2])):
            raise HostNotAllowed("Origin")

    def _is_ours(self, host: str) -> bool:
        return is_loopback(host) or host in self._allowed_hosts


def sent_key(request: Request) -> str | None:
    """The key of either header; X-API-Key goes first."""
    key = request.headers.get("x-api-key")
    if key:
        return key.strip()
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" and credentials.strip() else None


def is_loopback(host: str) -> bool:
    """Whether the name or address can only mean this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _host_of(authority: str) -> str:
    """The host of `host:port`, in lower case; "" for what is neither."""
    found = AUTHORITY.fullmatch(authority.lower())
    return "" if found is None else found[1] or found[2]


class KeyScheme(SecurityBase):
    """Finds the organisation that asks; one dependency, because each costs every request a part of its time.

    The framework describes it as the key in `X-API-Key`; that a bearer token is taken as well is told by `openapi`.
    """

    def __init__(self, purpose: Purpose) -> None:
        self.model = APIKey(name="X-API-Key", description="An API key.", **{"in": APIKeyIn.header})
        self.scheme_name = KEY_SCHEME
        self._purpose = purpose

    async def __call__(self, request: Request) -> str:
        """As `Access.organisation`."""
        access: Access = request.app.state.access
        found = await access.organisation(request, self._purpose)
        if self._purpose is Purpose.API:
            request.state.organisation = found
        return found


_api_key = KeyScheme(Purpose.API)

TheOrganisation = Annotated[str, Depends(_api_key)]

authenticated = Depends(_api_key)
"""What every router under /api has: a route that does not need to know who asks is closed all the same."""

require_metrics_access = Depends(KeyScheme(Purpose.METRICS))
"""For /metrics, which tells of all organisations: a key made for it, and no other."""
