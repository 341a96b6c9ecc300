"""What the Python client raises: a service that refuses, fails or is not there, and arguments that cannot be sent."""

from promptjobs.errors.base import PromptjobsError


class ClientError(PromptjobsError):
    """Base of everything that the Python client raises on purpose."""

    code = "client_error"


class ArgumentInvalid(ClientError, ValueError):
    """An argument, or the environment variable behind it, cannot be used; nothing was sent."""

    code = "argument_invalid"

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(f"{name}: {cause}")
        self.name, self.cause = name, cause


class ConfigFileInvalid(ClientError):
    """A config's file cannot be read, or is no TOML that can be sent; nothing was sent."""

    code = "config_file_invalid"

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(f"{path}: {cause}")
        self.path, self.cause = path, cause


class ConnectionFailed(ClientError):
    """Nothing at the service's address answers, or its answer was cut off. url: the service's."""

    code = "connection_failed"

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(f"no promptjobs service can be used at {url}: {cause}")
        self.url, self.cause = url, cause


class UnexpectedAnswer(ConnectionFailed):
    """Something answers at the service's address that is no promptjobs service, or of a version that is not known."""

    code = "unexpected_answer"


class EventMalformed(ClientError):
    """What a stream has sent is no event. Those who follow it are told of an UnexpectedAnswer, with the address."""

    code = "event_malformed"


class WaitTimedOut(ClientError):
    """The job was not over in time; it goes on. seconds: how long it was waited for."""

    code = "wait_timed_out"

    def __init__(self, job_id: str, job_status: str, seconds: float) -> None:
        super().__init__(f"job {job_id!r} is still {job_status} after {seconds:g} s")
        self.job_id, self.job_status, self.seconds = job_id, job_status, seconds


class ExperimentWaitTimedOut(ClientError):
    """The experiment was not over in time; it goes on. seconds: how long it was waited for."""

    code = "experiment_wait_timed_out"

    def __init__(self, experiment_id: str, experiment_status: str, seconds: float) -> None:
        super().__init__(f"experiment {experiment_id!r} is still {experiment_status} after {seconds:g} s")
        self.experiment_id, self.experiment_status, self.seconds = experiment_id, experiment_status, seconds


class ApiError(ClientError):
    """The service has answered with an error.

    status: of the HTTP answer. code: the problem's stable name. detail: the problem in words. param: the field or
    header that it is about, where one is. request_id: finds the request in the service's log. retry_after_seconds:
    when to ask again, where the service has said so.
    """

    # The tree's classes each have one status and one code; here they are those of the answer.
    status: int  # type: ignore[misc]
    code: str  # type: ignore[misc]

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        param: str | None = None,
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        place = f"{param}: " if param and param not in detail else ""
        super().__init__(f"{place}{detail} ({code})")
        self.status, self.code, self.detail, self.param = status, code, detail, param
        self.request_id, self.retry_after_seconds = request_id, retry_after_seconds


class InvalidRequestError(ApiError):
    """400, 413, 415, 422 and the like: what was sent cannot be carried out."""


class AuthenticationError(ApiError):
    """401, 403: the API key is missing, unknown, revoked, or for something else."""


class BalanceError(ApiError):
    """402: nothing is left of what the organisation may spend."""


class NotFoundError(ApiError):
    """404: there is no such thing, or it is another organisation's."""


class ConflictError(ApiError):
    """409: the state of the job does not allow what was asked."""


class RateLimitError(ApiError):
    """429: too much was asked for at once."""


class ServerError(ApiError):
    """5xx: the service cannot answer now, or has a defect."""
