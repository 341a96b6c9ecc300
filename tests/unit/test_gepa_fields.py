"""Every field of a GEPA search's config does something: two runs that differ in it alone differ in what it is for."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.gepa_choices import (
    LO,
    START,
    TWO_PARTS,
    LinesWorld,
    Ran,
    Shown,
    complementary,
    dead_end,
    easy_to_foretell,
    going_on,
    good,
    goodness,
    priced,
    ran,
    small_job,
)
from tests.fakes.gepa_runs import fraction
from tests.fakes.warm_prompts import warm_prompt

from promptjobs.core.asks import CallBody, Completion, FailureReason, Tier
from promptjobs.core.config import GepaConfig, GepaJobConfig, GuardsConfig, WarmStartConfig
from promptjobs.core.config_sections import (
    AdaptiveBatchConfig,
    AdaptivePoolConfig,
    MetaModelConfig,
    ProxyModelsConfig,
    Resolved,
    VerifierConfig,
)
from promptjobs.core.demonstrations import MARK
from promptjobs.core.prompt import Message
from promptjobs.core.result import Member
from promptjobs.core.trial import Phase
from promptjobs.errors import InvalidConfig

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]

Shows = Callable[[Ran], Any]

SHORT = {"population__num_generations": 4, "rollout__budget": 200}


@dataclass(frozen=True)
class Alone:
    """Two resolved configs that differ in the field alone.

    values: of the field. expected: what they show; None where it only has to differ. common: the rest of the request.
    """

    values: tuple[Any, Any]
    shows: Shows
    expected: tuple[Any, Any] | None = None
    world: Callable[[], LinesWorld] = field(default=lambda: LinesWorld(easy_to_foretell, going_on))
    common: Mapping[str, Any] = field(default_factory=dict)

    def check(self, name: str) -> None:
        config = small_job(**{**SHORT, **self.common})
        shown = tuple(self.shows(ran(with_field(config, name, value), self.world())) for value in self.values)
        if self.expected is None:
            assert shown[0] != shown[1]
        else:
            assert shown == self.expected


@dataclass(frozen=True)
class AsPosted:
    """The same with two requests, for a field that decides when the job is posted. path: in the words of small_job."""

    path: str
    values: tuple[Any, Any]
    shows: Callable[[Callable[[], Ran]], Any]
    expected: tuple[Any, Any]
    common: Mapping[str, Any] = field(default_factory=dict)

    def check(self, name: str) -> None:
        def run(value: Any) -> Ran:
            return ran(small_job(**{**SHORT, **self.common, self.path: value}), LinesWorld(easy_to_foretell, going_on))

        assert tuple(self.shows(lambda value=value: run(value)) for value in self.values) == self.expected


@dataclass(frozen=True)
class Elsewhere:
    """The search does not know the field: the runner does, and this test is about it."""

    path: str
    test: str

    def check(self, name: str) -> None:
        found = re.findall(r"^(?:async )?def (test_\w+)\(", (TESTS / self.path).read_text(encoding="utf-8"), re.M)
        assert self.test in found


Case = Alone | AsPosted | Elsewhere


def with_field(config: GepaJobConfig, name: str, value: Any) -> GepaJobConfig:
    return config.model_copy(update={"gepa": config.gepa.model_copy(update={name: value})})


# --- what is shown ---------------------------------------------------------------------------------------------------


def first_message(run: Ran) -> str:
    return run.world.reflected[0].message


def examples(run: Ran) -> int:
    return first_message(run).count("## Example ")


def reason(run: Ran) -> str:
    return str(run.result.finish_reason)


def seeds(phase: Phase) -> Shows:
    return lambda run: {ask.seed for ask in run.pure.rollouts if ask.phase is phase}


def baselines_first(run: Ran) -> set[int]:
    return set(run.pure.trials[0].seeds)


def refusals(run: Ran) -> set[str]:
    return {event.data["reason"] for event in run.pure.events("proposal.refused")}


def searched(run: Ran) -> int:
    return sum(ask.phase is Phase.OPTIMIZATION for ask in run.pure.rollouts)


def lanes(run: Ran) -> int:
    """Lanes that have asked for several reflections; a draft's asks for one."""
    asked = Counter(path for turn in run.pure.turns for path, asks in turn.opened if isinstance(asks[0], Completion))
    return sum(count > 1 for count in asked.values())


def changed_first(run: Ran) -> list[str]:
    [event, *_] = run.pure.events("transformation.proposed")
    changed: list[str] = event.data["mutation_params"]["sections"]
    return changed


def longest_output(run: Ran) -> int:
    """Characters of what a reflection was shown of an output."""
    shown = "".join(reflection.message for reflection in run.world.reflected)
    return max(map(len, re.findall(r"### Output\n(.*?)\n(?:###|Score: )", shown, re.DOTALL)))


# --- worlds ----------------------------------------------------------------------------------------------------------


def uneven(step: float = 0.05, failing: float = 0.0) -> Callable[[], LinesWorld]:
    """Every text is good at seeds of its own."""

    def score(text: str, seed: int) -> float | FailureReason:
        if text != START and fraction("fails", text, seed) < failing:
            return FailureReason.TASK_APP_ERROR
        return min(0.9, step * goodness(text) + 0.4 * fraction("own", text, seed))

    return lambda: LinesWorld(score, good)


def wordy() -> LinesWorld:
    """Outputs are as long as no reflection shows them."""
    return LinesWorld(easy_to_foretell, lambda shown: good(shown) + " word" * 3000)


def example_world() -> LinesWorld:
    return LinesWorld(lambda text, seed: 0.3 + min(0.6, 0.1 * text.count("Output: ")), is_known=True)


def judged() -> LinesWorld:
    return LinesWorld(easy_to_foretell, going_on, judge=lambda output: 0.25)


def foretold() -> LinesWorld:
    return LinesWorld(easy_to_foretell, going_on, lo=lambda text, seed: easy_to_foretell(text, seed) / 2)


WARM = WarmStartConfig(prompts=(warm_prompt(f"{START} good"), warm_prompt(f"{START} good good")))
POOL = AdaptivePoolConfig(
    level="HIGH",
    anchor_size=0,
    pool_init_size=4,
    pool_min_size=4,
    warmup_iters=100,
    anneal_stop_iter=100,
    heatup_size=0,
)
BATCH = AdaptiveBatchConfig(level="HIGH", reflection_minibatch_size=4, min_local_improvement=0.5, val_subsample_size=2)
JUDGE = VerifierConfig(reward_source="verifier", backend_provider="groq", backend_model="judge", weight_env=0.0)
STAND_IN = ProxyModelsConfig(hi_provider="groq", hi_model="llama-3.1-8b-instant", lo_provider="groq", lo_model=LO)

LONG_BASELINE = {
    "messages": [{"role": "system", "pattern": "Много слов " * 40}, {"role": "user", "pattern": "Query: {query}"}],
    "wildcards": {"query": "REQUIRED"},
}
OFTEN = {"rollout__budget": 500, "population__num_generations": 100}
FULL = {"acceptance": "full"}
TWO_SECTIONS = {"initial_prompt": TWO_PARTS, "mutation__rate": 0}
MERGING = {
    **FULL,
    **OFTEN,
    **TWO_SECTIONS,
    "population__initial_size": 3,
    "rollout__minibatch_size": 8,
    "crossover_rate": 1,
}


def stop(limit: Any, name: str, **world: float) -> Alone:
    return Alone((None, limit), reason, ("rollout_budget", name), uneven(**world), OFTEN)


def is_refused(run: Callable[[], Ran]) -> bool:
    try:
        run()
    except InvalidConfig:
        return True
    return False


CASES: dict[str, list[Case]] = {
    # seeds and budget
    "rng_seed": [Alone((0, 1), lambda run: set(run.keys), world=uneven())],
    "lanes": [
        Alone((1, 3), lanes, (1, 3), uneven(), FULL),
        Alone((1, 3), lanes, (1, 3), uneven(), {"rollout__budget": 2000}),
    ],
    "lane_depth": [Alone((1, 1000), lanes, (3, 1), uneven(), {"rollout__budget": 2000, "lanes": 3})],
    "turn_order": [Elsewhere("integration/test_journal.py", "test_fixed_order_gives_the_same_run_at_any_latency")],
    "max_concurrent": [
        Elsewhere("integration/test_runner_slots.py", "test_no_more_calls_are_under_way_than_there_are_slots")
    ],
    "minibatch_size": [Alone((2, 4), examples, (3, 6)), Alone((2, 4), examples, (2, 4), common=FULL)],
    "rollout_budget": [
        Alone(
            (100, 200), lambda run: run.pure.spent > 100, (False, True), uneven(), {"population__num_generations": 100}
        )
    ],
    "train_seeds": [
        Alone(
            ((1, 2, 3, 4), (5, 6, 7, 8)),
            seeds(Phase.BOOTSTRAP),
            ({1, 2, 3}, {5, 6, 7}),
            common={"initial_prompt": None},
        )
    ],
    "validation_seeds": [Alone(((100, 101), (102,)), seeds(Phase.VALIDATION), ({100, 101}, {102}))],
    "test_seeds": [Alone(((), (200, 201)), seeds(Phase.TEST), (set(), {200, 201}))],
    "pareto_source": [Alone(("train", "validation"), lambda run: bool(seeds(Phase.VALIDATION)(run)), (True, False))],
    "front_seeds": [Alone(((1, 2, 3), (4, 5, 6)), baselines_first, ({1, 2, 3}, {4, 5, 6}))],
    "feedback_seeds": [
        Alone(((50, 51, 52, 53), (60, 61, 62, 63)), lambda run: max(seeds(Phase.OPTIMIZATION)(run)) // 10, (5, 6))
    ],
    "validation_top_k": [Alone((1, 3), lambda run: len(run.result.finalists), (2, 4), common=OFTEN)],
    "pareto_set_size": [AsPosted("archive__pareto_set_size", (4, 8), lambda run: len(baselines_first(run())), (4, 8))],
    "feedback_fraction": [
        AsPosted(
            "archive__feedback_fraction",
            (0.2, 0.9),
            lambda run: len(run().config.gepa.feedback_seeds),
            (4, 16),
            {"archive__pareto_set_size": 4},
        )
    ],
    # the search
    "acceptance": [Alone(("race", "full"), lambda run: len(run.pure.trials[1].seeds), (6, 4))],
    "front": [
        Alone(
            ("instance", "hybrid"),
            lambda run: START in run.front,
            (False, True),
            priced,
            {"objectives": ["score", "cost"]},
        )
    ],
    "objectives": [
        Alone(
            (("score",), ("score", "tokens")),
            lambda run: START in run.front,
            (False, True),
            priced,
            {"front": "hybrid"},
        )
    ],
    "parent_selection": [
        Alone(("current_best", "pareto"), lambda run: run.parents.count(START) > 1, (False, True), dead_end)
    ],
    "epsilon": [
        Alone(
            (0.0, 1.0),
            lambda run: run.parents.count(START) > 1,
            (False, True),
            dead_end,
            {"parent_selection": "epsilon_greedy"},
        )
    ],
    "top_k": [
        Alone(
            (1, 5),
            lambda run: run.parents.count(START) > 1,
            (False, True),
            dead_end,
            {"parent_selection": "top_k_pareto"},
        )
    ],
    "component_selection": [
        Alone(("round_robin", "all"), lambda run: len(changed_first(run)), (1, 2), world=uneven(), common=TWO_SECTIONS)
    ],
    "mutation_rate": [
        Alone((0.0, 1.0), lambda run: len(changed_first(run)), (1, 2), uneven(), {"initial_prompt": TWO_PARTS})
    ],
    "pareto_eps": [Alone((0.0, 1.0), lambda run: len(run.front) > 1, (True, False), uneven(), FULL)],
    "archive_size": [Alone((2, 64), lambda run: len(run.result.archive) > 2, (False, True))],
    "selection_pressure": [Alone((8.0, 1.0), lambda run: run.parents.count(START) > 1, (False, True), dead_end)],
    "initial_size": [
        Alone(
            (1, 3), lambda run: run.parents[:2].count(START), (1, 2), lambda: LinesWorld(easy_to_foretell, good), common
        )
        for common in ({}, {**FULL, "parent_selection": "current_best"})
    ],
    "crossover_rate": [Alone((0.0, 1.0), lambda run: run.operators("merge"), (0, 1), complementary, MERGING)],
    "max_merges": [Alone((0, 5), lambda run: run.operators("merge"), (0, 1), complementary, MERGING)],
    "max_demonstrations": [
        Alone((0, 8), lambda run: run.best.count("Output: "), (0, 8), example_world),
        Alone((0, 8), lambda run: MARK in run.best, (False, True), example_world, FULL),
    ],
    "finals_share": [
        Alone(
            (0.1, 0.9),
            lambda run: searched(run) > 100,
            (True, False),
            uneven(),
            {
                "rollout__budget": 300,
                "population__num_generations": 100,
                "evaluation__validation_seeds": [*range(100, 160)],
            },
        )
    ],
    # proposals
    "meta_model": [
        Alone(
            (
                MetaModelConfig(provider="groq", model="one"),
                MetaModelConfig(provider="xai", model="two", temperature=0.5, max_tokens=99),
            ),
            lambda run: {
                (c.model.provider, c.model.model, c.model.temperature, c.model.max_tokens) for c in run.pure.completions
            },
            ({("groq", "one", 1.0, 8192)}, {("xai", "two", 0.5, 99)}),
        )
    ],
    "proposer_type": [
        Alone(
            ("dspy", "builtin"),
            lambda run: any("Tried before" in s.message for s in run.world.reflected),
            (True, False),
        ),
        Alone(
            ("dspy", "synth"),
            lambda run: any("Prefer precise rules" in s.message for s in run.world.reflected),
            (True, False),
        ),
        Alone(
            ("builtin", "gepa-ai"),
            lambda run: first_message(run).find("# Specification") < first_message(run).find("# Current text"),
            (False, True),
            common={"spec": "One label."},
        ),
    ],
    "proposer_effort": [
        Alone(("LOW", "HIGH"), examples, (6, 10)),
        Alone(("LOW_CONTEXT", "HIGH"), lambda run: longest_output(run) > 5_000, (False, True), wordy, FULL),
    ],
    "proposer_output_tokens": [
        Alone(("RAPID", "FAST"), lambda run: {c.model.max_tokens for c in run.pure.completions}, ({2048}, {8192})),
        Alone(("FAST", "RAPID"), lambda run: "Write at most 600 words" in first_message(run), (False, True)),
        AsPosted(
            "proposer_output_tokens",
            ("FAST", "SLOW"),
            lambda run: {ask.model.max_tokens for ask in run().pure.completions},
            ({8_192}, {32_768}),
        ),
    ],
    "mutation_prompt": [Alone((None, "Do it well."), lambda run: "Do it well." in first_message(run), (False, True))],
    "metaprompt": [Alone((None, "Be kind."), lambda run: "Be kind." in first_message(run), (False, True))],
    "spec": [Alone((None, "One label."), lambda run: "One label." in first_message(run), (False, True))],
    "proposed_prompt_max_tokens": [Alone((32_000, 6), lambda run: "too_long" in refusals(run), (False, True))],
    # limits on prompts
    "guards": [
        Alone(
            (GuardsConfig(), GuardsConfig(must_not_match=("good",))),
            lambda run: "matched" in refusals(run),
            (False, True),
        ),
        Alone((GuardsConfig(), GuardsConfig(max_growth=1.1)), lambda run: "grew" in refusals(run), (False, True)),
    ],
    "token_max_limit": [
        AsPosted("token__max_limit", (None, 12), lambda run: "too_long" in refusals(run()), (False, True))
    ],
    "token_counting_model": [
        AsPosted(
            "token__counting_model",
            ("gpt-4", "gpt-4o"),
            is_refused,
            (True, False),
            {"initial_prompt": LONG_BASELINE, "token__max_limit": 150},
        )
    ],
    "enforce_pattern_limit": [
        AsPosted("token__enforce_pattern_limit", (True, False), is_refused, (True, False), {"token__max_limit": 3})
    ],
    # stops
    "num_generations": [
        Alone((1, 3), lambda run: len(run.pure.events("generation.complete")), (1, 3), common={"rollout__budget": 300})
    ],
    "children_per_generation": [
        Alone((2, 4), lambda run: len(run.parents), (4, 8), common={"population__num_generations": 2})
    ],
    "patience_generations": [
        Alone(
            (1, 2),
            lambda run: len(run.pure.events("generation.complete")),
            (1, 2),
            lambda: LinesWorld(lambda text, seed: 0.5),
            OFTEN,
        )
    ],
    "max_trials": [stop(9, "max_trials")],
    "max_rollouts": [Alone((None, 150), lambda run: run.pure.spent > 150, (True, False), uneven(), OFTEN)],
    "max_seconds": [
        Elsewhere("acceptance/test_cancel.py", "test_a_job_out_of_time_validates_and_publishes_the_best_it_has")
    ],
    "max_meta_calls": [
        stop(5, "max_meta_calls"),
        Alone((None, 3), lambda run: len(run.parents) > 3, (True, False), uneven(), {"population__initial_size": 20}),
        Alone(
            (None, 5),
            lambda run: len(run.parents) > 5,
            (True, False),
            judged,
            {"verifier": {"enabled": True, "reward_source": "verifier", "backend_model": "judge"}},
        ),
    ],
    "max_total_tokens": [stop(3_000, "token_budget")],
    "max_spend_usd": [stop(0.03, "cost_budget")],
    "max_rollout_spend_usd": [stop(0.03, "rollout_cost_budget")],
    "max_proposal_spend_usd": [stop(0.01, "proposal_cost_budget")],
    "max_error_rate": [stop(0.1, "max_error_rate", failing=0.4)],
    "max_consecutive_errors": [stop(4, "max_consecutive_errors", failing=0.6)],
    "score_threshold": [stop(0.4, "score_threshold", step=0.1)],
    "prices": [Elsewhere("unit/test_prices.py", "test_what_the_policy_says_goes_before_the_prices")],
    "modules": [
        Elsewhere("unit/test_gepa_modules.py", "test_both_modules_improve"),
        Elsewhere("unit/test_gepa_modules.py", "test_the_system_messages_of_every_module_may_change_up_to_its_slots"),
        Elsewhere("unit/test_gepa_modules.py", "test_a_module_keeps_to_its_own_limit"),
        Elsewhere(
            "integration/test_interceptor_modules.py",
            "test_a_tool_that_the_module_may_not_carry_is_refused_and_recorded",
        ),
    ],
    # the sections
    "adaptive_pool": [
        Alone((None, POOL), lambda run: len(seeds(Phase.OPTIMIZATION)(run)) > 12, (True, False), uneven(), common)
        for common in (OFTEN, {**OFTEN, **FULL})
    ],
    "adaptive_batch": [
        Alone((None, BATCH), lambda run: len(run.result.archive) > 1, (True, False), common=common)
        for common in ({}, FULL)
    ],
    "verifier": [
        Alone(
            (None, JUDGE), lambda run: run.result.baseline_score == pytest.approx(0.25), (False, True), judged, common
        )
        for common in ({}, FULL)
    ],
    "proxy_models": [
        Alone((None, STAND_IN), lambda run: len(run.asked(Tier.LO)) > 0, (False, True), foretold, common)
        for common in ({}, FULL)
    ],
    "warm_start": [
        Alone((None, WARM), lambda run: run.operators("warm_start"), (0, 2), common=common) for common in ({}, FULL)
    ],
}


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for name, cases in CASES.items() for case in cases],
    ids=[f"{name}-{n}" for name, cases in CASES.items() for n in range(len(cases))],
)
def test_field_does_what_it_is_for(name: str, case: Case) -> None:
    case.check(name)


def test_every_field_has_a_case() -> None:
    assert set(CASES) == set(GepaConfig.model_fields)


# --- the fields of the sections --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A section of the config in a world where all of its fields matter. common: the rest of the request."""

    name: str
    base: Resolved
    world: Callable[[], LinesWorld]
    common: Mapping[str, Any] = field(default_factory=dict)

    def ran(self, section: Resolved) -> Ran:
        return ran(with_field(small_job(**{**SHORT, **self.common}), self.name, section), self.world())


def in_part(part: Part, *cases: tuple[str, Any, Shows, tuple[Any, Any] | None]) -> list[Any]:
    """Each case: a field, another value for it than the base's, what is shown, and what that is with either value."""
    return [pytest.param(part, *case, id=f"{part.name}-{case[0]}") for case in cases]


def best_score(run: Ran) -> float:
    return round(run.result.baseline_score or 0.0, 3)


def judges_model(run: Ran) -> set[tuple[Any, ...]]:
    asked = [ask for ask in run.pure.completions if ask.purpose == "judge"]
    return {(ask.model.provider, ask.model.model, ask.model.temperature, ask.model.max_tokens) for ask in asked}


def standards(run: Ran) -> str:
    ask = next(ask for ask in run.pure.completions if ask.purpose == "judge")
    found = re.search(r"specification:\n(.*)\nAnswer with", ask.messages[0].content, re.DOTALL)
    return found[1] if found else ""


def first_screened_after(run: Ran) -> int:
    """Pairs of scores by both models when the first candidate was screened by the cheaper one alone."""
    told = run.pure.events("proxy.screened")
    return int(told[0].data["pairs"]) if told else 0


def refused_as(name: str) -> Shows:
    return lambda run: name in refusals(run)


def whole_rows(run: Ran) -> list[Member]:
    """Members with a score on each of the front's eight seeds."""
    return [member for member in run.result.archive if len(member.known) == 8]


def breaking() -> LinesWorld:
    """Proposals that lose the baseline's text, hold JSON, repeat an example, or only add a line, in turn."""

    def reflect(shown: Shown) -> str:
        copied = re.search(r"Query: question \d+", shown.message)
        assert copied
        texts = (good(shown), "Do something else.", f"{shown.text}\n```json\n[1]\n```", f"{shown.text}\n{copied[0]}")
        return texts[shown.times % 4]

    return LinesWorld(easy_to_foretell, reflect)


def twice_judged() -> LinesWorld:
    """The baseline has 0.75 from the task app, 0.25 from the judge for its output, and 1 for each of its two calls."""
    calls = (CallBody((Message("user", "Go on."),), "step"),) * 2
    return LinesWorld(
        lambda text, seed: 0.75, good, judge=lambda output: 1.0 if output == "step" else 0.25, calls=calls
    )


def nearly_foretold() -> LinesWorld:
    def lo(text: str, seed: int) -> float:
        return easy_to_foretell(text, seed) / 2 + 0.01 * fraction("lo", text, seed)

    return LinesWorld(easy_to_foretell, going_on, lo=lo)


FUSED = JUDGE.model_copy(update={"reward_source": "fused", "weight_env": 1.0})
EVENTS = FUSED.model_copy(update={"weight_event": 1.0, "backend_event_enabled": True})
SPECIFIED = JUDGE.model_copy(update={"spec_context": "abcd" * 10})
SMALL = {**FULL, "population__num_generations": 2}


def is_screened(run: Ran) -> bool:
    return bool(run.pure.events("proxy.screened"))


def given_up(run: Ran) -> str | None:
    events = run.pure.events("proxy.stopped")
    return str(events[0].data["given_up"]) if events else None


PART_CASES = [
    *in_part(
        Part("guards", GuardsConfig(leak_ngram=3), breaking, OFTEN),
        ("max_tokens", 5, refused_as("too_long"), (False, True)),
        ("max_growth", 1.1, refused_as("grew"), (False, True)),
        ("must_match", ("^nothing",), refused_as("not_matched"), (False, True)),
        ("must_not_match", ("good",), refused_as("matched"), (False, True)),
        ("frozen", ("Answer",), refused_as("frozen"), (False, True)),
        ("json_schema", {"type": "object"}, refused_as("json"), (False, True)),
        ("leak_ngram", None, refused_as("leak"), (True, False)),
    ),
    *in_part(
        Part("verifier", FUSED, twice_judged, SMALL),
        ("reward_source", "verifier", best_score, (0.5, 0.25)),
        ("backend_provider", "xai", judges_model, ({("groq", "judge", 0.0, 2048)}, {("xai", "judge", 0.0, 2048)})),
        ("backend_model", "other", judges_model, ({("groq", "judge", 0.0, 2048)}, {("groq", "other", 0.0, 2048)})),
        ("temperature", 0.5, judges_model, ({("groq", "judge", 0.0, 2048)}, {("groq", "judge", 0.5, 2048)})),
        ("max_tokens", 99, judges_model, ({("groq", "judge", 0.0, 2048)}, {("groq", "judge", 0.0, 99)})),
        ("weight_env", 3.0, best_score, (0.5, 0.625)),
        ("weight_outcome", 3.0, best_score, (0.5, 0.375)),
        ("timeout", 5.0, lambda run: {a.timeout_seconds for a in run.pure.completions} - {None}, ({60.0}, {5.0})),
    ),
    *in_part(
        Part("verifier", EVENTS, twice_judged, SMALL),
        ("weight_event", 2.0, best_score, (0.667, 0.75)),
        ("backend_event_enabled", False, best_score, (0.667, 0.5)),
        ("backend_outcome_enabled", False, best_score, (0.667, 0.875)),
    ),
    *in_part(
        Part("verifier", SPECIFIED, twice_judged, SMALL),
        ("spec_context", None, standards, ("abcd" * 10, "")),
        ("spec_max_tokens", 2, standards, ("abcd" * 10, "abcdabcd")),
    ),
    *in_part(
        Part("proxy_models", STAND_IN, nearly_foretold),
        ("lo_provider", "xai", lambda run: {ask.policy for ask in run.asked(Tier.LO)}, None),
        ("lo_model", "other", lambda run: {ask.policy for ask in run.asked(Tier.LO)}, None),
        ("n_min_hi", 12, lambda run: first_screened_after(run) >= 12, (False, True)),
        ("r2_thresh", 1.0, is_screened, (True, False)),
        ("r2_stop", 0.9999, given_up, (None, "r2_stop")),
        ("sigma_max", 0.0, is_screened, (True, False)),
        ("sigma_stop", 0.0, given_up, (None, "sigma_stop")),
        ("verify_every", 1, is_screened, (True, False)),
        ("proxy_patience_usd", 0.0, given_up, (None, "proxy_patience_usd")),
    ),
    *in_part(
        Part("adaptive_batch", BATCH.model_copy(update={"min_local_improvement": 0.0}), uneven(), FULL),
        ("min_local_improvement", 0.5, lambda run: len(run.result.archive) > 1, (True, False)),
        ("val_evaluation_mode", "full", lambda run: len(whole_rows(run)) > 1, (False, True)),
        ("val_subsample_size", 8, lambda run: len(whole_rows(run)) > 1, (False, True)),
        ("candidate_selection_strategy", "random", lambda run: run.keys, None),
    ),
]
READ_ELSEWHERE = {
    # The level decides on the others when a job is posted; hi is the policy.
    "adaptive_batch": {"level", "reflection_minibatch_size"},
    "proxy_models": {"hi_provider", "hi_model"},
    # Looked at where the calls go out: integration/test_tiers.py.
    "verifier": {"concurrency"},
    "guards": set[str](),
}


@pytest.mark.parametrize(("part", "name", "value", "shows", "expected"), PART_CASES)
def test_field_of_a_section_does_what_it_is_for(
    part: Part, name: str, value: Any, shows: Shows, expected: tuple[Any, Any] | None
) -> None:
    shown = shows(part.ran(part.base)), shows(part.ran(part.base.model_copy(update={name: value})))
    assert shown[0] != shown[1]
    assert expected is None or shown == expected


def test_every_field_of_these_sections_has_a_case() -> None:
    for name, read_elsewhere in READ_ELSEWHERE.items():
        cases = [case.values for case in PART_CASES if case.values[0].name == name]
        assert {values[1] for values in cases} | read_elsewhere == set(type(cases[0][0].base).model_fields)
