"""The models that may answer a job's rollouts: the one under optimization, and a cheaper stand-in."""

from typing import TYPE_CHECKING

from promptjobs.core.asks import Tier, digest

if TYPE_CHECKING:
    from promptjobs.core.config import JobConfig, PolicyConfig


def stand_in(policy: "PolicyConfig", provider: str, model: str) -> "PolicyConfig":
    """The policy with another model. A price that was given with the policy is not the other model's."""
    return policy.model_copy(update={"provider": provider, "model": model, "price": None})


def policy_of(config: "JobConfig", tier: Tier) -> "PolicyConfig":
    """Raises ValueError for the stand-in of a job that has none."""
    if tier is Tier.HI:
        return config.policy
    proxy = config.gepa.proxy_models
    if proxy is None:
        raise ValueError("the job has no stand-in for its model")
    return stand_in(config.policy, proxy.lo_provider, proxy.lo_model)


def policy_digest(config: "JobConfig", tier: Tier = Tier.HI) -> str:
    """Hash of all that determines a rollout besides candidate and seed."""
    policy = policy_of(config, tier)
    return digest(policy.model_dump(mode="json"), config.task_app.model_dump(mode="json")).hex()
