"""Spans over the real SDK, with its in-memory exporter: off by default, sampled as a whole, joined over processes."""

import io
import json
import logging
import subprocess
import sys
from types import MappingProxyType

import pytest
import structlog
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nightshift.bus.port import Subscription
from nightshift.contracts.events.build import CheckpointSaved
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.topics import Topics
from nightshift.eventlog.errors import ConfigurationError
from nightshift.eventlog.trace_context import CURRENT
from nightshift.servicekit import consumer_spans, logs, otlp, tracing

PARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
UNSAMPLED = PARENT[:-1] + "0"


def test_without_otel_variables_nothing_is_installed_or_imported():
    assert otlp.from_environment("s", "r", {}) is None
    assert otlp.from_environment("s", "r", {"OTEL_TRACES_EXPORTER": "none"}) is None
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"}
    assert otlp.from_environment("s", "r", endpoint) is None
    code = (
        "import sys, nightshift.servicekit.service;"
        " print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
    with tracing.span("nothing") as span:
        assert CURRENT.get() is None
        span.set({"a": 1})
    assert tracing.derived("build-1/1") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_an_unsupported_exporter_is_refused_with_a_hint(wrong):
    with pytest.raises(ConfigurationError) as refused:
        otlp.from_environment("s", "r", wrong)
    assert refused.value.hint


def test_a_span_continues_the_trace_of_its_parent(exported):
    with tracing.span("outer", parent=PARENT, attributes={"kept": 1, "left_out": None}):
        assert CURRENT.get().startswith("00-" + "a" * 32)
        with pytest.raises(ValueError, match="no"), tracing.span("inner"):
            raise ValueError("no")
    assert CURRENT.get() is None
    inner, outer = exported()
    assert f"{outer.context.trace_id:x}" == "a" * 32
    assert f"{outer.parent.span_id:x}" == "b" * 16
    assert inner.parent.span_id == outer.context.span_id
    assert inner.attributes["error.type"] == "ValueError"
    assert dict(outer.attributes) == {"kept": 1}
    assert not inner.events, "an exception's message may hold what a person wrote"


def test_an_unsampled_trace_makes_no_span_but_is_passed_on(exported):
    with tracing.span("hidden", parent=UNSAMPLED):
        assert CURRENT.get() == UNSAMPLED
    assert exported() == ()


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "x",
        "-",
        PARENT[:-3],
        PARENT + "-0",
        "00-" + "0" * 32 + PARENT[35:],
        PARENT.upper(),
        "01" + PARENT[2:],
    ],
)
def test_a_text_that_is_no_traceparent_is_ignored(exported, wrong):
    assert not tracing.sampled(wrong)
    with tracing.within(wrong):
        assert CURRENT.get() is None
    with tracing.span("alone", parent=wrong):
        pass
    [span] = exported()
    assert span.parent is None


def test_every_process_derives_one_trace_and_one_decision(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.1")
    decisions = []
    for service in ("orchestrator", "another"):
        exporter = otlp.make(service, "r", InMemorySpanExporter())
        tracing.install(exporter)
        decisions.append([tracing.derived(f"build-b/{turn}") for turn in range(1000)])
        tracing.install(None)
        exporter.close()
    assert decisions[0] == decisions[1]
    assert 60 < sum(map(tracing.sampled, decisions[0])) < 140


def test_a_collector_that_is_silent_delays_a_stop_by_seconds_only():
    code = (
        "import os, socket, time; silent = socket.create_server(('127.0.0.1', 0));"
        "os.environ['OTEL_EXPORTER_OTLP_ENDPOINT'] = f'http://127.0.0.1:{silent.getsockname()[1]}';"
        "from nightshift.servicekit import otlp, tracing; exporter = otlp.from_environment('s', 'r');"
        "exporter.start('x', kind='internal', parent=None, attributes={}).end();"
        "began = time.monotonic(); exporter.close(); print(time.monotonic() - began)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert 1.9 < float(ran.stdout) < 5


def test_log_lines_carry_the_ids_of_the_trace():
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure(stream=stream)
        with tracing.within(PARENT):
            structlog.get_logger("t").info("inside")
            logging.getLogger("library").warning("inside, too")
        structlog.get_logger("t").info("outside")
    finally:
        root.handlers, root.level = handlers, level
        structlog.reset_defaults()
    inside, library, outside = map(json.loads, stream.getvalue().splitlines())
    assert (inside["trace_id"], inside["span_id"]) == ("a" * 32, "b" * 16)
    assert library["trace_id"] == "a" * 32
    assert "trace_id" not in outside


async def _handled(event, kind):
    seen = []

    async def handler(_event):
        seen.append(CURRENT.get())

    topic = Topics().build
    [one] = consumer_spans.traced([Subscription(topic, "g", MappingProxyType({kind: handler}))])
    await one.handlers[kind](event)
    return seen[0]


async def test_a_handler_runs_in_a_child_of_the_messages_trace(exported, recorded_event):
    within = await _handled(recorded_event(CheckpointSaved(turn=3), PARENT), CheckpointSaved)
    [span] = exported()
    assert within == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"
    assert span.name == f"process {Topics().build}"
    assert span.attributes["gen_ai.conversation.id"] == "b1"
    assert span.attributes["nightshift.event.type"] == "checkpoint.saved"


async def test_a_request_begins_a_trace_and_a_traceless_fact_does_not(exported, recorded_event):
    assert await _handled(recorded_event(CheckpointSaved(turn=3), None), CheckpointSaved) is None
    assert exported() == ()
    request = BuildRequested(build_id="b1", project_id="p", account_id="a", idea_brief="A page.")
    assert await _handled(recorded_event(request, None), BuildRequested) is not None
    [span] = exported()
    assert span.parent is None
    assert "A page." not in str(span.to_json())
