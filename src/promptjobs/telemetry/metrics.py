"""What this process counts for Prometheus. Labels never hold ids, organisations or seeds, nor names without a limit."""

from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from promptjobs.telemetry.call_tallies import CallTallies

REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

# They would double the series, to tell when each one began.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no types here

REGISTRY = CollectorRegistry()
"""Of this process alone: replicas are summed up by whoever asks them."""

ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

BUILD = Gauge("promptjobs_build_info", "1; the label is the version that runs.", ["version"], registry=REGISTRY)
BUILD.labels(version("promptjobs")).set(1)

CALLS = CallTallies()
REGISTRY.register(CALLS)

ROLLOUTS = Counter(
    "promptjobs_rollouts",
    "Rollouts that were answered and recorded; the outcome is `ok` or the reason of the failure.",
    ["phase", "outcome"],
    registry=REGISTRY,
)
RETRIES = Counter(
    "promptjobs_retries",
    "Further attempts at rollouts and completions, by what the one before failed of.",
    ["kind"],
    registry=REGISTRY,
)
LEASES_LOST = Counter("promptjobs_leases_lost", "Jobs that this worker held and lost to another.", registry=REGISTRY)
REAPED_JOBS = Counter(
    "promptjobs_reaped_jobs", "Jobs that this process has put back because their worker was gone.", registry=REGISTRY
)
SSE_CLIENTS = Gauge("promptjobs_sse_clients", "Event streams that are open.", registry=REGISTRY)
REQUESTS = Counter(
    "promptjobs_http_requests",
    "Requests to the API; `route` is the template of the path.",
    ["method", "route", "status"],
    registry=REGISTRY,
)
REQUEST_LATENCY = Histogram(
    "promptjobs_http_request_seconds",
    "Requests to the API, until the answer begins.",
    ["route"],
    buckets=REQUEST_SECONDS,
    registry=REGISTRY,
)
LOOP_LAG = Histogram(
    "promptjobs_event_loop_lag_seconds",
    "How late the event loop was with what was due, looked at twice a second.",
    buckets=LAG_SECONDS,
    registry=REGISTRY,
)
