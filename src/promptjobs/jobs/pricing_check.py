"""Whether the models of a job have the prices that its limits on money need: one without could spend past them."""

from promptjobs.clients.pricing import Price, is_priced
from promptjobs.core.config import JobConfig
from promptjobs.core.ledger import Caps
from promptjobs.core.policies import UsedModel, price_of, used_models
from promptjobs.errors import UnpricedModel


def given_price(config: JobConfig, provider: str, model: str) -> Price | None:
    """What the config says that a model costs; None where the price list decides."""
    given = price_of(config, provider, model)
    return None if given is None else Price(given.input_usd_per_million, given.output_usd_per_million)


def unpriced_models(config: JobConfig) -> list[UsedModel]:
    """The job's models whose price nobody knows, each once. One on one's own machine is not free by assumption."""
    found: dict[tuple[str, str], UsedModel] = {}
    for used in used_models(config):
        if given_price(config, used.provider, used.model) is None and not is_priced(used.provider, used.model):
            found.setdefault((used.provider, used.model), used)
    return list(found.values())


def check_priced(config: JobConfig, has_balance: bool) -> None:
    """has_balance: what the job's organisation may spend is limited.

    Raises UnpricedModel for the first model without a price of whose calls a limit speaks.
    """
    caps, meta = Caps.of(config), config.search.meta_model
    for used in unpriced_models(config):
        name = (used.provider, used.model)
        if has_balance:
            raise UnpricedModel(*name, used.field, "what the organisation may spend is limited")
        if caps.total_usd is not None:
            raise UnpricedModel(*name, used.field, "the job has a limit on its cost")
        if caps.proposal_usd is not None and name == (meta.provider, meta.model):
            raise UnpricedModel(*name, used.field, "the job has a limit on the cost of its proposals")
        if caps.rollout_usd is not None and name in _of_rollouts(config):
            raise UnpricedModel(*name, used.field, "the job has a limit on the cost of its rollouts")


def _of_rollouts(config: JobConfig) -> set[tuple[str, str]]:
    proxy = config.search.proxy_models
    policies = [config.policy, *config.search.module_policies.values()]
    own = {(policy.provider, policy.model) for policy in policies}
    return own if proxy is None else own | {(proxy.lo_provider, proxy.lo_model)}
