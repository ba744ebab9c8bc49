"""Wrong requests: the command line refuses to send them; from other producers they go to the dead letters."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from tests.support.main_job import RICH, MainJob, ended, letters, stopped
from tests.support.waiting import eventually

from nightshift.cli.main import run
from nightshift.contracts.cloudevents import encode_request
from nightshift.contracts.events.account import AccountOpened
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.model import Request
from nightshift.contracts.topics import Topics

pytestmark = [pytest.mark.timeout(120), pytest.mark.fault]

_REQUESTS = Topics().requests
_GOOD = {"project_id": "bad", "account_id": RICH, "idea_brief": "plain steps"}
#: What is wrong → the fields over those of a good request; null takes one away. The name is the field's.
BAD: dict[str, dict[str, Any]] = {
    "idea_brief": {"idea_brief": None},
    "tier": {"tier": "platinum"},
    "idea_brief: empty": {"idea_brief": " \n"},
    "idea_brief: control characters": {"idea_brief": "plain \u0007 steps"},
    "idea_brief: more control characters": {"idea_brief": "plain \u009b31m steps"},
    "idea_brief: too long": {"idea_brief": "plain steps " * 10_000},
    "model": {"model": "gpt-imaginary"},
    "attachments": {"attachments": [{"name": "a", "digest": "sha256:" + "0" * 64, "bytes": 1}]},
    "source": {"source": {"repository": "https://10.0.0.1/x.git"}},
    "tools": {"tools": [{"name": "pay", "description": "Pays.", "input_schema": {}}]},
    "secrets": {"secrets": ["no name"]},
    "base_build_id": {"base_build_id": "some-other"},
    "wishes": {"wishes": "a field that nobody knows"},
}


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


async def _sent_so_far(job: MainJob) -> int:
    """How many requests the broker has taken."""
    consumer = AIOKafkaConsumer(bootstrap_servers=job.told["kafka"]["bootstrap"])
    await consumer.start()
    try:
        numbers = consumer.partitions_for_topic(_REQUESTS) or await _partitions(consumer)
        ends = await consumer.end_offsets([TopicPartition(_REQUESTS, number) for number in numbers])
    finally:
        await consumer.stop()
    return sum(ends.values())


async def _partitions(consumer: AIOKafkaConsumer) -> set[int]:
    await consumer.topics()
    found = consumer.partitions_for_topic(_REQUESTS)
    assert found
    return found


async def test_the_command_line_names_what_is_wrong_and_sends_nothing(
    job: MainJob, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(job.home))
    before = await _sent_so_far(job)
    file = tmp_path / "request.json"
    wrong: dict[str, tuple[int, str]] = {}
    for what, change in BAD.items():
        file.write_text(json.dumps(_without_none({**_GOOD, **change})))
        code, said = await _run(capsys, "build", str(file))
        if code != 1 or what.partition(":")[0] not in said or not said.startswith("error: "):
            wrong[what] = (code, said)
    assert wrong == {}
    file.write_text(json.dumps({**_GOOD, "idea_brief": "x" * 2_000_000}))
    for arguments in (
        ("build", str(file)),
        ("account", "open", "someone", "-5"),
        ("account", "top-up", "someone", "-5"),
        ("account", "budget", "someone", "0"),
        ("account", "open", "someone", "5", "--time-zone", "Europe"),
    ):
        code, said = await _run(capsys, *arguments)
        assert code in (1, 2), arguments
        assert said.startswith("error: "), said
    assert await _sent_so_far(job) == before


async def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Runs a command in a thread, with an event loop of its own. Returns its exit code and output."""
    code = await asyncio.to_thread(run, arguments)
    told = capsys.readouterr()
    assert told.out == ""
    return code, told.err


async def test_bad_messages_are_dead_lettered_and_stop_nothing(job: MainJob) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=job.told["kafka"]["bootstrap"], max_request_size=4_000_000, acks="all"
    )
    await producer.start()
    try:
        wanted = {}
        for number, (what, change) in enumerate(BAD.items()):
            build_id = f"bad-{number}"
            wanted[build_id] = what.partition(":")[0]
            fields = _without_none({**_GOOD, "build_id": build_id, **change})
            await _send(producer, BuildRequested, build_id, json.dumps(fields).encode())
        huge = {**_GOOD, "build_id": "bad-huge", "idea_brief": "x" * 2_000_000}
        await _send(producer, BuildRequested, "bad-huge", json.dumps(huge).encode())
        await _send(producer, BuildRequested, "bad-text", b"{not json")
        account = {"account_id": "bad-account", "period_budget_microusd": -5, "time_zone": "UTC"}
        await _send(producer, AccountOpened, "bad-account", json.dumps(account).encode())
        nowhere = {"account_id": "bad-zone", "period_budget_microusd": 5, "time_zone": "Europe/Atlantis"}
        await _send(producer, AccountOpened, "bad-zone", json.dumps(nowhere).encode())
    finally:
        await producer.stop()
    wanted |= {"bad-huge": "2000", "bad-text": "JSON", "bad-account": "period_budget_microusd"}
    wanted |= {"bad-zone": "bad_message"}
    # Requests behind them, on every partition, are served.
    for build_id in [await job.ask("a refusal") for _ in range(4)]:
        await job.until(build_id, ended, what="ended")
    parked = await letters(job, "bad-", count=len(wanted))
    reasons = {one["key"]: one for one in parked}
    assert {
        key: key in reasons and word in str(reasons[key]) for key, word in wanted.items()
    } == dict.fromkeys(wanted, True)


async def _send(producer: AIOKafkaProducer, kind: type[Request], key: str, value: bytes) -> None:
    """Returns a message with these bytes and the headers of a good request."""
    fields = {**_GOOD, "build_id": key} if kind is BuildRequested else {"account_id": key, **_ACCOUNT}
    envelope = encode_request(kind.model_validate(fields), id=key, source="/test")
    headers = [(name, text) for name, text in envelope.headers if text is not None]
    await producer.send_and_wait(_REQUESTS, value=value, key=envelope.key, headers=headers)


async def test_a_name_that_was_given_before_is_refused_to_who_watches(
    job: MainJob, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(job.home))
    build_id = await job.ask("a refusal", checks=[])
    await job.until(build_id, ended, what="ended")
    asked = ("build", "--account", RICH, "--build-id", build_id, "--watch")
    code, said = await _run(capsys, *asked, "--idea", "something else")
    assert code == 1
    assert "other content" in said
    assert "nightshift dlq" in said
    await letters(job, build_id)
    # The same again is no other build.
    code = await asyncio.to_thread(run, [*asked, "--project", build_id, "--idea", "a refusal"])
    assert code == 3


async def test_watch_knows_an_unknown_build_from_one_on_its_way(
    job: MainJob, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(job.home))
    for command in ("watch", "wait"):
        code, said = await _run(capsys, command, "nobody-knows-it")
        assert code == 5
        assert "no recent request names it" in said
        assert "nightshift builds" in said
    orchestrator = job.process("orchestrator")
    assert orchestrator is not None
    with stopped(orchestrator):
        build_id = await job.ask("a refusal")
        watching = asyncio.create_task(asyncio.to_thread(run, ["watch", build_id]))
        said: list[str] = []
        await eventually(
            lambda: said.append(capsys.readouterr().err) or "not in the log yet" in "".join(said)
        )
    assert await watching == 3


async def test_a_dead_letter_without_a_remedy_is_kept(
    job: MainJob, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await job.produce("bad-for-ever", b"{not json", {"ce_type": "nightshift.requests.build_requested.v1"})
    await letters(job, "bad-for-ever")
    [listed] = await asyncio.to_thread(job.command, "dlq", "list")
    [letter] = [one for one in listed if one["key"] == "bad-for-ever"]
    assert (letter["dropped"], letter["bytes"]) == (None, len("{not json"))
    drop = ("dlq", "drop", letter["id"][:10], "--reason", "a test sent it")
    await asyncio.to_thread(job.command, *drop[:3], code=2)
    [[gone]] = await asyncio.to_thread(job.command, *drop)
    assert (gone["id"], gone["dropped"]) == (letter["id"], "a test sent it")
    [listed] = await asyncio.to_thread(job.command, "dlq", "list")
    assert letter["id"] not in {one["id"] for one in listed}
    [driven] = await asyncio.to_thread(job.command, "dlq", "redrive", "--all", "--dry-run")
    assert letter["id"] not in {one["id"] for one in driven}
    [listed] = await asyncio.to_thread(job.command, "dlq", "list", "--all")
    assert [one["dropped"] for one in listed if one["id"] == letter["id"]] == ["a test sent it"]
    [shown] = await asyncio.to_thread(job.command, "dlq", "show", letter["id"])
    assert (shown["dropped"], shown["body"]) == ("a test sent it", "{not json")


async def test_accounts_are_listed_a_page_at_a_time(job: MainJob) -> None:
    for name in ("listed-1", "listed-2"):
        await job.open_account(name, day_microusd=480_000)
    [accounts] = await asyncio.to_thread(job.command, "account", "list", "--after", "listed-", "--limit", "1")
    assert [one["account_id"] for one in accounts] == ["listed-1"]
    [accounts] = await asyncio.to_thread(job.command, "account", "list", "--after", "listed-1")
    assert accounts[0]["account_id"] == "listed-2"
    assert accounts[0]["left_today_microusd"] == accounts[0]["limit_microusd"] == 480_000


async def test_the_topics_of_this_stack_are_what_its_plan_says(job: MainJob) -> None:
    [reports] = await asyncio.to_thread(job.command, "topics", "apply", "--dry-run")
    assert {one["state"] for one in reports} <= {"present", "drift"}


_ACCOUNT = {"period_budget_microusd": 5, "period_days": 30, "time_zone": "UTC"}
