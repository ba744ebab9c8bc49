"""The set of metrics, by name and label, and the counts of committed events."""

from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from nightshift.contracts.events.build import CheckpointSaved, ModelCallFailed, ModelCallStarted, Usage
from nightshift.eventlog.port import NewEvent
from nightshift.servicekit.event_metrics import EventMetrics

#: Every metric of the services, with its labels. docs/metrics.md explains each.
METRICS = {
    "nightshift_info": {"service", "version"},
    "nightshift_loop_lag_seconds": set(),
    "nightshift_loop_stalls_total": set(),
    "nightshift_leases_lost_total": set(),
    "nightshift_builds": {"phase", "state"},
    "nightshift_builds_ended_total": {"outcome"},
    "nightshift_turns_total": set(),
    "nightshift_model_calls_total": {"model", "outcome"},
    "nightshift_model_tokens_total": {"kind", "model"},
    "nightshift_spend_dollars_total": {"model"},
    "nightshift_provider_key_refused": {"key"},
    "nightshift_tool_calls_total": {"tool", "outcome"},
    "nightshift_sandboxes": {"driver", "state"},
    "nightshift_egress_connections_total": {"verdict"},
    "nightshift_egress_bytes_total": {"direction"},
    "nightshift_snapshot_seconds": {"reason"},
    "nightshift_snapshots_failed_total": {"reason"},
    "nightshift_budget_reserved_dollars": set(),
    "nightshift_budget_denials_total": set(),
    "nightshift_sleepers": set(),
    "nightshift_wakes_total": {"reason"},
    "nightshift_wake_delay_seconds": set(),
    "nightshift_wake_lateness_seconds": set(),
    "nightshift_pending": {"kind"},
    "nightshift_pending_oldest_seconds": {"kind"},
    "nightshift_relay_lag_events": {"group"},
    "nightshift_relay_lag_seconds": {"group"},
    "nightshift_relay_published_total": {"group"},
    "nightshift_relay_republished_total": {"group"},
    "nightshift_relay_leader": {"group"},
    "nightshift_relay_broker_losses_total": {"group"},
    "nightshift_dead_letters_total": {"topic", "reason"},
    "nightshift_messages_handled_total": {"topic", "group"},
    "nightshift_messages_skipped_total": {"topic", "group", "why"},
    "nightshift_messages_retried_total": {"topic", "group", "why"},
    "nightshift_partitions_paused": {"topic", "group"},
    "nightshift_consumer_lag": {"topic", "group"},
    "nightshift_work_in_flight": {"pool"},
}


def _of_the_services() -> dict[str, set[str]]:
    import nightshift.budget.app
    import nightshift.orchestrator.app
    import nightshift.relay.app
    import nightshift.sandbox_gateway.app
    import nightshift.snapshotter.app  # noqa: F401

    found = {}
    for collector in set(REGISTRY._collector_to_names):
        name = getattr(collector, "_name", "")
        if name.startswith("nightshift_"):
            suffix = "_total" if collector._type == "counter" else ""
            found[name + suffix] = set(collector._labelnames)
    return found


def test_the_set_of_metrics_is_the_documented_one():
    found = _of_the_services()
    assert found == METRICS
    labels = set().union(*found.values())
    assert not labels & {"build", "build_id", "account", "account_id", "project"}, "their number is unbounded"


def _value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_the_cost_of_a_failed_call_counts_for_its_model():
    observe, cause = EventMetrics(), UUID(int=1)
    model = "metered-1"
    started = ModelCallStarted(turn=1, attempt=1, model=model, lease_id=cause, reserve_microusd=9)
    failed = ModelCallFailed(
        turn=1,
        attempt=1,
        kind="overloaded",
        detail="x",
        usage=Usage(input_tokens=7, cache_read_input_tokens=3),
        cost_microusd=2_500_000,
    )
    turns = _value("nightshift_turns_total")
    observe("build-b1", [NewEvent(started, cause)])
    observe("build-b1", [NewEvent(failed, cause), NewEvent(CheckpointSaved(turn=1), cause)])
    assert _value("nightshift_spend_dollars_total", model=model) == pytest.approx(2.5)
    assert _value("nightshift_model_tokens_total", model=model, kind="input") == 7
    assert _value("nightshift_model_tokens_total", model=model, kind="cache_read") == 3
    assert _value("nightshift_model_calls_total", model=model, outcome="overloaded") == 1
    assert _value("nightshift_turns_total") == turns + 1
