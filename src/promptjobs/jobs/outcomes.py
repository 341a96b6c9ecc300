"""What came of an ask: the calls of a rollout read together with its outcome, and the form in which it is stored."""

from collections.abc import Sequence

import orjson

from promptjobs.clients.rollout_reply import RolloutReply
from promptjobs.core.asks import Body, CallBody, FailureReason
from promptjobs.core.prompt import Message
from promptjobs.db.calls import CallRecord
from promptjobs.db.journal import body_text
from promptjobs.errors import (
    BudgetExhausted,
    DeadlineExceeded,
    InvalidReply,
    InvalidScore,
    PromptjobsError,
    ProviderCallFailed,
    ProviderNotConfigured,
    SecretUnreadable,
    TaskAppFailed,
    TaskAppUnreachable,
    Unreachable,
    WorldError,
)

DETAIL_CHARACTERS = 2_000
"""Of a failure's detail, as it is kept."""


class PromptWasNotMatched(WorldError):
    """The task app sent messages that are not the baseline's; they were not forwarded."""

    code = "prompt_not_matched"


class ToolWasNotAllowed(WorldError):
    """The task app's call carried a tool that its module may not carry; it was not forwarded."""

    code = "tool_not_allowed"


class CandidateNotUsed(WorldError):
    """A rollout ended without a call of its LLM through the interceptor: its score says nothing about the prompt."""

    code = "candidate_not_used"


def exhausted_by(calls: Sequence[CallRecord]) -> BudgetExhausted | None:
    """What ends a rollout one of whose calls a cap did not hold, whatever the task app has made of that.

    The call's error is "budget_exhausted: <cap>: <words>".
    """
    refused = next((call for call in calls if call.error_code == BudgetExhausted.code), None)
    if refused is None:
        return None
    _, cap, words = (part.strip() for part in (refused.error or "").split(":", 2))
    return BudgetExhausted(cap, words)


def keyless_by(calls: Sequence[CallRecord]) -> PromptjobsError | None:
    """What ends a job one of whose calls had no key to be made with: the next call would have none either."""
    for call in calls:
        if call.error_code == SecretUnreadable.code:
            return SecretUnreadable()
        if call.error_code == ProviderNotConfigured.code:
            return ProviderNotConfigured((call.error or "").partition(": ")[2])
    return None


def settled(outcome: RolloutReply | WorldError, calls: Sequence[CallRecord]) -> RolloutReply | WorldError:
    """The outcome in the light of the calls that were made: the prompt that ran is the prompt that is scored."""
    unmatched = next((call for call in calls if call.error_code == "prompt_not_matched"), None)
    if unmatched is not None:
        return PromptWasNotMatched(unmatched.error or "")
    barred = next((call for call in calls if call.error_code == ToolWasNotAllowed.code), None)
    if barred is not None:
        return ToolWasNotAllowed(barred.error or "")
    answered = [call for call in calls if call.error is None]
    if isinstance(outcome, RolloutReply):
        if answered:
            return outcome
        if not calls:
            return CandidateNotUsed("the rollout ended without a call of its LLM through inference_url")
    refused = next((call for call in reversed(calls) if call.error is not None), None)
    if refused is not None and not answered:
        retryable = refused.status in (429, 502, 503, 504)
        return ProviderCallFailed(refused.provider, refused.error or "", refused.status, retryable=retryable)
    return outcome


def reason_of(error: WorldError) -> FailureReason:
    match error:
        case PromptWasNotMatched():
            return FailureReason.PROMPT_NOT_MATCHED
        case ToolWasNotAllowed():
            return FailureReason.TOOL_NOT_ALLOWED
        case CandidateNotUsed():
            return FailureReason.CANDIDATE_NOT_USED
        case InvalidScore():
            return FailureReason.INVALID_SCORE
        case InvalidReply():
            return FailureReason.INVALID_REPLY
        case DeadlineExceeded():
            return FailureReason.TASK_APP_TIMEOUT
        case ProviderCallFailed():
            return FailureReason.PROVIDER_ERROR
        case TaskAppUnreachable() | Unreachable():
            return FailureReason.TASK_APP_UNREACHABLE
        case TaskAppFailed():
            return FailureReason.TASK_APP_ERROR
        case _:
            return FailureReason.TASK_APP_ERROR


def is_billed(error: ProviderCallFailed) -> bool:
    return bool(error.prompt_tokens or error.completion_tokens or error.unknown_tokens)


def cost_of(calls: Sequence[CallRecord]) -> float | None:
    """The sum over the calls that used tokens; None where one of them has no price, or none was made."""
    return sum_of([c.cost_usd for c in calls if c.prompt_tokens or c.completion_tokens or c.unknown_tokens])


def sum_of(costs: Sequence[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known and len(known) == len(costs) else None


def messages_of(call: CallRecord) -> tuple[Message, ...]:
    """The call's messages as text: parts that are no text are left out."""
    found = []
    for message in orjson.loads(call.messages):
        content = message.get("content")
        if isinstance(content, list):
            content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
        found.append(Message(str(message.get("role")), content if isinstance(content, str) else ""))
    return tuple(found)


def calls_of_body(calls: Sequence[CallRecord]) -> tuple[CallBody, ...]:
    """The answered calls where there are several: a judge, or modules of a program, are to see them one by one."""
    answered = [call for call in calls if call.error is None]
    return tuple(CallBody(messages_of(call), call.reply_text) for call in answered) if len(answered) > 1 else ()


def storable(text: str | None) -> str | None:
    """Postgres stores no NUL."""
    return None if text is None else text.replace("\x00", "\ufffd")


def text_of(body: Body) -> str:
    try:
        return body_text(body)
    except orjson.JSONEncodeError as error:
        raise PromptjobsError("a body holds text that is no Unicode") from error
