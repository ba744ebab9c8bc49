"""`nightshift republish`: publishes facts of the log to Kafka again, so that a consumer can recover what it lost."""

import asyncio
import sys
from collections.abc import Sequence
from itertools import islice
from time import monotonic
from typing import Annotated

import cyclopts
from cyclopts.validators import Number

from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Outgoing
from nightshift.bus.settings import KafkaSettings
from nightshift.cli.connect import DEFAULT_HOME, Home, Json, settings_for
from nightshift.cli.errors import WrongUsage
from nightshift.cli.output import progress, write_result
from nightshift.cli.queries import open_builds
from nightshift.contracts.cloudevents import encode_fact
from nightshift.contracts.envelope import Envelope, fact_source
from nightshift.contracts.registry import encode, wire_name
from nightshift.contracts.topics import Topics
from nightshift.eventlog.errors import Refused
from nightshift.eventlog.port import RecordedEvent

app = cyclopts.App(name="republish")

#: How many records are sent together. Their order is kept.
_BATCH = 100
Version = Annotated[int | None, cyclopts.Parameter(validator=Number(gte=1))]
Flag = Annotated[bool, cyclopts.Parameter(negative=())]
All = Annotated[bool, cyclopts.Parameter(name="--all", negative=())]


@app.default
async def republish(
    *builds: Annotated[str, cyclopts.Parameter(help="Ids of builds.")],
    all_: All = False,
    first: Annotated[Version, cyclopts.Parameter(name="--from")] = None,
    last: Annotated[Version, cyclopts.Parameter(name="--to")] = None,
    rate: Annotated[float, cyclopts.Parameter(validator=Number(gt=0, lte=100_000))] = 500.0,
    dry_run: Flag = False,
    yes: Flag = False,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Publish facts of builds to Kafka again, in the order of their versions.

    Each record has its former id, key and sequence, and the header `ce_replayed: true`. The
    services drop what they have seen; a new consumer reads everything. Nothing is appended to the log.

    For example:

        nightshift republish build-4f1c2a --from 40 --to 90

        nightshift republish --all --rate 200 --dry-run

    Args:
        all_: Every build in the log, oldest first.
        first: The first version of each build.
        last: The last version of each build.
        rate: The most records per second.
        dry_run: Only say how many records would be published.
        yes: Do not ask for --all.
    """
    if bool(builds) == all_:
        raise WrongUsage("give builds, or --all", hint="`nightshift builds` lists them")
    if all_ and not (yes or dry_run) and not _agreed():
        raise Refused("nothing was published", hint="--yes publishes without asking, --dry-run only counts")
    settings = settings_for(KafkaSettings, home)
    sent, begun = 0, monotonic()
    async with open_builds(home) as opened:
        ids = list(reversed(await opened.all_ids())) if all_ else list(builds)
        async with KafkaProducer(settings, client_id="nightshift-cli") as producer:
            for number, build in enumerate(ids, start=1):
                events = [one for one in await opened.events(build) if _in_range(one, first, last)]
                for batch in _batches(events):
                    if not dry_run:
                        await producer.send([record(one, settings.topics) for one in batch])
                    sent += len(batch)
                    if not dry_run:
                        await asyncio.sleep(max(begun + sent / rate - monotonic(), 0.0))
                progress(f"{number} of {len(ids)} builds, {sent} records")
    what = "would be published" if dry_run else "published"
    write_result(
        {"builds": len(ids), "records": sent, "dry_run": dry_run}, f"{sent} records {what}", as_json=json
    )


def record(event: RecordedEvent, topics: Topics) -> Outgoing:
    """Returns the record of a fact as the relay publishes it, marked as replayed."""
    envelope = Envelope(
        id=str(event.event_id),
        type=wire_name(event.data.type, event.data.version),
        source=fact_source(event.actor),
        subject=event.subject,
        time=event.recorded_at,
        sequence=event.version,
        correlation_id=event.correlation_id,
        causation_id=event.causation_id,
        flow_traceparent=event.traceparent,
        replayed=True,
    )
    return Outgoing.of(topics.of(type(event.data)), encode_fact(envelope, encode(event.data)))


def _in_range(event: RecordedEvent, first: int | None, last: int | None) -> bool:
    return (first or 1) <= event.version <= (last or event.version)


def _batches(events: Sequence[RecordedEvent]) -> Sequence[Sequence[RecordedEvent]]:
    return [list(islice(events, start, start + _BATCH)) for start in range(0, len(events), _BATCH)]


def _agreed() -> bool:
    if not sys.stdin.isatty():
        return False
    sys.stderr.write("Publish every fact of every build again? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
