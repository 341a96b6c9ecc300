"""Model calls as they are counted: what a scrape of them says."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from promptjobs.telemetry.call_tallies import MAX_MODELS, OTHER, CallTallies, outcome_of


def scraped(tallies: CallTallies) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Samples by name and labels, as Prometheus reads them."""
    registry = CollectorRegistry()
    registry.register(tallies)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(sample.name, frozenset(sample.labels.items())): sample.value for f in families for sample in f.samples}


def series(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_calls_are_summed_up_by_category_model_and_outcome():
    tallies = CallTallies()
    tallies.count("policy", "openai", "m", "ok", 100, 10, 0, 0.5, 0.3)
    tallies.count("policy", "openai", "m", "ok", 100, 10, 5, 0.25, 3.0)
    tallies.count("policy", "openai", "m", "upstream_timeout", 0, 0, 0, None, 120.0)
    tallies.count("test", "openai", "m", "ok", 1, 2, 0, 0.125, 300.0)
    found = scraped(tallies)

    policy = {"category": "policy", "provider": "openai", "model": "m"}
    assert found[series("promptjobs_calls_total", **policy, outcome="ok")] == 2
    assert found[series("promptjobs_calls_total", **policy, outcome="upstream_timeout")] == 1
    assert found[series("promptjobs_tokens_total", **policy, kind="prompt")] == 200
    assert found[series("promptjobs_tokens_total", **policy, kind="completion")] == 20
    assert found[series("promptjobs_tokens_total", **policy, kind="unknown")] == 5
    assert found[series("promptjobs_cost_usd_total", **policy)] == 0.75
    assert found[series("promptjobs_unpriced_calls_total", **policy)] == 1
    assert found[series("promptjobs_cost_usd_total", **{**policy, "category": "test"})] == 0.125


def test_seconds_are_cumulative_over_all_categories_of_a_model():
    tallies = CallTallies()
    for category, seconds in (("policy", 0.25), ("policy", 0.3), ("test", 119.0), ("judge", 121.0)):
        tallies.count(category, "openai", "m", "ok", 1, 1, 0, 0.0, seconds)
    found = scraped(tallies)
    buckets = {
        bound: found[series("promptjobs_call_seconds_bucket", provider="openai", model="m", le=bound)]
        for bound in ("0.1", "0.25", "0.5", "60.0", "120.0", "+Inf")
    }
    assert buckets == {"0.1": 0, "0.25": 1, "0.5": 2, "60.0": 2, "120.0": 3, "+Inf": 4}
    assert found[series("promptjobs_call_seconds_count", provider="openai", model="m")] == 4
    assert found[series("promptjobs_call_seconds_sum", provider="openai", model="m")] == 240.55


def test_models_beyond_the_limit_count_as_one():
    tallies = CallTallies(max_models=3)
    for number in range(50):
        for category in ("policy", "test"):
            tallies.count(category, "openai", f"m{number}", "ok", 1, 0, 0, 0.0, 1.0)
    tallies.count("judge", "openai", "m1", "ok", 1, 0, 0, 0.0, 1.0)
    found = scraped(tallies)
    models = {dict(labels)["model"] for _, labels in found}
    assert models == {"m0", "m1", "m2", OTHER}
    other = {"category": "policy", "provider": OTHER, "model": OTHER}
    assert found[series("promptjobs_calls_total", **other, outcome="ok")] == 47
    known = {"category": "judge", "provider": "openai", "model": "m1"}
    assert found[series("promptjobs_calls_total", **known, outcome="ok")] == 1
    assert MAX_MODELS == 200


def test_names_of_any_form_stay_labels():
    tallies = CallTallies()
    model = 'a"b\\c\n{d="e"}é'
    tallies.count("policy", "openai", model, "ok", 1, 0, 0, 0.0, 1.0)
    assert {dict(labels)["model"] for _, labels in scraped(tallies)} == {model}


def test_rate_limits_of_providers_are_an_outcome_of_their_own():
    assert outcome_of(None, 200) == "ok"
    assert outcome_of("upstream_error", 429) == "upstream_rate_limited"
    assert outcome_of("upstream_error", 500) == "upstream_error"
    assert outcome_of("prompt_not_matched", 400) == "prompt_not_matched"
