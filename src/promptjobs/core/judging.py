"""Puts answered rollouts before the judge, each once, and keeps what it said."""

from collections.abc import Sequence
from dataclasses import replace

from promptjobs.core.asks import (
    Answer,
    Completion,
    CompletionBody,
    EventFact,
    Fact,
    FailureReason,
    Key,
    Recall,
    Step,
    Steps,
)
from promptjobs.core.pipeline import without_examples
from promptjobs.core.prompt import PromptTemplate
from promptjobs.core.stats import Statistics
from promptjobs.core.verifier import Case, Judgement, Misjudged, Misreading, Verifier, read_judgement


class Judging:
    """Judgements by question: equal outputs on equal inputs are one question, whoever has produced them."""

    def __init__(self, verifier: Verifier, stats: Statistics) -> None:
        self.verifier = verifier
        self._stats = stats
        self._read: dict[Key, Judgement | Misjudged] = {}
        self._counted: set[Key] = set()
        self._judged: dict[Key, Answer] = {}
        self._said: dict[Key, str] = {}

    def said_of(self, rollout: Key) -> str | None:
        """The judge's reasons, or why it gave none; None for a rollout that was not judged."""
        return self._said.get(rollout)

    def judge(self, rollouts: Sequence[Answer], prompt: PromptTemplate | None) -> Steps:
        """The judged answers by key: the score is the blended one, and None with JUDGE_FAILED where there is none.

        rollouts: answered with a score, with this prompt; None for the task app's own messages. What was judged before
        is not asked again, and worked examples of the prompt are not shown.
        """
        new = list({a.key: a for a in rollouts if a.key not in self._judged}.values())
        if new:
            bodies = yield Recall([answer.key for answer in new])
            cases = [self.verifier.case(without_examples(prompt, body) if prompt else body) for body in bodies]
            yield from self._ask([question for case in cases for question in case.questions])
            facts = [fact for answer, case in zip(new, cases, strict=True) for fact in self._settle(answer, case)]
            if facts:
                yield Step(facts=facts)
        return {answer.key: self._judged[answer.key] for answer in rollouts}

    def _ask(self, questions: Sequence[Completion]) -> Steps:
        """Ask what has no reading yet. A reply that cannot be read is asked for once more, in another draw."""
        first = {question.key: question for question in questions if question.key not in self._read}
        if not first:
            return
        found = yield from self._replies(list(first.values()))
        again: dict[Key, Completion] = {}
        for key, question in first.items():
            read = found[key]
            if isinstance(read, Misjudged) and read.reason is not Misreading.FAILED:
                again[key] = replace(question, draw=1)
            else:
                self._read.setdefault(key, read)
        # Another lane that waited for the same first replies may have had the second ones already.
        again = {key: question for key, question in again.items() if key not in self._read}
        if again:
            found = yield from self._replies(list(again.values()))
            for key, question in again.items():
                self._read.setdefault(key, found[question.key])

    def _replies(self, questions: Sequence[Completion]) -> Steps:
        """What came of each question, by its key."""
        answers: Sequence[Answer] = yield Step(questions)
        for answer in answers:
            if answer.key not in self._counted:
                self._counted.add(answer.key)
                self._stats.count_judgement(answer)
        bodies: Sequence[CompletionBody] = yield Recall([answer.key for answer in answers])
        return {
            answer.key: Misjudged(Misreading.FAILED, body.text[:200])
            if answer.is_failure
            else read_judgement(body.text, body.finish_reason)
            for answer, body in zip(answers, bodies, strict=True)
        }

    def _settle(self, rollout: Answer, case: Case) -> list[Fact]:
        """Blend what was read into the rollout's score; returns what is to be told of it."""
        if rollout.key in self._judged:  # by another lane, while this one waited
            return []
        read = [self._read[question.key] for question in case.questions]
        misjudged = next((each for each in read if isinstance(each, Misjudged)), None)
        if misjudged is not None:
            self._judged[rollout.key] = replace(rollout, score=None, reason=FailureReason.JUDGE_FAILED)
            self._stats.count_unjudged()
            self._said[rollout.key] = f"The judge gave no score: {misjudged.reason}. {misjudged.detail}".strip()
            return [_refused(rollout, misjudged)]
        judgements = [each for each in read if isinstance(each, Judgement)]
        has_outcome = case.outcome is not None
        blended = self.verifier.blend(
            rollout.score or 0.0, judgements[0] if has_outcome else None, judgements[int(has_outcome) :]
        )
        self._judged[rollout.key] = replace(rollout, score=blended.score)
        self._said[rollout.key] = blended.reason
        return []


def _refused(rollout: Answer, misjudged: Misjudged) -> EventFact:
    return EventFact(
        "prompt.learning.judgement.refused",
        f"a rollout has no score: {misjudged.reason}",
        {
            "rollout_id": rollout.key.hex(),
            "task_app_score": rollout.score,
            "reason": misjudged.reason.name.lower(),
            "detail": misjudged.detail,
        },
        "warning",
    )
