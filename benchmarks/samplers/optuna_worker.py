"""Optuna's TPE behind lines of JSON; run by the Python of an environment that has `optuna` and nothing of ours.

A line in, a line out: {"new": dimensions, "seed": 0, "lies": false}, {"ask": 8}, {"tell": [[number, score], ...]},
{"add": config, "score": 0.5}. Each reply says how much CPU time, in seconds, the sampler took.
"""

import json
import sys
import time
import warnings
from typing import Any

import optuna


class Study:
    """Set up as DSPy's MIPROv2 sets it up; constant_liar for batches, which DSPy does not have."""

    def __init__(self, dimensions: dict[str, int], seed: int, lies: bool) -> None:
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=lies)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._spread: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.CategoricalDistribution(list(range(size))) for name, size in dimensions.items()
        }
        self._asked: dict[int, optuna.Trial] = {}

    def ask(self, count: int) -> list[tuple[int, dict[str, int]]]:
        trials = [self._study.ask(self._spread) for _ in range(count)]
        self._asked |= {trial.number: trial for trial in trials}
        return [(trial.number, dict(trial.params)) for trial in trials]

    def tell(self, number: int, score: float) -> None:
        self._study.tell(self._asked.pop(number), score)

    def add(self, config: dict[str, int], score: float) -> None:
        """A trial that was not asked for, as DSPy adds its full evaluations."""
        self._study.add_trial(optuna.trial.create_trial(params=config, distributions=self._spread, value=score))


def answered(study: Study | None, line: dict[str, Any]) -> tuple[Study, Any]:
    if "new" in line:
        return Study(line["new"], line["seed"], line["lies"]), optuna.__version__
    assert study is not None
    reply = None
    if "ask" in line:
        reply = study.ask(line["ask"])
    elif "add" in line:
        study.add(line["add"], line["score"])
    else:
        for number, score in line["tell"]:
            study.tell(number, score)
    return study, reply


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    study: Study | None = None
    for line in sys.stdin:
        started = time.process_time()
        study, reply = answered(study, json.loads(line))
        print(json.dumps({"reply": reply, "seconds": time.process_time() - started}), flush=True)


if __name__ == "__main__":
    main()
