"""The stages of a MIPRO job's program: the prompt of each kind of LLM call, its slots, and who reads whom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any

from promptjobs.core.config_fields_proposals import MAX_SLOTS
from promptjobs.core.config_mipro import DEFAULT_MODULE, DEFAULT_STAGE, StageConfig
from promptjobs.core.config_modules import (
    MAX_MODULE_TOKENS,
    MAX_MODULES,
    MODULE_ID,
    ModuleConfig,
    check_program,
    read_integer,
    read_tools,
)
from promptjobs.core.config_policy import PolicyConfig, module_policy
from promptjobs.core.config_prompt import PromptConfig, read_prompt
from promptjobs.core.config_support import MAX_TEXT
from promptjobs.core.config_values import shown
from promptjobs.errors import InvalidConfig

MODULE_KEYS = frozenset({"module_id", "stages", "edges"})
STAGE_KEYS = frozenset(
    {
        *("stage_id", "baseline_instruction", "baseline_messages", "wildcards", "max_instruction_slots"),
        *("max_demo_slots", "max_tokens", "allowed_tools", "policy", "policy_config"),
    }
)
MESSAGES = "baseline_messages"

Edge = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Job:
    """What a stage takes from its job where it does not say otherwise."""

    policy: PolicyConfig
    prompt: PromptConfig | None
    instruction_slots: int
    demo_slots: int


@dataclass(frozen=True, slots=True)
class Program:
    """modules: none where the prompt is not divided, which then is the job's."""

    stages: tuple[StageConfig, ...]
    modules: tuple[ModuleConfig, ...]
    edges: tuple[Edge, ...] = ()
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Reading:
    """What has been read so far: stages, their modules and their paths, all in the same order."""

    job: Job
    stages: list[StageConfig] = field(default_factory=list)
    modules: list[ModuleConfig] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    edges: dict[Edge, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def undivided(job: Job) -> Program:
    """The program of a job that names no stages: one kind of call."""
    stage = StageConfig(
        stage_id=DEFAULT_STAGE,
        module_id=DEFAULT_MODULE,
        max_instruction_slots=job.instruction_slots,
        max_demo_slots=job.demo_slots,
    )
    return Program((stage,), ())


def read_program(modules: Any, stages: Any, edges: Any, path: str, job: Job) -> Program:
    """The program of `modules`, `stages` and `edges`, of which each may be None; their tables stand at `path`.

    Raises InvalidConfig.
    """
    reading = _Reading(job)
    is_only = _count(modules, stages) == 1
    if modules is not None:
        _read_modules(reading, modules, f"{path}.modules", is_only=is_only)
    if stages is not None:
        _read_stages(reading, stages, f"{path}.stages", None, is_only=is_only)
    if edges is not None:
        _read_edges(reading, edges, f"{path}.edges")
    if not reading.stages:
        if reading.edges:
            raise InvalidConfig("names stages, and the job has none", f"{path}.edges")
        return undivided(job)
    _check_edges(reading)
    if job.prompt is not None and not (is_only and reading.modules[0].messages == job.prompt.messages):
        reading.warnings.append("initial_prompt is not used: the stages' messages are the baseline")
    check_program(reading.modules, reading.paths, MESSAGES)
    return Program(tuple(reading.stages), tuple(reading.modules), tuple(reading.edges), reading.warnings)


def _count(modules: Any, stages: Any) -> int:
    """How many stages there will be, where all is as it should be."""
    lists = [module.get("stages") for module in modules or () if isinstance(module, dict)]
    return sum(len(one) for one in [*lists, stages] if isinstance(one, list))


def _read_modules(reading: _Reading, value: Any, path: str, *, is_only: bool) -> None:
    if not isinstance(value, list) or len(value) > MAX_MODULES:
        raise InvalidConfig(f"expected a list of at most {MAX_MODULES} modules, got {shown(value)}", path)
    seen: set[str] = set()
    for index, item in enumerate(value):
        here = f"{path}[{index}]"
        if not isinstance(item, dict):
            raise InvalidConfig(f"expected an object with module_id and stages, got {shown(item)}", here)
        module_id = _id(item.get("module_id"), f"{here}.module_id")
        if module_id in seen:
            raise InvalidConfig(f"is {shown(module_id)}, as is another module's", f"{here}.module_id")
        seen.add(module_id)
        if not item.get("stages"):
            raise InvalidConfig("is required: the module's kinds of LLM calls, at least one", f"{here}.stages")
        _read_stages(reading, item["stages"], f"{here}.stages", module_id, is_only=is_only)
        _read_edges(reading, item.get("edges"), f"{here}.edges")
        reading.warnings += _unknown(item, MODULE_KEYS, here)


def _read_stages(reading: _Reading, value: Any, path: str, module_id: str | None, *, is_only: bool) -> None:
    """module_id: None where each stage may name its own."""
    if not isinstance(value, list) or len(value) > MAX_MODULES:
        raise InvalidConfig(f"expected a list of at most {MAX_MODULES} stages, got {shown(value)}", path)
    for index, item in enumerate(value):
        here = f"{path}[{index}]"
        if not isinstance(item, dict):
            raise InvalidConfig(f"expected an object with stage_id and baseline_instruction, got {shown(item)}", here)
        _read_stage(reading, item, here, module_id, is_only=is_only)
        known = STAGE_KEYS if module_id is not None else STAGE_KEYS | {"module_id"}
        reading.warnings += _unknown(item, known, here)
    if len(reading.stages) > MAX_MODULES:
        raise InvalidConfig(f"a job has at most {MAX_MODULES} stages", path)


def _read_stage(reading: _Reading, item: Mapping[str, Any], path: str, module_id: str | None, *, is_only: bool) -> None:
    job = reading.job
    stage_id = _id(item.get("stage_id"), f"{path}.stage_id")
    if any(stage.stage_id == stage_id for stage in reading.stages):
        raise InvalidConfig(f"is {shown(stage_id)}, as is another stage's", f"{path}.stage_id")
    if module_id is None:
        named = item.get("module_id")
        module_id = DEFAULT_MODULE if named is None else _id(named, f"{path}.module_id")
    instruction = _text(item.get("baseline_instruction"), f"{path}.baseline_instruction")
    prompt, warnings = _messages(item, instruction, path, job.prompt if is_only else None)
    if instruction is not None and not any(instruction in message.pattern for message in prompt.messages):
        warnings.append(
            f"{path}.baseline_instruction is in none of the stage's messages: its first system message is taken for it"
        )
        instruction = None
    policy, said = _policy(item, job.policy, path)
    slots = read_integer(item.get("max_instruction_slots"), 0, MAX_SLOTS, f"{path}.max_instruction_slots")
    demos = read_integer(item.get("max_demo_slots"), 0, MAX_SLOTS, f"{path}.max_demo_slots")
    stage = StageConfig(
        stage_id=stage_id,
        module_id=module_id,
        baseline_instruction=instruction,
        max_instruction_slots=job.instruction_slots if slots is None else slots,
        max_demo_slots=job.demo_slots if demos is None else demos,
    )
    reading.stages.append(stage)
    reading.modules.append(
        ModuleConfig(
            module_id=stage_id,
            messages=prompt.messages,
            wildcards=prompt.wildcards,
            max_instruction_slots=stage.max_instruction_slots,
            max_tokens=read_integer(item.get("max_tokens"), 1, MAX_MODULE_TOKENS, f"{path}.max_tokens"),
            allowed_tools=read_tools(item.get("allowed_tools"), f"{path}.allowed_tools"),
            policy=policy,
        )
    )
    reading.paths.append(path)
    reading.warnings += [*warnings, *said]


def _messages(
    item: Mapping[str, Any], instruction: str | None, path: str, prompt: PromptConfig | None
) -> tuple[PromptConfig, list[str]]:
    """The stage's own messages; else the job's, where it is the only stage; else its instruction as one message."""
    messages = item.get(MESSAGES)
    if messages is None or messages == []:
        if prompt is not None:
            return prompt, []
        if instruction is None:
            raise InvalidConfig(
                f"is required where {MESSAGES} are not given: what the stage's calls begin with",
                f"{path}.baseline_instruction",
            )
        messages = [{"role": "system", "content": instruction}]
    return read_prompt({"messages": messages, "wildcards": item.get("wildcards")}, path, MESSAGES)


def _policy(item: Mapping[str, Any], job: PolicyConfig, path: str) -> tuple[PolicyConfig | None, list[str]]:
    """`policy`, which older clients call `policy_config`."""
    given = [(name, item[name]) for name in ("policy", "policy_config") if item.get(name)]
    if len(given) > 1 and given[0][1] != given[1][1]:
        raise InvalidConfig("is another one than policy, the same setting: give one of them", f"{path}.policy_config")
    if not given:
        return None, []
    name, value = given[0]
    return module_policy(value, job, f"{path}.{name}")


# --- edges -----------------------------------------------------------------------------------------------------------


def _read_edges(reading: _Reading, value: Any, path: str) -> None:
    if value is None:
        return
    if not isinstance(value, list):
        raise InvalidConfig(f"expected a list of pairs of stage ids, got {shown(value)}", path)
    for index, pair in enumerate(value):
        is_pair = isinstance(pair, list | tuple) and len(pair) == 2
        if not is_pair or not all(isinstance(end, str) for end in pair):
            raise InvalidConfig(f"expected a pair of stage ids, got {shown(pair)}", f"{path}[{index}]")
        reading.edges.setdefault((pair[0], pair[1]), f"{path}[{index}]")


def _check_edges(reading: _Reading) -> None:
    """Raises InvalidConfig for an edge of no stage, and for a cycle."""
    known = {stage.stage_id for stage in reading.stages}
    for edge, path in reading.edges.items():
        for end in edge:
            if end not in known:
                raise InvalidConfig(f"names {shown(end)}, which is no stage: {', '.join(sorted(known))}", path)
    readers: dict[str, set[str]] = {}
    for source, reader in reading.edges:
        readers.setdefault(reader, set()).add(source)
    try:
        TopologicalSorter(readers).prepare()
    except CycleError as error:
        cycle = list(reversed(error.args[1]))
        path = next(p for edge, p in reading.edges.items() if edge in pairwise(cycle))
        raise InvalidConfig(f"is part of a cycle: {' → '.join(cycle)}", path) from None


# --- small readers ---------------------------------------------------------------------------------------------------


def _id(value: Any, path: str) -> str:
    if not isinstance(value, str) or not MODULE_ID.fullmatch(value):
        raise InvalidConfig(f"expected 1 to 100 letters, digits, '_', '.' and '-', got {shown(value)}", path)
    return value


def _text(value: Any, path: str) -> str | None:
    """None for nothing and for ""."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT:
        raise InvalidConfig(f"expected a non-empty string of at most {MAX_TEXT} characters, got {shown(value)}", path)
    return value


def _unknown(item: Mapping[str, Any], known: frozenset[str], path: str) -> Sequence[str]:
    return [f"unknown key {path}.{key} is ignored" for key in item if key not in known | {"metadata"}]
