"""A MIPRO search that goes on after a deploy: what was published is known, and the bank begins with its texts."""

from typing import TYPE_CHECKING

from promptjobs.core.archive import Candidate
from promptjobs.core.demonstrations import own_text
from promptjobs.core.mipro_proposing import whole_text
from promptjobs.core.mipro_space import Stage
from promptjobs.core.optimizer import Adopted

if TYPE_CHECKING:
    from promptjobs.core.mipro import Mipro


def rebuild(search: "Mipro", adopted: Adopted) -> None:
    """Take over candidates and scores; the opening then finds the baseline's rollouts answered already."""
    search.evaluations.adopt(adopted)
    for candidate in sorted(adopted.candidates, key=lambda c: c.n):
        search.candidates[candidate.candidate_id] = candidate
    search.evaluations.stats.trials_tried = sum(not c.is_baseline for c in adopted.candidates)


def take_over(search: "Mipro") -> None:
    """Make every earlier candidate that was scored a configuration again, as far as its texts and examples can be."""
    for candidate in list(search.candidates.values()):
        if candidate.is_baseline or not search.evaluations.known.get(candidate.candidate_id):
            continue
        choice = _choice_of(search, candidate)
        if choice is not None:
            search.trials.know(candidate, choice)


def _choice_of(search: "Mipro", candidate: Candidate) -> dict[str, int] | None:
    choice: dict[str, int] = {}
    for stage in search.space.stages:
        found = _stage_choice(search, stage, candidate)
        if found is None:
            return None
        choice |= found
    return choice


def _stage_choice(search: "Mipro", stage: Stage, candidate: Candidate) -> dict[str, int] | None:
    """The stage's options that make its part of the candidate; None where none do."""
    text = own_text(candidate.template.section(stage.section).content)
    choice: dict[str, int] = {}
    if stage.slots and text != search.space.baseline.section(stage.section).content:
        most = search.mipro.max_instruction_sets
        made = stage.add([whole_text(text)], text, search.iteration, most) or stage.find(text)
        if made is None:
            return None
        slot, option = stage.option(made)
        choice[slot] = option
    wanted = candidate.template.part(stage.module).sections
    tries = [choice]
    if stage.sets and stage.config.max_demo_slots:
        tries += [{**choice, stage.demo_slot(0): option} for option in range(1, len(stage.sets) + 1)]
    for each in tries:
        if search.space.compile(each).template.part(stage.module).sections == wanted:
            return each
    return None
