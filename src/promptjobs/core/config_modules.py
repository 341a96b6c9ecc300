"""The modules of a program in a job's config: the prompt of each kind of LLM call, and what holds for it alone."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

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
UPSTREAM_KEYS = frozenset({"inference_url", "api_base", "base_url"})


class ModuleConfig(Resolved):
    """One kind of LLM call of a program, and the messages that it begins with before any optimization.

    max_instruction_slots: so many of its messages, the first ones that can be, are optimized. max_tokens: of its
    messages together; None where that is not limited. allowed_tools: names of tools that its calls may carry; None for
    any.
    """

    module_id: str
    messages: tuple[MessageConfig, ...]
    wildcards: dict[str, Literal["REQUIRED", "OPTIONAL"]]
    max_instruction_slots: int = SLOTS
    max_tokens: int | None = None
    allowed_tools: tuple[str, ...] | None = None


def program_template(modules: Sequence[ModuleConfig]) -> PromptTemplate:
    """The prompt of the whole program: the sections of its modules one after the other, named module/section."""
    messages = [(module.module_id, message) for module in modules for message in module.messages]
    sections = [
        Section(f"{module}/{m.name}", m.role, m.pattern, order, module) for order, (module, m) in enumerate(messages)
    ]
    kinds = {name: kind for module in modules for name, kind in module.wildcards.items()}
    return PromptTemplate(tuple(sections), {name: kind == "REQUIRED" for name, kind in kinds.items()})


def read_modules(value: Any, path: str, policy: Mapping[str, Any]) -> tuple[tuple[ModuleConfig, ...], list[str]]:
    """The modules, and warnings. policy: the job's, which every module has. Raises InvalidConfig."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MODULES:
        raise InvalidConfig(f"expected a list of 1 to {MAX_MODULES} modules, got {shown(value)}", path)
    modules, warnings = list[ModuleConfig](), list[str]()
    for index, item in enumerate(value):
        here = f"{path}[{index}]"
        if not isinstance(item, dict):
            raise InvalidConfig(f"expected an object with module_id and messages, got {shown(item)}", here)
        module, said = _module(item, here)
        if any(module.module_id == other.module_id for other in modules):
            raise InvalidConfig(f"is {shown(module.module_id)}, as is another module's", f"{here}.module_id")
        modules.append(module)
        warnings += [*said, *_check_policy(item.get("policy"), policy, f"{here}.policy")]
        warnings += [f"unknown key {here}.{key} is ignored" for key in item if key not in MODULE_KEYS | {"metadata"}]
    _check_wildcards(modules, path)
    found = ambiguity(program_template(modules))
    if found is not None:
        taker, taken = found
        at = [module.module_id for module in modules].index(taken)
        raise InvalidConfig(
            f"calls of module {taken!r} cannot be told from those of {taker!r}, whose messages match them as well: "
            "let their first messages differ in the text around the wildcards",
            f"{path}[{at}].messages",
        )
    return tuple(modules), warnings


def _module(item: Mapping[str, Any], path: str) -> tuple[ModuleConfig, list[str]]:
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
    slots = _integer(item.get("max_instruction_slots"), 1, MAX_MESSAGES, f"{path}.max_instruction_slots")
    module = ModuleConfig(
        module_id=module_id,
        messages=prompt.messages,
        wildcards=prompt.wildcards,
        max_instruction_slots=SLOTS if slots is None else slots,
        max_tokens=_integer(item.get("max_tokens"), 1, MAX_MODULE_TOKENS, f"{path}.max_tokens"),
        allowed_tools=_tools(item.get("allowed_tools"), f"{path}.allowed_tools"),
    )
    return module, warnings


def _integer(value: Any, low: int, high: int, path: str) -> int | None:
    if value is None:
        return None
    if not is_integer(value) or not low <= value <= high:
        raise InvalidConfig(f"expected integer from {low} to {high}, got {shown(value)}", path)
    return int(value)


def _tools(value: Any, path: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    expected = f"expected a list of at most {MAX_STRINGS} distinct names of tools"
    if not isinstance(value, list) or len(value) > MAX_STRINGS:
        raise InvalidConfig(f"{expected}, got {shown(value)}", path)
    for name in value:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or value.count(name) > 1:
            raise InvalidConfig(f"{expected}, got {shown(name)} in it", path)
    return tuple(value)


def _check_policy(value: Any, policy: Mapping[str, Any], path: str) -> list[str]:
    """A module's policy may only say again what the job's says. Returns warnings; raises InvalidConfig."""
    if value is None:
        return []
    if not isinstance(value, dict):
        raise InvalidConfig(f"expected an object, got {shown(value)}", path)
    warnings = []
    for key, given in value.items():
        if given is None:
            continue
        if key in UPSTREAM_KEYS:
            raise InvalidConfig("must be absent: addresses of providers are the server's settings", f"{path}.{key}")
        if key == "inference_mode":
            own: Any = "synth_hosted"
        elif key in policy:
            own = policy[key]
        else:
            warnings.append(f"unknown key {path}.{key} is ignored")
            continue
        if (given.lower() if key == "provider" and isinstance(given, str) else given) != own:
            raise InvalidConfig(
                f"is {shown(given)}, and the job's policy says {shown(own)}: a job has one policy for all of its "
                "modules, so leave the module's out",
                f"{path}.{key}",
            )
    return warnings


def _check_wildcards(modules: Sequence[ModuleConfig], path: str) -> None:
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
                    f"{path}[{index}].wildcards",
                )
