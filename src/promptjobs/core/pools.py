"""Which train seeds a search uses next: all of them in turn, or a pool that shrinks to those that tell most."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from promptjobs.core.asks import digest
from promptjobs.core.config_sections import AdaptiveBatchConfig, AdaptivePoolConfig
from promptjobs.core.seed_scores import SeedScores, clustered, farthest_first, spread

EXPLORED_TENTHS = 1
"""Tenths of the places that anchors leave, kept for seeds not known yet: without them no outsider ever gets in."""

EXPLORED_AT_MOST = 512
"""Diversity is sought among this many seeds at most, from as many of the pool: a bound on the work of one update."""


class FeedbackPool:
    """The seeds a search learns from, in batches, each epoch in a new order; an epoch's rest begins the next batch.

    With an adaptive pool an epoch is a turn through its members: who leaves is left out at once, who joins gets a
    random place in what is left of the epoch.
    """

    def __init__(
        self, seeds: Sequence[int], batch_size: int, rng_seed: int, adaptive: "AdaptivePool | None" = None
    ) -> None:
        """seeds: distinct, at least one; not used with `adaptive`, which has its own."""
        self._seeds = tuple(seeds)
        self._batch_size = batch_size
        self._rng_seed = rng_seed
        self._adaptive = adaptive
        self._epoch = 0
        self._left: list[int] = []

    @property
    def active(self) -> tuple[int, ...]:
        """The seeds in use."""
        return self._seeds if self._adaptive is None else self._adaptive.active

    @property
    def per_epoch(self) -> int:
        """Batches until each seed in use has had its turn."""
        return -(-len(self.active) // min(self._batch_size, len(self.active)))

    def next(self, size: int | None = None) -> tuple[int, ...]:
        """The next `size` seeds, by default a batch; fewer where fewer are in use."""
        active = self.active
        size = min(self._batch_size if size is None else size, len(active))
        while len(self._left) < size:
            left = set(self._left)
            order = [seed for seed in active if seed not in left]
            random.Random(digest("epoch", self._rng_seed, self._epoch)).shuffle(order)
            self._epoch += 1
            self._left += order
        batch, self._left = self._left[:size], self._left[size:]
        return tuple(batch)

    def observe(self, candidate_id: str, scores: Mapping[int, float], rank_value: float) -> None:
        """Pass a trial to the adaptive pool, where there is one; see there."""
        if self._adaptive is not None:
            self._adaptive.observe(candidate_id, scores, rank_value)

    def next_iteration(self) -> "PoolChange | None":
        """Begin an iteration. Returns what changed in the adaptive pool; None where nothing did or there is none."""
        change = None if self._adaptive is None else self._adaptive.next_iteration()
        if change is not None:
            gone = set(change.removed)
            self._left = [seed for seed in self._left if seed not in gone]
            rng = random.Random(digest("joined", self._rng_seed, change.iteration))
            for seed in change.added:
                self._left.insert(rng.randint(0, len(self._left)), seed)
        return change


@dataclass(frozen=True, slots=True)
class PoolChange:
    """What an iteration did to the pool.

    target: the scheduled size, without the seeds of a heat-up. added and removed are in the order of the seeds;
    heated: those of `added` that joined in a heat-up. informative: the seeds known to be so at the last update.
    """

    iteration: int
    trials: int
    size_before: int
    size: int
    target: int
    anchors: int
    informative: int
    added: tuple[int, ...]
    removed: tuple[int, ...]
    heated: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class AdaptivePool:
    """The seeds in use: anchors, the informative, some yet unknown, and after a heat-up some of the reserve.

    A seed is worth its rollouts where good candidates differ on it: that is what tells them apart. Everything follows
    from the arguments and the calls in their order. Sizes are bounded by the seeds there are.

    * Anchors, `anchor_size` and at most pool_min_size, are always in. `anchor_selection_method` random: drawn once;
      clustering: evenly spaced in the order of the seeds until twice as many seeds as anchors (or all) are known, from
      then on one of each cluster of score vectors.
    * The size is `pool_init_size` up to iteration `warmup_iters`, then falls linearly to `pool_min_size` at
      `anneal_stop_iter`. After the warm-up the pool is chosen anew every `pool_update_period` iterations.
    * A seed is known with the scores of `min_evals_per_example` candidates. Its informativeness is the variance of its
      scores among the `k_info_prompts` best candidates that have one on it, and counts above `info_epsilon`. An
      outsider replaces a member where (its informativeness + info_epsilon) * `info_buffer_factor` is larger than the
      member's + info_epsilon.
    * Places are given to the most informative, but a tenth to unknown seeds; then to members that are getting known, to
      unknown outsiders, and to the dull. `exploration_strategy` orders the last two, and who joins in a heat-up:
      random, or diversity: without any score first, then those whose score vectors are least like the pool's.
    * In a heat-up `heatup_size` seeds of `heatup_reserve_pool` (None: of those not in the pool) join beyond the size.
      Each is held until min_evals_per_example more candidates are scored on it or the cooldown is over; from the next
      update or heat-up it must win its place. `heatup_trigger` immediate: the first comes in iteration 1;
      after_min_size: when the scheduled size is at its minimum; every_N_trials_after_min: `heatup_cooldown_trials`
      trials after that. With `heatup_schedule` repeat, others follow so many trials after the one before, with
      after_min_size only once the pool is back at its minimum; once: none does.
    """

    def __init__(self, config: AdaptivePoolConfig, seeds: Sequence[int], rng_seed: int) -> None:
        """seeds: distinct. Raises ValueError where there is none."""
        if not seeds:
            raise ValueError("an adaptive pool needs seeds, got none")
        self._config = config
        self._rng_seed = rng_seed
        self._seeds = tuple(seeds)
        self._reserve = self._seeds if config.heatup_reserve_pool is None else tuple(config.heatup_reserve_pool)
        self._order = {seed: at for at, seed in enumerate(dict.fromkeys([*self._seeds, *self._reserve]))}
        self.scores = SeedScores(list(self._order))
        self.init_size = min(config.pool_init_size, len(seeds))
        self.min_size = min(config.pool_min_size, self.init_size)
        self.target = self.init_size
        self._iteration = 0
        self._trials = 0
        self._informative = 0
        self._minimum_at: int | None = None
        self._heated_at: int | None = None
        self._held: dict[int, int] = {}
        self._is_clustered = config.anchor_selection_method == "random"
        self.anchors = self._first_anchors(min(config.anchor_size, self.min_size))
        anchors = set(self.anchors)
        others = [seed for seed in self._seeds if seed not in anchors]
        filling = self._rng("start").sample(others, self.init_size - len(self.anchors))
        self._active = self._in_order([*self.anchors, *filling])

    @property
    def active(self) -> tuple[int, ...]:
        """The seeds in the pool, in the order of the seeds; those of the reserve come last."""
        return self._active

    def observe(self, candidate_id: str, scores: Mapping[int, float], rank_value: float) -> None:
        """Take in one trial. rank_value: what candidates are ranked by, higher is better; the latest one counts.

        Seeds of neither the pool nor its reserve are ignored; without any score it is no trial. Raises ValueError
        where rank_value is not finite.
        """
        self._trials += bool(scores)
        self.scores.observe(candidate_id, scores, rank_value)

    def next_iteration(self) -> PoolChange | None:
        """Begin an iteration; the first is number 1. Returns what changed in the pool, None where nothing did."""
        before = self._active
        self._iteration += 1
        config = self._config
        is_warm = self._iteration > config.warmup_iters
        if is_warm and self._iteration % config.pool_update_period == 0:
            self._update()
        if is_warm and self.target == self.min_size and self._minimum_at is None:
            self._minimum_at = self._trials
        heated = self._heat_up() if self._may_heat_up() else ()
        if self._active == before:
            return None
        return PoolChange(
            iteration=self._iteration,
            trials=self._trials,
            size_before=len(before),
            size=len(self._active),
            target=self.target,
            anchors=len(self.anchors),
            informative=self._informative,
            added=self._in_order(set(self._active) - set(before)),
            removed=self._in_order(set(before) - set(self._active)),
            heated=heated,
        )

    # --- anchors -----------------------------------------------------------------------------------------------------

    def _first_anchors(self, count: int) -> tuple[int, ...]:
        rng = self._rng("anchors")
        if count == 0:
            return ()
        if self._config.anchor_selection_method == "random":
            return self._in_order(rng.sample(self._seeds, count))
        return self._in_order(spread(self._seeds, count, rng))

    def _cluster_anchors(self) -> None:
        known = [seed for seed in self._seeds if self._is_known(seed)]
        if len(known) >= min(2 * len(self.anchors), len(self._seeds)):
            chosen = clustered(self.scores.points(known), len(self.anchors))
            self.anchors = self._in_order(known[at] for at in chosen)
            self._is_clustered = True

    # --- the update --------------------------------------------------------------------------------------------------

    def _update(self) -> None:
        self.target = self._scheduled()
        self._release()
        if not self._is_clustered:
            self._cluster_anchors()
        fixed = {*self.anchors, *self._held}
        rest = [seed for seed in self._in_order({*self._seeds, *self._active}) if seed not in fixed]
        self._active = self._in_order([*fixed, *self._fill(rest, sorted(fixed), self.target - len(self.anchors))])

    def _scheduled(self) -> int:
        config = self._config
        if self._iteration <= config.warmup_iters:
            return self.init_size
        if self._iteration >= config.anneal_stop_iter:
            return self.min_size
        passed, span = self._iteration - config.warmup_iters, config.anneal_stop_iter - config.warmup_iters
        return self.init_size - (self.init_size - self.min_size) * passed // span

    def _fill(self, rest: Sequence[int], fixed: Sequence[int], places: int) -> list[int]:
        """The informative, then members that are getting known, then unknown outsiders, then the dull."""
        worth = self._worth()
        unknown = [seed for seed in rest if not self._is_known(seed)]
        explored = min(len(unknown), -(-places * EXPLORED_TENTHS // 10))
        informative = sorted((seed for seed in rest if seed in worth), key=lambda seed: -worth[seed])
        chosen = informative[: places - explored]
        members = set(self._active)
        begun = sorted((seed for seed in unknown if seed in members), key=lambda seed: -self.scores.count(seed))
        chosen += begun[: places - len(chosen)]
        outsiders = [seed for seed in unknown if seed not in members]
        chosen += self._explored(outsiders, [*fixed, *chosen], places - len(chosen))
        dull = [seed for seed in rest if seed not in worth and self._is_known(seed)]
        return chosen + self._explored(dull, [*fixed, *chosen], places - len(chosen))

    def _worth(self) -> dict[int, float]:
        """What an informative seed has to win its place with; a member's is raised by the buffer."""
        config = self._config
        found = self.scores.informativeness(config.k_info_prompts)
        worth = {
            seed: value + config.info_epsilon
            for seed, value in found.items()
            if value > config.info_epsilon and self._is_known(seed)
        }
        self._informative = len(worth)
        members = set(self._active)
        return {seed: one / config.info_buffer_factor if seed in members else one for seed, one in worth.items()}

    def _explored(self, seeds: Sequence[int], pool: Sequence[int], count: int) -> list[int]:
        if count < 1 or not seeds:
            return []
        order = list(seeds)
        rng = self._rng("explore", len(pool))
        rng.shuffle(order)
        if self._config.exploration_strategy == "random":
            return order[:count]
        new = [seed for seed in order if self.scores.count(seed) == 0][:count]
        scored = [seed for seed in order if self.scores.count(seed)][: max(EXPLORED_AT_MOST, count)]
        near = rng.sample(pool, min(EXPLORED_AT_MOST, len(pool)))
        points = self.scores.points([*scored, *near])
        picked = farthest_first(points[:, : len(scored)], points[:, len(scored) :], count - len(new))
        return new + [scored[at] for at in picked]

    def _is_known(self, seed: int) -> bool:
        return self.scores.count(seed) >= self._config.min_evals_per_example

    # --- heat-ups ----------------------------------------------------------------------------------------------------

    def _may_heat_up(self) -> bool:
        config = self._config
        cooldown = config.heatup_cooldown_trials
        is_after_minimum = config.heatup_trigger == "after_min_size"
        if self._heated_at is not None:
            is_due = config.heatup_schedule == "repeat" and self._trials - self._heated_at >= cooldown
            return is_due and (not is_after_minimum or len(self._active) == self.min_size)
        if config.heatup_trigger == "immediate":
            return True
        if self._minimum_at is None:
            return False
        return is_after_minimum or self._trials - self._minimum_at >= cooldown

    def _heat_up(self) -> tuple[int, ...]:
        if len(self._active) > self.target:
            # The last heat-up's seeds make room: the pool exceeds its size by one heat-up at most.
            self._held = {}
            self._update()
        members = set(self._active)
        outside = [seed for seed in self._reserve if seed not in members]
        joining = self._explored(outside, self._active, self._config.heatup_size)
        if joining:
            self._heated_at = self._trials
            self._held = {seed: self.scores.count(seed) + self._config.min_evals_per_example for seed in joining}
            self._active = self._in_order([*self._active, *joining])
        return self._in_order(joining)

    def _release(self) -> None:
        """Those that have had their chance are ordinary members from now on."""
        if self._heated_at is not None and self._trials - self._heated_at >= self._config.heatup_cooldown_trials:
            self._held = {}
        self._held = {seed: goal for seed, goal in self._held.items() if self.scores.count(seed) < goal}

    def _in_order(self, seeds: Iterable[int]) -> tuple[int, ...]:
        return tuple(sorted(set(seeds), key=self._order.__getitem__))

    def _rng(self, *purpose: str | int) -> random.Random:
        return random.Random(digest("pool", self._rng_seed, self._iteration, *purpose))


# --- where an improved child is validated ----------------------------------------------------------------------------


def is_improved(parent: Sequence[float], child: Sequence[float], least: float = 0.0) -> bool:
    """Whether the child's sum on a minibatch exceeds its parent's by more than `least`.

    Scores are paired: the same seeds in the same order. With 0 any strict improvement will do.
    """
    return sum(child) > sum(parent) + least


def validation_subsample(
    front_seeds: Sequence[int], config: AdaptiveBatchConfig, counts_by_seed: Mapping[int, int], rng: random.Random
) -> tuple[int, ...]:
    """The front's seeds on which an improved child is evaluated, in the front's order.

    Mode full: all. Mode subsample: `val_subsample_size` of them, by coverage those with the smallest count in
    counts_by_seed (candidates scored on the seed, none where it is missing), ties at random; or random ones.
    """
    if config.val_evaluation_mode == "full" or config.val_subsample_size >= len(front_seeds):
        return tuple(front_seeds)
    drawn = rng.sample(front_seeds, len(front_seeds))
    if config.candidate_selection_strategy == "coverage":
        drawn.sort(key=lambda seed: counts_by_seed.get(seed, 0))
    chosen = set(drawn[: config.val_subsample_size])
    return tuple(seed for seed in front_seeds if seed in chosen)
