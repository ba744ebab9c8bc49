"""Real service processes, observed by their output."""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from tests.support.processes import clean_environment
from tests.support.stack import Database

from nightshift.bus.settings import KafkaSettings
from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress

_SCRIPT = Path(__file__).with_name("noting_service.py")


class Running:
    """One process of the noting service."""

    def __init__(self, process: asyncio.subprocess.Process, stderr: Path) -> None:
        self.process = process
        self.said: list[str] = []
        self._stderr = stderr
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(line.decode().strip())

    def log(self) -> str:
        return self._stderr.read_text()

    async def ended(self) -> int:
        code = await asyncio.wait_for(self.process.wait(), 20)
        await self._reading
        return code


StartService = Callable[..., "asyncio.Future[Running]"]


@pytest.fixture
async def start_service(
    kafka: KafkaAddress, topics: Topics, database: Database, tmp_path: Path
) -> AsyncIterator[StartService]:
    made: list[Running] = []
    numbers = itertools.count()

    async def start(*, command: Sequence[str] = (str(_SCRIPT),), **settings: str) -> Running:
        given = {
            "NIGHTSHIFT_KAFKA_BOOTSTRAP": kafka.bootstrap,
            "NIGHTSHIFT_KAFKA_IDEMPOTENCE": str(kafka.idempotence),
            "NIGHTSHIFT_KAFKA_ADAPTIVE_FETCH": str(kafka.adaptive_fetch),
            "NIGHTSHIFT_POSTGRES_DSN": database.dsn(),
            "NIGHTSHIFT_TOPIC_PREFIX": topics.prefix,
            "NIGHTSHIFT_GROUP": f"{topics.prefix}.noting",
            **{f"NIGHTSHIFT_{name.upper()}": value for name, value in settings.items()},
        }
        stderr = tmp_path / f"service-{next(numbers)}.log"
        with stderr.open("w") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                stdout=asyncio.subprocess.PIPE,
                stderr=file,
                env=clean_environment(**{name: value for name, value in given.items() if value}),
            )
        made.append(Running(process, stderr))
        return made[-1]

    yield start
    for one in made:
        if one.process.returncode is None:
            one.process.kill()
            await one.ended()


@pytest.fixture
def kafka_settings(kafka: KafkaAddress, topics: Topics) -> KafkaSettings:
    return KafkaSettings(
        kafka_bootstrap=kafka.bootstrap,
        kafka_idempotence=kafka.idempotence,
        kafka_adaptive_fetch=kafka.adaptive_fetch,
        topic_prefix=topics.prefix,
    )
