"""The fields of a search's sections that may be left out: limits on prompts, adaptive pool and batch, judge, proxy."""

from typing import Any

from promptjobs.core.config_support import (
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
LEVELS = ("NONE", "LOW", "MODERATE", "HIGH")
SERVERS_KEYS = "the key is the server's, like every provider's: it is not named with a job"

_TOKEN = (
    integer(
        "gepa.token.max_limit",
        None,
        1,
        10_000_000,
        "Most tokens of a candidate's whole prompt. Longer ones are refused before they are run.",
        "gepa.max_token_limit",
        "gepa.guards.max_tokens",
    ),
    on(
        "gepa.token.counting_model",
        T.NAME,
        "gpt-4",
        "Whose tokens are counted, as an estimate.",
        "gepa.token_counting_model",
    ),
    on(
        "gepa.token.enforce_pattern_limit",
        T.FLAG,
        True,
        "Whether `max_limit` holds for the baseline prompt too: a longer one is refused when the job is posted.",
        "gepa.enforce_pattern_token_limit",
    ),
)

_GUARDS = (
    number(
        "gepa.guards.max_growth",
        None,
        0.1,
        1000,
        "Most tokens of a candidate's prompt as a multiple of the baseline's, examples aside. Not in the SDK.",
    ),
    on("gepa.guards.frozen", T.STRINGS, (), "Spans that must stay, to the character. Not in the SDK."),
    on(
        "gepa.guards.must_match",
        T.PATTERNS,
        (),
        "Each must be found in the sections that hold it in the baseline; one that none of them holds, in every section"
        " that is changed. No lookaround, no backreferences. Not in the SDK.",
    ),
    on(
        "gepa.guards.must_not_match",
        T.PATTERNS,
        (),
        "None may be found in a section that is changed. No lookaround, no backreferences. Not in the SDK.",
    ),
    on(
        "gepa.guards.json_schema",
        T.OBJECT,
        None,
        "JSON Schema for every component that is JSON, and every fenced block of JSON. Not in the SDK.",
    ),
    integer(
        "gepa.guards.leak_ngram",
        12,
        0,
        1000,
        "An instruction that repeats so many words in a row of an example is refused; 0 turns this off. Not in the"
        " SDK.",
    ),
)


def _pool_fields(table: str, also: str | None, *, seeds: str, turn: str) -> tuple[FieldSupport, ...]:
    """also: another path of the table. seeds, turn: what the search calls the pool's seeds, and what it counts in."""

    def names(name: str) -> tuple[str, ...]:
        return () if also is None else (f"{also}.{name}",)

    def size(name: str, low: int, high: int, default: int | None, meaning: str) -> FieldSupport:
        return integer(f"{table}.{name}", default, low, high, meaning, *names(name))

    def word(name: str, default: str, choices: tuple[str, ...], meaning: str) -> FieldSupport:
        return choice(f"{table}.{name}", default, choices, meaning, *names(name))

    return (
        word(
            "level",
            "LOW",
            LEVELS,
            f"{seeds} are taken from a pool that shrinks to the informative ones. `NONE`, or no section: all of"
            " them, always. The level decides on what the section leaves out.",
        ),
        size("anchor_size", 0, MAX_SEEDS, None, "Seeds that always stay in it. Default: the level's 50, 30 or 20."),
        size("pool_init_size", 1, MAX_SEEDS, None, "Its size at first. Default: the level's 150, 100 or 60."),
        size("pool_min_size", 1, MAX_SEEDS, None, "Its size in the end. Default: the level's 100, 50 or 30."),
        size("warmup_iters", 0, 10**6, None, f"{turn} before it changes. Default: the level's 10, 5 or 3."),
        size("anneal_stop_iter", 0, 10**6, None, f"{turn} until it is smallest. Default: the level's 30, 20 or 10."),
        size("pool_update_period", 1, 10**6, 3, f"{turn} from one change to the next."),
        size("min_evals_per_example", 1, 10**6, 3, "Scores by so many candidates make a seed known."),
        size(
            "k_info_prompts", 2, 10**6, 10, "A seed is informative where so many of the best candidates differ on it."
        ),
        number(
            f"{table}.info_buffer_factor",
            0.9,
            0.01,
            1,
            "A seed outside replaces one inside where its informativeness times this is larger.",
            *names("info_buffer_factor"),
        ),
        number(
            f"{table}.info_epsilon",
            1e-6,
            0,
            1,
            "Informativeness up to this counts as none.",
            *names("info_epsilon"),
        ),
        word(
            "anchor_selection_method",
            "clustering",
            ("random", "clustering"),
            "Anchors are drawn, or stand for groups of seeds with like scores.",
        ),
        word(
            "exploration_strategy",
            "diversity",
            ("random", "diversity"),
            "How places that informative seeds leave are filled: at random, or by what is least like the pool.",
        ),
        on(
            f"{table}.heatup_reserve_pool",
            T.SEEDS,
            None,
            f"Seeds that join in a heat-up. Default: the {seeds.lower()} that are not in the pool.",
            *names("heatup_reserve_pool"),
        ),
        word(
            "heatup_trigger",
            "after_min_size",
            ("after_min_size", "immediate", "every_N_trials_after_min"),
            "When the first heat-up comes: when the pool is smallest, at once, or a cooldown after it was smallest.",
        ),
        size("heatup_size", 0, MAX_SEEDS, 20, "Seeds that join in a heat-up; 0 for none."),
        size("heatup_cooldown_trials", 1, 10**6, 50, "Trials from one heat-up to the next at least."),
        word("heatup_schedule", "repeat", ("repeat", "once"), "Whether there are further ones."),
    )


_BATCH = (
    choice(
        "gepa.adaptive_batch.level",
        "MODERATE",
        LEVELS,
        "Smaller minibatches, and validation on a part of the front's seeds. `NONE`, or no section: neither. The level"
        " decides on what the section leaves out.",
    ),
    integer(
        "gepa.adaptive_batch.reflection_minibatch_size",
        None,
        1,
        MAX_SEEDS,
        "Size of a minibatch, in place of `rollout.minibatch_size`. Default: the level's 5, 3 or 2.",
    ),
    number(
        "gepa.adaptive_batch.min_local_improvement",
        0.0,
        0,
        1,
        "By how much a child's mean on a minibatch must pass its parent's.",
    ),
    choice(
        "gepa.adaptive_batch.val_evaluation_mode",
        "subsample",
        ("full", "subsample"),
        'With `acceptance = "full"`: an improved child is scored on all of the front\'s seeds, or on some.',
    ),
    integer(
        "gepa.adaptive_batch.val_subsample_size",
        None,
        1,
        MAX_SEEDS,
        "With `subsample`: on how many. Default: the level's 80, 64 or 48.",
    ),
    choice(
        "gepa.adaptive_batch.candidate_selection_strategy",
        "coverage",
        ("coverage", "random"),
        "With `subsample`: on those with the fewest scores, or on any.",
    ),
)


def _names(name: str) -> tuple[str, ...]:
    return (
        f"judge.{name}",
        *(f"{algorithm}.{table}.{name}" for algorithm in ("gepa", "mipro") for table in ("verifier", "judge")),
    )


def _verifier(name: str, kind: FieldType, default: Any, meaning: str, **more: Any) -> FieldSupport:
    return on(f"verifier.{name}", kind, default, meaning, *_names(name), **more)


def _refused(name: str, meaning: str, refusal: str, *harmless: Any) -> FieldSupport:
    return never(f"verifier.{name}", meaning, refusal, *_names(name), harmless=harmless)


def _weight(name: str, default: float, meaning: str) -> FieldSupport:
    return _verifier(name, T.NUMBER, default, meaning, low=0, high=1000)


_VERIFIER = (
    _verifier("enabled", T.FLAG, False, "Whether a judge, which is a model, scores rollouts."),
    _verifier(
        "reward_source",
        T.CHOICE,
        "task_app",
        "What a rollout's score is: the task app's, the judge's (`verifier`), or their weighted mean (`fused`).",
        choices=("task_app", "verifier", "fused"),
    ),
    _verifier(
        "backend_provider", T.NAME, None, "Provider of the judge's model. Default: the policy's.", harmless=("",)
    ),
    _verifier("backend_model", T.NAME, None, "The judge's model. Required where a judge is asked.", harmless=("",)),
    _verifier(
        "backend_options.temperature",
        T.NUMBER,
        0.0,
        "Sampling temperature of the judge. Not in the SDK.",
        low=0,
        high=2,
    ),
    _verifier(
        "backend_options.max_tokens",
        T.INTEGER,
        2048,
        "Most tokens of the judge's replies. Not in the SDK.",
        low=16,
        high=1_000_000,
    ),
    _verifier("backend_outcome_enabled", T.FLAG, True, "The judge scores the final output of a rollout."),
    _verifier("backend_event_enabled", T.FLAG, True, "The judge scores each LLM call of a rollout that has several."),
    _weight("weight_env", 1.0, "Weight of the task app's score; with `fused`."),
    _weight("weight_outcome", 0.0, "Weight of the judge's score of the output."),
    _weight(
        "weight_event",
        0.0,
        "Weight of the mean of the judge's scores of the calls. With `verifier`, and both weights 0, the output counts"
        " alone.",
    ),
    _verifier("concurrency", T.INTEGER, 8, "Calls of the judge in flight at a time.", low=1, high=1000),
    _verifier("timeout", T.NUMBER, 60.0, "Seconds of one of its calls.", low=1, high=3600),
    _verifier("spec_context", T.TEXT, None, "What the judge is to measure by, as text.", harmless=("",)),
    _verifier(
        "spec_max_tokens",
        T.INTEGER,
        5000,
        "Most tokens of `spec_context` that the judge is shown; the rest is cut off.",
        low=1,
        high=1_000_000,
    ),
    _refused(
        "spec_path",
        "Must be absent: send the text itself in `spec_context`.",
        "the server does not read a client's files: send the text itself in spec_context",
        "",
    ),
    _refused("backend_base", "Must be absent or empty, like `policy.inference_url`.", UPSTREAM, ""),
    _refused(
        "backend_api_key_env",
        "Must be absent, empty or the SDK's default: keys are the server's settings.",
        SERVERS_KEYS,
        "",
        "SYNTH_API_KEY",
    ),
    _refused(
        "verifier_graph_id",
        "Must be absent or empty: the judge is a model.",
        "judges that are graphs are a hosted service's: name a model with backend_provider and backend_model",
        "",
    ),
)


def _proxy(name: str, kind: FieldType, default: Any, meaning: str, **more: Any) -> FieldSupport:
    also = (f"gepa.proxy_models.{name}", f"mipro.proxy_models.{name}")
    return on(f"proxy_models.{name}", kind, default, meaning, *also, **more)


_PROXY = (
    _proxy("hi_provider", T.NAME, None, "The policy's provider again; anything else is refused."),
    _proxy("hi_model", T.NAME, None, "The policy's model again; anything else is refused."),
    _proxy("lo_provider", T.NAME, None, "Provider of the cheaper model. Default: the policy's."),
    _proxy(
        "lo_model",
        T.NAME,
        None,
        "The cheaper model, which stands in for the policy's while its scores foretell the policy's. Required in this"
        " section.",
    ),
    _proxy("n_min_hi", T.INTEGER, 5, "Pairs of scores by both models before it may stand in.", low=3, high=10**6),
    _proxy("r2_thresh", T.NUMBER, 0.5, "It stands in from this share of explained variance on.", low=0, high=1),
    _proxy("r2_stop", T.NUMBER, 0.2, "It is given up for good below this share.", low=0, high=1),
    _proxy("sigma_max", T.NUMBER, 1e6, "It stands in while its error's deviation is at most this.", low=0, high=1e12),
    _proxy("sigma_stop", T.NUMBER, 1e9, "It is given up for good above this deviation.", low=0, high=1e12),
    _proxy(
        "verify_every",
        T.INTEGER,
        0,
        "Of so many trials that it may answer, one is checked on the policy's model; 0 for none.",
        low=0,
        high=10**6,
    ),
    _proxy(
        "proxy_patience_usd",
        T.NUMBER,
        -100.0,
        "It is given up for good when the dollars it has saved, less those it has cost, fall below this.",
        low=-1e6,
        high=1e6,
    ),
)

GEPA_SECTIONS: tuple[FieldSupport, ...] = (
    *_TOKEN,
    *_GUARDS,
    *_pool_fields("gepa.adaptive_pool", None, seeds="Feedback seeds", turn="Proposals"),
    *_BATCH,
)
MIPRO_SECTIONS: tuple[FieldSupport, ...] = _pool_fields(
    "mipro.adaptive_pool", "adaptive_pool", seeds="Online seeds", turn="Iterations"
)
SHARED_SECTIONS: tuple[FieldSupport, ...] = (*_VERIFIER, *_PROXY)
