"""Guards: each refuses what it is for, and lets pass what it is not for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptjobs.core.guards import Breach, Guards, Violation
from promptjobs.core.json_contract import MAX_STEPS, JsonContract, json_blocks
from promptjobs.core.leaks import Leaks, words
from promptjobs.core.prompt import PromptTemplate, Section
from promptjobs.core.text_patterns import compile_pattern
from promptjobs.errors import InvalidConfig

DEMONSTRATIONS = "\n\n# Examples\n"
SYSTEM = 'Classify the query.\nNever give advice.\nAnswer with JSON:\n```json\n{"label": "x"}\n```\n'
SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}
EXAMPLE = "my parcel never came and the driver says that he left it with a neighbour i do not know"
NAMES = ("system", "user")


@dataclass(frozen=True)
class Rules:
    max_tokens: int | None = None
    max_growth: float | None = None
    frozen: Sequence[str] = ()
    must_match: Sequence[str] = ()
    must_not_match: Sequence[str] = ()
    json_schema: Mapping[str, Any] | None = None
    leak_ngram: int | None = None


ALL = Rules(200, 1.5, ("Never give advice.",), ("(?i)json",), (r"(?i)\bi'm sorry\b",), SCHEMA, 12)


def prompt(system: str = SYSTEM, user: str = "Query: {query}", wildcards: Mapping[str, bool] | None = None):
    sections = (Section("system", "system", system, 0), Section("user", "user", user, 1))
    return PromptTemplate(sections, {"query": True, "labels": False} if wildcards is None else wildcards)


def own_text(text: str) -> str:
    return text.split(DEMONSTRATIONS)[0]


def in_words(text: str) -> int:
    return len(text.split())


def guards(rules: Rules, baseline: PromptTemplate | None = None) -> Guards:
    return Guards(rules, prompt() if baseline is None else baseline, in_words, own_text)


def breach(rules: Rules, child: PromptTemplate, baseline: PromptTemplate | None = None) -> Breach | None:
    baseline = prompt() if baseline is None else baseline
    found = guards(rules, baseline).check(child, baseline, NAMES)
    return found and found.reason


# --- structure, placeholders, frozen spans


@pytest.mark.parametrize(
    "child",
    [
        PromptTemplate(prompt().sections[:1], prompt().wildcards),
        PromptTemplate(prompt().sections[::-1], prompt().wildcards),
        PromptTemplate((Section("system", "developer", SYSTEM, 0), prompt().sections[1]), prompt().wildcards),
        prompt(wildcards={"query": True}),
        prompt(wildcards={"query": False, "labels": False}),
    ],
)
def test_sections_and_wildcards_are_the_baselines(child: PromptTemplate) -> None:
    assert breach(Rules(), child) is Breach.SECTIONS


@pytest.mark.parametrize(
    ("system", "user", "held"),
    [
        (SYSTEM, "Query:", False),
        (SYSTEM, "{query} {query}", False),
        (SYSTEM + "{query}", "Query:", False),
        (SYSTEM + "{labels}", "Query: {query}", False),
        (SYSTEM + DEMONSTRATIONS + "what is {query}?", "Query: {query}", False),
        (SYSTEM + "{other} and {", "A {query} to be classified", True),
    ],
)
def test_each_section_keeps_its_placeholders(system: str, user: str, held: bool) -> None:
    assert breach(Rules(), prompt(system, user)) is (None if held else Breach.PLACEHOLDERS)


@pytest.mark.parametrize(
    ("system", "held"),
    [
        ("New words. Never give advice. More.", True),
        ("Never give advice. Never give advice.", True),
        ("never give advice.", False),
        ("Never give  advice.", False),
        ("New words." + DEMONSTRATIONS + "Never give advice.", False),
    ],
)
def test_a_frozen_span_stays_where_it_stands(system: str, held: bool) -> None:
    child = prompt(system, "Never give advice. {query}")
    assert breach(Rules(frozen=("Never give advice.",)), child) is (None if held else Breach.FROZEN)


def test_a_frozen_span_stays_as_often_as_it_stands() -> None:
    found = guards(Rules(frozen=("one",)), prompt("one two one")).check(prompt("one two"), prompt(), ["system"])
    assert found == Violation(Breach.FROZEN, "system: 'one' stands 1 times, at least 2")


@pytest.mark.parametrize("span", ["", "never give advice."])
def test_a_span_that_the_baseline_lacks_is_refused(span: str) -> None:
    with pytest.raises(InvalidConfig, match=r"gepa\.guards\.frozen"):
        guards(Rules(frozen=(span,)))


# --- lengths


@pytest.mark.parametrize(("words_added", "expected"), [(5, None), (6, Breach.TOO_LONG)])
def test_the_whole_prompt_has_at_most_so_many_tokens(words_added: int, expected: Breach | None) -> None:
    rules = Rules(max_tokens=2 + 2 + 5)
    baseline = prompt("two words")
    assert breach(rules, prompt("two words" + " more" * words_added), baseline) is expected
    # The mark of the demonstrations has two words itself.
    assert breach(rules, prompt("two words" + DEMONSTRATIONS + "x " * (words_added - 2)), baseline) is expected


def test_demonstrations_are_no_growth() -> None:
    rules, baseline = Rules(max_growth=1.5), prompt("two words")
    assert breach(rules, prompt("two words" + DEMONSTRATIONS + "x " * 50), baseline) is None
    assert breach(rules, prompt("two words and two"), baseline) is None
    assert breach(rules, prompt("two words and two more"), baseline) is Breach.GREW


# --- patterns


@pytest.mark.parametrize(("system", "expected"), [("Give a LABEL", None), ("Give a name", Breach.NOT_MATCHED)])
def test_a_required_pattern_stays_where_the_baseline_holds_it(system: str, expected: Breach | None) -> None:
    rules, baseline = Rules(must_match=("(?i)label",)), prompt("The label:")
    assert breach(rules, prompt(system), baseline) is expected
    assert breach(rules, prompt("The label:", "What is {query}?"), baseline) is None


def test_a_required_pattern_that_the_baseline_lacks_binds_every_changed_section() -> None:
    rules, baseline = Rules(must_match=("label",)), prompt("Answer")
    assert breach(rules, prompt("Answer with a label", "{query}"), baseline) is Breach.NOT_MATCHED
    assert breach(rules, prompt("Answer with a label"), baseline) is None


@pytest.mark.parametrize(
    ("system", "expected"),
    [("Use GPT", Breach.MATCHED), ("Use it", None), ("Use it" + DEMONSTRATIONS + "Use GPT", None)],
)
def test_a_forbidden_pattern_may_not_appear_in_an_instruction(system: str, expected: Breach | None) -> None:
    assert breach(Rules(must_not_match=("(?i)use gpt",)), prompt(system)) is expected


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(", "missing"),
        ("(?=a)", "perl operator"),
        (r"(a)\1", "escape"),
        ("a{2000}", "repetition"),
        ("(.*){1000}", "smaller repetitions"),
        ("\ud800", "Unicode"),
        ("a" * 2001, "2000 characters"),
    ],
)
def test_a_pattern_that_cannot_be_bounded_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(InvalidConfig, match=said):
        guards(Rules(must_match=(pattern,)))


def test_a_pattern_that_backtracks_without_end_elsewhere_is_answered() -> None:
    assert not compile_pattern("(a+)+$").is_found_in("a" * 20_000 + "b")


@given(st.text(), st.sampled_from(["a", "é+", "^$", r"\d\d", "[A-Z]{2,}", "(?s)a.*b", "x|y", "\x00", "[^a]"]))
def test_patterns_find_what_python_finds(text: str, pattern: str) -> None:
    simple = pattern.replace("$", r"\Z")
    flags = re.ASCII if r"\d" in pattern else 0
    assert compile_pattern(pattern).is_found_in(text) == bool(re.search(simple, text, flags))


# --- JSON


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ('A\n```json\n{"label": "y", "more": 1}\n```\nB', None),
        ('A\n```json\n{"label": "y"}\n```\n  ```JSON title\n  {"label": 1}\n  ```', Breach.JSON),
        ("A\n```json\n{}\n```", Breach.JSON),
        ('A\n```json\n{"label": "y",}\n```', Breach.JSON),
        ('A\n```json\n{"label": "y"}', Breach.JSON),
        ("A\n```python\n{}\n```\n{}", None),
        ('{"label": 3}', Breach.JSON),
        ('{"label": "3"}', None),
        ("{label} and nothing else", None),
        ("[3", None),
    ],
)
def test_json_parses_and_fits_its_schema(system: str, expected: Breach | None) -> None:
    assert breach(Rules(json_schema=SCHEMA), prompt(system)) is expected


@pytest.mark.parametrize(("text", "expected"), [("[1, 2]", None), ("[1, 2", Breach.JSON), ("1, 2", Breach.JSON)])
def test_what_is_json_in_the_baseline_stays_so(text: str, expected: Breach | None) -> None:
    assert breach(Rules(json_schema={"type": "array"}), prompt(text), prompt("[1]")) is expected


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"pattern": r"^\d+$"}, '"12"', '"a12"'),
        ({"uniqueItems": True}, '[1, true, "1", {"a": 1, "b": 2}]', '[{"a": 1, "b": 2}, {"b": 2.0, "a": 1}]'),
        ({"type": "integer"}, "3.0", "3.5"),
        ({"$defs": {"n": {"type": "null"}}, "items": {"$ref": "#/$defs/n"}}, "[null]", "[1]"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "null"}]}, "[null]", "[1]"),
        ({"type": "array", "items": {"$ref": "#"}}, "[[], [[]]]", "[[], [3]]"),
        ({}, "[" * 32 + "]" * 32, "[" * 34 + "]" * 34),
        ({}, "1e99", "NaN"),
        ({}, "1", "[" * 5000),
    ],
)
def test_schemas_mean_what_json_schema_says(schema: dict[str, Any], good: str, bad: str) -> None:
    contract = JsonContract(schema)
    assert contract.violation(good, is_json=True) is None
    assert contract.violation(bad, is_json=True) is not None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "text"},
        {"pattern": "(?=a)"},
        {"patternProperties": {"a": {}}},
        {"$ref": "http://127.0.0.1:9/schema"},
        {"$ref": "file:///etc/hostname"},
        {"$ref": "#/$defs/none"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}}},
        {"allOf": [{"$ref": "#"}]},
        {"$schema": "http://127.0.0.1:9/draft"},
        {"properties": {"a": {"$schema": "https://json-schema.org/draft/2020-12/schema"}}},
        {"properties": {"a": {"$id": "other"}}},
        {"enum": ["a" * 50_000]},
        {"enum": [{1}]},
    ],
)
def test_a_schema_that_is_wrong_or_unbounded_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig, match=r"gepa\.guards\.json_schema"):
        guards(Rules(json_schema=schema))


def test_a_schema_that_branches_without_end_is_cut_short() -> None:
    deep: dict[str, Any] = {"a0": {"type": "string"}}
    deep |= {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n - 1}"}] * 2} for n in range(1, 30)}
    contract = JsonContract({"properties": {"a": {"$ref": "#/$defs/a29"}}, "$defs": deep})
    assert contract.violation('{"a": 1}', is_json=True) == f"the text takes more than {MAX_STEPS} steps to check"
    assert contract.violation('{"b": 1}', is_json=True) is None


@given(st.lists(st.text(st.sampled_from("a{}[]`\n "), max_size=12), max_size=4))
def test_fenced_blocks_are_found_whole(bodies: list[str]) -> None:
    text = "".join(f"`````json\n{body.replace('`', '')}\n`````\ntext\n" for body in bodies)
    assert json_blocks(text) == [body.replace("`", "") for body in bodies]


# --- leaks


def leaked(child: str, parent: str = "Classify the query.", examples: Sequence[str] = (EXAMPLE,)) -> Violation | None:
    checked = guards(Rules(leak_ngram=12), prompt(parent))
    checked.learn(examples)
    return checked.check(prompt(child), prompt(parent), NAMES)


def test_an_example_copied_into_an_instruction_is_refused() -> None:
    copied = "My parcel never came, and: the driver says -- that he\nleft it"
    found = leaked(f"For instance “{copied}” is a complaint.")
    assert found == Violation(Breach.LEAK, f"system holds {copied!r}")


@pytest.mark.parametrize(
    "child",
    [
        "A parcel never came and the driver says that he left it.",
        "Classify." + DEMONSTRATIONS + EXAMPLE,
        "The driver left it with a neighbour: my parcel never came.",
        "",
    ],
)
def test_what_is_not_copied_into_an_instruction_passes(child: str) -> None:
    assert leaked(child) is None


def test_what_the_parent_or_the_baseline_holds_is_no_leak() -> None:
    assert leaked("Better: " + EXAMPLE, parent=EXAMPLE) is None
    checked = guards(Rules(leak_ngram=12), prompt(EXAMPLE))
    checked.learn([EXAMPLE])
    assert checked.check(prompt(EXAMPLE), prompt("Classify."), NAMES) is None


def test_what_many_examples_share_is_no_leak() -> None:
    form = "Answer the question below with one of the four options that it lists, and nothing else."
    examples = [f"{form} Question {n}: what is the capital of country number {n}?" for n in range(3)]
    assert leaked(form, examples=examples[:1]) is not None
    assert leaked(form, examples=examples[:1] * 3) is not None
    assert leaked(form, examples=[*examples[:2], EXAMPLE]) is not None
    assert leaked(form, examples=examples[:2]) is None
    assert leaked(form, examples=examples) is None
    assert leaked(examples[0], examples=examples) is not None


def test_chinese_is_compared_by_characters() -> None:
    example = "我的包裹一直没有到，司机说他把它放在邻居那里了"
    assert leaked("例如：我的包裹一直没有到司机说他。", examples=[example]) is not None
    assert leaked("例如：我的包裹一直没有到。", examples=[example]) is None


@given(st.data())
def test_a_copy_is_found_if_and_only_if_it_is_long_enough(data: st.DataObject) -> None:
    n = data.draw(st.integers(3, 6))
    example = [f"e{i}" for i in range(10)]
    start = data.draw(st.integers(0, 9))
    copied = example[start : start + data.draw(st.integers(0, 8))]
    around = st.lists(st.sampled_from(["a", "b", "unknown"]), max_size=6)
    between = data.draw(st.sampled_from([" ", ", ", "\n"]))
    text = between.join([*data.draw(around), *(word.upper() for word in copied), *data.draw(around)])
    leaks = Leaks(n)
    leaks.learn([" ".join(example), "a b c", "unlike"])
    found = leaks.find(text)
    assert (found is not None) == (len(copied) >= n)
    assert found is None or words(found) == copied


def test_an_index_of_single_words_finds_a_rare_one() -> None:
    leaks = Leaks(1, ["the order"])
    leaks.learn(["the order AX-17 is late"])
    assert leaks.find("Say when the order is late: AX-18.") == "is late: AX"
    assert leaks.find("The order!") is None


# --- all of them


def test_every_guard_that_is_off_lets_everything_pass() -> None:
    checked = guards(Rules())
    checked.learn([EXAMPLE])
    child = prompt(EXAMPLE * 100 + "```json\n{", "{query} I'm sorry")
    assert checked.check(child, prompt(), NAMES) is None


def test_the_baseline_of_these_tests_keeps_every_guard() -> None:
    assert guards(ALL).check_baseline() is None


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (Rules(max_tokens=3), Breach.TOO_LONG),
        (Rules(max_growth=0.5), Breach.GREW),
        (Rules(must_match=("absent",)), Breach.NOT_MATCHED),
        (Rules(must_not_match=("advice",)), Breach.MATCHED),
        (Rules(json_schema={"type": "array"}), Breach.JSON),
    ],
)
def test_what_the_baseline_breaks_itself_is_told(rules: Rules, reason: Breach) -> None:
    found = guards(rules).check_baseline()
    assert found is not None
    assert found.reason is reason


def test_sections_that_are_not_said_to_be_changed_are_not_read() -> None:
    child = prompt("I'm sorry. Never give advice.")
    assert guards(ALL).check(child, prompt(), ["user", "user:demonstrations"]) is None
    assert breach(ALL, child) is not None


@given(
    st.text(st.sampled_from("ab {}`\n"), max_size=40),
    st.sets(st.sampled_from(NAMES)),
    st.builds(
        Rules,
        max_tokens=st.none() | st.integers(1, 60),
        max_growth=st.none() | st.floats(0.5, 2),
        must_match=st.sampled_from([(), ("a",), ("b+a", "x")]),
        must_not_match=st.sampled_from([(), ("aa",), ("\n",)]),
        json_schema=st.none() | st.just(SCHEMA),
        leak_ngram=st.none() | st.integers(1, 3),
    ),
)
def test_a_child_equal_to_the_baseline_breaks_nothing_that_the_baseline_keeps(
    text: str, changed: set[str], rules: Rules
) -> None:
    baseline = prompt(text)
    checked = guards(rules, baseline)
    checked.learn([text, EXAMPLE, text + EXAMPLE])
    if checked.check_baseline() is None:
        assert checked.check(baseline, baseline, changed) is None
        # Not even where it is taken for a change of something else.
        assert checked.check(baseline, prompt("", ""), changed) is None


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_verdict_follows_from_what_was_learned_alone(system: str, example: str) -> None:
    first, second = guards(ALL), guards(ALL)
    first.learn([example, EXAMPLE])
    second.learn([example])
    second.learn([EXAMPLE, example])
    child = prompt(SYSTEM + system + EXAMPLE)
    found = first.check(child, prompt(), NAMES)
    assert found == second.check(child, prompt(), NAMES) == first.check(child, prompt(), NAMES)
    assert found is not None
