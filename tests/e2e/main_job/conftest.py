"""The stacks of the fault tests."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from tests.support.main_job import DEMO_WORDS, RICH, MainJob
from tests.support.processes import RunningUp
from tests.support.s3_switch import Switch, s3_switch

from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress, S3Address

_SCENARIO = Path(__file__).parent / "scenario.yaml"
_DEMO = Path("examples/scenarios/tool-library.yaml")


def _scenario(folder: Path) -> Path:
    """The scenario of these tests, and that of the demo for the builds that have its brief, in one file."""
    together = yaml.safe_load(_SCENARIO.read_text())
    for at, turn in enumerate(yaml.safe_load(_DEMO.read_text())["turns"]):
        match = {**turn.get("match", {}), "conversation_contains": DEMO_WORDS}
        together["turns"].append({**turn, "at": at, "match": match})
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "scenario.yaml"
    file.write_text(yaml.safe_dump(together, sort_keys=False))
    return file


@contextlib.contextmanager
def _main_job(home: Path, *arguments: str, env: Mapping[str, str]) -> Iterator[MainJob]:
    """A stack with this scenario and an account with a large budget."""
    scenario = str(_scenario(home.parent))
    job = MainJob(lambda: RunningUp(home, "--scenario", scenario, *arguments, env=env))
    try:
        job.ready()
        asyncio.run(job.open_account(RICH))
        yield job
    finally:
        job.up.end()


@pytest.fixture(scope="module")
def short_days(stack_folder: Path) -> Iterator[MainJob]:
    """A stack whose days last five seconds."""
    env = {"NIGHTSHIFT_BUDGET_DAY_SECONDS": "5", "NIGHTSHIFT_BUDGET_WAKE_JITTER_S": "0"}
    with _main_job(stack_folder / "days" / "home", env=env) as job:
        yield job


@pytest.fixture(scope="session")
def switch(s3: S3Address) -> Iterator[Switch]:
    """An object store that fails for every project whose name begins with `unlucky`."""
    with s3_switch(s3.endpoint, broken="/projects/unlucky") as switch:
        yield switch


@pytest.fixture(scope="module")
def job(stack_folder: Path, s3: S3Address, switch: Switch) -> Iterator[MainJob]:
    """A stack on that object store, with real days and few retries."""
    env = {
        "NIGHTSHIFT_SNAPSHOT_ATTEMPTS": "1",
        "NIGHTSHIFT_MODEL_FIRST_BACKOFF_S": "0.2",
        "NIGHTSHIFT_S3_BUCKET": s3.bucket,
        "NIGHTSHIFT_S3_ACCESS_KEY": s3.access_key,
        "NIGHTSHIFT_S3_SECRET_KEY": s3.secret_key,
        "NIGHTSHIFT_S3_REGION": s3.region,
    }
    with _main_job(stack_folder / "faults" / "home", "--s3", switch.endpoint, env=env) as job:
        yield job


@pytest.fixture
def job_on_kafka(
    stack_folder: Path, kafka: KafkaAddress, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MainJob]:
    """A stack on an external broker, with topics of its own."""
    if kafka.embedded:
        pytest.skip("the embedded broker is that of every other test here; `make test-kafka` runs this")
    home = stack_folder / "kafka" / "home"
    env = {"NIGHTSHIFT_TOPIC_PREFIX": topics.prefix}
    monkeypatch.setenv("NIGHTSHIFT_TOPIC_PREFIX", topics.prefix)  # for the requests that this process sends
    arguments = ("--kafka", kafka.bootstrap, "--scenario", str(_scenario(home.parent)))
    job = MainJob(lambda: RunningUp(home, *arguments, env=env))
    try:
        job.ready()
        yield job
    finally:
        job.up.end()
