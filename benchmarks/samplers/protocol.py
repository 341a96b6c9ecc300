"""MIPRO's protocol on one simulated space: noisy minibatches, now and then a full evaluation, the regret at the end."""

from dataclasses import dataclass

import numpy as np

from promptjobs.core.asks import digest
from samplers.families import Config, Instance
from samplers.players import FULL, MINIBATCH, Player

FULL_EVERY = 5
"""Trials."""


@dataclass(frozen=True, slots=True)
class Played:
    """regret: of the answer against the best configuration there is, in points. milliseconds: for each trial."""

    regret: float
    milliseconds: float


class Evaluations:
    """Scores whose noise depends on the configuration and on how often it was evaluated, not on who asks."""

    def __init__(self, instance: Instance, family: str, seed: int) -> None:
        self._instance, self._stream = instance, (family, seed)

    def score(self, config: Config, size: int, index: int) -> float:
        """The mean of `size` answers that are right or wrong."""
        noise = np.random.default_rng(int.from_bytes(digest(*self._stream, list(config.values()), size, index)))
        return float(noise.binomial(size, self._instance.worth(config)) / size)


def play(player: Player, instance: Instance, family: str, seed: int, trials: int, batch: int) -> Played:
    """A player without anything left to suggest spends its remaining trials on nothing."""
    evaluations = Evaluations(instance, family, seed)
    minibatches: dict[tuple[int, ...], tuple[Config, list[float]]] = {}
    fulls: list[tuple[Config, float]] = []
    done = 0
    while done < trials:
        configs = player.suggest(min(batch, trials - done))
        for config in configs:
            scores = minibatches.setdefault(tuple(config.values()), (config, []))[1]
            scores.append(evaluations.score(config, MINIBATCH, len(scores)))
            player.observe(config, scores[-1])
        before, done = done, done + len(configs) if configs else trials
        for _ in range(done // FULL_EVERY - before // FULL_EVERY):
            means = [(config, float(np.mean(scores))) for config, scores in minibatches.values()]
            chosen = player.choose_full(means, [config for config, _ in fulls])
            if chosen is not None:
                fulls.append((chosen, evaluations.score(chosen, FULL, 0)))
                player.observe_full(*fulls[-1])
    regret = 100 * (instance.best - instance.worth(player.answer(fulls)))
    return Played(regret, 1_000 * player.seconds / trials)
