"""Texts of others within our Markdown: whatever they hold, a renderer shows them as they are."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from promptjobs.core.markdown import UNSEEN, bullets, fenced, inline, table

HOSTILE = [
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "![x](http://evil/x.png)",
    "<javascript:alert(1)>",
    "[ref]: javascript:alert(1)",
    "`code` **bold** _em_ ~~gone~~ $x$",
    "# heading",
    "- item",
    "1. item",
    "12) item",
    "+ item",
    "> quote",
    "=== ",
    "---",
    "a | b",
    "\\",
    "a\\|b",
    "&lt;b&gt; &#60;",
    "line\n\n# break",
    "```\nout\n```",
    "snake_case _a_ __b__",
    "www.evil.com http://evil.com a@b.c",
]
NEWLINES = st.text().map(lambda text: text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "\ufffd"))


def shown(markdown: str) -> str:
    """The text that is left when GitHub's flavour, raw HTML allowed, is rendered; fails where there is any mark-up."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    children = [child for token in tokens for child in token.children or []]
    assert {child.type for child in children} <= {"text", "text_special"}
    assert {token.type for token in tokens} <= {"inline", "paragraph_open", "paragraph_close"}
    return "".join(child.content for child in children)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_text(text: str) -> None:
    assert shown(inline(text)) == UNSEEN.sub(" ", text).strip()


@given(st.text(max_size=200))
@example("\\\\")
@example("a\\")
def test_any_text_is_shown_as_it_is(text: str) -> None:
    assert shown(inline(text)) == UNSEEN.sub(" ", text).strip()


@given(st.text(alphabet="`*_[]<>|~&#!-+=.)(1a \\$", max_size=40))
def test_any_marks_are_shown_as_they_are(text: str) -> None:
    assert shown(inline(text)) == UNSEEN.sub(" ", text).strip()


def test_long_text_is_cut() -> None:
    assert inline("x" * 500) == "x" * 300 + "…"


@given(NEWLINES)
@example("```")
@example("````\nend\n```")
@example("~~~\n</pre><script>")
@example("\n\n")
def test_a_fence_holds_any_text_to_the_letter(text: str) -> None:
    tokens = MarkdownIt("commonmark").parse(fenced(text, "diff"))
    assert [(token.type, token.info, token.content) for token in tokens] == [("fence", "diff", text + "\n")]


@given(st.lists(st.tuples(st.text(max_size=30), st.text(alphabet="|\\`a\n ", max_size=10)), min_size=1, max_size=5))
def test_cells_keep_to_their_columns(rows: list[tuple[str, str]]) -> None:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(table(["a", "b"], rows))
    cells = [token.content for token in tokens if token.type == "inline"]
    assert sum(token.type == "tr_open" for token in tokens) == len(rows) + 1
    assert sum(token.type == "td_open" for token in tokens) == 2 * len(rows)
    assert cells[:2] == ["a", "b"]


def test_bullets_are_one_list() -> None:
    tokens = MarkdownIt("commonmark").parse(bullets([inline("1. a"), inline("- b")]))
    assert sum(token.type == "list_item_open" for token in tokens) == 2
    assert sum(token.type in ("bullet_list_open", "ordered_list_open") for token in tokens) == 1
