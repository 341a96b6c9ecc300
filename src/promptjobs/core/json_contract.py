"""Says whether the JSON in a text parses and fits a schema, within a bounded amount of work."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jsonschema import Draft7Validator, Draft201909Validator, Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from promptjobs.core.text_patterns import TextPattern, compile_pattern
from promptjobs.errors import InvalidConfig

MAX_SCHEMA_CHARACTERS = 50_000
MAX_JSON_CHARACTERS = 100_000
MAX_DEPTH = 32
# About half a second; a thousand values under a usual schema take some 3,000 steps.
MAX_STEPS = 10_000
SHOWN = 200
FENCE = re.compile(r"[ \t]*(?P<ticks>`{3,})[ \t]*(?P<info>[^`]*)")
DRAFTS = {
    "https://json-schema.org/draft/2020-12/schema": Draft202012Validator,
    "https://json-schema.org/draft/2019-09/schema": Draft201909Validator,
    "http://json-schema.org/draft-07/schema": Draft7Validator,
}

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class _TooMuchWork(Exception):
    """The meter ran out."""


class JsonContract:
    """A JSON Schema of draft 2020-12 (or 2019-09 or 7, where `$schema` says so).

    Nothing is fetched: a `$ref` must point into the schema. `format` is not checked. `pattern` has RE2's syntax, for a
    schema must not be able to stop the service; for the same reason `patternProperties` is refused, and checking ends
    after MAX_STEPS keywords.
    """

    def __init__(self, schema: Mapping[str, Any], field: str | None = None) -> None:
        """Raises InvalidConfig, about `field`."""
        self._field = field
        self._patterns: dict[str, TextPattern] = {}
        self._steps = 0
        try:
            size = len(json.dumps(schema))
            if size > MAX_SCHEMA_CHARACTERS:
                raise InvalidConfig(
                    f"a schema may have at most {MAX_SCHEMA_CHARACTERS} characters, got {size}", self._field
                )
            root = dict(schema)
            draft = self._draft(root.pop("$schema", None))
            root.pop("$id", None)
            self._walk(root)
            draft.check_schema(root)
        except (TypeError, ValueError) as exc:
            raise InvalidConfig(f"the schema is not JSON: {exc}", self._field) from exc
        except SchemaError as exc:
            raise InvalidConfig(f"not a JSON Schema: {exc.json_path}: {_cut(exc.message)}", self._field) from exc
        except RecursionError as exc:
            raise InvalidConfig("the schema is nested too deeply", self._field) from exc
        metered: dict[str, Keyword] = {
            name: self._metered(check) for name, check in draft.VALIDATORS.items() if name != "format"
        }
        metered |= {"pattern": self._metered(self._pattern), "uniqueItems": self._metered(_unique_items)}
        self._validator = extend(draft, metered)(root, registry=Registry())  # type: ignore[no-untyped-call]
        self._require_sound(root)

    def violation(self, text: str, is_json: bool) -> str | None:
        """What is wrong, in words, or None.

        The text is JSON as a whole, where is_json says so or where it begins like an object or array and parses;
        otherwise every fenced block in it that is marked `json` is.
        """
        if is_json or is_json_text(text):
            fault = self._fault(text)
            return None if fault is None else f"the text {fault}"
        for number, block in enumerate(json_blocks(text), 1):
            fault = "is not closed" if block is None else self._fault(block)
            if fault is not None:
                return f"JSON block {number} {fault}"
        return None

    def _fault(self, text: str) -> str | None:
        if len(text) > MAX_JSON_CHARACTERS:
            return f"has {len(text)} characters, at most {MAX_JSON_CHARACTERS} can be checked"
        try:
            value = parse_json(text)
        except ValueError as exc:
            return f"does not parse: {_cut(str(exc))}"
        try:
            error = self._first_error(value)
        except _TooMuchWork:
            return f"takes more than {MAX_STEPS} steps to check"
        except RecursionError:
            return "takes too many nested steps to check"
        return None if error is None else f"does not fit its schema: {error.json_path}: {_cut(error.message)}"

    def _draft(self, named: Any) -> Any:
        if named is None:
            return Draft202012Validator
        draft = DRAFTS.get(named.rstrip("#")) if isinstance(named, str) else None
        if draft is None:
            raise InvalidConfig(f"$schema must be one of {', '.join(DRAFTS)}, got {named!r}", self._field)
        return draft

    def _walk(self, root: dict[str, Any]) -> None:
        """Compiles the patterns and collects the references; refuses what could not be bounded."""
        self._refs: set[str] = set()
        nodes: list[Any] = [root]
        while nodes:
            node = nodes.pop()
            if isinstance(node, list):
                nodes += node
            if not isinstance(node, dict):
                continue
            for key, value in node.items():
                self._visit(key, value)
                nodes.append(value)

    def _visit(self, key: str, value: Any) -> None:
        if key == "patternProperties":
            raise InvalidConfig("patternProperties is not supported", self._field)
        if not isinstance(value, str):
            return
        if key in {"$schema", "$id"}:
            raise InvalidConfig(f"{key} may stand at the top of the schema only", self._field)
        if key == "pattern" and value not in self._patterns:
            self._patterns[value] = compile_pattern(value, self._field)
        if key in {"$ref", "$dynamicRef"}:
            self._refs.add(value)

    def _require_sound(self, root: dict[str, Any]) -> None:
        """Every reference points to something, and the simplest value can be checked."""
        resolver = Registry[Any]().resolver_with_root(DRAFT202012.create_resource(root))
        for ref in sorted(self._refs):
            try:
                resolver.lookup(ref)
            except Unresolvable as exc:
                raise InvalidConfig(f"$ref {ref!r} points to nothing in the schema", self._field) from exc
        try:
            self._first_error(None)
        except (RecursionError, _TooMuchWork) as exc:
            raise InvalidConfig("checking against the schema would not end", self._field) from exc

    def _first_error(self, value: Any) -> ValidationError | None:
        self._steps = 0
        return next(self._validator.iter_errors(value), None)

    def _metered(self, check: Keyword) -> Keyword:
        def metered(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError] | None:
            self._steps += 1
            if self._steps > MAX_STEPS:
                raise _TooMuchWork
            return check(validator, value, instance, schema)

        return metered

    def _pattern(self, validator: Any, value: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not self._patterns[value].is_found_in(instance):
            yield ValidationError(f"{instance!r} does not match {value!r}")


def _unique_items(validator: Any, value: bool, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """In time linear in the items; parse_json leaves only one way to write a number."""
    if value and isinstance(instance, list):
        written = {json.dumps(item, sort_keys=True) for item in instance}
        if len(written) < len(instance):
            yield ValidationError("the items are not unique")


def parse_json(text: str) -> Any:
    """The value. Numbers without a fraction are integers. Raises ValueError, also for NaN and for deep nesting."""
    try:
        value = json.loads(text, parse_float=_number, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    level: Sequence[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [child for node in level for child in _children(node)]
        if not level:
            return value
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def _children(node: Any) -> Sequence[Any]:
    match node:
        case dict():
            return list(node.values())
        case list():
            return node
        case _:
            return ()


def _number(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() else number


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def is_json_text(text: str) -> bool:
    """Whether the whole text is a JSON object or array; a lone number or string is taken for prose."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


def json_blocks(text: str) -> list[str | None]:
    """What stands in the fences marked `json`, in order; None for one that is left open."""
    blocks: list[str | None] = []
    lines: list[str] = []
    ticks, is_marked = "", False
    for line in text.split("\n"):
        fence = FENCE.fullmatch(line.rstrip("\r"))
        if not ticks:
            if fence:
                ticks, lines = fence["ticks"], []
                is_marked = fence["info"].strip().lower().split(" ")[0] == "json"
        elif fence and not fence["info"].strip() and len(fence["ticks"]) >= len(ticks):
            blocks += ["\n".join(lines)] if is_marked else []
            ticks = ""
        else:
            lines.append(line)
    return [*blocks, None] if ticks and is_marked else blocks


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
