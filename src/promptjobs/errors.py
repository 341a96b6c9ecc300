"""One tree of errors: each class names its HTTP status and its code, and keeps its facts."""

from typing import Any, ClassVar


class PromptjobsError(Exception):
    """Base of every error raised on purpose.

    `status` is the HTTP status it becomes, `code` a stable machine-readable name; `facts` are the public attributes.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    @property
    def facts(self) -> dict[str, Any]:
        return dict(vars(self))


# --- what a client asked for -------------------------------------------------------------------------------------


class InvalidRequest(PromptjobsError):
    """The request cannot be carried out as it stands; `field` is a dotted path where one is known."""

    status = 422
    code = "invalid_request"

    def __init__(self, detail: str, field: str | None = None) -> None:
        super().__init__(f"{field}: {detail}" if field else detail)
        self.field = field


class InvalidConfig(InvalidRequest):
    """The job's config has a wrong value, or lacks one."""

    code = "invalid_config"


class MiproConfigurationError(InvalidConfig):
    """The config of a MIPRO job has a wrong value, or lacks one."""

    code = "mipro_configuration_error"


class NotYetSupported(InvalidRequest):
    """A known field or algorithm that this version does not carry out; it is refused rather than ignored."""

    code = "not_yet_supported"


class BudgetTooSmall(InvalidRequest):
    """The rollout budget cannot hold the baseline, one iteration and the end of the search."""

    code = "budget_too_small"

    def __init__(self, budget: int, needed: int, parts: dict[str, int], field: str = "gepa.rollout.budget") -> None:
        listed = ", ".join(f"{name} {count}" for name, count in parts.items())
        super().__init__(f"the rollout budget is {budget}, and at least {needed} are needed ({listed})", field)
        self.budget, self.needed, self.parts = budget, needed, parts


class BudgetExceededError(InvalidRequest):
    """The limit on tokens cannot hold even the baseline's rollouts: `limit` and `needed` are tokens."""

    code = "budget_exceeded_error"

    def __init__(self, limit: int, needed: int, field: str) -> None:
        super().__init__(
            f"is {limit}, and the baseline prompt alone needs {needed} tokens on the bootstrap seeds", field
        )
        self.limit, self.needed = limit, needed


class UnpricedModel(InvalidRequest):
    """A model of the job has no known price, and a limit in USD needs one; `why` says which limit."""

    code = "unpriced_model"

    def __init__(self, provider: str, model: str, field: str, why: str) -> None:
        super().__init__(
            f"the price of {provider}/{model} is not known, and {why}: give one in prompt_learning.prices", field
        )
        self.provider, self.model, self.why = provider, model, why


class MalformedJson(PromptjobsError):
    """The request's body is not JSON."""

    status = 400
    code = "malformed_json"


class BodyTooLarge(PromptjobsError):
    """The request's body has more than `limit` bytes."""

    status = 413
    code = "body_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"a body may have at most {limit} bytes")
        self.limit = limit


class UnsupportedMediaType(PromptjobsError):
    """The request's body is not declared as JSON."""

    status = 415
    code = "unsupported_media_type"


class NotFound(PromptjobsError):
    status = 404
    code = "not_found"


class JobNotFound(NotFound):
    code = "job_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id!r}")
        self.job_id = job_id


class SnapshotNotFound(NotFound):
    code = "snapshot_not_found"

    def __init__(self, snapshot_id: str) -> None:
        super().__init__(f"there is no snapshot {snapshot_id!r}")
        self.snapshot_id = snapshot_id


class JobConflict(PromptjobsError):
    """The job's status does not allow what was asked."""

    status = 409
    code = "job_conflict"

    def __init__(self, job_id: str, status: str, wanted: str) -> None:
        super().__init__(f"job {job_id!r} is {status}: it cannot {wanted}")
        self.job_id, self.job_status, self.wanted = job_id, status, wanted


class BalanceEmpty(PromptjobsError):
    """Nothing is left of what the organisation may spend: none of its jobs is started or goes on. usd: at most 0."""

    status = 402
    code = "balance_empty"

    def __init__(self, organisation: str, usd: float) -> None:
        super().__init__(f"organisation {organisation!r} has {usd:g} USD left: no job can be started")
        self.organisation, self.usd = organisation, usd


# --- the prompt --------------------------------------------------------------------------------------------------


class PromptError(PromptjobsError):
    """A prompt, pattern or transformation that is not well formed."""

    status = 422
    code = "invalid_prompt"


class PromptNotMatched(PromptError):
    """The task app's messages are not the baseline's: `index` is the first message that differs.

    matched: characters of that message that fit. module: of several modules the one that the call comes closest to.
    """

    code = "prompt_not_matched"

    def __init__(self, index: int, expected: str, got: str, matched: int = 0, module: str = "") -> None:
        baseline = f"baseline prompt of any module; {module!r} comes closest" if module else "baseline prompt"
        super().__init__(f"message {index} does not match the {baseline}: expected {expected}, got {got}")
        self.index, self.expected, self.got = index, expected, got
        self.matched, self.module = matched, module


class TransformNotApplied(PromptError):
    """A transformation names a text that the prompt does not hold."""

    code = "transform_not_applied"


class TransformApplicationError(PromptError):
    """A transform of an instruction does not apply to the prompt; `index` is its place among those to be applied.

    reason: a short name of why. module: whose messages it was meant for, "" where the prompt is not divided.
    """

    code = "transform_application_error"

    def __init__(self, index: int, reason: str, detail: str, module: str = "") -> None:
        place = f" to module {module!r}" if module else ""
        super().__init__(f"transform {index} does not apply{place}: {reason}: {detail}")
        self.index, self.reason, self.detail, self.module = index, reason, detail, module


# --- the world: task apps, providers -----------------------------------------------------------------------------


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


# --- the durable runner ------------------------------------------------------------------------------------------


class LeaseLost(PromptjobsError):
    """Another worker owns the job, or its lease ran out: nothing more may be written or called."""

    status = 409
    code = "lease_lost"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"the lease on job {job_id!r} is lost")
        self.job_id = job_id


class JournalMismatch(PromptjobsError):
    """Replay does not reproduce the recorded turn `turn`: the search changed under a running job."""

    code = "journal_mismatch"

    def __init__(self, job_id: str, turn: int) -> None:
        super().__init__(f"turn {turn} of job {job_id!r} does not replay: the search is not the one that was recorded")
        self.job_id, self.turn = job_id, turn


class JobFailed(PromptjobsError):
    """The job cannot be carried out; the message is what its user reads."""

    status = 500
    code = "job_failed"


class BudgetExhausted(PromptjobsError):
    """A cap does not hold the next call, which is not made. cap: a finish reason; words: what is taken and wanted."""

    status = 402
    code = "budget_exhausted"

    def __init__(self, cap: str, words: str) -> None:
        super().__init__(f"{cap}: {words}")
        self.cap, self.words = cap, words


# --- the interceptor: calls by task apps ---------------------------------------------------------------------------


class CallRefused(PromptjobsError):
    """A task app's call is not carried out; nothing has been sent to a provider."""

    status = 400
    code = "call_refused"


class CallInvalid(CallRefused):
    """The call's body is not a chat completion that can be carried out; `param` is the field, where one is known."""

    code = "invalid_call"

    def __init__(self, detail: str, param: str | None = None) -> None:
        super().__init__(f"{param}: {detail}" if param else detail)
        self.param = param


class ToolNotAllowed(CallInvalid):
    """The call carries a tool that the job's config does not allow to its module."""

    code = "tool_not_allowed"

    def __init__(self, tool: str, module: str, allowed: tuple[str, ...]) -> None:
        names = ", ".join(map(repr, allowed)) or "none"
        super().__init__(f"module {module!r} may not carry the tool {tool!r}; allowed_tools: {names}", "tools")
        self.tool, self.module, self.allowed = tool, module, allowed


class CallTooLarge(CallRefused):
    status = 413
    code = "call_too_large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the body is larger than {max_bytes} bytes")
        self.max_bytes = max_bytes


class CallerGone(CallRefused):
    """The task app closed the connection before its call was complete; there is nobody to answer."""

    status = 499
    code = "client_disconnected"


class EndpointUnknown(CallRefused):
    """A path of the interceptor that is no chat completion."""

    status = 404
    code = "unknown_endpoint"


class MethodNotAllowed(CallRefused):
    status = 405
    code = "method_not_allowed"

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"the method must be {allowed}, got {method}")
        self.method, self.allowed = method, allowed


class CallBudgetExhausted(CallRefused):
    """A cap of the call's job, or its organisation's balance, does not hold the call. Facts as in BudgetExhausted."""

    status = 402
    code = "budget_exhausted"

    def __init__(self, cap: str, words: str) -> None:
        super().__init__(f"{cap}: {words}")
        self.cap, self.words = cap, words


class TokenUnknown(CallRefused):
    status = 401
    code = "unknown_token"


class TokenRevoked(CallRefused):
    """The token has been revoked or has expired, or its job has ended or runs elsewhere."""

    status = 401
    code = "token_revoked"


class MeteringUnavailable(PromptjobsError):
    """A call could not be recorded, or could not have been: it is not carried out, or its reply is withheld."""

    status = 503
    code = "metering_unavailable"


# --- the service's own parts -------------------------------------------------------------------------------------


class EmbeddedPostgresFailed(PromptjobsError):
    """The embedded PostgreSQL did not start; `log` holds the tail of its log."""

    code = "embedded_postgres_failed"

    def __init__(self, cause: str, log: str = "") -> None:
        super().__init__(f"{cause}\n{log}" if log else cause)
        self.cause, self.log = cause, log


class DatabaseUnavailable(PromptjobsError):
    status = 503
    code = "database_unavailable"


class NotReady(PromptjobsError):
    """The service cannot work yet; the message names what is missing."""

    status = 503
    code = "not_ready"


# --- the command line --------------------------------------------------------------------------------------------


class CommandFailed(PromptjobsError):
    """A command cannot go on; `exit_code` is what its process ends with."""

    code = "command_failed"
    exit_code: ClassVar[int] = 2


class FileUnusable(CommandFailed):
    """A file named on the command line cannot be read or written, or is not what it should be."""

    code = "file_unusable"

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(f"{path}: {cause}")
        self.path, self.cause = path, cause


class OptionInvalid(CommandFailed):
    """An option, or the setting behind it, has a value that cannot be used."""

    code = "option_invalid"

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(f"{name}: {cause}")
        self.name, self.cause = name, cause


class RequestRefused(CommandFailed):
    """The service has refused a request; `detail`, `field` and `problem` are those of its answer."""

    code = "request_refused"

    def __init__(self, answered: int, detail: str, field: str | None, problem: str) -> None:
        place = f"{field}: " if field and field not in detail else ""
        super().__init__(f"{place}{detail} ({problem})")
        self.answered, self.detail, self.field, self.problem = answered, detail, field, problem


class ServiceUnreachable(CommandFailed):
    """Nothing at the service's address answers, or what answers cannot be used."""

    code = "service_unreachable"
    exit_code = 3

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(f"no promptjobs service can be used at {url}: {cause}")
        self.url, self.cause = url, cause


class ProcessFailed(CommandFailed):
    """A process did not start, or ended by itself; `log` is the last it has said."""

    code = "process_failed"

    def __init__(self, name: str, cause: str, log: str = "") -> None:
        super().__init__(f"{name} {cause}: {log}" if log else f"{name} {cause}")
        self.name, self.cause, self.log = name, cause, log
