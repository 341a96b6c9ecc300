"""MIPRO's proposals: from what went wrong with the incumbent to new entries of the stages' banks."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from promptjobs.core import mipro_events as events
from promptjobs.core.archive import Candidate
from promptjobs.core.asks import Completion, CompletionBody, Fork, Key, MetaModel, Recall, Step, Steps
from promptjobs.core.demonstrations import MARK, OWN_HEADING, Example, own_text
from promptjobs.core.evidence import Evidence, inputs, record_of
from promptjobs.core.failures import UNPARSED
from promptjobs.core.few_shot import FewShotExample
from promptjobs.core.instruction_transforms import (
    AtomicInstructionTransform,
    InstructionType,
    apply_transforms,
)
from promptjobs.core.lanes import Lane
from promptjobs.core.leaks import Leaks
from promptjobs.core.line_merging import merged_texts
from promptjobs.core.mipro_space import Instruction, Stage
from promptjobs.core.pipeline import calls_by_module, without_examples
from promptjobs.core.prompt import PLACEHOLDER, Message
from promptjobs.core.proposers.additions import additions_of
from promptjobs.core.proposers.dataset_summary import parse_summary, summary_messages
from promptjobs.core.proposers.instruction_proposals import proposal_messages, tip_for
from promptjobs.core.proposers.program_context import (
    EFFORTS,
    ProgramContext,
    ProposalBrief,
    StageContext,
    StageNote,
    Tried,
)
from promptjobs.core.proposers.reflection import Refusal, Refused
from promptjobs.core.proposers.transform_replies import follow_of, parse_transforms, replaces_all
from promptjobs.errors import JobFailed

if TYPE_CHECKING:
    from promptjobs.core.mipro import Mipro

Item = TypeVar("Item")

FAILURES_IN_A_ROW = 5
"""Calls of the meta-model without a reply, after which the search gives up."""

TEXTS_PER_CALL = 2
"""Entries of the bank that a proposed text makes: the text itself, and what it adds."""

MOST_CALLS, LATER_CALLS = 5, 3
"""Calls for one stage at a time, in the first batch and in those after it; more would only vary what these say."""

MOST_TRIES = 3
"""Times that one question is asked: a model with nothing new to say says it again."""

LEAK_NGRAM = 12
"""So many words in a row of an example may not stand in an instruction."""

SUMMARISED = 10
"""Examples that the summary of the data is made of."""


@dataclass(frozen=True, slots=True)
class Proposed:
    """New entries of one stage's bank. texts: the whole instructions among them, as they were proposed."""

    stage: Stage
    entries: tuple[Instruction, ...]
    texts: tuple[str, ...]


class Proposing:
    def __init__(self, search: "Mipro") -> None:
        self.search = search
        config = search.mipro
        meta = config.meta_model
        self.meta_model = MetaModel(meta.provider, meta.model, meta.temperature, meta.max_tokens)
        self.leaks = Leaks(LEAK_NGRAM)
        self.under_way = 0
        self._summary: str | None = None
        self._prompted: Counter[Key] = Counter()
        self._failed = 0
        self._retries = 0

    # --- whether -----------------------------------------------------------------------------------------------------

    @property
    def may_call(self) -> bool:
        """Whether the limits on calls of the meta-model, on tokens and on money leave a further one beside the end."""
        search = self.search
        stats, most = search.evaluations.stats, search.mipro.max_meta_calls
        if search.budget.purse is not None and search.budget.purse.refusal(search.budget.used, 0):
            return False
        return most is None or stats.completions + self.under_way < most

    @property
    def has_room(self) -> bool:
        """Whether any stage's bank takes a further instruction."""
        return bool(self._open_stages())

    def _open_stages(self) -> list[Stage]:
        most = self.search.mipro.max_instruction_sets
        return [stage for stage in self.search.space.stages if stage.slots and len(stage.bank) < most]

    # --- a batch -----------------------------------------------------------------------------------------------------

    def generate(self, lane: Lane, iteration: int, closed: Collection[int]) -> Steps:
        """Ask for new instructions of every stage at once; returns a list of Proposed, without those that are empty.

        closed: seeds that the new instructions are measured on next; others are learnt from, where there are some.
        """
        search = self.search
        parent = search.incumbent()
        found = yield from self._evidence(parent, closed)
        if search.mipro.proposer_mode == "dspy" and self._summary is None:
            yield from self._summarise(found)
        self._retries = search.mipro.duplicate_retry_limit
        stages = self._open_stages()
        calls = self._calls_per_stage(len(stages), iteration)
        rng = lane.rng()
        makers: list[Callable[[Lane], Steps]] = []
        for stage in stages:
            order = list(found)
            rng.shuffle(order)
            shown = [_slice(order, n, self._evidence_size()) for n in range(calls)]
            makers += [self._call(stage, parent, part, iteration, n) for n, part in enumerate(shown)]
        texts: list[list[AtomicInstructionTransform]] = yield Fork(makers)
        proposed = []
        for at, stage in enumerate(stages):
            batch = texts[at * calls : (at + 1) * calls]
            made = yield from self._into_bank(stage, parent, batch, iteration)
            if made.entries:
                proposed.append(made)
        return proposed

    def _calls_per_stage(self, stages: int, iteration: int) -> int:
        """A text makes two entries; a reply of the builtin proposer has as many as it is asked for."""
        config = self.search.mipro
        if config.proposer_mode == "builtin":
            return 1
        calls = max(1, min(LATER_CALLS if iteration else MOST_CALLS, config.instructions_per_batch // TEXTS_PER_CALL))
        if config.max_meta_calls is not None:
            left = config.max_meta_calls - self.search.evaluations.stats.completions
            calls = max(1, min(calls, left // max(1, stages)))
        return calls

    def _evidence_size(self) -> int:
        return EFFORTS[self.search.mipro.proposer_effort].records

    def _evidence(self, parent: Candidate, closed: Collection[int]) -> Steps:
        """What went wrong with the parent on seeds that may be learnt from, in a fixed order."""
        search = self.search
        known = search.evaluations.known.get(parent.candidate_id, {})
        open_seeds = [s for s in (*search.mipro.bootstrap_seeds, *search.mipro.online_seeds) if s in known]
        flawed = [s for s in dict.fromkeys(open_seeds) if (known[s].score or 0.0) < 1.0]
        apart = [s for s in flawed if s not in closed]
        seeds = apart if len(apart) >= min(len(flawed), self._evidence_size() // 2) else flawed
        bodies = yield Recall([known[seed].key for seed in seeds])
        evidence = []
        for seed, body in zip(seeds, bodies, strict=True):
            calls = calls_by_module(parent.template, body) if parent.template.modules != ("",) else {}
            said = search.evaluations.feedback(parent.candidate_id, seed) or ""
            shown = without_examples(parent.template, body)
            evidence.append(Evidence(seed, known[seed].score, shown, said, calls))
        self.leaks.learn([said for each in evidence for said in inputs(each)])
        return evidence

    # --- one call ----------------------------------------------------------------------------------------------------

    def _call(
        self, stage: Stage, parent: Candidate, found: Sequence[Evidence], iteration: int, number: int
    ) -> Callable[[Lane], Steps]:
        def ask(lane: Lane) -> Steps:
            context = self.stage_context(stage, parent)
            brief = self._brief(stage, found, iteration, number)
            messages = proposal_messages(self.program_context(), context, brief)
            for tries in range(1, MOST_TRIES + 1):
                if not (self.may_call and search.spending.affords_call(self._tokens(messages))):
                    break
                reply = yield from self._complete("proposal", messages)
                kept, refused = self._read(stage, context, brief, reply)
                for refusal in refused:
                    is_unparsed = refusal.reason in UNPARSED
                    search.evaluations.stats.count_proposal(is_refused=True, is_unparsed=is_unparsed)
                    yield Step(facts=[events.refused(stage, iteration, refusal)])
                if kept:
                    return kept
                if tries == MOST_TRIES or self._retries <= 0:
                    break
                self._retries -= 1
            return []

        search = self.search
        return ask

    def _read(
        self, stage: Stage, context: StageContext, brief: ProposalBrief, reply: CompletionBody | Refused
    ) -> tuple[list[AtomicInstructionTransform], list[Refused]]:
        """What of a reply is new and can be used, and why the rest is not taken."""
        if isinstance(reply, Refused):
            return [], [reply]
        batch = parse_transforms(reply.text, reply.finish_reason, context, brief)
        kept, refused = [], list(batch.refused)
        for transform in batch.transforms:
            usable = self._usable(stage, context, transform)
            if usable is None:
                refused.append(Refused(Refusal.LEAK))
            elif not stage.claim(usable):
                refused.append(Refused(Refusal.UNCHANGED, "it was proposed before"))
            else:
                kept.append(usable)
        return kept, refused

    def _usable(
        self, stage: Stage, context: StageContext, transform: AtomicInstructionTransform
    ) -> AtomicInstructionTransform | None:
        """The transform as the bank keeps it; None where its text repeats an example.

        What replaces the stage's text as a whole replaces it whatever it is: the text of now is gone in other choices.
        """
        text = transform.instruction_text.replace(MARK, OWN_HEADING)
        if transform.instruction_type is not InstructionType.PYTHON:
            beside = [self.search.space.baseline.section(stage.section).content, context.text]
            if self.leaks.find(text, beside) is not None:
                return None
        kept = transform.with_text(text)
        if kept.instruction_type is InstructionType.PYTHON:
            # A program that does nothing here does nothing anywhere, and one that hangs is paid for once.
            applied = apply_transforms(
                self.search.space.baseline, stage.module, [kept], runner=self.search.space.runner
            )
            return None if applied.misses else kept
        return stage.whole(text) if replaces_all(transform, context) else kept

    def stage_context(self, stage: Stage, parent: Candidate) -> StageContext:
        template, baseline = parent.template, self.search.space.baseline
        text = own_text(template.section(stage.section).content)
        own = [template.section(section.name) for section in baseline.part(stage.module).sections]
        return StageContext(
            stage_id=stage.stage_id,
            module_id=stage.config.module_id,
            text=text,
            placeholders=tuple(name for name in PLACEHOLDER.findall(text) if name in template.wildcards),
            wildcards=frozenset(template.wildcards),
            messages=tuple(Message(section.role, own_text(section.content)) for section in own),
        )

    def program_context(self) -> ProgramContext:
        search = self.search
        stages = [StageNote(stage.stage_id, stage.config.module_id, self._note(stage)) for stage in search.space.stages]
        return ProgramContext(
            task=search.description,
            stages=tuple(stages),
            edges=search.mipro.edges,
            spec=search.mipro.spec,
            spec_max_tokens=search.mipro.spec_max_tokens,
            reference=tuple(search.reference_inputs),
        )

    def _note(self, stage: Stage) -> str:
        """What stands for a stage in the overview of its program."""
        given = stage.config.baseline_instruction
        return self.search.space.baseline.section(stage.section).content if given is None else given

    def _brief(self, stage: Stage, found: Sequence[Evidence], iteration: int, number: int) -> ProposalBrief:
        config = self.search.mipro
        records = [record for each in found if (record := record_of(each, stage.module))]
        records.sort(key=lambda record: record.score if record.score is not None else 1.0)
        solved = [_shown(example) for example in _slice(stage.pool, number, EFFORTS[config.proposer_effort].demos)]
        return ProposalBrief(
            mode=config.proposer_mode,
            effort=config.proposer_effort,
            output_tokens=config.proposer_output_tokens,
            count=config.instructions_per_batch,
            records=tuple(records),
            demos=tuple(solved),
            history=self._history(stage),
            tip=tip_for(iteration * MOST_CALLS + number),
            summary=self._summary or "",
            guidance=config.metaprompt,
            allow_python=config.allow_python,
            match_mode=config.transform_match_mode,
            case_sensitive=config.transform_case_sensitive,
            strict=config.transform_strict,
            max_tokens=config.max_prompt_tokens or 32_000,
        )

    def _history(self, stage: Stage) -> tuple[Tried, ...]:
        """The stage's instructions that were measured, best first, by the mean of the candidates that hold them."""
        tried = []
        for made in stage.bank:
            scores = self.search.beliefs.scores_with(stage, made)
            if scores:
                tried.append(Tried(made.text, sum(scores) / len(scores), len(scores)))
        tried.sort(key=lambda each: -each.score)
        return tuple(tried)

    def _summarise(self, found: Sequence[Evidence]) -> Steps:
        stage = self.search.space.stages[-1]
        shown = [_shown(example) for example in stage.pool[:SUMMARISED]]
        if not shown:
            records = [(each.seed, record_of(each, stage.module)) for each in found[:SUMMARISED]]
            shown = [
                Example(seed, record.input, record.expected) for seed, record in records if record and record.expected
            ]
        context = self.stage_context(stage, self.search.baseline())
        effort = self.search.mipro.proposer_effort
        messages = summary_messages(self.program_context(), context, shown, effort)
        if not self.search.spending.affords_call(self._tokens(messages)):
            return
        reply = yield from self._complete("proposal", messages)
        summary = parse_summary(reply.text, reply.finish_reason) if isinstance(reply, CompletionBody) else reply
        self._summary = summary if isinstance(summary, str) else ""

    def _complete(self, purpose: str, messages: tuple[Message, ...]) -> Steps:
        """A reply that was not given before: the same messages ask for another draw."""
        first = Completion(purpose, self.meta_model, messages)
        draw = self._prompted[first.key]
        self._prompted[first.key] += 1
        ask = Completion(purpose, self.meta_model, messages, draw)
        self.under_way += 1
        self.search.spending.reserve_call(ask.key.hex(), self._tokens(messages))
        [answer] = yield Step([ask])
        self.under_way -= 1
        self.search.spending.release(ask.key.hex())
        self.search.evaluations.stats.count_completion(answer)
        [body] = yield Recall([answer.key])
        if not answer.is_failure:
            self._failed = 0
            return body
        self._failed += 1
        if self._failed >= FAILURES_IN_A_ROW:
            raise JobFailed(f"the meta-model failed {self._failed} times in a row: {body.text}")
        return Refused(Refusal.FAILED, body.text)

    def _tokens(self, messages: Sequence[Message]) -> int:
        return sum(self.search.space.count_tokens(message.content) for message in messages)

    # --- the bank ----------------------------------------------------------------------------------------------------

    def _into_bank(
        self, stage: Stage, parent: Candidate, batch: Sequence[Sequence[AtomicInstructionTransform]], iteration: int
    ) -> Steps:
        """Every transform, what each whole text adds, and the union of the whole texts."""
        current = own_text(parent.template.section(stage.section).content)
        entries: list[Instruction] = []
        wholes = [t.instruction_text for each in batch for t in each if stage.is_whole(t)]
        union = union_of(current, wholes) if len(wholes) > 1 else None
        if union is not None:
            entries += self._add(stage, [stage.whole(union)], union, iteration)
        for transforms in batch:
            for transform in transforms:
                entries += self._add(stage, [transform], transform.instruction_text, iteration)
        if len(stage.slots) > 1:
            context = self.stage_context(stage, parent)
            for text in wholes:
                added = additions_of(current, text)
                if added.strip():
                    entries += self._add(stage, [follow_of(context, added)], added, iteration)
        yield Step(facts=[events.instruction_proposed(made) for made in entries])
        return Proposed(stage, tuple(entries), tuple(wholes))

    def _add(
        self, stage: Stage, transforms: Sequence[AtomicInstructionTransform], text: str, iteration: int
    ) -> list[Instruction]:
        made = stage.add(transforms, text, iteration, self.search.mipro.max_instruction_sets)
        return [] if made is None else [made]


def union_of(base: str, texts: Sequence[str]) -> str | None:
    """One text with what each of them changed in `base`, as far as they do not clash; None where it is one of them."""
    union = texts[0]
    for text in texts[1:]:
        union = merged_texts({"": base}, {"": union}, {"": text}).get("", union)
    return None if union in texts else union


def _slice(order: Sequence[Item], number: int, size: int) -> list[Item]:
    """The next `size` in a circle: calls of one batch see different ones as far as there are such."""
    if len(order) <= size:
        return list(order)
    start = number * size % len(order)
    return [*order, *order][start : start + size]


def _shown(example: FewShotExample) -> Example:
    return Example(example.seed, example.input, example.output)
