"""`diff` and `export`: what is compared and taken along is the prompt as it was evaluated, and harms nobody."""

import csv
import io
import json
import shlex
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tests.fakes.event_streams import JOB, URL
from tests.fakes.shown_jobs import MESSAGES, job
from typer.testing import CliRunner, Result

from promptjobs.cli.app import app
from promptjobs.cli.diff_view import print_diff, unified
from promptjobs.cli.prompt_diff import Change, Part, compare, paired
from promptjobs.cli.snippets import (
    PLACEHOLDER,
    Call,
    Exported,
    Model,
    curl_snippet,
    langchain_snippet,
    langchain_template,
    openai_snippet,
)
from promptjobs.cli.trials_csv import COLUMNS, trials_csv
from promptjobs.core.prompt import PromptTemplate, Section, render
from promptjobs.sdk.job_requests import JOBS_PATH

JOB_URL = f"{URL}{JOBS_PATH}/{JOB}"
OTHER = "pl_00000000000000000000000000000000"
MODULES = [{"module_id": "plan", "messages": MESSAGES[:1]}, {"module_id": "solve-it", "messages": MESSAGES[1:]}]
POLICY = {"provider": "groq", "model": "m", "temperature": 0.2, "max_completion_tokens": 64}
RESOLVED = {"algorithm": "gepa", "policy": POLICY, "initial_prompt": None, "gepa": {"modules": []}}
TRIAL = {
    "n": 1,
    "candidate_id": "=1+1",
    "phase": "optimization",
    "is_baseline": True,
    "seeds": [1, 2, 3],
    "scores": [1.0, None, 0.0],
    "score": 0.5,
    "failed": 1,
    "reused": 0,
    "generation": 0,
    "lane": "0",
    "created_at": "2026-05-04T09:30:00+00:00",
    "metadata": {"tokens": 120},
    "metadata_json": {},
}


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--url", URL], env={"COLUMNS": "200"})


def published(**changes: Any) -> dict[str, Any]:
    prompt = {"id": "", "name": "", "sections": [], "wildcards": {"text": "REQUIRED"}}
    return job(best_snapshot=job()["best_snapshot"] | {"best_prompt": prompt, **changes})


@pytest.fixture
def service():
    with respx.mock(assert_all_called=False) as routes:
        routes.get(JOB_URL).respond(json=published())
        routes.get(f"{JOB_URL}/config").respond(json={"sent": {}, "resolved": RESOLVED, "warnings": []})
        routes.get(f"{JOB_URL}/trials").respond(json=[TRIAL])
        yield routes


# --- which prompt ----------------------------------------------------------------------------------------------------


def test_jobs_candidates_and_snapshots_can_be_compared(service: respx.MockRouter):
    changed = [{"role": "system", "content": "Answer in two words."}, MESSAGES[1]]
    candidate = {"messages": changed, "modules": None}
    service.get(f"{JOB_URL}/candidates/c:1@x").respond(json=candidate)
    service.get(f"{JOB_URL}/snapshots/snap_0").respond(json={"payload": {"messages": changed}})
    for other in (f"{JOB}:c:1@x", f"{JOB}@snap_0"):
        result = call("diff", JOB, other, "--json")
        found = json.loads(result.stdout)
        assert (result.exit_code, found["a"], found["b"], found["is_same"]) == (0, JOB, other, False)
        assert [each["change"] for each in found["messages"]] == ["changed", "same"]
        assert [each["a"] for each in found["messages"]] == MESSAGES
        assert [each["b"] for each in found["messages"]] == changed
        texts = {
            kind: "".join(text for has, text in found["messages"][0]["words"] if has != kind)
            for kind in ("added", "removed")
        }
        assert texts == {"added": MESSAGES[0]["content"], "removed": changed[0]["content"]}
    assert json.loads(call("diff", f"{JOB}:c:1@x", f"{JOB}@snap_0", "--json").stdout)["is_same"] is True


def test_equal_prompts_are_said_to_be_so(service: respx.MockRouter):
    result = call("diff", JOB, JOB)
    assert (result.exit_code, result.stdout) == (0, "the prompts are the same\n")


@pytest.mark.parametrize("name", ["", ":c", "@s", f"{JOB}:", f"{JOB}@"])
def test_a_name_of_another_form_is_refused_before_anything_is_asked(service: respx.MockRouter, name: str):
    result = call("diff", name, JOB)
    assert (result.exit_code, service.calls.call_count) == (2, 0)
    assert "expected JOB, JOB:CANDIDATE or JOB@SNAPSHOT" in result.stderr


@pytest.mark.parametrize("arguments", [["diff", JOB, JOB], ["export", JOB], ["export", JOB, "--format", "curl"]])
def test_a_job_without_a_prompt_is_told(service: respx.MockRouter, arguments: list[str]):
    service.get(JOB_URL).respond(json=job(status="running", best_snapshot=None, best_prompt_messages=None))
    result = call(*arguments)
    assert (result.exit_code, result.stderr) == (2, f"error: {JOB}: there is no prompt yet\n")


def test_what_does_not_exist_is_told(service: respx.MockRouter):
    problem = {"code": "candidate_not_found", "detail": "there is no candidate 'c_9'"}
    service.get(f"{JOB_URL}/candidates/c_9").respond(404, json=problem)
    for arguments in (["diff", JOB, f"{JOB}:c_9"], ["export", JOB, "--candidate", "c_9"]):
        result = call(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "there is no candidate 'c_9' (candidate_not_found)" in result.stderr


# --- comparing -------------------------------------------------------------------------------------------------------

TEXT = st.text(st.sampled_from("ab \n.\u2028é{}"), max_size=30)


@given(TEXT, TEXT)
def test_the_pieces_of_a_comparison_are_both_texts(a: str, b: str):
    pieces = [piece for block in compare(a, b) for piece in block]
    assert "".join(piece.text for piece in pieces if piece.change is not Change.ADDED) == a
    assert "".join(piece.text for piece in pieces if piece.change is not Change.REMOVED) == b
    assert (a == b) is all(piece.change is Change.SAME for piece in pieces)


@given(*[st.lists(st.builds(Part, st.just(""), st.sampled_from(["user", "system"]), TEXT), max_size=5)] * 2)
def test_every_message_stands_in_one_pair_and_in_order(a: list[Part], b: list[Part]):
    pairs = paired(a, b)
    assert [pair.a for pair in pairs if pair.a is not None] == a
    assert [pair.b for pair in pairs if pair.b is not None] == b
    assert all(pair.a.role == pair.b.role for pair in pairs if pair.a and pair.b)


def test_a_new_example_does_not_shift_the_messages_behind_it():
    system, user = Part("", "system", "Be brief."), Part("", "user", "{text}")
    example = [Part("", "user", "1 + 1"), Part("", "assistant", "2")]
    pairs = paired([system, user], [Part("", "system", "Be very brief."), *example, user])
    assert [pair.change for pair in pairs] == [Change.CHANGED, Change.ADDED, Change.ADDED, Change.SAME]


def test_words_are_told_that_changed():
    (block,) = compare("Answer in one word.", "Answer in two words.")
    assert [(piece.change.value, piece.text) for piece in block if piece.change is not Change.SAME] == [
        ("removed", "one"),
        ("added", "two"),
        ("removed", "word"),
        ("added", "words"),
    ]


def test_long_prompts_are_compared_without_delay():
    """Every word differs: comparing them pair by pair would take minutes."""
    a, b = (" ".join(f"{name}{number}" for number in range(20_000)) for name in "ab")
    assert [[piece.change for piece in block] for block in compare(a, b)] == [[Change.REMOVED, Change.ADDED]]


HOSTILE = "\x1b[2J\x07evil\u202e"


def shown(width: int, a: str, b: str, *, is_terminal: bool = True) -> str:
    out = Console(file=io.StringIO(), width=width, force_terminal=is_terminal, color_system=None)
    print_diff(out, "A", "B", paired([Part("", "system", a)], [Part("", "system", b)]))
    return str(out.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.parametrize(("width", "is_terminal"), [(200, True), (60, True), (200, False)])
def test_prompts_cannot_steer_the_terminal(width: int, is_terminal: bool):
    told = shown(width, f"one\n{HOSTILE}", f"two\n{HOSTILE}", is_terminal=is_terminal)
    assert "evil" in told
    assert not set(told) & {"\x1b", "\x07", "\u202e"}


def test_wide_terminals_show_both_sides_of_a_line():
    lines = [line.split() for line in shown(120, "a\nold\nz", "a\nnew\nz").splitlines()]
    assert ["old", "new"] in lines
    assert ["a", "a"] in lines
    assert ["A", "B"] in lines


@pytest.mark.parametrize(("width", "is_terminal"), [(60, True), (200, False)])
def test_narrow_terminals_and_pipes_get_a_unified_diff(width: int, is_terminal: bool):
    lines = shown(width, "a\nold\nz", "a\nnew\nz", is_terminal=is_terminal).splitlines()
    assert lines[:3] == ["--- A", "+++ B", "@@ -1,5 +1,5 @@"]
    assert lines[3:] == [" [system]", " a", "-old", "+new", " z", " "]


def test_modules_are_named_in_a_diff():
    pairs = paired([Part("plan", "system", "a")], [Part("plan", "system", "b")])
    assert " [plan · system]" in unified("A", "B", pairs)


# --- exporting -------------------------------------------------------------------------------------------------------


def test_messages_are_those_that_were_evaluated(service: respx.MockRouter, tmp_path: Path):
    hostile = [{"role": "system", "content": f"{HOSTILE} \u2028 ü {{a}} \\ \" '''"}, *MESSAGES]
    service.get(JOB_URL).respond(json=published() | {"best_prompt_messages": hostile})
    result = call("export", JOB)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == hostile
    assert not set(result.stdout) & {"\x1b", "\x07", "\u202e", "\u2028"}
    output = tmp_path / "best.json"
    result = call("export", JOB, "--output", str(output))
    assert (result.exit_code, result.stdout) == (0, "")
    assert json.loads(output.read_text(encoding="utf-8")) == hostile


def test_the_messages_of_a_program_are_told_by_module(service: respx.MockRouter):
    service.get(JOB_URL).respond(json=published(modules=MODULES))
    assert json.loads(call("export", JOB).stdout) == MODULES


def test_a_candidate_can_be_taken_in_place_of_the_best(service: respx.MockRouter):
    service.get(f"{JOB_URL}/candidates/c_1").respond(json={"messages": MESSAGES[:1], "modules": None})
    assert json.loads(call("export", JOB, "--candidate", "c_1").stdout) == MESSAGES[:1]
    assert "--candidate" in call("export", f"{JOB}:c_1").stderr


def test_nothing_is_asked_when_the_file_cannot_be_written(service: respx.MockRouter, tmp_path: Path):
    result = call("export", JOB, "--output", str(tmp_path / "none" / "best.json"))
    assert (result.exit_code, service.calls.call_count) == (2, 0)


def test_snippets_carry_the_model_and_the_placeholders_of_the_job(service: respx.MockRouter):
    curl = call("export", JOB, "--format", "curl").stdout
    assert "https://api.groq.com/openai/v1/chat/completions" in curl
    assert '"authorization: Bearer $GROQ_API_KEY"' in curl
    found = namespace(call("export", JOB, "--format", "openai").stdout)
    assert found["WILDCARDS"] == ("text",)
    assert found["CALLS"]["prompt"]["parameters"] == {"model": "m", "temperature": 0.2, "max_tokens": 64}
    assert found["messages"]({"text": "it is {text}"})[1]["content"] == "it is {text}"
    assert "langchain_core" in call("export", JOB, "--format", "langchain").stdout


def test_each_module_keeps_its_own_model(service: respx.MockRouter):
    other = POLICY | {"provider": "my-own", "model": "n"}
    modules = [{"module_id": "plan", "wildcards": {}, "policy": None}, {"module_id": "solve-it", "policy": other}]
    resolved = RESOLVED | {"gepa": {"modules": modules}}
    service.get(f"{JOB_URL}/config").respond(json={"sent": {}, "resolved": resolved, "warnings": []})
    service.get(JOB_URL).respond(json=published(modules=MODULES))
    found = namespace(call("export", JOB, "--format", "openai").stdout)
    assert [each["parameters"]["model"] for each in found["CALLS"].values()] == ["m", "n"]
    assert found["CALLS"]["solve-it"]["base_url"] is None
    assert found["CALLS"]["solve-it"]["url_variable"] == "MY_OWN_BASE_URL"
    commands = call("export", JOB, "--format", "curl").stdout
    assert '"$MY_OWN_BASE_URL"/chat/completions' in commands


def test_placeholders_of_a_job_that_runs_are_those_of_its_config(service: respx.MockRouter):
    initial = {"wildcards": {"text": "REQUIRED"}}
    resolved = RESOLVED | {"initial_prompt": initial}
    service.get(f"{JOB_URL}/config").respond(json={"sent": {}, "resolved": resolved, "warnings": []})
    service.get(JOB_URL).respond(json=job(status="running", best_snapshot=None, best_snapshot_id=None))
    assert namespace(call("export", JOB, "--format", "openai").stdout)["WILDCARDS"] == ("text",)


# --- snippets --------------------------------------------------------------------------------------------------------

MODEL = Model("the 'model'", "https://api.test/v1", "TEST_API_KEY", "TEST_BASE_URL", "max_tokens", 0.0, 512)
PIECES = [*"{}a1_ \n'\"\\$`!#\u2028\u202e\x1b\x00é", "{a}", "{a1}", "{_a}"]
"""Whole placeholders too: put together of single characters they would hardly ever come up."""

CONTENT = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
ROLES = st.sampled_from(["system", "user", "assistant", "developer", "'"])
PROMPTS = st.lists(st.builds(lambda role, content: {"role": role, "content": content}, ROLES, CONTENT), max_size=3)
VALUES = st.dictionaries(st.sampled_from(["a", "a1", "_a"]), CONTENT)


def exported(messages: Any, wildcards: Any = (), title: str = "pl_…") -> Exported:
    return Exported(title, [Call("", messages, MODEL)], tuple(wildcards))


def namespace(snippet: str) -> dict[str, Any]:
    """What the program defines; it is run without the libraries that it would call."""
    kept = [
        line for line in snippet.splitlines(keepends=True) if not line.startswith(("from openai", "from langchain"))
    ]
    found: dict[str, Any] = {"__name__": "snippet", "OpenAI": None}
    exec(compile("".join(kept), "snippet.py", "exec"), found)  # noqa: S102 - that it runs is what is tested
    return found


@given(PROMPTS, VALUES)
def test_the_program_fills_a_prompt_in_as_the_service_does(messages: Any, values: dict[str, str]):
    compile(openai_snippet(exported(messages, values)), "snippet.py", "exec")
    found = namespace(openai_snippet(exported(messages, values)))
    sections = tuple(Section(str(n), each["role"], each["content"], n) for n, each in enumerate(messages))
    expected = render(PromptTemplate(sections, dict.fromkeys(values, True)), values)
    assert found["messages"](values) == [each.to_json() for each in expected]


@given(CONTENT, VALUES)
def test_a_langchain_template_formats_to_what_the_service_sends(content: str, values: dict[str, str]):
    template = langchain_template(content, tuple(values))
    fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    assert fields == {name for name in PLACEHOLDER.findall(content) if name in values}
    section = Section("s", "system", content, 0)
    (expected,) = render(PromptTemplate((section,), dict.fromkeys(values, True)), values)
    assert string.Formatter().vformat(template, (), values) == expected.content


@given(PROMPTS, VALUES)
def test_a_langchain_snippet_is_a_program(messages: Any, values: dict[str, str]):
    snippet = langchain_snippet(exported(messages, values))
    taken: list[Any] = []

    class Chat:
        @staticmethod
        def from_messages(given: Any) -> None:
            taken.extend(given)

    class Other:
        @staticmethod
        def from_template(template: str, role: str) -> tuple[str, str]:
            return role, template

    kept = "\n".join(line for line in snippet.split("\n") if not line.startswith("from langchain"))
    exec(compile(kept, "snippet.py", "exec"), {"ChatPromptTemplate": Chat, "ChatMessagePromptTemplate": Other})  # noqa: S102
    names = {"user": "human", "assistant": "ai"}
    expected = [(names.get(m["role"], m["role"]), langchain_template(m["content"], tuple(values))) for m in messages]
    assert taken == expected


@given(PROMPTS, CONTENT)
def test_a_command_is_one_for_the_shell_and_its_body_the_prompt(messages: Any, title: str):
    snippet = curl_snippet(exported(messages, ("a",), title))
    assert snippet.isascii()
    words = shlex.split(snippet.replace("\\\n", " "), comments=True)
    assert words[:3] == ["curl", "-sS", "https://api.test/v1/chat/completions"]
    assert words[3:7] == ["-H", "content-type: application/json", "-H", "authorization: Bearer $TEST_API_KEY"]
    assert words[7] == "-d"
    assert json.loads(words[8]) == {
        "model": "the 'model'",
        "temperature": 0.0,
        "max_tokens": 512,
        "messages": messages,
    }
    assert len(words) == 9


def test_a_shell_hands_the_prompt_on_as_it_is():
    """A real shell, with a function in place of curl that shows what it was given."""
    hostile = [{"role": "system", "content": f"'$(touch /tmp/x) `id` $HOME \\ \n {HOSTILE} ' ; exit 1 #"}]
    script = "curl() { printf '%s\\0' \"$@\"; }\n" + curl_snippet(exported(hostile, ("text",), "'\nexit 1"))
    done = subprocess.run(["sh", "-ec", script], capture_output=True, env={"TEST_API_KEY": "test-key"}, check=True)
    *_, key, flag, body, _ = done.stdout.decode().split("\0")
    assert (key, flag) == ("authorization: Bearer test-key", "-d")
    assert json.loads(body)["messages"] == hostile


@given(CONTENT)
def test_no_title_ends_its_docstring_or_comment(title: str):
    for write in (openai_snippet, langchain_snippet):
        snippet = write(exported([], (), title))
        compile(snippet, "snippet.py", "exec")
    heading = [line for line in curl_snippet(exported([], (), title)).splitlines() if line.startswith("# The prompt")]
    assert len(heading) == 1


# --- trials ----------------------------------------------------------------------------------------------------------


def test_trials_are_a_row_each_and_no_formula(service: respx.MockRouter):
    rows = list(csv.DictReader(io.StringIO(call("export", JOB, "--format", "csv").stdout)))
    assert rows == [
        {
            "n": "1",
            "candidate_id": "'=1+1",
            "phase": "optimization",
            "is_baseline": "true",
            "score": "0.5",
            "num_seeds": "2",
            "failed": "1",
            "generation": "0",
            "created_at": "2026-05-04T09:30:00+00:00",
            "tokens": "120",
        }
    ]
    assert tuple(rows[0]) == COLUMNS


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_text_is_a_formula(start: str):
    trial: Any = TRIAL | {"candidate_id": f"{start}x", "score": None}
    (_, row) = csv.reader(io.StringIO(trials_csv([trial]), newline=""))
    assert row[1] in (f"'{start}x", "' x")
    assert row[4] == ""


def test_trials_of_a_candidate_alone_can_be_asked_for(service: respx.MockRouter):
    call("export", JOB, "--format", "csv", "--candidate", "c_1")
    assert service.calls.last.request.url.params["candidate_id"] == "c_1"


# --- lists -----------------------------------------------------------------------------------------------------------


def test_lists_are_filtered(service: respx.MockRouter):
    route = service.get(f"{URL}{JOBS_PATH}").respond(json=[])
    filters = ["--status", "running", "--algorithm", "gepa", "--metadata", "team=x", "--metadata", "n=3"]
    result = call("list", *filters, "--limit", "5")
    assert (result.exit_code, result.stdout) == (0, "no jobs\n")
    sent = {"status": "running", "algorithm": "gepa", "metadata.team": "x", "metadata.n": "3", "limit": "5"}
    assert dict(route.calls.last.request.url.params) == sent
    assert call("list", "--metadata", "team").exit_code == 2
