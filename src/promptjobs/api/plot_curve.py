"""Turns a job's trials and the rises of its best score into the figures of its learning curve."""

import math
from collections.abc import Iterator, Mapping, Sequence

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.api.plot_facts import FULL_SHARE, NOT_BEGUN, JobFacts
from promptjobs.core.trial import Phase
from promptjobs.db import plot_data, results
from promptjobs.db.plot_data import PlottedTrial
from promptjobs.plots.figures import Evaluation, LearningCurve

MAX_POINTS = 3000
"""Marks of one kind; beyond them every so manieth is drawn, and the note says so."""


async def learning_curve(connection: AsyncConnection, facts: JobFacts) -> LearningCurve:
    """The test is left out: it comes once, at the end, and steers nothing."""
    trials = await plot_data.read_trials(connection, facts.job_id)
    told = await results.read_curve(connection, facts.job_id)
    steps = [step for event in told if (step := results.curve_step(orjson.loads(event.data))) is not None]
    progress = facts.state.progress or {}
    search = facts.state.config[facts.standing.algorithm]
    found = Evaluations(search.get("front_seeds"))
    for trial in trials:
        found.add(trial)
    few, all_few = _thinned(found.few), len(found.few)
    note = f"{progress.get('rollouts_completed', 0):,} of {progress.get('rollouts_total', 0):,} rollouts"
    if len(few) < all_few:
        note += f" · {len(few):,} of the {all_few:,} evaluations on few seeds are drawn"
    return LearningCurve(
        facts.heading("Learning curve", note if trials else "", None if trials or steps else NOT_BEGUN),
        minibatches=tuple(few),
        full=tuple(_thinned(found.full)),
        validation=tuple(_thinned(found.validation)),
        validation_baseline=found.validation_baseline,
        best=tuple(_rising(steps)),
        baseline=progress.get("baseline_score"),
        rollouts=progress.get("rollouts_completed", found.rollouts),
    )


def _rising(steps: Sequence[tuple[int, float]]) -> Iterator[tuple[int, float]]:
    """What is told late, of an answer that was counted before, stays where the line is by then."""
    last = 0
    for rollouts, score in steps:
        last = max(last, rollouts)
        yield last, score


class Evaluations:
    """Sorts a job's trials, in their order, by what they rest on. full_seeds: the front's, where there is one."""

    def __init__(self, full_seeds: Sequence[int] | None) -> None:
        self.few: list[Evaluation] = []
        self.full: list[Evaluation] = []
        self.validation: list[Evaluation] = []
        self.validation_baseline: Evaluation | None = None
        self.rollouts = 0
        self._full_seeds = frozenset(full_seeds or ())
        self._needed: float | None = None
        self._known: dict[str, dict[int, float]] = {}
        self._is_full: set[str] = set()

    def add(self, trial: PlottedTrial) -> None:
        if trial.phase is Phase.TEST:
            return
        new = len(trial.seeds) - trial.reused
        self.rollouts += new
        scores = {seed: score for seed, score in zip(trial.seeds, trial.scores, strict=True) if score is not None}
        if trial.phase is Phase.OPTIMIZATION and trial.is_baseline and self._needed is None:
            self._needed = FULL_SHARE * len(trial.seeds)
        if not scores:
            return
        if trial.phase is Phase.VALIDATION:
            self._validated(trial.is_baseline, self._of(scores))
        elif not trial.is_baseline:
            self._searched(trial.candidate_id, scores, new)

    def _of(self, scores: Mapping[int, float]) -> Evaluation:
        return Evaluation(self.rollouts, math.fsum(scores.values()) / len(scores), len(scores))

    def _validated(self, is_baseline: bool, found: Evaluation) -> None:
        if is_baseline:
            self.validation_baseline = found
        else:
            self.validation.append(found)

    def _searched(self, candidate_id: str, scores: Mapping[int, float], new: int) -> None:
        """A candidate may come to be known on all seeds of the front bit by bit; then it is marked, once."""
        known = self._known.setdefault(candidate_id, {})
        known.update((seed, score) for seed, score in scores.items() if seed in self._full_seeds)
        needed = self._needed
        if needed is not None and self._full_seeds and len(known) >= needed and candidate_id not in self._is_full:
            self._is_full.add(candidate_id)
            self.full.append(self._of(known))
        elif new:
            self.few.append(self._of(scores))


def _thinned(found: Sequence[Evaluation]) -> Sequence[Evaluation]:
    if len(found) <= MAX_POINTS:
        return found
    return [found[at * len(found) // MAX_POINTS] for at in range(MAX_POINTS)]
