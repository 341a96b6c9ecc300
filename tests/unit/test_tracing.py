"""Spans of model calls: sent by the real exporter to a collector on loopback."""

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from tests.fakes.span_collector import Collector, attributes, running_collector

from promptjobs.telemetry import tracing
from promptjobs.telemetry.tracing import Chat

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector
        tracing.stop()


def chat(**changes: Any) -> Chat:
    return Chat(
        job_id="pl_1",
        candidate_id="c_1",
        phase="optimization",
        category="policy",
        provider="google",
        model="gemini-2.5-flash",
        temperature=0.25,
        max_tokens=512,
        streamed=True,
        error=None,
        finish_reason="stop",
        prompt_tokens=310,
        completion_tokens=4,
        cost_usd=0.00012,
        seconds=1.5,
    )._replace(**changes)


def sent(collector: Collector, *chats: Chat) -> list[Span]:
    assert tracing.start(f"{collector.url}/", "1.2.3", {"google": "https://models.example/v1beta/openai"})
    for each in chats:
        tracing.record(each)
    tracing.stop()
    return collector.spans


def test_span_tells_of_a_call_all_but_its_prompt(collector: Collector):
    before = time.time_ns()
    (span,) = sent(collector, chat())
    assert span.name == "chat gemini-2.5-flash"
    assert span.kind == Span.SPAN_KIND_CLIENT
    assert span.end_time_unix_nano - span.start_time_unix_nano == 1_500_000_000
    assert before <= span.end_time_unix_nano <= time.time_ns()
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert attributes(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "gcp.gemini",
        "gen_ai.request.model": "gemini-2.5-flash",
        "gen_ai.request.temperature": 0.25,
        "gen_ai.request.max_tokens": 512,
        "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": 310,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.response.finish_reasons": ["stop"],
        "server.address": "models.example",
        "server.port": 443,
        "promptjobs.job_id": "pl_1",
        "promptjobs.candidate_id": "c_1",
        "promptjobs.phase": "optimization",
        "promptjobs.category": "policy",
        "promptjobs.cost_usd": 0.00012,
    }
    assert collector.paths == ["/v1/traces"]
    resource = attributes(collector.requests[0].resource_spans[0].resource)
    assert (resource["service.name"], resource["service.version"]) == ("promptjobs", "1.2.3")


def test_failed_call_has_an_error_and_nothing_that_is_not_known(collector: Collector):
    failed = chat(
        provider="mine",
        error="upstream_timeout",
        finish_reason=None,
        prompt_tokens=0,
        completion_tokens=0,
        cost_usd=None,
        candidate_id=None,
        phase=None,
        streamed=False,
    )
    (span,) = sent(collector, failed)
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "")
    assert attributes(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mine",
        "gen_ai.request.model": "gemini-2.5-flash",
        "gen_ai.request.temperature": 0.25,
        "gen_ai.request.max_tokens": 512,
        "error.type": "upstream_timeout",
        "promptjobs.job_id": "pl_1",
        "promptjobs.category": "policy",
    }


def test_names_are_those_of_the_semantic_conventions(collector: Collector):
    (span,) = sent(collector, chat(error="upstream_error"))
    modules = (gen_ai_attributes, error_attributes, server_attributes)
    known = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    names = {name for name in attributes(span) if not name.startswith("promptjobs.")}
    assert names <= known
    assert attributes(span)["gen_ai.provider.name"] == gen_ai_attributes.GenAiProviderNameValues.GCP_GEMINI.value
    assert attributes(span)["gen_ai.operation.name"] == gen_ai_attributes.GenAiOperationNameValues.CHAT.value


def test_span_belongs_to_the_trace_of_whoever_called(collector: Collector):
    named, nameless, broken = sent(collector, chat(traceparent=PARENT), chat(), chat(traceparent="00-nonsense-00"))
    assert (named.trace_id.hex(), named.parent_span_id.hex()) == tuple(PARENT.split("-")[1:3])
    for alone in (nameless, broken):
        assert alone.parent_span_id == b""
        assert alone.trace_id.hex() not in PARENT
    assert nameless.trace_id != broken.trace_id


def test_callers_span_is_read_only_where_spans_are_sent(collector: Collector):
    headers = [(b"host", b"x"), (b"traceparent", PARENT.encode())]
    assert tracing.traceparent_of(headers) is None
    tracing.start(collector.url, "1", {})
    assert tracing.traceparent_of(headers) == PARENT
    assert tracing.traceparent_of(headers[:1]) is None
    assert tracing.traceparent_of([(b"traceparent", b"0" * 1000)]) is None


def test_nothing_is_sent_without_an_endpoint():
    assert not tracing.start(None, "1", {})
    assert not tracing.start("", "1", {})
    assert not tracing.is_on()
    tracing.record(chat())
    tracing.stop()


def test_collector_that_never_answers_holds_up_the_end_for_a_bounded_time(
    collector: Collector, caplog: pytest.LogCaptureFixture
):
    collector.answers.clear()
    tracing.start(collector.url, "1", {})
    tracing.record(chat())
    began = time.monotonic()
    tracing.stop(0.3)
    assert time.monotonic() - began < 3.0
    assert not tracing.is_on()
    assert "spans were not sent in time, and are lost" in caplog.messages
    collector.answers.set()


WITHOUT_THE_EXTRA = """
import importlib.abc, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
import promptjobs.api.server, promptjobs.cli.service
from promptjobs.telemetry import tracing
assert not tracing.start("http://127.0.0.1:1", "1", {})
assert not tracing.is_on()
tracing.stop()
"""


@pytest.mark.slow
def test_service_can_be_imported_without_the_extra():
    done = subprocess.run([sys.executable, "-c", WITHOUT_THE_EXTRA], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "the extra `otel` is not installed" in done.stderr
