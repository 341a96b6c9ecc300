"""The fields of a MIPRO search: seeds, trials, examples, sampler, limits, stages."""

from promptjobs.core.config_fields_proposals import MAX_ITERATIONS, MAX_SLOTS, PROPOSALS
from promptjobs.core.config_support import (
    MAX_SEED,
    FieldSupport,
    FieldType,
    choice,
    integer,
    number,
    on,
)

T = FieldType

_RUN = (
    on("mipro.env_name", T.NAME, "banking77", "Environment that the task app is asked for."),
    on("mipro.env_config", T.OBJECT, {}, "Passed to the task app with each rollout.", "env_config"),
    on(
        "mipro.policy_config",
        T.OBJECT,
        None,
        "The policy, once more: it may only repeat what `policy` says.",
        harmless=({},),
    ),
    on("mipro.results_file", T.NAME, None, "A file of the client's: it is not written here, and a warning says so."),
    integer("mipro.rng_seed", 0, 0, MAX_SEED, "Seed of every random choice. Not in the SDK."),
    choice(
        "mipro.turn_order",
        "arrival",
        ("arrival", "fixed"),
        "`fixed`: the same answers give the same run at any latency, more slowly. Not in the SDK.",
    ),
    integer("mipro.max_concurrent", 20, 1, 1000, "Rollouts in flight at a time."),
    integer(
        "mipro.rollout_budget",
        None,
        1,
        10**9,
        "Rollouts in all, the test's aside. Default: `termination_config.max_rollouts`, else what the plan needs; see"
        " below. Not in the SDK.",
    ),
)

_SEEDS = (
    on(
        "mipro.seeds.bootstrap",
        T.SEEDS,
        (),
        "The baseline is scored on them first, and what it gets right becomes an example for prompts. Required.",
        "mipro.bootstrap_train_seeds",
        "bootstrap_train_seeds",
        harmless=([],),
    ),
    on(
        "mipro.seeds.online",
        T.SEEDS,
        (),
        "Minibatches are drawn from them. Required.",
        "mipro.online_pool",
        "online_pool",
        harmless=([],),
    ),
    on(
        "mipro.seeds.validation",
        T.SEEDS,
        (),
        "Seeds of full evaluations, by which the winner is chosen. Default: the online seeds. Not in the SDK.",
        "mipro.seeds.val",
        "mipro.validation_seeds",
        "mipro.val_seeds",
        "validation_seeds",
        "val_seeds",
        harmless=([],),
    ),
    on(
        "mipro.seeds.test",
        T.SEEDS,
        (),
        "Held-out seeds, opened once, at the end, for baseline and winner.",
        "mipro.test_pool",
        "test_pool",
        harmless=([],),
    ),
    on(
        "mipro.seeds.reference",
        T.SEEDS,
        (),
        "Seeds whose inputs the meta-model is shown as a picture of the task, ten of them at most.",
        "mipro.reference_pool",
        "reference_pool",
        harmless=([],),
    ),
)

_TRIALS = (
    integer("mipro.num_iterations", 20, 1, MAX_ITERATIONS, "Iterations: each has a minibatch of its own."),
    integer("mipro.num_evaluations_per_iteration", 5, 1, MAX_ITERATIONS, "Trials of an iteration."),
    integer("mipro.batch_size", 32, 1, 10_000, "Seeds of a minibatch, at most the online seeds."),
    on(
        "mipro.early_stopping",
        T.FLAG,
        True,
        "A trial that is behind the best prompt on the first part of its minibatch ends there. Not in the SDK.",
    ),
    integer(
        "mipro.full_eval_every",
        5,
        1,
        10**6,
        "Trials from one full evaluation of the best prompt to the next. Not in the SDK.",
    ),
    integer("mipro.validation_top_k", 3, 1, 1000, "Finalists measured in full at the end. Not in the SDK."),
    integer(
        "mipro.max_parallel_trials",
        None,
        1,
        1000,
        "Most trials side by side. Default: by `parallel_risk` alone.",
    ),
    choice(
        "mipro.parallel_risk",
        "LOW",
        ("LOW", "MEDIUM", "HIGH"),
        "How many trials may be under way that have not seen each other's results; see below.",
    ),
)

_EXAMPLES = (
    number(
        "mipro.few_shot_score_threshold",
        0.8,
        0,
        1,
        "A rollout with at least this score becomes an example.",
    ),
    integer("mipro.max_demo_set_size", 16, 0, 1000, "Most examples of a set; 0 for none."),
    integer("mipro.max_demo_sets", 128, 0, 10_000, "Most sets of examples of a stage; 0 for none."),
    integer(
        "mipro.max_demo_slots",
        1,
        0,
        MAX_SLOTS,
        "Sets that a stage's prompt may hold at a time, where the stage does not say; 0: no examples. Not in the SDK.",
    ),
    integer(
        "mipro.min_bootstrap_demos",
        0,
        0,
        10_000,
        "The job fails where the bootstrap brings fewer examples for a stage.",
    ),
    choice(
        "mipro.demo_format",
        "messages",
        ("messages", "text"),
        "Examples are messages before the stage's last user message, or text in its first system message. Not in the"
        " SDK.",
    ),
)

_SAMPLER = (
    number("mipro.tpe.gamma", 0.25, 0.001, 0.999, "Share of the trials that count as good."),
    integer("mipro.tpe.n_candidates", 24, 1, 10_000, "Configurations that are drawn for each suggestion."),
    integer(
        "mipro.tpe.n_startup_trials",
        None,
        0,
        10**6,
        "Trials at random before the sampler suggests. Default: 10, at most a third of those planned.",
    ),
    number("mipro.tpe.epsilon", 0.0, 0, 1, "How often a suggestion is drawn at random all the same."),
    number("mipro.tpe.alpha", 1.0, 0.001, 1000, "Smoothing: weight of what has not been tried yet."),
)

_LIMITS = (
    integer(
        "mipro.max_token_limit",
        None,
        1,
        10**15,
        "Most tokens of the whole job, counted like `termination_config.max_total_tokens`. What would pass it is not"
        " begun: a prompt's tokens are counted before a trial.",
    ),
    on(
        "mipro.enforce_token_limit",
        T.FLAG,
        True,
        "Whether `max_token_limit` ends the search; else it is only reported.",
    ),
    on("mipro.token_counting_model", T.NAME, "gpt-4", "Whose tokens are counted in prompts, as an estimate."),
    integer(
        "mipro.max_prompt_tokens",
        None,
        1,
        10_000_000,
        "Most tokens of a whole prompt, examples included. Longer ones are not run. Not in the SDK.",
    ),
)

_PROGRAM = (
    on(
        "mipro.modules",
        T.MODULES,
        None,
        "Modules of a program, each with its stages, which are its kinds of LLM calls; see below.",
        harmless=([],),
    ),
    on(
        "mipro.stages",
        T.LIST,
        None,
        "Stages without modules. Each may name one with `module_id`; the others are of `module_default`. Not in the"
        " SDK.",
        harmless=([],),
    ),
    on(
        "mipro.edges",
        T.LIST,
        None,
        "Pairs of stage ids: the second one reads what the first one has said. A module's `edges` are the same. Not in"
        " the SDK.",
        harmless=([],),
    ),
)

MIPRO: tuple[FieldSupport, ...] = (
    *_RUN,
    *_SEEDS,
    *_TRIALS,
    *_EXAMPLES,
    *PROPOSALS,
    *_SAMPLER,
    *_LIMITS,
    *_PROGRAM,
)
