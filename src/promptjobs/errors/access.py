"""Who may ask: keys, hosts, rates, and requests that are repeated."""

from promptjobs.errors.base import PromptjobsError
from promptjobs.errors.commands import CommandFailed
from promptjobs.errors.requests import InvalidRequest, NotFound


class KeyMissing(PromptjobsError):
    """The request carries no API key."""

    status = 401
    code = "missing_api_key"

    def __init__(self) -> None:
        super().__init__("send an API key in X-API-Key, or as Authorization: Bearer")


class KeyInvalid(PromptjobsError):
    """The API key is unknown or revoked. Which of the two it is is not told."""

    status = 401
    code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__("the API key is not valid")


class KeyNotAllowed(PromptjobsError):
    """The key is for something else: one for metrics opens nothing but /metrics."""

    status = 403
    code = "key_not_allowed"

    def __init__(self, purpose: str) -> None:
        super().__init__(
            "a key for metrics opens /metrics and nothing else"
            if purpose == "metrics"
            else "this key does not open /metrics: `promptjobs keys create --for-metrics` makes one that does"
        )
        self.purpose = purpose


class HostNotAllowed(PromptjobsError):
    """A service that needs no key is open to this machine only, and not to pages in its browser.

    header: `Host` or `Origin`, whichever names another machine.
    """

    status = 403
    code = "host_not_allowed"

    def __init__(self, header: str) -> None:
        super().__init__(f"{header} names another machine; a service without keys answers to this one only")
        self.header = header


class RateLimited(PromptjobsError):
    """The organisation, or the address where it is unknown, has asked for too much at once."""

    status = 429
    code = "rate_limited"

    def __init__(self, retry_after_seconds: float, what: str = "requests") -> None:
        super().__init__(f"too many {what}: try again in {retry_after_seconds:.3g} s")
        self.retry_after_seconds = retry_after_seconds


class RequestInProgress(PromptjobsError):
    """A request with the same Idempotency-Key is being carried out."""

    status = 409
    code = "request_in_progress"

    def __init__(self) -> None:
        super().__init__("a request with this Idempotency-Key is being carried out: ask again for its answer")


class IdempotencyKeyReused(InvalidRequest):
    """The Idempotency-Key has been used with another body."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__("it was used before, with another body", "Idempotency-Key")


class KeyNotFound(NotFound):
    code = "key_not_found"

    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no key {key_id!r}")
        self.key_id = key_id


class SecretNotFound(NotFound):
    """The organisation has left no such secret. kind: `provider` or `environment`."""

    code = "secret_not_found"

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"there is no {kind} key {name!r}")
        self.kind, self.name = kind, name


class SecretUnreadable(PromptjobsError):
    """What is stored was sealed with another secret key than this process has, or was altered."""

    code = "secret_unreadable"

    def __init__(self) -> None:
        super().__init__(
            "a stored secret cannot be opened with this process's secret key: "
            "every process of the service needs the same PROMPTJOBS_SECRET_KEY"
        )


class KeysRequired(CommandFailed):
    """The service would be open to everybody who reaches its address."""

    code = "keys_required"

    def __init__(self, host: str) -> None:
        super().__init__(
            f"other machines can reach {host}, and there is no API key yet: make one with `promptjobs keys create`, "
            "or listen on 127.0.0.1, where none is needed"
        )
        self.host = host
