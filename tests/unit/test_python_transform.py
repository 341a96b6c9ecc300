"""Programs over a prompt's messages: what they may do, that they reach nothing, and that they end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptjobs.core.instruction_transforms import (
    AtomicInstructionTransform,
    InstructionTransformLocalizer,
    InstructionType,
    MissReason,
    apply_transforms,
)
from promptjobs.core.prompt import Message, PromptTemplate, Section
from promptjobs.core.python_transform import MAX_PROGRAM_CHARACTERS, MAX_RESULT_CHARACTERS, run_python

MESSAGES = (Message("system", "Be kind.\nBe kind."), Message("user", "Query: {query}"))
ONCE = """
seen = []
for line in messages[0]["content"].split("\\n"):
    if line not in seen:
        seen.append(line)
messages[0]["content"] = "\\n".join(seen)
"""


def made(code: str) -> list[str] | str:
    """The texts, or the fault."""
    outcome = run_python(code, MESSAGES)
    return outcome.fault if outcome.messages is None else [message.content for message in outcome.messages]


@pytest.mark.parametrize(
    ("code", "texts"),
    [
        ("messages", ["Be kind.\nBe kind.", "Query: {query}"]),
        ("messages[0]['content'] = 'New.'", ["New.", "Query: {query}"]),
        (ONCE, ["Be kind.", "Query: {query}"]),
        ("[{**m, 'content': m['content'] + '!'} for m in messages]", ["Be kind.\nBe kind.!", "Query: {query}!"]),
        (
            "import re\nfor m in messages:\n    m['content'] = re.sub('k.nd', 'good', m['content'])",
            ["Be good.\nBe good.", "Query: {query}"],
        ),
        ("print('x')\nmessages[1].update(content='é {query}')", ["Be kind.\nBe kind.", "é {query}"]),
    ],
)
def test_a_program_leaves_the_list_of_its_last_expression_or_of_the_variable(code: str, texts: list[str]) -> None:
    outcome = run_python(code, MESSAGES)
    assert outcome.fault == ""
    assert made(code) == texts
    assert [m.role for m in outcome.messages or ()] == ["system", "user"]


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("messages[:1]", "list of 2 messages, and leaves 1 of them"),
        ("messages + messages", "leaves 4 of them"),
        ("messages.append(messages)\nmessages", "leaves 3 of them"),
        ("'text'", "leaves str"),
        ("tuple(messages)", "leaves tuple"),
        ("[m['content'] for m in messages]", "message 0 must have a role and a content"),
        ("messages[0]['name'] = 'x'", "message 0 must have a role and a content"),
        ("messages[1]['content'] = 7", "message 1 must have a role and a content"),
        ("messages[1]['content'] = None", "message 1 must have a role and a content"),
        ("messages[1]['role'] = 'system'", "message 1 must keep its role, 'user'"),
        ("messages[::-1]", "message 0 must keep its role, 'system'"),
        (f"messages[0]['content'] = 'x' * {MAX_RESULT_CHARACTERS}", "characters, at most"),
        ("#" * (MAX_PROGRAM_CHARACTERS + 1), "a program may have"),
        ("(((", "unexpected EOF"),
        ("\ud800", "UTF-8"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit()", "SystemExit"),
        ("messages[0]['content'].wrong", "AttributeError"),
    ],
)
def test_whatever_else_it_leaves_is_a_fault(code: str, fault: str) -> None:
    assert fault in made(code)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("open('/etc/hostname').read()", "PermissionError"),
        ("open('out', 'w').write('x')", "Error"),
        ("from pathlib import Path\nPath('/').iterdir()", "Error"),
        ("import os\nos.environ['PATH']", "not supported"),
        ("import os\nos.urandom(4)", "not supported"),
        ("import subprocess", "ModuleNotFoundError"),
        ("import socket", "ModuleNotFoundError"),
        ("__import__('os').system('true')", "Error"),
        ("from datetime import datetime\ndatetime.now()", "not supported"),
        ("import time\ntime.time()", "not supported"),
        ("input()", "NameError"),
        ("anything", "NameError"),
    ],
)
def test_it_reaches_no_file_process_network_clock_or_entropy(code: str, fault: str) -> None:
    assert fault in made(code)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("while True:\n    pass", "longer than 1 s"),
        ("exec('while True: pass')", "longer than 1 s"),
        ("'x' * 10 ** 9", "more than 32 MiB"),
        ("[0] * 10 ** 8", "more than 32 MiB"),
        ("10 ** 10 ** 8", "more than 32 MiB"),
        ("print('x' * 10 ** 6)", "more than 32 MiB, or prints more"),
        ("def f(n):\n    return f(n + 1)\nf(0)", "RecursionError"),
        ("(" * 5000 + ")" * 5000, "nested"),
    ],
)
def test_what_does_not_end_or_grows_without_bound_is_stopped(code: str, fault: str) -> None:
    assert fault in made(code)


@pytest.mark.parametrize(
    "code",
    [
        "import random\nmessages[0]['content'] = str(random.random())",
        "import random\nmessages[0]['content'] = str(random.Random().random())",
        "messages[0]['content'] = str([hash('a'), list({'q', 'a', 'zz'}), id(messages)])",
        "class A:\n    pass\nmessages[0]['content'] = str(A())",
        "'x' * 10 ** 9",
    ],
)
def test_it_comes_out_the_same_in_another_process(code: str) -> None:
    # A comment makes it another program to whatever remembers the last ones.
    assert made(code) == made(f"{code}\n# again")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(st.lists(TEXTS, min_size=1, max_size=3))
def test_texts_go_in_and_come_out_as_they_are(texts: list[str]) -> None:
    messages = tuple(Message("user", text) for text in texts)
    assert run_python("messages", messages).messages == messages
    shown = f"for m in messages:\n    m['content'] = {texts[0]!r}"
    assert run_python(shown, messages).messages == tuple(Message("user", texts[0]) for _ in texts)


async def test_it_runs_beside_a_running_event_loop() -> None:
    assert made("messages[0]['content'] = 'a'") == ["a", "Query: {query}"]


def test_as_a_transform_it_keeps_the_placeholders_or_misses() -> None:
    prompt = PromptTemplate(
        tuple(Section(m.role, m.role, m.content, at) for at, m in enumerate(MESSAGES)), {"query": True}
    )
    programs = [ONCE, "messages[1]['content'] = 'Answer.'", "messages[0]['content'] += '{query}'", "1 / 0"]
    transforms = [
        AtomicInstructionTransform(InstructionType.PYTHON, InstructionTransformLocalizer(), code) for code in programs
    ]
    applied = apply_transforms(prompt, "", transforms, runner=run_python)
    assert [section.content for section in applied.template.sections] == ["Be kind.", "Query: {query}"]
    assert [miss.reason for miss in applied.misses] == [
        MissReason.PLACEHOLDERS,
        MissReason.PLACEHOLDERS,
        MissReason.PYTHON,
    ]
