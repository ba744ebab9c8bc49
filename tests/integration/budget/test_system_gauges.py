"""The gauges of the whole installation, read as the role of the budget service."""

from datetime import UTC, datetime
from uuid import uuid4

from prometheus_client import REGISTRY

from nightshift.budget.adapters.system_gauges import SystemGauges
from nightshift.contracts.events.build import BuildAccepted, BuildCancelled, BuildPhaseChanged, SleepRequested
from nightshift.contracts.model import Event
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.port import NewEvent, build_stream
from nightshift.eventlog.postgres import PostgresEventLog, log_database

WAKE_AT = datetime(2031, 1, 1, tzinfo=UTC)


def _accepted(build_id: str) -> BuildAccepted:
    return BuildAccepted(
        build_id=build_id,
        project_id="p",
        account_id="a",
        idea_brief="A page.",
        model="scripted-1",
        turn_limit=9,
        tool_call_limit=9,
    )


async def test_the_gauges_follow_builds_through_phases_sleep_and_end(database) -> None:
    owner, budget = (log_database(PgConfig(dsn=database.dsn(*role))) for role in ((), ("nightshift_budget",)))
    log, gauges = PostgresEventLog(owner, actor="test", notify=False), SystemGauges(budget)

    async def append(build_id: str, *facts: Event) -> None:
        events = [NewEvent(fact, uuid4(), place) for place, fact in enumerate(facts)]
        await log.append(build_stream(build_id), events)

    def value(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, labels)

    try:
        await append("queued", _accepted("queued"))
        moves = [("queued", "starting"), ("starting", "scaffold"), ("scaffold", "code")]
        steps = [BuildPhaseChanged(from_phase=old, to_phase=new) for old, new in moves]
        await append("coding", _accepted("coding"), *steps)
        sleep = SleepRequested(reason="budget", account_id="a", wake_at=WAKE_AT)
        await append("asleep", _accepted("asleep"), *steps, sleep)
        await gauges.read()
        assert value("nightshift_builds", phase="queued", state="running") == 1
        assert value("nightshift_builds", phase="code", state="running") == 1
        assert value("nightshift_builds", phase="code", state="sleeping") == 1
        assert value("nightshift_sleepers") == 1
        assert value("nightshift_pending", kind="build") == 3
        assert (value("nightshift_pending_oldest_seconds", kind="build") or 0) > 0
        assert value("nightshift_budget_reserved_dollars") == 0

        await append("asleep", BuildCancelled(reason="enough", cost_microusd=0, turns=0))
        await gauges.read()
        assert value("nightshift_builds", phase="code", state="sleeping") is None
        assert value("nightshift_sleepers") == 0
    finally:
        await owner.close()
        await budget.close()
