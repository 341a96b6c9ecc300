"""The program of two calls is honest: each of its prompts is read, and pays; so do demonstrations in either form."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import aiohttp

from promptjobs.core.demonstrations import Example, with_examples
from promptjobs.demo.dataset import Split, Ticket, load_dataset
from promptjobs.demo.model_server import create_model_app
from promptjobs.demo.policy_model import answer
from promptjobs.demo.programs import TRIAGE_ENV, triage_program
from promptjobs.demo.review import review_triage
from promptjobs.demo.serving import serving
from promptjobs.demo.task_app import create_task_app
from tests.acceptance.test_demo_honesty import permuted

DATASET = load_dataset()
TEST = [DATASET.ticket(seed) for seed in DATASET.seeds(Split.TEST)]
TRAIN = [DATASET.ticket(seed) for seed in DATASET.seeds(Split.TRAIN)]
SUMMARIZE, CLASSIFY = triage_program(DATASET.labels).steps

Shown = tuple[tuple[str, str], ...]
"""Demonstrations: (input, output) pairs."""


def rules(lead: str = "") -> str:
    """The house rules as a person would write them down; lead: with {label}, in front of each."""
    told = [(lead.format(label=one.label), one.rule, *one.notes) for one in DATASET.house_rules.values()]
    return "\n".join(f"- {' '.join(parts).strip()}" for parts in told)


GOOD_SUMMARIZE = f"{SUMMARIZE.system}\nName what it is about:\n{rules()}"
BARE_CLASSIFY = f"{CLASSIFY.system}\nAnswer with the label only."
GOOD_CLASSIFY = f"{BARE_CLASSIFY}\n{rules('{label}:')}"


def ask(system: str, pattern: str, text: str, shown: Shown) -> str:
    turns = [pair for said, reply in shown for pair in ((pattern.format(said), "user"), (reply, "assistant"))]
    messages = [("system", system), *((role, content) for content, role in turns), ("user", pattern.format(text))]
    return answer([{"role": role, "content": content} for role, content in messages])


@lru_cache(maxsize=8192)
def run(ticket: Ticket, summarize: str, classify: str, first: Shown = (), second: Shown = ()) -> tuple[str, str]:
    """The summary and the answer. first, second: demonstrations of each step, as messages."""
    summary = ask(summarize, "Customer message: {}", ticket.message, first)
    return summary, ask(classify, "Summary: {}", summary, second)


def mean_score(
    summarize: str = SUMMARIZE.system,
    classify: str = CLASSIFY.system,
    first: Shown = (),
    second: Shown = (),
    tickets: Sequence[Ticket] = TEST,
) -> float:
    runs = [(ticket, *run(ticket, summarize, classify, first, second)) for ticket in tickets]
    return sum(review_triage(DATASET, ticket, summary, reply).score for ticket, summary, reply in runs) / len(runs)


def solved() -> list[tuple[Ticket, str, str]]:
    """What the weak prompts get right of the train tickets: ticket, summary and answer."""
    runs = [(ticket, *run(ticket, SUMMARIZE.system, CLASSIFY.system)) for ticket in TRAIN]
    return [(ticket, summary, reply) for ticket, summary, reply in runs if reply == ticket.label]


def shown_by_rules(tickets: Sequence[Ticket]) -> Shown:
    """Summaries as the program writes them with the rules at hand."""
    return tuple((ticket.message, run(ticket, GOOD_SUMMARIZE, CLASSIFY.system)[0]) for ticket in tickets)


def as_text(system: str, pattern: str, shown: Shown) -> str:
    return with_examples(system, [Example(n, pattern.format(said), reply) for n, (said, reply) in enumerate(shown)])


async def roll_out(permute: bool = False) -> list[Mapping[str, object]]:
    """The `metrics` of a rollout of every test ticket, from a task app and a model server that talk over HTTP."""
    async with (
        serving(create_model_app()) as model_url,
        serving(create_task_app(permuted(DATASET) if permute else DATASET)) as task_url,
        aiohttp.ClientSession() as session,
    ):
        metrics = []
        for ticket in TEST:
            config = {"model": "demo-policy", "inference_url": f"{model_url}/v1"}
            body = {"env": {"env_name": TRIAGE_ENV, "seed": ticket.seed}, "policy": {"config": config}}
            async with session.post(f"{task_url}/rollout", json=body) as response:
                assert response.status == 200
                metrics.append((await response.json())["metrics"])
        return metrics


async def test_rollouts_over_http_score_as_the_models_do_and_permuted_gold_changes_no_answer():
    true, false = await roll_out(), await roll_out(permute=True)
    expected = [run(ticket, SUMMARIZE.system, CLASSIFY.system) for ticket in TEST]
    for metrics in (true, false):
        assert [(each["details"]["summarize"], each["details"]["output"]) for each in metrics] == expected
    assert [each["outcome_reward"] for each in true] != [each["outcome_reward"] for each in false]
    assert sum(each["outcome_reward"] for each in true) / len(true) == mean_score()


def test_weak_prompts_score_low_each_good_one_helps_and_both_help_most():
    weak, both = mean_score(), mean_score(GOOD_SUMMARIZE, GOOD_CLASSIFY)
    summarize, classify = mean_score(GOOD_SUMMARIZE), mean_score(classify=GOOD_CLASSIFY)
    print(f"weak {weak:.2f}, good summaries {summarize:.2f}, good classification {classify:.2f}, both {both:.2f}")
    assert 0.1 <= weak <= 0.35
    assert summarize >= weak + 0.15
    assert classify >= weak + 0.3
    assert both >= max(summarize, classify) + 0.08
    assert both >= 0.7


def test_each_step_reads_its_own_prompt_alone():
    """The rules at the wrong step teach nothing there; and labels in the first step make it answer with one."""
    for ticket in TEST[:20]:
        weak = run(ticket, SUMMARIZE.system, CLASSIFY.system)
        assert run(ticket, SUMMARIZE.system, GOOD_CLASSIFY)[0] == weak[0]
        assert run(ticket, GOOD_CLASSIFY, CLASSIFY.system)[0] in DATASET.labels


def test_wrong_rules_are_followed():
    labels = list(DATASET.house_rules)
    following = dict(zip(labels, [*labels[1:], labels[0]], strict=True))
    told = "\n".join(
        f"- {following[one.label]}: {one.rule} {' '.join(one.notes)}" for one in DATASET.house_rules.values()
    )
    misled = f"{BARE_CLASSIFY}\n{told}"
    followed = sum(run(ticket, GOOD_SUMMARIZE, misled)[1] == following[ticket.label] for ticket in TEST)
    assert followed > 0.6 * len(TEST)
    assert mean_score(GOOD_SUMMARIZE, misled) < mean_score()


def test_solved_examples_of_the_second_step_help_in_messages_and_in_the_text():
    pairs = tuple((summary, reply) for _, summary, reply in solved()[:4])
    assert mean_score(second=pairs) >= mean_score() + 0.04
    labelled = tuple((run(ticket, GOOD_SUMMARIZE, BARE_CLASSIFY)[0], ticket.label) for ticket in TRAIN[:20])
    without = mean_score(GOOD_SUMMARIZE, BARE_CLASSIFY)
    in_messages = mean_score(GOOD_SUMMARIZE, BARE_CLASSIFY, second=labelled)
    in_text = mean_score(GOOD_SUMMARIZE, as_text(BARE_CLASSIFY, "Summary: {}", labelled))
    print(f"without examples {without:.2f}, 20 in messages {in_messages:.2f}, in the text {in_text:.2f}")
    assert min(in_messages, in_text) >= without + 0.05


def test_good_examples_of_the_first_step_help_in_messages_and_in_the_text_alike():
    pairs = shown_by_rules(TRAIN[:4])
    without, helped = mean_score(classify=GOOD_CLASSIFY), mean_score(classify=GOOD_CLASSIFY, first=pairs)
    print(f"good classification {without:.2f}, with 4 examples of summaries {helped:.2f}")
    assert helped >= without + 0.04
    assert mean_score(as_text(SUMMARIZE.system, "Customer message: {}", pairs), GOOD_CLASSIFY) == helped
