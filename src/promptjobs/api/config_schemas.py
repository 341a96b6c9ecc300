"""The shapes of saved configs: requests for them, and what is answered, as the OpenAPI description shows them."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from promptjobs.api.job_schemas import EXAMPLE_CREATE, EXAMPLE_TIME
from promptjobs.api.schemas import Answer

CONFIG_NAME = "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
EXAMPLE_NAME = "support-tickets.v2"
MAX_DESCRIPTION = 2_000

EXAMPLE_PUT: dict[str, Any] = {
    "algorithm": EXAMPLE_CREATE["algorithm"],
    "config_body": EXAMPLE_CREATE["config_body"],
    "description": "The tickets of May, with the new labels.",
}


class PutConfig(BaseModel):
    """A config to keep under the name in the address. It is checked as that of a job; its secrets are not kept."""

    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra={"examples": [EXAMPLE_PUT]})

    algorithm: str = Field(description="gepa or mipro", max_length=100)
    config_body: dict[str, Any] = Field(description="As a job takes it; its section is `prompt_learning`.")
    description: str | None = Field(default=None, max_length=MAX_DESCRIPTION)


class CreateConfig(PutConfig):
    """The same with its name."""

    model_config = ConfigDict(
        strict=True, extra="forbid", json_schema_extra={"examples": [{"name": EXAMPLE_NAME, **EXAMPLE_PUT}]}
    )

    name: str = Field(pattern=CONFIG_NAME, description="Letters, digits, `.`, `_` and `-`; at most 100.")


class SavedConfigObject(Answer):
    """A saved config."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"name": EXAMPLE_NAME, **EXAMPLE_PUT, "created_at": EXAMPLE_TIME, "updated_at": EXAMPLE_TIME}]
        },
    )

    name: str
    algorithm: str
    description: str | None
    config_body: dict[str, Any] = Field(description="Without its secrets.")
    created_at: datetime
    updated_at: datetime
