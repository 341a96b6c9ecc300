"""The modules of a program in a job's config: the prompt of each kind of LLM call, and what holds for it alone."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from promptjobs.core.config_policy import PolicyConfig, module_policy
from promptjobs.core.config_prompt import MAX_MESSAGES, MessageConfig, read_prompt
from promptjobs.core.config_sections import Resolved
from promptjobs.core.config_support import MAX_NAME, MAX_STRINGS
from promptjobs.core.config_values import is_integer, shown
from promptjobs.core.pipeline import ambiguity
from promptjobs.core.prompt import PLACEHOLDER, PromptTemplate, Section
from promptjobs.errors import InvalidConfig

MAX_MODULES = 20
MAX_MODULE_TOKENS = 1_000_000
SLOTS = 3
MODULE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
PROMPT_PART = ("messages", "wildcards")
MODULE_KEYS = frozenset(
    {"module_id", "messages", "wildcards", "max_instruction_slots", "max_tokens", "allowed_tools", "policy"}
)


class ModuleConfig(Resolved):
    """One kind of LLM call of a program, and the messages that it begins with before any optimization.

    max_instruction_slots: so many of its messages, the first ones that can be, are optimized. max_tokens: of its
    messages together; None where that is not limited. allowed_tools: names of tools that its calls may carry; None for
    any. policy: the model that answers its calls; None for the job's.
    """

    module_id: str
    messages: tuple[MessageConfig, ...]
    wildcards: dict[str, Literal["REQUIRED", "OPTIONAL"]]
    max_instruction_slots: int = SLOTS
    max_tokens: int | None = None
    allowed_tools: tuple[str, ...] | None = None
    policy: PolicyConfig | None = None


def program_template(modules: Sequence[ModuleConfig]) -> PromptTemplate:
    """The prompt of the whole program: the sections of its modules one after the other, named module/section."""
    messages = [(module.module_id, message) for module in modules for message in module.messages]
    sections = [
        Section(f"{module}/{m.name}", m.role, m.pattern, order, module) for order, (module, m) in enumerate(messages)
    ]
    kinds = {name: kind for module in modules for name, kind in module.wildcards.items()}
    return PromptTemplate(tuple(sections), {name: kind == "REQUIRED" for name, kind in kinds.items()})


def read_modules(value: Any, path: str, policy: PolicyConfig) -> tuple[tuple[ModuleConfig, ...], list[str]]:
    """The modules, and warnings. policy: the job's, for what a module's leaves out. Raises InvalidConfig."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MODULES:
        raise InvalidConfig(f"expected a list of 1 to {MAX_MODULES} modules, got {shown(value)}", path)
    modules, warnings = list[ModuleConfig](), list[str]()
    for index, item in enumerate(value):
        here = f"{path}[{index}]"
        if not isinstance(item, dict):
            raise InvalidConfig(f"expected an object with module_id and messages, got {shown(item)}", here)
        module, said = _module(item, here, policy)
        if any(module.module_id == other.module_id for other in modules):
            raise InvalidConfig(f"is {shown(module.module_id)}, as is another module's", f"{here}.module_id")
        modules.append(module)
        warnings += said
        warnings += [f"unknown key {here}.{key} is ignored" for key in item if key not in MODULE_KEYS | {"metadata"}]
    check_program(modules, [f"{path}[{index}]" for index in range(len(modules))])
    return tuple(modules), warnings


def check_program(modules: Sequence[ModuleConfig], paths: Sequence[str], messages: str = "messages") -> None:
    """Raises InvalidConfig where wildcards contradict each other, or calls could not be told apart.

    paths: where each module stands; messages: the name of its messages there.
    """
    _check_wildcards(modules, paths)
    found = ambiguity(program_template(modules))
    if found is not None:
        taker, taken = found
        at = [module.module_id for module in modules].index(taken)
        raise InvalidConfig(
            f"calls of module {taken!r} cannot be told from those of {taker!r}, whose messages match them as well: "
            "let their first messages differ in the text around the wildcards",
            f"{paths[at]}.{messages}",
        )


def _module(item: Mapping[str, Any], path: str, job: PolicyConfig) -> tuple[ModuleConfig, list[str]]:
    module_id = item.get("module_id")
    if not isinstance(module_id, str) or not MODULE_ID.fullmatch(module_id):
        raise InvalidConfig(
            f"expected 1 to 100 letters, digits, '_', '.' and '-', got {shown(module_id)}", f"{path}.module_id"
        )
    if item.get("messages") is None:
        raise InvalidConfig(
            "is required: the messages that the module's calls begin with, by which they are told apart",
            f"{path}.messages",
        )
    prompt, warnings = read_prompt({key: item[key] for key in PROMPT_PART if key in item}, path)
    slots = read_integer(item.get("max_instruction_slots"), 1, MAX_MESSAGES, f"{path}.max_instruction_slots")
    policy, said = module_policy(item.get("policy"), job, f"{path}.policy")
    module = ModuleConfig(
        module_id=module_id,
        messages=prompt.messages,
        wildcards=prompt.wildcards,
        max_instruction_slots=SLOTS if slots is None else slots,
        max_tokens=read_integer(item.get("max_tokens"), 1, MAX_MODULE_TOKENS, f"{path}.max_tokens"),
        allowed_tools=read_tools(item.get("allowed_tools"), f"{path}.allowed_tools"),
        policy=policy,
    )
    return module, [*warnings, *said]


def read_integer(value: Any, low: int, high: int, path: str) -> int | None:
    if value is None:
        return None
    if not is_integer(value) or not low <= value <= high:
        raise InvalidConfig(f"expected integer from {low} to {high}, got {shown(value)}", path)
    return int(value)


def read_tools(value: Any, path: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    expected = f"expected a list of at most {MAX_STRINGS} distinct names of tools"
    if not isinstance(value, list) or len(value) > MAX_STRINGS:
        raise InvalidConfig(f"{expected}, got {shown(value)}", path)
    for name in value:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or value.count(name) > 1:
            raise InvalidConfig(f"{expected}, got {shown(name)} in it", path)
    return tuple(value)


def _check_wildcards(modules: Sequence[ModuleConfig], paths: Sequence[str]) -> None:
    """A name in braces means one thing in the whole program: a candidate's prompt is one prompt."""
    declared = {name: (kind, module.module_id) for module in modules for name, kind in module.wildcards.items()}
    for index, module in enumerate(modules):
        held = {name for message in module.messages for name in PLACEHOLDER.findall(message.pattern)}
        for name in sorted(held & declared.keys()):
            kind, other = declared[name]
            own = module.wildcards.get(name, "plain text")
            if own != kind:
                raise InvalidConfig(
                    f"{name} is {own} here and {kind} in module {other!r}: give one of them another name",
                    f"{paths[index]}.wildcards",
                )
