"""Runs the `gepa` package on a task, with its default settings."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from gepa.api import optimize
from gepa.core.adapter import EvaluationBatch

from promptjobs.core.prompt import PromptTemplate, full_text, render

from .driving import REFLECTION_SECONDS, ROLLOUT_SECONDS, SLOTS, Run
from .worlds import Played, Task, messages_for, play, score, template_of

COMPONENT = "instruction"


class Silent:
    def log(self, message: str) -> None:
        pass


class Adapter:
    """One component, the system text; seeds are the instances. virtual_seconds: a batch runs in parallel slots."""

    propose_new_texts = None

    def __init__(self, task: Task) -> None:
        self.task = task
        self.rollouts = 0
        self.meta_calls = 0
        self.virtual_seconds = 0.0
        self.salt = 0
        self._draws: dict[tuple[str, int], int] = {}
        self._asked: dict[str, int] = {}

    def evaluate(
        self, batch: list[int], candidate: dict[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[tuple[int, Played], str]:
        template = template_of(self.task, candidate[COMPONENT])
        played = [self._play(template, candidate[COMPONENT], seed) for seed in batch]
        self.rollouts += len(batch)
        self.virtual_seconds += ROLLOUT_SECONDS * -(-len(batch) // SLOTS)
        return EvaluationBatch(
            outputs=[one.output for one in played],
            scores=[one.score for one in played],
            trajectories=list(zip(batch, played, strict=True)) if capture_traces else None,
        )

    def _play(self, template: PromptTemplate, text: str, seed: int) -> Played:
        """A model that samples answers anew each time."""
        draw = self._draws.get((text, seed), 0)
        self._draws[(text, seed)] = draw + 1
        return play(self.task, messages_for(self.task, template, seed), seed, draw if self.task.samples else 0)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: EvaluationBatch[tuple[int, Played], str], components: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        records = [
            {
                "Inputs": self.task.user_pattern.replace("{input}", self.task.input(seed)),
                "Generated Outputs": played.output,
                "Feedback": played.feedback,
            }
            for seed, played in eval_batch.trajectories or []
        ]
        return dict.fromkeys(components, records)

    @property
    def reflection_model(self) -> Any:
        return self.reflect

    def reflect(self, prompt: str | list[dict[str, Any]]) -> str:
        """A meta-prompt that was sent before gets another draw."""
        text = prompt if isinstance(prompt, str) else "\n\n".join(str(message["content"]) for message in prompt)
        self.meta_calls += 1
        self.virtual_seconds += REFLECTION_SECONDS
        draw = self._asked[text] = self._asked.get(text, -1) + 1
        return self.task.reflect([("user", text)], 1.0, draw, self.salt)


def run_reference(task: Task, budget: int, seed: int = 0, adapter: Adapter | None = None, **settings: Any) -> Run:
    """One run of `gepa.optimize`. settings: further arguments of it. It may pass the budget by one evaluation."""
    adapter = adapter or Adapter(task)
    adapter.salt = seed
    started = time.process_time()
    result: Any = optimize(
        seed_candidate={COMPONENT: task.baseline},
        trainset=list(task.splits.train),
        valset=list(task.splits.validation),
        adapter=adapter,  # type: ignore[arg-type]
        reflection_lm=adapter.reflection_model,
        max_metric_calls=budget,
        logger=Silent(),
        seed=seed,
        **settings,
    )
    used = time.process_time() - started
    best: Any = result.best_candidate
    template = template_of(task, best[COMPONENT])
    return Run(
        test=score(task, template, task.splits.test),
        validation=score(task, template, task.splits.validation),
        rollouts=adapter.rollouts,
        meta_calls=adapter.meta_calls,
        virtual_seconds=adapter.virtual_seconds,
        prompt=full_text(render(template)),
        template=template,
        claimed=result.val_aggregate_scores[result.best_idx],
        cpu_seconds=used,
        finish_reason="max_metric_calls",
        depth=_depth(result.parents, result.best_idx),
    )


def _depth(parents: Sequence[Sequence[int | None]], index: int) -> int:
    """Steps on the longest way from the baseline."""
    found = [parent for parent in parents[index] if parent is not None]
    return 1 + max(_depth(parents, parent) for parent in found) if found else 0
