"""`nightshift topics`: make the broker's topics what the plan says, or show what would change."""

import asyncio
from pathlib import Path
from typing import Annotated

import cyclopts

from nightshift.bus.settings import KafkaSettings
from nightshift.cli.connect import DEFAULT_HOME, Home, Json, on_embedded_broker, settings_for
from nightshift.cli.exits import Exit
from nightshift.cli.output import report_error, write_json, write_table
from nightshift.devstack.parts.kafka import EMBEDDED_PARTITIONS
from nightshift.relay.adapters.kafka_topics import TopicReport, TopicState, load_plan
from nightshift.relay.adapters.kafka_topics import apply as apply_plan

app = cyclopts.App(name="topics", help="Create the topics on the broker, or show what would change.")


@app.command
def apply(
    *,
    file: Annotated[Path | None, cyclopts.Parameter(help="A plan such as deploy/topics.yaml.")] = None,
    dry_run: Annotated[bool, cyclopts.Parameter(negative=(), help="Only show what would change.")] = False,
    partitions: Annotated[
        int | None, cyclopts.Parameter(help="Instead of the plan's, for each topic.")
    ] = None,
    replication: Annotated[
        int | None, cyclopts.Parameter(help="Instead of the plan's, for each topic.")
    ] = None,
    json: Json = False,
    home: Home = DEFAULT_HOME,
) -> int:
    """Create the topics that are missing and tell what differs. Topics that exist are never changed.

    Without --file it is the plan of this release, which deploy/topics.yaml spells out; on the embedded broker of
    `nightshift up`, one node on which every partition costs, it is that with few partitions. It fails when a topic has
    another number of partitions than planned, because changing that would move keys.

    Example: nightshift topics apply --dry-run
    """
    settings = settings_for(KafkaSettings, home)
    plan = load_plan(file, settings.topics) if file is not None else None
    if plan is None and on_embedded_broker(home):
        partitions, replication = partitions or EMBEDDED_PARTITIONS, replication or 1
    reports = asyncio.run(
        apply_plan(settings, plan=plan, partitions=partitions, replication=replication, dry_run=dry_run)
    )
    if json:
        write_json([_as_json(report) for report in reports])
    else:
        write_table(
            ("TOPIC", "STATE", "PARTITIONS", "DIFFERENCES"),
            [(one.name, one.state, one.partitions, "; ".join(one.differences) or None) for one in reports],
        )
    refused = [report.name for report in reports if report.state is TopicState.REFUSED]
    if refused:
        report_error(
            f"{', '.join(refused)}: another number of partitions than planned, and nothing was changed there",
            "plan the number that the topics have, or create new topics under another NIGHTSHIFT_TOPIC_PREFIX",
        )
        return Exit.ERROR
    return Exit.OK


def _as_json(report: TopicReport) -> dict[str, object]:
    return {
        "name": report.name,
        "state": report.state.value,
        "partitions": report.partitions,
        "differences": list(report.differences),
    }
