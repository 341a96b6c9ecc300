"""The world: task apps, providers, and what lies between."""

from promptjobs.errors.base import PromptjobsError
from promptjobs.errors.requests import InvalidRequest


class WorldError(PromptjobsError):
    """Something outside answered wrongly or not at all."""

    status = 502
    code = "world_error"


class TargetNotAllowed(WorldError):
    """The address may not be dialled: it is not global, and not on the list of allowed targets."""

    status = 422
    code = "target_not_allowed"

    def __init__(self, host: str, port: int, address: str) -> None:
        super().__init__(
            f"{host}:{port} resolves to {address}, which is not a public address; "
            f"an operator can allow it with PROMPTJOBS_ALLOWED_TARGETS={host}:{port}"
        )
        self.host, self.port, self.address = host, port, address


class TaskAppUnreachable(WorldError):
    """No connection to the task app, or its health check failed."""

    code = "task_app_unreachable"

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(f"the task app at {url} cannot be used: {cause}")
        self.url, self.cause = url, cause


class TaskAppHealthCheckFailed(TaskAppUnreachable):
    """The task app was not there, or not healthy, when the job started. A job's error is text: the code is in it."""

    code = "task_app_health_check_failed"

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(url, cause)
        self.args = (f"{self.code}: {self}",)


class ProviderError(WorldError):
    """A provider refused a call or answered something that is no completion."""

    code = "provider_error"

    def __init__(self, provider: str, cause: str, upstream_status: int | None = None) -> None:
        super().__init__(f"provider {provider}: {cause}")
        self.provider, self.cause, self.upstream_status = provider, cause, upstream_status


class ProviderNotConfigured(InvalidRequest):
    """A provider is unknown, or its key is not in the server's environment."""

    code = "provider_not_configured"


class TargetForbidden(TargetNotAllowed):
    """The address is never dialled, whatever is allowed: metadata, link-local, multicast, reserved."""

    code = "target_forbidden"

    def __init__(self, host: str, port: int, address: str) -> None:
        super().__init__(host, port, address)
        self.args = (f"{host}:{port} resolves to {address}: such an address is never dialled",)


class Unreachable(WorldError):
    """No connection came about: the other side has seen nothing of the call."""

    code = "unreachable"

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(f"{url} cannot be reached: {cause}")
        self.url, self.cause = url, cause


class ConnectionLost(Unreachable):
    """The connection broke before the reply had ended: whether the call took effect is not known."""

    code = "connection_lost"


class DeadlineExceeded(WorldError):
    """The call took longer than its total deadline."""

    status = 504
    code = "deadline_exceeded"

    def __init__(self, url: str, seconds: float) -> None:
        super().__init__(f"{url} gave no complete reply within {seconds:g} s")
        self.url, self.seconds = url, seconds


class InvalidReply(WorldError):
    """A reply that cannot be read: too large, malformed, not what was asked for."""

    code = "invalid_reply"

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(f"{url} sent a reply that cannot be used: {cause}")
        self.url, self.cause = url, cause


class InvalidScore(WorldError):
    """A task app's score is not a number in [0, 1]; `got` is what it sent, shortened."""

    code = "invalid_score"

    def __init__(self, url: str, got: str) -> None:
        super().__init__(f"{url}: a score must be a number in [0, 1], got {got}")
        self.url, self.got = url, got


class TaskAppFailed(WorldError):
    """The task app answered that it could not carry out the rollout: no score, and not a score of 0."""

    code = "task_app_failed"

    def __init__(
        self,
        url: str,
        detail: str,
        upstream_status: int | None = None,
        *,
        retryable: bool = False,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(f"the task app at {url} failed: {detail}")
        self.url, self.detail, self.upstream_status = url, detail, upstream_status
        self.retryable, self.retry_after_seconds = retryable, retry_after_seconds


class ProviderCallFailed(ProviderError):
    """One attempt of a completion failed. What it cost is kept: a reply without a text is billed all the same."""

    def __init__(
        self,
        provider: str,
        cause: str,
        upstream_status: int | None = None,
        *,
        retryable: bool = False,
        retry_after_seconds: float | None = None,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        unknown_tokens: int = 0,
        cost_usd: float | None = None,
    ) -> None:
        super().__init__(provider, cause, upstream_status)
        self.retryable, self.retry_after_seconds = retryable, retry_after_seconds
        self.prompt_tokens, self.completion_tokens, self.unknown_tokens = (
            prompt_tokens,
            completion_tokens,
            unknown_tokens,
        )
        self.cost_usd = cost_usd
