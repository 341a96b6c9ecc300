"""The keys that organisations have left with us, opened for the jobs that run: a few seconds old at most."""

from collections.abc import Awaitable, Callable, Sequence

import asyncpg
from pydantic import SecretStr

from promptjobs.clients.providers import NO_KEYS, OwnKeys
from promptjobs.db.groups import Groups
from promptjobs.db.secrets import Sealed, SecretKind, context_of, load_sealed
from promptjobs.db.vault import Vault
from promptjobs.errors import DatabaseUnavailable, SecretUnreadable
from promptjobs.interceptor.bounded import Recent
from promptjobs.interceptor.grants import PATIENCE_SECONDS, boot_seconds

KEPT_SECONDS = 2.0
MAX_JOBS = 1_000

ENVIRONMENT_KEY = "ENVIRONMENT_API_KEY"
"""The name under which an organisation leaves the key of its task apps."""


Left = dict[SecretKind, dict[str, SecretStr | None]]
"""What an organisation has left, by kind and name; None in place of a secret that cannot be opened."""


class Keyring:
    """Looks keys up in groups, over a connection of its own; `groups` has to run.

    What was found is used by the job for which it was asked, for KEPT_SECONDS from when the question was sent. A job
    that is claimed asks anew: a key that was left before the job was created or resumed is never missed.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        vault: Vault,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        """patience_seconds: how long an outage of the database is waited out."""
        self.groups: Groups[str, Left] = Groups(
            "keyring", connect, self._ask, _unavailable, keep=False, patience_seconds=patience_seconds
        )
        self._vault, self._clock = vault, clock
        self._known: Recent[tuple[str, int], tuple[OwnKeys, float]] = Recent(MAX_JOBS)

    async def keys(self, job_id: str, epoch: int, organisation: str, use_byok: bool | None) -> OwnKeys:
        """The keys for providers that a job's calls are made with. epoch: of the job's claim.

        use_byok: what the job's config says; False: never the organisation's own, True: nothing else. Raises
        DatabaseUnavailable.
        """
        if use_byok is False:
            return NO_KEYS
        known = self._known.get((job_id, epoch))
        if known is not None and self._clock() < known[1]:
            return known[0]
        until = self._clock() + KEPT_SECONDS
        left = await self.groups.put(organisation)
        found = OwnKeys(left[SecretKind.PROVIDER], are_required=use_byok is True)
        self._known.put((job_id, epoch), (found, until))
        return found

    async def environment_key(self, organisation: str) -> SecretStr | None:
        """The key of the organisation's task apps, as it is now. Raises DatabaseUnavailable, SecretUnreadable."""
        left = (await self.groups.put(organisation))[SecretKind.ENVIRONMENT]
        if ENVIRONMENT_KEY in left and left[ENVIRONMENT_KEY] is None:
            raise SecretUnreadable
        return left.get(ENVIRONMENT_KEY)

    async def _ask(self, connection: asyncpg.Connection, organisations: Sequence[str]) -> list[Left]:
        found: dict[str, Left] = {organisation: {kind: {} for kind in SecretKind} for organisation in organisations}
        for row in await load_sealed(connection, list(found)):
            found[row.organisation][row.kind][row.name] = opened(self._vault, row)
        return [found[organisation] for organisation in organisations]


def opened(vault: Vault, row: Sealed) -> SecretStr | None:
    """None where the vault cannot open it: only what needs this very secret has to fail of that."""
    try:
        return vault.unseal(row.sealed, context_of(row.kind, row.organisation, row.name))
    except SecretUnreadable:
        return None


def _unavailable() -> DatabaseUnavailable:
    return DatabaseUnavailable("keys cannot be looked up at present: try again later")
