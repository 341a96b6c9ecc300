"""The models of a job: those under optimization, a cheaper stand-in, and the ones that work for the search."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from promptjobs.core.asks import Tier, digest
from promptjobs.core.config_support import SECTION

if TYPE_CHECKING:
    from promptjobs.core.config import JobConfig, PolicyConfig, Price


def stand_in(policy: "PolicyConfig", provider: str, model: str) -> "PolicyConfig":
    """The policy with another model. A price that was given with the policy is not the other model's."""
    return policy.model_copy(update={"provider": provider, "model": model, "price": None})


def policy_of(config: "JobConfig", tier: Tier, module: str = "") -> "PolicyConfig":
    """The model that answers a module's calls; that of the whole job where the module has none of its own.

    The stand-in takes the place of every model; the module's other parameters stay. Raises ValueError for the stand-in
    of a job that has none.
    """
    policy = config.search.module_policies.get(module, config.policy)
    if tier is Tier.HI:
        return policy
    proxy = config.search.proxy_models
    if proxy is None:
        raise ValueError("the job has no stand-in for its model")
    return stand_in(policy, proxy.lo_provider, proxy.lo_model)


def longest_reply(config: "JobConfig") -> int:
    """Most tokens of a reply of the models under optimization."""
    return max(policy.max_completion_tokens for policy in (config.policy, *config.search.module_policies.values()))


def price_of(config: "JobConfig", provider: str, model: str) -> "Price | None":
    """What the config says that the model costs; None where it says nothing. What a policy says goes first."""
    for policy in (config.policy, *config.search.module_policies.values()):
        if policy.price is not None and (policy.provider, policy.model) == (provider, model):
            return policy.price
    return config.search.prices.get(f"{provider}/{model}")


@dataclass(frozen=True, slots=True)
class UsedModel:
    """A model that a job calls, by its provider's name in the registry. field: the config's path that names it."""

    field: str
    provider: str
    model: str


def used_models(config: "JobConfig") -> list[UsedModel]:
    """Every model of the job: the policy's, the modules' own, the meta-model, the judge, and the stand-in."""
    search, section, own = config.search, f"{SECTION}.{config.algorithm}", config.search.module_policies
    meta = f"{section}.mutation.llm_model" if config.algorithm == "gepa" else f"{section}.meta.model"
    found = [UsedModel(f"{SECTION}.policy.model", config.policy.provider, config.policy.model)]
    found += [UsedModel(f"{section}.modules", policy.provider, policy.model) for policy in own.values()]
    found.append(UsedModel(meta, search.meta_model.provider, search.meta_model.model))
    if (judge := search.verifier) is not None:
        found.append(UsedModel(f"{SECTION}.verifier.backend_model", judge.backend_provider, judge.backend_model))
    if (proxy := search.proxy_models) is not None:
        found.append(UsedModel(f"{SECTION}.proxy_models.lo_model", proxy.lo_provider, proxy.lo_model))
    return found


def policy_digest(config: "JobConfig", tier: Tier = Tier.HI) -> str:
    """Hash of all that determines a rollout besides candidate and seed."""
    policies = {module: policy_of(config, tier, module) for module in config.search.module_policies}
    parts = [policy_of(config, tier).model_dump(mode="json"), config.task_app.model_dump(mode="json")]
    if policies:  # without any the hash is that of versions in which a job had one policy
        parts.append({module: policy.model_dump(mode="json") for module, policy in sorted(policies.items())})
    return digest(*parts).hex()
