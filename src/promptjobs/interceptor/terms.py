"""What holds for the calls of a job: the model and its parameters, of each module where they differ, tools and caps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from promptjobs.clients import pricing
from promptjobs.core.asks import Tier
from promptjobs.core.config import JobConfig, PolicyConfig, Price
from promptjobs.core.ledger import Caps
from promptjobs.core.policies import policy_of, price_of, stand_in
from promptjobs.db.balances import DEFAULT_ORGANISATION


@dataclass(frozen=True, slots=True)
class Policy:
    """A model and its parameters. price: None where the price list decides."""

    provider: str
    model: str
    temperature: float
    max_completion_tokens: int
    price: pricing.Price | None = None

    @staticmethod
    def of(config: PolicyConfig, known: Price | None = None) -> "Policy":
        """known: what the job's config says elsewhere about the model's price."""
        given = config.price if config.price is not None else known
        price = None if given is None else pricing.Price(given.input_usd_per_million, given.output_usd_per_million)
        return Policy(config.provider, config.model, config.temperature, config.max_completion_tokens, price)


@dataclass(frozen=True, slots=True)
class Terms:
    """policy: the job's. modules: the policies of the modules that have one of their own.

    tools: names of those that a module's calls may carry, for modules where that is limited. caps: the job's.
    has_balance: whether what its organisation may spend is limited. use_byok: whether providers are called with the
    organisation's own keys; None: where it has left one.
    """

    policy: Policy
    modules: Mapping[str, Policy] = field(default_factory=dict)
    tools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    caps: Caps = field(default_factory=Caps)
    organisation: str = DEFAULT_ORGANISATION
    has_balance: bool = False
    use_byok: bool | None = None

    @staticmethod
    def of(config: JobConfig, tier: Tier, *, organisation: str, has_balance: bool) -> "Terms":
        """Those of a rollout under this tier. Raises ValueError for the stand-in of a job that has none."""

        def policy(module: str = "") -> Policy:
            found = policy_of(config, tier, module)
            return Policy.of(found, price_of(config, found.provider, found.model))

        own = {module: policy(module) for module in config.search.module_policies}
        tools, caps = config.search.allowed_tools, Caps.of(config)
        return Terms(policy(), own, tools, caps, organisation, has_balance, config.use_byok)

    @staticmethod
    def stored(text: str, tier: Tier, *, organisation: str, has_balance: bool) -> "Terms":
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
        prices = _prices(search, [policy, *own.values()])
        if tier is Tier.LO:
            lo = search["proxy_models"]["lo_provider"], search["proxy_models"]["lo_model"]
            policy = stand_in(policy, *lo)
            own = {module: stand_in(each, *lo) for module, each in own.items()}

        def priced(found: PolicyConfig) -> Policy:
            return Policy.of(found, prices.get(f"{found.provider}/{found.model}"))

        owned = {module: priced(each) for module, each in own.items()}
        use_byok = stored.get("use_byok")
        return Terms(priced(policy), owned, tools, Caps.stored(search), organisation, has_balance, use_byok)

    @property
    def is_limited(self) -> bool:
        """Whether a call has to be reserved before it is made."""
        return self.has_balance or self.caps.are_any

    def policy_for(self, module: str) -> Policy:
        """The module's own policy, else the job's."""
        return self.modules.get(module, self.policy)


def _config(stored: Mapping[str, Any]) -> PolicyConfig:
    """A stored policy. Fields that a newer version has added are not ours to refuse."""
    return PolicyConfig.model_validate({name: stored[name] for name in PolicyConfig.model_fields if name in stored})


def _prices(search: Mapping[str, Any], policies: list[PolicyConfig]) -> dict[str, Price]:
    """By provider/model; what an earlier policy says goes first, and what `prices` says last."""
    prices = {name: Price.model_validate(price) for name, price in search.get("prices", {}).items()}
    given = {f"{each.provider}/{each.model}": each.price for each in reversed(policies) if each.price is not None}
    return prices | given
