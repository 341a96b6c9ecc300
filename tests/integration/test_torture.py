"""Real processes, killed, frozen and cut off from their database at random moments: nothing is lost or done twice."""

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from promptjobs.db import embedded
from promptjobs.db.migrate import migrate
from promptjobs.db.session import Database
from tests.fakes.journaled import Journaled, new_job
from tests.fakes.runner_process import search_of
from tests.fakes.world_server import Call, WorldServer
from tests.fakes.worlds import HashWorld

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SLOTS = 32
KILLS = 8
LEAST_KILLS = 5
SECONDS = 120
FENCED_LEASE_SECONDS = 1.0
UNFENCED_LEASE_SECONDS = 120.0


@dataclass
class Runner:
    """A process that runs a job, after it has claimed it."""

    process: asyncio.subprocess.Process
    epoch: int

    async def ending(self) -> str:
        """Its last line; empty where it was killed before it said anything."""
        async with asyncio.timeout(SECONDS):
            said, errors = await self.process.communicate()
        assert self.process.returncode in (0, -signal.SIGKILL), errors.decode()
        return said.decode().strip()

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)


@dataclass
class Scene:
    """A database, a world, and the runners of its jobs."""

    database: Database
    world: WorldServer
    rng: random.Random
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def job(self, search: str, lanes: int, turn_order: str, budget: int) -> Journaled:
        config = {"search": search, "lanes": lanes, "budget": budget, "turn_order": turn_order, "slots": SLOTS}
        job_id = await new_job(self.database)
        job = Journaled(self.database, job_id, lambda: search_of(config), turn_order, SLOTS)
        await job.fetch("UPDATE jobs SET config = $2 WHERE id = $1 RETURNING 1", json.dumps(config))
        return job

    async def runner(self, job: Journaled, lease_seconds: float = UNFENCED_LEASE_SECONDS) -> Runner:
        """Start a process; returns when it has the job, which may have to wait for another one's lease to run out."""
        arguments = [self.database.url, job.job_id, str(self.world.path), str(lease_seconds)]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.fakes.runner_process",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self.processes.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(SECONDS):
            line = await process.stdout.readline()
        if not line.startswith(b"claimed"):
            _, errors = await process.communicate()
            pytest.fail(errors.decode())
        return Runner(process, int(line.split()[1]))

    async def run_to_its_end(self, job: Journaled) -> dict[str, Any]:
        runner = await self.runner(job)
        return ended(await runner.ending())

    def after_calls(self, runner: Runner, calls: int, act: Callable[[], None]) -> None:
        """Do `act` at a random moment shortly after the runner's n-th call: within a commit, a turn, an answer."""
        seen = 0
        delay = self.rng.choice((0.0, self.rng.uniform(0.0, 0.03)))

        def on_call(call: Call) -> None:
            nonlocal seen
            if call.pid == runner.process.pid:
                seen += 1
                if seen == calls:
                    asyncio.get_running_loop().call_later(delay, act)

        self.world.on_call = on_call


def ended(line: str) -> dict[str, Any]:
    assert line.startswith("ended"), line
    result: dict[str, Any] = json.loads(line.removeprefix("ended ").rpartition(" ")[0])
    return result


@contextmanager
def socket_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="promptjobs-world-") as directory:
        yield Path(directory) / "world"


@asynccontextmanager
async def scene_of(database: Database, seed: int) -> AsyncIterator[Scene]:
    with socket_path() as path:
        async with WorldServer(path) as world:
            scene = Scene(database, world, random.Random(seed))
            try:
                yield scene
            finally:
                for process in scene.processes:
                    if process.returncode is None:
                        process.kill()
                        await process.communicate()


async def check(scene: Scene, job: Journaled, result: dict[str, Any], kills: int) -> list[bytes]:
    """Everything that must hold of a job that has ended, however it got there. Returns its chain."""
    recorded = {
        row["key"]: row["epoch"]
        for row in await job.fetch(
            "SELECT key, epoch FROM rollouts WHERE job_id = $1 "
            "UNION ALL SELECT key, epoch FROM completions WHERE job_id = $1"
        )
    }
    epochs: dict[bytes, list[int]] = defaultdict(list)
    for call in scene.world.calls:
        if call.job_id == job.job_id:
            epochs[call.key].append(call.epoch)
    assert set(epochs) == set(recorded), "what was called is recorded"
    assert all(len(set(called)) == len(called) for called in epochs.values()), "an ask went out twice from one process"
    assert all(max(called) <= recorded[key] for key, called in epochs.items()), "a recorded ask was repeated"
    assert sum(len(called) - 1 for called in epochs.values()) <= kills * SLOTS
    seqs = [row["seq"] for row in await job.fetch("SELECT seq FROM events WHERE job_id = $1 ORDER BY seq")]
    [state] = await job.fetch("SELECT last_seq FROM jobs WHERE id = $1")
    assert seqs == list(range(1, state["last_seq"] + 1))
    turns = await job.fetch("SELECT n, chain FROM turns WHERE job_id = $1 ORDER BY n")
    assert [row["n"] for row in turns] == list(range(len(turns)))
    trials = await job.fetch("SELECT n FROM trials WHERE job_id = $1 ORDER BY n")
    assert [row["n"] for row in trials] == list(range(1, len(trials) + 1))
    [last] = await job.fetch("SELECT type, seq FROM events WHERE job_id = $1 AND type = 'result'")
    assert last["seq"] == seqs[-1]
    await replays(job, result, len(seqs))
    return [row["chain"] for row in turns]


async def replays(job: Journaled, result: dict[str, Any], events: int) -> None:
    """The whole run once more, in this process: it calls nothing, writes nothing, and comes to the same end."""
    await job.fetch("UPDATE jobs SET status = 'queued' WHERE id = $1 RETURNING 1")
    nobody = HashWorld()
    again = await job.run(nobody)
    await job.fetch("UPDATE jobs SET status = 'succeeded' WHERE id = $1 RETURNING 1")
    assert json.loads(json.dumps(again)) == result
    assert not nobody.calls
    [counted] = await job.fetch("SELECT count(*) AS n FROM events WHERE job_id = $1")
    assert counted["n"] == events


async def torment(scene: Scene, job: Journaled, longest: int) -> tuple[dict[str, Any], int]:
    """Kill runner after runner, then let one finish. Returns the result and the number of kills."""
    kills = 0
    while True:
        await job.fetch("UPDATE jobs SET lease_until = NULL, status = 'queued' WHERE id = $1 RETURNING 1")
        runner = await scene.runner(job)
        if kills < KILLS:
            scene.after_calls(runner, scene.rng.randint(1, longest), lambda r=runner: r.signal(signal.SIGKILL))
        line = await runner.ending()
        scene.world.on_call = None
        if line.startswith("ended"):
            return ended(line), kills
        assert runner.process.returncode == -signal.SIGKILL, line
        kills += 1


@pytest.mark.parametrize(
    ("search", "lanes", "turn_order", "budget", "longest"),
    [
        ("evolving", 1, "arrival", 200, 20),
        ("nested", 1, "fixed", 200, 20),
        ("evolving", 4, "fixed", 400, 40),
        ("nested", 4, "arrival", 400, 40),
        ("evolving", 8, "arrival", 900, 50),
        ("nested", 8, "fixed", 900, 50),
    ],
)
async def test_runners_killed_at_random_moments_repeat_nothing_recorded(
    database: Database, search: str, lanes: int, turn_order: str, budget: int, longest: int
) -> None:
    async with scene_of(database, seed=lanes) as scene:
        job = await scene.job(search, lanes, turn_order, budget)
        result, kills = await torment(scene, job, longest)
        assert kills >= LEAST_KILLS, "the job was over before it could be killed"
        chain = await check(scene, job, result, kills)
        if turn_order == "fixed":
            reference = await scene.job(search, lanes, turn_order, budget)
            uninterrupted = await scene.run_to_its_end(reference)
            assert result == uninterrupted
            assert chain == await check(scene, reference, uninterrupted, 0)


@pytest.mark.parametrize(
    ("search", "lanes", "turn_order", "calls_before_thaw"),
    [("evolving", 8, "arrival", 0), ("nested", 4, "fixed", 15), ("evolving", 4, "fixed", 60)],
)
async def test_a_frozen_runner_neither_writes_nor_calls_after_its_lease(
    database: Database, search: str, lanes: int, turn_order: str, calls_before_thaw: int
) -> None:
    async with scene_of(database, seed=lanes + calls_before_thaw) as scene:
        job = await scene.job(search, lanes, turn_order, 300)
        frozen = await scene.runner(job, FENCED_LEASE_SECONDS)
        stopped = asyncio.Event()

        def freeze() -> None:
            frozen.signal(signal.SIGSTOP)
            stopped.set()

        scene.after_calls(frozen, scene.rng.randint(10, 60), freeze)
        await stopped.wait()
        successor = await scene.runner(job)
        written = await rows_of_epoch(job, frozen.epoch)
        called = len(scene.world.calls_by(frozen.process.pid))
        if calls_before_thaw:
            thaw = asyncio.Event()
            scene.after_calls(successor, calls_before_thaw, thaw.set)
            await thaw.wait()
        frozen.signal(signal.SIGCONT)
        line = await frozen.ending()
        result = ended(await successor.ending())
        assert line.startswith("lost")
        assert await rows_of_epoch(job, frozen.epoch) == written, "the frozen runner wrote"
        late = scene.world.calls_by(frozen.process.pid)[called:]
        # One call may have been frozen between its look at the lease and its departure; what it carries is revoked.
        assert len(late) <= 1
        assert all(call.checked_at < scene.world.calls_by(successor.process.pid)[0].checked_at for call in late)
        await check(scene, job, result, 1)


async def rows_of_epoch(job: Journaled, epoch: int) -> set[bytes]:
    rows = await job.fetch(
        "SELECT key AS id FROM rollouts WHERE job_id = $1 AND epoch = $2 "
        "UNION ALL SELECT key FROM completions WHERE job_id = $1 AND epoch = $2 "
        "UNION ALL SELECT chain FROM turns WHERE job_id = $1 AND epoch = $2",
        epoch,
    )
    return {row["id"] for row in rows}


@pytest.fixture
def own_server() -> Iterator[embedded.EmbeddedServer]:
    """A server that may be killed."""
    with tempfile.TemporaryDirectory(prefix="promptjobs-torture-") as directory:
        Path(directory).chmod(0o711)  # the server's own user has to pass through when the tests run as root
        with embedded.start(Path(directory) / "data") as first:
            yield first.server


def postmaster(server: embedded.EmbeddedServer) -> int:
    return int((server.data_dir / "cluster" / "postmaster.pid").read_text().split()[0])


async def test_a_database_killed_in_mid_run_loses_nothing_and_the_run_goes_on(
    own_server: embedded.EmbeddedServer,
) -> None:
    database = Database.open(own_server.url)
    await migrate(database)
    async with scene_of(database, seed=3) as scene:
        job = await scene.job("evolving", 8, "fixed", 500)
        runner = await scene.runner(job)
        for _ in range(3):
            down = asyncio.Event()

            def kill(down: asyncio.Event = down) -> None:
                os.kill(postmaster(own_server), signal.SIGKILL)
                down.set()

            scene.after_calls(runner, scene.rng.randint(20, 80), kill)
            await down.wait()
            again = await asyncio.to_thread(embedded.start, own_server.data_dir)
            again.stop()  # the fixture is another user, so the server lives on
        result = ended(await runner.ending())
        chain = await check(scene, job, result, 0)
        reference = await scene.job("evolving", 8, "fixed", 500)
        uninterrupted = await scene.run_to_its_end(reference)
        assert result == uninterrupted
        assert chain == await check(scene, reference, uninterrupted, 0)
    await database.close()
