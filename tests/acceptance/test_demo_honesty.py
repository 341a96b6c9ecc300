"""The demo is honest: its models read prompts, know no gold, and reward a better prompt with a better score."""

import random
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files

import aiohttp
import pytest

from promptjobs.demo.dataset import BASELINE_SYSTEM, USER_PATTERN, Dataset, Split, Ticket, load_dataset
from promptjobs.demo.model_server import create_model_app
from promptjobs.demo.policy_model import SMALL, WHOLE, Ability, answer
from promptjobs.demo.reflection_model import reflect
from promptjobs.demo.review import Review, parse_label, review
from promptjobs.demo.serving import serving
from promptjobs.demo.task_app import create_task_app

DATASET = load_dataset()
TEST = [DATASET.ticket(seed) for seed in DATASET.seeds(Split.TEST)]
TRAIN = [DATASET.ticket(seed) for seed in DATASET.seeds(Split.TRAIN)]

# A prompt as a person who knows the desk would write it.
TASK = """You sort the support tickets of a bank: read the customer message and choose one label.
Answer with the label only: no other words, nothing else."""
RULES = """
If the message mentions an ATM, a cashpoint, a withdrawal or cash, then cash_withdrawal_issue.
If the message mentions refund or reimbursement, then refund_not_received.
If a machine swallowed or kept my card, then lost_or_stolen_card, not cash_withdrawal_issue."""
DEFINITIONS = {
    "card_delivery_delay": (
        "a card that was ordered, renewed or promised has not arrived by post. Where is my card, new card has not "
        "come, nothing arrived, how long until my new card gets here, still no card. Delivery, shipping, dispatch, "
        "courier, tracking, mail, letterbox, post office, address, envelope, order status, express, expires, "
        "replacement."
    ),
    "card_not_working": (
        "the card is in hand but does not work anywhere. Chip, contactless, tap, magnetic strip, plastic, physical "
        "card, PIN, beep, slot, reader, terminal or parking meter does not recognise it. Broken, bent, split, "
        "crack, faulty, unreadable, useless, not functioning, card error. Activate, activation code, PIN wrong, "
        "unlock PIN."
    ),
    "card_payment_declined": (
        "a purchase was declined, refused, rejected, denied, blocked, turned down or not authorised at a shop, "
        "till, checkout, waiter, restaurant, hotel, airline, garage or website. Could not take my subscription, "
        "payment unsuccessful, payment error, purchase did not go through, card not accepted, insufficient funds, "
        "security code, verification, confirmation, spending limit, keep declining me."
    ),
    "card_payment_wrong_amount": (
        "a purchase was charged with the wrong amount. Charged twice, double, two times, three times, overcharged, "
        "more than the receipt, total, bill, price or invoice, extra fee on a purchase, tip, pound extra, exchange "
        "rate, converted, dollars, euros, pounds, expensive, discount, incorrect figure or sum, statement says, "
        "digits, cost, took instead of, agreed price, put through, debited, only bought one."
    ),
    "pending_transfer": (
        "money sent by bank transfer has not arrived yet. Transfer pending, processing, under review, awaiting, "
        "still waiting, stuck, how long do transfers take, working days, weekend, speed up, on its way, left my "
        "account, has not reached, recipient sees nothing, standing order went out, landlord or tenant has not got "
        "rent, wired, moved, sent me some money, international payment will land, salary, paid at work, pension, "
        "deposit from savings, cheque not cleared, client paid, not showing in my balance, no sign of it."
    ),
    "failed_transfer": (
        "a transfer failed. Transfer rejected, refused, declined, reversed, cancelled, unsuccessful, aborted, "
        "daily limit, returned, bounced, came back, sent back, balance went back up, error when sending money, red "
        "cross, cannot transfer, cannot send, cannot move money, invalid IBAN, sort code, account name, account "
        "closed, payee, beneficiary, country unsupported, standing order did not go out, rent payment failed, "
        "direct payment did not work."
    ),
    "refund_not_received": (
        "a refund is missing. Refund, refunded, reimbursement, credit note, compensation, voided, released, "
        "returned a jacket, brought back, take something back, sent back the shoes, cancelled flight, reservation, "
        "concert or theatre, promised the money back, ticket money, seller or store confirmed the credit, give me "
        "back, chase a refund."
    ),
    "payment_dispute": (
        "the customer contests a payment. Do not recognise, do not remember, did not make, was not me, never "
        "bought, never agreed, never heard of, who is this, fraud, asleep, unauthorised, unknown or strange "
        "company, direct debit, stranger, someone used my details, never been there, my kid bought without asking, "
        "cancelled this subscription and still taking money, free trial, gone bust, never delivered, parcel never "
        "came, fake, nothing like the photo, broken goods, ignores me, will not answer, vanished, get my money "
        "back from the seller, refuse to refund, chargeback, contest, challenge, reverse the charge, take it off, "
        "work never done."
    ),
    "cash_withdrawal_issue": (
        "cash from an ATM or cashpoint. Cash machine, withdraw, withdrawal, take out cash, took out, taking money "
        "out, notes, dispense, no notes came out, machine ran out, hole in the wall, counter, cash limit, short, "
        "refused money."
    ),
    "lost_or_stolen_card": (
        "the card is gone. Lost, stolen, stole, missing, mislaid, left behind, left my card, dropped, fell, "
        "forgot, theft, purse, wallet, bag, keys, mugged, pickpocket, police, run off with my card, hand it over, "
        "cannot find my card, cannot locate, not seen, search, swallowed, kept my card, card not given back. "
        "Block, freeze, unfreeze, stop, deactivate or cancel the card."
    ),
}


def prompt_with(definitions: Mapping[str, str], rules: str = "") -> str:
    listed = "\n".join(f"{label}: {text}" for label, text in definitions.items())
    return f"{TASK}\nLabels: {', '.join(DATASET.labels)}.\n\n{listed}\n{rules}"


GOOD = prompt_with(DEFINITIONS, RULES)


def answer_to(system: str, ticket: Ticket, ability: Ability = WHOLE) -> str:
    user = USER_PATTERN.format(message=ticket.message)
    return answer([{"role": "system", "content": system}, {"role": "user", "content": user}], ability)


def mean_score(system: str, tickets: Iterable[Ticket] = TEST, ability: Ability = WHOLE) -> float:
    scores = [review(DATASET, ticket, answer_to(system, ticket, ability)).score for ticket in tickets]
    return sum(scores) / len(scores)


def of_label(label: str) -> list[Ticket]:
    return [ticket for ticket in TEST if ticket.label == label]


def permuted(dataset: Dataset) -> Dataset:
    """The same messages, each with another label's gold."""
    following = dict(zip(dataset.labels, [*dataset.labels[1:], dataset.labels[0]], strict=True))
    tickets = {seed: replace(ticket, label=following[ticket.label]) for seed, ticket in dataset.tickets.items()}
    return Dataset(dataset.house_rules, tickets)


async def roll_out(dataset: Dataset, seeds: list[int]) -> list[Mapping[str, object]]:
    """The `metrics` of one rollout per seed, from a task app and a model server that talk over HTTP."""
    async with (
        serving(create_model_app()) as model_url,
        serving(create_task_app(dataset)) as task_url,
        aiohttp.ClientSession() as session,
    ):
        metrics = []
        for seed in seeds:
            config = {"model": "demo-policy", "inference_url": f"{model_url}/v1"}
            body = {"run_id": f"run-{seed}", "env": {"seed": seed}, "policy": {"config": config}}
            async with session.post(f"{task_url}/rollout", json=body) as response:
                assert response.status == 200
                metrics.append((await response.json())["metrics"])
        return metrics


async def test_rollouts_over_http_score_as_the_models_do_and_permuted_gold_changes_no_answer():
    seeds = DATASET.seeds(Split.TEST)
    true = await roll_out(DATASET, seeds)
    false = await roll_out(permuted(DATASET), seeds)
    outputs = [answer_to(BASELINE_SYSTEM, ticket) for ticket in TEST]
    assert [metrics["details"]["output"] for metrics in true] == outputs
    assert [metrics["details"]["output"] for metrics in false] == outputs
    assert [metrics["outcome_reward"] for metrics in true] != [metrics["outcome_reward"] for metrics in false]
    assert sum(metrics["outcome_reward"] for metrics in true) / len(true) == mean_score(BASELINE_SYSTEM)


@pytest.fixture(scope="module")
def loaded_with_the_models() -> list[str]:
    """The demo's modules that a process has loaded once it serves both models."""
    program = (
        "import sys, promptjobs.demo.model_server; "
        "print(*(name for name in sys.modules if name.startswith('promptjobs.demo.')), sep=chr(10))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return [name.removeprefix("promptjobs.demo.") for name in run.stdout.split()]


def test_the_models_do_not_load_the_data_set(loaded_with_the_models):
    assert {"policy_model", "reflection_model", "wording"} <= set(loaded_with_the_models)
    assert not {"dataset", "review", "task_app"} & set(loaded_with_the_models)


def test_the_sources_of_the_models_hold_no_label_no_message_and_no_file_access(loaded_with_the_models):
    folder = files("promptjobs.demo")
    text = "\n".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in loaded_with_the_models)
    assert not [label for label in DATASET.labels if label in text]
    assert not [ticket.message for ticket in DATASET.tickets.values() if ticket.message in text]
    assert not re.findall(r"\bopen\(|read_text|importlib|tomllib|pathlib", text)


def test_a_weak_prompt_scores_low_and_a_good_one_high():
    assert 0.15 <= mean_score(BASELINE_SYSTEM) <= 0.45
    assert mean_score(GOOD) >= 0.8


def test_the_small_model_gains_from_a_good_prompt_too_but_less():
    weak, good = mean_score(BASELINE_SYSTEM, ability=SMALL), mean_score(GOOD, ability=SMALL)
    assert weak + 0.2 <= good <= mean_score(GOOD) - 0.2
    assert weak <= mean_score(BASELINE_SYSTEM)


def test_the_models_answers_are_not_all_of_a_kind_under_the_weak_prompt():
    bare = sum(parse_label(answer_to(BASELINE_SYSTEM, ticket), DATASET.labels) is not None for ticket in TEST)
    assert 0.2 * len(TEST) < bare < 0.8 * len(TEST)


@pytest.mark.parametrize("label", DATASET.labels)
def test_without_its_definition_a_label_is_recognised_less(label):
    others = {name: text for name, text in DEFINITIONS.items() if name != label}
    assert mean_score(prompt_with(others), of_label(label)) < mean_score(prompt_with(DEFINITIONS), of_label(label))


def test_wrong_definitions_are_followed():
    labels = list(DEFINITIONS)
    told_for = dict(zip(labels, [labels[-1], *labels[:-1]], strict=True))
    misled = prompt_with({told_for[label]: text for label, text in DEFINITIONS.items()})
    followed = sum(answer_to(misled, ticket) == told_for[ticket.label] for ticket in TEST)
    assert followed > 0.6 * len(TEST)
    assert mean_score(misled) < mean_score(BASELINE_SYSTEM)


def test_crowding_a_good_prompt_with_irrelevant_text_lowers_its_score():
    messages = "\n".join(f"{turn}. We opened our {turn}th branch in a town by the sea." for turn in range(400))
    assert mean_score(f"{GOOD}\n{messages}") <= mean_score(GOOD) - 0.05


@dataclass(frozen=True, slots=True)
class Climb:
    system: str
    scores: tuple[float, ...]
    rollouts: int


def meta_prompt(system: str, failed: Iterable[tuple[Ticket, str, Review]]) -> str:
    records = "\n\n".join(
        f"## Input\n{USER_PATTERN.format(message=ticket.message)}\n## Output\n{output}\n"
        f"## Feedback\n{verdict.feedback}\nScore: {verdict.score}"
        for ticket, output, verdict in failed
    )
    return (
        f"Improve this instruction.\n\nCurrent instruction:\n```\n{system}\n```\n\n{records}\n\n"
        "Answer with the new text inside a single ``` fence."
    )


def hill_climb(rng: random.Random, reflections: int = 10, minibatch: int = 14, failures: int = 8) -> Climb:
    """Alternate a minibatch of train tickets and a reflection on its failures; keep a child that is not worse on it."""
    system, scores, rollouts = BASELINE_SYSTEM, [mean_score(BASELINE_SYSTEM)], 0
    for turn in range(reflections):
        batch = rng.sample(TRAIN, minibatch)
        tried = [(ticket, output := answer_to(system, ticket), review(DATASET, ticket, output)) for ticket in batch]
        failed = [one for one in tried if one[2].score < 1.0][:failures]
        reply = reflect([{"role": "user", "content": meta_prompt(system, failed)}], seed=turn)
        child = re.fullmatch(r"```\n(.*)\n```", reply, re.DOTALL)[1]
        rollouts += 2 * minibatch
        if mean_score(child, batch) >= sum(one[2].score for one in tried) / minibatch:
            system = child
        scores.append(mean_score(system))
    return Climb(system, tuple(scores), rollouts)


def test_ten_reflections_lift_the_held_out_score_from_every_start():
    climbs = [hill_climb(random.Random(start)) for start in range(8)]
    finals = sorted(climb.scores[-1] for climb in climbs)
    print("baseline", climbs[0].scores[0], "after 10 reflections", finals, "hand-written", mean_score(GOOD))
    assert all(climb.rollouts <= 300 for climb in climbs)
    assert finals[0] >= climbs[0].scores[0] + 0.25
    assert finals[0] < finals[-1] <= mean_score(GOOD)
