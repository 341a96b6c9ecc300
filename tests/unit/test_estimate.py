"""What a job is expected to need, before it runs: the same figures as the plan, and never less than it can need."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.config_bodies import PROMPT, body, mipro_body
from tests.fakes.gepa_runs import QualityWorld, job, jobs, noisy, pure
from tests.fakes.mipro_runs import mipro_job, ran
from tests.fakes.programs import MODULES

from promptjobs.core.asks import Completion, Rollout
from promptjobs.core.config import JobConfig, resolve
from promptjobs.core.estimate import INPUT_TOKENS, Calls, Estimate, estimate
from promptjobs.core.ledger import Category, category_of
from promptjobs.core.text_tokens import count_tokens
from promptjobs.core.trial import Phase


def gepa(**changes: Any) -> JobConfig:
    return resolve("gepa", body({path.replace("__", "."): value for path, value in changes.items()}), None).config


def mipro(**changes: Any) -> JobConfig:
    return resolve(
        "mipro", mipro_body({path.replace("__", "."): value for path, value in changes.items()}), None
    ).config


def of(found: Estimate, category: Category) -> list[Calls]:
    return [each for each in found.calls if each.category is category]


def test_a_gepa_job_uses_its_budget_and_the_test_comes_on_top() -> None:
    found = estimate(gepa(gepa__rollout__budget=400, gepa__evaluation__test_pool=list(range(300, 310))))
    assert found.rollouts_at_most == 400 + 2 * 10
    assert found.rollouts[Phase.TEST] == 20
    assert found.rollouts[Phase.BOOTSTRAP] == 3
    assert found.prompt_tokens is None
    assert any("the task app's own messages have" in said for said in found.assumptions)


def test_a_prompt_that_is_known_is_counted_and_needs_no_probes() -> None:
    config = gepa(initial_prompt=PROMPT)
    found = estimate(config)
    template = config.template()
    assert template is not None
    assert found.rollouts[Phase.BOOTSTRAP] == 0
    assert found.prompt_tokens == sum(count_tokens(section.content, "gpt-4") for section in template.sections)


def test_a_program_makes_a_call_of_each_module_by_the_modules_own_model() -> None:
    modules = [dict(module) for module in MODULES]
    modules[0]["policy"] = {"model": "big", "max_completion_tokens": 50}
    found = estimate(gepa(gepa__modules=modules))
    calls = of(found, Category.POLICY)
    assert [each.model for each in calls] == ["big", *["llama-3.1-8b-instant"] * (len(modules) - 1)]
    assert {each.at_most for each in calls} == {found.rollouts[Phase.OPTIMIZATION]}
    assert calls[0].tokens_at_most.completion == 50 * calls[0].at_most


def test_the_judge_is_asked_of_every_rollout_and_twice_at_most() -> None:
    judge = {"enabled": True, "reward_source": "verifier", "backend_provider": "openai", "backend_model": "j"}
    found = estimate(mipro(verifier=judge))
    [calls] = of(found, Category.JUDGE)
    assert (calls.provider, calls.model) == ("openai", "j")
    assert (calls.expected, calls.at_most) == (found.rollouts_at_most, 2 * found.rollouts_at_most)
    assert calls.tokens_at_most.completion == 2048 * calls.at_most


def test_a_stand_in_takes_half_of_the_search_and_none_of_the_test() -> None:
    test = {"gepa__evaluation__test_pool": [300], "gepa__evaluation__validation_seeds": [301]}
    found = estimate(gepa(proxy_models={"lo_model": "lo"}, **test))
    assert {each.category for each in found.calls if each.model == "lo"} == {Category.BOOTSTRAP, Category.POLICY}
    own, lo = of(found, Category.POLICY)
    assert own.expected + lo.expected == found.rollouts[Phase.OPTIMIZATION] == own.at_most


def test_calls_of_the_meta_model_keep_to_their_limit() -> None:
    assert estimate(mipro(mipro__max_meta_calls=7)).proposals_at_most == 7
    assert estimate(gepa(gepa__max_meta_calls=7)).proposals_expected <= 7
    assert estimate(mipro(mipro__instructions__generate_at_iterations=[])).proposals_at_most == 0


def test_a_limit_on_prompts_bounds_what_a_call_can_need() -> None:
    loose, tight = (estimate(gepa(initial_prompt=PROMPT, **more)) for more in ({}, {"gepa__token__max_limit": 100}))
    assert tight.tokens_at_most.prompt < loose.tokens_at_most.prompt
    assert tight.tokens.prompt <= (100 + INPUT_TOKENS) * tight.rollouts_at_most + loose.tokens.prompt


@given(changes=st.sampled_from([{}, {"gepa__rollout__budget": 60}, {"gepa__acceptance": "full"}]))
def test_what_is_expected_is_never_more_than_what_is_possible(changes: dict[str, Any]) -> None:
    for found in (estimate(gepa(**changes)), estimate(mipro())):
        for each in found.calls:
            assert 0 <= each.expected <= each.at_most
            assert each.tokens.prompt <= each.tokens_at_most.prompt
            assert each.tokens.completion <= each.tokens_at_most.completion
        assert found.proposals_expected <= found.proposals_at_most
        assert found.tokens_at_most.total >= found.tokens.total > 0


# --- against what runs do --------------------------------------------------------------------------------------------


def check(found: Estimate, rollouts: list[Rollout], completions: list[Completion]) -> None:
    assert len(rollouts) <= found.rollouts_at_most
    assert sum(ask.phase is Phase.TEST for ask in rollouts) <= found.rollouts[Phase.TEST]
    assert len(completions) <= found.proposals_at_most
    for category in {category_of(ask.phase) for ask in rollouts}:
        assert of(found, category)


@settings(max_examples=15, deadline=None)
@given(config=st.sampled_from(["race", "full"]).flatmap(jobs))
def test_no_gepa_run_needs_more_than_was_estimated(config: Any) -> None:
    run = pure(config, QualityWorld(score=noisy()))
    run.run()
    check(estimate(config), run.rollouts, run.completions)


@pytest.mark.parametrize("changes", [{}, {"num_iterations": 8, "rollout_budget": 900}, {"proposer_mode": "dspy"}])
def test_no_mipro_run_needs_more_than_was_estimated(changes: dict[str, Any]) -> None:
    config = mipro_job(**changes)
    run = ran(config)
    check(estimate(config), run.pure.rollouts, run.proposals)


def test_a_gepa_run_makes_about_as_many_proposals_as_expected() -> None:
    config = job(rollout__budget=1500, population__num_generations=100)
    run = pure(config, QualityWorld(score=noisy()))
    run.run()
    assert estimate(config).proposals_expected / 3 <= len(run.completions) <= 3 * estimate(config).proposals_expected
