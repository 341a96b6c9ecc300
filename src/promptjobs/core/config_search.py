"""What the resolved configs of all searches have in common, whatever their algorithm."""

from typing import Literal

from pydantic import Field

from promptjobs.core.config_modules import ModuleConfig
from promptjobs.core.config_policy import PolicyConfig, Price
from promptjobs.core.config_sections import (
    AdaptivePoolConfig,
    MetaModelConfig,
    ProxyModelsConfig,
    Resolved,
    VerifierConfig,
)
from promptjobs.core.config_support import SECTION
from promptjobs.core.config_values import Given
from promptjobs.core.config_warm_start import WarmPrompt, WarmStartConfig

STOPS = {
    "max_trials": "termination_config.max_trials",
    "max_rollouts": "termination_config.max_rollouts",
    "max_total_tokens": "termination_config.max_total_tokens",
    "max_spend_usd": "termination_config.max_cost_usd",
    "max_rollout_spend_usd": "termination_config.max_rollout_cost_usd",
    "max_proposal_spend_usd": "termination_config.max_proposal_cost_usd",
    "max_error_rate": "termination_config.max_error_rate",
    "max_consecutive_errors": "termination_config.max_consecutive_errors",
    "score_threshold": "termination_config.score_threshold",
}
"""Fields of SearchConfig that are taken over as they are, with their paths below `prompt_learning`."""

PRICES = f"{SECTION}.prices"

PROBES = 3
"""Rollouts that gather the task app's own messages where the config has no initial prompt."""

Effort = Literal["LOW_CONTEXT", "LOW", "MEDIUM", "HIGH"]
Output = Literal["RAPID", "FAST", "SLOW"]


class SearchConfig(Resolved):
    """A search, as far as every algorithm has it.

    rollout_budget: rollouts in all, the test's aside. test_seeds: held out, opened once at the end. max_…,
    score_threshold: None where that does not stop the search. adaptive_pool, verifier, proxy_models: None where
    switched off. modules: none where the program makes one kind of LLM call. max_rollout_spend_usd: on rollouts of
    every phase; max_proposal_spend_usd: on the meta-model. prices: by provider/model, the provider in lower case.
    warm_start: None where the search begins with its baseline alone.
    """

    rng_seed: int = 0
    turn_order: Literal["arrival", "fixed"] = "arrival"
    max_concurrent: int = 20
    rollout_budget: int
    test_seeds: tuple[int, ...] = ()

    meta_model: MetaModelConfig
    proposer_effort: Effort = "LOW"
    proposer_output_tokens: Output = "FAST"
    metaprompt: str | None = None
    spec: str | None = None
    token_counting_model: str = "gpt-4"  # noqa: S105 - the name of a model

    max_trials: int | None = None
    max_rollouts: int | None = None
    max_seconds: float | None = None
    max_meta_calls: int | None = None
    max_total_tokens: int | None = None
    max_spend_usd: float | None = None
    max_rollout_spend_usd: float | None = None
    max_proposal_spend_usd: float | None = None
    max_error_rate: float | None = None
    max_consecutive_errors: int | None = None
    score_threshold: float | None = None

    adaptive_pool: AdaptivePoolConfig | None = None
    verifier: VerifierConfig | None = None
    proxy_models: ProxyModelsConfig | None = None
    modules: tuple[ModuleConfig, ...] = ()
    prices: dict[str, Price] = Field(default_factory=dict)
    warm_start: WarmStartConfig | None = None

    @property
    def token_cap(self) -> int | None:
        """Most tokens of the whole job, all models together; None where there is no limit."""
        return self.max_total_tokens

    @property
    def warm_prompts(self) -> tuple[WarmPrompt, ...]:
        """What the search begins with beside its baseline."""
        return () if self.warm_start is None else self.warm_start.prompts

    @property
    def module_limits(self) -> dict[str, int]:
        """Most tokens of a module's messages, where they are limited."""
        return {module.module_id: module.max_tokens for module in self.modules if module.max_tokens is not None}

    @property
    def allowed_tools(self) -> dict[str, tuple[str, ...]]:
        """What a module's calls may carry, where that is limited."""
        return {module.module_id: module.allowed_tools for module in self.modules if module.allowed_tools is not None}

    @property
    def module_policies(self) -> dict[str, PolicyConfig]:
        """The models of the modules that have one of their own; the others have the job's."""
        return {module.module_id: module.policy for module in self.modules if module.policy is not None}


def max_seconds(given: Given) -> float | None:
    """The shorter one of the two limits on time, in seconds."""
    seconds = given.values[f"{SECTION}.termination_config.max_time_seconds"]
    minutes = given.values[f"{SECTION}.termination_config.max_duration_minutes"]
    limits = [seconds] if seconds is not None else []
    limits += [60 * minutes] if minutes is not None else []
    return min(limits, default=None)
