"""Recorded journals replay: a search that decides otherwise than it did needs a new version (rule J6)."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from promptjobs.core.asks import Ask, Fact, Rollout, Steps
from promptjobs.core.config import GepaJobConfig, JobConfig, read_config
from promptjobs.core.gepa import Gepa
from promptjobs.core.lanes import Lane
from promptjobs.core.mipro import Mipro
from promptjobs.core.optimizer import Optimizer
from promptjobs.core.optimizers import optimizer_of
from promptjobs.core.result import OptimizationResult
from promptjobs.core.trial import Phase
from promptjobs.db.journal import AnswerRecord, TokenRecord
from promptjobs.db.session import Database
from tests.fakes.journaled import Journaled, new_job
from tests.golden.record import TABLES, Recorder, summary, tables_of
from tests.golden.scenarios import SCENARIOS, Scenario

GOLDEN = {path.stem: path for path in sorted((Path(__file__).parent.parent / "golden").glob("*.json"))}
WHAT_TO_DO = (
    "If the search was not meant to decide otherwise, this is a defect: running jobs could not be resumed. If it was, "
    "raise the search's version and run `python -m tests.golden.record` in the same commit (its docstring says more)."
)


def load(name: str) -> dict[str, Any]:
    golden: dict[str, Any] = json.loads(GOLDEN[name].read_text())
    for table in TABLES:
        columns = golden[table]["columns"]
        golden[table] = [dict(zip(columns, row, strict=True)) for row in golden[table]["rows"]]
    return golden


class NothingToAsk(Exception):
    """A replay asked for something."""


class NoWorld:
    def observe(self, facts: Sequence[Fact]) -> None:
        pass

    def tokens(self, asks: Sequence[Ask]) -> list[TokenRecord]:
        return []

    async def answer(self, ask: Ask) -> AnswerRecord:
        raise NothingToAsk(f"{ask}")


class GoldenWorld(NoWorld):
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.asked: list[Ask] = []

    async def answer(self, ask: Ask) -> AnswerRecord:
        self.asked.append(ask)
        return self.scenario.answer(ask)


async def store(database: Database, golden: dict[str, Any]) -> str:
    """A job whose journal is the recorded one."""
    job_id = await new_job(database)
    connection = await database.connect()
    try:
        for table in TABLES:
            if not golden[table]:
                continue
            epoch = table in ("turns", "rollouts", "completions")
            names = ", ".join(golden[table][0])
            await connection.execute(
                f"INSERT INTO {table}(job_id, {names}{', epoch' if epoch else ''}) "
                f"SELECT $1, {names}{', 0' if epoch else ''} FROM json_populate_recordset(NULL::{table}, $2::json)",
                job_id,
                json.dumps(golden[table]),
            )
    finally:
        await connection.close()
    return job_id


async def run(
    database: Database, job_id: str, make: Callable[[JobConfig], Optimizer], config: JobConfig, world: NoWorld
) -> Any:
    search = config.search
    job = Journaled(database, job_id, lambda: make(config), search.turn_order, rng_seed=search.rng_seed)
    return await job.run(world)


async def changes_of(database: Database, job_id: str) -> list[tuple[str, dict[str, Any]]]:
    """Level and data of the events which say that the search is another one."""
    connection = await database.connect()
    rows = await connection.fetch(
        "SELECT level, data FROM events WHERE job_id = $1 AND type = 'prompt.learning.search.changed'", job_id
    )
    await connection.close()
    return [(row["level"], json.loads(row["data"])) for row in rows]


@pytest.mark.parametrize("name", GOLDEN)
async def test_recorded_decisions_are_taken_again(database: Database, name: str) -> None:
    golden = load(name)
    config = read_config(json.dumps(golden["config"]))
    if golden["search_version"] != optimizer_of(config).search_version:
        pytest.fail(f"{name} was recorded by another version of the search: run `python -m tests.golden.record`")
    job_id = await store(database, golden)
    result: OptimizationResult | None = None
    try:
        result = await run(database, job_id, optimizer_of, config, NoWorld())
    except NothingToAsk as asked:
        [(_, data)] = await changes_of(database, job_id) or [("", {"turn": "the last"})]
        pytest.fail(f"{name}: the search decides otherwise at turn {data['turn']} ({asked}). {WHAT_TO_DO}")
    changes = await changes_of(database, job_id)
    assert not changes, f"{name}: the search decides otherwise at turn {changes[0][1]['turn']}. {WHAT_TO_DO}"
    assert result is not None
    assert summary(result) == golden["result"], "the same answers have another outcome: record again if that is meant"


def test_every_scenario_is_recorded_and_holds_what_it_is_for() -> None:
    assert set(GOLDEN) == {scenario.name for scenario in SCENARIOS}
    goldens = {name: load(name) for name in GOLDEN}
    for name, golden in goldens.items():
        assert len(golden["result"]["archive"]) > 1, f"{name} has no accepted candidate"
        assert golden["result"]["best"] is not None
    lanes = {name: {turn["lane"] for turn in golden["turns"]} for name, golden in goldens.items()}
    assert {"0.1.000", "0.1.001"} & lanes["one_lane_train"] == {"0.1.000"}
    assert {"0.1.000", "0.1.001", "0.1.002", "0.1.003"} <= lanes["four_lanes_train"]
    failed = [row for row in goldens["failures"]["rollouts"] if row["reason"]]
    assert failed
    assert any(row["draw"] for row in goldens["failures"]["rollouts"]), "no failed rollout was asked once more"
    assert any(row["reason"] for row in goldens["failures"]["completions"])
    assert {"bootstrap"} <= {row["phase"] for row in goldens["probes"]["rollouts"]}
    causes = [turn["cause"] for turn in goldens["deadline"]["turns"]]
    assert "deadline" in causes
    assert causes[-1] == "resume", "nothing was validated after the stop"
    check_mipro(goldens)


def check_mipro(goldens: dict[str, dict[str, Any]]) -> None:
    """What the scenarios of MIPRO are for."""
    forks = {name: {turn["lane"].rsplit(".", 1)[0] for turn in golden["turns"]} for name, golden in goldens.items()}
    assert len(forks["mipro_lanes"]) > 3
    texts = {name: json.dumps([row["prompt"] for row in golden["candidates"]]) for name, golden in goldens.items()}
    assert "demo_1_user" in texts["mipro_lanes"]
    assert "# Worked examples" in texts["mipro_examples"]
    assert {"find/system_0", "answer/system_0"} <= set(re.findall(r"[a-z]+/[a-z]+_0", texts["mipro_stages"]))
    failed = goldens["mipro_failures"]
    assert any(row["reason"] for row in failed["rollouts"])
    assert any(row["reason"] for row in failed["completions"])
    assert "deadline" in [turn["cause"] for turn in goldens["mipro_deadline"]["turns"]]


class Changed(Gepa):
    """Draws once more than it did: a change that nobody declared."""

    def _lane(self, lane: Lane) -> Steps:
        lane.rng()
        yield from super()._lane(lane)


async def test_an_undeclared_change_is_noticed(database: Database) -> None:
    golden = load("four_lanes_train")
    job_id = await store(database, golden)
    config = GepaJobConfig.model_validate(golden["config"])
    scenario = next(each for each in SCENARIOS if each.name == "four_lanes_train")
    await run(database, job_id, Changed, config, GoldenWorld(scenario))
    [(level, data)] = await changes_of(database, job_id)
    assert level == "error"
    assert data["turn"] < len(golden["turns"])


class Newer(Gepa):
    search_version = Gepa.search_version + 1


class NewerMipro(Mipro):
    search_version = Mipro.search_version + 1


def newer(config: JobConfig) -> Optimizer:
    return Newer(config) if isinstance(config, GepaJobConfig) else NewerMipro(config)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_a_newer_version_goes_on_from_half_a_journal(database: Database, scenario: Scenario) -> None:
    """The facts so far are enough to go on, and what was spent stays spent."""
    half = len(load(scenario.name)["turns"]) // 2
    recorder = Recorder(scenario)
    tables = tables_of(recorder.run(half))
    job_id = await store(database, tables)
    world = GoldenWorld(scenario)
    result = await run(database, job_id, newer, recorder.config, world)
    assert [level for level, _ in await changes_of(database, job_id)] == ["warning"]
    assert result.best is not None
    known = {row["candidate_id"] for row in tables["candidates"] if row["operator"] == "reflection"}
    scored = {row["candidate_id"] for row in tables["trials"] if not row["is_baseline"]}
    known |= {row["candidate_id"] for row in tables["candidates"] if row["operator"] == "mipro"} & scored
    assert known <= {attempt.candidate.candidate_id for attempt in result.attempts}
    recorded = [row for row in tables["rollouts"] if row["phase"] != Phase.TEST]
    asked = [ask for ask in world.asked if isinstance(ask, Rollout) and ask.phase is not Phase.TEST]
    assert len(recorded) + len(asked) <= recorder.config.search.rollout_budget
