"""Jobs in the database as a worker leaves them, without a search: created, claimed, written and published."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import SecretStr
from sqlalchemy import insert, update

from promptjobs.clients.providers import Providers
from promptjobs.core.archive import Candidate
from promptjobs.core.asks import (
    Answer,
    CandidateFact,
    EventFact,
    Fact,
    FailureReason,
    ProgressFact,
    Rollout,
    RolloutBody,
    TrialFact,
)
from promptjobs.core.lanes import Cause
from promptjobs.core.optimizers import check_budget
from promptjobs.core.prompt import Message, PromptTemplate, Section
from promptjobs.core.result import Attempt, Measured, Member, OptimizationResult, snapshot_payload
from promptjobs.core.trial import Phase, Trial
from promptjobs.db import events
from promptjobs.db.balances import DEFAULT_ORGANISATION
from promptjobs.db.journal import AnswerRecord, Group, TurnRecord, body_text, write_group
from promptjobs.db.leases import claim_next
from promptjobs.db.models import Artifact, Job, Snapshot
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from promptjobs.db.vault import Vault
from promptjobs.jobs.service import JobRequest, JobService
from tests.fakes.config_bodies import PROMPT, body

VAULT = Vault(b"k" * 32)
PROVIDER_KEY = "test-provider-key"
TASK_APP_KEY = "test-task-app-key"
BUDGET = 400


def job_service(database: Database) -> JobService:
    providers = Providers({"groq": ("http://127.0.0.1:9/v1", SecretStr(PROVIDER_KEY))})
    return JobService(database, providers, check_budget, VAULT)


def post_body(**changes: Any) -> dict[str, Any]:
    """What a client posts; the task app's key stands in all three places."""
    config_body = body({"initial_prompt": PROMPT, "gepa.rollout.budget": BUDGET, "task_app_api_key": TASK_APP_KEY})
    config_body["task_app_api_key"] = TASK_APP_KEY
    overrides = {"task_app_api_key": TASK_APP_KEY, "prompt_learning.policy.temperature": 0.5}
    return {"algorithm": "gepa", "config_body": config_body, "overrides": overrides} | changes


async def created_job(database: Database, organisation: str = DEFAULT_ORGANISATION, **changes: Any) -> str:
    request = JobRequest(**{"unknown": (), **post_body(**changes)})
    return (await job_service(database).create(request, organisation)).id


def prompt(text: str) -> PromptTemplate:
    sections = (Section("system", "system", text, 0), Section("user", "user", "Query: {query}", 1))
    return PromptTemplate(sections, {"query": True})


def candidate(n: int, text: str, parents: Sequence[str] = ()) -> Candidate:
    operator = "reflection" if parents else "baseline"
    return Candidate(f"c_{n}", n, prompt(text), "c_0", tuple(parents), operator, generation=min(n, 1))


def progress(best_score: float | None, best_candidate_id: str | None, generation: int = 1) -> ProgressFact:
    data = {
        "phase": "optimization",
        "rollouts_completed": 8,
        "rollouts_total": BUDGET,
        "best_score": best_score,
        "best_candidate_id": best_candidate_id,
        "front": [] if best_candidate_id is None else [best_candidate_id],
        "generation": generation,
    }
    return ProgressFact(data)


def rollout(candidate_id: str, seed: int, score: float | None, draw: int = 0) -> AnswerRecord:
    ask = Rollout(candidate_id, seed, "policy", Phase.OPTIMIZATION, draw=draw)
    reason = None if score is not None else FailureReason.TASK_APP_TIMEOUT
    answer = Answer(ask.key, score, reason, prompt_tokens=100, completion_tokens=10, cost_usd=0.001, seconds=0.25)
    said = RolloutBody((Message("user", "Query: why?"),), "an answer", "good")
    return AnswerRecord(ask, answer, body_text(said), detail=None if reason is None else "no reply in 300 s")


@dataclass
class RunningJob:
    """A claimed job; each `write` is one group of the journal."""

    database: Database
    job_id: str
    epoch: int
    groups: int = 0

    async def write(self, facts: Sequence[Fact] = (), answers: Sequence[AnswerRecord] = ()) -> None:
        self.groups += 1
        turn = TurnRecord(self.groups, "", Cause.RESUME, bytes(16), 1, facts)
        numbered = [(self.groups * 1000 + i, answer) for i, answer in enumerate(answers)]
        connection = await self.database.connect()
        try:
            written = await write_group(
                connection, self.job_id, self.epoch, self.groups, Group(answers=numbered, turns=[turn])
            )
            assert written is not None
        finally:
            await connection.close()


async def running_job(database: Database, **changes: Any) -> RunningJob:
    """The oldest queued job, which is a new one where there is no other."""
    await created_job(database, **changes)
    connection = await database.connect()
    try:
        claim = await claim_next(connection, "worker-1", 60.0)
        assert claim is not None
        return RunningJob(database, claim.job_id, claim.epoch)
    finally:
        await connection.close()


async def searched_job(database: Database, **changes: Any) -> RunningJob:
    """Baseline on three seeds, of which one failed first and one for good; then a child that is better."""
    job = await running_job(database, **changes)
    base, child = candidate(0, "Answer."), candidate(1, "Answer with care.", ["c_0"])
    await job.write([CandidateFact(base)], [rollout("c_0", 1, 0.0), rollout("c_0", 2, None), rollout("c_0", 3, None)])
    await job.write(
        [
            TrialFact(Trial(1, "c_0", Phase.OPTIMIZATION, True, (1, 2, 3), (0.0, 0.5, None))),
            EventFact(
                "prompt.learning.gepa.baseline",
                "Baseline: 0.25",
                {"candidate_id": "c_0", "accuracy": 0.25, "baseline_score": 0.25, "rollouts_completed": 4},
            ),
            progress(0.25, "c_0", generation=0),
        ],
        [rollout("c_0", 2, 0.5, draw=1)],
    )
    await job.write(
        [
            CandidateFact(child),
            TrialFact(Trial(2, "c_1", Phase.OPTIMIZATION, False, (1, 2), (1.0, 0.5), reused=1, lane="0", generation=1)),
            EventFact(
                "prompt.learning.gepa.new_best",
                "New best: 0.75",
                {
                    "candidate_id": "c_1",
                    "best_score": 0.75,
                    "previous_best_score": 0.25,
                    "improvement": 0.5,
                    "rollouts_completed": 8,
                },
            ),
            progress(0.75, "c_1"),
        ],
        [rollout("c_1", 1, 1.0), rollout("c_1", 2, 0.5)],
    )
    return job


def _payload() -> dict[str, Any]:
    """What the search of `searched_job` publishes."""
    base, child = candidate(0, "Answer."), candidate(1, "Answer with care.", ["c_0"])
    train = Measured(3, {1: 1.0, 2: 0.5}, {1: 0.0, 2: 0.5})
    archive = [Member(child, 0.75, 2, train.best, True), Member(base, 0.25, 2, train.baseline, False)]
    attempts, lineage = [Attempt(child, 0.75, 2, True)], ["c_0", "c_1"]
    result = OptimizationResult(child, base, train, None, None, archive, [], attempts, lineage, "budget", None, {})
    payload: dict[str, Any] = orjson.loads(orjson.dumps(snapshot_payload(result, STATS)))
    return payload


STATS = {"total_rollouts": 6}
PAYLOAD = _payload()


async def publish(job: RunningJob, status: str = "succeeded") -> str:
    """End the job in one transaction; returns the snapshot's id."""
    snapshot_id = f"snap_{job.job_id[3:11]}"
    payload = orjson.dumps(PAYLOAD).decode()
    metadata = {"team": "support", "stats": STATS, "prompt_best_snapshot": PAYLOAD}
    outcome = {"succeeded": "complete", "failed": "failed", "cancelled": "cancelled"}[status]
    async with writing(job.database) as connection:
        await connection.execute(
            insert(Snapshot).values(id=snapshot_id, job_id=job.job_id, label="best_prompt", score=0.7, payload=payload)
        )
        await connection.execute(
            insert(Artifact).values(
                id=f"art_{job.job_id[3:11]}",
                job_id=job.job_id,
                snapshot_id=snapshot_id,
                label="best_prompt",
                kind="prompt",
                score=0.7,
            )
        )
        await connection.execute(
            update(Job)
            .where(Job.id == job.job_id)
            .values(
                status=status,
                best_score=0.7,
                best_train_score=0.75,
                best_validation_score=0.7,
                best_snapshot_id=snapshot_id,
                metadata_json=orjson.dumps(metadata).decode(),
                finish_reason="budget",
            )
        )
        end = {"best_score": 0.7, "best_prompt_messages": PAYLOAD["best_prompt_messages"]}
        await events.append(connection, job.job_id, f"prompt.learning.gepa.{outcome}", "The end", end)
    return snapshot_id
