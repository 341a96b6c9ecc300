"""Whether the prompts that a job is to begin with fit it, which is known before it runs where its baseline is."""

from collections.abc import Hashable
from typing import TYPE_CHECKING

from promptjobs.core.config_gepa import GepaConfig
from promptjobs.core.config_mipro import MiproConfig
from promptjobs.core.config_warm_start import JOB_ID, PROMPTS, WarmPrompt, WarmStartConfig
from promptjobs.core.demonstrations import own_text
from promptjobs.core.guards import Guards
from promptjobs.core.mipro_space import stage_of
from promptjobs.core.prompt import PromptTemplate
from promptjobs.core.text_tokens import TokenCounter
from promptjobs.core.warm_start import Fitted, as_text, example_count, fitted, part_of
from promptjobs.errors import InvalidConfig, PromptError

if TYPE_CHECKING:
    from promptjobs.core.config import JobConfig

MAX_CHARACTERS = 1_000_000
"""Of all prompts that a job begins with."""


def fitting(config: "JobConfig") -> tuple[WarmStartConfig | None, list[str]]:
    """The warm start without prompts that say nothing new, and warnings; None where nothing is left of it.

    Where the task app's own messages are the baseline, the search finds out. Raises InvalidConfig, which names the
    prompt that does not fit and says why.
    """
    warm, baseline = config.search.warm_start, config.template()
    if warm is None or not warm.prompts:
        return warm, []
    _check_size(warm)
    if baseline is None:
        unknown = "whether the prompts of warm_start fit is known once the task app's own messages are"
        return warm, [unknown]
    kept: dict[Hashable, WarmPrompt] = {}
    for number, prompt in enumerate(warm.prompts):
        try:
            name = _name(config, baseline, prompt)
        except PromptError as error:
            path = JOB_ID if prompt.job_id else f"{PROMPTS}[{number - _taken_over(warm)}]"
            raise InvalidConfig(f"{called(prompt)} does not fit: {error}", path) from error
        if name != _name_of_baseline(config, baseline):
            kept.setdefault(name, prompt)
    dropped = len(warm.prompts) - len(kept)
    said = [f"{dropped} of the {len(warm.prompts)} prompts of warm_start are the baseline or another one again"]
    left = warm.model_copy(update={"prompts": tuple(kept.values())})
    return left if kept else None, said if dropped else []


def _check_size(warm: WarmStartConfig) -> None:
    """The prompts are part of the config, which is read wherever the job is shown."""
    size = sum(len(section.content) for each in warm.prompts for section in each.prompt.sections)
    if size > MAX_CHARACTERS:
        path = JOB_ID if warm.job_id is not None else PROMPTS
        raise InvalidConfig(f"the prompts have {size} characters together, at most {MAX_CHARACTERS}: take fewer", path)


def _taken_over(warm: WarmStartConfig) -> int:
    return sum(prompt.job_id is not None for prompt in warm.prompts)


def called(prompt: WarmPrompt) -> str:
    return "the prompt" if prompt.job_id is None else f"candidate {prompt.candidate_id!r} of job {prompt.job_id!r}"


def _name_of_baseline(config: "JobConfig", baseline: PromptTemplate) -> Hashable:
    return baseline.digest() if config.algorithm == "gepa" else ((),) * len(baseline.modules)


def _name(config: "JobConfig", baseline: PromptTemplate, prompt: WarmPrompt) -> Hashable:
    """What tells the prompt from others in this job. Raises PromptError where it does not fit."""
    match config.search:
        case GepaConfig() as gepa:
            return _checked_text(gepa, baseline, prompt).digest()
        case MiproConfig() as mipro:
            return _checked_parts(mipro, baseline, prompt)
        case _:
            raise TypeError(f"no prompts for {config.algorithm!r}")


def _checked_text(gepa: GepaConfig, baseline: PromptTemplate, prompt: WarmPrompt) -> PromptTemplate:
    template = as_text(fitted(baseline, prompt.prompt))
    examples = example_count(template)
    if examples > max(gepa.max_demonstrations, example_count(baseline)):
        raise PromptError(
            f"it holds {examples} worked examples, at most {gepa.max_demonstrations} (max_demonstrations)"
        )
    count = TokenCounter(gepa.token_counting_model).count
    guards = Guards(gepa.guards, baseline, count, own_text, gepa.module_limits)
    violation = guards.check(template, baseline, [section.name for section in template.sections])
    if violation is not None:
        raise PromptError(f"{violation.reason}: {violation.detail}")
    return template


def _checked_parts(mipro: MiproConfig, baseline: PromptTemplate, prompt: WarmPrompt) -> Hashable:
    found = fitted(baseline, prompt.prompt)
    parts: list[Hashable] = []
    for config, module in zip(mipro.stages, baseline.modules, strict=True):
        part = part_of(baseline, found, module, stage_of(config, baseline, module).section)
        stage = config.stage_id
        if part.text is not None and not (config.max_instruction_slots and mipro.max_instruction_sets):
            raise PromptError(f"it changes the instruction of {stage}, which has no instruction slots")
        most = mipro.max_demo_set_size if config.max_demo_slots and mipro.max_demo_sets else 0
        if len(part.examples) > most:
            raise PromptError(f"it holds {len(part.examples)} worked examples for {stage}, at most {most}")
        parts.append(() if part.text is None and not part.examples else (part.text, part.examples))
    count = TokenCounter(mipro.token_counting_model).count
    for module, limit in (("", mipro.max_prompt_tokens), *mipro.module_limits.items()):
        tokens = sum(map(count, _texts(found, module)))
        if limit is not None and tokens > limit:
            raise PromptError(f"it has {tokens} tokens, at most {limit}" + (f" in stage {module!r}" if module else ""))
    return tuple(parts)


def _texts(found: Fitted, module: str) -> list[str]:
    """Of all its messages, examples included; module: "" for all of the program's."""
    own = [section.content for section in found.template.sections if module in ("", section.module)]
    examples = [shown for name, shown in found.examples.items() if module in ("", name)]
    return [*own, *(message.content for shown in examples for example in shown for message in example)]
