"""Whether the providers of a job can be called, with the keys that it may use."""

from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.clients.providers import NO_KEYS, OwnKeys, Providers
from promptjobs.core.config import JobConfig
from promptjobs.core.policies import used_models
from promptjobs.db.secrets import SecretKind, sealed_of
from promptjobs.db.vault import Vault
from promptjobs.interceptor.keyring import opened


async def check_providers(
    connection: AsyncConnection, config: JobConfig, providers: Providers, vault: Vault, organisation: str
) -> None:
    """Raises ProviderNotConfigured for a provider that is unknown, or that has no key which the job may use, and
    SecretUnreadable for a key of the organisation's that cannot be opened.
    """
    own = NO_KEYS
    if config.use_byok is not False:
        rows = await sealed_of(connection, organisation, SecretKind.PROVIDER)
        own = OwnKeys({row.name: opened(vault, row) for row in rows}, are_required=config.use_byok is True)
    for used in used_models(config):
        providers.get(used.provider, own)
