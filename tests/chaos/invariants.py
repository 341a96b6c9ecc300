"""What must hold of every job after a soak, looked at from outside: over HTTP, by SQL, and at the provider."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import orjson

from tests.acceptance.client import TERMINAL, Api
from tests.acceptance.experiment_runs import read
from tests.acceptance.runs import Found, found_by
from tests.chaos.places import places_taken
from tests.chaos.users import Experiment, Job, Kind
from tests.chaos.world import PROVIDER_KEY, TASK_APP_KEY, World

Json = dict[str, Any]

LATE_SECONDS = 1.5
"""After the end of a job: the second for which a token may still be believed, and the way to the provider."""

SAME_MOMENT_SECONDS = 0.05
"""Between a rollout's request and the commit of its answer nothing is told apart below this."""

CENT = Decimal("1e-9")
SLOTS, LANES = 8, 8
IN_NO_RESULT = ("token", "cost", "usd", "spend", "time", "seconds", "metered", "abandoned", "attempts", "paused")
"""Parts of the names of what was paid or waited for, rather than found."""

OF_USERS = ("prompt.learning.pause", "prompt.learning.resume")
TEXTS = {
    "jobs": "config, config_sent, warnings, metadata, error, progress",
    "events": "message, data",
    "rollouts": "detail, body",
    "completions": "detail, request, body",
    "calls": "error, messages, reply",
    "snapshots": "payload",
}


@dataclass
class Verdict:
    """checks: how often each invariant was looked at; violations: what was found wrong; notes: what was not looked
    at, and why."""

    checks: Counter[str] = field(default_factory=Counter)
    violations: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    notes: dict[str, str] = field(default_factory=dict)

    def expect(self, invariant: str, holds: bool, said: str) -> None:
        self.checks[invariant] += 1
        if not holds:
            self.violations[invariant].append(said)


@dataclass
class Scene:
    """All that is known after a soak. references: what calm jobs of each kind find; logs: what processes
    wrote; unlike: why calm jobs were not compared."""

    api: Api
    connection: asyncpg.Connection
    world: World
    jobs: Mapping[str, Job]
    experiments: Mapping[str, Experiment]
    kinds: Mapping[str, Kind]
    references: Mapping[str, Json]
    logs: Sequence[Path]
    verdict: Verdict
    unlike: Counter[str] = field(default_factory=Counter)

    async def check(self) -> None:
        rows = await self.connection.fetch("SELECT * FROM jobs ORDER BY created_at")
        known = {row["id"] for row in rows}
        for job_id in self.jobs:
            self.verdict.expect("I1", job_id in known, f"{job_id} was accepted and is gone")
        for row in rows:
            tag = orjson.loads(row["config"])["task_app"]["url"].rpartition("/")[2]
            await self._check_job(row, tag)
        for experiment in self.experiments.values():
            await self._check_experiment(experiment)
        await self._check_places()
        await self._check_scores()
        await self._check_secrets()

    async def _check_job(self, row: asyncpg.Record, tag: str) -> None:
        job_id = row["id"]
        over = row["status"] in TERMINAL
        held = f"epoch {row['epoch']}, {row['worker_id']} until {row['lease_until']}, looked at {datetime.now(UTC)}"
        self.verdict.expect("I1", over, f"{job_id} ({tag}) is {row['status']} at the end: {held}")
        if not over:
            return
        job = await self.api.read(job_id)
        await self._check_rows(job)
        await self._check_events(job)
        await self._check_repeats(job, tag, row["epoch"])
        await self._check_money(job, tag)
        self._check_late_calls(job, tag, row)
        kind = self.kinds.get(tag)
        if kind is not None and kind.is_calm:
            await self._check_result(job, tag, kind)

    # --- experiments -------------------------------------------------------------------------------------------------

    async def _check_experiment(self, experiment: Experiment) -> None:
        """It is over with its jobs, and has all that were asked for, in their order."""
        found = await read(self.api, experiment.experiment_id)
        said = f"{experiment.experiment_id} is {found['status']} with {found['counts']}"
        self.verdict.expect("I1", found["status"] in ("completed", "failed", "cancelled"), said)
        jobs = [job["job_id"] for job in found["jobs"]]
        self.verdict.expect("experiments", jobs == list(experiment.jobs), f"{experiment.experiment_id} has jobs {jobs}")

    async def _check_places(self) -> None:
        for experiment_id, taken in (await places_taken(self.connection)).items():
            said = f"{experiment_id}: {taken.most} jobs ran at once in {taken.parallelism} places"
            self.verdict.expect("experiments", taken.most <= taken.parallelism, said)
            said = f"{experiment_id}: {taken.without} ran without a place"
            self.verdict.expect("experiments", not taken.without, said)

    # --- I2, I3 ------------------------------------------------------------------------------------------------------

    async def _check_rows(self, job: Json) -> None:
        job_id = job["job_id"]
        rows = await self.connection.fetch(
            "SELECT candidate_id, seed, draw, tier FROM rollouts WHERE job_id = $1", job_id
        )
        stats = job["metadata"].get("stats")
        if stats is not None:
            told = stats["total_rollouts"]
            self.verdict.expect("I2", told == len(rows), f"{job_id}: {told} rollouts told, {len(rows)} recorded")
        self.verdict.expect("I2", len({tuple(row) for row in rows}) == len(rows), f"{job_id}: a rollout is there twice")

    async def _check_events(self, job: Json) -> None:
        job_id = job["job_id"]
        events = await self.api.events(job_id)
        seqs = [event["seq"] for event in events]
        self.verdict.expect("I3", seqs == list(range(1, len(seqs) + 1)), f"{job_id}: seq {seqs}")
        ends = {f"prompt.learning.{job['algorithm']}.{end}" for end in ("complete", "failed", "cancelled")}
        terminal = [event["seq"] for event in events if event["type"] in ends]
        self.verdict.expect(
            "I3", terminal == [len(events)], f"{job_id}: terminal events at {terminal} of {len(events)}"
        )
        reader = self.jobs.get(job_id)
        if reader is not None and reader.is_heard_out:
            self.verdict.expect("I3", reader.heard == seqs, f"{job_id}: the stream told {_gaps(reader.heard, seqs)}")

    # --- I4 ----------------------------------------------------------------------------------------------------------

    async def _check_repeats(self, job: Json, tag: str, claims: int) -> None:
        """Each claim but the first may repeat what was in flight, and nothing that is recorded."""
        job_id = job["job_id"]
        tokens = {
            row["digest"]: (row["key"], row["epoch"])
            for row in await self.connection.fetch("SELECT digest, key, epoch FROM tokens WHERE job_id = $1", job_id)
        }
        recorded = {
            row["key"]: (row["at"], row["epoch"])
            for row in await self.connection.fetch(
                "SELECT key, epoch, extract(epoch FROM created_at)::float8 AS at FROM rollouts WHERE job_id = $1",
                job_id,
            )
        }
        asked = set()
        for visit in self.world.visits:
            known = tokens.get(hashlib.sha256(visit.secret.encode()).digest()) if visit.tag == tag else None
            if known is None:
                continue
            asked.add(known)
            at, epoch = recorded.get(known[0], (math.inf, known[1]))
            # A frozen worker may have been stopped between its look at the lease and its request.
            again = known[1] >= epoch and visit.at > at + SAME_MOMENT_SECONDS
            self.verdict.expect("I4", not again, f"{job_id}: a rollout was asked for again after it was recorded")
        repeated = len(asked) - len({key for key, _ in asked})
        most = max(0, claims - 1) * SLOTS
        self.verdict.expect("I4", repeated <= most, f"{job_id}: {repeated} rollouts repeated in {claims} claims")
        proposals = Counter(request.words for request in self.world.of(tag, "reflector") if request.usd is not None)
        again = sum(count - 1 for count in proposals.values())
        self.verdict.expect("I4", again <= max(0, claims - 1) * LANES, f"{job_id}: {again} proposals paid again")

    # --- I5 ----------------------------------------------------------------------------------------------------------

    async def _check_result(self, job: Json, tag: str, kind: Kind) -> None:
        """Only where nothing failed: a failure is an answer, so it may lead elsewhere."""
        job_id = job["job_id"]
        failed = await self.connection.fetch(
            "SELECT reason FROM rollouts WHERE job_id = $1 AND score IS NULL "
            "UNION ALL SELECT reason FROM completions WHERE job_id = $1 AND reason IS NOT NULL",
            job_id,
        )
        if failed:
            self.unlike.update(row["reason"] for row in failed)
            self.verdict.notes["I5"] = f"calm jobs in which something failed were not compared: {dict(self.unlike)}"
            return
        self.verdict.expect("I5", job["status"] == "succeeded", f"{job_id}: {job['status']}, {job['error']}")
        if job["status"] != "succeeded":
            return
        found = comparable(await found_by(self.api, job_id), tag)
        expected = self.references[kind.name]
        differing = list(differences(found, expected))
        self.verdict.expect("I5", not differing, f"{job_id} ({kind.name}): {len(differing)}, first {differing[:3]}")

    # --- I6, I7 ------------------------------------------------------------------------------------------------------

    async def _check_scores(self) -> None:
        for table, column in (
            ("rollouts", "score"),
            ("trials", "score"),
            ("snapshots", "score"),
            ("jobs", "best_score"),
        ):
            for (score,) in await self.connection.fetch(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL"):
                self.verdict.expect("I6", math.isfinite(score) and 0 <= score <= 1, f"{table}: {score}")

    async def _check_secrets(self) -> None:
        for secret in (PROVIDER_KEY, TASK_APP_KEY):
            for table, columns in TEXTS.items():
                query = f"SELECT count(*) FROM {table} WHERE position($1 IN concat_ws(' ', {columns})) > 0"
                count = await self.connection.fetchval(query, secret)
                self.verdict.expect("I7", count == 0, f"{count} rows of {table} hold {secret}")
            for log in self.logs:
                self.verdict.expect("I7", secret.encode() not in log.read_bytes(), f"{log.name} holds {secret}")

    # --- I8 and what follows the end ---------------------------------------------------------------------------------

    async def _check_money(self, job: Json, tag: str) -> None:
        job_id = job["job_id"]
        query = "SELECT sum(calls) AS calls, sum(usd) AS usd, sum(unsettled_usd + held_usd) AS open"
        account = await self.connection.fetchrow(f"{query} FROM ledger WHERE job_id = $1", job_id)
        paid = sum((Decimal(str(request.usd)) for request in self.world.billed().get(tag, ())), Decimal(0))
        kind = self.kinds.get(tag)
        if kind is not None and kind.cost_cap_usd is not None:
            cap = Decimal(str(kind.cost_cap_usd))
            self.verdict.expect("I8", paid <= cap + CENT, f"{job_id}: {paid} USD billed, the cap is {cap}")
        if account["calls"] is None:
            self.verdict.expect("I8", False, f"{job_id}: it has no ledger")
            return
        usd, most = account["usd"], account["usd"] + account["open"]
        self.verdict.expect("I8", usd <= paid + CENT, f"{job_id}: the ledger says {usd}, the provider {paid}")
        if kind is not None and (kind.cost_cap_usd is not None or kind.token_cap is not None):
            self.verdict.expect(
                "I8", paid <= most + CENT, f"{job_id}: the ledger says {most} at most, the provider {paid}"
            )
        await self._check_ledger(job_id)

    async def _check_ledger(self, job_id: str) -> None:
        """The ledger is the sum of the calls and, as far as they were recorded, of the completions."""
        of_kind = (
            "SELECT coalesce(sum(usd), 0)::float8 FROM ledger WHERE job_id = $1 AND category {} ('proposal', 'judge')"
        )
        paid_for = "SELECT coalesce(sum(cost_usd), 0)::float8 FROM {} WHERE job_id = $1"
        kept = await self.connection.fetchval(of_kind.format("NOT IN"), job_id)
        calls = await self.connection.fetchval(paid_for.format("calls"), job_id)
        self.verdict.expect("I8", math.isclose(kept, calls, abs_tol=1e-6), f"{job_id}: ledger {kept}, calls {calls}")
        kept = await self.connection.fetchval(of_kind.format("IN"), job_id)
        completions = await self.connection.fetchval(paid_for.format("completions"), job_id)
        said = f"{job_id}: ledger {kept}, completions {completions}"
        self.verdict.expect("I8", kept >= completions - 1e-6, said)

    def _check_late_calls(self, job: Json, tag: str, row: asyncpg.Record) -> None:
        """No upstream attempt later than a second after the job ended."""
        ended_at = row["finished_at"].timestamp()
        late = [request.at - ended_at for request in self.world.requests if request.tag == tag]
        said = f"{job['job_id']}: a call {max(late, default=0):.2f} s after its end"
        self.verdict.expect("no late call", max(late, default=0.0) <= LATE_SECONDS, said)


def comparable(found: Found, tag: str) -> Json:
    """What was found, without its own names, without what it cost, and without what users did."""
    whole = {
        "events": [[kind, data] for _, kind, _, data in found.events if not kind.startswith(OF_USERS)],
        "trials": found.trials,
        "candidates": found.candidates,
        "payload": found.payload,
    }
    anonymous: Json = orjson.loads(orjson.dumps(whole).replace(tag.encode(), b"TAG"))
    return {name: _unpaid(part) for name, part in anonymous.items()}


def _unpaid(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _unpaid(each) for name, each in part.items() if not any(word in name for word in IN_NO_RESULT)}
    return [_unpaid(each) for each in part] if isinstance(part, list) else part


def differences(found: Any, expected: Any, path: str = "") -> Iterator[str]:
    """Where two results differ, and how."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in sorted({*found, *expected}):
            yield from differences(found.get(name), expected.get(name), f"{path}.{name}")
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for n, (one, other) in enumerate(zip(found, expected, strict=True)):
            yield from differences(one, other, f"{path}[{n}]")
    elif found != expected:
        yield f"{path.lstrip('.')}: {str(found)[:200]} instead of {str(expected)[:200]}"


def _gaps(heard: Sequence[int], seqs: Sequence[int]) -> str:
    missing, repeated = sorted(set(seqs) - set(heard)), [seq for seq, n in Counter(heard).items() if n > 1]
    return f"{len(heard)} of {len(seqs)} events, without {missing[:5]}, and {repeated[:5]} again"
