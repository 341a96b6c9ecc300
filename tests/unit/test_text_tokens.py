"""Token counts: an estimate that is near the known counts of OpenAI's tokenizers, or the tokenizer that is given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptjobs.core.text_tokens import CL100K_BASE, O200K_BASE, TokenCounter, count_tokens, vocabulary_of

# Text, tokens in cl100k_base, tokens in o200k_base: counted once with these tokenizers.
KNOWN = {
    "english": (
        "Every answer begins with one short sentence that names the cause. Then list the steps in the order in which "
        "they are to be taken, each on a line of its own, and end with the one question that you would still like to "
        "ask the customer. Never promise a date.",
        *(56, 56),
    ),
    "json": (
        '{"intent": "refund_request", "confidence": 0.87, "entities": [{"type": "order_id", "value": "A-10423"}, '
        '{"type": "amount", "value": 19.99}], "needs_human": false}',
        *(54, 55),
    ),
    "python": (
        "def accepted(scores: list[float], threshold: float = 0.5) -> list[int]:\n"
        '    """The places of the scores that reach the threshold."""\n'
        "    return [index for index, score in enumerate(scores) if score >= threshold]\n",
        *(49, 50),
    ),
    "markdown": (
        "## Output format\n\n- **label**: one of `billing`, `refund`, `technical`, `other`\n"
        "- **reason**: at most 20 words\n\n| label | when |\n|---|---|\n| billing | invoices, charges, receipts |\n"
        "| refund | money back |\n",
        *(57, 59),
    ),
    "german": (
        "Jede Antwort beginnt mit einem kurzen Satz, der die Ursache nennt. Danach folgen die einzelnen Schritte in "
        "der richtigen Reihenfolge, jeder in einer eigenen Zeile, und am Ende steht die Frage, die noch zu klären "
        "wäre. Versprich niemals ein bestimmtes Datum.",
        *(70, 55),
    ),
    "russian": (
        "Каждый ответ начинается с короткого предложения, в котором названа причина. Затем следуют шаги в правильном "
        "порядке, каждый с новой строки, а в конце вопрос, который ещё стоит задать клиенту. Никогда не обещай точную "
        "дату.",
        *(87, 52),
    ),
    "chinese": (
        "每个回答都以一句说明原因的短句开头。然后按照正确的顺序列出各个步骤，每个步骤单独一行，最后写出还需要向客户提出的问题。"
        "绝对不要承诺具体的日期。",
        *(83, 52),
    ),
    "hindi": (
        "हर उत्तर एक छोटे वाक्य से शुरू होता है जो कारण बताता है। फिर सही क्रम में कदम लिखें, हर कदम अलग पंक्ति में, और अंत में वह प्रश्न जो "
        "ग्राहक से पूछना बाकी है। कभी किसी तारीख का वादा न करें।",
        *(179, 56),
    ),
}
ENGLISH = {"english", "json", "python", "markdown"}


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize(("model", "place"), [("gpt-4", 1), ("gpt-4o", 2)])
def test_the_estimate_is_near_the_known_count(kind: str, model: str, place: int) -> None:
    text, known = str(KNOWN[kind][0]), int(KNOWN[kind][place])
    assert count_tokens(text, model) == pytest.approx(known, rel=0.1 if kind in ENGLISH else 0.21)


def test_over_several_english_texts_the_errors_cancel() -> None:
    counter = TokenCounter("gpt-4")
    texts = [KNOWN[kind] for kind in ENGLISH]
    assert sum(counter.count(str(t[0])) for t in texts) == pytest.approx(sum(int(t[1]) for t in texts), rel=0.05)


@pytest.mark.parametrize(
    ("model", "vocabulary"),
    [
        *((name, CL100K_BASE) for name in ("gpt-4", "gpt-4-turbo", "openai/gpt-3.5-turbo", "text-embedding-3-small")),
        *((name, O200K_BASE) for name in ("gpt-4o-mini", "gpt-4.1-nano", "GPT-5", "o3", "openai/gpt-oss-120b")),
        *((name, O200K_BASE) for name in ("claude-sonnet-4-5", "gemini-2.5-flash", "llama-3.3-70b", "")),
    ],
)
def test_a_model_is_counted_by_its_vocabulary(model: str, vocabulary: object) -> None:
    assert vocabulary_of(model) is vocabulary


def test_a_tokenizer_that_is_given_counts_and_is_asked_once_for_a_text() -> None:
    asked: list[str] = []

    def tokenizer(text: str) -> int:
        asked.append(text)
        return len(text.split())

    counter = TokenCounter("anything", tokenizer)
    assert [counter.count("one two"), counter.count("one two")] == [2, 2]
    assert (counter.is_exact, counter.method, asked) == (True, "tokenizer", ["one two"])


def test_an_estimate_says_that_it_is_one() -> None:
    counter = TokenCounter("gpt-4")
    assert (counter.is_exact, counter.method) == (False, "estimate for cl100k_base")


@given(st.text(max_size=200))
def test_a_count_is_between_none_and_four_for_each_character(text: str) -> None:
    found = count_tokens(text, "gpt-4")
    assert (found == 0) == (not text)
    assert found <= 4 * len(text)


@given(st.lists(st.sampled_from(["Classify the request.", "def f(x):", "grüße", "東京", "12345", "🙂", "--", "don't"])))
def test_lines_count_alike_in_one_text_and_apart(lines: list[str]) -> None:
    """Only what is written across a line's end counts differently, so a section may be counted by itself."""
    whole, parts = count_tokens("\n".join(lines), "gpt-4o"), sum(count_tokens(line, "gpt-4o") for line in lines)
    assert abs(whole - parts) <= 2 * len(lines)
