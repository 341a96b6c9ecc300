"""The fields of a GEPA search: seeds, archive, selection, proposals, population."""

from promptjobs.core.config_support import (
    MAX_SEED,
    MAX_SEEDS,
    UPSTREAM,
    FieldSupport,
    FieldType,
    choice,
    integer,
    never,
    number,
    on,
)

T = FieldType

_RUN = (
    on("gepa.env_name", T.NAME, "banking77", "Environment that the task app is asked for."),
    on("gepa.env_config", T.OBJECT, {}, "Passed to the task app with each rollout.", "env_config"),
    integer("gepa.rng_seed", 0, 0, MAX_SEED, "Seed of every random choice."),
    integer(
        "gepa.lanes",
        8,
        1,
        64,
        "Parents worked on at a time, in a race fewer where the budget is small; 1 is the sequential algorithm. Not in"
        " the SDK.",
    ),
    integer(
        "gepa.lane_depth",
        5,
        1,
        1000,
        "In a race, proposals in a row that each lane must have room for after the drafts. Not in the SDK.",
    ),
    choice(
        "gepa.turn_order",
        "arrival",
        ("arrival", "fixed"),
        "`fixed`: the same answers give the same run at any latency, more slowly. Not in the SDK.",
    ),
    integer(
        "gepa.rollout.budget",
        None,
        1,
        10**9,
        "Rollouts in all, the test's aside. Default: `termination_config.max_rollouts`, else 500.",
        "gepa.rollout_budget",
    ),
    integer(
        "gepa.rollout.max_concurrent", 20, 1, 1000, "Rollouts in flight at a time.", "gepa.max_concurrent_rollouts"
    ),
    integer(
        "gepa.rollout.minibatch_size",
        8,
        1,
        MAX_SEEDS,
        "With `full`: seeds on which a child is compared with its parent; in a race half to three times as many, by"
        " `proposer_effort`, are what a reflection is shown. At most the seeds there are.",
        "gepa.minibatch_size",
    ),
    on(
        "gepa.evaluation.train_seeds",
        T.SEEDS,
        (),
        "Seeds for learning. Required.",
        "gepa.evaluation.seeds",
        "gepa.evaluation_seeds",
        "train_seeds",
        "evaluation_seeds",
    ),
    on(
        "gepa.evaluation.validation_seeds",
        T.SEEDS,
        (),
        "Seeds for choosing the winner. Required where the front cannot use train seeds.",
        "gepa.evaluation.val_seeds",
        "gepa.validation_seeds",
        "validation_seeds",
        "val_seeds",
    ),
    on(
        "gepa.evaluation.test_pool",
        T.SEEDS,
        (),
        "Held-out seeds, opened once, at the end, for baseline and winner.",
        "gepa.test_pool",
        "test_pool",
    ),
    integer(
        "gepa.evaluation.validation_top_k", 3, 1, 1000, "Finalists measured on validation.", "gepa.validation_top_k"
    ),
)

_SEARCH = (
    choice(
        "gepa.acceptance",
        "race",
        ("race", "full"),
        "How a child is taken in. `race`: compared with its parent on small blocks of seeds, known scores reused."
        " `full`, the paper's: better on a minibatch, then scored on all of the front's seeds. Not in the SDK.",
    ),
    choice(
        "gepa.front",
        "instance",
        ("instance", "objective", "hybrid", "cartesian"),
        "What the Pareto front keeps a best for: each seed, each objective's mean, both, or each objective on each"
        " seed. Not in the SDK.",
    ),
    on(
        "gepa.objectives",
        T.CHOICES,
        ("score",),
        "What a front may compare besides the score; of cost, tokens and seconds of a rollout less is better. The"
        " winner is chosen by score. Not in the SDK.",
        choices=("score", "cost", "tokens", "seconds"),
    ),
    choice(
        "gepa.parent_selection",
        "pareto",
        ("pareto", "current_best", "epsilon_greedy", "top_k_pareto"),
        "Who is changed next: drawn from the front by what each member holds, the best, mostly the best, or drawn from"
        " the front's `top_k` best. Not in the SDK.",
    ),
    number("gepa.epsilon", 0.1, 0, 1, "With `epsilon_greedy`: how often another one than the best. Not in the SDK."),
    integer("gepa.top_k", 5, 1, 1000, "With `top_k_pareto`: of how many. Not in the SDK."),
    choice(
        "gepa.component_selection",
        "round_robin",
        ("round_robin", "all"),
        "Which component of a prompt (a message) a proposal rewrites: the next one in turn, or all. Not in the SDK.",
    ),
    integer(
        "gepa.population.initial_size",
        20,
        1,
        1000,
        "The baseline and the drafts that are made of it first; at most a fifth of the budget goes into them.",
        "gepa.initial_population_size",
    ),
    integer("gepa.population.num_generations", 10, 1, 1_000_000, "Generations until the stop.", "gepa.num_generations"),
    integer(
        "gepa.population.children_per_generation",
        5,
        1,
        10_000,
        "Finished proposals that make a generation.",
        "gepa.children_per_generation",
    ),
    integer(
        "gepa.population.patience_generations",
        3,
        1,
        1_000_000,
        "Stop after so many generations without a better best.",
        "gepa.patience_generations",
    ),
    number(
        "gepa.population.crossover_rate",
        0.5,
        0,
        1,
        "Probability that a proposal is a merge of two candidates, where one is possible.",
        "gepa.crossover_rate",
    ),
    integer("gepa.population.max_merges", 5, 0, 10_000, "Merges at most; 0 turns them off. Not in the SDK."),
    number(
        "gepa.population.selection_pressure",
        1.0,
        0,
        100,
        "Exponent on the mass with which parents are drawn; 0 draws evenly.",
        "gepa.selection_pressure",
    ),
    choice(
        "gepa.archive.pareto_source",
        None,
        ("train", "validation"),
        "Seeds of the Pareto front. Default: `train` where there are `pareto_set_size` + 3 train seeds, else"
        " `validation`. Not in the SDK.",
    ),
    integer("gepa.archive.pareto_set_size", 64, 1, MAX_SEEDS, "Most seeds of the front.", "gepa.pareto_set_size"),
    number("gepa.archive.pareto_eps", 1e-6, 0, 1, "Scores this close are ties.", "gepa.pareto_eps"),
    integer(
        "gepa.archive.size",
        64,
        1,
        100_000,
        "Most candidates kept to choose parents from. The weakest redundant one goes first; whoever alone is best at"
        " something stays.",
        "gepa.archive_size",
    ),
    number(
        "gepa.archive.feedback_fraction",
        0.5,
        0,
        1,
        "Share of the train seeds kept for feedback where the front uses train seeds: at least 3 seeds, and never so"
        " many that fewer than `pareto_set_size` are left.",
        "gepa.feedback_fraction",
    ),
    number(
        "gepa.finals_share",
        0.15,
        0,
        0.9,
        "With `race`: share of the budget kept for scoring the finalists again before one of them wins. Not in the"
        " SDK.",
    ),
)

_PROPOSALS = (
    on(
        "gepa.mutation.llm_model",
        T.NAME,
        None,
        "Model that writes new prompts. Default: the policy's.",
        "gepa.mutation_llm_model",
    ),
    on(
        "gepa.mutation.llm_provider", T.NAME, None, "Its provider. Default: the policy's.", "gepa.mutation_llm_provider"
    ),
    number("gepa.mutation.llm_temperature", 1.0, 0, 2, "Its sampling temperature. Not in the SDK."),
    integer(
        "gepa.mutation.llm_max_tokens",
        None,
        1,
        1_000_000,
        "Most tokens of its replies. Default and most: 2048, 8192 or 32768, by `proposer_output_tokens`. Not in the"
        " SDK.",
    ),
    never(
        "gepa.mutation.llm_inference_url",
        "Must be absent, like `policy.inference_url`.",
        UPSTREAM,
        "gepa.mutation_llm_inference_url",
    ),
    number(
        "gepa.mutation.rate",
        0.3,
        0,
        1,
        "Probability with which a proposal also rewrites each further component.",
        "gepa.mutation_rate",
    ),
    on("gepa.mutation.prompt", T.TEXT, None, "A meta-prompt of one's own, in place of ours.", "gepa.mutation_prompt"),
    on("gepa.metaprompt", T.TEXT, None, "Guidance that the meta-prompt carries."),
    on("gepa.spec", T.TEXT, None, "A specification that proposals must follow, as text. Not in the SDK."),
    never(
        "gepa.spec_path",
        "Must be absent: send the text itself in `gepa.spec`.",
        "the server does not read a client's files: send the text itself in gepa.spec",
    ),
    choice("gepa.proposer_type", "dspy", ("dspy", "builtin", "synth", "gepa-ai"), "Form of the meta-prompt."),
    choice(
        "gepa.proposer_effort",
        "LOW",
        ("LOW_CONTEXT", "LOW", "MEDIUM", "HIGH"),
        "How much evidence the meta-model is shown.",
    ),
    choice("gepa.proposer_output_tokens", "FAST", ("RAPID", "FAST", "SLOW"), "How long its proposals may be."),
    integer("gepa.proposed_prompt_max_tokens", 32_000, 1, 1_000_000, "Longest prompt that is proposed, in tokens."),
    integer(
        "gepa.max_demonstrations",
        30,
        0,
        1000,
        "Most examples that a prompt may show to the policy; 0 for none. Not in the SDK.",
    ),
    integer("gepa.max_meta_calls", None, 1, 10**9, "Stop after so many calls of the meta-model. Not in the SDK."),
)

GEPA: tuple[FieldSupport, ...] = (*_RUN, *_SEARCH, *_PROPOSALS)
