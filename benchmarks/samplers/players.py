"""The samplers that are compared, behind one interface: what to try, what came of it, what to evaluate in full."""

import json
import random
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from promptjobs.core.asks import digest
from promptjobs.core.tpe import Sampler, SamplerModel, TpeSettings
from samplers.families import Config

MINIBATCH, FULL = 35, 300
"""Seeds of an evaluation."""


T = TypeVar("T")


class Player(Protocol):
    """seconds: CPU time that the sampler has taken."""

    seconds: float

    def suggest(self, count: int) -> list[Config]: ...
    def observe(self, config: Config, score: float) -> None: ...
    def observe_full(self, config: Config, score: float) -> None: ...
    def choose_full(self, means: Sequence[tuple[Config, float]], done: Sequence[Config]) -> Config | None: ...
    def answer(self, fulls: Sequence[tuple[Config, float]]) -> Config: ...


class ByScores:
    """The choices as DSPy makes them: the best mean of minibatches gets a full evaluation, the best of these wins."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def choose_full(self, means: Sequence[tuple[Config, float]], done: Sequence[Config]) -> Config | None:
        rest = [(config, mean) for config, mean in means if config not in done]
        return max(rest, key=lambda pair: pair[1])[0] if rest else None

    def answer(self, fulls: Sequence[tuple[Config, float]]) -> Config:
        return max(fulls, key=lambda pair: pair[1])[0]


class Random(ByScores):
    """Draws with equal probability, with or without repetition."""

    def __init__(self, dimensions: Mapping[str, int], seed: int, distinct: bool) -> None:
        super().__init__()
        self._dimensions = dimensions
        self._rng = random.Random(digest("random", seed))
        settings = TpeSettings(epsilon=1.0)
        self._distinct = Sampler(dimensions, settings, seed) if distinct else None

    def suggest(self, count: int) -> list[Config]:
        if self._distinct is not None:
            return self._distinct.suggest_ranked(count)
        return [{name: self._rng.randrange(size) for name, size in self._dimensions.items()} for _ in range(count)]

    def observe(self, config: Config, score: float) -> None:
        """Nothing is learnt."""

    def observe_full(self, config: Config, score: float) -> None:
        """Nothing is learnt."""


class Ours(ByScores):
    """by_scores: full evaluations are chosen as DSPy does it instead of by estimate. by_estimate: the answer is the
    fully evaluated configuration with the best estimate instead of the best score."""

    def __init__(
        self,
        dimensions: Mapping[str, int],
        seed: int,
        trials: int,
        settings: TpeSettings,
        by_scores: bool = False,
        by_estimate: bool = False,
    ) -> None:
        super().__init__()
        self._sampler = Sampler(dimensions, settings, seed, trials)
        self._by_scores, self._by_estimate = by_scores, by_estimate

    def suggest(self, count: int) -> list[Config]:
        return self._timed(lambda: self._sampler.suggest_ranked(count))

    def observe(self, config: Config, score: float) -> None:
        self._timed(lambda: self._sampler.observe(config, score, weight=MINIBATCH))

    def observe_full(self, config: Config, score: float) -> None:
        self._timed(lambda: self._sampler.observe(config, score, weight=FULL))

    def choose_full(self, means: Sequence[tuple[Config, float]], done: Sequence[Config]) -> Config | None:
        if self._by_scores:
            return super().choose_full(means, done)
        return next(iter(self._timed(lambda: self._sampler.best_seen(1, done))), None)

    def answer(self, fulls: Sequence[tuple[Config, float]]) -> Config:
        if not self._by_estimate:
            return super().answer(fulls)
        return max(fulls, key=lambda pair: self._sampler.estimate(pair[0]).mean)[0]

    def _timed(self, call: Callable[[], T]) -> T:
        started = time.process_time()
        try:
            return call()
        finally:
            self.seconds += time.process_time() - started


GP, TPE = TpeSettings(), TpeSettings(model=SamplerModel.TPE)

OURS: dict[str, Callable[[Mapping[str, int], int, int], Player]] = {
    "ours": lambda dimensions, seed, trials: Ours(dimensions, seed, trials, GP),
    "ours/by-estimate": lambda dimensions, seed, trials: Ours(dimensions, seed, trials, GP, by_estimate=True),
    "ours/by-scores": lambda dimensions, seed, trials: Ours(dimensions, seed, trials, GP, by_scores=True),
    "tpe": lambda dimensions, seed, trials: Ours(dimensions, seed, trials, TPE),
    "tpe/by-scores": lambda dimensions, seed, trials: Ours(dimensions, seed, trials, TPE, by_scores=True),
    "random": lambda dimensions, seed, trials: Random(dimensions, seed, distinct=False),
    "random/distinct": lambda dimensions, seed, trials: Random(dimensions, seed, distinct=True),
}
OPTUNA = "optuna"


class OptunaProcess:
    """A process of the peers' environment; it ends when its standard input is closed."""

    def __init__(self, python: str) -> None:
        command = [python, str(Path(__file__).with_name("optuna_worker.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        reply: dict[str, Any] = json.loads(self._process.stdout.readline())
        return reply

    def close(self) -> None:
        self._process.communicate(timeout=30)


class Optuna(ByScores):
    def __init__(self, process: OptunaProcess, dimensions: Mapping[str, int], seed: int, batch: int) -> None:
        super().__init__()
        self._process = process
        self._numbers: dict[tuple[int, ...], list[int]] = {}
        process.ask({"new": dimensions, "seed": seed % 2**32, "lies": batch > 1})

    def suggest(self, count: int) -> list[Config]:
        trials = self._ask({"ask": count})
        for number, config in trials:
            self._numbers.setdefault(tuple(config.values()), []).append(number)
        return [config for _, config in trials]

    def observe(self, config: Config, score: float) -> None:
        self._ask({"tell": [[self._numbers[tuple(config.values())].pop(0), score]]})

    def observe_full(self, config: Config, score: float) -> None:
        self._ask({"add": config, "score": score})

    def _ask(self, line: Mapping[str, Any]) -> Any:
        reply = self._process.ask(line)
        self.seconds += reply["seconds"]
        return reply["reply"]
