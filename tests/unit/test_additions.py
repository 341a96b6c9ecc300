"""What a proposed text adds to the text it was asked to improve."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptjobs.core.line_merging import normalised
from promptjobs.core.proposers.additions import additions_of

LAW = settings(deadline=None, derandomize=True, max_examples=150)

PLAIN = ["one", "- one.", "two", "three", "* Four", "", "---", "Say {q}."]
LINES = st.sampled_from([*PLAIN, "# Rules", "## More", "Labels:", "```json", "```"])
TEXTS = st.lists(LINES, max_size=10).map("\n".join)


def new_lines(base: str, text: str) -> set[str]:
    return {normalised(line) for line in text.split("\n")} - {normalised(line) for line in base.split("\n")} - {""}


@pytest.mark.parametrize(
    ("base", "proposed", "added"),
    [
        ("one\ntwo", "one\ntwo", ""),
        ("one\ntwo", "two", ""),
        ("", "one", "one"),
        ("one", "one\ntwo", "two"),
        ("one", "zero\none\ntwo", "zero\ntwo"),
        ("- One!\ntwo", "* one\n2. Two", ""),
        ("one", "one\ntwo\n- Two.", "two"),
        ("one", "one\n\n\n\ntwo\n\n", "two"),
        ("one", "two\n\none\n\nthree", "two\n\nthree"),
        ("one", "one\r\ntwo  \r\n", "two"),
    ],
)
def test_the_lines_that_say_something_new_are_added(base: str, proposed: str, added: str) -> None:
    assert additions_of(base, proposed) == added


@pytest.mark.parametrize(
    ("base", "proposed", "added"),
    [
        ("one", "# Rules\none", ""),
        ("one", "one\n# Rules\n\n", ""),
        ("one", "# Task\none\n# Rules\ntwo", "# Rules\ntwo"),
        ("one", "# Task\n## Rules\none\ntwo", "# Task\n## Rules\ntwo"),
        ("one", "## Rules\none\n# Task\ntwo", "# Task\ntwo"),
        ("Labels:\n- a: x\nEnd.", "Labels:\n- a: x\n- b: y\nEnd.", "Labels:\n- b: y"),
        ("one", "Rules:\none\nForm:\ntwo\nthree", "Form:\ntwo\nthree"),
        ("one", "two\n# Rules\nthree", "two\n\n# Rules\nthree"),
        ("one", "Say all of what there is to say about what follows here:\none", None),
    ],
)
def test_headings_stay_where_they_introduce_something_new(base: str, proposed: str, added: str | None) -> None:
    """A long line with a colon is no heading."""
    assert additions_of(base, proposed) == (proposed.split("\n")[0] if added is None else added)


def test_a_fenced_block_is_added_as_a_whole() -> None:
    block = '```json\n{"label": "x"}\n\n{"label": "y"}\n```'
    assert additions_of('Answer.\n{"label": "x"}', f"Answer.\n{block}\nNo more.") == f"{block}\nNo more."
    assert additions_of(f"Answer.\n{block}", f"Answer!\n{block}") == ""


def test_a_placeholder_is_not_added_a_second_time() -> None:
    assert additions_of("Read {q}.", "Take {q} and read it.\nThink of {x}.") == "Think of {x}."


@LAW
@given(TEXTS)
def test_a_text_adds_nothing_to_itself(text: str) -> None:
    assert additions_of(text, text) == ""


@LAW
@given(TEXTS, TEXTS)
def test_additions_come_from_the_proposal_and_beside_headings_and_blocks_none_of_them_is_old(
    base: str, proposed: str
) -> None:
    added = additions_of(base, proposed)
    assert {line for line in added.split("\n") if line} <= {line.rstrip() for line in proposed.split("\n")}
    assert bool(added) <= bool(new_lines(base, proposed))
    if "```" not in proposed:
        old = {normalised(line) for line in base.split("\n")}
        rest = [line for line in added.split("\n") if line and not line.startswith("#") and not line.endswith(":")]
        assert not [line for line in rest if normalised(line) in old]


@LAW
@given(TEXTS, TEXTS)
def test_nothing_new_is_lost_but_headings_of_nothing_and_lines_with_placeholders(base: str, proposed: str) -> None:
    if "```" in proposed:
        return
    lost = new_lines(base, proposed) - {normalised(line) for line in additions_of(base, proposed).split("\n")}
    assert lost <= {normalised(line) for line in ("# Rules", "## More", "Labels:", "Say {q}.")}
    assert normalised("Say {q}.") not in lost or "{q}" in base


@LAW
@given(TEXTS, TEXTS)
def test_additions_add_nothing_to_themselves(base: str, proposed: str) -> None:
    added = additions_of(base, proposed)
    assert additions_of(f"{base}\n{added}", proposed) == ""
