"""The requests on what an organisation keeps: saved configs, provider keys, webhooks and their deliveries."""

from collections.abc import Sequence

from promptjobs.sdk.answers import read_list, read_nothing, read_object
from promptjobs.sdk.config_files import ConfigSource, algorithm_of, config_of
from promptjobs.sdk.requests import Listing, Request, below, body_of, keyed, listing
from promptjobs.sdk.shapes import Json

CONFIGS_PATH = "/api/prompt-learning/configs"
PROVIDER_KEYS_PATH = "/api/provider-keys"
WEBHOOKS_PATH = "/api/webhooks"


# --- saved configs ---------------------------------------------------------------------------------------------------


def save_config(
    name: str, config: ConfigSource, algorithm: str | None, description: str | None, replace: bool
) -> Request[Json]:
    """Raises ConfigFileInvalid."""
    found = config_of(config)
    body = body_of(algorithm=algorithm or algorithm_of(found), config_body=dict(found), description=description)
    if replace:
        return Request("PUT", CONFIGS_PATH + below(name), read_object, body=body)
    return Request("POST", CONFIGS_PATH, read_object, body={"name": name, **body}, headers=keyed(None))


def saved_configs(limit: int | None) -> Listing:
    return listing(CONFIGS_PATH, limit)


def saved_config(name: str) -> Request[Json]:
    return Request("GET", CONFIGS_PATH + below(name), read_object)


def delete_saved_config(name: str) -> Request[None]:
    return Request("DELETE", CONFIGS_PATH + below(name), read_nothing)


# --- provider keys ---------------------------------------------------------------------------------------------------


def set_provider_key(provider: str, api_key: str) -> Request[Json]:
    return Request("PUT", PROVIDER_KEYS_PATH + below(provider), read_object, body={"api_key": api_key})


def provider_keys() -> Request[list[Json]]:
    return Request("GET", PROVIDER_KEYS_PATH, read_list)


def delete_provider_key(provider: str) -> Request[None]:
    return Request("DELETE", PROVIDER_KEYS_PATH + below(provider), read_nothing)


# --- webhooks --------------------------------------------------------------------------------------------------------


def create_webhook(
    url: str, event_types: Sequence[str] | None, description: str | None, secret: str | None
) -> Request[Json]:
    body = body_of(url=url, event_types=_listed(event_types), description=description, secret=secret)
    return Request("POST", WEBHOOKS_PATH, read_object, body=body)


def change_webhook(
    webhook_id: str,
    url: str | None,
    event_types: Sequence[str] | None,
    description: str | None,
    is_disabled: bool | None,
) -> Request[Json]:
    body = body_of(url=url, event_types=_listed(event_types), description=description, is_disabled=is_disabled)
    return Request("PATCH", WEBHOOKS_PATH + below(webhook_id), read_object, body=body)


def _listed(values: Sequence[str] | None) -> list[str] | None:
    return None if values is None else list(values)


def rotate_webhook_secret(webhook_id: str, secret: str | None) -> Request[Json]:
    path = WEBHOOKS_PATH + below(webhook_id, "rotate-secret")
    return Request("POST", path, read_object, body=body_of(secret=secret))


def test_webhook(webhook_id: str) -> Request[Json]:
    return Request("POST", WEBHOOKS_PATH + below(webhook_id, "test"), read_object)


def webhooks(limit: int | None) -> Listing:
    return listing(WEBHOOKS_PATH, limit)


def webhook(webhook_id: str) -> Request[Json]:
    return Request("GET", WEBHOOKS_PATH + below(webhook_id), read_object)


def delete_webhook(webhook_id: str) -> Request[None]:
    return Request("DELETE", WEBHOOKS_PATH + below(webhook_id), read_nothing)


def deliveries(webhook_id: str, status: str | None, limit: int | None) -> Listing:
    return listing(WEBHOOKS_PATH + below(webhook_id, "deliveries"), limit, status=status)


def delivery(webhook_id: str, delivery_id: str) -> Request[Json]:
    return Request("GET", WEBHOOKS_PATH + below(webhook_id, "deliveries", delivery_id), read_object)


def redeliver(webhook_id: str, delivery_id: str) -> Request[Json]:
    path = WEBHOOKS_PATH + below(webhook_id, "deliveries", delivery_id, "redeliver")
    return Request("POST", path, read_object)
