"""What `AsyncClient` asks about an organisation's own: saved configs, provider keys, webhooks."""

from collections.abc import AsyncIterator, Sequence

from promptjobs.sdk import account_requests
from promptjobs.sdk.async_sender import AsyncSender
from promptjobs.sdk.config_files import ConfigSource
from promptjobs.sdk.shapes import Json


class AsyncAccountClient:
    """The part of `AsyncClient` that is about no job."""

    _sender: AsyncSender

    async def save_config(
        self,
        name: str,
        config: ConfigSource,
        *,
        algorithm: str | None = None,
        description: str | None = None,
        replace: bool = False,
    ) -> Json:
        return await self._sender.send(account_requests.save_config(name, config, algorithm, description, replace))

    def saved_configs(self, *, limit: int | None = None) -> AsyncIterator[Json]:
        return self._sender.items(account_requests.saved_configs(limit))

    async def saved_config(self, name: str) -> Json:
        return await self._sender.send(account_requests.saved_config(name))

    async def delete_saved_config(self, name: str) -> None:
        await self._sender.send(account_requests.delete_saved_config(name))

    async def set_provider_key(self, provider: str, api_key: str) -> Json:
        return await self._sender.send(account_requests.set_provider_key(provider, api_key))

    async def provider_keys(self) -> list[Json]:
        return await self._sender.send(account_requests.provider_keys())

    async def delete_provider_key(self, provider: str) -> None:
        await self._sender.send(account_requests.delete_provider_key(provider))

    async def create_webhook(
        self,
        url: str,
        *,
        event_types: Sequence[str] | None = None,
        description: str | None = None,
        secret: str | None = None,
    ) -> Json:
        return await self._sender.send(account_requests.create_webhook(url, event_types, description, secret))

    async def change_webhook(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        event_types: Sequence[str] | None = None,
        description: str | None = None,
        is_disabled: bool | None = None,
    ) -> Json:
        wanted = account_requests.change_webhook(webhook_id, url, event_types, description, is_disabled)
        return await self._sender.send(wanted)

    async def rotate_webhook_secret(self, webhook_id: str, *, secret: str | None = None) -> Json:
        return await self._sender.send(account_requests.rotate_webhook_secret(webhook_id, secret))

    async def test_webhook(self, webhook_id: str) -> Json:
        return await self._sender.send(account_requests.test_webhook(webhook_id))

    def webhooks(self, *, limit: int | None = None) -> AsyncIterator[Json]:
        return self._sender.items(account_requests.webhooks(limit))

    async def webhook(self, webhook_id: str) -> Json:
        return await self._sender.send(account_requests.webhook(webhook_id))

    async def delete_webhook(self, webhook_id: str) -> None:
        await self._sender.send(account_requests.delete_webhook(webhook_id))

    def deliveries(
        self, webhook_id: str, *, status: str | None = None, limit: int | None = None
    ) -> AsyncIterator[Json]:
        return self._sender.items(account_requests.deliveries(webhook_id, status, limit))

    async def delivery(self, webhook_id: str, delivery_id: str) -> Json:
        return await self._sender.send(account_requests.delivery(webhook_id, delivery_id))

    async def redeliver(self, webhook_id: str, delivery_id: str) -> Json:
        return await self._sender.send(account_requests.redeliver(webhook_id, delivery_id))
