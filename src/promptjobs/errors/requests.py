"""What a client has asked for and cannot have."""

from promptjobs.errors.base import PromptjobsError


class InvalidRequest(PromptjobsError):
    """The request cannot be carried out as it stands; `param` is a dotted path where one is known."""

    status = 422
    code = "invalid_request"

    def __init__(self, detail: str, param: str | None = None) -> None:
        super().__init__(f"{param}: {detail}" if param else detail)
        self.param = param


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


class CandidateNotFound(NotFound):
    code = "candidate_not_found"

    def __init__(self, candidate_id: str) -> None:
        super().__init__(f"there is no candidate {candidate_id!r}")
        self.candidate_id = candidate_id


class RolloutNotFound(NotFound):
    code = "rollout_not_found"

    def __init__(self, rollout_id: str) -> None:
        super().__init__(f"there is no rollout {rollout_id!r}")
        self.rollout_id = rollout_id


class ConfigNotFound(NotFound):
    """name: of a saved config."""

    code = "config_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no saved config {name!r}")
        self.name = name


class WebhookNotFound(NotFound):
    code = "webhook_not_found"

    def __init__(self, webhook_id: str) -> None:
        super().__init__(f"there is no webhook {webhook_id!r}")
        self.webhook_id = webhook_id


class DeliveryNotFound(NotFound):
    code = "delivery_not_found"

    def __init__(self, delivery_id: str) -> None:
        super().__init__(f"there is no delivery {delivery_id!r}")
        self.delivery_id = delivery_id


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
