"""The stacks of the fault tests."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.main_job import RICH, MainJob
from tests.support.processes import running_up
from tests.support.s3_switch import Switch, s3_switch

from nightshift.devstack.parts import S3Address

SCENARIO = Path(__file__).parent / "scenario.yaml"
#: So that a snapshot is given up soon and a failed call is tried again soon.
_IMPATIENT = {"NIGHTSHIFT_SNAPSHOT_ATTEMPTS": "1", "NIGHTSHIFT_MODEL_FIRST_BACKOFF_S": "0.2"}


@pytest.fixture(scope="module")
def short_days(stack_folder: Path) -> Iterator[MainJob]:
    """A stack whose days last four seconds, with an account that has plenty."""
    env = {"NIGHTSHIFT_BUDGET_DAY_SECONDS": "4", "NIGHTSHIFT_BUDGET_WAKE_JITTER_S": "0"}
    with running_up(stack_folder / "days" / "home", "--scenario", str(SCENARIO), env=env) as up:
        job = MainJob(up)
        asyncio.run(job.open_account(RICH))
        yield job


@pytest.fixture(scope="session")
def switch(s3: S3Address) -> Iterator[Switch]:
    """The object store, out of order for every project whose name begins with `unlucky`."""
    with s3_switch(s3.endpoint, broken="/projects/unlucky") as switch:
        yield switch


@pytest.fixture(scope="session")
def job(stack_folder: Path, s3: S3Address, switch: Switch) -> Iterator[MainJob]:
    """A stack with real days on that object store, with an account that has plenty."""
    env = {
        **_IMPATIENT,
        "NIGHTSHIFT_S3_BUCKET": s3.bucket,
        "NIGHTSHIFT_S3_ACCESS_KEY": s3.access_key,
        "NIGHTSHIFT_S3_SECRET_KEY": s3.secret_key,
    }
    arguments = ("--scenario", str(SCENARIO), "--s3", switch.endpoint)
    with running_up(stack_folder / "faults" / "home", *arguments, env=env) as up:
        job = MainJob(up)
        asyncio.run(job.open_account(RICH))
        yield job
