"""The start of a GEPA job: the baseline prompt, known or gathered from the task app's messages, and its scores."""

from typing import TYPE_CHECKING

from promptjobs.core import gepa_events as events
from promptjobs.core.archive import Candidate
from promptjobs.core.asks import CandidateFact, Fact, Recall, Step, Steps, digest
from promptjobs.core.evaluations import Reservation
from promptjobs.core.inference import infer_template
from promptjobs.core.lanes import Lane
from promptjobs.core.limits import COMMON_SHARE, opening_seeds, probe_seeds
from promptjobs.core.prompt import PromptPattern
from promptjobs.core.screening import Screening
from promptjobs.core.trial import Phase
from promptjobs.errors import JobFailed, PromptError

if TYPE_CHECKING:
    from promptjobs.core.gepa import Gepa


class Opening:
    """Ends with the baseline as the archive's first member, or with a JobFailed that says what failed."""

    def __init__(self, search: "Gepa") -> None:
        self.search = search

    def run(self, lane: Lane) -> Steps:
        search = self.search
        template = search.config.template()
        if template is None:
            template = yield from self._probe(lane)
        search.begin(template)
        base_id = template.digest()
        base = search.candidates.get(base_id) or Candidate(base_id, len(search.candidates), template, base_id)
        facts = self._introduce(base)
        search.base = base
        seeds = opening_seeds(search.gepa)
        reservation = self._reserve(len(seeds) * (1 + search.has_proxy))
        facts.append(events.phase_changed(search.phase, Phase.OPTIMIZATION))
        search.phase = Phase.OPTIMIZATION
        trial: Screening = yield from search.screen(lane, base, seeds, reservation, facts)
        reservation.release()
        rollouts = search.evaluations.stats.total_rollouts
        yield Step(facts=[events.baseline(base, trial.seeds, trial.scores, rollouts)])
        if trial.score is None:
            yield from search.fail("every rollout of the baseline failed", base, seeds)
        scores = search.evaluations.scores(base.candidate_id, seeds)
        if len(scores) < COMMON_SHARE * len(seeds):
            yield from search.fail(f"{len(seeds) - len(scores)} rollouts of the baseline failed", base, seeds)
        change = search.open_archive(base, scores)
        yield Step(facts=[events.frontier_updated(search.archive, change), *search.progress()])

    def _probe(self, lane: Lane) -> Steps:
        """Some rollouts with the task app's own messages unchanged: their pattern is the baseline prompt."""
        search = self.search
        probe = Candidate(digest("probe").hex(), 0, None, None, operator="probe")
        seeds = probe_seeds(search.config)
        reservation = self._reserve(len(seeds))
        trial = yield from search.score(lane, probe, seeds, Phase.BOOTSTRAP, reservation, self._introduce(probe))
        if trial.score is None:
            yield from search.fail("every rollout with the task app's own messages failed", probe, seeds)
        answered = [search.evaluations.known[probe.candidate_id][seed] for seed in seeds]
        bodies = yield Recall([answer.key for answer in answered if not answer.is_failure])
        try:
            template = infer_template([body.messages for body in bodies])
            PromptPattern.of(template)
        except PromptError as error:
            raise JobFailed(f"the baseline prompt cannot be told from the task app's messages: {error}") from error
        yield Step(facts=[events.pattern_found(template)])
        return template

    def _reserve(self, rollouts: int) -> Reservation:
        budget = self.search.budget
        reservation = Reservation.of(budget, rollouts)
        if reservation is None:
            raise JobFailed(f"the budget of {budget.total} rollouts does not hold the baseline")
        return reservation

    def _introduce(self, candidate: Candidate) -> list[Fact]:
        self.search.candidates[candidate.candidate_id] = candidate
        return [CandidateFact(candidate)]
