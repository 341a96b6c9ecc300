"""A cheap model as a stand-in: the regression from its scores to the real model's, and whether it may be relied on.

hi is the model under optimization, lo its stand-in. Scores are in [0, 1]; pairs are scores of one candidate on one seed
under both. The line is the least-squares fit of hi on lo.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from promptjobs.core.asks import EventFact, Tier

if TYPE_CHECKING:
    from promptjobs.core.config_sections import ProxyModelsConfig

FEWEST_PAIRS = 3
"""The residuals of a line need one more point than the line."""
MOST_PAIRS_FACTOR = 10
"""A fit that is still not good after so many times the least number of pairs will not become so."""
SILENT_IN_A_ROW = 5
"""Screenings without any score of lo, after which lo is given up."""
FLAT = 1e-12
"""Sums of squares below this mean that scores do not vary: then there is no line."""


class Plan(StrEnum):
    """How the next trial is measured: HI alone; both, to learn the line or to check it; LO in the place of HI."""

    HI = "hi"
    PAIR = "pair"
    VERIFY = "verify"
    LO = "lo"


class GivenUp(StrEnum):
    """Why lo is used no more."""

    R2 = "r2_stop"
    SIGMA = "sigma_stop"
    PATIENCE = "proxy_patience_usd"
    UNDECIDED = "undecided"
    SILENT = "no_scores"


@dataclass(frozen=True, slots=True)
class Fit:
    """hi = intercept + slope * lo over n pairs. r2: share of hi's variance; sigma: standard error of the residuals."""

    n: int
    slope: float
    intercept: float
    r2: float
    sigma: float

    def predict(self, lo: float) -> float:
        """The score that hi is expected to give, in [0, 1]."""
        return min(1.0, max(0.0, self.intercept + self.slope * lo))


class Line:
    """Sums for a regression, updated one pair at a time without cancellation (Welford 1962, for two variables)."""

    def __init__(self) -> None:
        self.n = 0
        self._mean_x = self._mean_y = self._xx = self._yy = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        self.n += 1
        dx, dy = x - self._mean_x, y - self._mean_y
        self._mean_x += dx / self.n
        self._mean_y += dy / self.n
        self._xx += dx * (x - self._mean_x)
        self._yy += dy * (y - self._mean_y)
        self._xy += dx * (y - self._mean_y)

    def fit(self) -> Fit | None:
        """None where there are too few pairs, or one side of them does not vary."""
        if self.n < FEWEST_PAIRS or self._xx <= FLAT or self._yy <= FLAT:
            return None
        slope = self._xy / self._xx
        explained = slope * self._xy
        sigma = math.sqrt(max(0.0, self._yy - explained) / (self.n - 2))
        return Fit(self.n, slope, self._mean_y - slope * self._mean_x, min(1.0, max(0.0, explained / self._yy)), sigma)


class Proxy:
    """Learns the line, and decides by the limits of the config.

    Where pairs of scores are too few or the fit is between `r2_stop` and `r2_thresh`, trials are measured on both.
    """

    def __init__(self, config: "ProxyModelsConfig") -> None:
        self.config = config
        self.given_up: GivenUp | None = None
        self.proxied = 0
        self._line = Line()
        self._fit: Fit | None = None
        self._scores: dict[Tier, dict[tuple[str, int], float]] = {tier: {} for tier in Tier}
        self._stands_in: set[tuple[str, int]] = set()
        self._cost: dict[Tier, float] = dict.fromkeys(Tier, 0.0)
        self._priced: dict[Tier, int] = dict.fromkeys(Tier, 0)
        self._unpriced: dict[Tier, int] = dict.fromkeys(Tier, 0)
        self._silent = 0
        self._was_usable = False
        self._events: list[EventFact] = []

    @staticmethod
    def of(config: "ProxyModelsConfig | None") -> "Proxy | None":
        return None if config is None else Proxy(config)

    # --- what it is told ---------------------------------------------------------------------------------------------

    def scored(self, tier: Tier, candidate_id: str, seed: int, score: float) -> None:
        """A score of one of the models; with the other's for the same candidate and seed it makes a pair, once."""
        name = (candidate_id, seed)
        if name in self._scores[tier]:
            return
        self._scores[tier][name] = score
        if tier is Tier.HI:
            self._stands_in.discard(name)
        hi, lo = self._scores[Tier.HI].get(name), self._scores[Tier.LO].get(name)
        if hi is not None and lo is not None:
            self._line.add(lo, hi)
            self._fit = self._line.fit()
            self._review()

    def paid(self, tier: Tier, cost_usd: float | None) -> None:
        """What a rollout has cost, also one that failed; None where that is unknown."""
        if cost_usd is None:
            self._unpriced[tier] += 1
            return
        self._priced[tier] += 1
        self._cost[tier] += cost_usd
        saved = self.saving_usd
        if saved is not None and saved < self.config.proxy_patience_usd:
            self._give_up(GivenUp.PATIENCE, f"${saved:.6g} saved so far, at least ${self.config.proxy_patience_usd:g}")

    def silent(self, is_silent: bool) -> None:
        """Whether the last screening had no score of lo at all."""
        self._silent = self._silent + 1 if is_silent else 0
        if self._silent >= SILENT_IN_A_ROW:
            self._give_up(GivenUp.SILENT, f"{self._silent} screenings in a row had no score")

    def stood_in(self, candidate_id: str, seeds: Sequence[int]) -> None:
        """lo's scores were taken for hi's on these seeds: hi's rollouts are saved until they are made after all."""
        self._stands_in.update((candidate_id, s) for s in seeds if (candidate_id, s) not in self._scores[Tier.HI])

    # --- what it decides ---------------------------------------------------------------------------------------------

    @property
    def fit(self) -> Fit | None:
        return self._fit

    @property
    def is_usable(self) -> bool:
        """Whether lo may stand in for hi now."""
        fit, config = self._fit, self.config
        if self.given_up is not None or fit is None or fit.n < config.n_min_hi:
            return False
        return fit.r2 >= config.r2_thresh and fit.sigma <= config.sigma_max

    def plan(self) -> Plan:
        """How to measure the next trial; every `verify_every`-th that lo may answer is checked on hi."""
        if self.given_up is not None:
            return Plan.HI
        if not self.is_usable:
            return Plan.PAIR
        self.proxied += 1
        is_due = self.config.verify_every > 0 and self.proxied % self.config.verify_every == 0
        return Plan.VERIFY if is_due else Plan.LO

    def predict(self, lo: float) -> float:
        """hi's score as the line has it. Raises ValueError where there is no line."""
        if self._fit is None:
            raise ValueError("there is no line yet")
        return self._fit.predict(lo)

    @property
    def saving_usd(self) -> float | None:
        """The mean cost of hi's rollouts times those avoided, minus what lo has cost; None where a price is unknown."""
        if self._unpriced[Tier.LO] or (self._stands_in and not self._priced[Tier.HI]):
            return None
        mean = self._cost[Tier.HI] / self._priced[Tier.HI] if self._priced[Tier.HI] else 0.0
        return mean * len(self._stands_in) - self._cost[Tier.LO]

    def _review(self) -> None:
        """Look at the limits after a new pair."""
        fit, config = self._fit, self.config
        if self.given_up is not None or self._line.n < max(config.n_min_hi, FEWEST_PAIRS):
            return
        if fit is not None and fit.r2 < config.r2_stop:
            self._give_up(GivenUp.R2, f"R² is {fit.r2:.3g}, less than {config.r2_stop:g}")
        elif fit is not None and fit.sigma > config.sigma_stop:
            self._give_up(GivenUp.SIGMA, f"sigma is {fit.sigma:.3g}, more than {config.sigma_stop:g}")
        elif not self.is_usable and self._line.n >= MOST_PAIRS_FACTOR * max(config.n_min_hi, FEWEST_PAIRS):
            self._give_up(GivenUp.UNDECIDED, f"after {self._line.n} pairs the fit is still not good enough")
        elif self.is_usable != self._was_usable:
            self._was_usable = self.is_usable
            word = "stands in from here on" if self.is_usable else "does not stand in for the time being"
            kind = "ready" if self.is_usable else "suspended"
            self._tell(kind, f"{config.lo_model} {word}: {self._said()}", "info")

    def _give_up(self, why: GivenUp, said: str) -> None:
        if self.given_up is None:
            self.given_up = why
            self._tell("stopped", f"{self.config.lo_model} is given up: {said}", "warning")

    # --- what it tells -----------------------------------------------------------------------------------------------

    def take_events(self) -> list[EventFact]:
        """What has been decided since the last call."""
        taken, self._events = self._events, []
        return taken

    def figures(self) -> dict[str, float | int | str | None]:
        """The state of the fit as JSON."""
        fit = self._fit
        return {
            "pairs": self._line.n,
            "slope": fit.slope if fit else None,
            "intercept": fit.intercept if fit else None,
            "r2": fit.r2 if fit else None,
            "sigma": fit.sigma if fit else None,
            "proxied_trials": self.proxied,
            "saving_usd": self.saving_usd,
            "given_up": self.given_up,
        }

    def _said(self) -> str:
        fit = self._fit
        return f"R² {fit.r2:.3g}, sigma {fit.sigma:.3g} over {fit.n} pairs" if fit else "the scores do not vary"

    def _tell(self, kind: str, message: str, level: str) -> None:
        data = {"hi_model": self.config.hi_model, "lo_model": self.config.lo_model, **self.figures()}
        self._events.append(EventFact(f"prompt.learning.proxy.{kind}", message, data, level))
