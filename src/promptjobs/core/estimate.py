"""What a job is expected to need before it runs: rollouts, calls and tokens, by what they are for and by model."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from promptjobs.core.config import JobConfig, PolicyConfig
from promptjobs.core.config_search import SearchConfig
from promptjobs.core.estimate_plan import Plan, plan_of
from promptjobs.core.ledger import Category, category_of
from promptjobs.core.text_tokens import count_tokens
from promptjobs.core.trial import Phase

INPUT_TOKENS, MOST_INPUT_TOKENS = 200, 2_000
"""Of what a seed puts into one call of the policy: expected and at most. Nobody knows it before the first rollout."""

UNKNOWN_PROMPT_TOKENS = 300
"""Of the baseline where the task app's own messages are it."""

GROWN, LEAST_GROWTH = 2.0, 200
"""An average prompt of the search is so many times as long as the baseline, and longer by so many tokens at least."""

REPLY_SHARE = 0.25
"""Of `max_completion_tokens`, and of the judge's limit, what an average reply uses."""

FEEDBACK_TOKENS = 60
"""Of what the task app says of a rollout, in a record that the meta-model is shown."""

META_TOKENS, MOST_META_TOKENS = 700, 3_000
"""Of a meta-prompt, beside the records, the current text and the job's own words."""

JUDGE_TOKENS = 250
"""Of the judge's instruction, beside what it judges."""

CHARACTERS_OF_A_TOKEN = 4


class Tokens(NamedTuple):
    """Of all calls together."""

    prompt: int
    completion: int

    @property
    def total(self) -> int:
        return self.prompt + self.completion

    def times(self, calls: int) -> "Tokens":
        return Tokens(self.prompt * calls, self.completion * calls)


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of one model for one purpose: as many as are expected, and at most; tokens are of all of them together.

    provider: its name in the registry. Repetitions after failures are not counted.
    """

    category: Category
    provider: str
    model: str
    expected: int
    at_most: int
    tokens: Tokens
    tokens_at_most: Tokens


@dataclass(frozen=True, slots=True)
class Estimate:
    """rollouts: by phase, as they are planned; together the budget, and the test. proposals: calls of the meta-model.

    calls: without those that are certainly none. prompt_tokens: of the baseline, by our own count; None where the task
    app's own messages are the baseline. assumptions: what was taken for granted, in words.
    """

    rollouts: Mapping[Phase, int]
    proposals_expected: int
    proposals_at_most: int
    calls: tuple[Calls, ...]
    prompt_tokens: int | None
    assumptions: tuple[str, ...]

    @property
    def rollouts_at_most(self) -> int:
        return sum(self.rollouts.values())

    @property
    def tokens(self) -> Tokens:
        return _sum(each.tokens for each in self.calls)

    @property
    def tokens_at_most(self) -> Tokens:
        return _sum(each.tokens_at_most for each in self.calls)


def estimate(config: JobConfig) -> Estimate:
    """Of a resolved config. Without regard to its limits on money, tokens and time, which end a job earlier."""
    plan = plan_of(config)
    sizes = [_module_size(config, plan, module) for module in _modules(config)]
    calls = [
        *_rollout_calls(config, plan, sizes),
        *_proposal_calls(config, plan, sizes),
        *_judge_calls(config, plan, sizes),
    ]
    template = config.template()
    return Estimate(
        rollouts=plan.rollouts,
        proposals_expected=plan.proposals,
        proposals_at_most=plan.proposals_at_most,
        calls=tuple(each for each in calls if each.at_most),
        prompt_tokens=None if template is None else sum(size.baseline for size in sizes),
        assumptions=_assumptions(config, template is not None),
    )


# --- the policy ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModuleSize:
    """Tokens of one call of one module. baseline: its messages as the job begins with them."""

    policy: PolicyConfig
    baseline: int
    call: Tokens
    call_at_most: Tokens


def _modules(config: JobConfig) -> list[str]:
    """A rollout makes one call for each; "" is the program that has one kind of call."""
    return [module.module_id for module in config.search.modules] or [""]


def _module_size(config: JobConfig, plan: Plan, module: str) -> ModuleSize:
    policy = config.search.module_policies.get(module, config.policy)
    template = config.template()
    baseline = UNKNOWN_PROMPT_TOKENS
    if template is not None:
        part = template.part(module) if module else template
        baseline = sum(_count(config.search, section.content) for section in part.sections)
    limits = [limit for limit in (plan.prompt_limit, config.search.module_limits.get(module)) if limit is not None]
    longest = min(limits, default=baseline + config.search.meta_model.max_tokens)
    examples = plan.examples * (INPUT_TOKENS + policy.max_completion_tokens) if not limits else 0
    reply = policy.max_completion_tokens
    return ModuleSize(
        policy=policy,
        baseline=baseline,
        call=Tokens(
            min(longest, max(math.ceil(GROWN * baseline), baseline + LEAST_GROWTH)) + INPUT_TOKENS,
            math.ceil(REPLY_SHARE * reply),
        ),
        call_at_most=Tokens(max(longest, baseline) + examples + MOST_INPUT_TOKENS, reply),
    )


def _rollout_calls(config: JobConfig, plan: Plan, sizes: list[ModuleSize]) -> list[Calls]:
    """By phase and module, and by the stand-in, which answers about half of a search's rollouts in their place."""
    found = []
    proxy = config.search.proxy_models
    for phase, rollouts in plan.rollouts.items():
        shared = rollouts // 2 if proxy is not None and phase in (Phase.BOOTSTRAP, Phase.OPTIMIZATION) else 0
        for size in sizes:
            own = Calls(
                category=category_of(phase),
                provider=size.policy.provider,
                model=size.policy.model,
                expected=rollouts - shared,
                at_most=rollouts,
                tokens=size.call.times(rollouts - shared),
                tokens_at_most=size.call_at_most.times(rollouts),
            )
            found.append(own)
            if proxy is not None and shared:
                stand_in = replace(own, provider=proxy.lo_provider, model=proxy.lo_model, expected=shared)
                found.append(replace(stand_in, tokens=size.call.times(shared)))
    return found


# --- the models that work for the search -----------------------------------------------------------------------------


def _proposal_calls(config: JobConfig, plan: Plan, sizes: list[ModuleSize]) -> list[Calls]:
    search = config.search
    meta = search.meta_model
    own = sum(_count(search, str(text)) for text in (search.metaprompt, search.spec, plan.guide) if text)
    largest = max(sizes, key=lambda size: size.call_at_most.prompt)
    record = INPUT_TOKENS + largest.call.completion + FEEDBACK_TOKENS
    longest_record = max(record, plan.record_characters // CHARACTERS_OF_A_TOKEN)
    text = max(size.call.prompt for size in sizes) - INPUT_TOKENS
    longest_text = largest.call_at_most.prompt - MOST_INPUT_TOKENS
    reply = min(meta.max_tokens, plan.reply_tokens)
    each = Tokens(META_TOKENS + own + text + plan.records * record, min(reply, text + META_TOKENS))
    most = Tokens(MOST_META_TOKENS + own + longest_text + plan.records * longest_record, reply)
    return [
        Calls(
            category=Category.PROPOSAL,
            provider=meta.provider,
            model=meta.model,
            expected=plan.proposals,
            at_most=plan.proposals_at_most,
            tokens=each.times(plan.proposals),
            tokens_at_most=most.times(plan.proposals_at_most),
        )
    ]


def _judge_calls(config: JobConfig, plan: Plan, sizes: list[ModuleSize]) -> list[Calls]:
    """One for the output of every rollout, and one for each of several calls, as far as they have a weight.

    At most twice: a reply that cannot be read is asked for once more.
    """
    judge = config.search.verifier
    if judge is None:
        return []
    events = len(sizes) if judge.backend_event_enabled and len(sizes) > 1 else 0
    outcome = int(judge.backend_outcome_enabled or not events)
    questions = (events + outcome) * sum(plan.rollouts.values())
    standards = min(judge.spec_max_tokens, _count(config.search, judge.spec_context or ""))
    prompt = max(size.call.prompt + size.call.completion for size in sizes) + JUDGE_TOKENS + standards
    longest = max(size.call_at_most.total for size in sizes) + JUDGE_TOKENS + standards
    return [
        Calls(
            category=Category.JUDGE,
            provider=judge.backend_provider,
            model=judge.backend_model,
            expected=questions,
            at_most=2 * questions,
            tokens=Tokens(prompt, math.ceil(REPLY_SHARE * judge.max_tokens)).times(questions),
            tokens_at_most=Tokens(longest, judge.max_tokens).times(2 * questions),
        )
    ]


# --- in words --------------------------------------------------------------------------------------------------------


def _assumptions(config: JobConfig, has_prompt: bool) -> tuple[str, ...]:
    calls = len(_modules(config))
    said = [
        f"a rollout makes {calls} {'call' if calls == 1 else 'calls'} of the policy",
        f"a seed's input has {INPUT_TOKENS} tokens in each call, at most {MOST_INPUT_TOKENS}",
        f"an average prompt is {GROWN:g} times as long as the baseline, at least {LEAST_GROWTH} tokens longer",
        f"an average reply uses {REPLY_SHARE:.0%} of the tokens it may have",
        "nothing fails, and no limit on money, tokens or time ends the job earlier",
    ]
    if not has_prompt:
        said.append(f"the task app's own messages have {UNKNOWN_PROMPT_TOKENS} tokens")
    if config.search.proxy_models is not None:
        said.append("the stand-in answers half of the search's rollouts")
    return tuple(said)


def _count(search: SearchConfig, text: str) -> int:
    return count_tokens(text, search.token_counting_model) if text else 0


def _sum(parts: Iterable[Tokens]) -> Tokens:
    found = list(parts)
    return Tokens(sum(part.prompt for part in found), sum(part.completion for part in found))
