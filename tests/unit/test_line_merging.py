"""Merging lines: laws over random edits, and the cases that prompts bring."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptjobs.core.line_merging import apply_additions, normalised, three_way

LAW = settings(deadline=None, derandomize=True, max_examples=100)

WORDS = ("alpha", "Beta.", "- gamma", "delta one", "2) delta two", "", "# Zeta", "eta theta iota")

texts = st.lists(st.sampled_from(WORDS), max_size=8).map("\n".join)


def lines(text: str) -> list[str]:
    return text.rstrip("\n").split("\n") if text.rstrip("\n") else []


def is_within(part: list[str], whole: list[str]) -> bool:
    """Whether the lines of `part` stand in `whole`, in their order."""
    rest = iter(whole)
    return all(line in rest for line in part)


@st.composite
def edits(draw: st.DrawFn, only_additions: bool = False) -> tuple[str, str, str]:
    """A text of distinct lines and two edits of it; each added line says something of its own."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    base = [f"line {n}" for n in range(draw(st.integers(0, 8)))]

    def edited(who: str) -> str:
        side: list[str] = []
        for n, line in enumerate([*base, None]):
            while rng.random() < 0.3:
                side.append(f"{who} {n} {len(side)}")
            if line is not None and (only_additions or rng.random() < 0.8):
                side.append(line)
        return "\n".join(side)

    return "\n".join(base), edited("ours"), edited("theirs")


# --- three_way -------------------------------------------------------------------------------------------------------


@LAW
@given(texts, texts)
def test_an_edit_merged_with_none_is_that_edit(base: str, edit: str) -> None:
    assert three_way(base, edit, base) is None
    assert three_way(base, edit, edit) is None
    merged = three_way(base, base, edit)
    assert lines(edit) == (lines(base) if merged is None else lines(merged))


@LAW
@given(edits(only_additions=True))
def test_what_both_sides_add_is_all_there_in_their_order(sides: tuple[str, str, str]) -> None:
    base, ours, theirs = sides
    merged = three_way(base, ours, theirs)
    if merged is None:
        assert theirs == base
    else:
        assert is_within(lines(ours), lines(merged))
        assert is_within(lines(theirs), lines(merged))
        assert len(lines(merged)) == len(lines(ours)) + len(lines(theirs)) - len(lines(base))


@LAW
@given(edits())
def test_a_merge_has_all_that_was_added_and_nothing_that_was_deleted(sides: tuple[str, str, str]) -> None:
    base, ours, theirs = (lines(side) for side in sides)
    merged = three_way(*sides)
    if merged is None:
        return
    kept = set(base) & set(ours) & set(theirs)
    assert set(lines(merged)) == kept | (set(ours) - set(base)) | (set(theirs) - set(base))
    for side in (ours, theirs):
        assert is_within([line for line in side if line in kept or line not in base], lines(merged))


@LAW
@given(texts, texts, texts)
def test_no_line_comes_from_nowhere(base: str, ours: str, theirs: str) -> None:
    merged = three_way(base, ours, theirs)
    if merged is not None:
        assert set(lines(merged)) <= set(lines(ours)) | set(lines(theirs))
        assert merged != ours


def test_rules_that_say_the_same_are_kept_once() -> None:
    base = "You sort letters.\n\nRules:\n- Be brief."
    ours = base + "\n- Refunds go to billing."
    theirs = base + "\n* refunds go to Billing\n* Threats go to legal."
    assert three_way(base, ours, theirs) == ours + "\n* Threats go to legal."


def test_a_side_that_only_says_it_otherwise_adds_nothing() -> None:
    assert three_way("Rules:\nGo!", "Rules:\n\n- Be brief.\nGo!", "Rules:\n\n\n1. be brief\nGo!") is None


def test_a_separator_that_both_inserted_is_kept_once() -> None:
    assert three_way("a\nb", "a\n\nb\nc", "a\n\nb\nd") == "a\n\nb\nc\nd"


def test_deletions_of_both_sides_are_carried_out() -> None:
    assert three_way("a\nb\nc\nd", "a\nc\nd", "a\nb\nc") == "a\nc"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("a\nX\nc", "a\nY\nc"), ("a\nX\nc", "a\nc"), ("a\nc", "a\nY\nc")],
    ids=["both reworded", "they deleted", "we deleted"],
)
def test_what_both_touched_differently_is_a_clash(ours: str, theirs: str) -> None:
    assert three_way("a\nb\nc", ours, theirs) is None


def test_a_line_that_both_reworded_alike_is_no_clash() -> None:
    assert three_way("a\nb\nc", "a\nNew rule.\nc", "a\n- new rule\nc\nd") == "a\nNew rule.\nc\nd"


def test_each_line_of_a_reworded_block_can_clash_by_itself() -> None:
    assert three_way("a\nb\nc", "A1\nb\nc", "a\nb\nC1\nD1") == "A1\nb\nC1\nD1"


def test_a_placeholder_is_neither_lost_nor_doubled() -> None:
    base = "Sort this.\nText: {text}"
    assert three_way(base, base + "\nBe brief.", "Sort this.") is None
    assert three_way("a\n{text}\nb", "{text}\na\nb", "a\nb\nText: {text}") is None
    merged = three_way(base, "Sort this well.\nText: {text}", base + "\nAnswer with {label}.")
    assert merged == "Sort this well.\nText: {text}\nAnswer with {label}."


def test_line_ends_are_those_of_ours() -> None:
    assert three_way("a\n", "a\nb\n", "a\r\nc\r\nd") == "a\nb\nc\nd\n"
    assert three_way("a\nz\n", "b\na\nz\n", "a\r\nz\r\nd") == "b\na\nz\nd\n"
    assert three_way("a\nz", "b\na\nz", "a\nz\nd\n") == "b\na\nz\nd"


@pytest.mark.parametrize(
    ("line", "same"),
    [
        ("- Be brief.", "be brief"),
        ("12) **Be** brief!", "Be  brief"),
        ("# Rules:", "Rules"),
        ("---", ""),
        ("• it’s fine", "It's fine"),
    ],
)
def test_bullets_case_and_punctuation_do_not_count(line: str, same: str) -> None:
    assert normalised(line) == normalised(same)


@pytest.mark.parametrize(("line", "other"), [("<text>", "</text>"), ("{text}", "text"), ("x > 5", "x < 5")])
def test_tags_placeholders_and_comparisons_do_count(line: str, other: str) -> None:
    assert normalised(line) != normalised(other)


# --- apply_additions -------------------------------------------------------------------------------------------------


@LAW
@given(texts, texts)
def test_all_that_is_proposed_stands_there_in_its_order(base: str, proposed: str) -> None:
    assert is_within(lines(proposed), lines(apply_additions(base, proposed)))


@LAW
@given(edits())
def test_lines_that_were_merely_dropped_are_kept(sides: tuple[str, str, str]) -> None:
    """A new line takes the place of one old line at most."""
    base, _, proposed = sides
    old, new, merged = lines(base), lines(proposed), lines(apply_additions(base, proposed))
    assert set(merged) <= set(old) | set(new)
    assert is_within([line for line in old if line in merged], merged)
    assert len(set(old) - set(merged)) <= len(set(new) - set(old))
    without_additions = "\n".join(line for line in new if line in old)
    assert apply_additions(base, without_additions) == base


@LAW
@given(edits(only_additions=True))
def test_a_proposal_that_drops_nothing_is_taken_as_it_is(sides: tuple[str, str, str]) -> None:
    base, _, proposed = sides
    assert lines(apply_additions(base, proposed)) == lines(proposed)


PROMPT = """\
You route letters of a bank to one of its teams.

Rules:
- Refunds go to billing.
- Threats go to legal.
- Praise goes to nobody.

Letter: {letter}
Answer with one word."""


def test_a_rewrite_that_collapses_a_long_prompt_adds_what_is_new_and_loses_nothing() -> None:
    proposed = "Rules:\n- Lost cards go to security."
    merged = apply_additions(PROMPT, proposed)
    assert is_within(lines(PROMPT), lines(merged))
    assert merged == PROMPT.replace("Rules:", "Rules:\n- Lost cards go to security.")


def test_a_reworded_line_takes_the_place_of_the_old_one() -> None:
    proposed = "Rules:\n- Refunds and chargebacks go to billing.\n- Lost cards go to security."
    merged = apply_additions(PROMPT, proposed)
    assert merged == PROMPT.replace(
        "- Refunds go to billing.", "- Refunds and chargebacks go to billing.\n- Lost cards go to security."
    )


def test_a_line_that_was_moved_is_not_said_twice() -> None:
    proposed = "Answer with one word.\nLetter: {letter}\nRules:\n- threats go to legal"
    merged = lines(apply_additions(PROMPT, proposed))
    assert [normalised(line) for line in merged].count("threats go to legal") == 1
    assert merged.count("Answer with one word.") == 1
    assert sum("{letter}" in line for line in merged) == 1
    assert {"- Refunds go to billing.", "- Praise goes to nobody."} <= set(merged)


def test_a_placeholder_that_was_moved_is_not_doubled() -> None:
    merged = apply_additions(PROMPT, "This is it: {letter}\nYou route letters of a bank to one of its teams.")
    assert merged.count("{letter}") == 1
    assert "- Threats go to legal." in merged


def test_a_placeholder_that_the_proposal_forgot_stays() -> None:
    assert "Letter: {letter}" in apply_additions(PROMPT, PROMPT.replace("Letter: {letter}", "Letter: see below"))
    assert apply_additions("Sort {text} now", "Sort it now") == "Sort {text} now\nSort it now"
