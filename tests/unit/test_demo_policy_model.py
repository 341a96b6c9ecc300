"""The offline policy model answers from the words of its prompt alone."""

import pytest

from promptjobs.demo.policy_model import SMALL, WHOLE, Ability, answer
from promptjobs.demo.prompt_reading import find_labels

BARE = "Answer with the label only."
LABELS = "Labels: red_box, blue_box, green_box."
ABILITIES = (("whole", WHOLE), ("small", SMALL))


def ask(system: str, message: str, *turns: tuple[str, str], ability: Ability = WHOLE) -> str:
    messages = [{"role": "system", "content": system}]
    for asked, reply in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
    return answer([*messages, {"role": "user", "content": f"Message: {message}"}], ability)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Labels: red_box, blue_box.", ("red_box", "blue_box")),
        ("Choose `red_box` or `blue_box` for {customer_message}.", ("red_box", "blue_box")),
        ("Categories: billing, lost card, and delivery.", ("billing", "lost card", "delivery")),
        ("Categories:\n- billing: money matters\n- delivery: parcels\n\nBe kind.", ("billing", "delivery")),
        ("Answer with one of: yes | no", ("yes", "no")),
        ("Be kind to everyone.", ()),
    ],
)
def test_labels_are_found_however_they_are_listed(text, labels):
    assert find_labels(text) == labels


@pytest.mark.parametrize(
    "says",
    [
        "blue_box: about elephants and giraffes",
        "- **blue_box** — about elephants and giraffes",
        "`blue_box` means elephants and giraffes.",
        "### blue_box\nAnimals such as elephants and giraffes.",
        "If the message mentions elephants or giraffes, then blue_box.",
        "elephants, giraffes → blue_box",
        "Use blue_box when it speaks of elephants or giraffes.",
        "Message: a herd of elephants\nLabel: blue_box",
        "Input: elephants in a zoo / Label: blue_box",
        '"we saw elephants" -> blue_box',
    ],
)
def test_a_label_is_chosen_for_what_the_prompt_says_of_it(says):
    prompt = f"{LABELS}\n{BARE}\n{says}"
    assert ask(prompt, "I rode on an elephant") == "blue_box"
    swapped = prompt.replace("blue_box", "X").replace("green_box", "blue_box").replace("X", "green_box")
    assert ask(swapped, "I rode on an elephant") == "green_box"


@pytest.mark.parametrize("wrong", ["red_box", "green_box"])
def test_wrong_statements_are_followed_as_faithfully_as_right_ones(wrong):
    assert ask(f"{LABELS}\n{BARE}\n{wrong}: a clear blue sky, blue water", "the blue sky and the water") == wrong


def test_a_negative_rule_speaks_against_its_label():
    both = f"{LABELS}\n{BARE}\nred_box: apples, pears, cherries.\nblue_box: apples, plums."
    assert ask(both, "pears and apples") == "red_box"
    assert ask(f"{both}\nIf pears or apples are mentioned, never red_box.", "pears and apples") == "blue_box"
    assert ask(f"{both}\nPears and apples go to green_box, not red_box.", "pears and apples") == "green_box"


def test_an_exclusion_in_a_definition_speaks_against_the_label_and_for_the_one_it_names():
    prompt = f"{LABELS}\n{BARE}\nred_box: broken glass and plates, not broken clocks (those are green_box)."
    assert ask(prompt, "glass and plates") == "red_box"
    assert ask(prompt, "an old clock") == "green_box"


def test_demonstrations_in_messages_are_imitated():
    turns = [("Message: violins and cellos", "green_box"), ("Message: trumpets", "red_box")]
    assert ask(f"{LABELS}\n{BARE}", "a cello and a violin", *turns) == "green_box"
    assert ask(f"{LABELS}\n{BARE}", "two trumpets", *turns) == "red_box"


def test_instructions_in_the_user_message_count_and_its_query_is_told_apart():
    content = f"{LABELS}\nred_box: horses.\nCustomer message: a fast horse\n\n{BARE}"
    assert answer([{"role": "user", "content": content}]) == "red_box"


@pytest.mark.parametrize(
    ("style", "reply"),
    [
        ("Answer with the label only.", "red_box"),
        ("Reply with exactly one label and nothing else.", "red_box"),
        ("Do not explain.", "red_box"),
        ("Answer in JSON.", '{"label": "red_box"}'),
        ("Write the label only, in upper case.", "RED_BOX"),
    ],
)
def test_the_answer_has_the_form_that_the_prompt_asks_for(style, reply):
    assert ask(f"{LABELS} red_box: horses.\n{style}\nred_box: horses.", "horses") == reply


@pytest.mark.parametrize(
    "style", ["Briefly explain your choice.", "Never answer with only the label.", "Answer in full sentences."]
)
def test_prose_that_is_asked_for_is_given(style):
    reply = ask(f"{LABELS}\nred_box: horses.\n{style}", "horses")
    assert reply == "I think this is about: horses. It looks like a case of red box (red_box)."


def test_without_a_wish_for_a_bare_label_only_clear_cases_get_one():
    assert ask(f"{LABELS}\nred_box: horses, donkeys.", "horses and donkeys") == "red_box"
    assert ask(f"{LABELS}\nred_box: horses.\nblue_box: donkeys.", "horses and donkeys").startswith("I think")


def test_contradictory_wishes_confuse_the_model_for_some_messages_only():
    prompt = f"{LABELS}\nred_box: horses.\n{BARE} Explain your choice."
    bare = [ask(prompt, f"{count} horses {'!' * count}") == "red_box" for count in range(30)]
    assert 0 < sum(bare) < len(bare)


def test_words_of_one_family_and_everyday_synonyms_are_the_same():
    prompt = f"{LABELS}\n{BARE}\nred_box: a reimbursement.\nblue_box: a purchase."
    assert ask(prompt, "please reimburse me") == "red_box"
    assert ask(prompt, "I bought it") == "blue_box"


def test_without_labels_the_model_only_talks():
    assert ask("You are kind.", "Where is my hat?") == "I think this is about: Where is my hat."


def test_the_same_messages_give_the_same_answer():
    messages = [{"role": "system", "content": LABELS}, {"role": "user", "content": "nothing that the prompt knows"}]
    assert answer(messages) == answer([dict(message) for message in messages])


@pytest.mark.parametrize("ability", [WHOLE, SMALL])
@pytest.mark.parametrize("told", ["red_box", "blue_box", "green_box"])
def test_models_of_every_ability_follow_what_the_prompt_says(ability: Ability, told: str):
    assert ask(f"{LABELS}\n{BARE}\n{told}: elephants, giraffes.", "elephants, giraffes", ability=ability) == told


def test_a_small_model_loses_the_thread_of_a_long_prompt_before_a_large_one_does():
    messages = [f"an elephant {'and a giraffe ' * count}in zoo number {count}" for count in range(40)]
    prompt = f"{LABELS}\n{BARE}\nred_box: elephants.\n" + "We have opened another branch by the sea. " * 100
    right = {name: sum(ask(prompt, each, ability=of) == "red_box" for each in messages) for name, of in ABILITIES}
    assert right["small"] < right["whole"] == len(messages)


def test_a_small_model_talks_where_a_large_one_gives_the_bare_label():
    prompt = f"{LABELS}\nred_box: horses, donkeys.\nblue_box: horses."
    assert ask(prompt, "horses and donkeys") == "red_box"
    assert ask(prompt, "horses and donkeys", ability=SMALL).startswith("I think")
