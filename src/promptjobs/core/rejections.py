"""What has become of a candidate, and why one was rejected, from what its search has told."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from promptjobs.core.guards import Breach
from promptjobs.core.proposers.reflection import Refusal

ENDED = "the search ended before it was decided"
"""What a search says of a candidate that its end overtook."""

BASELINES = ("baseline", "probe")
"""Operators of candidates that nobody proposed."""


class CandidateStatus(StrEnum):
    """BASELINE: it was not proposed. PENDING: it is still being measured. UNDECIDED: the job ended before it was. Which
    one is best is said beside it."""

    BASELINE = "baseline"
    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNDECIDED = "undecided"


class RejectionCode(StrEnum):
    NOT_IMPROVED = "not_improved"
    NOT_CONFIRMED = "not_confirmed"
    SIBLING_BETTER = "sibling_better"
    INCOMPLETE = "incomplete"
    NO_BUDGET = "no_budget"
    NO_SCORE = "no_score"
    BELOW_BEST = "below_best"
    OTHER = "other"


_OF_REASON: Mapping[str, RejectionCode] = {
    "not improved": RejectionCode.NOT_IMPROVED,
    "not confirmed": RejectionCode.NOT_CONFIRMED,
    "a sibling was better": RejectionCode.SIBLING_BETTER,
    "incomplete": RejectionCode.INCOMPLETE,
    "no budget left": RejectionCode.NO_BUDGET,
}

WORDS: Mapping[RejectionCode, str] = MappingProxyType(
    {
        RejectionCode.NOT_IMPROVED: "it did not score better than what it was compared with, on the same seeds",
        RejectionCode.NOT_CONFIRMED: "the stand-in foretold a win that the model under optimization did not repeat",
        RejectionCode.SIBLING_BETTER: "another proposal of the same batch scored better on the same seeds",
        RejectionCode.INCOMPLETE: "too many of its rollouts failed for a fair comparison",
        RejectionCode.NO_BUDGET: "the budget did not hold the rollouts for a comparison",
        RejectionCode.NO_SCORE: "none of its rollouts brought a score",
        RejectionCode.BELOW_BEST: "its mean is below the estimate of the best configuration",
        RejectionCode.OTHER: "the search did not take it",
    }
)

REFUSED_WORDS: Mapping[str, str] = MappingProxyType(
    {
        **{breach.name.lower(): breach.value for breach in Breach},
        **{refusal.name.lower(): refusal.value for refusal in Refusal},
        "duplicate": "the prompt was tried already",
        "transform": "a change does not apply to the prompt",
    }
)
"""Why proposals never became candidates, by the codes that their events have."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the search told when it had measured a candidate. reason: None where it gives none, as MIPRO does."""

    is_accepted: bool
    reason: str | None
    score: float | None


@dataclass(frozen=True, slots=True)
class Rejection:
    """reason: in words."""

    code: RejectionCode
    reason: str

    def to_json(self) -> dict[str, str]:
        return {"code": self.code, "reason": self.reason}


def status_of(operator: str, verdict: Verdict | None, is_over: bool) -> CandidateStatus:
    """is_over: whether the job is."""
    if operator in BASELINES:
        return CandidateStatus.BASELINE
    if verdict is None:
        return CandidateStatus.UNDECIDED if is_over else CandidateStatus.PENDING
    if verdict.is_accepted:
        return CandidateStatus.ACCEPTED
    return CandidateStatus.UNDECIDED if verdict.reason == ENDED else CandidateStatus.REJECTED


def rejection_of(status: CandidateStatus, verdict: Verdict | None) -> Rejection | None:
    """None for a candidate that was not rejected. The words of a reason that is not known here are the search's own."""
    if status is not CandidateStatus.REJECTED or verdict is None:
        return None
    if verdict.reason is None:
        code = RejectionCode.NO_SCORE if verdict.score is None else RejectionCode.BELOW_BEST
        return Rejection(code, WORDS[code])
    code = _OF_REASON.get(verdict.reason, RejectionCode.OTHER)
    return Rejection(code, verdict.reason if code is RejectionCode.OTHER else WORDS[code])
