"""docs/observability.md names exactly the metrics that there are, and the attributes that spans have."""

import re
from pathlib import Path

import yaml
from prometheus_client import Metric

from promptjobs.api.prometheus import Fleet, fleet_metrics
from promptjobs.core.ledger import Category
from promptjobs.db.fleet import Live
from promptjobs.db.jobs import JobStatus
from promptjobs.telemetry.metrics import CALLS, REGISTRY

TEXT = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
ROW = re.compile(r"^\| `(promptjobs_\w+)` \|([^|]*)\|", re.MULTILINE)
BESIDES = frozenset({"le"})


def name_of(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


def test_every_metric_stands_in_the_table_with_its_labels():
    CALLS.count("policy", "openai", "m", "ok", 1, 1, 0, 0.0, 1.0)
    fleet = Fleet(Live({"queued": 1}, 0.0), {"succeeded": 1})
    metrics = [each for each in [*REGISTRY.collect(), *fleet_metrics(fleet)] if each.name.startswith("promptjobs_")]
    told = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in ROW.findall(TEXT)}
    assert set(told) == {name_of(metric) for metric in metrics}
    for metric in metrics:
        for sample in metric.samples:
            assert set(sample.labels) - BESIDES == told[name_of(metric)], sample


def test_alerts_and_prose_name_no_other_metrics():
    known = {name for name, _ in ROW.findall(TEXT)}
    named = {re.sub(r"_bucket$", "", name) for name in re.findall(r"\bpromptjobs_\w+", TEXT)}
    assert named == known


def test_categories_and_statuses_are_those_of_the_service():
    for category in Category:
        assert f"`{category}`" in TEXT
    assert "every status is there" in TEXT
    assert len(JobStatus) == 7


def test_files_for_prometheus_are_yaml():
    scraping, alerts = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL))
    assert [each["job_name"] for each in scraping["scrape_configs"]] == ["promptjobs", "promptjobs-workers"]
    assert all({"alert", "expr"} <= set(rule) for rule in alerts["groups"][0]["rules"])
