"""The checks of `doctor`. They spend nothing and change nothing; the object store check deletes what it writes.

Each check ends within 15 s. It returns a finding, with advice how to fix a problem.
"""

import asyncio
import os
import platform
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from uuid import uuid4

from nightshift.bus.settings import KafkaSettings
from nightshift.cli.connect import on_embedded_broker, settings_for
from nightshift.cli.consumer_lag import LATE_S, late_partitions
from nightshift.cli.queries import open_database
from nightshift.cli.waits import NEW_KEY
from nightshift.devstack.parts.kafka import EMBEDDED_PARTITIONS
from nightshift.devstack.stack.home import read_stack
from nightshift.devstack.stack.restarts import read_restarts
from nightshift.eventlog.errors import NightshiftError
from nightshift.eventlog.migrate import status as migration_status
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.port import StalePending
from nightshift.eventlog.postgres import PostgresEventLog
from nightshift.eventlog.settings import ObjectStoreSettings, PostgresSettings
from nightshift.relay.adapters.kafka_topics import TopicState
from nightshift.relay.adapters.kafka_topics import apply as apply_topics
from nightshift.sandboxes.local.cgroups import Cgroups
from nightshift.sandboxes.local.isolation import count_sandboxes, isolation
from nightshift.sandboxes.settings import SandboxSettings, make_driver

Status = Literal["pass", "warn", "fail"]

#: Seconds that one check may take.
_LIMIT = 15.0
#: Keys that the provider refuses. A key that no orchestrator tries again is reported for one more hour.
_REFUSED_KEYS = """
SELECT kind, status, detail, refused_at, next_probe_at FROM nightshift.provider_keys
WHERE refused_at IS NOT NULL AND next_probe_at > clock_timestamp() - interval '1 hour' ORDER BY refused_at"""
#: Seconds that the clocks of this machine and the database may differ before `doctor` warns.
_SKEW = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. `fix` says how to mend the problem, or is None when there is nothing to mend."""

    status: Status
    detail: str
    fix: str | None = None


Check = Callable[[Path], Awaitable[Finding]]


async def diagnose(home: Path) -> dict[str, Finding]:
    """Runs all checks at the same time. Returns check name → finding, in a fixed order."""
    found = await asyncio.gather(*(_bounded(check, home) for check in CHECKS.values()))
    return dict(zip(CHECKS, found, strict=True))


async def _bounded(check: Check, home: Path) -> Finding:
    try:
        async with asyncio.timeout(_LIMIT):
            return await check(home)
    except NightshiftError as error:
        return Finding("fail", str(error), error.hint)
    except TimeoutError:
        return Finding("fail", f"no answer within {_LIMIT:.0f} s")


async def check_python(_home: Path) -> Finding:
    return Finding("pass", f"Python {platform.python_version()}")


async def check_sandbox(home: Path) -> Finding:
    # This checks the driver only: the object store has a check of its own.
    settings = SandboxSettings.load(s3_bucket="unused", home=home.absolute())
    driver = await make_driver(settings)
    if driver.name == "e2b":
        states: Counter[str] = Counter(one.state for one in await driver.list())
        return Finding("pass", f"E2B accepts the key ({_counted(states)}; nothing was started)")
    shared = "bubblewrap shares this machine's kernel: run only builds of people you trust with it"
    local = settings.local()
    found, counts = isolation(Cgroups.find(), local.limits), count_sandboxes(local.state_dir)
    said = f"local sandboxes work ({_counted(counts)}); {'; '.join(found.holds)}; {shared}"
    if found.missing:
        return Finding(
            "warn", f"{said}. Missing: {'; '.join(found.missing)}", "run the gateway as root, with cgroups"
        )
    return Finding("pass", said)


def _counted(states: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(states.items())) or "none open"


async def check_postgres(home: Path) -> Finding:
    async with open_database(home) as database:
        row = (await database.fetch("SELECT version() AS version, clock_timestamp() AS now"))[0]
    skew = abs((datetime.now(UTC) - row["now"]).total_seconds())
    version = " ".join(row["version"].split()[:2])
    if skew > _SKEW:
        return Finding("warn", f"{version}; its clock is {skew:.1f} s from ours", "set both clocks by NTP")
    return Finding("pass", version)


async def check_migrations(home: Path) -> Finding:
    settings = settings_for(PostgresSettings, home)
    states = await migration_status(settings.postgres_dsn.get_secret_value())
    amiss = [f"{one.name} is {one.state}" for one in states if one.state != "applied"]
    if amiss:
        return Finding("fail", ", ".join(amiss), "nightshift db status, then nightshift db migrate")
    return Finding("pass", f"{len(states)} applied")


async def check_kafka(home: Path) -> Finding:
    settings = settings_for(KafkaSettings, home)
    partitions, replication = (EMBEDDED_PARTITIONS, 1) if on_embedded_broker(home) else (None, None)
    reports = await apply_topics(settings, partitions=partitions, replication=replication, dry_run=True)
    missing = [one.name for one in reports if one.state is TopicState.MISSING]
    if missing:
        return Finding("fail", f"topics are missing: {', '.join(missing)}", "nightshift topics apply")
    differs = [one.name for one in reports if one.differences]
    if differs:
        count = f"{len(differs)} topics differ from the plan"
        return Finding("warn", count, "nightshift topics apply --dry-run")
    return Finding("pass", f"{settings.kafka_bootstrap}, {len(reports)} topics as planned")


async def check_objects(home: Path) -> Finding:
    settings = settings_for(ObjectStoreSettings, home)
    key, body = f"doctor/{uuid4().hex}", b"nightshift doctor"
    async with S3ObjectStore(settings) as store:
        await store.put(key, body)
        same = await store.get(key) == body
        await store.delete(key)
    if not same:
        return Finding("fail", "the store returned other bytes than were stored")
    return Finding("pass", f"bucket {settings.s3_bucket}: put, get, delete")


async def check_model(home: Path) -> Finding:
    base = os.environ.get("ANTHROPIC_BASE_URL")
    local = (read_stack(home) or {}).get("model")
    scripted = local is not None and local["pid"] is not None
    if local is not None:
        base = local["base_url"]
    elif not base and not os.environ.get("ANTHROPIC_API_KEY"):
        scripts = "no ANTHROPIC_API_KEY: `up` and `demo` use the scripted model"
        return Finding("warn", scripts, "export ANTHROPIC_API_KEY")
    address = urlsplit(base or "https://api.anthropic.com")
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        _, writer = await asyncio.open_connection(address.hostname, port)
    except OSError as error:
        remote = "check the network, the proxy and ANTHROPIC_BASE_URL"
        hint = "restart `nightshift up`" if scripted else remote
        return Finding("fail", f"{address.hostname}:{port} cannot be reached: {error}", hint)
    writer.close()
    what = "the scripted model of this stack" if scripted else "the Messages API"
    return Finding("pass", f"{what} at {address.hostname}:{port} answers; nothing was asked or spent")


async def check_provider(home: Path) -> Finding:
    async with open_database(home) as database:
        keys = await database.fetch(_REFUSED_KEYS)
        waiting = len(await database.fetch("SELECT nightshift.builds_waiting_for_provider(1000000)"))
    if not keys:
        return Finding("pass", "the model provider refuses no key")
    first = keys[0]
    status = "" if first["status"] is None else f" (HTTP {first['status']})"
    return Finding(
        "fail",
        f"since {first['refused_at']:%Y-%m-%d %H:%M} the model provider answers {first['kind']}{status} and {waiting}"
        f" builds wait: {first['detail'][:200]}",
        f"{NEW_KEY}; it is tried again at {first['next_probe_at']:%H:%M:%S}, and the builds go on by themselves",
    )


async def check_processes(home: Path) -> Finding:
    if read_stack(home) is None:
        return Finding("pass", f"no stack runs on {home}: nothing to check on this machine")
    reports = read_restarts(home)
    failing = {name: report for name, report in reports.items() if report.keeps_restarting}
    exits = "; ".join(f"{name} exited {report.summary()}" for name, report in (failing or reports).items())
    if failing:
        return Finding("fail", exits, f"read {home}/logs/{next(iter(failing)).replace(' #', '-')}.log")
    return Finding("pass", exits or "no process exited in the last ten minutes")


async def check_pending(home: Path) -> Finding:
    stale = await stale_rows(home)
    if not stale:
        return Finding("pass", "no work waits longer than it should")
    first = stale[0]
    count = "1 row" if len(stale) == 1 else f"{len(stale)} rows"
    return Finding(
        "fail",
        f"{count} of pending work outlived their purpose: {first.kind} {first.key} waits since"
        f" {first.opened_at:%Y-%m-%d %H:%M} ({first.reason})",
        "see that every service runs (`nightshift ps`);"
        f" `nightshift log {first.stream_id.partition('-')[2]}` shows what happened",
    )


async def check_consumers(home: Path) -> Finding:
    late, stuck = await late_partitions(settings_for(KafkaSettings, home))
    if not late:
        return Finding("pass", "every consumer group is up to date at each of its partitions")
    first = max(late, key=lambda one: one.waiting_s or 0.0)
    count = "1 partition" if len(late) == 1 else f"{len(late)} partitions"
    detail = (
        f"{count} with records that wait for more than {LATE_S:.0f} s: {first.group} at partition"
        f" {first.partition} of {first.topic} is at offset {first.committed or 0} of {first.end}, for"
        f" {first.waiting_s:.0f} s"
    )
    if not stuck:
        return Finding("warn", f"{detail}, and makes progress", "wait, or start more replicas")
    fix = "see that the service runs (`nightshift ps`), then read its log"
    return Finding("fail", f"{detail}, and makes no progress", fix)


async def stale_rows(home: Path) -> Sequence[StalePending]:
    """Returns the pending rows of the log that should have been closed before now, oldest first."""
    async with open_database(home) as database:
        return await PostgresEventLog(database, actor="doctor", notify=False).stale_pending()


CHECKS: dict[str, Check] = {
    "python": check_python,
    "sandbox": check_sandbox,
    "postgres": check_postgres,
    "migrations": check_migrations,
    "kafka": check_kafka,
    "objects": check_objects,
    "model": check_model,
    "provider": check_provider,
    "processes": check_processes,
    "consumers": check_consumers,
    "pending": check_pending,
}
