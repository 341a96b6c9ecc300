"""The worlds of the GEPA benchmark: pure, fair to every layout of a prompt, and driven within the budget."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.gepa_worlds import TASKS, Task, score, template_of
from benchmarks.gepa_worlds.driving import Run, run_ours
from benchmarks.gepa_worlds.meta_reading import read_meta_prompt
from benchmarks.gepa_worlds.reference import run_reference
from benchmarks.gepa_worlds.reflector import Reflector

from promptjobs.core.proposers.reflection import Record, parse_proposal, reflection_messages

pytestmark = pytest.mark.slow

FORMS = TASKS["conventions"]
LABELS = TASKS["labels"]
BUDGET = 150


@pytest.fixture(params=list(TASKS))
def task(request: pytest.FixtureRequest) -> Task:
    return TASKS[request.param]


def on_test(task: Task, text: str, seeds: int = 60) -> float:
    return score(task, template_of(task, text), task.splits.test[:seeds])


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_splits_share_no_seed_and_no_split_is_small(task):
    splits = [set(task.splits.train), set(task.splits.validation), set(task.splits.test)]
    assert len(set.union(*splits)) == sum(map(len, splits))
    assert [len(split) for split in splits[:2]] == [60, 40]
    assert len(splits[2]) >= 100


def test_the_handwritten_prompt_beats_the_baseline_by_far(task):
    assert on_test(task, task.handwritten) > on_test(task, task.baseline) + 0.3


def test_the_expected_answer_has_the_full_score_and_nonsense_has_none(task):
    for seed in task.splits.train[:20]:
        assert task.grade(seed, task.expected(seed)).score == 1.0
        assert task.grade(seed, "I do not know").score == 0.0


def test_answers_depend_on_nothing_but_the_arguments(task):
    messages = [("system", task.handwritten), ("user", task.user_pattern.replace("{input}", task.input(3)))]
    assert {task.answer(messages, draw=2) for _ in range(3)} == {task.answer(list(messages), draw=2)}


def test_draws_differ_where_the_model_samples_only(task):
    def answers(seed: int) -> set[str]:
        messages = [("system", task.baseline), ("user", task.user_pattern.replace("{input}", task.input(seed)))]
        return {task.answer(messages, draw) for draw in range(8)}

    varying = [seed for seed in task.splits.train[:12] if len(answers(seed)) > 1]
    assert bool(varying) == task.samples


def test_one_answer_in_twenty_of_the_noisy_model_is_malformed():
    task = TASKS["noisy"]
    messages = [("system", task.handwritten), ("user", task.user_pattern.replace("{input}", task.input(3)))]
    broken = sum(not task.answer(messages, draw).endswith("}") for draw in range(1000))
    assert 25 <= broken <= 80


@pytest.mark.parametrize(
    "shown",
    [
        "Input: {input}\nOutput: {output}",
        "### Input\n{input}\n\n### Output\n{output}",
        "<example>\n<input>{input}</input>\n<output>{output}</output>\n</example>",
        "Example {n}\nInput:\n{input}\nAnswer:\n{output}",
    ],
)
@pytest.mark.parametrize("task", [FORMS, LABELS], ids=lambda task: task.name)
def test_demonstrations_help_in_any_layout(task, shown):
    """As far as demonstrations in turns of the conversation do."""
    pairs = [(task.input(seed), task.expected(seed)) for seed in task.splits.train[:30]]
    texts = [shown.format(input=pair[0], output=pair[1], n=n) for n, pair in enumerate(pairs, 1)]
    helped = on_test(task, "\n\n".join([task.baseline, "Examples:", *texts]))
    assert helped > on_test(task, task.baseline) + 0.12


def test_a_hedge_weakens_and_filler_dilutes_what_a_prompt_says():
    hedged = re.sub(r"\b(goes?|gets?|is|are)\b", r"might be that usually \1", FORMS.handwritten)
    filled = FORMS.handwritten + "\nBe careful and consider every single detail of it." * 60
    assert on_test(FORMS, hedged) < on_test(FORMS, FORMS.handwritten) - 0.05
    assert on_test(FORMS, filled) < on_test(FORMS, FORMS.handwritten) - 0.05


def test_a_wrong_rule_is_followed():
    told = f"{FORMS.baseline} Answer with one raw JSON object and nothing else.\nBy default the climate is arid."
    assert on_test(FORMS, told) < on_test(FORMS, told.replace("arid", "mild"))


# --- the reflection model --------------------------------------------------------------------------------------------

TEXT = "Fill in the sheet.\n- Ivory goes to the rack.\n- Glass is packed in foam.\n- Wax is shown sealed."
FEEDBACK = (
    "store: expected vault, got rack. Ivory is stored in the vault. climate: expected mild, got arid. By default set"
    " climate to mild. The answer must be one raw JSON object with nothing around it."
)
RECORDS = [
    Record("Record:\nObject: an ivory comb\nLender: own holdings", '{"store": "rack"}', FEEDBACK, "", 0.3),
    Record("Record:\nObject: a wax hand\nLender: own holdings", '{"store": "rack"}', "All fields are right.", "", 1.0),
]
SHOWN = "\n".join(f"{number}: {line}" for number, line in enumerate(TEXT.split("\n"), 1))
RECORD_TEXT = "\n\n".join(
    f"## Example {n}\n### Input\n{r.input}\n### Output\n{r.output}\n### Feedback\n{r.feedback}"
    for n, r in enumerate(RECORDS, 1)
)
LAYOUTS = {
    "reference": "The assistant has these instructions:\n```\n{text}\n```\nAnd this came of it:\n```\n"
    + RECORD_TEXT.replace("###", "##").replace("## Example", "# Example")
    + "\n```\nYour task is to write a new instruction. Provide it within ``` blocks.",
    "tags": "<current_prompt>\n{text}\n</current_prompt>\n"
    + "\n".join(
        f"<record>\n<input>\n{r.input}\n</input>\n<output>{r.output}</output>\n<feedback>{r.feedback}</feedback>\n</record>"
        for r in RECORDS
    )
    + "\n\nWrite the new prompt between lines of ```.",
    "json": "# Current text\n```\n{text}\n```\n# Records\n"
    + "\n".join(json.dumps({"input": r.input, "output": r.output, "feedback": r.feedback}) for r in RECORDS)
    + "\n# What to do\nReply with the whole text in a fence of ```.",
    "dspy": "[[ ## current_instruction ## ]]\n```\n{text}\n```\n"
    + "\n".join(
        f"[[ ## input ## ]]\n{r.input}\n[[ ## output ## ]]\n{r.output}\n[[ ## feedback ## ]]\n{r.feedback}"
        for r in RECORDS
    ),
}


def replies(meta_prompt: str, count: int = 40) -> list[str]:
    return [Reflector().reply([("user", meta_prompt)], draw=draw) for draw in range(count)]


def test_our_own_meta_prompt_is_read_and_answered_in_its_form():
    [message] = reflection_messages(TEXT, (), RECORDS)
    read = read_meta_prompt(message.content)
    assert read.texts == (TEXT,)
    assert [(r.input, r.output, r.feedback) for r in read.records] == [(r.input, r.output, r.feedback) for r in RECORDS]
    taken = [parse_proposal(reply, "stop", TEXT, (), 1000) for reply in replies(message.content)]
    texts = [text for text in taken if isinstance(text, str)]
    assert len(texts) >= 37
    assert sum("in the vault" in text for text in texts) > 20
    assert 0 < sum("Glass is packed in foam" not in text for text in texts) < 10


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_are_read_as_well(layout):
    read = read_meta_prompt(LAYOUTS[layout].replace("{text}", TEXT))
    assert read.texts == (TEXT,)
    assert [(r.input, r.feedback) for r in read.records] == [(r.input, r.feedback) for r in RECORDS]


def test_the_same_draw_gives_the_same_reply_and_another_draw_another():
    [message] = reflection_messages(TEXT, (), RECORDS)
    assert replies(message.content) == replies(message.content)
    assert len(set(replies(message.content))) > 20
    assert len({Reflector().reply([("user", message.content)], 0.0, draw) for draw in range(5)}) == 1


def test_a_call_takes_no_more_than_ten_lessons():
    reasons = " ".join(
        f"store: expected vault, got rack. Objects of sort{n} are stored in the vault." for n in range(40)
    )
    [message] = reflection_messages(TEXT, (), [Record("x", "y", reasons, "", 0.0)])
    counts = [len(set(re.findall(r"sort\d+", reply))) for reply in replies(message.content)]
    assert max(counts) <= 10
    assert sum(counts) / len(counts) > 6


JSON_OPERATIONS = """
# What to do
Change the text by operations. Answer with a JSON object and nothing else:
{"operations": [{"op": "add", "text": "…"}, {"op": "replace", "line": 3, "text": "…"}, {"op": "delete", "line": 3}]}
"""
LINE_OPERATIONS = """
# What to do
Write only the changes to the text, one operation a line, between two lines of ```:
ADD: <new line>
REPLACE <number>: <new line>
DELETE <number>
"""


def with_numbers(asked: str) -> str:
    return f"# Current text\n```\n{SHOWN}\n```\n# What came of it\n{RECORD_TEXT}\n{asked}"


def test_operations_come_as_json_where_they_are_asked_for_so():
    kinds = set()
    for reply in replies(with_numbers(JSON_OPERATIONS)):
        operations = json.loads(reply.strip("`").removeprefix("json"))["operations"]
        for operation in operations:
            kinds.add(operation["op"])
            assert set(operation) == {"op"} | {"add": {"text"}, "delete": {"line"}}.get(
                operation["op"], {"line", "text"}
            )
            assert 1 <= operation.get("line", 1) <= 4
    assert {"add", "replace"} <= kinds


def test_operations_come_line_by_line_where_they_are_asked_for_so():
    kinds = set()
    for reply in replies(with_numbers(LINE_OPERATIONS)):
        body = reply.split("```")[1].strip()
        for line in body.split("\n"):
            found = re.fullmatch(r"(ADD): .+|(REPLACE) \d: .+|(DELETE) \d", line)
            assert found, line
            kinds.add(found[0].split()[0].strip(":"))
    assert {"ADD", "REPLACE"} <= kinds


def test_additions_only_leave_the_text_out():
    asked = "# What to do\nWrite only the new rules to add, between two lines of ```. Do not repeat the text."
    for reply in replies(with_numbers(asked)):
        assert "Glass is packed in foam" not in reply


def test_edits_that_are_said_to_have_failed_are_seldom_repeated():
    failed = "# Tried before, without success\n\n* - Ivory is stored in the vault. / - Stay calm.\n"
    [message] = reflection_messages(TEXT, (), RECORDS)
    without, told = (
        replies(message.content),
        replies(message.content.replace("# What to do", f"{failed}\n# What to do")),
    )
    assert sum("Ivory is stored in the vault" in reply for reply in told) < 0.6 * sum(
        "Ivory is stored in the vault" in reply for reply in without
    )


GUESSES = """
from benchmarks.gepa_worlds.chance import Dice
from benchmarks.gepa_worlds.lessons import learn
from benchmarks.gepa_worlds.meta_reading import Record
text = "silver goblet engraved handle polished antique heirloom crested twisted stem ornate silver"
records = [Record(text, "rack", "store: expected vault, got rack.", "", 0.0)] * 2
print([learn(records, Dice(n)) for n in range(40)])
"""


def test_guesses_are_the_same_in_every_process():
    """Sets of strings have another order in each."""
    root = Path(__file__).parents[2]
    said = {
        subprocess.run(
            [sys.executable, "-c", GUESSES],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")])},
            capture_output=True,
            check=True,
        ).stdout
        for seed in "123"
    }
    assert len(said) == 1
    assert b"the input mentions" in said.pop()


# --- runs ------------------------------------------------------------------------------------------------------------


def shown(run: Run) -> tuple[object, ...]:
    return run.test, run.claimed, run.rollouts, run.meta_calls, run.virtual_seconds, run.prompt


def test_our_search_stays_within_its_budget_and_repeats_itself(task):
    runs = [run_ours(task, BUDGET, seed=1) for _ in range(2)]
    assert shown(runs[0]) == shown(runs[1])
    assert 0 < runs[0].rollouts <= BUDGET
    assert runs[0].virtual_seconds > 0
    assert runs[0].test == score(task, runs[0].template, task.splits.test)


def test_the_reference_repeats_itself(task):
    runs = [run_reference(task, BUDGET, seed=1) for _ in range(2)]
    assert shown(runs[0]) == shown(runs[1])
    assert BUDGET <= runs[0].rollouts < BUDGET + 50
    assert runs[0].meta_calls > 0


def test_the_order_of_turns_and_the_lanes_can_be_set():
    run = run_ours(FORMS, BUDGET, 0, {"gepa.turn_order": "fixed"}, lanes=1)
    assert run.rollouts <= BUDGET
