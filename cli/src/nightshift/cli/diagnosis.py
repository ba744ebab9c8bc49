"""What `doctor` looks at. Each check is read-only (the object store's writes one object and takes it away), bounded in
time, spends no money, and says in one line what is so and in another what to do about it."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from uuid import uuid4

from nightshift.bus.settings import KafkaSettings
from nightshift.cli.connect import settings_for
from nightshift.cli.queries import open_database
from nightshift.eventlog.errors import ConfigurationError, NightshiftError
from nightshift.eventlog.migrate import status as migration_status
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.settings import ObjectStoreSettings, PostgresSettings
from nightshift.relay.adapters.kafka_topics import TopicState
from nightshift.relay.adapters.kafka_topics import apply as apply_topics
from nightshift.sandboxes.settings import SandboxSettings, make_driver

Status = Literal["pass", "warn", "fail"]

#: Seconds one check may take.
_LIMIT = 15.0
#: Seconds that the clocks of this machine and of the database may differ before it is worth a word.
_SKEW = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. `fix`: the next thing to do, when there is one."""

    check: str
    status: Status
    detail: str
    fix: str | None = None


Check = Callable[[Path], Awaitable[Finding]]


async def diagnose(home: Path) -> list[Finding]:
    """Every check's finding, in a fixed order, all at once."""
    return list(await asyncio.gather(*(_bounded(name, check, home) for name, check in CHECKS.items())))


async def _bounded(name: str, check: Check, home: Path) -> Finding:
    try:
        async with asyncio.timeout(_LIMIT):
            return await check(home)
    except NightshiftError as error:
        return Finding(name, "fail", str(error), error.hint)
    except TimeoutError:
        return Finding(name, "fail", f"no answer within {_LIMIT:.0f} s")


async def _python(_home: Path) -> Finding:
    told = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", "pass", f"Python {told}")


async def _sandbox(home: Path) -> Finding:
    # Only the driver is looked at: the object store has a check of its own.
    settings = SandboxSettings.load(s3_bucket="unused", home=home)
    driver = await make_driver(settings)
    if driver.name == "e2b":
        return Finding("sandbox", "pass", "E2B (E2B_API_KEY is set; nothing was started)")
    shared = "bubblewrap shares this machine's kernel: run only builds of people you trust with it"
    return Finding("sandbox", "pass", f"local sandboxes work; {shared}")


async def _postgres(home: Path) -> Finding:
    async with open_database(home) as database:
        row = (await database.fetch("SELECT version() AS version, clock_timestamp() AS now"))[0]
    skew = abs((datetime.now(UTC) - row["now"]).total_seconds())
    told = " ".join(row["version"].split()[:2])
    if skew > _SKEW:
        return Finding(
            "postgres", "warn", f"{told}; its clock is {skew:.1f} s from ours", "set both clocks by NTP"
        )
    return Finding("postgres", "pass", told)


async def _migrations(home: Path) -> Finding:
    settings = settings_for(PostgresSettings, home)
    states = await migration_status(settings.postgres_dsn.get_secret_value())
    amiss = [f"{one.name} is {one.state}" for one in states if one.state != "applied"]
    if amiss:
        return Finding(
            "migrations", "fail", ", ".join(amiss), "nightshift db status, then nightshift db migrate"
        )
    return Finding("migrations", "pass", f"{len(states)} applied")


async def _kafka(home: Path) -> Finding:
    settings = settings_for(KafkaSettings, home)
    reports = await apply_topics(settings, dry_run=True)
    missing = [one.name for one in reports if one.state is TopicState.MISSING]
    if missing:
        return Finding(
            "kafka", "fail", f"topics are missing: {', '.join(missing)}", "nightshift topics apply"
        )
    differs = [one.name for one in reports if one.differences]
    if differs:
        # An embedded broker has fewer partitions on purpose; somebody else's should follow the plan.
        return Finding(
            "kafka",
            "warn",
            f"{len(differs)} topics differ from the plan",
            "nightshift topics apply --dry-run",
        )
    return Finding("kafka", "pass", f"{settings.kafka_bootstrap}, {len(reports)} topics as planned")


async def _objects(home: Path) -> Finding:
    settings = settings_for(ObjectStoreSettings, home)
    key, body = f"doctor/{uuid4().hex}", b"nightshift doctor"
    async with S3ObjectStore.from_settings(settings) as store:
        await store.put(key, body)
        same = await store.get(key) == body
        await store.delete(key)
    if not same:
        return Finding("objects", "fail", "the store gives back other bytes than it was given")
    return Finding("objects", "pass", f"bucket {settings.s3_bucket}: put, get, delete")


async def _model(_home: Path) -> Finding:
    key, base = os.environ.get("ANTHROPIC_API_KEY"), os.environ.get("ANTHROPIC_BASE_URL")
    if not key and not base:
        return Finding(
            "model",
            "warn",
            "no ANTHROPIC_API_KEY: `up` and `demo` use the scripted model",
            "export ANTHROPIC_API_KEY",
        )
    address = urlsplit(base or "https://api.anthropic.com")
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        _, writer = await asyncio.open_connection(address.hostname, port)
    except OSError as error:
        raise ConfigurationError(f"{address.hostname}:{port} cannot be reached: {error}") from error
    writer.close()
    return Finding(
        "model", "pass", f"{address.hostname}:{port} answers (nothing was asked, nothing was spent)"
    )


CHECKS: dict[str, Check] = {
    "python": _python,
    "sandbox": _sandbox,
    "postgres": _postgres,
    "migrations": _migrations,
    "kafka": _kafka,
    "objects": _objects,
    "model": _model,
}
