"""The start of a GEPA job: the baseline prompt, known or gathered from the task app's messages, and its scores."""

from typing import TYPE_CHECKING

from promptjobs.core import gepa_events as events
from promptjobs.core.asks import Step, Steps
from promptjobs.core.lanes import Lane
from promptjobs.core.limits import COMMON_SHARE, opening_seeds, probe_seeds
from promptjobs.core.screening import Screening
from promptjobs.core.search_events import phase_changed, rollouts_started
from promptjobs.core.trial import Phase

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
            template = yield from search.probe(lane, probe_seeds(search.config))
        search.begin(template)
        base = search.base = search.baseline_of(template)
        facts = [*search.introduce(base), rollouts_started(search.gepa.train_seeds)]
        seeds = opening_seeds(search.gepa)
        reservation = search.reserve(len(seeds) * (1 + search.has_proxy))
        facts.append(phase_changed(search.phase, Phase.OPTIMIZATION))
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
