"""GEPA's proposals: from what went wrong with a parent to a new candidate, by a reflection."""

from collections import Counter
from collections.abc import Sequence

from promptjobs.core import gepa_events as events
from promptjobs.core.archive import Candidate
from promptjobs.core.asks import (
    CandidateFact,
    Completion,
    CompletionBody,
    Key,
    MetaModel,
    Recall,
    RolloutBody,
    Step,
    Steps,
)
from promptjobs.core.config import GepaConfig
from promptjobs.core.evaluations import Evaluations
from promptjobs.core.prompt import PLACEHOLDER, Message, PromptTemplate
from promptjobs.core.proposers.reflection import Record, Refusal, Refused, parse_proposal, reflection_messages
from promptjobs.core.trial import Trial
from promptjobs.errors import JobFailed

FAILURES_IN_A_ROW = 5
"""Reflections without a reply, after which the search gives up."""


class Proposals:
    """candidates: all of the search, by id; a proposal that is among them is not made again."""

    def __init__(self, config: GepaConfig, evaluations: Evaluations, candidates: dict[str, Candidate]) -> None:
        self.config = config
        self.meta_model = MetaModel(**config.meta_model.model_dump())
        self.evaluations = evaluations
        self.candidates = candidates
        self.mutable: tuple[str, ...] = ()
        self._cursors: dict[str, int] = {}
        self._prompted: Counter[Key] = Counter()
        self._failed = 0

    def begin(self, baseline: PromptTemplate) -> None:
        """Raises JobFailed where the prompt has no text of its own."""
        self.mutable = mutable_sections(baseline)

    def evidence(self, parent: Candidate, trial: Trial) -> Steps:
        """What went wrong on the minibatch, the worst first; none where every score is perfect."""
        known = self.evaluations.known[parent.candidate_id]
        flawed = [(seed, score) for seed, score in zip(trial.seeds, trial.scores, strict=True) if (score or 0.0) < 1.0]
        flawed.sort(key=lambda pair: (pair[1] is None, pair[1] or 0.0))
        bodies = yield Recall([known[seed].key for seed, _ in flawed])
        return [_record(body, score) for body, (_, score) in zip(bodies, flawed, strict=True)]

    def propose(self, parent: Candidate, records: Sequence[Record], generation: int) -> Steps:
        """Ask the meta-model for a new text of one section; returns the new candidate, or None where it is refused.

        Sections take turns: a child goes on where its parent stood. generation: finished proposals, for the event.
        """
        # A candidate of generation g has had g sections rewritten on its way.
        cursor = self._cursors.get(parent.candidate_id, parent.generation)
        section = self.mutable[cursor % len(self.mutable)]
        self._cursors[parent.candidate_id] = cursor + 1
        text, placeholders = parent.template.section(section).content, parent.template.placeholders(section)
        messages = reflection_messages(text, placeholders, records, self.config.metaprompt)
        reply = yield from self._reflect(messages)
        self.evaluations.stats.trials_tried += 1
        proposal = self._read(reply, parent.template, section) if isinstance(reply, CompletionBody) else reply
        if isinstance(proposal, Refused):
            self.evaluations.stats.proposals_refused += 1
            yield Step(facts=[events.refused(parent, section, proposal)])
            return None
        template = parent.template.with_text({section: proposal})
        candidate_id = template.digest()
        if candidate_id in self.candidates:
            self.evaluations.stats.proposals_refused += 1
            yield Step(facts=[events.duplicate(parent, self.candidates[candidate_id])])
            return None
        child = Candidate(
            candidate_id=candidate_id,
            n=len(self.candidates),
            prompt=template,
            baseline_id=parent.baseline_id,
            parents=(parent.candidate_id,),
            operator="reflection",
            generation=parent.generation + 1,
        )
        self._cursors[candidate_id] = cursor + 1
        self.candidates[candidate_id] = child
        yield Step(facts=[CandidateFact(child), events.proposed(child, parent, section, generation)])
        return child

    def _read(self, reply: CompletionBody, template: PromptTemplate, section: str) -> str | Refused:
        return parse_proposal(
            reply.text,
            reply.finish_reason,
            template.section(section).content,
            template.placeholders(section),
            self.config.proposed_prompt_max_tokens,
            template.wildcards,
        )

    def _reflect(self, messages: tuple[Message, ...]) -> Steps:
        """A reply that was not given before: the same evidence asks for another draw."""
        first = Completion("reflection", self.meta_model, messages)
        draw = self._prompted[first.key]
        self._prompted[first.key] += 1
        ask = Completion("reflection", self.meta_model, messages, draw)
        [answer] = yield Step([ask])
        self.evaluations.stats.count_completion(answer)
        [body] = yield Recall([answer.key])
        if not answer.is_failure:
            self._failed = 0
            return body
        self._failed += 1
        if self._failed >= FAILURES_IN_A_ROW:
            raise JobFailed(f"the meta-model failed {self._failed} times in a row: {body.text}")
        return Refused(Refusal.FAILED, body.text)


def mutable_sections(template: PromptTemplate) -> tuple[str, ...]:
    """Sections whose text may change: the system's (or developer's), else all that hold text of their own."""

    def has_text(content: str) -> bool:
        return bool(PLACEHOLDER.sub("", content).strip())

    texts = [section for section in template.sections if has_text(section.content)]
    system = [section.name for section in texts if section.role in ("system", "developer")]
    names = system or [section.name for section in texts]
    if not names:
        raise JobFailed("the prompt has no text of its own: there is nothing to optimize")
    return tuple(names)


def _record(body: RolloutBody, score: float | None) -> Record:
    said = "\n\n".join(message.content for message in body.messages if message.role not in ("system", "developer"))
    return Record(input=said, output=body.output, feedback=body.feedback, expected=body.expected, score=score)
