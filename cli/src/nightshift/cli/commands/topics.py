"""`nightshift topics`: creates the topics of an installation at the broker, or shows what would change."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import cyclopts

from nightshift.bus.settings import KafkaSettings
from nightshift.cli.connect import DEFAULT_HOME, Home, Json, on_embedded_broker, settings_for
from nightshift.cli.exits import Exit
from nightshift.cli.output import report_error, write_json, write_table
from nightshift.devstack.parts.kafka import EMBEDDED_PARTITIONS
from nightshift.relay.adapters.kafka_topics import TopicState, load_plan
from nightshift.relay.adapters.kafka_topics import apply as apply_plan

app = cyclopts.App(name="topics", help="Create the topics on the broker, or show what would change.")


@app.command
async def apply(
    *,
    file: Path | None = None,
    dry_run: Annotated[bool, cyclopts.Parameter(negative=())] = False,
    partitions: int | None = None,
    replication: int | None = None,
    json: Json = False,
    home: Home = DEFAULT_HOME,
) -> int:
    """Create missing topics and print how existing ones differ from the plan. Existing topics are not changed.

    Without --file it uses the plan of this release, which deploy/topics.yaml shows. The embedded broker of
    `nightshift up` gets fewer partitions. It fails when a topic has another number of partitions than planned,
    because a change would move keys between partitions.

    For example:

        nightshift topics apply --dry-run

    Args:
        file: A plan such as deploy/topics.yaml.
        dry_run: Only print what would change.
        partitions: Replaces the plan's number of partitions for every topic.
        replication: Replaces the plan's number of copies for every topic.
    """
    settings = settings_for(KafkaSettings, home)
    plan = load_plan(file, settings.topics) if file is not None else None
    if plan is None and on_embedded_broker(home):
        partitions, replication = partitions or EMBEDDED_PARTITIONS, replication or 1
    reports = await apply_plan(
        settings, plan=plan, partitions=partitions, replication=replication, dry_run=dry_run
    )
    if json:
        write_json([asdict(report) for report in reports])
    else:
        write_table(
            ("TOPIC", "STATE", "PARTITIONS", "DIFFERENCES"),
            [(one.name, one.state, one.partitions, "; ".join(one.differences) or None) for one in reports],
        )
    refused = [report.name for report in reports if report.state is TopicState.REFUSED]
    if refused:
        report_error(
            f"{', '.join(refused)}: the number of partitions differs from the plan; these topics were not changed",
            "plan the number that they have, or create new topics under another NIGHTSHIFT_TOPIC_PREFIX",
        )
        return Exit.ERROR
    return Exit.OK
