"""How a search would spend its budget if nothing ended it early: rollouts by phase, and calls of the meta-model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from promptjobs.core import limits, mipro_limits, mipro_plan
from promptjobs.core.config import GepaJobConfig, JobConfig, MiproJobConfig
from promptjobs.core.config_gepa import GepaConfig
from promptjobs.core.config_mipro import MiproConfig
from promptjobs.core.config_reading_mipro import proposes, shows_examples
from promptjobs.core.gepa_proposals import RECORD_CHARACTERS, REPLY_TOKENS, mutable_sections
from promptjobs.core.mipro_proposing import LATER_CALLS, MOST_CALLS, TEXTS_PER_CALL
from promptjobs.core.mipro_trials import FULL_SHARE
from promptjobs.core.prompt import PromptTemplate
from promptjobs.core.proposers.program_context import EFFORTS, OUTPUTS
from promptjobs.core.stops import binding
from promptjobs.core.trial import Phase
from promptjobs.errors import JobFailed

PASSING = 4
"""In the paper's search one child in so many, about, passes its minibatch and is measured on the front's seeds."""


@dataclass(frozen=True, slots=True)
class Plan:
    """rollouts: by phase. proposals: calls of the meta-model. records: rollouts that one of these is shown at most.

    record_characters: longest record. reply_tokens: of one reply. prompt_limit: most tokens of a whole prompt, None
    where there is no limit. examples: most of them in one prompt. guide: a text that takes the meta-prompt's place.
    """

    rollouts: Mapping[Phase, int]
    proposals: int
    proposals_at_most: int
    records: int
    record_characters: int
    reply_tokens: int
    prompt_limit: int | None
    examples: int
    guide: str | None = None


def plan_of(config: JobConfig) -> Plan:
    match config:
        case GepaJobConfig():
            return _gepa(config)
        case MiproJobConfig():
            return _mipro(config)
        case _:
            raise ValueError(f"there is no estimate for {config.algorithm!r}")


def _gepa(config: GepaJobConfig) -> Plan:
    gepa = config.gepa
    total, probes = limits.total_budget(gepa), len(limits.probe_seeds(config))
    end, is_held_out = limits.end_rollouts(gepa), gepa.pareto_source == "train" and bool(gepa.validation_seeds)
    rollouts = {
        Phase.BOOTSTRAP: probes,
        Phase.OPTIMIZATION: max(0, total - probes - (end if is_held_out else 0)),
        Phase.VALIDATION: end if is_held_out else 0,
        Phase.TEST: 2 * len(gepa.test_seeds),
    }
    opening = len(limits.opening_seeds(gepa)) * (1 + (gepa.proxy_models is not None))
    usual = min(limits.USUAL_PROPOSAL, limits.iteration_rollouts(gepa))
    if gepa.acceptance == "full":
        usual = 2 * gepa.minibatch_size + len(gepa.front_seeds) // PASSING
    search = max(0, total - probes - end - opening - limits.warm_rollouts(gepa))
    planned = binding(gepa, search_rollouts=search, rollouts_per_proposal=usual).proposals
    proposals, at_most = _gepa_calls(gepa, planned, config.template())
    return Plan(
        rollouts=rollouts,
        proposals=proposals,
        proposals_at_most=at_most,
        records=limits.evidence_size(gepa) if gepa.acceptance == "race" else gepa.minibatch_size,
        record_characters=RECORD_CHARACTERS[gepa.proposer_effort],
        reply_tokens=REPLY_TOKENS[gepa.proposer_output_tokens],
        prompt_limit=gepa.guards.max_tokens,
        examples=gepa.max_demonstrations,
        guide=gepa.mutation_prompt,
    )


def _gepa_calls(gepa: GepaConfig, planned: int, template: PromptTemplate | None) -> tuple[int, int]:
    """A proposal asks once for each section that it rewrites; a section is rewritten beside another one by chance."""
    sections = 1
    if template is not None:
        slots = {module.module_id: module.max_instruction_slots for module in gepa.modules}
        try:
            sections = len(mutable_sections(template, slots))
        except JobFailed:
            return 0, 0
    each = sections if gepa.component_selection == "all" else 1 + (sections - 1) * gepa.mutation_rate
    most = gepa.num_generations * gepa.children_per_generation * sections
    called = math.ceil(planned * each)
    if gepa.max_meta_calls is not None:
        # A proposal that has begun may ask for the rest of its sections, in every lane.
        most = min(most, gepa.max_meta_calls + gepa.lanes * sections - 1)
        called = min(called, gepa.max_meta_calls)
    return min(called, most), most


def _mipro(config: MiproJobConfig) -> Plan:
    mipro = config.mipro
    total = mipro_plan.total_budget(mipro)
    opening = len(mipro_plan.probe_seeds(config)) + mipro_limits.opening_rollouts(mipro)
    bootstrap, end = min(total, opening), mipro_plan.end_rollouts(mipro)
    full = mipro_limits.planned_trials(mipro) // mipro.full_eval_every * len(mipro_plan.full_seeds(mipro))
    validation = min(total - bootstrap, end + min(full, math.floor(FULL_SHARE * total)))
    planned = mipro_limits.planned_rollouts(mipro, has_prompt=config.template() is not None)
    rest = min(total, planned) - bootstrap - validation
    proposals, at_most = _mipro_calls(mipro)
    effort = EFFORTS[mipro.proposer_effort]
    return Plan(
        rollouts={
            Phase.BOOTSTRAP: bootstrap,
            Phase.OPTIMIZATION: max(0, rest),
            Phase.VALIDATION: max(0, validation),
            Phase.TEST: 2 * len(mipro.test_seeds),
        },
        proposals=proposals,
        proposals_at_most=at_most,
        records=effort.records + effort.demos,
        record_characters=effort.characters,
        reply_tokens=OUTPUTS[mipro.proposer_output_tokens].tokens,
        prompt_limit=mipro.max_prompt_tokens,
        examples=mipro.max_demo_set_size if shows_examples(mipro) else 0,
    )


def _mipro_calls(mipro: MiproConfig) -> tuple[int, int]:
    """Some for every stage in every iteration that proposes; at most, all that may be asked again are."""
    if not proposes(mipro):
        return 0, 0
    iterations = [n for n in range(mipro.num_iterations) if mipro_plan.generates_at(mipro, n)]
    stages = sum(stage.max_instruction_slots > 0 for stage in mipro.stages)
    called = 0
    for iteration in iterations:
        most = LATER_CALLS if iteration else MOST_CALLS
        each = 1 if mipro.proposer_mode == "builtin" else min(most, mipro.instructions_per_batch // TEXTS_PER_CALL)
        called += stages * max(1, each)
    called += mipro.proposer_mode == "dspy"
    at_most = called + len(iterations) * mipro.duplicate_retry_limit
    limit = mipro.max_meta_calls
    return (called, at_most) if limit is None else (min(called, limit), min(at_most, limit))
