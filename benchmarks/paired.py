"""What benchmarks of searches share: estimates with their intervals, differences by seed, and readers of options."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and the half-width of its 95 % interval by Student's t; None with fewer than two values."""

    mean: float
    half_width: float | None

    @staticmethod
    def of(values: Sequence[float]) -> "Estimate":
        n = len(values)
        if n < 2:
            return Estimate(float(np.mean(values)), None)
        return Estimate(float(np.mean(values)), float(stats.t.ppf(0.975, n - 1) * stats.sem(values)))

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.half_width is None else f"{self.mean:.3f} ± {self.half_width:.3f}"

    @property
    def signed(self) -> str:
        return f"{'+' if self.mean >= 0 else ''}{self}"


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """Ours minus theirs, over the seeds that both have run."""
    common = sorted(set(ours) & set(theirs))
    return Estimate.of([ours[seed] - theirs[seed] for seed in common]) if common else None


def override(text: str) -> tuple[str, Any]:
    """path=value; the value as JSON where it can be read so, else as text."""
    path, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected path=value, got {text!r}")
    try:
        return path, json.loads(value)
    except ValueError:
        return path, value


def listed(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """A reader of names with commas."""

    def read(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        wrong = [name for name in names if name not in choices]
        if wrong:
            raise argparse.ArgumentTypeError(f"expected names of {', '.join(choices)}, got {', '.join(wrong)}")
        return names

    return read
