"""How a MIPRO search's config comes from the fields of a request: what is derived, what is refused, what is said."""

from collections.abc import Mapping
from typing import Any

from promptjobs.core.config_fields import TABLE_OF
from promptjobs.core.config_mipro import MiproConfig, TpeConfig
from promptjobs.core.config_modules import program_template
from promptjobs.core.config_policy import PolicyConfig, read_prices, repeated_policy
from promptjobs.core.config_prompt import PromptConfig
from promptjobs.core.config_search import PRICES, STOPS, max_seconds
from promptjobs.core.config_sections import (
    REPLY_TOKENS,
    MetaModelConfig,
    Model,
    adaptive_pool,
    meta_model,
    proxy_models,
    verifier,
)
from promptjobs.core.config_seeds import check_disjoint
from promptjobs.core.config_spec import read_spec
from promptjobs.core.config_stages import Job, Program, read_program
from promptjobs.core.config_support import SECTION
from promptjobs.core.config_values import Given, listed
from promptjobs.core.config_warm_start import read_warm_start
from promptjobs.core.mipro_limits import planned_rollouts, planned_trials
from promptjobs.core.prompt import PromptTemplate
from promptjobs.core.text_tokens import count_tokens
from promptjobs.errors import InvalidConfig

TABLE = f"{SECTION}.mipro"
BOOTSTRAP, ONLINE = f"{TABLE}.seeds.bootstrap", f"{TABLE}.seeds.online"
VALIDATION, TEST, REFERENCE = f"{TABLE}.seeds.validation", f"{TABLE}.seeds.test", f"{TABLE}.seeds.reference"

MOST_ROLLOUTS = 10**9
FEWEST_TRIALS = 12
"""With fewer trials, a third of them drawn at random, a sampler has nothing to learn from."""
FEWEST_SEEDS = 10
"""On fewer seeds a mean says little: with 5 and a score of 0.5 its standard deviation is 0.22."""

TAKEN = {
    **{
        name: f"mipro.{name}"
        for name in (
            *("rng_seed", "turn_order", "max_concurrent", "num_iterations", "num_evaluations_per_iteration"),
            *("early_stopping", "full_eval_every", "validation_top_k", "max_parallel_trials", "parallel_risk"),
            *("few_shot_score_threshold", "max_demo_set_size", "max_demo_sets", "min_bootstrap_demos", "demo_format"),
            *("proposer_effort", "proposer_output_tokens", "metaprompt", "spec_max_tokens", "instructions_per_batch"),
            *("max_instruction_sets", "duplicate_retry_limit", "generate_at_iterations", "transform_strict"),
            *("transform_case_sensitive", "transform_match_mode", "allow_python", "max_meta_calls", "max_token_limit"),
            *("enforce_token_limit", "token_counting_model", "max_prompt_tokens"),
        )
    },
    **STOPS,
}
"""Fields of MiproConfig that are taken over as they are, with their paths below `prompt_learning`."""


def mipro_config(
    given: Given, policy: PolicyConfig, prompt: PromptConfig | None
) -> tuple[MiproConfig, PromptConfig | None, list[str]]:
    """The search that the fields describe; the prompt of the job, which stages may have taken over; and warnings.

    prompt: None where the task app's own messages are the baseline, unless stages say otherwise. Raises InvalidConfig
    for what cannot be together.
    """
    values = given.values
    model = Model(policy.provider, policy.model)
    seeds, seed_warnings = _seeds(values)
    program = _program(values, policy, prompt)
    prompt = None if program.modules else prompt
    batch, batch_warnings = _batch_size(values, seeds[ONLINE])
    closed = {"validation": seeds[VALIDATION], "test": seeds[TEST]}
    pool, pool_warnings = adaptive_pool(given, "mipro.adaptive_pool", seeds[ONLINE], closed, "online")
    judge, judge_warnings = verifier(given, model)
    warm, warm_warnings = read_warm_start(given)
    spec, spec_warnings = read_spec(given)
    taken = {name: values[f"{SECTION}.{path}"] for name, path in TAKEN.items()}
    mode = values[f"{TABLE}.proposer_mode"]
    config = MiproConfig(
        **taken,
        bootstrap_seeds=seeds[BOOTSTRAP],
        online_seeds=seeds[ONLINE],
        validation_seeds=seeds[VALIDATION],
        test_seeds=seeds[TEST],
        reference_seeds=seeds[REFERENCE],
        batch_size=batch,
        proposer_mode="synth" if mode == "gepa-ai" else mode,
        spec=spec,
        meta_model=_meta_model(given, model, REPLY_TOKENS[taken["proposer_output_tokens"]]),
        tpe=TpeConfig(**{name: values[f"{TABLE}.tpe.{name}"] for name in TpeConfig.model_fields}),
        max_seconds=max_seconds(given),
        prices=read_prices(values[PRICES], PRICES),
        adaptive_pool=pool,
        verifier=judge,
        proxy_models=proxy_models(given, model),
        modules=program.modules,
        stages=program.stages,
        edges=program.edges,
        rollout_budget=1,
        warm_start=warm,
    )
    _check_search(config)
    template = program_template(program.modules) if program.modules else prompt.template() if prompt else None
    config = _budgeted(config, values[f"{TABLE}.rollout_budget"], has_prompt=template is not None)
    said = [*seed_warnings, *batch_warnings, *program.warnings, *pool_warnings, *judge_warnings, *spec_warnings]
    said += repeated_policy(values[f"{TABLE}.policy_config"], policy, f"{TABLE}.policy_config")
    said += [*warm_warnings, *_check_lengths(config, template)]
    if values[f"{TABLE}.results_file"] is not None:
        said.append("mipro.results_file is ignored: results are read from the API, and no file is written")
    return config, prompt, [*said, *_learning(config)]


def _meta_model(given: Given, policy: Model, most_tokens: int) -> MetaModelConfig:
    found = meta_model(given, policy, "mipro.meta", "", most_tokens)
    return found.model_copy(update={"max_tokens": min(found.max_tokens, most_tokens)})


# --- seeds -----------------------------------------------------------------------------------------------------------


def _seeds(values: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The lists by path, and warnings about seeds that two of them share."""
    seeds = {path: values[path] for path in (BOOTSTRAP, ONLINE, VALIDATION, TEST, REFERENCE)}
    for path in (BOOTSTRAP, ONLINE):
        if not seeds[path]:
            raise InvalidConfig(f"is required: a {TABLE_OF['mipro'].at[path].expected}", path)
    for first in (BOOTSTRAP, ONLINE):
        check_disjoint({path: seeds[path] for path in (first, VALIDATION, TEST)})
    check_disjoint({REFERENCE: seeds[REFERENCE], TEST: seeds[TEST]})
    warnings = []
    both = sorted(set(seeds[BOOTSTRAP]) & set(seeds[ONLINE]))
    if both:
        warnings.append(
            f"bootstrap and online seeds share {listed(both)}: a prompt with an example of such a seed is measured on "
            "that seed too, and looks better than it is"
        )
    read = sorted(set(seeds[REFERENCE]) & set(seeds[VALIDATION]))
    if read:
        warnings.append(f"reference and validation seeds share {listed(read)}: the meta-model reads their inputs")
    return seeds, warnings


def _batch_size(values: Mapping[str, Any], online: tuple[int, ...]) -> tuple[int, list[str]]:
    wanted = values[f"{TABLE}.batch_size"]
    if wanted <= len(online):
        return wanted, []
    return len(online), [f"a minibatch of {wanted} is cut to {len(online)}: there are no more online seeds"]


# --- the program -----------------------------------------------------------------------------------------------------


def _program(values: Mapping[str, Any], policy: PolicyConfig, prompt: PromptConfig | None) -> Program:
    modules, stages, edges = (values[f"{TABLE}.{name}"] for name in ("modules", "stages", "edges"))
    job = Job(policy, prompt, values[f"{TABLE}.max_instruction_slots"], values[f"{TABLE}.max_demo_slots"])
    return read_program(modules, stages, edges, TABLE, job)


def _check_search(config: MiproConfig) -> None:
    """Raises InvalidConfig where iterations do not fit, examples cannot come, or there is nothing to choose from."""
    late = [one for one in config.generate_at_iterations or () if one >= config.num_iterations]
    if late:
        raise InvalidConfig(
            f"holds {late[0]}, and the iterations are 0 to {config.num_iterations - 1}",
            f"{TABLE}.generate_at_iterations",
        )
    if config.min_bootstrap_demos > len(config.bootstrap_seeds):
        raise InvalidConfig(
            f"is {config.min_bootstrap_demos}, and there are {len(config.bootstrap_seeds)} bootstrap seeds",
            f"{TABLE}.min_bootstrap_demos",
        )
    if not proposes(config) and not shows_examples(config):
        raise InvalidConfig(
            "leaves nothing to search: no instructions are proposed, and no examples are shown; give stages "
            "instruction slots and iterations that propose, or demo slots",
            f"{TABLE}.max_demo_slots",
        )


def proposes(config: MiproConfig) -> bool:
    """Whether new instructions can come."""
    has_slots = any(stage.max_instruction_slots for stage in config.stages)
    return has_slots and config.max_instruction_sets > 0 and config.generate_at_iterations != ()


def shows_examples(config: MiproConfig) -> bool:
    has_slots = any(stage.max_demo_slots for stage in config.stages)
    return has_slots and config.max_demo_set_size > 0 and config.max_demo_sets > 0


# --- limits ----------------------------------------------------------------------------------------------------------


def planned_anew(config: MiproConfig, *, has_prompt: bool) -> MiproConfig:
    """After a change of the plan: with what it needs now, where no budget was given."""
    return config if config.is_budget_given else _budgeted(config, None, has_prompt=has_prompt)


def _budgeted(config: MiproConfig, wanted: int | None, *, has_prompt: bool) -> MiproConfig:
    """With the budget that was given, in whichever field, else with what the plan needs."""
    budget = wanted or config.max_rollouts
    planned = min(MOST_ROLLOUTS, planned_rollouts(config, has_prompt=has_prompt))
    return config.model_copy(update={"rollout_budget": budget or planned, "is_budget_given": budget is not None})


def _check_lengths(config: MiproConfig, template: PromptTemplate | None) -> list[str]:
    """Raises InvalidConfig for a baseline that is longer than prompts may be."""
    if template is None:
        return []
    model = config.token_counting_model
    limits = [("", config.max_prompt_tokens, f"{TABLE}.max_prompt_tokens")]
    path = f"{TABLE}.modules"
    limits += [(module, limit, path) for module, limit in config.module_limits.items()]
    for module, limit, field in limits:
        sections = template.part(module).sections if module else template.sections
        tokens = sum(count_tokens(section.content, model) for section in sections)
        if limit is not None and tokens > limit:
            what = f"the baseline prompt of stage {module!r}" if module else "the baseline prompt"
            raise InvalidConfig(f"{what} has {tokens} tokens, by the count for {model}, and may have {limit}", field)
    return []


def _learning(config: MiproConfig) -> list[str]:
    """Warnings about a search that cannot learn, and about what changes nothing."""
    found = []
    trials, startup = planned_trials(config), config.tpe.n_startup_trials
    if trials < FEWEST_TRIALS:
        found.append(
            f"{trials} trials ({config.num_iterations} iterations of {config.num_evaluations_per_iteration}) are too "
            f"few for the sampler to learn from: it needs at least {FEWEST_TRIALS}, better 30"
        )
    if startup is not None and startup >= trials:
        found.append(f"all {trials} trials are drawn at random: mipro.tpe.n_startup_trials is {startup}")
    if config.batch_size < FEWEST_SEEDS:
        found.append(
            f"a minibatch of {config.batch_size} seeds says little about a prompt: give mipro.batch_size at least "
            f"{FEWEST_SEEDS}, and as many online seeds"
        )
    if config.tpe.epsilon == 1:
        found.append("all trials are drawn at random: mipro.tpe.epsilon is 1")
    return found
