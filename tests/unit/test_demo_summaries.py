"""The offline policy model shortens a message by what its prompt says, and by nothing else."""

import pytest

from promptjobs.demo.policy_model import answer

WEAK = "Summarize the customer message in a few words."
TEXT = "yesterday I walked along the river with my dog and a big red kite flew over the bridge"


def ask(system: str, message: str = TEXT, *turns: tuple[str, str]) -> str:
    messages = [{"role": "system", "content": system}]
    for asked, reply in turns:
        messages += [
            {"role": "user", "content": f"Customer message: {asked}"},
            {"role": "assistant", "content": reply},
        ]
    return answer([*messages, {"role": "user", "content": f"Customer message: {message}"}])


@pytest.mark.parametrize(
    "wish",
    [
        WEAK,
        "Shorten the text.",
        "Say what the customer wants.",
        "Extract the facts.",
        "Write it in five words.",
        "Key words:",
    ],
)
def test_a_prompt_without_labels_that_asks_for_less_gets_a_summary(wish: str):
    summary = ask(wish)
    assert set(summary.split()) <= set(TEXT.split())
    assert 0 < len(summary.split()) < len(TEXT.split()) / 2


def test_a_prompt_with_labels_gets_a_label_whatever_else_it_asks():
    assert ask(f"{WEAK} Answer with the label only. Labels: red_box, blue_box. red_box: kites.") == "red_box"


def test_a_weak_prompt_loses_what_stands_late():
    assert "kite" not in ask(WEAK)


@pytest.mark.parametrize("rule", ["Keep every kite and bridge.", "Always say whether there was a kite on a bridge."])
def test_what_the_instruction_speaks_of_is_kept(rule: str):
    assert ask(f"{WEAK} {rule}") == "yesterday kite bridge"


def test_what_is_to_be_left_out_is_left_out():
    assert "yesterday" in ask(WEAK)
    assert "yesterday" not in ask(f"{WEAK} Ignore yesterday.")


@pytest.mark.parametrize(("wish", "words"), [("at most six words", 6), ("in 4 words", 4), ("up to ten words", 10)])
def test_the_length_is_what_is_asked_for(wish: str, words: int):
    assert len(ask(f"Summarize the message {wish}.").split()) == words


def test_demonstrations_teach_which_words_to_keep_and_how_many():
    turns = [
        ("a red kite above the town hall", "red kite town"),
        ("my neighbour has lost a red kite in a tree", "red kite tree"),
    ]
    learnt = ask(WEAK, TEXT, *turns)
    assert {"red", "kite"} <= set(learnt.split())
    assert len(learnt.split()) == 3


def test_a_demonstration_teaches_words_that_its_message_does_not_have():
    turns = [("the sparrow sang in the hedge", "a bird: sparrow sang"), ("we ate soup and bread", "a meal: soup")]
    assert ask(WEAK, "a sparrow in the hedge again", *turns).startswith("bird: ")
    assert ask(WEAK, "hot soup with bread", *turns).startswith("meal: ")
    assert ":" not in ask(WEAK, "the sea was calm", *turns)


def test_demonstrations_in_the_text_teach_as_those_in_messages_do():
    shown = [("a red kite above the town hall", "toy: red kite"), ("a boat on the lake", "travel: boat lake")]
    text = "\n\n".join(f"Input: Customer message: {asked}\nOutput: {reply}" for asked, reply in shown)
    for message in (TEXT, "a boat", "a red town hall"):
        assert ask(f"{WEAK}\n\n# Worked examples\n\n{text}", message) == ask(WEAK, message, *shown)


def test_the_line_of_a_list_that_a_message_is_about_is_named_in_front():
    rules = f"{WEAK}\n- Toys: kites, balls, dolls or puzzles.\n- A river, bridge, boat or harbour nearby."
    assert ask(rules, "a doll with a ball") == "kites balls dolls puzzles: doll ball"
    assert ask(rules, "the boat left the harbour") == "river bridge boat harbour: boat left harbour"
    assert ":" not in ask(rules, "a kite on a bridge")


def test_a_negation_stays_with_its_word():
    assert ask(f"{WEAK} Say whether it has arrived.", "the big parcel with the red ribbon hasn't arrived") == (
        "big parcel not arrived"
    )


def test_a_crowded_prompt_is_followed_less():
    rules = "Keep every kite and bridge."
    noise = "\n".join(f"{turn}. We opened our {turn}th branch in a town by the sea." for turn in range(400))
    assert ask(f"{WEAK} {rules}") == "yesterday kite bridge"
    assert ask(f"{WEAK} {rules}\n{noise}") != "yesterday kite bridge"


def test_nothing_to_say_is_said():
    assert ask(WEAK, "it was I") == "nothing in particular"
