"""Failures by whose fault they are: the one classification of every reason, and how counts of them are said."""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from promptjobs.core.asks import FailureReason
from promptjobs.core.proposers.reflection import Refusal


class FailureKind(StrEnum):
    """Where to look. PARSE: something came, but could not be read. PROMPT: it was not the candidate that was run, or
    not as its rules want it. JUDGE: the rollout was answered, and the judge gave no score."""

    PROVIDER = "provider"
    TASK_APP = "task_app"
    PARSE = "parse"
    PROMPT = "prompt"
    JUDGE = "judge"


_REASONS: Mapping[FailureKind, tuple[FailureReason, ...]] = {
    FailureKind.PROVIDER: (FailureReason.PROVIDER_ERROR, FailureReason.PROVIDER_TIMEOUT),
    FailureKind.TASK_APP: (
        FailureReason.TASK_APP_ERROR,
        FailureReason.TASK_APP_TIMEOUT,
        FailureReason.TASK_APP_UNREACHABLE,
    ),
    FailureKind.PARSE: (FailureReason.INVALID_SCORE, FailureReason.INVALID_REPLY),
    FailureKind.PROMPT: (
        FailureReason.CANDIDATE_NOT_USED,
        FailureReason.PROMPT_NOT_MATCHED,
        FailureReason.TOOL_NOT_ALLOWED,
    ),
    FailureKind.JUDGE: (FailureReason.JUDGE_FAILED,),
}

KINDS: Mapping[FailureReason, FailureKind] = {reason: kind for kind, reasons in _REASONS.items() for reason in reasons}
"""The kind of every reason there is."""

UNPARSED = frozenset(
    {
        Refusal.TRUNCATED,
        Refusal.NO_TEXT,
        Refusal.SEVERAL_TEXTS,
        Refusal.EMPTY,
        Refusal.REASONING,
        Refusal.UNREADABLE,
        Refusal.UNKNOWN_TYPE,
    }
)
"""Refusals of a proposal whose reply could not be read; the others were read, and are of no use."""


def by_kind(reasons: Mapping[FailureReason, int]) -> dict[FailureKind, int]:
    """So many failures of each kind, 0 included."""
    counts = dict.fromkeys(FailureKind, 0)
    for reason, count in reasons.items():
        counts[KINDS[reason]] += count
    return counts


def said(reasons: Mapping[FailureReason, int]) -> str:
    """The most frequent first: "7 provider_error, 2 invalid_score"."""
    return ", ".join(f"{count} {reason}" for reason, count in most_frequent_first(reasons.items()))


def most_frequent_first(counts: Iterable[tuple[FailureReason, int]]) -> list[tuple[FailureReason, int]]:
    """Ties in the order of the reasons' names; reasons without a failure are left out."""
    return sorted(((reason, count) for reason, count in counts if count), key=lambda each: (-each[1], each[0]))
