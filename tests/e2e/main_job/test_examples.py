"""Both example producers on a whole stack: their builds run, and the same request again changes nothing."""

from collections.abc import Sequence
from uuid import UUID

import pytest
from aiokafka.partitioner import DefaultPartitioner
from tests.support.examples import run_example
from tests.support.main_job import RICH, MainJob, ended, of

from nightshift.contracts.events.build import BuildAccepted, BuildFailed
from nightshift.contracts.model import Owner
from nightshift.devstack.parts.kafka import EMBEDDED_PARTITIONS
from nightshift.eventlog.port import RecordedEvent

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("example", ["produce_with_contracts.py", "produce_plain.py"])
async def test_what_an_example_asks_for_is_built(job: MainJob, example: str) -> None:
    bootstrap = job.told["kafka"]["bootstrap"]
    arguments = ("--bootstrap", bootstrap, "--account", RICH, "--project", "examples", "--idea", "a refusal")
    build_id = await run_example(example, *arguments)
    events = await job.until(build_id, ended, what="run to its end")
    [accepted] = of(events, BuildAccepted)
    assert (accepted.idea_brief, accepted.account_id) == ("a refusal", RICH)
    assert [one.question for one in accepted.understanding_qna] == ["Who will use it?"]
    [failed] = of(events, BuildFailed)
    assert failed.reason == "refusal"

    again = await run_example(example, *arguments, "--build-id", build_id)
    assert again == build_id
    # On the same partition: once this one is accepted, the repeated request was handled.
    await job.until(await _behind(job, build_id), ended, what="run after it")
    assert _of_the_build(await job.events(build_id)) == _of_the_build(events)
    assert not [one for one in await job.parked() if one["key"] == build_id]


def _of_the_build(events: Sequence[RecordedEvent]) -> list[UUID]:
    """The orchestrator's events of the build. Those of other services may follow its end."""
    return [event.event_id for event in events if event.data.owner is Owner.ORCHESTRATOR]


async def _behind(job: MainJob, build_id: str) -> str:
    """A build whose request follows the last request of this build on its partition."""
    ids = (f"after-{build_id}-{number}" for number in range(1000))
    other = next(one for one in ids if _partition(one) == _partition(build_id))
    return await job.ask("a refusal", build_id=other)


def _partition(build_id: str) -> int:
    every = list(range(EMBEDDED_PARTITIONS))
    found: int = DefaultPartitioner()(build_id.encode(), every, every)
    return found
