"""GEPA's proposals: from what went wrong with a parent to new texts of its sections, by reflections."""

import random
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from promptjobs.core import gepa_events as events
from promptjobs.core.archive import Candidate
from promptjobs.core.asks import Completion, CompletionBody, Key, MetaModel, Recall, RolloutBody, Step, Steps
from promptjobs.core.config import GepaJobConfig
from promptjobs.core.demonstrations import MARK, OWN_HEADING, Ladder, example_of, own_text, with_own_text
from promptjobs.core.evaluations import Evaluations
from promptjobs.core.evidence import Evidence, inputs, record_of
from promptjobs.core.failures import UNPARSED
from promptjobs.core.guards import Guards
from promptjobs.core.line_merging import normalised
from promptjobs.core.pipeline import calls_by_module
from promptjobs.core.prompt import PLACEHOLDER, Message, PromptTemplate
from promptjobs.core.proposers.reflection import Brief, Refusal, Refused, parse_proposal, reflection_messages
from promptjobs.core.text_tokens import TokenCounter
from promptjobs.errors import JobFailed

FAILURES_IN_A_ROW = 5
"""Reflections without a reply, after which the search gives up."""

REMEMBERED = 3
"""Rejected edits of a parent that its next reflection is shown."""

RECORD_CHARACTERS = {"LOW_CONTEXT": 1_500, "LOW": 4_000, "MEDIUM": 6_000, "HIGH": 12_000}
REPLY_TOKENS = {"RAPID": 2_048, "FAST": 8_192, "SLOW": 32_768}
REPLY_WORDS = {"RAPID": 600, "FAST": None, "SLOW": None}

TIPS = (
    None,
    "Prefer precise rules that tell apart what was confused over general advice.",
    "Look for a rule in the current text that the feedback contradicts, and correct it.",
)
"""Hints that the proposer of type dspy gives in turn."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """New texts of some sections of a parent, without their examples."""

    parent: Candidate
    texts: dict[str, str]
    number: int


class Proposals:
    """candidates: all of the search, by id; a prompt that is among them is not made again."""

    def __init__(
        self, config: GepaJobConfig, evaluations: Evaluations, candidates: dict[str, Candidate], ladder: Ladder
    ) -> None:
        self.config = config.gepa
        meta = config.gepa.meta_model
        most = min(meta.max_tokens, REPLY_TOKENS[config.gepa.proposer_output_tokens])
        self.meta_model = MetaModel(meta.provider, meta.model, meta.temperature, most)
        self.evaluations = evaluations
        self.candidates = candidates
        self.ladder = ladder
        self.mutable: tuple[str, ...] = ()
        self.guards: Guards | None = None
        self.calls = 0
        self.under_way = 0
        self._rejected: dict[tuple[str, str], deque[str]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._cursors: dict[str, dict[str, int]] = {}
        self._prompted: Counter[Key] = Counter()
        self._failed = 0
        self._answering: str | None = None

    def begin(self, baseline: PromptTemplate) -> None:
        """Raises JobFailed where the prompt has no text of its own."""
        slots = {module.module_id: module.max_instruction_slots for module in self.config.modules}
        self.mutable = mutable_sections(baseline, slots)
        counter = TokenCounter(self.config.token_counting_model)
        limits = self.config.module_limits
        self.guards = Guards(self.config.guards, baseline, counter.count, own_text, limits)

    # --- evidence ----------------------------------------------------------------------------------------------------

    def evidence(self, parent: Candidate, seeds: Sequence[int]) -> Steps:
        """What went wrong with the parent on seeds it is known on, the worst first; none where all is perfect."""
        known = self.evaluations.known[parent.candidate_id]
        bodies = yield Recall([known[seed].key for seed in seeds])
        pairs = [(seed, known[seed].score, body) for seed, body in zip(seeds, bodies, strict=True)]
        found = [self._evidence(parent, *pair) for pair in pairs]
        for each in found:
            if each.score is not None:
                self._learn_example(parent, each)
        if self.guards is not None:
            self.guards.learn([said for each in found for said in inputs(each)])
        flawed = [each for each in found if (each.score or 0.0) < 1.0]
        flawed.sort(key=lambda each: (each.score is None, each.score or 0.0))
        return flawed

    def _evidence(self, parent: Candidate, seed: int, score: float | None, body: RolloutBody) -> Evidence:
        calls = calls_by_module(parent.template, body) if self.config.modules else {}
        return Evidence(seed, score, body, self.evaluations.feedback(parent.candidate_id, seed) or "", calls)

    def _learn_example(self, parent: Candidate, evidence: Evidence) -> None:
        """What the rollout teaches as an example; of a program, its module that answers, as the first rollout shows."""
        body, template = evidence.body, parent.template
        if self.config.modules:
            answering = next((module for module, made in evidence.calls.items() if made.answered), None)
            self._answering = self._answering or answering
            if answering is None or answering != self._answering:
                return
            body = replace(body, messages=evidence.calls[answering].calls[-1].messages)
            template = template.part(answering)
        self.ladder.learn(example_of(evidence.seed, body, evidence.score or 0.0, template))

    def demonstrated(self, template: PromptTemplate) -> str | None:
        """The section that examples are shown in; None where the module that answers has none that may change."""
        if not self.config.modules:
            return self.mutable[0]
        return next((name for name in self.mutable if template.section(name).module == self._answering), None)

    # --- reflection --------------------------------------------------------------------------------------------------

    def propose(self, parent: Candidate, found: Sequence[Evidence], number: int, rng: random.Random) -> Steps:
        """Ask the meta-model for new texts; returns a Proposal, or None where each of them is refused.

        number: of finished proposals, for the events and the tips.
        """
        texts: dict[str, str] = {}
        for section in self._components(parent, rng):
            proposed = yield from self._rewrite(parent, section, found, number)
            if proposed is not None:
                texts[section] = proposed
        return Proposal(parent, texts, number) if texts else None

    def _components(self, parent: Candidate, rng: random.Random) -> list[str]:
        """Which sections are rewritten: all, or the one whose turn it is and each further one by chance.

        Every candidate has its own turn, and a child goes on where its parents stood.
        """
        if self.config.component_selection == "all" or len(self.mutable) == 1:
            return list(self.mutable)
        at = self.cursor(parent)
        self._cursors[parent.candidate_id] = {"next": (at + 1) % len(self.mutable)}
        chosen = [self.mutable[at]]
        rest = [name for name in self.mutable if name not in chosen]
        return chosen + [name for name in rest if rng.random() < self.config.mutation_rate]

    def cursor(self, candidate: Candidate) -> int:
        own = self._cursors.get(candidate.candidate_id)
        if own is None:
            inherited = [self._cursors[p]["next"] for p in candidate.parents if p in self._cursors]
            own = {"next": max(inherited, default=candidate.generation % len(self.mutable))}
            self._cursors[candidate.candidate_id] = own
        return own["next"]

    def _rewrite(self, parent: Candidate, section: str, found: Sequence[Evidence], number: int) -> Steps:
        module = parent.template.section(section).module
        records = [record for each in found if (record := record_of(each, module))]
        if not records:
            yield Step(facts=[events.refused(parent, section, Refused(Refusal.NO_CALL))])
            return None
        purse = self.evaluations.budget.purse
        if purse is not None and not purse.may_propose:  # other lanes have asked since this proposal began
            return None
        content = own_text(parent.template.section(section).content)
        placeholders = [name for name in PLACEHOLDER.findall(content) if name in parent.template.wildcards]
        messages = reflection_messages(content, placeholders, records, self._brief(parent, module, number))
        reply = yield from self._reflect(messages)
        proposed: str | Refused = reply
        if isinstance(reply, CompletionBody):
            proposed = parse_proposal(
                reply.text,
                reply.finish_reason,
                content,
                placeholders,
                self.config.proposed_prompt_max_tokens,
                parent.template.wildcards,
            )
        if isinstance(proposed, Refused):
            self.evaluations.stats.count_proposal(is_refused=True, is_unparsed=proposed.reason in UNPARSED)
            yield Step(facts=[events.refused(parent, section, proposed)])
            return None
        return proposed.replace(MARK, OWN_HEADING)

    def _brief(self, parent: Candidate, module: str, number: int) -> Brief:
        config = self.config
        brief = Brief(
            guide=config.mutation_prompt,
            guidance=config.metaprompt,
            spec=config.spec,
            leads=config.proposer_type in ("synth", "gepa-ai"),
            limit=REPLY_WORDS[config.proposer_output_tokens],
            record_characters=RECORD_CHARACTERS[config.proposer_effort],
        )
        if config.proposer_type == "builtin":
            return brief
        rejected = tuple(self._rejected[parent.candidate_id, module])
        return replace(
            brief, rejected=rejected, tip=TIPS[number % len(TIPS)] if config.proposer_type == "dspy" else None
        )

    def reject(self, child: Candidate, parent: Candidate) -> None:
        """Remember what the child changed: the parent's next reflections on it are told that it did not help."""
        for section in self.mutable:
            had = {normalised(line) for line in own_text(parent.template.section(section).content).split("\n")}
            lines = own_text(child.template.section(section).content).split("\n")
            if added := [line.strip() for line in lines if normalised(line) and normalised(line) not in had]:
                module = parent.template.section(section).module
                self._rejected[parent.candidate_id, module].append("\n".join(added))

    def _reflect(self, messages: tuple[Message, ...]) -> Steps:
        """A reply that was not given before: the same evidence asks for another draw."""
        first = Completion("reflection", self.meta_model, messages)
        draw = self._prompted[first.key]
        self._prompted[first.key] += 1
        ask = Completion("reflection", self.meta_model, messages, draw)
        self.under_way += 1
        [answer] = yield Step([ask])
        self.under_way -= 1
        self.calls += 1
        self.evaluations.stats.count_completion(answer)
        [body] = yield Recall([answer.key])
        if not answer.is_failure:
            self._failed = 0
            return body
        self._failed += 1
        if self._failed >= FAILURES_IN_A_ROW:
            raise JobFailed(f"the meta-model failed {self._failed} times in a row: {body.text}")
        return Refused(Refusal.FAILED, body.text)

    # --- candidates --------------------------------------------------------------------------------------------------

    def candidate(
        self,
        template: PromptTemplate,
        parents: Sequence[Candidate],
        operator: str,
        number: int,
        origin: Mapping[str, str | None] | None = None,
    ) -> Steps:
        """A new candidate of this prompt, told; None where it breaks a guard or is known already.

        origin: the candidate of another job that it is taken from.
        """
        main = parents[0]
        changed = [s.name for s in template.sections if s.content != main.template.section(s.name).content]
        violation = self.guards.check(template, main.template, changed) if self.guards else None
        if violation is not None:
            self.evaluations.stats.count_proposal(is_refused=True)
            yield Step(facts=[events.violated(main, violation)])
            return None
        candidate_id = template.digest()
        if candidate_id in self.candidates:
            self.evaluations.stats.count_proposal(is_refused=True)
            yield Step(facts=[events.duplicate(main, self.candidates[candidate_id])])
            return None
        child = Candidate(
            candidate_id=candidate_id,
            n=len(self.candidates),
            prompt=template,
            baseline_id=main.baseline_id,
            parents=tuple(dict.fromkeys(parent.candidate_id for parent in parents)),
            operator=operator,
            generation=max(parent.generation for parent in parents) + 1,
        )
        self.candidates[candidate_id] = child
        self.evaluations.stats.count_proposal(is_refused=False)
        yield Step(facts=events.introduced(child, main, changed, number, origin))
        return child


def rewritten(template: PromptTemplate, texts: dict[str, str]) -> PromptTemplate:
    """The template with other instructions and the same examples."""
    return template.with_text({n: with_own_text(template.section(n).content, text) for n, text in texts.items()})


def mutable_sections(template: PromptTemplate, slots: Mapping[str, int] | None = None) -> tuple[str, ...]:
    """Sections whose text may change: the system's (or developer's), else all that hold text of their own.

    That goes for each module of a program by itself. slots: so many of a module's, at most, by its id.
    """
    found: list[str] = []
    for module in template.modules:
        texts = [section for section in template.part(module).sections if _has_text(section.content)]
        system = [section.name for section in texts if section.role in ("system", "developer")]
        names = system or [section.name for section in texts]
        found += names[: (slots or {}).get(module)]
    if not found:
        raise JobFailed("the prompt has no text of its own: there is nothing to optimize")
    return tuple(found)


def _has_text(content: str) -> bool:
    return bool(PLACEHOLDER.sub("", content).strip())
