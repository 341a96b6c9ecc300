"""The fields of a job's config, all of them: the job's own here, the search's in the rooms next to this one."""

from promptjobs.core.config_fields_gepa import GEPA
from promptjobs.core.config_fields_sections import SECTIONS
from promptjobs.core.config_support import SECTION, UPSTREAM, FieldSupport, FieldType, choice, integer, never, number
from promptjobs.core.config_support import off as _off
from promptjobs.core.config_support import on as _on

T = FieldType

_JOB = (
    choice("algorithm", "gepa", ("gepa",), "The search; the request's own `algorithm` must agree."),
    _on("task_app_url", T.URL, None, "Base URL of the task app. Required."),
    _on(
        "task_app_api_key",
        T.SECRET,
        None,
        "Key that the task app is called with; `${ENVIRONMENT_API_KEY}` is the server's own. It is never stored.",
        "gepa.task_app_api_key",
    ),
    _on("task_app_id", T.NAME, None, "The task app's id, for the reader."),
    choice(
        "task_app_dialect",
        "auto",
        ("auto", "sdk", "policy_url"),
        "How rollouts are requested; `auto` asks the task app. Not in the SDK.",
    ),
    _on("initial_prompt", T.PROMPT, None, "The baseline prompt; see below."),
    _on("policy.provider", T.NAME, None, "Provider of the model under optimization. Required."),
    _on("policy.model", T.NAME, None, "The model under optimization. Required."),
    number("policy.temperature", 0.0, 0, 2, "Sampling temperature of the policy."),
    integer("policy.max_completion_tokens", 512, 1, 1_000_000, "Most tokens of one reply of the policy."),
    _on("policy.policy_name", T.NAME, None, "Name of the policy in the task app."),
    choice("policy.inference_mode", "synth_hosted", ("synth_hosted",), "Calls go through this service's interceptor."),
    never("policy.inference_url", "Must be absent: addresses of providers are the server's settings.", UPSTREAM),
    never("policy.api_base", "Must be absent, like `inference_url`.", UPSTREAM),
    never("policy.base_url", "Must be absent, like `inference_url`.", UPSTREAM),
    number(
        "policy.price.input_usd_per_million",
        None,
        0,
        1_000_000,
        "Price of a million prompt tokens, where the model's is not known. Not in the SDK.",
    ),
    number(
        "policy.price.output_usd_per_million",
        None,
        0,
        1_000_000,
        "Price of a million completion tokens. Not in the SDK.",
    ),
)

_PROGRAM = (
    _on(
        "gepa.modules",
        T.MODULES,
        None,
        "The kinds of LLM calls that a program makes, each with its prompt; see below. In place of `initial_prompt`.",
        harmless=([],),
    ),
)

_STOPS = (
    integer(
        "termination_config.max_trials",
        None,
        1,
        10**9,
        "Stop after so many trials.",
        "termination_config.max_trials_allowed",
    ),
    integer("termination_config.max_rollouts", None, 1, 10**9, "Stop after so many rollouts."),
    number("termination_config.max_time_seconds", None, 1, 31_536_000, "Stop after so many seconds of running."),
    number(
        "termination_config.max_duration_minutes",
        None,
        0.1,
        525_600,
        "The same in minutes; where both are given, the shorter time.",
    ),
    integer(
        "termination_config.max_total_tokens",
        None,
        1,
        10**15,
        "Stop at so many tokens, those of rollouts, of the meta-model and of the judge together. Not in the SDK.",
    ),
    number(
        "termination_config.max_cost_usd",
        None,
        0.001,
        1_000_000,
        "Stop when the known costs of all calls reach this. Calls without a known price count as 0.",
        "max_cost_usd",
        "gepa.max_cost_usd",
        "termination_config.max_total_spend_usd",
        "gepa.token.max_spend_usd",
        "gepa.max_spend_usd",
    ),
    number(
        "termination_config.score_threshold",
        None,
        0,
        1,
        "Stop when the best candidate's estimated score reaches this. Not in the SDK.",
    ),
    number(
        "termination_config.max_error_rate",
        None,
        0,
        1,
        "Stop when a larger share of the rollouts failed; it is looked at from 20 answers on.",
    ),
    integer("termination_config.max_consecutive_errors", None, 1, 10**9, "Stop when so many rollouts in a row failed."),
)

_NOT_YET = (
    _off("free_tier", T.FLAG, False, "A hosted plan."),
    _off(
        "use_byok", T.FLAG, None, "A hosted plan: keys are the server's settings.", "gepa.use_byok", harmless=(False,)
    ),
    _off("mipro", T.OTHER_ALGORITHM, None, "Another algorithm's section: reported and not used."),
    _off("gepa.evaluation.validation_pool", T.NAME, None, "A named pool of seeds.", "gepa.validation_pool"),
)

FIELDS: tuple[FieldSupport, ...] = (*_JOB, *_PROGRAM, *_STOPS, *GEPA, *SECTIONS, *_NOT_YET)

FIELD_AT: dict[str, FieldSupport] = {path: field for field in FIELDS for path in (field.path, *field.aliases)}
"""Each known path, aliases included, and its field."""

TABLES: frozenset[str] = frozenset(
    path[:at] for path in FIELD_AT for at, character in enumerate(path) if character == "."
)
"""The paths of the tables that hold fields."""

SWITCHES: dict[str, str] = {
    path: switch
    for switch, tables in {
        "level": ("gepa.adaptive_pool", "gepa.adaptive_batch"),
        "enabled": ("verifier", "judge", "gepa.verifier", "gepa.judge"),
    }.items()
    for path in (f"{SECTION}.{table}" for table in tables)
}
"""Tables that may be written as the value of their switch alone: `adaptive_pool = "LOW"`, `verifier = false`."""


def support_table() -> list[FieldSupport]:
    """Every field that is known, in the order of the documentation: carried out first, refused ones last."""
    return list(FIELDS)
