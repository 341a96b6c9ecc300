"""The service's settings: the only reader of the environment."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PROVIDERS: dict[str, str] = {
    "openai": "https://api.openai.com/v1",
    "groq": "https://api.groq.com/openai/v1",
    "google": "https://generativelanguage.googleapis.com/v1beta/openai",
    "anthropic": "https://api.anthropic.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "together": "https://api.together.xyz/v1",
    "ollama": "http://127.0.0.1:11434/v1",
    "vllm": "http://127.0.0.1:8000/v1",
}
"""Known providers and the base URL of their OpenAI-compatible endpoint."""

KEYLESS = frozenset({"ollama", "vllm"})
"""Providers that run on one's own machine and need no key."""

KEY_NAMES = {"google": ("GEMINI_API_KEY", "GOOGLE_API_KEY")}


def default_data_dir() -> Path:
    """Where the embedded database lives unless a setting says otherwise.

    For root it is a system directory: PostgreSQL refuses to run as root, and its own user cannot enter root's home.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/promptjobs")
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "promptjobs"


class Settings(BaseSettings):
    """Each field is read from PROMPTJOBS_<NAME>; a command-line option of the same name goes before it."""

    model_config = SettingsConfigDict(env_prefix="PROMPTJOBS_", extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(default=8700, ge=0, le=65535)
    data_dir: Path = Field(default_factory=default_data_dir)
    database_url: str | None = Field(default=None, description="any PostgreSQL; without it the embedded one is started")
    public_url: str | None = Field(default=None, description="the address under which task apps reach this service")
    allowed_targets: Annotated[list[str] | None, NoDecode] = Field(
        default=None,
        description="host:port pairs that may be dialled although they are loopback or private, separated by commas",
    )
    worker_jobs: int = Field(default=8, ge=1, le=1000, description="jobs that one worker runs at a time")
    database_connections: int = Field(
        default=8,
        ge=1,
        le=100,
        description="connections that the running jobs of one process share; the service itself needs up to 30 more",
    )
    lease_seconds: float = Field(default=30.0, gt=0)
    outage_seconds: float = Field(default=120.0, ge=0, description="how long asks wait for a world that is down")
    rollout_timeout_seconds: float = Field(default=300.0, gt=0)
    log_level: str = "info"
    log_format: Literal["text", "json"] = "text"
    secret_key: SecretStr | None = Field(
        default=None,
        description="32 bytes in base64, with which secrets are sealed; without it one is made in the data directory",
    )
    initial_api_key: SecretStr | None = Field(
        default=None, description="an API key of the organisation `default`, made at the start where it is not known"
    )
    requests_per_second: float = Field(
        default=1000.0, gt=0, description="of one organisation to one process; ten seconds' worth may come at once"
    )
    max_streams: int = Field(default=1000, ge=1, description="event streams of one organisation from one process")
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(
        default=None, ge=1, le=65535, description="where a worker without a server answers GET /metrics"
    )
    otlp_endpoint: str | None = Field(
        default=None,
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="where spans of model calls are sent; needs the extra `otel`",
    )
    environment_api_key: SecretStr | None = Field(default=None, validation_alias="ENVIRONMENT_API_KEY")

    @field_validator("allowed_targets", mode="before")
    @classmethod
    def split_targets(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def provider_environment() -> dict[str, tuple[str, SecretStr | None]]:
    """Base URL and key of each provider that can be used, from the conventional variables.

    <NAME>_API_KEY and <NAME>_BASE_URL; any further OpenAI-compatible endpoint by PROMPTJOBS_PROVIDER_<NAME>_BASE_URL
    (and …_API_KEY), which then is the provider <name>. A known provider without a key is left out, unless it needs
    none.
    """
    found: dict[str, tuple[str, SecretStr | None]] = {}
    for name, url in PROVIDERS.items():
        base = os.environ.get(f"{name.upper()}_BASE_URL") or url
        keys = KEY_NAMES.get(name, (f"{name.upper()}_API_KEY",))
        key = next((os.environ[k] for k in keys if os.environ.get(k)), None)
        if key or name in KEYLESS or base != url:
            found[name] = (base.rstrip("/"), SecretStr(key) if key else None)
    prefix, suffix = "PROMPTJOBS_PROVIDER_", "_BASE_URL"
    for variable, base in os.environ.items():
        if variable.startswith(prefix) and variable.endswith(suffix) and base:
            name = variable[len(prefix) : -len(suffix)].lower()
            key = os.environ.get(f"{prefix}{name.upper()}_API_KEY")
            found[name] = (base.rstrip("/"), SecretStr(key) if key else None)
    return found
