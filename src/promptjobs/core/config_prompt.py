"""The baseline prompt of a job's config: its stored form, and the reader of what a client sends."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from promptjobs.core.config_support import MAX_NAME
from promptjobs.core.config_values import is_integer, shown
from promptjobs.core.prompt import PLACEHOLDER, PromptPattern, PromptTemplate, Section
from promptjobs.errors import InvalidConfig, PromptError

Role = Literal["system", "developer", "user", "assistant"]
ROLES = ("system", "developer", "user", "assistant")
MAX_MESSAGES = 100
MAX_ORDER = 1_000_000

PROMPT_KEYS = frozenset({"id", "name", "messages", "wildcards"})
MESSAGE_KEYS = frozenset({"role", "pattern", "content", "order", "name"})


class MessageConfig(BaseModel):
    """One message of the baseline. `pattern` may hold {wildcard} placeholders."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    pattern: str
    order: int
    name: str


class PromptConfig(BaseModel):
    """The baseline prompt, its messages in the order in which they are sent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    messages: tuple[MessageConfig, ...]
    wildcards: dict[str, Literal["REQUIRED", "OPTIONAL"]]

    def template(self) -> PromptTemplate:
        return PromptTemplate(
            sections=tuple(Section(m.name, m.role, m.pattern, m.order) for m in self.messages),
            wildcards={name: kind == "REQUIRED" for name, kind in self.wildcards.items()},
            id=self.id,
            name=self.name,
        )


def read_prompt(value: Any, path: str, messages_at: str = "messages") -> tuple[PromptConfig, list[str]]:
    """The prompt, and warnings. Raises InvalidConfig, which names the path below `path`.

    messages_at: what the client calls the messages there.

    Messages with distinct orders are sorted by them; where every order is 0, they stay in the order of the list.
    Without declared wildcards, every {identifier} of the patterns is a required one.
    """
    if not isinstance(value, dict):
        raise InvalidConfig(f"expected an object with messages, got {shown(value)}", path)
    messages, warnings = _messages(value.get("messages"), f"{path}.{messages_at}")
    wildcards, unused = _wildcards(value.get("wildcards"), messages, f"{path}.wildcards")
    prompt = PromptConfig(
        id=_text(value.get("id"), f"{path}.id"),
        name=_text(value.get("name"), f"{path}.name"),
        messages=messages,
        wildcards=wildcards,
    )
    try:
        PromptPattern.of(prompt.template())
    except PromptError as exc:
        raise InvalidConfig(str(exc), f"{path}.{messages_at}") from exc
    return prompt, [*_unknown(value, PROMPT_KEYS, path), *warnings, *unused]


def _messages(value: Any, path: str) -> tuple[tuple[MessageConfig, ...], list[str]]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        got = "nothing" if value is None else shown(value)
        raise InvalidConfig(f"expected a list of 1 to {MAX_MESSAGES} messages, got {got}", path)
    messages, warnings = [], []
    for index, item in enumerate(value):
        here = f"{path}[{index}]"
        if not isinstance(item, dict):
            raise InvalidConfig(f"expected an object with role and pattern, got {shown(item)}", here)
        messages.append(_message(item, here))
        warnings += _unknown(item, MESSAGE_KEYS, here)
    orders = [message.order for message in messages]
    if not any(orders):
        messages = [message.model_copy(update={"order": index}) for index, message in enumerate(messages)]
    elif len(set(orders)) < len(orders):
        raise InvalidConfig(f"expected distinct orders, or 0 everywhere, got {orders[:20]}", path)
    messages.sort(key=lambda message: message.order)
    named = [
        message if message.name else message.model_copy(update={"name": f"{message.role}_{index}"})
        for index, message in enumerate(messages)
    ]
    names = [message.name for message in named]
    if len(set(names)) < len(names):
        raise InvalidConfig(f"expected distinct names, got {names[:20]}", path)
    return tuple(named), warnings


def _message(item: Mapping[str, Any], path: str) -> MessageConfig:
    """One message; its name is "" where none is given."""
    role, order, name = item.get("role"), item.get("order"), item.get("name")
    if role not in ROLES:
        raise InvalidConfig(f"expected one of {', '.join(ROLES)}, got {shown(role)}", f"{path}.role")
    given = [text for text in (item.get("pattern"), item.get("content")) if text is not None]
    if not given or not all(isinstance(text, str) and text for text in given):
        raise InvalidConfig(
            f"expected a non-empty string, got {shown(given[-1] if given else None)}", f"{path}.pattern"
        )
    if given[0] != given[-1]:
        raise InvalidConfig("pattern and content are the same field: give one", f"{path}.pattern")
    order = 0 if order is None else order
    if not is_integer(order) or abs(order) > MAX_ORDER:
        raise InvalidConfig(
            f"expected an integer from -{MAX_ORDER} to {MAX_ORDER}, got {shown(order)}", f"{path}.order"
        )
    return MessageConfig(role=role, pattern=given[0], order=order, name=_text(name, f"{path}.name"))


def _wildcards(
    value: Any, messages: tuple[MessageConfig, ...], path: str
) -> tuple[dict[str, Literal["REQUIRED", "OPTIONAL"]], list[str]]:
    present = dict.fromkeys(name for message in messages for name in PLACEHOLDER.findall(message.pattern))
    if not value and isinstance(value, dict | None):
        return dict.fromkeys(present, "REQUIRED"), []
    if not isinstance(value, dict):
        raise InvalidConfig(f"expected an object of names to REQUIRED or OPTIONAL, got {shown(value)}", path)
    kinds: dict[str, Literal["REQUIRED", "OPTIONAL"]] = {}
    for name, kind in value.items():
        match kind.upper() if isinstance(kind, str) else kind:
            case "REQUIRED":
                kinds[name] = "REQUIRED"
            case "OPTIONAL":
                kinds[name] = "OPTIONAL"
            case _:
                raise InvalidConfig(f"expected REQUIRED or OPTIONAL, got {shown(kind)}", f"{path}.{name}")
    warnings = [f"wildcard {name} is in no message and is ignored" for name in kinds if name not in present]
    return {name: kind for name, kind in kinds.items() if name in present}, warnings


def _text(value: Any, path: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise InvalidConfig(f"expected a string of at most {MAX_NAME} characters, got {shown(value)}", path)
    return value


def _unknown(value: Mapping[str, Any], known: frozenset[str], path: str) -> list[str]:
    return [f"unknown key {path}.{key} is ignored" for key in value if key not in known and key != "metadata"]
