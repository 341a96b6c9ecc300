"""The section `warm_start` of a config: prompts that a search measures right after its baseline, and learns from."""

from collections.abc import Mapping
from typing import Any, Literal

from promptjobs.core.config_prompt import MAX_MESSAGES, ROLES, Role
from promptjobs.core.config_sections import Resolved
from promptjobs.core.config_support import MAX_CANDIDATES, MAX_NAME, MAX_TEXT, SECTION
from promptjobs.core.config_values import Given, is_integer, shown
from promptjobs.errors import InvalidConfig

TABLE = f"{SECTION}.warm_start"
JOB_ID, CANDIDATES, MOST, PROMPTS = (
    f"{TABLE}.{name}" for name in ("job_id", "candidates", "max_candidates", "prompts")
)
PROMPT_KEYS = frozenset({"messages", "sections", "wildcards", "metadata"})
SECTION_KEYS = frozenset({"name", "role", "content", "pattern", "order", "module", "is_example"})


class WarmSection(Resolved):
    """One message of a prompt; as `core.prompt.Section`."""

    role: Role
    content: str
    name: str = ""
    module: str = ""
    is_example: bool = False


class WarmTemplate(Resolved):
    """sections: in the order in which they are sent. wildcards: None where they are those of the new job's baseline."""

    sections: tuple[WarmSection, ...]
    wildcards: dict[str, Literal["REQUIRED", "OPTIONAL"]] | None = None


class WarmPrompt(Resolved):
    """A prompt to begin with. candidate_id, job_id: where it comes from; None where the request has given it."""

    prompt: WarmTemplate
    candidate_id: str | None = None
    job_id: str | None = None

    @property
    def origin(self) -> dict[str, str | None]:
        return {"job_id": self.job_id, "candidate_id": self.candidate_id}


class WarmStartConfig(Resolved):
    """prompts: the ones that the search begins with, the earlier job's first, its best one first of all.

    job_id: the earlier job. candidates: which of its candidates were asked for; max_candidates: so many at most.
    """

    job_id: str | None = None
    candidates: Literal["best", "front"] | tuple[str, ...] = "front"
    max_candidates: int = 8
    prompts: tuple[WarmPrompt, ...] = ()


def read_warm_start(given: Given) -> tuple[WarmStartConfig | None, list[str]]:
    """What was asked for, and warnings; None where it is nothing. Prompts of an earlier job are still to be added.

    Raises InvalidConfig.
    """
    values = given.values
    job_id, sent = values[JOB_ID], values[PROMPTS]
    if job_id is None:
        unused = [path for path in (CANDIDATES, MOST) if path in given.given]
        warnings = [f"{path.removeprefix(f'{SECTION}.')} has no effect without warm_start.job_id" for path in unused]
    else:
        warnings = []
    prompts, said = _prompts(sent or [])
    if job_id is None and not prompts:
        return None, warnings
    found = WarmStartConfig(
        job_id=job_id, candidates=values[CANDIDATES], max_candidates=values[MOST], prompts=tuple(prompts)
    )
    return found, [*warnings, *said]


def _prompts(sent: list[Any]) -> tuple[list[WarmPrompt], list[str]]:
    if len(sent) > MAX_CANDIDATES:
        raise InvalidConfig(f"expected at most {MAX_CANDIDATES} prompts, got {len(sent)}", PROMPTS)
    prompts, warnings = [], []
    for index, item in enumerate(sent):
        path = f"{PROMPTS}[{index}]"
        if not isinstance(item, dict):
            raise InvalidConfig(f"expected an object with messages, got {shown(item)}", path)
        prompts.append(WarmPrompt(prompt=_template(item, path)))
        warnings += [f"unknown key {path}.{key} is ignored" for key in item if key not in PROMPT_KEYS]
    return prompts, warnings


def _template(item: Mapping[str, Any], path: str) -> WarmTemplate:
    named = [name for name in ("messages", "sections") if item.get(name) is not None]
    if len(named) != 1:
        raise InvalidConfig("expected either messages or sections", path)
    value, here = item[named[0]], f"{path}.{named[0]}"
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise InvalidConfig(f"expected a list of 1 to {MAX_MESSAGES} messages, got {shown(value)}", here)
    read = [_section(one, f"{here}[{index}]") for index, one in enumerate(value)]
    orders = [order for order, _ in read]
    if len(set(orders)) == len(orders):
        read.sort(key=lambda one: one[0])
    elif any(orders):
        raise InvalidConfig(f"expected distinct orders, or 0 everywhere, got {orders[:20]}", here)
    return WarmTemplate(
        sections=tuple(section for _, section in read), wildcards=_wildcards(item.get("wildcards"), path)
    )


def _section(item: Any, path: str) -> tuple[int, WarmSection]:
    if not isinstance(item, dict):
        raise InvalidConfig(f"expected an object with role and content, got {shown(item)}", path)
    for key in item:
        if key not in SECTION_KEYS and key != "metadata":
            raise InvalidConfig(
                f"has no meaning here: a message has {', '.join(sorted(SECTION_KEYS))}", f"{path}.{key}"
            )
    role, order, is_example = item.get("role"), item.get("order"), item.get("is_example")
    content = item.get("content") if item.get("content") is not None else item.get("pattern")
    if role not in ROLES:
        raise InvalidConfig(f"expected one of {', '.join(ROLES)}, got {shown(role)}", f"{path}.role")
    if not isinstance(content, str) or not 0 < len(content) <= MAX_TEXT:
        raise InvalidConfig(
            f"expected a non-empty string of at most {MAX_TEXT} characters, got {shown(content)}", f"{path}.content"
        )
    if order is not None and not is_integer(order):
        raise InvalidConfig(f"expected an integer, got {shown(order)}", f"{path}.order")
    if is_example is not None and not isinstance(is_example, bool):
        raise InvalidConfig(f"expected true or false, got {shown(is_example)}", f"{path}.is_example")
    section = WarmSection(
        role=role,
        content=content,
        name=_name(item.get("name"), f"{path}.name"),
        module=_name(item.get("module"), f"{path}.module"),
        is_example=bool(is_example),
    )
    return order or 0, section


def _name(value: Any, path: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise InvalidConfig(f"expected a string of at most {MAX_NAME} characters, got {shown(value)}", path)
    return value


def _wildcards(value: Any, path: str) -> dict[str, Literal["REQUIRED", "OPTIONAL"]] | None:
    if value is None:
        return None
    kinds = {"REQUIRED", "OPTIONAL"}
    if not isinstance(value, dict) or not all(
        isinstance(kind, str) and kind.upper() in kinds for kind in value.values()
    ):
        raise InvalidConfig("expected an object of names to REQUIRED or OPTIONAL", f"{path}.wildcards")
    return {name: "REQUIRED" if kind.upper() == "REQUIRED" else "OPTIONAL" for name, kind in value.items()}
