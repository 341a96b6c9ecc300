"""A MIPRO search that begins with prompts of another job: their texts and examples are options, and tried first."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from promptjobs.core.asks import Fork, Step, Steps
from promptjobs.core.few_shot import FewShotExample
from promptjobs.core.lanes import Lane
from promptjobs.core.mipro_plan import parallel_trials
from promptjobs.core.mipro_space import Stage
from promptjobs.core.search_events import not_taken_over
from promptjobs.core.warm_start import ELSEWHERE, Part, Shown, fitted, part_of
from promptjobs.errors import PromptError, TransformApplicationError

if TYPE_CHECKING:
    from promptjobs.core.mipro import Mipro

Origin = Mapping[str, str | None]


class WarmStart:
    """origins: where the candidates come from that are made of such a prompt, by id."""

    def __init__(self, search: "Mipro") -> None:
        self.search = search
        self.origins: dict[str, Origin] = {}
        self._choices: list[tuple[dict[str, int], Origin]] = []

    def fill_banks(self) -> Steps:
        """Make options of what each prompt has for each stage; a prompt that does not fit is told and left out."""
        space = self.search.space
        for prompt in self.search.mipro.warm_prompts:
            try:
                found = fitted(space.baseline, prompt.prompt)
                parts = [part_of(space.baseline, found, stage.module, stage.section) for stage in space.stages]
                pairs = zip(space.stages, parts, strict=True)
                choice = {slot: option for pair in pairs for slot, option in self._options(*pair).items()}
            except PromptError as error:
                yield Step(facts=[not_taken_over(prompt.origin, str(error))])
            else:
                self._choices.append((choice, prompt.origin))

    def _options(self, stage: Stage, part: Part) -> dict[str, int]:
        """Raises PromptError where the stage has no place for it."""
        choice: dict[str, int] = {}
        if part.text is not None:
            most, iteration = self.search.mipro.max_instruction_sets, self.search.iteration
            made = stage.add([stage.whole(part.text)], part.text, iteration, most) or stage.find(part.text)
            if made is None:
                raise PromptError(f"the bank of {stage.stage_id} takes no further instruction")
            slot, option = stage.option(made)
            choice[slot] = option
        if part.examples:
            if not stage.config.max_demo_slots:
                raise PromptError(f"{stage.stage_id} shows no worked examples")
            shown = tuple(_index(stage, example) for example in part.examples)
            if shown not in stage.sets:
                stage.sets.append(shown)
            choice[stage.demo_slot(0)] = stage.sets.index(shown) + 1
        return choice

    def measure(self, lane: Lane) -> Steps:
        """Each prompt as a trial, on the first minibatch of all: what is proposed after that is made of the best.

        Those that a search of an earlier version has begun with are known.
        """
        search, trials = self.search, self.search.trials
        fresh: dict[str, dict[str, int]] = {}
        for choice, origin in self._choices:
            whole = {**dict.fromkeys(search.space.dimensions(), 0), **choice}
            try:
                candidate_id = search.space.compile(whole).template.digest()
            except (PromptError, TransformApplicationError) as error:
                yield Step(facts=[not_taken_over(origin, str(error))])
                continue
            if candidate_id not in search.candidates and candidate_id not in fresh:
                fresh[candidate_id] = whole
                self.origins[candidate_id] = origin
        if not fresh or not search.may_go_on():
            return
        search.minibatch = search.pool.next()
        yield from trials.measure_incumbent(lane)
        trials.queue.extend(fresh.values())
        trials.left = len(fresh)
        yield Fork([trials.lane] * min(len(fresh), parallel_trials(search.mipro)))
        trials.left = 0
        yield Step(facts=search.progress())


def _index(stage: Stage, shown: Shown) -> int:
    """The example's place in the stage's pool, into which it is put where it is not there."""
    known = next((index for index, example in enumerate(stage.pool) if example.messages == shown), None)
    if known is None:
        known = len(stage.pool)
        text = "\n\n".join(message.content for message in shown if message.role == "user")
        stage.pool.append(
            FewShotExample(
                seed=ELSEWHERE,
                stage_id=stage.stage_id,
                input_data={"input": text},
                output_data={"output": shown[-1].content},
                score=1.0,
                messages=shown,
                is_labelled=True,
            )
        )
    return known
