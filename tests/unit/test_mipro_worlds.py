"""The peer's side of the MIPRO benchmark: DSPy's messages, its proposer's signatures, and what both sides are shown."""

import re

import pytest
from benchmarks.gepa_worlds import TASKS, Task, score, template_of
from benchmarks.gepa_worlds.driving import completed
from benchmarks.gepa_worlds.dspy_messages import asked, conversation, fields, wrapped
from benchmarks.gepa_worlds.dspy_peers import PeersMissing, replies, template_of_program
from benchmarks.gepa_worlds.dspy_proposer import JSON_FORM, LABEL_FORM, proposer_reply
from benchmarks.gepa_worlds.reflector import Reflector

from promptjobs.core.asks import CompletionBody, description_ask

pytestmark = pytest.mark.slow

SYSTEM = """Your input fields are:
1. `request` (str):
Your output fields are:
1. `answer` (str):
All interactions will be structured in the following way, with the appropriate values filled in.

[[ ## request ## ]]
{request}

[[ ## answer ## ]]
{answer}

[[ ## completed ## ]]
In adhering to this structure, your objective is: """

REMINDER = (
    "\n\nRespond with the corresponding output fields, starting with the field `[[ ## answer ## ]]`, and then ending "
    "with the marker for `[[ ## completed ## ]]`."
)


def dspy_messages(instruction: str, demos: list[tuple[str, str]], request: str) -> list[tuple[str, str]]:
    """As DSPy 3.4.1 sends them."""
    objective = ("\n" + " " * 8).join(["", *instruction.splitlines()])
    shown = [
        message
        for text, answer in demos
        for message in (("user", f"[[ ## request ## ]]\n{text}"), ("assistant", wrapped({"answer": answer}) + "\n"))
    ]
    return [("system", SYSTEM + objective), *shown, ("user", f"[[ ## request ## ]]\n{request}{REMINDER}")]


@pytest.fixture(params=list(TASKS))
def task(request: pytest.FixtureRequest) -> Task:
    return TASKS[request.param]


def pair(task: Task, seed: int) -> tuple[str, str]:
    return task.user_pattern.replace("{input}", task.input(seed)), task.expected(seed)


def test_a_program_of_the_peer_is_the_same_conversation_as_a_candidate_of_ours(task):
    demos = [pair(task, seed) for seed in task.splits.train[:3]]
    request = pair(task, task.splits.test[0])[0]
    ours = template_of_program(task, task.handwritten, demos)
    shown = conversation(dspy_messages(task.handwritten, demos, request))
    assert shown == [(s.role, s.content.replace("{input}", task.input(task.splits.test[0]))) for s in ours.sections]


def test_wrapped_answers_are_read_back():
    said = {"observations": "one\n\ntwo", "summary": "three"}
    assert fields(wrapped(said)) == said | {"completed": ""}


def test_demonstrations_in_turns_help(task):
    demos = [pair(task, seed) for seed in task.splits.train[:30]]
    helped = score(task, template_of_program(task, task.baseline, demos), task.splits.test[:60])
    assert helped > score(task, template_of(task, task.baseline), task.splits.test[:60]) + 0.1


# --- the prompt model ------------------------------------------------------------------------------------------------


def question(outputs: str, **inputs: str) -> list[tuple[str, str]]:
    shown = "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in inputs.items())
    reminder = f"\n\nRespond with the corresponding output fields, starting with the field `[[ ## {outputs} ## ]]`, and"
    return [("system", ""), ("user", f"{shown}{reminder} then ending with the marker for `[[ ## completed ## ]]`.")]


def example_reprs(task: Task, count: int) -> str:
    shown = [dict(zip(("request", "answer"), pair(task, seed), strict=True)) for seed in task.splits.train[:count]]
    return f"[{', '.join(f'Example({one!r}) (input_keys={{{chr(39)}request{chr(39)}}})' for one in shown)}]"


def test_the_fields_of_a_question_are_told_apart():
    shown, names = asked(question("summary", observations="a\n\nb"))
    assert (shown, names) == ({"observations": "a\n\nb"}, ["summary"])


@pytest.mark.parametrize(("name", "form"), [("conventions", JSON_FORM), ("labels", LABEL_FORM)])
def test_observations_of_data_become_an_instruction_by_way_of_a_summary(name, form):
    """Each step passes on less, and never more, than it was shown."""
    task, guesses = TASKS[name], 0
    for draw in range(10):
        seen = fields(proposer_reply(question("observations", examples=example_reprs(task, 10)), draw, 0))
        summary = fields(proposer_reply(question("summary", observations=seen["observations"]), draw, 0))["summary"]
        inputs = {"dataset_description": summary, "task_demos": "No task demos provided."}
        told = question("proposed_instruction", **inputs, basic_instruction="Do it.")
        proposed = fields(proposer_reply(told, draw, 0))["proposed_instruction"]
        lines = [line.removeprefix("- ") for line in proposed.split("\n") if line.startswith("- ")]
        assert all(line in summary for line in lines)
        assert all(line in seen["observations"] for line in lines)
        assert len(lines) <= 3
        assert (form in summary) == (form in seen["observations"])
        guesses += len(lines)
    assert guesses > 15


def test_demonstrations_teach_the_proposer(task):
    demos = "\n\n".join(f"Request: {text}\nAnswer: {answer}" for text, answer in (pair(task, s) for s in range(3)))
    told = question("proposed_instruction", task_demos=demos, basic_instruction=task.baseline)
    texts = {fields(proposer_reply(told, draw, 0))["proposed_instruction"] for draw in range(20)}
    assert len(texts) > 5
    assert any(len(re.findall(r"^- ", text, re.MULTILINE)) >= 2 for text in texts)


def test_the_same_question_has_the_same_answer():
    told = question("observations", examples=example_reprs(TASKS["labels"], 10))
    assert proposer_reply(told, 0, 0) == proposer_reply(told, 0, 0)
    assert len({proposer_reply(told, draw, salt) for draw in range(3) for salt in range(3)}) == 9


# --- ours ------------------------------------------------------------------------------------------------------------


def test_solved_examples_teach_our_meta_model_as_much(task):
    shown = "\n\n".join(
        f"## Example {n}\n### Input\n{text}\n### Output\n{answer}\nScore: 1"
        for n, (text, answer) in enumerate((pair(task, seed) for seed in range(3)), 1)
    )
    current = f"# Current text\n\n```\n{task.baseline}\n```"
    text = f"{current}\n\n# Solved examples\n\n{shown}\n\n# What to do\n\nWrite the whole text."
    replies = [Reflector().reply([("user", text)], draw=draw) for draw in range(20)]
    assert any(len(re.findall(r"^- ", reply, re.MULTILINE)) >= 2 for reply in replies)


def test_a_task_describes_itself(task):
    answer, body = completed(task, description_ask(), 0)
    assert isinstance(body, CompletionBody)
    assert body.text == task.description
    assert answer.prompt_tokens == answer.completion_tokens == 0


def test_a_missing_environment_of_the_peers_says_how_to_make_it(tmp_path):
    with pytest.raises(PeersMissing, match=r"pip install -r benchmarks/peers\.txt"):
        next(replies(tmp_path / "python", []))
