"""Record the golden journals anew: python -m tests.golden.record

A change of the search that decides otherwise makes recorded turns unreplayable. Then, in the same commit:

1. raise the search's `search_version`: running jobs go on from their published facts instead of failing to replay
   (rule J6);
2. run `python -m tests.golden.record`, and look at what the diff says about the change.

Before the first release no job depends on a version: step 2 alone will do. Recording needs no database and is
deterministic, so an unchanged search records unchanged files. A new kind of ask needs an answer in `scenarios`.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from promptjobs.core.asks import Answer, Ask, Key, Recall
from promptjobs.core.lanes import Cause, Lane, Lanes, Outcome, Turning, chain
from promptjobs.core.optimizers import optimizer_of
from promptjobs.core.result import OptimizationResult
from promptjobs.db.journal import AnswerRecord, Group, TurnRecord, body_from, rows_of
from tests.golden.scenarios import SCENARIOS, Scenario

HERE = Path(__file__).parent
TABLES = ("turns", "candidates", "trials", "rollouts", "completions")
MOST_TURNS = 2_000
STOP_DETAIL = "the job has run for 1 s"


class Recorder:
    """Runs a search in memory, as the runner runs it over a database: an independent account of the same rules."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.config = scenario.config()
        self.optimizer = optimizer_of(self.config)
        self.lanes = Lanes(self.optimizer, self.config.search.rng_seed)
        self.order = random.Random(scenario.order)
        self.records: dict[Key, AnswerRecord] = {}
        self.group = Group()
        self.state = b""

    def run(self, turns: int = MOST_TURNS) -> Group:
        """Until the end of the search, or as it stands after so many turns."""
        self._turn("0", Cause.START, self.lanes.start(), ())
        while not self.lanes.has_ended and len(self.group.turns) < turns:
            lane = self._next()
            answers = [self._answer(ask) for ask in lane.waiting]
            if len(self.group.turns) == self.scenario.stop_at:
                # What was just answered is never delivered, as it happens when a stop overtakes an answer.
                self._turn("", Cause.DEADLINE, self.lanes.stop(Cause.DEADLINE), (), STOP_DETAIL)
            else:
                asks = lane.waiting
                self._turn(lane.path, Cause.RESUME, self.lanes.resume(lane.path, answers), asks)
        return self.group

    def _next(self) -> Lane:
        if self.config.search.turn_order == "fixed":
            return self.lanes.next_in_fixed_order()
        return self.order.choice(self.lanes.waiting_lanes())

    def _answer(self, ask: Ask) -> Answer:
        if ask.key not in self.records:
            self.records[ask.key] = self.scenario.answer(ask)
            self.group.answers.append((len(self.group.answers), self.records[ask.key]))
        return self.records[ask.key].answer

    def _turn(
        self, path: str, cause: Cause, turning: Turning, delivered: Sequence[Ask], detail: str | None = None
    ) -> None:
        outcome = self._driven(turning)
        self.state = chain(self.state, path, cause, delivered, outcome.opened)
        n, version = len(self.group.turns), self.optimizer.search_version
        self.group.turns.append(TurnRecord(n, path, cause, self.state, version, outcome.facts, detail))

    def _driven(self, turning: Turning) -> Outcome:
        try:
            recall: Recall = next(turning)
            while True:
                recall = turning.send([body_from(self.records[key].body) for key in recall.keys])
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome


def summary(result: OptimizationResult) -> dict[str, Any]:
    """What a search has come to, in the parts that a user would notice."""
    return {
        "finish_reason": result.finish_reason,
        "best": result.best and result.best.candidate_id,
        "best_score": result.best_score,
        "baseline_score": result.baseline_score,
        "archive": [[member.candidate.candidate_id, member.score, member.is_pareto] for member in result.archive],
        "finalists": [finalist.candidate.candidate_id for finalist in result.finalists],
    }


def tables_of(group: Group) -> dict[str, list[dict[str, Any]]]:
    """The rows as they are stored, without what replay does not read: requests are known by their keys."""
    rows, _ = rows_of(group)
    for row in rows["completions"]:
        row["request"] = ""
    return {table: rows[table] for table in TABLES}


def recorded(scenario: Scenario) -> dict[str, Any]:
    recorder = Recorder(scenario)
    rows = tables_of(recorder.run())
    if not recorder.lanes.has_ended:
        raise RuntimeError(f"{scenario.name} does not end within {MOST_TURNS} turns")
    return {
        "search_version": recorder.optimizer.search_version,
        "config": recorder.config.model_dump(mode="json"),
        "result": summary(recorder.lanes.result),
        **{
            table: {"columns": list(rows[table][0]), "rows": [list(r.values()) for r in rows[table]]}
            for table in TABLES
        },
    }


def as_text(golden: dict[str, Any]) -> str:
    """JSON with a line for each row, so that a diff shows which decisions changed."""

    def lined(value: Any) -> str:
        if not (isinstance(value, dict) and "rows" in value):
            return json.dumps(value)
        rows = ",\n".join(json.dumps(row) for row in value["rows"])
        return f'{{"columns": {json.dumps(value["columns"])}, "rows": [\n{rows}\n]}}'

    return "{\n" + ",\n".join(f"{json.dumps(name)}: {lined(value)}" for name, value in golden.items()) + "\n}\n"


def main() -> None:
    wanted = {HERE / f"{scenario.name}.json": scenario for scenario in SCENARIOS}
    for stale in set(HERE.glob("*.json")) - set(wanted):
        stale.unlink()
        print(f"removed {stale.name}")
    for path, scenario in wanted.items():
        golden = recorded(scenario)
        before = path.read_text() if path.exists() else ""
        path.write_text(as_text(golden))
        counts = ", ".join(f"{len(golden[table]['rows'])} {table}" for table in TABLES)
        print(f"{path.name}: {counts}; {'unchanged' if before == path.read_text() else 'CHANGED'}")


if __name__ == "__main__":
    main()
