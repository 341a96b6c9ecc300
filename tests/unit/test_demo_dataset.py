"""The demo's tickets: complete, free of repetition, split without overlap."""

from collections import Counter

import pytest

from promptjobs.demo.dataset import BASELINE_SYSTEM, FIRST_SEED, Split, load_dataset
from promptjobs.errors import InvalidRequest

DATASET = load_dataset()


def test_every_label_has_many_messages_and_one_rule_in_one_sentence():
    assert len(DATASET.labels) >= 8
    counts = Counter(ticket.label for ticket in DATASET.tickets.values())
    assert set(counts) == set(DATASET.labels)
    assert min(counts.values()) >= 25
    for house_rule in DATASET.house_rules.values():
        assert house_rule.rule.endswith(".")
        assert ". " not in house_rule.rule


def test_no_message_occurs_twice_or_names_a_label():
    folded = [" ".join(ticket.message.lower().split()) for ticket in DATASET.tickets.values()]
    assert len(set(folded)) == len(folded)
    assert not [message for message in folded if any(label in message for label in DATASET.labels)]


@pytest.mark.parametrize(("split", "least"), [(Split.TRAIN, 100), (Split.VALIDATION, 50), (Split.TEST, 70)])
def test_each_split_is_large_contiguous_and_stratified(split: Split, least: int):
    seeds = DATASET.seeds(split)
    assert len(seeds) >= least
    assert seeds == list(range(FIRST_SEED[split], FIRST_SEED[split] + len(seeds)))
    counts = Counter(DATASET.ticket(seed).label for seed in seeds)
    assert len(set(counts.values())) == 1
    first_of_each = [DATASET.ticket(seed).label for seed in seeds[: len(DATASET.labels)]]
    assert sorted(first_of_each) == sorted(DATASET.labels)


def test_every_seed_belongs_to_one_split_only():
    by_split = [set(DATASET.seeds(split)) for split in Split]
    assert sum(map(len, by_split)) == len(set().union(*by_split)) == len(DATASET.tickets)


def test_an_unknown_seed_is_refused_with_the_ranges_that_exist():
    with pytest.raises(InvalidRequest, match=r"seed 999 is not in the data set \(train 0\.\.99"):
        DATASET.ticket(999)


def test_the_baseline_names_every_label_and_nothing_of_the_rules():
    assert all(label in BASELINE_SYSTEM for label in DATASET.labels)
    assert len(BASELINE_SYSTEM.split()) <= len(DATASET.labels) + 6
