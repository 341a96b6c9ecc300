"""The fields of a job's config, all of them: the job's own here, the search's in the rooms next to this one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from promptjobs.core.config_fields_gepa import GEPA
from promptjobs.core.config_fields_mipro import MIPRO
from promptjobs.core.config_fields_sections import GEPA_SECTIONS, MIPRO_SECTIONS, SHARED_SECTIONS
from promptjobs.core.config_support import (
    MAX_CANDIDATES,
    SECTION,
    UPSTREAM,
    FieldSupport,
    FieldType,
    choice,
    integer,
    never,
    number,
)
from promptjobs.core.config_support import off as _off
from promptjobs.core.config_support import on as _on

T = FieldType
ALGORITHMS = ("gepa", "mipro")

_JOB = (
    choice("algorithm", None, ALGORITHMS, "The search; the request's own `algorithm` must agree."),
    _on("task_app_url", T.URL, None, "Base URL of the task app. Required.", "mipro.task_app_url"),
    _on(
        "task_app_api_key",
        T.SECRET,
        None,
        "Key that the task app is called with; `${ENVIRONMENT_API_KEY}` is the organisation's, else the server's own."
        " It is stored sealed, and never shown.",
        "gepa.task_app_api_key",
        "mipro.task_app_api_key",
    ),
    _on("task_app_id", T.NAME, None, "The task app's id, for the reader.", "mipro.task_app_id"),
    choice(
        "task_app_dialect",
        "auto",
        ("auto", "sdk", "policy_url"),
        "How rollouts are requested; `auto` asks the task app. Not in the SDK.",
    ),
    _on("initial_prompt", T.PROMPT, None, "The baseline prompt; see below."),
    _on(
        "use_byok",
        T.FLAG,
        None,
        "Whether providers are called with the organisation's own keys: `true` with nothing else, `false` never; left"
        " out, with its key where it has left one, else with the server's.",
        "gepa.use_byok",
        "mipro.use_byok",
    ),
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
    _on(
        "prices",
        T.PRICES,
        None,
        "Prices of any of the job's models: an object of `provider/model`, each with `input_usd_per_million` and"
        " `output_usd_per_million`. They go before the price list, `policy.price` before them. Not in the SDK.",
        harmless=({},),
    ),
)

_MODULES = (
    _on(
        "gepa.modules",
        T.MODULES,
        None,
        "The kinds of LLM calls that a program makes, each with its prompt; see below. In place of `initial_prompt`.",
        harmless=([],),
    ),
)


TERMINATION = (
    *("termination_config", "termination_conditions"),
    *("mipro.termination_config", "mipro.termination_conditions"),
)
"""Tables that hold stops, the field's own first."""


def _stop(*names: str, also: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The other names of a stop, of which the first one is its own. also: names outside of the tables."""
    return (*[f"{table}.{name}" for table in TERMINATION for name in names][1:], *also)


_STOPS = (
    integer(
        "termination_config.max_trials",
        None,
        1,
        10**9,
        "Most trials before the end, as `…/trials` lists them: the baseline's count, finalists' and the test's do not.",
        *_stop("max_trials", "max_trials_allowed"),
    ),
    integer("termination_config.max_rollouts", None, 1, 10**9, "Stop after so many rollouts.", *_stop("max_rollouts")),
    number(
        "termination_config.max_time_seconds",
        None,
        1,
        31_536_000,
        "Stop after so many seconds of running.",
        *_stop("max_time_seconds", also=("mipro.max_wall_clock_seconds",)),
    ),
    number(
        "termination_config.max_duration_minutes",
        None,
        0.1,
        525_600,
        "The same in minutes; where both are given, the shorter time.",
        *_stop("max_duration_minutes"),
    ),
    integer(
        "termination_config.max_total_tokens",
        None,
        1,
        10**15,
        "Most tokens of rollouts, of the meta-model and of the judge together. What would pass it is not sent; the"
        " search ends early enough for validation and test.",
        *_stop("max_total_tokens", also=("mipro.max_total_tokens",)),
    ),
    number(
        "termination_config.max_cost_usd",
        None,
        0.001,
        1_000_000,
        "Most dollars of all calls together. What would pass it is not sent; the search ends early enough for"
        " validation and test. Every model needs a known price.",
        *_stop(
            "max_cost_usd",
            "max_total_spend_usd",
            also=(
                *("max_cost_usd", "gepa.max_cost_usd", "gepa.token.max_spend_usd", "gepa.max_spend_usd"),
                *("mipro.max_cost_usd", "mipro.max_spend_usd"),
            ),
        ),
    ),
    number(
        "termination_config.max_rollout_cost_usd",
        None,
        0.001,
        1_000_000,
        "The same of rollouts alone, those of validation and test included. Not in the SDK.",
        *_stop("max_rollout_cost_usd", also=("mipro.max_rollout_spend_usd",)),
    ),
    number(
        "termination_config.max_proposal_cost_usd",
        None,
        0.001,
        1_000_000,
        "Most dollars of the meta-model's calls. A GEPA search ends there, a MIPRO search goes on among what was"
        " proposed. Not in the SDK.",
        *_stop("max_proposal_cost_usd", also=("mipro.max_proposal_spend_usd",)),
    ),
    number(
        "termination_config.score_threshold",
        None,
        0,
        1,
        "Stop when the best candidate's estimated score reaches this. Not in the SDK.",
        *_stop("score_threshold"),
    ),
    number(
        "termination_config.max_error_rate",
        None,
        0,
        1,
        "Stop when a larger share of the rollouts failed; it is looked at from 20 answers on.",
        *_stop("max_error_rate"),
    ),
    integer(
        "termination_config.max_consecutive_errors",
        None,
        1,
        10**9,
        "Stop when so many rollouts in a row failed.",
        *_stop("max_consecutive_errors"),
    ),
)

_WARM_START = (
    _on(
        "warm_start.job_id",
        T.NAME,
        None,
        "An earlier job, of the same organisation, whose candidates the search begins with. Not in the SDK.",
    ),
    _on(
        "warm_start.candidates",
        T.CANDIDATES,
        "front",
        "Which of them: the best one, those on its front, the best first, or these. Not in the SDK.",
    ),
    integer(
        "warm_start.max_candidates",
        8,
        1,
        MAX_CANDIDATES,
        "Most candidates of the front that are taken over. Not in the SDK.",
    ),
    _on(
        "warm_start.prompts",
        T.PROMPT_LIST,
        None,
        "Prompts to begin with, of any origin: each with `messages`, or with `sections` as results show them. Not in"
        " the SDK.",
        harmless=([],),
    ),
)

_NOT_YET = (
    _off("free_tier", T.FLAG, False, "A hosted plan."),
    _off("mipro", T.OTHER_ALGORITHM, None, "In a GEPA job another algorithm's section: reported and not used."),
    _off("gepa", T.OTHER_ALGORITHM, None, "In a MIPRO job another algorithm's section: reported and not used."),
    _off("gepa.evaluation.validation_pool", T.NAME, None, "A named pool of seeds.", "gepa.validation_pool"),
    *(
        _off(f"mipro.{name}", T.OBJECT, None, "Settings of a hosted service that no client describes.", harmless=({},))
        for name in ("demo", "grounding", "meta_update")
    ),
)

FIELDS: tuple[FieldSupport, ...] = (
    *_JOB,
    *_MODULES,
    *_STOPS,
    *_WARM_START,
    *GEPA,
    *GEPA_SECTIONS,
    *SHARED_SECTIONS,
    *MIPRO,
    *MIPRO_SECTIONS,
    *_NOT_YET,
)
"""In the order of the documentation: carried out first, refused ones last."""

SWITCHES = {"adaptive_pool": "level", "adaptive_batch": "level", "verifier": "enabled", "judge": "enabled"}
"""Sections that may be written as the value of their switch alone: `adaptive_pool = "LOW"`, `verifier = false`."""


@dataclass(frozen=True, slots=True)
class FieldTable:
    """The fields of one algorithm's jobs. at: each known path, aliases included, and its field. tables: the paths of
    the tables that hold fields. switches: by table, the name of the field that may stand for it."""

    fields: tuple[FieldSupport, ...]
    at: Mapping[str, FieldSupport]
    tables: frozenset[str]
    switches: Mapping[str, str]

    @staticmethod
    def of(fields: Sequence[FieldSupport]) -> "FieldTable":
        at = {path: field for field in fields for path in (field.path, *field.aliases)}
        tables = {path[:end] for path in at for end, character in enumerate(path) if character == "."}
        switches = {path: SWITCHES[path.rpartition(".")[2]] for path in tables if path.rpartition(".")[2] in SWITCHES}
        return FieldTable(tuple(fields), at, frozenset(tables), switches)


def _of_algorithm(algorithm: str) -> FieldTable:
    """Without the other algorithms' fields and names: what stands in their sections is another search's."""
    others = tuple(f"{SECTION}.{other}." for other in ALGORITHMS if other != algorithm)
    fields = [
        replace(field, aliases=tuple(alias for alias in field.aliases if not alias.startswith(others)))
        for field in FIELDS
        if field.path != f"{SECTION}.{algorithm}" and not field.path.startswith(others)
    ]
    return FieldTable.of(fields)


TABLE_OF: Mapping[str, FieldTable] = {algorithm: _of_algorithm(algorithm) for algorithm in ALGORITHMS}
"""The fields by algorithm."""


def support_table() -> list[FieldSupport]:
    """Every field that is known, in the order of the documentation, with its names in all algorithms."""
    return list(FIELDS)
