"""The fields of a job's config: type, range, default, meaning, and whether this version carries them out."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

SECTION = "prompt_learning"
FREE_FORM = frozenset({"env_config", "metadata", "wildcards"})
"""Tables whose keys are the client's own."""

MAX_SEED = 2**53
"""The largest integer that every JSON reader keeps exactly."""
MAX_SEEDS = 10_000
MAX_NAME = 500
"""Characters of a name (model, provider, environment)."""
MAX_TEXT = 100_000
"""Characters of a free text (a meta-prompt)."""


class FieldType(StrEnum):
    """How a value is read. The last three are sections with a switch of their own, or another algorithm's."""

    INTEGER = "integer"
    NUMBER = "number"
    FLAG = "true or false"
    NAME = "string"
    TEXT = "text"
    URL = "URL"
    CHOICE = "choice"
    SEEDS = "seeds"
    OBJECT = "object"
    PROMPT = "prompt"
    SECRET = "secret"  # noqa: S105 - the name of a type
    UPSTREAM = "refused"
    LIST = "list"
    VERIFIER = "verifier"
    ADAPTIVE = "adaptive"
    OTHER_ALGORITHM = "other algorithm"


@dataclass(frozen=True, slots=True)
class FieldSupport:
    """One field. An unsupported one is accepted only with its default, null, or one of `harmless`.

    path: dotted, from the top of config_body. default: None where the field may be left out without a value of its
    own. aliases: other paths of the same setting. low, high: inclusive range of a number.
    """

    path: str
    type: FieldType
    default: Any
    supported: bool
    meaning: str
    aliases: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    harmless: tuple[Any, ...] = ()

    @property
    def expected(self) -> str:
        """What a value must be, in words; for messages and the documentation."""
        match self.type:
            case FieldType.INTEGER | FieldType.NUMBER:
                return f"{self.type} from {_plain(self.low)} to {_plain(self.high)}"
            case FieldType.NAME:
                return f"non-empty string of at most {MAX_NAME} characters"
            case FieldType.TEXT:
                return f"non-empty string of at most {MAX_TEXT} characters"
            case FieldType.URL:
                return "http(s) URL without credentials, query and fragment"
            case FieldType.CHOICE:
                return " or ".join(f'"{choice}"' for choice in self.choices)
            case FieldType.SEEDS:
                return f"list of at most {MAX_SEEDS} distinct integers from 0 to 2^53, or {{start, end, step}}"
            case _:
                return str(self.type)


def _plain(bound: float) -> str:
    return "2^53" if bound == MAX_SEED else f"{bound:.10g}"


def _paths(*short: str) -> tuple[str, ...]:
    return tuple(f"{SECTION}.{path}" for path in short)


def _on(path: str, kind: FieldType, default: Any, meaning: str, *aliases: str, **more: Any) -> FieldSupport:
    return FieldSupport(f"{SECTION}.{path}", kind, default, True, meaning, _paths(*aliases), **more)


def _off(path: str, kind: FieldType, default: Any, meaning: str, *aliases: str, **more: Any) -> FieldSupport:
    return FieldSupport(f"{SECTION}.{path}", kind, default, False, meaning, _paths(*aliases), **more)


def _integer(path: str, default: int | None, low: int, high: int, meaning: str, *aliases: str) -> FieldSupport:
    return _on(path, FieldType.INTEGER, default, meaning, *aliases, low=low, high=high)


def _number(path: str, default: float | None, low: float, high: float, meaning: str, *aliases: str) -> FieldSupport:
    return _on(path, FieldType.NUMBER, default, meaning, *aliases, low=low, high=high)


T = FieldType

_JOB = (
    _on("algorithm", T.CHOICE, "gepa", "The search; the request's own `algorithm` must agree.", choices=("gepa",)),
    _on("task_app_url", T.URL, None, "Base URL of the task app. Required."),
    _on(
        "task_app_api_key",
        T.SECRET,
        None,
        "Key that the task app is called with; `${ENVIRONMENT_API_KEY}` is the server's own. It is never stored.",
        "gepa.task_app_api_key",
    ),
    _on("task_app_id", T.NAME, None, "The task app's id, for the reader."),
    _on(
        "task_app_dialect",
        T.CHOICE,
        "auto",
        "How rollouts are requested; `auto` asks the task app. Not in the SDK.",
        choices=("auto", "sdk", "policy_url"),
    ),
    _on("initial_prompt", T.PROMPT, None, "The baseline prompt; see below."),
    _on("policy.provider", T.NAME, None, "Provider of the model under optimization. Required."),
    _on("policy.model", T.NAME, None, "The model under optimization. Required."),
    _number("policy.temperature", 0.0, 0, 2, "Sampling temperature of the policy."),
    _integer("policy.max_completion_tokens", 512, 1, 1_000_000, "Most tokens of one reply of the policy."),
    _on("policy.policy_name", T.NAME, None, "Name of the policy in the task app."),
    _on(
        "policy.inference_mode",
        T.CHOICE,
        "synth_hosted",
        "Calls go through this service's interceptor.",
        choices=("synth_hosted",),
    ),
    _on("policy.inference_url", T.UPSTREAM, None, "Must be absent: addresses of providers are the server's settings."),
    _on("policy.api_base", T.UPSTREAM, None, "Must be absent, like `inference_url`."),
    _on("policy.base_url", T.UPSTREAM, None, "Must be absent, like `inference_url`."),
    _number(
        "policy.price.input_usd_per_million",
        None,
        0,
        1_000_000,
        "Price of a million prompt tokens, where the model's is not known. Not in the SDK.",
    ),
    _number(
        "policy.price.output_usd_per_million",
        None,
        0,
        1_000_000,
        "Price of a million completion tokens. Not in the SDK.",
    ),
    _integer("termination_config.max_trials", None, 1, 10**9, "Stop after so many trials."),
    _integer("termination_config.max_rollouts", None, 1, 10**9, "Stop after so many rollouts."),
    _number("termination_config.max_time_seconds", None, 1, 31_536_000, "Stop after so many seconds."),
)

_GEPA = (
    _on("gepa.env_name", T.NAME, "banking77", "Environment that the task app is asked for."),
    _on("gepa.env_config", T.OBJECT, {}, "Passed to the task app with each rollout.", "env_config"),
    _integer("gepa.rng_seed", 0, 0, MAX_SEED, "Seed of every random choice."),
    _integer("gepa.lanes", 8, 1, 64, "Parents worked on at a time; 1 is the sequential algorithm. Not in the SDK."),
    _on(
        "gepa.turn_order",
        T.CHOICE,
        "arrival",
        "`fixed`: the same answers give the same run at any latency, more slowly. Not in the SDK.",
        choices=("arrival", "fixed"),
    ),
    _on("gepa.metaprompt", T.TEXT, None, "Guidance that the reflection prompt carries."),
    _integer("gepa.proposed_prompt_max_tokens", 32_000, 1, 1_000_000, "Longest prompt that is proposed, in tokens."),
    _integer(
        "gepa.rollout.budget",
        None,
        1,
        10**9,
        "Rollouts in all, the test's aside. Default: `termination_config.max_rollouts`, else 500.",
        "gepa.rollout_budget",
    ),
    _integer(
        "gepa.rollout.max_concurrent", 20, 1, 1000, "Rollouts in flight at a time.", "gepa.max_concurrent_rollouts"
    ),
    _integer(
        "gepa.rollout.minibatch_size",
        8,
        1,
        MAX_SEEDS,
        "Seeds on which a child is compared with its parent; at most the seeds there are.",
        "gepa.minibatch_size",
    ),
    _on(
        "gepa.evaluation.train_seeds",
        T.SEEDS,
        (),
        "Seeds for learning. Required.",
        "gepa.evaluation.seeds",
        "gepa.evaluation_seeds",
        "train_seeds",
        "evaluation_seeds",
    ),
    _on(
        "gepa.evaluation.validation_seeds",
        T.SEEDS,
        (),
        "Seeds for choosing the winner. Required where the front cannot use train seeds.",
        "gepa.evaluation.val_seeds",
        "gepa.validation_seeds",
        "validation_seeds",
        "val_seeds",
    ),
    _on(
        "gepa.evaluation.test_pool",
        T.SEEDS,
        (),
        "Held-out seeds, opened once, at the end, for baseline and winner.",
        "gepa.test_pool",
        "test_pool",
    ),
    _integer(
        "gepa.evaluation.validation_top_k", 3, 1, 1000, "Finalists measured on validation.", "gepa.validation_top_k"
    ),
    _on(
        "gepa.mutation.llm_model",
        T.NAME,
        None,
        "Model that writes new prompts. Default: the policy's.",
        "gepa.mutation_llm_model",
    ),
    _on(
        "gepa.mutation.llm_provider",
        T.NAME,
        None,
        "Its provider. Default: the policy's.",
        "gepa.mutation_llm_provider",
    ),
    _number("gepa.mutation.llm_temperature", 1.0, 0, 2, "Its sampling temperature. Not in the SDK."),
    _integer("gepa.mutation.llm_max_tokens", 8192, 1, 1_000_000, "Most tokens of its replies. Not in the SDK."),
    _on(
        "gepa.mutation.llm_inference_url",
        T.UPSTREAM,
        None,
        "Must be absent, like `policy.inference_url`.",
        "gepa.mutation_llm_inference_url",
    ),
    _integer(
        "gepa.population.num_generations", 10, 1, 1_000_000, "Generations until the stop.", "gepa.num_generations"
    ),
    _integer(
        "gepa.population.children_per_generation",
        5,
        1,
        10_000,
        "Finished proposals that make a generation.",
        "gepa.children_per_generation",
    ),
    _number(
        "gepa.population.selection_pressure",
        1.0,
        0,
        100,
        "Exponent on the mass with which parents are drawn; 0 draws evenly.",
        "gepa.selection_pressure",
    ),
    _integer(
        "gepa.population.patience_generations",
        3,
        1,
        1_000_000,
        "Stop after so many generations without a better best.",
        "gepa.patience_generations",
    ),
    _on(
        "gepa.archive.pareto_source",
        T.CHOICE,
        None,
        "Seeds of the Pareto front. Default: `train` where there are `pareto_set_size` + 3 train seeds, else"
        " `validation`. Not in the SDK.",
        choices=("train", "validation"),
    ),
    _integer("gepa.archive.pareto_set_size", 64, 1, MAX_SEEDS, "Most seeds of the front.", "gepa.pareto_set_size"),
    _number("gepa.archive.pareto_eps", 1e-6, 0, 1, "Scores this close are ties.", "gepa.pareto_eps"),
    _number(
        "gepa.archive.feedback_fraction",
        0.5,
        0,
        1,
        "Share of the train seeds kept for feedback where the front uses train seeds: at least 3 seeds, and never so"
        " many that fewer than `pareto_set_size` are left.",
        "gepa.feedback_fraction",
    ),
)

_NOT_YET = (
    _off("free_tier", T.FLAG, False, "A hosted plan."),
    _off(
        "use_byok", T.FLAG, None, "A hosted plan: keys are the server's settings.", "gepa.use_byok", harmless=(False,)
    ),
    _off("verifier", T.VERIFIER, None, "Scores by a judge.", "judge", "gepa.verifier", "gepa.judge"),
    _off("proxy_models", T.OBJECT, None, "A cheaper model as a stand-in.", "gepa.proxy_models"),
    _off("mipro", T.OTHER_ALGORITHM, None, "Another algorithm's section: reported and not used."),
    _off("termination_config.max_cost_usd", T.NUMBER, None, "A cap on the spend.", "max_cost_usd", "gepa.max_cost_usd"),
    _off("termination_config.max_total_spend_usd", T.NUMBER, None, "A cap on the spend."),
    _off("termination_config.max_duration_minutes", T.NUMBER, None, "Use `max_time_seconds`."),
    _off("termination_config.max_trials_allowed", T.INTEGER, None, "Use `max_trials`."),
    _off("termination_config.max_error_rate", T.NUMBER, None, "A cap on failed trials."),
    _off("termination_config.max_consecutive_errors", T.INTEGER, None, "A cap on failures in a row."),
    _off("gepa.proposer_type", T.NAME, "dspy", "Form of the meta-prompt."),
    _off("gepa.proposer_effort", T.NAME, "LOW", "Length of the evidence."),
    _off("gepa.proposer_output_tokens", T.NAME, "FAST", "Length of the proposals."),
    _off("gepa.modules", T.LIST, None, "Programs of several stages.", harmless=([],)),
    _off("gepa.adaptive_pool", T.ADAPTIVE, None, "A train pool that shrinks; only level NONE."),
    _off("gepa.adaptive_batch", T.ADAPTIVE, None, "A minibatch that adapts; only level NONE."),
    _off("gepa.spec_path", T.NAME, None, "A specification for the proposer."),
    _off("gepa.evaluation.validation_pool", T.NAME, None, "A named pool of seeds.", "gepa.validation_pool"),
    _off("gepa.mutation.rate", T.NUMBER, 0.3, "Probability of editing a further component.", "gepa.mutation_rate"),
    _off("gepa.mutation.prompt", T.TEXT, None, "A meta-prompt of one's own.", "gepa.mutation_prompt"),
    _off("gepa.population.initial_size", T.INTEGER, 20, "Drafts at the start.", "gepa.initial_population_size"),
    _off("gepa.population.crossover_rate", T.NUMBER, 0.5, "Probability of a merge.", "gepa.crossover_rate"),
    _off("gepa.archive.size", T.INTEGER, 64, "Most candidates kept.", "gepa.archive_size"),
    _off("gepa.token.max_limit", T.INTEGER, None, "A cap on all tokens.", "gepa.max_token_limit"),
    _off("gepa.token.counting_model", T.NAME, "gpt-4", "Whose tokens are counted.", "gepa.token_counting_model"),
    _off(
        "gepa.token.enforce_pattern_limit",
        T.FLAG,
        True,
        "A cap on the pattern's tokens.",
        "gepa.enforce_pattern_token_limit",
    ),
    _off("gepa.token.max_spend_usd", T.NUMBER, None, "A cap on the spend.", "gepa.max_spend_usd"),
)

FIELDS: tuple[FieldSupport, ...] = (*_JOB, *_GEPA, *_NOT_YET)

FIELD_AT: dict[str, FieldSupport] = {path: field for field in FIELDS for path in (field.path, *field.aliases)}
"""Each known path, aliases included, and its field."""

TABLES: frozenset[str] = frozenset(
    path[:at] for path in FIELD_AT for at, character in enumerate(path) if character == "."
)
"""The paths of the tables that hold fields."""


def support_table() -> list[FieldSupport]:
    """Every field that is known, in the order of the documentation: carried out first, refused ones last."""
    return list(FIELDS)
