"""The contract that every candidate must keep with the baseline: what may be lost, added, and how long it may get."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol

from promptjobs.core.json_contract import JsonContract, is_json_text
from promptjobs.core.leaks import Leaks
from promptjobs.core.prompt import PromptTemplate, Section
from promptjobs.core.text_patterns import compile_pattern
from promptjobs.errors import InvalidConfig

SHOWN = 120

NO_LIMITS: Mapping[str, int] = MappingProxyType({})


class Breach(StrEnum):
    """Which term of the contract a candidate breaks."""

    SECTIONS = "the sections or wildcards are not the baseline's"
    PLACEHOLDERS = "placeholders were lost or gained"
    FROZEN = "a frozen span was lost"
    TOO_LONG = "the prompt is too long"
    GREW = "the prompt grew too much"
    NOT_MATCHED = "a required pattern is not found"
    MATCHED = "a forbidden pattern is found"
    JSON = "JSON does not parse or does not fit its schema"
    LEAK = "an example was copied into an instruction"


@dataclass(frozen=True, slots=True)
class Violation:
    """Why a candidate is refused; `detail` names the section and the text in words. module: whose limit is passed."""

    reason: Breach
    detail: str
    module: str = ""


class GuardRules(Protocol):
    """What is checked; None or nothing turns a guard off. Placeholders are always kept.

    max_tokens: of the whole prompt. max_growth: the most tokens as a multiple of the baseline's, without
    demonstrations. frozen: exact spans. must_match, must_not_match: regexes of RE2. json_schema: a JSON Schema.
    leak_ngram: words, at least 1.
    """

    @property
    def max_tokens(self) -> int | None: ...
    @property
    def max_growth(self) -> float | None: ...
    @property
    def frozen(self) -> Sequence[str]: ...
    @property
    def must_match(self) -> Sequence[str]: ...
    @property
    def must_not_match(self) -> Sequence[str]: ...
    @property
    def json_schema(self) -> Mapping[str, Any] | None: ...
    @property
    def leak_ngram(self) -> int | None: ...


def as_it_is(text: str) -> str:
    """The own text of a section that never holds demonstrations."""
    return text


class Guards:
    """Checks whole candidates, wherever they come from: proposals, merges, deltas, demonstrations.

    * Sections, wildcards: names, roles and order are the baseline's. Each section holds the baseline's placeholders,
      each as often, also counting its demonstrations: what they hold in braces would be filled as well.
    * frozen: each span stands as often as in the baseline, or more, in each section that holds it there.
    * max_tokens: of all sections together, demonstrations included; a module may have a limit of its own. max_growth:
      demonstrations excluded.
    * must_match: a pattern binds the sections whose baseline it matches; one that matches in none of them binds every
      section that is changed. must_not_match binds every section.
    * json_schema: a section that is JSON in the baseline must stay so; a text that is JSON, or each block fenced as
      `json` in it, must parse and fit.
    * leak_ngram: what a section gained over the parent holds no run of so many words of a learned example.

    Patterns, JSON and leaks are looked for in the own text, which is the section without its demonstrations, of the
    sections that are said to be changed and whose own text did change.
    """

    def __init__(
        self,
        rules: GuardRules,
        baseline: PromptTemplate,
        count: Callable[[str], int],
        own_text: Callable[[str], str] = as_it_is,
        module_limits: Mapping[str, int] = NO_LIMITS,
        field: str = "gepa.guards",
    ) -> None:
        """count: the tokens of a text. own_text: a section's text without its demonstrations. module_limits: most
        tokens of a module's sections, by its id. field: the rules' path.

        Raises InvalidConfig for a pattern or schema that cannot be used, and for a span that the baseline lacks.
        """
        self._rules, self._baseline, self._count, self._own_text = rules, baseline, count, own_text
        self._module_limits = module_limits
        texts = {section.name: own_text(section.content) for section in baseline.sections}
        self._placeholders = {name: sorted(baseline.placeholders(name)) for name in texts}
        self._frozen = _frozen_counts(rules.frozen, texts, f"{field}.frozen")
        self._baseline_tokens = max(1, sum(count(text) for text in texts.values()))
        required = [compile_pattern(source, f"{field}.must_match") for source in rules.must_match]
        self._forbidden = [compile_pattern(source, f"{field}.must_not_match") for source in rules.must_not_match]
        bound = [(p, {name for name, text in texts.items() if p.is_found_in(text)} or set(texts)) for p in required]
        self._required = {name: [pattern for pattern, names in bound if name in names] for name in texts}
        self._json = None if rules.json_schema is None else JsonContract(rules.json_schema, f"{field}.json_schema")
        self._is_json = {name: is_json_text(text) for name, text in texts.items()}
        self._leaks = None if rules.leak_ngram is None else Leaks(rules.leak_ngram, texts.values())

    def learn(self, examples: Iterable[str]) -> None:
        """Inputs of examples that are known from now on: none may be copied into an instruction."""
        if self._leaks is not None:
            self._leaks.learn(examples)

    def tokens(self, prompt: PromptTemplate) -> int:
        """The tokens of the whole prompt's texts, demonstrations included; placeholders count as they stand."""
        return sum(self._count(section.content) for section in prompt.sections)

    def check_baseline(self) -> Violation | None:
        """What the baseline itself breaks: no child that leaves it as it is could be taken."""
        own = self._baseline
        return self._length(own) or next((v for s in own.sections if (v := self._form(s.name, s.content))), None)

    def check(self, child: PromptTemplate, parent: PromptTemplate, changed: Collection[str]) -> Violation | None:
        """The first violation, the cheapest guards first; changed: names of sections, others are passed over."""
        return next(self._violations(child, parent, changed), None)

    def _violations(
        self, child: PromptTemplate, parent: PromptTemplate, changed: Collection[str]
    ) -> Iterator[Violation]:
        if found := self._structure(child):
            yield found
            return
        for section in child.sections:
            yield from self._kept(section, child)
        if found := self._length(child):
            yield found
        before = {section.name: self._own_text(section.content) for section in parent.sections}
        after = [(s.name, self._own_text(s.content)) for s in child.sections if s.name in changed]
        after = [(name, text) for name, text in after if text != before.get(name)]
        for name, text in after:
            if found := self._form(name, text):
                yield found
        if self._leaks is not None:
            for name, text in after:
                if copied := self._leaks.find(text, before.values()):
                    yield Violation(Breach.LEAK, f"{name} holds {_shown(copied)}")

    def _structure(self, child: PromptTemplate) -> Violation | None:
        ours, theirs = ([(s.name, s.role, s.order) for s in p.sections] for p in (child, self._baseline))
        if ours != theirs:
            return Violation(Breach.SECTIONS, f"expected {theirs}, got {ours}")
        if dict(child.wildcards) != dict(self._baseline.wildcards):
            return Violation(
                Breach.SECTIONS, f"wildcards: expected {dict(self._baseline.wildcards)}, got {dict(child.wildcards)}"
            )
        return None

    def _kept(self, section: Section, child: PromptTemplate) -> Iterator[Violation]:
        name = section.name
        held = sorted(child.placeholders(name))
        if held != self._placeholders[name]:
            yield Violation(Breach.PLACEHOLDERS, f"{name}: expected {self._placeholders[name]}, got {held}")
        for span, least in self._frozen.get(name, ()):
            found = self._own_text(section.content).count(span)
            if found < least:
                yield Violation(Breach.FROZEN, f"{name}: {_shown(span)} stands {found} times, at least {least}")

    def _length(self, prompt: PromptTemplate) -> Violation | None:
        most, growth = self._rules.max_tokens, self._rules.max_growth
        if most is not None and (tokens := self.tokens(prompt)) > most:
            return Violation(Breach.TOO_LONG, f"{tokens} tokens, at most {most}")
        for module, limit in self._module_limits.items():
            if (tokens := self.tokens(prompt.part(module))) > limit:
                return Violation(Breach.TOO_LONG, f"module {module!r}: {tokens} tokens, at most {limit}", module)
        if growth is not None:
            tokens = sum(self._count(self._own_text(section.content)) for section in prompt.sections)
            if tokens > growth * self._baseline_tokens:
                return Violation(Breach.GREW, f"{tokens} tokens, at most {growth:g} × {self._baseline_tokens}")
        return None

    def _form(self, name: str, text: str) -> Violation | None:
        for pattern in self._required[name]:
            if not pattern.is_found_in(text):
                return Violation(Breach.NOT_MATCHED, f"{name}: {_shown(pattern.source)}")
        for pattern in self._forbidden:
            if pattern.is_found_in(text):
                return Violation(Breach.MATCHED, f"{name}: {_shown(pattern.source)}")
        if self._json is not None and (fault := self._json.violation(text, self._is_json[name])):
            return Violation(Breach.JSON, f"{name}: {fault}")
        return None


def _frozen_counts(
    spans: Sequence[str], texts: Mapping[str, str], field: str
) -> dict[str, tuple[tuple[str, int], ...]]:
    """For each section, the spans that it holds and how often."""
    for span in spans:
        if not span or not any(span in text for text in texts.values()):
            raise InvalidConfig(f"{_shown(span)} stands in no section of the prompt", field)
    return {name: tuple((span, text.count(span)) for span in spans if span in text) for name, text in texts.items()}


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")
