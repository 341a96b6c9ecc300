"""What `Client` asks about an organisation's own: saved configs, provider keys, webhooks."""

from collections.abc import Iterator, Sequence

from promptjobs.sdk import account_requests
from promptjobs.sdk.config_files import ConfigSource
from promptjobs.sdk.sender import Sender
from promptjobs.sdk.shapes import Json


class AccountClient:
    """The part of `Client` that is about no job."""

    _sender: Sender

    def save_config(
        self,
        name: str,
        config: ConfigSource,
        *,
        algorithm: str | None = None,
        description: str | None = None,
        replace: bool = False,
    ) -> Json:
        """Keep a config under a name, for `create(config_name=name)`. replace: an earlier one; else ConflictError is
        raised where there is one. Raises ConfigFileInvalid."""
        return self._sender.send(account_requests.save_config(name, config, algorithm, description, replace))

    def saved_configs(self, *, limit: int | None = None) -> Iterator[Json]:
        return self._sender.items(account_requests.saved_configs(limit))

    def saved_config(self, name: str) -> Json:
        return self._sender.send(account_requests.saved_config(name))

    def delete_saved_config(self, name: str) -> None:
        self._sender.send(account_requests.delete_saved_config(name))

    def set_provider_key(self, provider: str, api_key: str) -> Json:
        """Leave the organisation's own key for a provider. It is kept sealed, and never shown again."""
        return self._sender.send(account_requests.set_provider_key(provider, api_key))

    def provider_keys(self) -> list[Json]:
        """For which providers there are keys; not the keys."""
        return self._sender.send(account_requests.provider_keys())

    def delete_provider_key(self, provider: str) -> None:
        self._sender.send(account_requests.delete_provider_key(provider))

    def create_webhook(
        self,
        url: str,
        *,
        event_types: Sequence[str] | None = None,
        description: str | None = None,
        secret: str | None = None,
    ) -> Json:
        """Have the ends of jobs posted to a URL. The answer alone holds the secret that signs what is posted."""
        return self._sender.send(account_requests.create_webhook(url, event_types, description, secret))

    def change_webhook(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        event_types: Sequence[str] | None = None,
        description: str | None = None,
        is_disabled: bool | None = None,
    ) -> Json:
        """What is not given stays as it is."""
        wanted = account_requests.change_webhook(webhook_id, url, event_types, description, is_disabled)
        return self._sender.send(wanted)

    def rotate_webhook_secret(self, webhook_id: str, *, secret: str | None = None) -> Json:
        """Sign with another secret from now on; a new one, which is answered this once, unless it is given."""
        return self._sender.send(account_requests.rotate_webhook_secret(webhook_id, secret))

    def test_webhook(self, webhook_id: str) -> Json:
        """Post a test message now, and say what has come of it."""
        return self._sender.send(account_requests.test_webhook(webhook_id))

    def webhooks(self, *, limit: int | None = None) -> Iterator[Json]:
        return self._sender.items(account_requests.webhooks(limit))

    def webhook(self, webhook_id: str) -> Json:
        return self._sender.send(account_requests.webhook(webhook_id))

    def delete_webhook(self, webhook_id: str) -> None:
        self._sender.send(account_requests.delete_webhook(webhook_id))

    def deliveries(self, webhook_id: str, *, status: str | None = None, limit: int | None = None) -> Iterator[Json]:
        """What was posted, or will be; newest first."""
        return self._sender.items(account_requests.deliveries(webhook_id, status, limit))

    def delivery(self, webhook_id: str, delivery_id: str) -> Json:
        """With its body."""
        return self._sender.send(account_requests.delivery(webhook_id, delivery_id))

    def redeliver(self, webhook_id: str, delivery_id: str) -> Json:
        """Post it once more."""
        return self._sender.send(account_requests.redeliver(webhook_id, delivery_id))
