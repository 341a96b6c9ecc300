"""A MIPRO search that goes on after a deploy: what was published is known, and the bank begins with its texts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from promptjobs.core.archive import Candidate
from promptjobs.core.demonstrations import own_text
from promptjobs.core.mipro_space import Choice, Stage
from promptjobs.core.optimizer import Adopted
from promptjobs.core.prompt import Section

if TYPE_CHECKING:
    from promptjobs.core.mipro import Mipro

PARTED = "\x00"
"""Stands between messages where they are looked at as one text: no message holds it."""


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
            search.trials.done += search.beliefs.know(candidate, choice)


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
        made = stage.add([stage.whole(text)], text, search.iteration, most) or stage.find(text)
        if made is None:
            return None
        slot, option = stage.option(made)
        choice[slot] = option
    wanted = candidate.template.part(stage.module).sections
    choice |= _demo_options(stage, _shown(stage, wanted)) or {}
    return choice if search.space.compile(choice).template.part(stage.module).sections == wanted else None


def _shown(stage: Stage, sections: Sequence[Section]) -> tuple[int, ...]:
    """Indices of the pool's examples that stand in these sections, as messages or as text, in their order."""
    whole = PARTED.join(section.content for section in sections)
    places = {}
    for index, example in enumerate(stage.pool):
        for text in (
            PARTED.join(message.content for message in example.messages),
            f"Input: {example.input}\nOutput: {example.output}",
        ):
            if text in whole:
                places[index] = whole.find(text)
    return tuple(sorted(places, key=lambda index: places[index]))


def _demo_options(stage: Stage, wanted: tuple[int, ...], at: int = 0, shown: tuple[int, ...] = ()) -> Choice | None:
    """Options of the demo slots from `at` on that show just these examples, beside those of the slots before."""
    if shown == wanted or at == stage.config.max_demo_slots:
        return {} if shown == wanted else None
    for option, indices in enumerate(stage.sets, 1):
        more = tuple(dict.fromkeys((*shown, *indices)))
        if more != shown and wanted[: len(more)] == more:
            rest = _demo_options(stage, wanted, at + 1, more)
            if rest is not None:
                return {stage.demo_slot(at): option, **rest}
    return None
