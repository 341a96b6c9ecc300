"""A search that goes on after a deploy: its archive, from the candidates and trials that were published."""

from typing import TYPE_CHECKING

from promptjobs.core.archive import Candidate
from promptjobs.core.limits import COMMON_SHARE, FIRST, SECOND
from promptjobs.core.optimizer import Adopted
from promptjobs.core.racing import SHRINKAGE
from promptjobs.core.result import Attempt
from promptjobs.core.trial import Phase

if TYPE_CHECKING:
    from promptjobs.core.gepa import Gepa


def rebuild(search: "Gepa", adopted: Adopted) -> None:
    """A member is who is known on enough of the front's seeds, and in the race better than its parent on them."""
    search.evaluations.adopt(adopted)
    for candidate in sorted(adopted.candidates, key=lambda c: c.n):
        search.candidates[candidate.candidate_id] = candidate
        if candidate.operator == "baseline":
            _begin(search, candidate)
        elif candidate.operator != "probe" and search.archive.members:
            _join(search, candidate)
    for candidate in search.candidates.values():
        if not candidate.is_baseline:
            known = search.evaluations.known.get(candidate.candidate_id, {})
            found = [answer.score for answer in known.values() if answer.score is not None]
            score = sum(found) / len(found) if found else None
            search.attempts[candidate.candidate_id] = Attempt(
                candidate, score, len(found), candidate.candidate_id in search.archive
            )
    search.evaluations.stats.trials_tried = len(search.attempts)
    search.accepted = max(0, len(search.archive.members) - 1)
    search.resume_after(sum(candidate.operator == "reflection" for candidate in search.candidates.values()))


def _begin(search: "Gepa", base: Candidate) -> None:
    search.base = base
    search.begin(base.template)
    search.phase = Phase.OPTIMIZATION
    seeds = search.gepa.front_seeds
    scores = search.evaluations.scores(base.candidate_id, seeds)
    wanted = min(len(seeds), FIRST + SECOND) if search.is_race else len(seeds)
    if len(scores) >= COMMON_SHARE * wanted:
        search.open_archive(base, scores)


def _join(search: "Gepa", candidate: Candidate) -> None:
    seeds = search.front_seeds
    scores = search.evaluations.scores(candidate.candidate_id, seeds)
    if not search.is_race:
        if len(scores) == len(seeds):
            search.archive.add(candidate, scores)
        return
    parent = next((p for p in candidate.parents if p in search.archive), None)
    theirs = search.evaluations.scores(parent, seeds) if parent else {}
    common = [scores[seed] - theirs[seed] for seed in scores if seed in theirs]
    if parent and len(common) >= COMMON_SHARE * min(len(seeds), FIRST + SECOND) and sum(common) > 0:
        gain = sum(common) / (len(common) + SHRINKAGE)
        estimate = min(1.0, max(0.0, search.archive.ranking[parent] + gain))
        search.archive.add(candidate, scores, estimate=estimate)
