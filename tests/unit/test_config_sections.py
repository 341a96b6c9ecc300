"""The sections of a search's config that may be left out: levels and sizes, the judge, the stand-in, and the SDK's."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.config_bodies import VERIFIER, body, sdk_0_4_11

from promptjobs.core.config import (
    AdaptiveBatchConfig,
    AdaptivePoolConfig,
    GepaConfig,
    ProxyModelsConfig,
    VerifierConfig,
    resolve,
)
from promptjobs.errors import InvalidConfig

MODEL = "llama-3.1-8b-instant"


def gepa(changes: dict[str, Any]) -> GepaConfig:
    return resolve("gepa", body(changes), None).config.gepa


def warnings(changes: dict[str, Any]) -> tuple[str, ...]:
    return resolve("gepa", body(changes), None).warnings


def refused(changes: dict[str, Any]) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as caught:
        resolve("gepa", body(changes), None)
    return caught.value


# --- adaptive pool and batch -----------------------------------------------------------------------------------------

MANY = {"gepa.evaluation.train_seeds": {"start": 0, "end": 400}, "gepa.archive.pareto_source": "validation"}
MANY |= {"gepa.evaluation.validation_seeds": {"start": 1000, "end": 1020}}
SIZES = ("anchor_size", "pool_init_size", "pool_min_size", "warmup_iters", "anneal_stop_iter")
PRESETS = {"LOW": (50, 150, 100, 10, 30), "MODERATE": (30, 100, 50, 5, 20), "HIGH": (20, 60, 30, 3, 10)}
SDK_POOL = {
    "anchor_size": 30,
    "warmup_iters": 5,
    "anneal_stop_iter": 20,
    "pool_update_period": 3,
    "min_evals_per_example": 3,
    "k_info_prompts": 10,
    "info_buffer_factor": 0.9,
    "info_epsilon": 1e-06,
    "anchor_selection_method": "clustering",
    "exploration_strategy": "diversity",
    "heatup_trigger": "after_min_size",
    "heatup_size": 20,
    "heatup_cooldown_trials": 50,
    "heatup_schedule": "repeat",
}
SDK_BATCH = {
    "reflection_minibatch_size": 3,
    "min_local_improvement": 0.0,
    "val_evaluation_mode": "subsample",
    "val_subsample_size": 64,
    "candidate_selection_strategy": "coverage",
}


def pool(value: Any, **more: Any) -> AdaptivePoolConfig | None:
    return gepa(MANY | {"gepa.adaptive_pool": value} | more).adaptive_pool


def sizes(value: Any) -> tuple[int, ...]:
    found = pool(value)
    assert found is not None
    return tuple(getattr(found, name) for name in SIZES)


@pytest.mark.parametrize("level", PRESETS)
def test_level_of_a_pool_decides_on_its_sizes(level: str) -> None:
    assert sizes(level) == sizes({"level": level}) == sizes({"level": level.lower()}) == PRESETS[level]
    assert sizes(SDK_POOL | {"level": level}) == PRESETS[level]


def test_sizes_that_are_given_go_before_the_level() -> None:
    given_all = dict(zip(SIZES, (7, 40, 20, 1, 2), strict=True))
    assert sizes({"level": "LOW", **given_all}) == (7, 40, 20, 1, 2)
    assert sizes({"level": "HIGH", "anchor_size": 10}) == (10, 60, 30, 3, 10)
    assert sizes(SDK_POOL | {"level": "HIGH", "anchor_size": 10}) == (10, 60, 30, 5, 20)


def test_sizes_that_are_not_given_make_room_for_those_that_are() -> None:
    assert sizes({"level": "LOW", "pool_init_size": 40}) == (40, 40, 40, 10, 30)
    assert sizes({"level": "HIGH", "pool_min_size": 200}) == (20, 200, 200, 3, 10)
    assert sizes({"level": "HIGH", "anchor_size": 45, "warmup_iters": 50}) == (45, 60, 45, 50, 50)
    assert sizes({"level": "LOW", "anneal_stop_iter": 4}) == (50, 150, 100, 4, 4)


@pytest.mark.parametrize(
    ("given_sizes", "field"),
    [
        ({"pool_init_size": 10, "pool_min_size": 11}, "pool_min_size"),
        ({"pool_min_size": 10, "anchor_size": 11}, "anchor_size"),
        ({"pool_init_size": 10, "anchor_size": 11}, "anchor_size"),
        ({"warmup_iters": 9, "anneal_stop_iter": 8}, "warmup_iters"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(given_sizes: dict[str, int], field: str) -> None:
    error = refused(MANY | {"gepa.adaptive_pool": given_sizes})
    assert error.param == f"prompt_learning.gepa.adaptive_pool.{field}"


SIZE = st.integers(1, 500)


@given(
    level=st.sampled_from(sorted(PRESETS)),
    own=st.fixed_dictionaries({}, optional=dict.fromkeys(SIZES, SIZE)),
    seeds=st.integers(1, 500),
)
def test_sizes_of_a_pool_always_fit_into_each_other(level: str, own: dict[str, int], seeds: int) -> None:
    sent = MANY | {"gepa.evaluation.train_seeds": list(range(seeds)), "gepa.adaptive_pool": {"level": level, **own}}
    try:
        found = gepa(sent).adaptive_pool
    except InvalidConfig:
        assert len(own) > 1
        return
    assert found is not None
    assert found.anchor_size <= found.pool_min_size <= found.pool_init_size <= seeds
    assert found.warmup_iters <= found.anneal_stop_iter


def test_pool_is_off_without_its_section_and_on_with_an_empty_one() -> None:
    assert gepa(MANY).adaptive_pool is None
    assert pool(None) is pool(False) is pool("NONE") is None
    assert pool({}) == pool(True) == pool("LOW")


def test_pool_that_the_seeds_do_not_fill_is_reported() -> None:
    seeds = {"gepa.evaluation.train_seeds": {"start": 0, "end": 120}}
    [warning] = warnings(MANY | seeds | {"gepa.adaptive_pool": "LOW"})
    assert "begins with all 120 feedback seeds, not 150" in warning
    [warning] = warnings({"gepa.adaptive_pool": "HIGH"})
    assert "never shrinks" in warning


@pytest.mark.parametrize(("seed", "whose"), [(1003, "validation"), (2001, "test")])
def test_reserve_of_a_pool_must_not_be_measured_with(seed: int, whose: str) -> None:
    sent = MANY | {"test_pool": [2001], "gepa.adaptive_pool": {"heatup_reserve_pool": [5, seed, 999]}}
    error = refused(sent)
    assert error.param == "prompt_learning.gepa.adaptive_pool.heatup_reserve_pool"
    assert f"holds {whose} seeds" in str(error)
    found = pool({"heatup_reserve_pool": [5, 999]})
    assert found is not None
    assert found.heatup_reserve_pool == (5, 999)


def test_reserve_of_a_pool_must_not_be_on_the_front() -> None:
    train = {"gepa.evaluation.train_seeds": list(range(100)), "gepa.adaptive_pool": {}}
    on_front = gepa(train).front_seeds[0]
    error = refused(train | {"gepa.adaptive_pool": {"heatup_reserve_pool": [on_front]}})
    assert "holds front seeds" in str(error)


@pytest.mark.parametrize(("level", "minibatch", "subsample"), [("LOW", 5, 80), ("MODERATE", 3, 64), ("HIGH", 2, 48)])
def test_level_of_a_batch_decides_on_its_sizes(level: str, minibatch: int, subsample: int) -> None:
    expected = AdaptiveBatchConfig(level=level, reflection_minibatch_size=minibatch, val_subsample_size=subsample)
    for sent in (level, {"level": level}, SDK_BATCH | {"level": level}):
        found = gepa({"gepa.adaptive_batch": sent})
        assert (found.adaptive_batch, found.minibatch_size) == (expected, minibatch)


def test_sizes_of_a_batch_that_are_given_go_before_the_level() -> None:
    found = gepa({"gepa.adaptive_batch": SDK_BATCH | {"level": "LOW", "reflection_minibatch_size": 6}}).adaptive_batch
    assert found == AdaptiveBatchConfig(level="LOW", reflection_minibatch_size=6, val_subsample_size=64)


def test_batch_goes_before_the_size_of_minibatches() -> None:
    sent = {"gepa.adaptive_batch": True, "gepa.rollout.minibatch_size": 6}
    assert gepa(sent).minibatch_size == 3
    assert "gepa.rollout.minibatch_size, 6, is not used" in warnings(sent)[0]
    assert warnings(sent | {"gepa.rollout.minibatch_size": 8}) == ()
    off = gepa(sent | {"gepa.adaptive_batch": "NONE"})
    assert (off.minibatch_size, off.adaptive_batch) == (6, None)


# --- the judge -------------------------------------------------------------------------------------------------------

JUDGE = {"enabled": True, "reward_source": "verifier", "backend_model": "judge"}


def judge(**more: Any) -> VerifierConfig | None:
    return gepa({"verifier": VERIFIER | JUDGE | more}).verifier


def test_judge_alone_scores_outcomes_where_no_weight_is_given() -> None:
    expected = VerifierConfig(reward_source="verifier", backend_provider="groq", backend_model="judge", weight_env=0.0)
    assert judge() == expected
    assert (expected.backend_outcome_enabled, expected.weight_outcome) == (True, 1.0)
    events = judge(backend_outcome_enabled=False)
    assert events is not None
    assert (events.weight_outcome, events.weight_event, events.backend_event_enabled) == (0.0, 1.0, True)


def test_fused_score_keeps_its_weights() -> None:
    found = judge(reward_source="fused", weight_event=0.5, weight_outcome=2, backend_provider="OpenAI", timeout=5)
    assert found == VerifierConfig(
        reward_source="fused",
        backend_provider="openai",
        backend_model="judge",
        backend_event_enabled=True,
        weight_env=1.0,
        weight_event=0.5,
        weight_outcome=2.0,
        timeout=5.0,
    )


def test_options_of_the_judge_arrive() -> None:
    found = judge(
        backend_options={"temperature": 0.5, "max_tokens": 99},
        concurrency=2,
        spec_context="Be strict.",
        spec_max_tokens=9,
    )
    assert found is not None
    assert (found.temperature, found.max_tokens, found.concurrency) == (0.5, 99, 2)
    assert (found.spec_context, found.spec_max_tokens) == ("Be strict.", 9)


def test_judge_that_nobody_asks_is_reported() -> None:
    sent = {"verifier": JUDGE | {"reward_source": "task_app"}}
    assert gepa(sent).verifier is None
    assert "the judge is not asked" in warnings(sent)[0]


@pytest.mark.parametrize(
    ("more", "field", "said"),
    [
        ({"backend_model": ""}, "backend_model", "is required"),
        ({"reward_source": "fused"}, "weight_outcome", "needs a weight"),
        ({"backend_event_enabled": False, "backend_outcome_enabled": False}, "weight_outcome", "must be enabled"),
        ({"weight_event": 1, "backend_event_enabled": False}, "weight_event", "backend_event_enabled is false"),
        ({"reward_source": "oracle"}, "reward_source", "expected"),
        ({"backend_base": "https://api.example.com"}, "backend_base", "provider registry"),
        ({"backend_api_key_env": "OPENAI_API_KEY"}, "backend_api_key_env", "the key is the server's"),
        ({"verifier_graph_id": "g-1"}, "verifier_graph_id", "name a model"),
    ],
)
def test_judge_that_cannot_be_is_refused(more: dict[str, Any], field: str, said: str) -> None:
    error = refused({"verifier": VERIFIER | JUDGE | more})
    assert error.param == f"prompt_learning.verifier.{field}"
    assert said in str(error)


def test_judge_under_its_older_name_and_in_both_places() -> None:
    section = VERIFIER | JUDGE
    expected = judge()
    assert expected is not None
    for place in ("judge", "gepa.verifier", "gepa.judge"):
        assert gepa({place: section}).verifier == expected
    assert gepa({"verifier": section, "gepa.verifier": section}).verifier == expected
    assert "the same setting" in str(refused({"verifier": section, "gepa.verifier": VERIFIER}))


# --- the stand-in ----------------------------------------------------------------------------------------------------


def test_stand_in_takes_over_the_policy_as_what_it_stands_in_for() -> None:
    expected = ProxyModelsConfig(hi_provider="groq", hi_model=MODEL, lo_provider="openai", lo_model="small")
    full = expected.model_dump() | {"hi_provider": "GROQ", "lo_provider": "OpenAI"}
    assert gepa({"proxy_models": full}).proxy_models == expected
    assert gepa({"gepa.proxy_models": {"lo_model": "small", "lo_provider": "openai"}}).proxy_models == expected
    found = gepa({"proxy_models": {"lo_model": "small", "verify_every": 4, "r2_thresh": 0.8}}).proxy_models
    assert found is not None
    assert (found.lo_provider, found.verify_every, found.r2_thresh) == ("groq", 4, 0.8)


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ({"hi_model": MODEL}, "lo_model"),
        ({"lo_model": "small", "hi_model": "other"}, "hi_model"),
        ({"lo_model": "small", "hi_provider": "openai"}, "hi_provider"),
        ({"lo_model": MODEL}, "lo_model"),
        ({"lo_model": "small", "r2_thresh": 0.1}, "r2_stop"),
        ({"lo_model": "small", "sigma_stop": 10}, "sigma_stop"),
        ({"lo_model": "small", "n_min_hi": 2}, "n_min_hi"),
    ],
)
def test_stand_in_that_cannot_be_is_refused(section: dict[str, Any], field: str) -> None:
    assert refused({"proxy_models": section}).param == f"prompt_learning.proxy_models.{field}"


# --- bodies of the SDK -----------------------------------------------------------------------------------------------


def test_body_of_the_sdk_with_every_section_resolves() -> None:
    sent = sdk_0_4_11()
    section = VERIFIER | JUDGE
    proxy = {"hi_provider": "groq", "hi_model": MODEL, "lo_provider": "openai", "lo_model": "gpt-4o-mini"}
    sent["prompt_learning"] |= {"verifier": section, "proxy_models": proxy}
    sent["prompt_learning"]["gepa"] |= {
        "verifier": section,
        "proxy_models": proxy,
        "adaptive_pool": SDK_POOL | {"level": "HIGH"},
        "adaptive_batch": SDK_BATCH | {"level": "LOW"},
    }
    config = resolve("gepa", sent, None).config.gepa
    assert config.verifier == judge()
    assert config.proxy_models == ProxyModelsConfig(**proxy)
    assert config.adaptive_pool is not None
    assert (config.adaptive_pool.level, config.adaptive_pool.anchor_size) == ("HIGH", 20)
    assert (config.minibatch_size, config.adaptive_batch and config.adaptive_batch.level) == (5, "LOW")


def test_switch_of_a_section_must_be_one() -> None:
    assert refused({"gepa.adaptive_pool": "SOME"}).param == "prompt_learning.gepa.adaptive_pool.level"
    assert refused({"verifier": "yes"}).param == "prompt_learning.verifier.enabled"
    assert refused({"proxy_models": True}).param == "prompt_learning.proxy_models"
