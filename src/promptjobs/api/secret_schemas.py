"""The shapes of bodies and answers about the secrets of an organisation."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from promptjobs.api.schemas import Answer

MAX_CIPHERTEXT = 8192
"""Characters of a sealed box in base64 that holds the longest key, and some more."""


class PutProviderKey(BaseModel):
    """A provider's key. No route ever answers with it."""

    model_config = ConfigDict(
        strict=True, extra="forbid", json_schema_extra={"examples": [{"api_key": "sk-your-own-key"}]}
    )

    api_key: str = Field(description="Printable ASCII without spaces, at most 4096 characters.")


class ProviderKeyObject(Answer):
    """A key that was left for a provider, without the key."""

    provider: str
    created_at: datetime
    updated_at: datetime


class PublicKeyObject(Answer):
    """What clients seal secrets with."""

    public_key: str = Field(description="32 bytes in base64.")
    alg: Literal["libsodium.sealedbox.v1"]


class PutEnvironmentKey(BaseModel):
    """The key of the organisation's task apps, sealed with the service's public key."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        json_schema_extra={"examples": [{"name": "ENVIRONMENT_API_KEY", "ciphertext_b64": "q83v…"}]},
    )

    name: Literal["ENVIRONMENT_API_KEY"]
    ciphertext_b64: str = Field(
        max_length=MAX_CIPHERTEXT, description="The sealed box in base64. What it holds is as restricted as `api_key`."
    )


class EnvironmentKeyObject(Answer):
    """A key that was left for task apps, without the key."""

    id: str
    name: str
    created_at: datetime
    updated_at: datetime
