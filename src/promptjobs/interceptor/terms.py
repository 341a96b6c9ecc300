"""What holds for the calls of a job: the model and its parameters, of each module where they differ, and the tools."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from promptjobs.clients.pricing import Price
from promptjobs.core.asks import Tier
from promptjobs.core.config import JobConfig, PolicyConfig
from promptjobs.core.policies import policy_of, stand_in


@dataclass(frozen=True, slots=True)
class Policy:
    """A model and its parameters. price: None where the price list decides."""

    provider: str
    model: str
    temperature: float
    max_completion_tokens: int
    price: Price | None = None

    @staticmethod
    def of(config: PolicyConfig) -> "Policy":
        given = config.price
        price = None if given is None else Price(given.input_usd_per_million, given.output_usd_per_million)
        return Policy(config.provider, config.model, config.temperature, config.max_completion_tokens, price)


@dataclass(frozen=True, slots=True)
class Terms:
    """policy: the job's. modules: the policies of the modules that have one of their own.

    tools: names of those that a module's calls may carry, for modules where that is limited.
    """

    policy: Policy
    modules: Mapping[str, Policy] = field(default_factory=dict)
    tools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @staticmethod
    def of(config: JobConfig, tier: Tier) -> "Terms":
        """Those of a rollout under this tier. Raises ValueError for the stand-in of a job that has none."""
        own = {module: Policy.of(policy_of(config, tier, module)) for module in config.search.module_policies}
        return Terms(Policy.of(policy_of(config, tier)), own, config.search.allowed_tools)

    @staticmethod
    def stored(text: str, tier: Tier) -> "Terms":
        """`of` for a config as it is stored, also by another version: what is not needed here is not read.

        Raises KeyError, TypeError or ValueError where what is needed is missing.
        """
        stored = orjson.loads(text)
        search = stored[stored["algorithm"]]
        modules = search.get("modules", ())
        tools = {
            each["module_id"]: tuple(each["allowed_tools"]) for each in modules if each["allowed_tools"] is not None
        }
        own = {each["module_id"]: _config(each["policy"]) for each in modules if each.get("policy") is not None}
        policy = _config(stored["policy"])
        if tier is Tier.LO:
            lo = search["proxy_models"]["lo_provider"], search["proxy_models"]["lo_model"]
            policy = stand_in(policy, *lo)
            own = {module: stand_in(each, *lo) for module, each in own.items()}
        return Terms(Policy.of(policy), {module: Policy.of(each) for module, each in own.items()}, tools)

    def policy_for(self, module: str) -> Policy:
        """The module's own policy, else the job's."""
        return self.modules.get(module, self.policy)


def _config(stored: Mapping[str, Any]) -> PolicyConfig:
    """A stored policy. Fields that a newer version has added are not ours to refuse."""
    return PolicyConfig.model_validate({name: stored[name] for name in PolicyConfig.model_fields if name in stored})
