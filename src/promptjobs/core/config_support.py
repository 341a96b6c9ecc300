"""What is said of one field of a config: its type and range, its default, its meaning, and what refuses it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

SECTION = "prompt_learning"
FREE_FORM = frozenset({"env_config", "metadata", "wildcards", "json_schema", "prices"})
"""Tables whose keys are the client's own."""

MAX_SEED = 2**53
"""The largest integer that every JSON reader keeps exactly."""
MAX_SEEDS = 10_000
MAX_NAME = 500
"""Characters of a name (model, provider, environment), and of a regular expression."""
MAX_TEXT = 100_000
"""Characters of a free text (a meta-prompt)."""
MAX_STRINGS = 50
"""Strings in a list (frozen spans, regular expressions)."""
MAX_CANDIDATES = 50
"""Prompts that a search can begin with beside its baseline."""


class FieldType(StrEnum):
    """How a value is read. The last two are never read: what stands there is refused, or another algorithm's."""

    INTEGER = "integer"
    NUMBER = "number"
    FLAG = "true or false"
    NAME = "string"
    TEXT = "text"
    URL = "URL"
    CHOICE = "choice"
    CHOICES = "choices"
    STRINGS = "strings"
    PATTERNS = "patterns"
    SEEDS = "seeds"
    INTEGERS = "integers"
    SPEC = "specification"
    OBJECT = "object"
    PROMPT = "prompt"
    MODULES = "modules"
    PRICES = "prices"
    SECRET = "secret"  # noqa: S105 - the name of a type
    LIST = "list"
    CANDIDATES = "candidates"
    PROMPT_LIST = "list of prompts"
    REFUSED = "refused"
    OTHER_ALGORITHM = "other algorithm"


@dataclass(frozen=True, slots=True)
class FieldSupport:
    """One field. An unsupported one is accepted only with its default, null, or one of `harmless`.

    path: dotted, from the top of config_body. default: None where the field may be left out without a value of its
    own. aliases: other paths of the same setting. low, high: inclusive range of a number. harmless: values that say
    nothing, as null does. refusal: of a refused field, why, and what to do instead.
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
    refusal: str = ""

    @property
    def expected(self) -> str:
        """What a value must be, in words; for messages and the documentation."""
        match self.type:
            case FieldType.INTEGER | FieldType.NUMBER:
                return f"{self.type} from {_plain(self.low)} to {_plain(self.high)}" if self.supported else self.type
            case FieldType.NAME:
                return f"non-empty string of at most {MAX_NAME} characters"
            case FieldType.TEXT:
                return f"non-empty string of at most {MAX_TEXT} characters"
            case FieldType.URL:
                return "http(s) URL without credentials, query and fragment"
            case FieldType.CHOICE:
                return " or ".join(f'"{choice}"' for choice in self.choices)
            case FieldType.CHOICES:
                names = ", ".join(f'"{choice}"' for choice in self.choices)
                return f"list of {names}, each once at most"
            case FieldType.STRINGS:
                return f"list of at most {MAX_STRINGS} non-empty strings"
            case FieldType.PATTERNS:
                return f"list of at most {MAX_STRINGS} patterns (RE2 syntax) of at most {MAX_NAME} characters"
            case FieldType.SEEDS:
                return f"list of at most {MAX_SEEDS} distinct integers from 0 to 2^53, or {{start, end, step}}"
            case FieldType.INTEGERS:
                return f"list of distinct integers from {_plain(self.low)} to {_plain(self.high)}"
            case FieldType.CANDIDATES:
                return f'"best" or "front", or list of 1 to {MAX_CANDIDATES} distinct candidate ids'
            case FieldType.SPEC:
                return f"object, or non-empty string, of at most {MAX_TEXT} characters"
            case _:
                return str(self.type)


def _plain(bound: float) -> str:
    return "2^53" if bound == MAX_SEED else f"{bound:.10g}"


def _paths(*short: str) -> tuple[str, ...]:
    return tuple(f"{SECTION}.{path}" for path in short)


def on(path: str, kind: FieldType, default: Any, meaning: str, *aliases: str, **more: Any) -> FieldSupport:
    """A field that is carried out; paths and aliases are below `prompt_learning`."""
    return FieldSupport(f"{SECTION}.{path}", kind, default, True, meaning, _paths(*aliases), **more)


def off(path: str, kind: FieldType, default: Any, meaning: str, *aliases: str, **more: Any) -> FieldSupport:
    """A field that is known and not carried out."""
    return FieldSupport(f"{SECTION}.{path}", kind, default, False, meaning, _paths(*aliases), **more)


def integer(path: str, default: int | None, low: int, high: int, meaning: str, *aliases: str) -> FieldSupport:
    return on(path, FieldType.INTEGER, default, meaning, *aliases, low=low, high=high)


def number(path: str, default: float | None, low: float, high: float, meaning: str, *aliases: str) -> FieldSupport:
    return on(path, FieldType.NUMBER, default, meaning, *aliases, low=low, high=high)


def choice(path: str, default: str | None, choices: tuple[str, ...], meaning: str, *aliases: str) -> FieldSupport:
    return on(path, FieldType.CHOICE, default, meaning, *aliases, choices=choices)


def never(path: str, meaning: str, refusal: str, *aliases: str, harmless: tuple[Any, ...] = ()) -> FieldSupport:
    """A field that no version will take over: it must be absent, or one of `harmless`."""
    return on(path, FieldType.REFUSED, None, meaning, *aliases, harmless=harmless, refusal=refusal)


UPSTREAM = (
    "an upstream address cannot be given with a job: the provider's name is looked up in the server's provider "
    "registry, which its operator sets with environment variables"
)
