"""A soak: a fleet whose processes are killed and frozen at random, in a hostile world, and what must hold all the same.

python -m tests.chaos --minutes 5 [--seed N] [--workers 2] [--replicas 2]
It prints a table of the invariants and ends with status 1 where one of them was violated.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from promptjobs.db.migrate import migrate
from promptjobs.db.session import Database
from tests.acceptance.client import TERMINAL, Api
from tests.acceptance.runs import found_by
from tests.acceptance.service import KillablePostgres, Ports, killable_postgres, reserved_ports, serving_on, settings
from tests.chaos.fleet import Fleet
from tests.chaos.invariants import Scene, Verdict, comparable
from tests.chaos.monkey import Monkey, Watch
from tests.chaos.places import INSTALL
from tests.chaos.users import CALM_KINDS, Users
from tests.chaos.world import PROVIDER_KEY, World

LEASE_SECONDS = 3
ROLLOUT_SECONDS = 8
OUTAGE_SECONDS = 120
END_SECONDS = 120.0
"""In which every job has to be over once the fleet is left in peace and the world is kind."""

UNKNOWN_SECONDS = 30.0
LONGEST_REFUSAL_SECONDS = 30.0
AT_ONCE = 4
LAST_LINES = 40
SLOWEST = """
SELECT id, substring(config from '/(wild|calm)[0-9]+') AS kind, epoch, finish_reason,
  round(extract(epoch FROM finished_at)::float8 - $1::float8) AS seconds,
  (SELECT max(created_at) FROM rollouts r WHERE r.job_id = j.id)::text AS last_rollout, finished_at::text
FROM jobs j WHERE extract(epoch FROM finished_at) > $1::float8 + 20 ORDER BY finished_at
"""
IS_ANY_OPEN = "SELECT 1 FROM jobs WHERE status <> ALL($1::text[]) LIMIT 1"
INVARIANTS: Mapping[str, str] = {
    "I1": "every accepted job ends",
    "I2": "rollouts are counted and unique",
    "I3": "events are 1..n with one end, for readers too",
    "I4": "nothing recorded is asked again, repeats <= what was in flight",
    "I5": "in fixed order the result is that of an undisturbed run",
    "I6": "scores are in [0, 1]",
    "I7": "no secret in rows or logs",
    "I8": "the ledger is what was billed, and no cap is passed",
    "experiments": "an experiment has its jobs, and never more at once than places",
    "no late call": "none later than 1 s after the job's end",
    "no long refusal": f"5xx for at most {LONGEST_REFUSAL_SECONDS:g} s",
    "clean exits": "SIGTERM ends a process with status 0",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--replicas", type=int, default=2)
    chosen = parser.parse_args()
    seed = chosen.seed if chosen.seed is not None else random.randrange(10**6)
    console = Console(width=120)
    console.print(f"chaos for {chosen.minutes:g} minutes, --seed {seed}")
    with (
        tempfile.TemporaryDirectory(prefix="promptjobs-chaos-") as folder,
        killable_postgres() as postgres,
        reserved_ports() as ports,
    ):
        soak = Soak(console, Path(folder), postgres, ports, seed)
        try:
            verdict = asyncio.run(soak.run(chosen.minutes * 60, chosen.replicas, chosen.workers))
        except KeyboardInterrupt:
            console.print("interrupted; every process was ended")
            return 130
    return report(console, verdict)


class Soak:
    """One run, from the first process to the last."""

    def __init__(self, console: Console, folder: Path, postgres: KillablePostgres, ports: Ports, seed: int) -> None:
        self.console, self.folder, self.postgres, self.ports = console, folder, postgres, ports
        self.rng = random.Random(seed)
        self.world = World(seed)
        self.verdict = Verdict()

    async def run(self, seconds: float, replicas: int, workers: int) -> Verdict:
        await self._prepare()
        fleet = Fleet(self.postgres, self._variables(), self.folder, replicas, workers)
        self.world.replicas = fleet.urls
        self.monkey = Monkey(fleet, random.Random(self.rng.random()))
        self.watch = Watch(fleet.urls)
        self.users = Users(fleet.urls, self.ports.task_app_url, random.Random(self.rng.random()))
        try:
            async with self._world(), self.users:
                await fleet.start()
                began = time.monotonic()
                references = await self._rehearse(fleet.urls[0])
                self.console.print(f"{time.monotonic() - began:.0f} s for {len(references)} jobs in peace")
                await self._soak(fleet, seconds)
                await self._settle()
                await self._check(fleet, references)
        finally:
            await fleet.end()
        return self.verdict

    async def _prepare(self) -> None:
        database = Database.open(self.postgres.url)
        await migrate(database)
        connection = await database.connect()
        try:
            await connection.execute(INSTALL)
        finally:
            await connection.close()
            await database.close()

    def _variables(self) -> Mapping[str, str]:
        return settings(
            self.postgres.url,
            self.ports,
            lease_seconds=LEASE_SECONDS,
            rollout_timeout_seconds=ROLLOUT_SECONDS,
            outage_seconds=OUTAGE_SECONDS,
            provider_toy_api_key=PROVIDER_KEY,
            log_level="info",
        )

    @asynccontextmanager
    async def _world(self) -> AsyncIterator[None]:
        task_app, provider = self.world.task_app(), self.world.provider()
        async with serving_on(task_app, self.ports.task_app), serving_on(provider, self.ports.model):
            yield

    async def _rehearse(self, url: str) -> Mapping[str, Any]:
        """What calm jobs find when nothing happens."""
        found = {}
        async with Api.at(url) as api:
            for kind in CALM_KINDS:
                job = await self.users.post(kind)
                assert job is not None
                await api.ended(job.job_id)
                found[kind.name] = comparable(await found_by(api, job.job_id), job.tag)
                del self.users.jobs[job.job_id], self.users.kinds[job.tag]
        self.users.answers.clear()
        return found

    async def _soak(self, fleet: Fleet, seconds: float) -> None:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self.watch.look())
            using = group.create_task(self.users.use(AT_ONCE))
            raging = group.create_task(self.monkey.rage())
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await asyncio.wait({raging, using}, return_when=asyncio.FIRST_COMPLETED)
            self.monkey.enough.set()
            await raging
            await fleet.heal()
            self.world.is_kind, self.healed_at = True, time.time()
            self.users.enough.set()
            self.console.print(f"{time.monotonic() - began:.0f} s of chaos: {dict(self.monkey.deeds)}")
            began = time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    while not using.done():
                        await self.users.resume_all()
                        await asyncio.wait({using}, timeout=2)
            self.console.print(f"{time.monotonic() - began:.0f} s until all jobs were over and all streams read")
            for task in (using, watching):
                task.cancel()

    async def _settle(self) -> None:
        """Jobs whose post was not answered have run beside the others; the last of them get a little longer."""
        database = Database.open(self.postgres.url)
        connection = await database.connect()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(UNKNOWN_SECONDS):
                    while await connection.fetchval(IS_ANY_OPEN, TERMINAL):
                        await connection.execute("SELECT pg_sleep(0.5)")
        finally:
            await connection.close()
            await database.close()

    async def _check(self, fleet: Fleet, references: Mapping[str, Any]) -> None:
        database = Database.open(self.postgres.url)
        connection = await database.connect()
        logs = [member.log for member in fleet.members]
        try:
            async with Api.at(fleet.urls[0]) as api:
                users = self.users
                scene = Scene(
                    api,
                    connection,
                    self.world,
                    users.jobs,
                    users.experiments,
                    users.kinds,
                    references,
                    logs,
                    self.verdict,
                )
                await scene.check()
            for row in await connection.fetch(SLOWEST, self.healed_at):
                self.console.print(f"slow to end after the chaos: {dict(row)}", highlight=False)
        finally:
            await connection.close()
            await database.close()
        verdict, longest = self.verdict, self.watch.longest
        verdict.expect("no long refusal", longest <= LONGEST_REFUSAL_SECONDS, f"{longest:.1f} s")
        ended = sum(count for deed, count in self.monkey.deeds.items() if deed.startswith("SIGTERM"))
        for said in self.monkey.unclean:
            verdict.expect("clean exits", False, said)
        verdict.checks["clean exits"] += ended - len(self.monkey.unclean)
        verdict.notes["I9"] = "not checked: there are no organisations to tell apart"
        for word in self.users.missing_routes:
            verdict.notes[word] = "the service has no such route"
        if verdict.violations:
            self._show(logs)
        jobs, experiments = len(self.users.jobs), len(self.users.experiments)
        self.console.print(
            f"{jobs} jobs, {experiments} experiments; answers {dict(sorted(self.users.answers.items()))}"
        )
        self.console.print(f"watched: {dict(self.watch.answers)}, refused for {longest:.1f} s at most")
        self.console.print(f"faults: {dict(self.world.faults)}; {len(self.world.requests)} requests to the provider")

    def _show(self, logs: Sequence[Path]) -> None:
        """The ends of the logs, before they are gone."""
        for log in logs:
            lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
            self.console.print(f"--- {log.name}", *lines, sep="\n", soft_wrap=True, highlight=False, markup=False)


def report(console: Console, verdict: Verdict) -> int:
    """The table. Returns the exit status."""
    table = Table(title="invariants")
    for name in ("", "what must hold", "checks", "violations"):
        table.add_column(name, justify="right" if name in ("checks", "violations") else "left")
    for invariant, words in INVARIANTS.items():
        violations = verdict.violations.get(invariant, [])
        table.add_row(invariant, words, str(verdict.checks[invariant]), str(len(violations)))
    console.print(table)
    for name, note in sorted(verdict.notes.items()):
        console.print(f"{name}: {note}")
    for invariant, violations in sorted(verdict.violations.items()):
        for said in violations[:10]:
            console.print(f"VIOLATION {invariant}: {said}", soft_wrap=True, highlight=False)
    return 1 if any(verdict.violations.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
