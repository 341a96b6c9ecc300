"""The models that may answer a job's rollouts: those under optimization, and a cheaper stand-in."""

from typing import TYPE_CHECKING

from promptjobs.core.asks import Tier, digest

if TYPE_CHECKING:
    from promptjobs.core.config import JobConfig, PolicyConfig


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


def policy_digest(config: "JobConfig", tier: Tier = Tier.HI) -> str:
    """Hash of all that determines a rollout besides candidate and seed."""
    policies = {module: policy_of(config, tier, module) for module in config.search.module_policies}
    parts = [policy_of(config, tier).model_dump(mode="json"), config.task_app.model_dump(mode="json")]
    if policies:  # without any the hash is that of versions in which a job had one policy
        parts.append({module: policy.model_dump(mode="json") for module, policy in sorted(policies.items())})
    return digest(*parts).hex()
