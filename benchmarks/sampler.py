"""Our sampler beside Optuna's TPE, which DSPy's MIPROv2 uses, and random search: regret at equal numbers of trials.

MIPRO's own protocol on simulated spaces (samplers/families.py): a trial is a minibatch of 35 answers that are right or
wrong, every fifth is followed by a full evaluation of 300, and the best full evaluation wins. Regret is what the winner
is truly worth less than the best there is, in points. Samplers are paired: the same spaces, and the same noise of a
configuration's n-th evaluation. Spaces are new in every run, unless it is told its first seed. Optuna runs in an
environment of its own:
    python -m venv .venv-peers && .venv-peers/bin/pip install -r benchmarks/peers.txt
Run: python benchmarks/sampler.py --peers-python .venv-peers/bin/python [--seeds 40] [--first-seed 1] [--trials 30,100]
     [--batches 1,8] [--families additive,needle] [--samplers ours,optuna] | --wide
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common import machine, print_json
from promptjobs.core.tpe import Sampler, TpeSettings
from samplers.families import FAMILIES, instance
from samplers.players import OPTUNA, OURS, Optuna, OptunaProcess, Player
from samplers.protocol import Played, play

Floats = NDArray[np.float64]

WIDE_DIMENSIONS, WIDE_OPTIONS = 30, 128


@dataclass(frozen=True, slots=True)
class Job:
    """All samplers, numbers of trials and batches on one space."""

    family: str
    seed: int
    samplers: tuple[str, ...]
    settings: tuple[tuple[int, int], ...]
    """Numbers of trials and sizes of batches."""


Key = tuple[str, str, int, int, int]
"""Family, sampler, trials, batch, seed."""

_optuna: OptunaProcess | None = None


def start_worker(peers_python: str | None) -> None:
    global _optuna
    _optuna = None if peers_python is None else OptunaProcess(peers_python)


def player(name: str, dimensions: dict[str, int], seed: int, trials: int, batch: int) -> Player:
    if name != OPTUNA:
        return OURS[name](dimensions, seed, trials)
    assert _optuna is not None
    return Optuna(_optuna, dimensions, seed, batch)


def run(job: Job) -> list[tuple[Key, Played]]:
    space = instance(job.family, job.seed)
    found = []
    for name in job.samplers:
        for trials, batch in job.settings:
            chosen = player(name, space.dimensions, job.seed, trials, batch)
            played = play(chosen, space, job.family, job.seed, trials, batch)
            found.append(((job.family, name, trials, batch, job.seed), played))
    return found


def collect(jobs: Sequence[Job], peers_python: str | None, processes: int) -> dict[Key, Played]:
    """The processes are started afresh, so that each reads anew how many threads linear algebra may have: one."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, start_worker, (peers_python,)) as pool:
        found = {key: played for part in pool.imap_unordered(run, jobs, chunksize=2) for key, played in part}
        pool.close()
        pool.join()
    return found


# --- what is printed -------------------------------------------------------------------------------------------------


def interval(values: Floats) -> tuple[float, float]:
    """The mean, and half of its 95 % interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return float(values.mean()), float(half)


@dataclass(frozen=True, slots=True)
class Table:
    """Regrets by sampler: (families, seeds) each."""

    families: tuple[str, ...]
    regrets: dict[str, Floats]
    milliseconds: dict[str, float]

    def lines(self) -> Iterator[str]:
        head = [*self.families, "mean"]
        yield f"{'regret, points':20}" + "".join(f"{each:>15}" for each in head) + f"{'ms':>8}"
        for name, regrets in self.regrets.items():
            cells = [interval(row) for row in [*regrets, regrets.mean(axis=0)]]
            shown = "".join(f"{f'{mean:.2f} ± {half:.2f}':>15}" for mean, half in cells)
            yield f"{name:20}{shown}{self.milliseconds[name]:8.2f}"
        if OPTUNA in self.regrets:
            yield f"less than {OPTUNA} (paired)"
            for name, regrets in self.regrets.items():
                if name != OPTUNA:
                    gains = self.regrets[OPTUNA] - regrets
                    cells = [interval(row) for row in [*gains, gains.mean(axis=0)]]
                    shown = "".join(f"{f'{mean:+.2f} ± {half:.2f}':>15}" for mean, half in cells)
                    yield f"{name:20}{shown}{self.share(name):8.0%}"

    def share(self, name: str) -> float:
        """By how much the mean regret is less than Optuna's."""
        return 1 - float(self.regrets[name].mean() / self.regrets[OPTUNA].mean())

    def figures(self) -> dict[str, dict[str, float]]:
        return {
            name: dict(zip(self.families, np.round(regrets.mean(axis=1), 3).tolist(), strict=True))
            | {"mean": round(float(regrets.mean()), 3), "milliseconds": round(self.milliseconds[name], 3)}
            for name, regrets in self.regrets.items()
        }


def table(found: dict[Key, Played], families: Sequence[str], seeds: Sequence[int], setting: tuple[int, int]) -> Table:
    names = list(dict.fromkeys(key[1] for key in found))
    cells = {name: [[found[family, name, *setting, seed] for seed in seeds] for family in families] for name in names}
    regrets = {name: np.array([[each.regret for each in row] for row in rows]) for name, rows in cells.items()}
    times = {name: float(np.mean([each.milliseconds for row in rows for each in row])) for name, rows in cells.items()}
    return Table(tuple(families), regrets, times)


def compare(options: argparse.Namespace) -> None:
    peers = options.peers_python or (sys.executable if importlib.util.find_spec("optuna") else None)
    names = tuple(options.samplers.split(","))
    if OPTUNA in names and peers is None:
        print("Optuna is left out: give --peers-python; how to make that environment is said in benchmarks/peers.txt\n")
        names = tuple(name for name in names if name != OPTUNA)
    elif OPTUNA in names and shutil.which(peers or "") is None:
        raise SystemExit(f"no such program: {peers}")
    unknown = set(names) - {OPTUNA, *OURS} or set(options.families.split(",")) - FAMILIES.keys()
    if unknown:
        raise SystemExit(f"unknown: {sorted(unknown)}; samplers: {[OPTUNA, *OURS]}, families: {[*FAMILIES]}")
    families, seeds = options.families.split(","), range(options.first_seed, options.first_seed + options.seeds)
    settings = tuple((int(n), int(b)) for n in options.trials.split(",") for b in options.batches.split(","))
    jobs = [Job(family, seed, names, settings) for seed in seeds for family in families]
    started = time.perf_counter()
    found = collect(jobs, peers if OPTUNA in names else None, options.processes)
    figures = {}
    print(f"{machine()}; {options.seeds} seeds from {options.first_seed}; {time.perf_counter() - started:.0f} s")
    for trials, batch in settings:
        shown = table(found, families, seeds, (trials, batch))
        print(
            f"\n{trials} trials, batches of {batch}; ms of CPU for each trial, all included", *shown.lines(), sep="\n"
        )
        figures[f"{trials} trials, batches of {batch}"] = shown.figures()
    print_json("sampler", machine(), {"seeds": options.seeds, "first_seed": options.first_seed, "regret": figures})


def wide() -> None:
    """What a suggestion takes in a space of 30 dimensions with 128 options each."""
    sampler = Sampler({f"d{n}": WIDE_OPTIONS for n in range(WIDE_DIMENSIONS)}, TpeSettings(), 0, 200)
    rng, taken = random.Random(0), []
    for _ in range(200):
        started = time.process_time()
        config = sampler.suggest_ranked(1)[0]
        sampler.observe(config, rng.random(), weight=35)
        taken.append(1_000 * (time.process_time() - started))
    figures = {f"trials {n - 10} to {n}": round(float(np.mean(taken[n - 10 : n])), 3) for n in (30, 100, 200)}
    print(json.dumps(figures))
    print_json("sampler, wide space, ms of CPU", machine(), figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=random.SystemRandom().randrange(10**6, 10**9))
    parser.add_argument("--trials", default="30,100")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--samplers", default=f"ours,tpe,random/distinct,{OPTUNA}", help=f"of {[*OURS, OPTUNA]}")
    parser.add_argument("--peers-python")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--wide", action="store_true")
    options = parser.parse_args()
    if options.wide:
        wide()
    else:
        compare(options)


if __name__ == "__main__":
    main()
