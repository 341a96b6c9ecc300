"""What has become of a candidate, by what its search told of it."""

import pytest

from promptjobs.core.rejections import (
    ENDED,
    REFUSED_WORDS,
    WORDS,
    CandidateStatus,
    RejectionCode,
    Verdict,
    rejection_of,
    status_of,
)

BASELINE, PENDING, ACCEPTED, REJECTED, UNDECIDED = CandidateStatus


@pytest.mark.parametrize(
    ("operator", "verdict", "is_over", "status"),
    [
        ("baseline", None, False, BASELINE),
        ("probe", None, True, BASELINE),
        ("reflection", None, False, PENDING),
        ("reflection", None, True, UNDECIDED),
        ("reflection", Verdict(True, "accepted", 0.5), False, ACCEPTED),
        ("mipro", Verdict(True, None, 0.5), True, ACCEPTED),
        ("merge", Verdict(False, "not improved", 0.5), False, REJECTED),
        ("merge", Verdict(False, ENDED, 0.5), True, UNDECIDED),
    ],
)
def test_a_candidate_has_one_status(
    operator: str, verdict: Verdict | None, is_over: bool, status: CandidateStatus
) -> None:
    assert status_of(operator, verdict, is_over) is status
    assert (rejection_of(status, verdict) is not None) == (status is REJECTED)


@pytest.mark.parametrize(
    ("reason", "score", "code"),
    [
        ("not improved", 0.5, RejectionCode.NOT_IMPROVED),
        ("not confirmed", 0.5, RejectionCode.NOT_CONFIRMED),
        ("a sibling was better", 0.5, RejectionCode.SIBLING_BETTER),
        ("incomplete", None, RejectionCode.INCOMPLETE),
        ("no budget left", None, RejectionCode.NO_BUDGET),
        (None, None, RejectionCode.NO_SCORE),
        (None, 0.5, RejectionCode.BELOW_BEST),
    ],
)
def test_a_rejection_says_why(reason: str | None, score: float | None, code: RejectionCode) -> None:
    found = rejection_of(REJECTED, Verdict(False, reason, score))
    assert found is not None
    assert found.to_json() == {"code": code, "reason": WORDS[code]}


def test_a_reason_that_is_not_known_stands_for_itself() -> None:
    found = rejection_of(REJECTED, Verdict(False, "of another version", 0.5))
    assert found is not None
    assert (found.code, found.reason) == (RejectionCode.OTHER, "of another version")


def test_every_code_has_words() -> None:
    assert WORDS.keys() == set(RejectionCode)
    assert all(REFUSED_WORDS.values())
