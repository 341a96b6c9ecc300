"""MIPRO on the demo's program is honest: what it reports of its prompts is what they score, and they score better."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from promptjobs.core.asks import CandidateFact
from promptjobs.core.config import MiproJobConfig, resolve
from promptjobs.core.optimizers import optimizer_of
from promptjobs.core.prompt import PromptTemplate, Section
from promptjobs.core.result import OptimizationResult
from promptjobs.demo.dataset import Split
from tests.fakes.pure import Pure
from tests.fakes.triage_world import DATASET, DemoWorld, mean_score

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TEST = DATASET.seeds(Split.TEST)


def config(**changes: Any) -> MiproJobConfig:
    """The demo's, offline."""
    body = tomllib.loads((ROOT / "configs" / "mipro_demo.toml").read_text(encoding="utf-8"))
    overrides = {f"prompt_learning.mipro.{name}": value for name, value in changes.items()}
    found = resolve("mipro", body, overrides).config
    assert isinstance(found, MiproJobConfig)
    return found


def search(**changes: Any) -> tuple[Pure, OptimizationResult]:
    job = config(**changes)
    run = Pure(lambda: optimizer_of(job), DemoWorld(), rng_seed=job.mipro.rng_seed)
    return run, run.run()


@pytest.fixture(scope="module")
def run() -> tuple[Pure, OptimizationResult]:
    return search()


def test_best_prompt_and_baseline_score_what_is_reported_and_the_gain_is_clear(run: tuple[Pure, OptimizationResult]):
    _, result = run
    assert result.best is not None
    assert result.baseline is not None
    assert result.test is not None
    assert result.test.best_score is not None
    assert result.test.baseline_score is not None
    assert result.test.best_score.mean == mean_score(result.best.template, TEST)
    assert result.test.baseline_score.mean == mean_score(result.baseline.template, TEST)
    assert result.test.best_score.mean >= result.test.baseline_score.mean + 0.3


def test_every_finalist_scores_what_is_reported(run: tuple[Pure, OptimizationResult]):
    _, result = run
    assert len(result.finalists) >= 3
    for finalist in result.finalists:
        assert finalist.accuracy == mean_score(finalist.candidate.template, tuple(finalist.scores))


def test_budget_holds_and_every_prompt_is_measured_once_on_a_seed(run: tuple[Pure, OptimizationResult]):
    pure, _ = run
    assert pure.spent <= config().mipro.rollout_budget
    asked = [(ask.candidate_id, ask.seed) for ask in pure.rollouts]
    assert len(set(asked)) == len(asked)


def test_examples_are_what_the_baseline_answered_and_only_what_it_got_right(run: tuple[Pure, OptimizationResult]):
    """Those of both steps come from the same rollouts, in the words that the models said there."""
    pure, result = run
    assert result.baseline is not None
    pools = result.extra["bootstrap"]["few_shot_examples"]
    right = [seed for seed in config().mipro.bootstrap_seeds if mean_score(result.baseline.template, [seed])]
    assert [each["seed"] for each in pools["summarize"]] == [each["seed"] for each in pools["classify"]] == right
    assert [each["output_data"]["output"] for each in pools["classify"]] == [
        DATASET.ticket(seed).label for seed in right
    ]
    known = {
        (each["messages"][0]["content"], each["messages"][1]["content"]) for pool in pools.values() for each in pool
    }
    candidates = [fact.candidate for fact in pure.facts if isinstance(fact, CandidateFact)]
    shown = {pair for each in candidates for pair in shown_pairs(each.template)}
    assert shown
    assert shown <= known


def shown_pairs(template: PromptTemplate) -> list[tuple[str, str]]:
    """The demonstrations of a prompt, as messages."""
    pairs, asked = [], ""
    for section in template.sections:
        if section.role == "assistant":
            pairs.append((asked, section.content))
        asked = section.content
    return pairs


def test_no_instruction_holds_a_ticket(run: tuple[Pure, OptimizationResult]):
    _, result = run
    texts = [made["text"].lower() for made in result.extra["instruction_bank"]]
    assert texts
    said = [ticket.message.lower() for ticket in DATASET.tickets.values() if len(ticket.message.split()) > 4]
    assert not [message for message in said if any(message in text for text in texts)]


@pytest.mark.slow
@pytest.mark.parametrize("rng_seed", range(6))
def test_held_out_score_rises_from_every_start(rng_seed: int):
    _, result = search(rng_seed=rng_seed)
    assert result.test is not None
    assert result.test.best_score is not None
    print(f"seed {rng_seed}: {result.test.best_score.mean:.2f} on held-out seeds")
    assert result.test.best_score.mean >= 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"proposer_mode": "builtin"}, {"proposer_mode": "dspy"}, {"demo_format": "text"}, {"parallel_risk": "HIGH"}],
    ids=lambda changes: "-".join(f"{name}={value}" for name, value in changes.items()),
)
def test_every_way_of_proposing_and_of_showing_examples_improves_the_program(changes: dict[str, str]):
    _, result = search(**changes)
    assert result.test is not None
    assert result.test.best_score is not None
    assert result.test.baseline_score is not None
    assert result.test.best_score.mean >= result.test.baseline_score.mean + 0.15


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "slots"),
    [
        ({"max_instruction_sets": 0}, "demo"),
        ({"max_demo_sets": 0}, "instruction"),
    ],
)
def test_instructions_alone_and_examples_alone_help_too(changes: dict[str, int], slots: str):
    _, result = search(**changes)
    assert result.best is not None
    assert result.baseline is not None
    assert result.test is not None
    assert result.test.best_score is not None
    assert result.test.baseline_score is not None
    print(f"{slots}s alone: {result.test.baseline_score.mean:.2f} → {result.test.best_score.mean:.2f}")
    assert result.test.best_score.mean > result.test.baseline_score.mean
    changed = {(s.module, s.content) for s in result.best.template.sections} - sections_of(result.baseline.template)
    if slots == "demo":
        assert not {section for section in result.best.template.sections if is_instruction(section, changed)}
    else:
        assert not shown_pairs(result.best.template)


def sections_of(template: PromptTemplate) -> set[tuple[str, str]]:
    return {(section.module, section.content) for section in template.sections}


def is_instruction(section: Section, changed: set[tuple[str, str]]) -> bool:
    return section.role == "system" and (section.module, section.content) in changed
