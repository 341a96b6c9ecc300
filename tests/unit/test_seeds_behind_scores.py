"""No score is told without the number of seeds that it rests on, and a stop by failures says what they were."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from tests.fakes.gepa_runs import ERROR, MODES, QualityWorld, job, noisy, pure, stepping
from tests.fakes.mipro_runs import mipro_job, ran
from tests.fakes.mipro_world import MiproWorld, Prompt, quality
from tests.fakes.pure import Pure

from promptjobs.core.asks import FailureReason, ProgressFact
from promptjobs.core.result import OptimizationResult, snapshot_payload
from promptjobs.core.stops import FEWEST_ANSWERS

SEEDS = {
    "best_score": "best_score_seeds",
    "baseline_score": "baseline_score_seeds",
    "best_train_score": "best_train_score_seeds",
    "best_validation_score": "best_validation_score_seeds",
    "best_test_score": "best_test_score_seeds",
    "score": "num_seeds",
    "accuracy": "num_seeds",
    "mean": "num_seeds",
    "minibatch_score": "num_seeds",
    "estimate": "num_seeds",
    "best_accuracy": "best_num_seeds",
    "best_estimate": "best_num_seeds",
    "train_accuracy": "train_num_seeds",
    "val_accuracy": "val_num_seeds",
    "baseline_val_accuracy": "baseline_val_num_seeds",
    "train_score": "train_num_seeds",
    "test_score": "test_num_seeds",
}
BY_SEED = {"instance_scores", "seed_scores", "test_seed_scores", "history", "optimizer_state", "bootstrap", "misses"}
"""Scores of single seeds, and the state of a model."""


def scores_of(data: Any) -> Iterator[tuple[str, float, Mapping[str, Any]]]:
    """Every mean that is told, with the object in which it stands."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if key in SEEDS and isinstance(value, float):
                yield key, value, data
            elif key not in BY_SEED:
                yield from scores_of(value)
    elif isinstance(data, list):
        for value in data:
            yield from scores_of(value)


def seeds_behind(key: str, told: Mapping[str, Any]) -> int:
    """An interval names them `n`; what a model estimates has its own count where a measured mean stands beside it."""
    if "confidence" in told:
        return int(told["n"])
    if key == "estimate" and "estimate_num_seeds" in told:
        return int(told["estimate_num_seeds"])
    if key == "test_score" and "test_num_seeds" not in told:
        return int(told["num_seeds"])
    return int(told[SEEDS[key]])


def check(run: Pure, result: OptimizationResult) -> set[str]:
    """Returns the names under which scores were told."""
    told = [event.data for event in run.events()]
    told += [fact.data for fact in run.facts if isinstance(fact, ProgressFact)]
    told.append(snapshot_payload(result, {}))
    names = set()
    for data in told:
        for key, _, where in scores_of(data):
            assert seeds_behind(key, where) > 0, (key, where)
            names.add(key)
    for each in told[:-1]:
        for key in ("best_score", "baseline_score"):
            if key in each:
                assert (each[key] is None) == (each[f"{key}_seeds"] == 0)
    return names


@pytest.mark.parametrize("acceptance", MODES)
def test_every_score_of_a_gepa_job_has_its_seeds(acceptance: str) -> None:
    run = pure(job(acceptance=acceptance, lanes=2), QualityWorld(score=noisy(0.1)))
    names = check(run, run.run())
    assert {"best_score", "baseline_score", "score", "accuracy", "mean", "val_accuracy"} <= names
    assert {"best_score"} <= {key for event in run.events("new_best") for key, _, _ in scores_of(event.data)}


def test_every_score_of_a_mipro_job_has_its_seeds() -> None:
    run = ran(mipro_job(), MiproWorld(score=lambda prompt, seed: quality(prompt)))
    names = check(run.pure, run.result)
    assert {"best_score", "score", "minibatch_score", "estimate", "best_estimate", "test_score"} <= names


def test_progress_counts_the_seeds_of_the_best_and_of_the_baseline() -> None:
    run = pure(job(), QualityWorld())
    run.run()
    last = run.optimizer.progress_data()
    archive, base = run.optimizer.archive, run.optimizer.base
    assert last["best_score_seeds"] == len(archive.known_scores(last["best_candidate_id"])) > 0
    assert last["baseline_score_seeds"] == len(archive.known_scores(base.candidate_id)) > 0


def test_a_candidate_of_mipro_rests_on_what_was_measured() -> None:
    run = ran(mipro_job(), MiproWorld(score=lambda prompt, seed: quality(prompt)))
    search = run.pure.optimizer
    best = search.beliefs.best()
    asked = {ask.seed for ask in run.pure.rollouts if ask.candidate_id == best and ask.key in run.pure.answers}
    assert search.progress_data()["best_score_seeds"] == len(asked)


# --- stops by failures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "reason", "words"),
    [
        ({"max_error_rate": 0.1}, "max_error_rate", " rollouts failed: "),
        ({"max_consecutive_errors": 2}, "max_consecutive_errors", "the last "),
    ],
)
def test_a_gepa_search_that_its_failures_end_says_what_they_were(
    limit: dict[str, Any], reason: str, words: str
) -> None:
    asked: list[int] = []

    def score(quality: float, seed: int, draw: int) -> float | FailureReason:
        asked.append(seed)
        if len(asked) <= FEWEST_ANSWERS or seed % 2:
            return quality
        return ERROR if seed % 4 else FailureReason.INVALID_SCORE

    config = job(acceptance="race", rollout__budget=2000)
    config = config.model_copy(update={"gepa": config.gepa.model_copy(update=limit)})
    run = pure(config, QualityWorld(score=score, reflect=stepping(0.01)))
    result = run.run()
    assert result.finish_reason == reason
    assert result.detail is not None
    assert words in result.detail
    assert any(cause in result.detail for cause in (ERROR, FailureReason.INVALID_SCORE))
    [told] = run.events("termination.triggered")
    assert told.data == {"reason": reason, "detail": result.detail}
    assert told.message == f"the search ends: {result.detail}"


def test_a_mipro_search_that_its_failures_end_says_what_they_were() -> None:
    asked: list[int] = []

    def score(prompt: Prompt, seed: int) -> float | FailureReason:
        asked.append(seed)
        return quality(prompt) if len(asked) <= 40 or seed % 2 else FailureReason.PROVIDER_ERROR

    run = ran(mipro_job(num_iterations=40, rollout_budget=3000, **LIMIT), MiproWorld(score=score))
    assert run.result.finish_reason == "max_error_rate"
    assert run.result.detail is not None
    assert " rollouts failed: " in run.result.detail
    assert "provider_error" in run.result.detail


LIMIT = {"termination_config.max_error_rate": 0.1}


def test_another_end_has_no_words_of_failures() -> None:
    run = pure(job(), QualityWorld(score=noisy(0.1)))
    result = run.run()
    assert result.detail is None
