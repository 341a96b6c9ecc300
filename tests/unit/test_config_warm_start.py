"""The section `warm_start`: what it may hold, which prompts fit a job, and what is said of those that do not."""

from typing import Any

import pytest
from tests.fakes.config_bodies import body, mipro_body
from tests.fakes.mipro_runs import STAGES
from tests.fakes.mipro_world import PROMPT, START
from tests.fakes.warm_prompts import warm_prompt

from promptjobs.core.config import JobConfig, Resolution, begun_with, read_config, resolve
from promptjobs.core.config_layers import as_sectioned, on_top_of
from promptjobs.core.demonstrations import MARK
from promptjobs.errors import InvalidConfig, MiproConfigurationError

TABLE = "prompt_learning.warm_start"
USER = "Query: {query}"


def messages(text: str = "Be brief.", *more: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": text}, *more, {"role": "user", "content": USER}]}


def example(*texts: str) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": text, "is_example": True}
        for role, text in zip(("user", "assistant"), texts, strict=False)
    ]


def gepa(changes: dict[str, Any]) -> dict[str, Any]:
    return body({"initial_prompt": PROMPT, **changes})


def mipro(changes: dict[str, Any]) -> dict[str, Any]:
    return mipro_body({"initial_prompt": PROMPT, **changes})


def resolved(sent: dict[str, Any]) -> Resolution:
    return resolve(sent["prompt_learning"]["algorithm"], sent, None)


def refused(sent: dict[str, Any]) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as caught:
        resolved(sent)
    return caught.value


def texts(config: JobConfig) -> list[str]:
    return [prompt.prompt.sections[0].content for prompt in config.search.warm_prompts]


# --- what the section holds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [gepa, mipro])
def test_prompts_are_part_of_what_is_stored(make: Any) -> None:
    config = resolved(make({"warm_start.prompts": [messages("Be brief."), messages("Be exact.")]})).config
    assert texts(config) == ["Be brief.", "Be exact."]
    assert read_config(config.model_dump_json()) == config


@pytest.mark.parametrize("nothing", [{}, {"prompts": []}, {"prompts": None, "job_id": None}])
def test_a_section_without_prompts_and_job_is_none(nothing: dict[str, Any]) -> None:
    assert resolved(gepa({"warm_start": nothing})).config.gepa.warm_start is None  # type: ignore[attr-defined]


def test_settings_of_an_earlier_job_that_is_not_named_are_reported() -> None:
    warnings = resolved(gepa({"warm_start.candidates": "BEST", "warm_start.max_candidates": 3})).warnings
    assert warnings == tuple(
        f"warm_start.{name} has no effect without warm_start.job_id" for name in ("candidates", "max_candidates")
    )


def test_messages_are_sorted_by_order_and_sections_say_the_same() -> None:
    turned = [{"role": "user", "content": USER, "order": 1}, {"role": "system", "pattern": "Be brief.", "order": 0}]
    for name in ("messages", "sections"):
        config = resolved(gepa({"warm_start.prompts": [{name: turned}]})).config
        assert [section.role for section in config.search.warm_prompts[0].prompt.sections] == ["system", "user"]


@pytest.mark.parametrize(
    ("section", "param", "said"),
    [
        ({"candidates": "worst", "job_id": "pl_1"}, "candidates", '"best" or "front"'),
        ({"candidates": [], "job_id": "pl_1"}, "candidates", "list of 1 to 50"),
        ({"candidates": ["c", "c"], "job_id": "pl_1"}, "candidates", "distinct"),
        ({"candidates": [4], "job_id": "pl_1"}, "candidates", "candidate ids"),
        ({"prompts": {}}, "prompts", "list of prompts"),
        ({"prompts": ["text"]}, "prompts[0]", "an object with messages"),
        ({"prompts": [{}]}, "prompts[0]", "either messages or sections"),
        ({"prompts": [{**messages(), "sections": []}]}, "prompts[0]", "either messages or sections"),
        ({"prompts": [{"messages": []}]}, "prompts[0].messages", "1 to 100 messages"),
        ({"prompts": [{"messages": [5]}]}, "prompts[0].messages[0]", "role and content"),
        ({"prompts": [{"messages": [{"role": "tool", "content": "x"}]}]}, "prompts[0].messages[0].role", "system"),
        ({"prompts": [{"messages": [{"role": "user", "content": ""}]}]}, "prompts[0].messages[0].content", "non-empty"),
        ({"prompts": [messages("x", {"role": "user", "content": "y", "order": 5})]}, "prompts[0].messages", "distinct"),
        ({"prompts": [{**messages(), "wildcards": {"query": "SOMETIMES"}}]}, "prompts[0].wildcards", "REQUIRED"),
        ({"prompts": [messages()] * 51}, "prompts", "at most 50"),
    ],
)
def test_what_is_wrong_is_refused_with_its_path(section: dict[str, Any], param: str, said: str) -> None:
    error = refused(gepa({"warm_start": section}))
    assert error.param == f"{TABLE}.{param}"
    assert said in str(error)


# --- what fits -------------------------------------------------------------------------------------------------------

EXAMPLES = [example("Query: a", "one"), example("Query: b", "two")]
SHOWN = messages("Be brief.", *EXAMPLES[0], *EXAMPLES[1])


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ({"messages": messages()["messages"][1:]}, "its messages are user, and those of the baseline system, user"),
        (messages("Be brief about {query}."), "system_0 has the placeholders {query}, and in the baseline none"),
        ({"sections": [{**m, "module": "a"} for m in messages()["messages"]] + [
            {"role": "user", "content": "x", "module": "b"}]}, "it is of a, b, and the baseline of one prompt"),
        (messages("Be brief.", *example("Query: a")), "with an answer of the assistant each"),
        (messages("Be brief.", *example("Query: {query}", "one")), "a worked example holds a placeholder"),
        ({**messages("For {customer}."), "wildcards": {"query": "REQUIRED", "customer": "REQUIRED"}}, "{customer}"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [gepa, mipro])
def test_a_prompt_that_does_not_fit_is_refused_and_says_why(make: Any, prompt: dict[str, Any], said: str) -> None:
    error = refused(make({"warm_start.prompts": [messages(), prompt]}))
    assert error.param == f"{TABLE}.prompts[1]"
    assert said in str(error)


def test_a_gepa_job_takes_what_its_guards_would_take() -> None:
    assert "forbidden" in str(
        refused(gepa({"gepa.guards.must_not_match": ["brief"], "warm_start.prompts": [messages()]}))
    )
    few = {"gepa.max_demonstrations": 1, "warm_start.prompts": [SHOWN]}
    assert "holds 2 worked examples, at most 1" in str(refused(gepa(few)))
    assert resolved(gepa({"warm_start.prompts": [SHOWN]})).warnings == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mipro.max_demo_slots": 0}, "holds 2 worked examples for stage_default, at most 0"),
        ({"mipro.max_demo_set_size": 1}, "holds 2 worked examples for stage_default, at most 1"),
        ({"mipro.max_instruction_slots": 0}, "changes the instruction of stage_default, which has no instruction"),
        ({"mipro.max_prompt_tokens": 12}, "tokens, at most 12"),
    ],
)
def test_a_mipro_job_takes_what_its_slots_hold(changes: dict[str, Any], said: str) -> None:
    assert said in str(refused(mipro({**changes, "warm_start.prompts": [SHOWN]})))


def test_a_mipro_job_changes_no_message_but_the_instruction() -> None:
    other = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q: {query}"}]}
    error = refused(mipro({"warm_start.prompts": [other]}))
    assert isinstance(error, MiproConfigurationError)
    assert "it changes user_1" in str(error)
    assert resolved(gepa({"warm_start.prompts": [other]})).warnings == ()


def test_examples_as_text_and_as_messages_are_the_same_options_of_a_mipro_job() -> None:
    text = f"Be brief.{MARK}Input: Query: a\nOutput: one\n\nInput: Query: b\nOutput: two"
    config = resolved(mipro({"warm_start.prompts": [messages(text), SHOWN]})).config
    assert len(config.search.warm_prompts) == 1


def test_prompts_of_a_program_name_its_modules() -> None:
    sections = [
        {"role": m["role"], "content": m["content"], "module": stage["stage_id"]}
        for stage in STAGES
        for m in stage["baseline_messages"]
    ]
    sections[0]["content"] += " Well."
    stages = {"initial_prompt": None, "mipro.modules": [{"module_id": "program", "stages": STAGES}]}
    assert len(resolved(mipro({**stages, "warm_start.prompts": [{"sections": sections}]})).config.search.warm_prompts)
    assert "the baseline of plan, solve" in str(refused(mipro({**stages, "warm_start.prompts": [messages()]})))


@pytest.mark.parametrize("make", [gepa, mipro])
def test_what_says_nothing_new_is_left_out_with_a_warning(make: Any) -> None:
    same = messages(START)
    found = resolved(make({"warm_start.prompts": [same, messages(), messages()]}))
    assert texts(found.config) == ["Be brief."]
    assert found.warnings == ("2 of the 3 prompts of warm_start are the baseline or another one again",)
    assert resolved(make({"warm_start.prompts": [same]})).config.search.warm_start is None


@pytest.mark.parametrize("make", [body, mipro_body])
def test_where_the_task_apps_messages_are_the_baseline_the_search_finds_out(make: Any) -> None:
    found = resolved(make({"warm_start.prompts": [messages("Anything {x}")]}))
    assert len(found.config.search.warm_prompts) == 1
    assert found.warnings[-1].startswith("whether the prompts of warm_start fit is known once")


# --- those of an earlier job -----------------------------------------------------------------------------------------


def test_an_earlier_jobs_prompts_stand_before_the_requests_own() -> None:
    found = resolved(gepa({"warm_start.job_id": "pl_1", "warm_start.prompts": [messages("Be exact.")]}))
    begun = begun_with(
        found, [warm_prompt("Be kind.", candidate_id="c_1"), warm_prompt("Be brief.", candidate_id="c_2")]
    )
    assert texts(begun.config) == ["Be kind.", "Be brief.", "Be exact."]
    assert [prompt.origin for prompt in begun.config.search.warm_prompts][1:] == [
        {"job_id": "pl_1", "candidate_id": "c_2"},
        {"job_id": None, "candidate_id": None},
    ]


def test_prompts_together_have_a_limit() -> None:
    found = resolved(body({"warm_start.job_id": "pl_1"}))
    with pytest.raises(InvalidConfig, match="take fewer"):
        begun_with(found, [warm_prompt("x" * 90_000, candidate_id=f"c_{n}") for n in range(12)])


def test_a_candidate_that_does_not_fit_is_named() -> None:
    found = resolved(mipro({"warm_start.job_id": "pl_1"}))
    with pytest.raises(MiproConfigurationError) as caught:
        begun_with(found, [warm_prompt("Be brief.", user="Question: {other}", candidate_id="c_7")])
    assert caught.value.param == f"{TABLE}.job_id"
    assert "candidate 'c_7' of job 'pl_1' does not fit: user_1" in str(caught.value)


def test_a_plan_without_a_budget_of_its_own_grows_with_the_prompts() -> None:
    found = resolved(mipro({"warm_start.job_id": "pl_1", "mipro.batch_size": 10}))
    begun = begun_with(found, [warm_prompt("Be brief.", candidate_id="c_1")])
    assert begun.config.search.rollout_budget == found.config.search.rollout_budget + 2 * 10
    given = resolved(mipro({"warm_start.job_id": "pl_1", "mipro.rollout_budget": 900}))
    begun = begun_with(given, [warm_prompt("Be brief.", candidate_id="c_1")])
    assert begun.config.search.rollout_budget == 900


# --- one config on top of another ------------------------------------------------------------------------------------


def test_the_upper_config_goes_before_by_whichever_name() -> None:
    lower = gepa({"max_cost_usd": 1.0, "gepa.rollout.budget": 300})
    upper = {"prompt_learning": {"termination_config": {"max_cost_usd": 2.0}}}
    whole = on_top_of("gepa", lower, upper)
    config = resolve("gepa", whole, None).config
    assert (config.search.max_spend_usd, config.search.rollout_budget) == (2.0, 300)
    assert on_top_of("gepa", whole, upper) == whole


@pytest.mark.parametrize("upper", [{"gepa": {"rollout": {"budget": 7}}}, {"prompt_learning.gepa.rollout.budget": 7}])
def test_a_part_of_a_config_and_overrides_are_laid_on_top_alike(upper: dict[str, Any]) -> None:
    for form in (upper, as_sectioned(upper)) if "gepa" in upper else (upper,):
        sent = form if "." in next(iter(form)) else as_sectioned(form)
        assert on_top_of("gepa", gepa({}), sent)["prompt_learning"]["gepa"]["rollout"]["budget"] == 7


def test_what_was_redacted_is_not_taken_over() -> None:
    lower = gepa({"task_app_api_key": "[redacted]"}) | {"task_app_api_key": "[redacted]"}
    whole = on_top_of("gepa", lower, {"task_app_api_key": "[redacted]"})
    assert "redacted" not in str(whole)
    assert resolve("gepa", whole, None).task_app_key is None
