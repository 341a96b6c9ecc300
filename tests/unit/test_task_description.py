"""What a meta-model is told of a task app's own words."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptjobs.clients.task_description import LIMIT, task_text

KEY = "env_key_0123456789abcdef"
LABELS = ["card_payment_wrong_exchange_rate", "balance_not_updated_after_cheque_or_cash_deposit"]


@pytest.mark.parametrize(
    ("info", "text"),
    [
        ({}, ""),
        ({"task": {"name": None}, "taskset": {}, "labels": []}, ""),
        ({"taskset": {"id": "banking77", "description": "Find\nthe intent."}},
         'Description: Find\nthe intent.\nFurther facts: {"taskset":{"id":"banking77"}}'),
        ({"name": "triage", "input_schema": {"text": "string"}, "outputs": "one label"},
         'Name: triage\nInput: {"text":"string"}\nOutput: one label'),
        ({"task": {"name": "Banking", "description": "Sort."}, "taskset": {"name": "Banking", "labels": LABELS},
          "task_metadata": {"Input-format": "a question", "labels": LABELS[:1]}, "inputs_seen": 3},
         "Name: Banking\nDescription: Sort.\nInput: a question\nInput: 3\n"
         f'Further facts: {{"taskset":{{"labels":["{LABELS[0]}","{LABELS[1]}"]}},'
         f'"task_metadata":{{"labels":["{LABELS[0]}"]}}}}'),
        ({"task": "sorting", "limits": {"max_turns": 1, "max_tokens": 512}},
         'Further facts: {"task":"sorting","limits":{"max_turns":1,"max_tokens":512}}'),
    ],
)  # fmt: skip
def test_what_is_said_is_put_in_order(info: dict[str, Any], text: str) -> None:
    assert task_text(info) == text


def test_the_info_itself_is_left_as_it_was() -> None:
    info = {"task": {"name": "n", "description": "d"}, "output": "o"}
    task_text(info)
    assert info == {"task": {"name": "n", "description": "d"}, "output": "o"}


@pytest.mark.parametrize(
    "info",
    [
        {"description": f"Call it with {KEY}."},
        {"task_metadata": {"api_key": "hunter2"}},
        {"debug": {"secrets": {"openai": ["hunter2"]}}},
        {"description": "Send the header Authorization: Bearer hunter2 with it."},
        {"docs": "https://user:hunter2@h.test/x?api_key=hunter2"},
        {"description": f"{'x' * (4 * LIMIT - 11)} {KEY}"},
        {"endpoint": "http://h.test/v1/hunter2Zk3vQ9xT1rB7yN5mL2pW8sD4fG6hJ0aC/x"},
        {"seen": "hunter2Zk3vQ9xT-B7yN5mL2pW8sD4fG6hJ0aC_k2"},
        {KEY: 1},
    ],
)
def test_no_secret_is_legible(info: dict[str, Any]) -> None:
    text = task_text(info, [KEY])
    assert KEY[:6] not in text
    assert "hunter2Zk3" not in text.replace("hunter…", "")
    assert "hunter2" not in text


NAMES = st.sampled_from(["name", "description", "inputs", "output", "task", "x"])
SAID = st.dictionaries(
    NAMES, st.text(max_size=20) | st.dictionaries(NAMES, st.text(max_size=5) | st.none(), max_size=3)
)


@given(SAID, st.integers(0, 3 * LIMIT))
def test_the_text_is_bounded_and_can_be_stored(info: dict[str, Any], length: int) -> None:
    text = task_text({**info, "examples": "y" * length})
    assert len(text) <= LIMIT
    assert "\x00" not in text
    text.encode()
