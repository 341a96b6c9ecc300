"""What a search has written, read back: trials with the rollouts behind them, candidates, the curve."""

import pytest

from promptjobs.core.trial import Phase
from promptjobs.db import results
from promptjobs.db.candidates import read_by_ids
from promptjobs.db.results import Page, RolloutFilter
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading
from promptjobs.errors import InvalidRequest, SnapshotNotFound
from tests.fakes.recorded_jobs import publish, searched_job


async def test_a_trial_is_shown_with_the_rollouts_that_its_scores_come_from(database: Database) -> None:
    """Seed 2 of the baseline failed at its first draw: the second one is what the trial counts."""
    job = await searched_job(database)
    async with reading(database) as connection:
        trials = [each.trial for each in await results.read_trials(connection, job.job_id, Page(10))]
        rollouts = await results.read_trial_rollouts(connection, job.job_id, trials)
    assert [[(each.seed, each.score, each.draw) for each in group] for group in rollouts] == [
        [(1, 0.0, 0), (2, 0.5, 1), (3, None, 0)],
        [(1, 1.0, 0), (2, 0.5, 0)],
    ]
    assert rollouts[0][0].tokens == 110
    assert (rollouts[0][2].reason, rollouts[0][2].detail) == ("task_app_timeout", "no reply in 300 s")


async def test_trials_are_filtered_and_paged(database: Database) -> None:
    job = await searched_job(database)
    async with reading(database) as connection:

        async def numbers(page: Page, phase: Phase | None = None, candidate_id: str | None = None) -> list[int]:
            found = await results.read_trials(connection, job.job_id, page, phase, candidate_id)
            return [each.trial.n for each in found]

        assert await numbers(Page(10)) == [1, 2]
        assert await numbers(Page(1)) == [1]
        assert await numbers(Page(10, after=1)) == [2]
        assert await numbers(Page(10, offset=1)) == [2]
        assert await numbers(Page(10), candidate_id="c_1") == [2]
        assert await numbers(Page(10), phase=Phase.TEST) == []


async def test_the_newest_mean_scores_come_oldest_first(database: Database) -> None:
    job = await searched_job(database)
    async with reading(database) as connection:
        every = await results.read_mean_scores(connection, job.job_id, 10)
        newest = await results.read_mean_scores(connection, job.job_id, 1)
    assert [(point.n, point.score, point.scored) for point in every] == [(1, 0.25, 2), (2, 0.75, 2)]
    assert newest == every[1:]


async def test_rollouts_are_paged_without_repeats(database: Database) -> None:
    job = await searched_job(database)
    seen = []
    after = None
    async with reading(database) as connection:
        while page := await results.read_rollouts(connection, job.job_id, RolloutFilter(2, after)):
            seen += [(each.candidate_id, each.seed, each.draw) for each in page]
            after = page[-1].key
        with pytest.raises(InvalidRequest, match="there is no rollout"):
            await results.read_rollouts(connection, job.job_id, RolloutFilter(2, bytes(16)))
        only = await results.read_rollouts(connection, job.job_id, RolloutFilter(9, None, "c_0", 2, Phase.OPTIMIZATION))
    assert seen == [("c_0", 1, 0), ("c_0", 2, 0), ("c_0", 2, 1), ("c_0", 3, 0), ("c_1", 1, 0), ("c_1", 2, 0)]
    assert [each.draw for each in only] == [0, 1]


async def test_the_curve_is_the_baseline_and_each_new_best_with_its_prompt(database: Database) -> None:
    job = await searched_job(database)
    async with reading(database) as connection:
        curve = await results.read_curve(connection, job.job_id)
        candidates = await read_by_ids(connection, job.job_id, ["c_0", "c_1"])
    assert [event.candidate for event in curve] == [candidates["c_0"], candidates["c_1"]]
    assert [event.type for event in curve] == ["prompt.learning.gepa.baseline", "prompt.learning.gepa.new_best"]


async def test_a_snapshot_belongs_to_its_job(database: Database) -> None:
    one, other = await searched_job(database), await searched_job(database)
    snapshot_id = await publish(one)
    async with reading(database) as connection:
        assert (await results.read_snapshot(connection, one.job_id, snapshot_id)).payload is not None
        with pytest.raises(SnapshotNotFound):
            await results.read_snapshot(connection, other.job_id, snapshot_id)
        [listed] = await results.read_snapshots(connection, one.job_id, 10)
        [artifact] = await results.read_artifacts(connection, one.job_id, 10)
    assert (listed.id, listed.payload, artifact.snapshot_id) == (snapshot_id, None, snapshot_id)
