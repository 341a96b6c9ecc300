"""The start of a MIPRO job: the baseline prompt, its scores on the bootstrap seeds, and the examples they yield."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from promptjobs.core import mipro_events as events
from promptjobs.core.archive import Candidate
from promptjobs.core.asks import Recall, Step, Steps, description_ask, digest
from promptjobs.core.evidence import Evidence, inputs
from promptjobs.core.few_shot import demo_sets, few_shot_examples
from promptjobs.core.lanes import Lane
from promptjobs.core.limits import COMMON_SHARE, Reservation
from promptjobs.core.mipro_beliefs import Beliefs
from promptjobs.core.mipro_plan import demo_set_count, generates_from, probe_seeds, reference_seeds
from promptjobs.core.mipro_rebuilding import take_over
from promptjobs.core.mipro_space import Space
from promptjobs.core.mipro_trials import Trials
from promptjobs.core.prompt import PromptTemplate
from promptjobs.core.python_transform import run_python
from promptjobs.core.screening import Screening
from promptjobs.core.search_events import rollouts_started
from promptjobs.core.text_tokens import TokenCounter
from promptjobs.core.trial import Phase
from promptjobs.errors import JobFailed

if TYPE_CHECKING:
    from promptjobs.core.mipro import Mipro


class Opening:
    """Ends with the baseline measured and the search space built, or with a JobFailed that says what failed."""

    def __init__(self, search: "Mipro") -> None:
        self.search = search

    def run(self, lane: Lane) -> Steps:
        search, mipro = self.search, self.search.mipro
        template = search.config.template() or self._adopted()
        if template is None:
            template = yield from search.probe(lane, probe_seeds(search.config))
        counter = TokenCounter(mipro.token_counting_model)
        search.space = Space(
            template,
            mipro.stages,
            demo_format=mipro.demo_format,
            count_tokens=counter.count,
            runner=run_python if mipro.allow_python else None,
        )
        base = search.base = search.baseline_of(template)
        search.spending.baseline_tokens = search.space.compile({}).tokens
        yield from self._describe()
        yield from self._bootstrap(lane)
        yield from self._read_reference(lane)
        search.beliefs = Beliefs(search)
        search.trials = Trials(search)
        search.is_begun = True
        search.spending.kept = len(search.full_seeds) + len(mipro.test_seeds)
        # The baseline is the configuration that leaves everything as it is.
        search.beliefs.know(base, dict.fromkeys(search.space.dimensions(), 0))
        take_over(search)
        search.beliefs.refresh()
        yield Step(facts=[*search.enter(Phase.OPTIMIZATION), *search.progress()])

    def _adopted(self) -> PromptTemplate | None:
        """The baseline prompt that an earlier version of the search has found."""
        known = self.search.candidates.values()
        return next((candidate.template for candidate in known if candidate.operator == "baseline"), None)

    def _describe(self) -> Steps:
        """The task in the words of its task app; without them proposals have the prompt alone."""
        [answer] = yield Step([description_ask()])
        if not answer.is_failure:
            [body] = yield Recall([answer.key])
            self.search.description = body.text

    def _bootstrap(self, lane: Lane) -> Steps:
        search, mipro = self.search, self.search.mipro
        base, seeds = search.baseline(), mipro.bootstrap_seeds
        yield Step(facts=[*search.introduce(base), rollouts_started([*seeds, *mipro.online_seeds])])
        found: Screening = yield from self._measured(lane, base, seeds)
        scores = search.evaluations.scores(base.candidate_id, seeds)
        if not scores:
            yield from search.fail("every rollout of the baseline failed", base, seeds)
        if len(scores) < COMMON_SHARE * len(seeds):
            yield from search.fail(f"{len(seeds) - len(scores)} rollouts of the baseline failed", base, seeds)
        search.bootstrap_score = sum(scores.values()) / len(scores)
        demos = yield from self._collect(scores)
        rolled = search.evaluations.stats.total_rollouts
        yield Step(facts=events.bootstrapped(base, found, demos, rolled))
        least = mipro.min_bootstrap_demos
        fewest = min(demos.values(), default=0)
        if fewest < least:
            raise JobFailed(
                f"the bootstrap found {fewest} examples, and min_bootstrap_demos asks for {least}: give more bootstrap "
                "seeds, or a lower few_shot_score_threshold"
            )
        yield from search.warm.fill_banks()
        has_options = any(stage.sets or stage.bank for stage in search.space.stages)
        if not has_options and not (search.proposing.has_room and generates_from(mipro, 0)):
            raise JobFailed("there is nothing to search: nothing is proposed, and the bootstrap found no examples")

    def _measured(self, lane: Lane, base: Candidate, seeds: Sequence[int]) -> Steps:
        """The baseline on these seeds; after a deploy that comes late, on those that were answered before it."""
        search = self.search
        rollouts = search.evaluations.screening_cost(base.candidate_id, seeds)
        known = search.evaluations.scores(base.candidate_id, seeds)
        if known and rollouts > search.budget.left:
            return Screening(tuple(known), tuple(known.values()), frozenset())
        if not search.spending.affords(search.spending.baseline_tokens, rollouts):
            raise JobFailed(f"the limits on tokens and cost do not hold {rollouts} rollouts of the baseline")
        reservation = search.reserve(rollouts) if rollouts else Reservation(search.budget, 0)
        found = yield from search.screen(lane, base, seeds, reservation, (), Phase.BOOTSTRAP)
        reservation.release()
        search.spending.learn()
        return found

    def _collect(self, scores: dict[int, float]) -> Steps:
        """The examples of every stage, and the sets that are chosen from; returns how many there are by stage."""
        search, mipro = self.search, self.search.mipro
        base = search.baseline()
        known = search.evaluations.known[base.candidate_id]
        bodies = yield Recall([known[seed].key for seed in scores])
        for (seed, score), body in zip(scores.items(), bodies, strict=True):
            found = few_shot_examples(base.template, body, seed, score, threshold=mipro.few_shot_score_threshold)
            for stage in search.space.stages:
                if stage.module in found:
                    stage.pool.append(found[stage.module])
        for stage in search.space.stages:
            if stage.config.max_demo_slots:
                rng = random.Random(digest("demos", mipro.rng_seed, stage.stage_id))
                stage.sets = demo_sets(stage.pool, mipro.max_demo_set_size, demo_set_count(mipro), rng)
        return {stage.stage_id: len(stage.pool) for stage in search.space.stages}

    def _read_reference(self, lane: Lane) -> Steps:
        """What the task asks on the reference seeds: the corpus of the meta-prompt, by rollouts of the baseline."""
        search = self.search
        base, seeds = search.baseline(), reference_seeds(search.mipro)
        cost = search.evaluations.cost(base.candidate_id, seeds)
        is_paid = search.spending.affords(search.spending.baseline_tokens, cost)
        reservation = Reservation.of(search.budget, cost, trials=1) if is_paid else None
        if not seeds or reservation is None:
            return
        yield from search.score(lane, base, seeds, Phase.BOOTSTRAP, reservation, may_fail=True)
        reservation.release()
        known = search.evaluations.known[base.candidate_id]
        answered = [seed for seed in seeds if not known[seed].is_failure]
        bodies = yield Recall([known[seed].key for seed in answered])
        for seed, body in zip(answered, bodies, strict=True):
            search.reference_inputs += inputs(Evidence(seed, None, body, "", {}))
